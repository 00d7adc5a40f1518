"""Transactions: run again as a whole when another was faster; hints after the commit only."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_pipeline import CAT
from trilith.kernel import leases
from trilith.kernel.store import Stale, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(f"sqlite:///{tmp_path}/db.sqlite")
    found.create()
    return found


def cat(tx: Any, key: str, **more: Any) -> Any:
    return tx.insert(CAT, {"id": key, "name": key, "project_id": "p1", "mood": "calm"} | more)


def test_nobody_else_reads_the_database(store: Store, tmp_path: Path) -> None:
    store.run(lambda tx: cat(tx, "a"))
    assert [p.name for p in tmp_path.iterdir() if p.stat().st_mode & 0o077] == []


def test_a_lost_race_runs_the_whole_transaction_again(store: Store) -> None:
    store.run(lambda tx: cat(tx, "a", lives=1))
    runs = []

    def work(tx: Any) -> None:
        row = tx.get(CAT, "a")
        runs.append(row["lives"])
        if len(runs) == 1:  # what another controller would have done between our read and our write
            row = dict(row, generation=row["generation"] - 1)
        tx.update(CAT, row, lives=row["lives"] + 1)

    store.run(work)
    assert runs == [1, 1]
    assert store.read(lambda tx: tx.get(CAT, "a"))["lives"] == 2


def test_hints_go_out_after_the_commit_and_never_without_one(tmp_path: Path) -> None:
    sent: list[set[str]] = []
    store = Store(f"sqlite:///{tmp_path}/db.sqlite", sent.append)
    store.create()

    def work(tx: Any) -> None:
        tx.hint("host:c1")
        assert sent == []

    store.run(work)
    assert sent == [{"host:c1"}]
    with pytest.raises(ZeroDivisionError):
        store.run(lambda tx: (tx.hint("host:c2"), 1 / 0))
    assert sent == [{"host:c1"}]


def test_writers_of_many_threads_and_connections_lose_nothing(store: Store) -> None:
    store.run(lambda tx: cat(tx, "a", lives=0))
    other = Store(store.url)

    def work(each: Store) -> None:
        for _ in range(25):
            each.run(lambda tx: tx.update(CAT, (row := tx.get(CAT, "a")), lives=row["lives"] + 1))

    threads = [threading.Thread(target=work, args=(each,)) for each in (store, store, other, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(lambda tx: tx.get(CAT, "a"))["lives"] == 100


def test_stale_for_ever_ends_as_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from trilith.kernel import store as module
    from trilith.kernel.errors import Unavailable

    monkeypatch.setattr(module, "RETRY_FOR_S", 0.05)

    def work(tx: Any) -> None:
        raise Stale("always")

    begun = time.monotonic()
    with pytest.raises(Unavailable):
        store.run(work)
    assert time.monotonic() - begun < 2


def test_a_lease_has_one_holder_and_a_growing_epoch(store: Store) -> None:
    def take(holder: str, now_s: float) -> leases.Lease | None:
        return store.run(lambda tx: leases.acquire(tx, "x", holder, 10, now_s))

    first = take("a", 0)
    assert first is not None
    assert take("b", 5) is None
    renewed = take("a", 5)
    assert renewed is not None
    assert renewed.epoch == first.epoch
    second = take("b", 20)
    assert second is not None
    assert second.epoch == first.epoch + 1
    assert not store.read(lambda tx: leases.holds(tx, renewed, 21))
    assert store.read(lambda tx: leases.holds(tx, second, 21))
    asleep = take("b", 60)  # it slept over its own lease: everything it began before is of an older epoch
    assert asleep is not None
    assert asleep.epoch == second.epoch + 1
    store.run(lambda tx: leases.release(tx, asleep))
    assert take("a", 61) is not None
