"""SQL leases with a fencing epoch: who works on what no host owns.

The epoch grows whenever a lease is taken, and goes with every write and act under it. `Holder.run` asks inside the
transaction that writes whether the lease is still its own; leases change hands in transactions that wait for other
writers, so nothing that a holder began can be committed after another has taken over. The clock is the database's.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import sqlalchemy as sa

from trilith.kernel.errors import Unavailable
from trilith.kernel.store import METADATA, Store, Tx

T = TypeVar("T")

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("epoch", sa.BigInteger(), nullable=False),
    sa.Column("expires_at_s", sa.Double(), nullable=False),
)


@dataclass(frozen=True)
class Lease:
    name: str
    holder: str
    epoch: int
    expires_at_s: float
    free_s: float = 0.0
    "For how long nobody had it, when it was taken."


def acquire(tx: Tx, name: str, holder: str, for_s: float, now_s: float | None = None) -> Lease | None:
    """Takes it, with a new epoch; None while another holds it. What this holder itself had before is void too: it may
    be the process before this one."""
    moment = tx.now_s() if now_s is None else now_s
    row = tx.execute(sa.select(LEASES).where(LEASES.c.name == name)).mappings().first()
    if row is None:
        tx.execute(LEASES.insert().values(name=name, holder=holder, epoch=1, expires_at_s=moment + for_s))
        return Lease(name, holder, 1, moment + for_s)
    if row["holder"] != holder and row["expires_at_s"] > moment:
        return None
    free_s = max(0.0, moment - row["expires_at_s"])
    taken = Lease(name, holder, row["epoch"] + 1, moment + for_s, free_s)
    found = tx.execute(
        LEASES.update()
        .where(LEASES.c.name == name, LEASES.c.epoch == row["epoch"])
        .values(holder=holder, epoch=taken.epoch, expires_at_s=taken.expires_at_s)
    )
    return taken if found.rowcount == 1 else None


def renew(tx: Tx, lease: Lease, for_s: float, now_s: float | None = None) -> Lease | None:
    """The same epoch for longer; None when it has run out or is another's. Changes one row, and may be repeated, so it
    need not wait for other writers."""
    moment = tx.now_s() if now_s is None else now_s
    query = LEASES.update().where(*_own(lease), LEASES.c.expires_at_s > moment).values(expires_at_s=moment + for_s)
    return replace(lease, expires_at_s=moment + for_s) if tx.execute(query).rowcount == 1 else None


def release(tx: Tx, lease: Lease) -> None:
    tx.execute(LEASES.update().where(*_own(lease)).values(expires_at_s=0.0))


def holds(tx: Tx, lease: Lease, now_s: float | None = None) -> bool:
    """Whether the lease is still this holder's at this epoch: asked inside the transaction that writes under it."""
    moment = tx.now_s() if now_s is None else now_s
    return tx.scalar(sa.select(LEASES.c.epoch).where(*_own(lease), LEASES.c.expires_at_s > moment)) is not None


def _own(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return LEASES.c.name == lease.name, LEASES.c.holder == lease.holder, LEASES.c.epoch == lease.epoch


def _is_free(tx: Tx, name: str, holder: str) -> bool:
    row = tx.execute(sa.select(LEASES).where(LEASES.c.name == name)).mappings().first()
    return row is None or row["holder"] == holder or row["expires_at_s"] <= tx.now_s()


class Holder:
    """Keeps one lease for this process: `held()` takes it, and renews it when a third of its time is gone."""

    def __init__(
        self, store: Store, name: str, holder: str, for_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.name, self.holder, self.for_s, self.clock = store, name, holder, for_s, clock
        self.lease: Lease | None = None
        self._one_at_a_time = threading.Lock()  # two would void each other's lease
        self._renew_at_s = 0.0  # of this process's own clock, which never jumps

    def held(self) -> Lease | None:
        """None while another holds it. Raises `Unavailable` while the database is away. Of any thread; while one renews
        it, others go on working under it."""
        with self._one_at_a_time:
            begun_s = self.clock()
            if self.lease is None or begun_s >= self._renew_at_s:
                self.lease = self._kept(self.lease)
                self._renew_at_s = begun_s + self.for_s / 3
            return self.lease

    def _kept(self, lease: Lease | None) -> Lease | None:
        if lease is not None:
            return self.store.run(lambda tx: renew(tx, lease, self.for_s), queue=False)
        if self.store.read(lambda tx: _is_free(tx, self.name, self.holder)):
            return self.store.run(lambda tx: acquire(tx, self.name, self.holder, self.for_s))
        return None

    def run(self, work: Callable[[Tx], T]) -> T:
        """``work(tx)`` in one transaction, in which the lease is ours. Raises `Unavailable` when it is not any more."""
        lease = self.lease

        def under_lease(tx: Tx) -> T:
            if lease is None or not holds(tx, lease):
                raise Unavailable(f"the lease {self.name} is not ours any more")
            return work(tx)

        return self.store.run(under_lease)
