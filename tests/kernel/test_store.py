"""Transactions: run again as a whole when another was faster; hints after the commit only."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.database import url_for
from tests.kernel.test_pipeline import CAT
from trilith.kernel import leases
from trilith.kernel.errors import Unavailable
from trilith.kernel.store import Stale, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(url_for(tmp_path))
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
    store = Store(url_for(tmp_path), sent.append)
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
    renewed = store.run(lambda tx: leases.renew(tx, first, 10, 5), queue=False)
    assert renewed is not None
    assert (renewed.epoch, renewed.expires_at_s) == (first.epoch, 15)
    second = take("b", 20)
    assert second is not None
    assert second.epoch == first.epoch + 1
    assert store.run(lambda tx: leases.renew(tx, renewed, 10, 21), queue=False) is None
    assert not store.read(lambda tx: leases.holds(tx, renewed, 21))
    assert store.read(lambda tx: leases.holds(tx, second, 21))
    again = take("b", 22)  # the process was started again: what the one before it began is of an older epoch
    assert again is not None
    assert again.epoch == second.epoch + 1
    assert not store.read(lambda tx: leases.holds(tx, second, 22))
    assert store.run(lambda tx: leases.renew(tx, again, 10, 60)) is None  # it slept over its own lease
    store.run(lambda tx: leases.release(tx, again))
    assert take("a", 23) is not None


def test_work_under_a_lease_that_was_lost_is_void(store: Store) -> None:
    """A controller that was asleep wakes up and goes on where it was."""
    asleep, other = leases.Holder(store, "x", "c1", for_s=2), leases.Holder(store, "x", "c2")
    assert asleep.held() is not None
    assert other.held() is None
    asleep.run(lambda tx: cat(tx, "a"))
    time.sleep(2.1)
    with pytest.raises(Unavailable, match="not ours"):  # it ran out, though nobody has taken it yet
        asleep.run(lambda tx: cat(tx, "b"))
    assert other.held() is not None
    with pytest.raises(Unavailable, match="not ours"):
        asleep.run(lambda tx: cat(tx, "b"))
    assert asleep.held() is None
    other.run(lambda tx: cat(tx, "c"))
    assert {row["id"] for row in store.read(lambda tx: tx.rows(CAT))} == {"a", "c"}


def test_a_lease_that_is_kept_keeps_its_epoch(store: Store) -> None:
    holder = leases.Holder(store, "x", "c1", for_s=6)
    found = set()
    for _ in range(5):
        lease = holder.held()
        assert lease is not None
        found.add((lease.epoch, lease.expires_at_s))
        time.sleep(0.55)
    assert {epoch for epoch, _ in found} == {1}
    assert len(found) > 1  # it was renewed


def test_work_goes_on_while_its_lease_is_renewed(store: Store) -> None:
    """One thread keeps the lease, another works under it: neither stops the other, nor takes the lease anew."""
    holder = leases.Holder(store, "x", "c1", for_s=60, clock=itertools.count(step=60).__next__)  # renewed at each call
    assert holder.held() is not None
    ended = threading.Event()

    def keep() -> set[int | None]:
        epochs = set()
        while not ended.is_set():
            lease = holder.held()
            epochs.add(lease and lease.epoch)
        return epochs

    with ThreadPoolExecutor(2) as pool:
        keepers = [pool.submit(keep), pool.submit(keep)]
        try:
            for number in range(50):
                holder.run(lambda tx, key=f"cat{number}": cat(tx, key))  # type: ignore[misc]
        finally:
            ended.set()
    assert [keeper.result() for keeper in keepers] == [{1}, {1}]
