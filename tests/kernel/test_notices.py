"""The outbox holds what was committed, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.database import url_for
from tests.kernel.test_pipeline import CAT
from tests.notices import Told
from trilith.kernel.notices import OUTBOX, Notices, picked, record, tell
from trilith.kernel.store import Store, Tx


def events(tx: Tx, noun: Any, old: Any, new: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    row = new or old
    what = "create" if old is None else "delete" if new is None else "update"
    yield f"cat.{what}", {"id": row["id"], "lives": row["lives"], "had": old and old["lives"]}


@pytest.fixture(autouse=True)
def notices() -> Iterator[None]:
    CAT.service.notices = Notices("cats", "cat", events)
    yield
    CAT.service.notices = None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(url_for(tmp_path), before_commit=record)
    found.create()
    return found


def cat(tx: Tx, key: str = "a", **more: Any) -> Any:
    return tx.insert(CAT, {"id": key, "name": key, "project_id": "p1", "mood": "calm", "lives": 9} | more)


def test_a_notice_for_each_row_from_its_first_state_to_its_last(store: Store) -> None:
    told = Told(store)
    store.run(cat)
    assert told() == [("cat.create", {"id": "a", "lives": 9, "had": None})]

    def twice(tx: Tx) -> None:
        row = tx.update(CAT, tx.get(CAT, "a"), lives=8)
        tx.update(CAT, row, lives=7)

    store.run(twice)
    assert told() == [("cat.update", {"id": "a", "lives": 7, "had": 9})]
    store.run(lambda tx: tx.delete(CAT, tx.get(CAT, "a")))
    assert told.types() == ["cat.delete"]


def test_what_was_only_inside_the_transaction_is_not_told(store: Store) -> None:
    told = Told(store)
    store.run(lambda tx: tx.delete(CAT, cat(tx)))

    def fails(tx: Tx) -> None:
        cat(tx)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.run(fails)
    store.run(lambda tx: tx.count(CAT))
    assert told() == []


def test_a_transaction_that_runs_again_tells_once(store: Store) -> None:
    store.run(cat)
    told, runs = Told(store), []
    told()

    def work(tx: Tx) -> None:
        row = tx.get(CAT, "a")
        runs.append(1)
        cat(tx, "b")
        tx.update(CAT, dict(row, generation=row["generation"] - (len(runs) == 1)), lives=1)

    store.run(work)
    assert len(runs) == 2
    assert sorted(told.types()) == ["cat.create", "cat.update"]


def test_the_notifier_is_woken_after_the_commit(tmp_path: Path) -> None:
    sent: list[set[str]] = []
    store = Store(url_for(tmp_path), sent.append, record)
    store.create()
    store.run(lambda tx: tell(tx, CAT.service, "cat.purred", {"host": "h7"}))
    assert sent == [{"notifications"}]
    row = store.read(lambda tx: tx.select(OUTBOX.select()))[0]
    assert (row["exchange"], row["publisher_id"], row["payload"]) == ("cats", "cat.h7", {"host": "h7"})


def test_a_store_without_it_keeps_nothing(tmp_path: Path) -> None:
    store = Store(url_for(tmp_path))
    store.create()
    store.run(cat)
    store.run(lambda tx: tell(tx, CAT.service, "cat.purred", {}))
    assert store.read(lambda tx: tx.select(OUTBOX.select())) == []


def test_ids_grow(store: Store) -> None:
    """Publishing goes by them."""
    for key in "abc":
        store.run(lambda tx, k=key: cat(tx, k))  # type: ignore[misc]
    rows = store.read(lambda tx: tx.select(OUTBOX.select().order_by(OUTBOX.c.id)))
    assert [row["payload"]["id"] for row in rows] == ["a", "b", "c"]
    assert len({row["message_id"] for row in rows}) == 3


def test_parts_of_rows() -> None:
    assert picked({"id": "1", "name": "n", "x": 2}, "id display_name=name missing") == {
        "id": "1",
        "display_name": "n",
        "missing": None,
    }
