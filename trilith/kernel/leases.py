"""SQL leases with a fencing epoch: who works on what no host owns.

The epoch grows whenever the holder changes; it goes with every write made under the lease, so that a holder that was
asleep finds its
writes refused. Times are the database writer's own clock as the callers see it; leases are seconds, clocks are
checked to be within them.
"""

import time
from dataclasses import dataclass

import sqlalchemy as sa

from trilith.kernel.store import METADATA, Store, Tx

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("epoch", sa.BigInteger(), nullable=False),
    sa.Column("expires_at_s", sa.Float(), nullable=False),
)


@dataclass(frozen=True)
class Lease:
    name: str
    holder: str
    epoch: int
    expires_at_s: float


def acquire(tx: Tx, name: str, holder: str, for_s: float, now_s: float | None = None) -> Lease | None:
    """Takes or renews it; None while another holds it. A renewal keeps the epoch."""
    moment = time.time() if now_s is None else now_s
    row = tx.execute(sa.select(LEASES).where(LEASES.c.name == name)).mappings().first()
    if row is None:
        tx.execute(LEASES.insert().values(name=name, holder=holder, epoch=1, expires_at_s=moment + for_s))
        return Lease(name, holder, 1, moment + for_s)
    mine = row["holder"] == holder
    if not mine and row["expires_at_s"] > moment:
        return None
    epoch = row["epoch"] + (0 if mine and row["expires_at_s"] > moment else 1)
    found = tx.execute(
        LEASES.update()
        .where(LEASES.c.name == name, LEASES.c.epoch == row["epoch"], LEASES.c.holder == row["holder"])
        .values(holder=holder, epoch=epoch, expires_at_s=moment + for_s)
    )
    return Lease(name, holder, epoch, moment + for_s) if found.rowcount == 1 else None


def release(tx: Tx, lease: Lease) -> None:
    tx.execute(
        LEASES.update()
        .where(LEASES.c.name == lease.name, LEASES.c.holder == lease.holder, LEASES.c.epoch == lease.epoch)
        .values(expires_at_s=0.0)
    )


def holds(tx: Tx, lease: Lease, now_s: float | None = None) -> bool:
    """Whether the lease is still this holder's at this epoch: asked inside the transaction that writes under it."""
    row = tx.execute(sa.select(LEASES).where(LEASES.c.name == lease.name)).mappings().first()
    moment = time.time() if now_s is None else now_s
    return (
        row is not None
        and row["holder"] == lease.holder
        and row["epoch"] == lease.epoch
        and row["expires_at_s"] > moment
    )


class Holder:
    """Keeps one lease for this process: `held()` renews it when a third of its time is gone."""

    def __init__(self, store: Store, name: str, holder: str, for_s: float = 10.0) -> None:
        self.store, self.name, self.holder, self.for_s = store, name, holder, for_s
        self.lease: Lease | None = None

    def held(self) -> Lease | None:
        left_s = self.lease.expires_at_s - time.time() if self.lease else 0.0
        if left_s < self.for_s * 2 / 3:
            self.lease = self.store.run(lambda tx: acquire(tx, self.name, self.holder, self.for_s))
        return self.lease
