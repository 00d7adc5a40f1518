"""Brings the schema to what this program needs, one revision after the other, and notes each.

Two neighbouring versions share the schema in between: a new version's first process takes the `expand` revisions, the
`contract` ones wait until every process of every controller knows them. An older program starts as long as nothing that
it needs was removed. Several controllers may start at once: one works, by lease, the others wait.
"""

import importlib
import logging
import pkgutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from trilith import __version__
from trilith.cluster.schema import revisions
from trilith.cluster.state import Problem
from trilith.kernel.leases import LEASES, Lease, acquire, release
from trilith.kernel.mariadb import COLLATION
from trilith.kernel.store import COMMITS, METADATA, WRITE_QUEUE, Store, Tx

log = logging.getLogger(__name__)
Phase = Literal["expand", "contract"]
LEASE_S = 60.0  # should a step take longer, a second process repeats it, which does no harm
LOOK_S = 0.2
PATIENCE_S = 600.0

APPLIED = sa.Table(
    "schema_revisions",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("at_s", sa.BigInteger(), nullable=False),
)
PROCESSES = sa.Table(
    "controllers",
    METADATA,
    sa.Column("process", sa.String(64), primary_key=True),
    sa.Column("host", sa.String(128), primary_key=True),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("newest_revision", sa.String(128), nullable=False),
    sa.Column("started_at_s", sa.BigInteger(), nullable=False),
)


@dataclass(frozen=True)
class Revision:
    """One change; `upgrade` runs inside Alembic's context of operations and may be repeated."""

    name: str
    phase: Phase
    upgrade: Callable[[], None]


def known() -> list[Revision]:
    """The revisions that this program knows, oldest first."""
    names = sorted(module.name for module in pkgutil.iter_modules(revisions.__path__))
    modules = [(name, importlib.import_module(f"{revisions.__name__}.{name}")) for name in names]
    return [Revision(name, module.PHASE, module.upgrade) for name, module in modules]


def prepare(store: Store, process: str, host: str, steps: Sequence[Revision] | None = None) -> None:
    """Returns when the schema has what this program needs. Notes that this process of this host knows it. Raises
    `Problem` for a program that is too old."""
    steps = known() if steps is None else steps
    _first_tables(store)
    deadline = time.monotonic() + PATIENCE_S
    while pending := _to_expand(store, steps):
        lease = _take(store, f"{process}@{host}")
        if lease is None:
            if time.monotonic() > deadline:
                raise Problem(f"Another controller changes the schema and does not end: {pending[0].name}.")
            time.sleep(LOOK_S)
            continue
        for revision in _to_expand(store, steps):
            _apply(store, revision)
        store.run(lambda tx, lease=lease: release(tx, lease), queue=False)  # type: ignore[misc]
    row = {"version": __version__, "newest_revision": steps[-1].name, "started_at_s": int(time.time())}
    store.run(lambda tx: _announce(tx, process, host, row))


def contract(store: Store, hosts: Iterable[str], steps: Sequence[Revision] | None = None) -> list[str]:
    """Removes what no process of these hosts needs any more, for the holder of a lease; the revisions that it took."""
    steps = known() if steps is None else steps
    applied = store.read(_applied)
    waiting = [revision for revision in steps if revision.phase == "contract" and revision.name not in applied]
    if not waiting:
        return []
    rows = store.read(lambda tx: tx.select(sa.select(PROCESSES).where(PROCESSES.c.host.in_(list(hosts)))))
    oldest = min((row["newest_revision"] for row in rows), default="")
    ready = [revision for revision in waiting if revision.name <= oldest]
    for revision in ready:
        _apply(store, revision)
    return [revision.name for revision in ready]


def _first_tables(store: Store) -> None:
    """What the way itself needs, and the collation of all that is to come."""

    def work(tx: Tx) -> None:
        if not tx.is_sqlite and tx.scalar(sa.text("SELECT @@collation_database")) != COLLATION:  # type: ignore[arg-type]
            tx.execute(sa.text(f"ALTER DATABASE CHARACTER SET utf8mb4 COLLATE {COLLATION}"))
        for table in (LEASES, APPLIED, WRITE_QUEUE, COMMITS, PROCESSES):
            tx.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                tx.execute(CreateIndex(index, if_not_exists=True))

    if not store.read(lambda tx: sa.inspect(tx.connection).has_table(PROCESSES.name)):
        store.run(work, queue=False)


def _applied(tx: Tx) -> dict[str, str]:
    """Phases of what was done, by name."""
    return {row["name"]: row["phase"] for row in tx.select(sa.select(APPLIED))}


def _to_expand(store: Store, steps: Sequence[Revision]) -> list[Revision]:
    applied = store.read(_applied)
    names = {revision.name for revision in steps}
    if removed := sorted(name for name, phase in applied.items() if phase == "contract" and name not in names):
        raise Problem(
            f"The database was changed by a newer version ({removed[0]}), and Trilith {__version__} cannot use it any "
            "more. Start the newer version."
        )
    new = not applied  # nobody uses it yet, so there is nobody to wait for
    return [step for step in steps if step.name not in applied and (new or step.phase == "expand")]


def _take(store: Store, holder: str) -> Lease | None:
    try:
        return store.run(lambda tx: acquire(tx, "schema", holder, LEASE_S), queue=False)
    except IntegrityError:
        return None  # another made the lease's first row at the same moment


def _apply(store: Store, revision: Revision) -> None:
    from alembic.migration import MigrationContext  # here, because most starts apply nothing
    from alembic.operations import Operations

    def work(tx: Tx) -> None:
        if revision.name in _applied(tx):
            return
        with Operations.context(MigrationContext.configure(tx.connection)):
            revision.upgrade()
        if tx.scalar(sa.select(WRITE_QUEUE.c.id)) is None:
            tx.execute(WRITE_QUEUE.insert().values(id=1, last_tx=""))
        done = {"name": revision.name, "phase": revision.phase, "version": __version__, "at_s": int(time.time())}
        tx.execute(APPLIED.insert().values(done))

    begun_s = time.monotonic()
    try:
        store.run(work, queue=False)
    except IntegrityError:
        log.info("schema: %s was taken by another at the same time", revision.name)
        return
    log.info("schema: %s", revision.name, extra={"phase": revision.phase, "s": round(time.monotonic() - begun_s, 2)})


def _announce(tx: Tx, process: str, host: str, row: dict[str, object]) -> None:
    mine = (PROCESSES.c.process == process, PROCESSES.c.host == host)
    if tx.execute(PROCESSES.update().where(*mine).values(row)).rowcount == 0:
        tx.execute(PROCESSES.insert().values(process=process, host=host, **row))
