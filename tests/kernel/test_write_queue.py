"""Many writers at once on MariaDB: who waits in the queue gets its turn, however long the queue is."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.database import Server, url_for
from tests.kernel.test_pipeline import CAT
from trilith.kernel import mariadb as of_mariadb
from trilith.kernel import store as of_store
from trilith.kernel.errors import Unavailable
from trilith.kernel.store import Store, Tx

WRITERS, EACH_S = 30, 0.15


@pytest.fixture
def stores(mariadb: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """Of two processes, both of which would give up within a few seconds."""
    monkeypatch.setattr(of_mariadb, "LOCK_WAIT_S", 1)
    monkeypatch.setattr(of_store, "RETRY_FOR_S", 5.0)
    found = [Store(url_for(tmp_path)) for _ in range(2)]
    found[0].create()
    yield found
    for each in found:
        each.close()


def test_a_queue_is_as_long_as_it_has_to_be(stores: list[Store]) -> None:
    def work(tx: Tx) -> None:
        number = tx.count(CAT)
        time.sleep(EACH_S)
        tx.insert(CAT, {"id": f"cat{number}", "name": f"cat{number}", "project_id": "p1"})

    begun = time.monotonic()
    with ThreadPoolExecutor(2 * WRITERS) as pool:
        done = [pool.submit(each.run, work) for each in stores for _ in range(WRITERS)]
    assert [each.result() for each in done] == [None] * 2 * WRITERS
    assert time.monotonic() - begun >= 2 * WRITERS * EACH_S  # one after the other
    assert stores[0].read(lambda tx: tx.count(CAT)) == 2 * WRITERS


def test_a_queue_that_does_not_move_is_left(stores: list[Store]) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def stand_still(tx: Tx) -> None:
        begun.set()
        while not goes_on.is_set():
            tx.execute(sa.text("SELECT SLEEP(0.2)"))  # who is idle would be put out

    def nothing(tx: Tx) -> Any:
        return None

    with ThreadPoolExecutor(9) as pool:
        still = pool.submit(stores[0].run, stand_still)
        assert begun.wait(10)
        others = [pool.submit(store.run, nothing) for store in stores for _ in range(4)]
        try:
            for other in others:
                with pytest.raises(Unavailable, match="busy"):
                    other.result(timeout=30)
        finally:
            goes_on.set()
        still.result()
    for store in stores:  # nothing is left of those who gave up
        store.run(nothing)


def test_who_changes_one_row_waits_for_nobody(stores: list[Store]) -> None:
    """A heartbeat, while as many write as the server sees of one process."""
    [store, _] = stores
    store.run(lambda tx: tx.insert(CAT, {"id": "a", "name": "a", "project_id": "p1"}))
    inside, goes_on = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        inside.set()
        assert goes_on.wait(30)

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(store.run, slow) for _ in range(6)]
        assert inside.wait(10)
        beat = CAT.table.update().where(CAT.c.id == "a").values(lives=8)
        assert store.run(lambda tx: tx.execute(beat).rowcount, queue=False) == 1
        assert not any(writer.done() for writer in writers)
        goes_on.set()
