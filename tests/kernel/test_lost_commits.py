"""A transaction on MariaDB counts once, wherever its connection ends; see `lossy_proxy`."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from tests.database import Server, url_for
from tests.kernel.lossy_proxy import Loss, LossyProxy
from tests.kernel.test_pipeline import CAT
from trilith.kernel import leases
from trilith.kernel.store import COMMITS, Store

LOSSES = get_args(Loss)


@pytest.fixture
def proxy(mariadb: Server) -> Iterator[LossyProxy]:
    directory = Path(tempfile.mkdtemp(prefix="trilith-", dir="/var/tmp"))  # names of sockets are short
    found = LossyProxy(directory, mariadb.socket)
    yield found
    found.close()
    shutil.rmtree(directory)


@pytest.fixture
def hints() -> list[set[str]]:
    return []


@pytest.fixture
def store(mariadb: Server, proxy: LossyProxy, hints: list[set[str]], tmp_path: Path) -> Iterator[Store]:
    url = url_for(tmp_path)
    Store(url).create()
    found = Store(url.replace(str(mariadb.socket), str(proxy.path)), hints.append)
    found.run(lambda tx: tx.insert(CAT, {"id": "old", "name": "old", "project_id": "p1", "lives": 0}))
    hints.clear()
    yield found
    found.close()


def count(store: Store) -> tuple[int, int]:
    """Lives of the old cat, and how many new ones there are."""
    return store.read(lambda tx: (tx.get(CAT, "old")["lives"], tx.count(CAT) - 1))


class Birth:
    """A transaction whose every run comes to something else."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, tx: Any) -> int:
        self.runs += 1
        old = tx.get(CAT, "old")
        tx.update(CAT, old, lives=old["lives"] + 1)
        tx.insert(CAT, {"id": f"new{self.runs}", "name": f"new{self.runs}", "project_id": "p1"})
        tx.hint(f"run {self.runs}")
        return self.runs


@pytest.mark.parametrize("loss", LOSSES)
def test_the_commit_is_lost(store: Store, proxy: LossyProxy, hints: list[set[str]], loss: Loss) -> None:
    proxy.losses = [loss]
    birth = Birth()
    made = store.run(birth)
    assert proxy.met == 1
    assert (birth.runs, made) == ((2, 2) if loss == "command lost" else (1, 1))
    assert count(store) == (1, 1)
    assert store.read(lambda tx: tx.one(CAT, id=f"new{made}")) is not None
    assert hints == [{f"run {made}"}]


@pytest.mark.parametrize("first", LOSSES)
@pytest.mark.parametrize("second", LOSSES)
def test_it_is_lost_twice(store: Store, proxy: LossyProxy, hints: list[set[str]], first: Loss, second: Loss) -> None:
    proxy.losses = [first, second]
    made = store.run(Birth())
    assert count(store) == (1, 1)
    assert store.read(lambda tx: tx.one(CAT, id=f"new{made}")) is not None
    assert hints == [{f"run {made}"}]
    attempts = store.read(lambda tx: tx.select(sa.select(COMMITS.c.attempt).order_by(COMMITS.c.attempt.desc())))
    assert attempts[0]["attempt"] == made


@pytest.mark.parametrize(
    "where", [b"UPDATE write_queue", b"INSERT INTO commits", b"SELECT zoo_cats", b"INSERT INTO zoo"]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_statement_is_lost(store: Store, proxy: LossyProxy, where: bytes, loss: Loss) -> None:
    proxy.where, proxy.losses = where, [loss]
    store.run(Birth())
    assert proxy.met == 1
    assert count(store) == (1, 1)


def test_all_connections_of_the_pool_have_ended(store: Store, proxy: LossyProxy) -> None:
    proxy.cut_all()
    assert count(store) == (0, 0)
    proxy.cut_all()
    assert store.run(Birth()) == 1
    assert count(store) == (1, 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lease_keeps_its_epoch(store: Store, proxy: LossyProxy, loss: Loss) -> None:
    holder = leases.Holder(store, "sweep", "c1", for_s=60)
    first = holder.held()
    proxy.losses = [loss]
    assert first is not None
    assert leases.Holder(store, "sweep", "c2").held() is None
    renewed = store.run(lambda tx: leases.renew(tx, first, 10), queue=False)
    assert renewed is not None
    assert renewed.epoch == first.epoch
    assert proxy.met == 1


def test_a_store_without_its_queue_says_so(store: Store) -> None:
    store.run(lambda tx: tx.execute(sa.text("DELETE FROM write_queue")))
    with pytest.raises(RuntimeError, match="write_queue"):
        store.run(lambda tx: None)


def test_a_transaction_begins_with_all_that_any_node_has_committed(store: Store) -> None:
    asked = sa.select(sa.literal_column("@@SESSION.wsrep_sync_wait"))
    assert store.read(lambda tx: tx.scalar(asked)) == 1
    assert store.run(lambda tx: tx.scalar(asked)) == 1
