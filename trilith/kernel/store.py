"""Rows in SQL. One transaction function, run again as a whole where the database asks for it; hints go out after the
commit only.

`Store.run(work)` calls ``work(tx)`` inside one transaction, which sees the database as it was at one moment. Writers
queue, so that whatever one of them counted or found free stays so until it commits. What the two databases need for
that is in `sqlite.py` and `mariadb.py`; nothing else knows which one it is.
"""

import itertools
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from trilith.kernel import statements
from trilith.kernel.errors import Fault, Unavailable
from trilith.kernel.kinds import now
from trilith.kernel.mariadb import MariaDb
from trilith.kernel.sqlite import Sqlite

if TYPE_CHECKING:
    from trilith.kernel.declare import Noun

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
Change = tuple["Noun", Row | None, Row | None]  # a row before and after a transaction; None: it is not there
METADATA = sa.MetaData()
RETRY_FOR_S = 10.0
PATIENCE_S = 50.0  # of writers in their queue, as long as it moves; clients and proxies wait for a minute
KEEP_COMMITS_S = 3600.0  # far longer than anybody tries again
COMMITS_SWEPT_AT_ONCE = 500

WRITE_QUEUE = sa.Table(
    "write_queue",
    METADATA,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("last_tx", sa.String(32), nullable=False),
)
STAMPS = sa.Table(
    "stamps",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(32), nullable=False),
)
STAMP = statements.kept(sa.select(STAMPS.c.value).where(STAMPS.c.name == sa.bindparam("stamp_name")))
COMMITS = sa.Table(
    "commits",
    METADATA,
    sa.Column("tx_id", sa.String(32), primary_key=True),
    sa.Column("attempt", sa.Integer(), nullable=False),
    sa.Column("at_s", sa.BigInteger(), nullable=False, index=True),
)


class Tx:
    """One transaction. Every read and write of a service goes through it."""

    def __init__(self, connection: sa.Connection, store: "Store") -> None:
        self.connection, self.store = connection, store
        self.hints: set[str] = set()
        self.who: Row = {}  # what fixed conditions say of the caller: see `statements`
        self._stamps: dict[str, str | None] = {}
        self.changes: dict[tuple[str, str], Change] = {}  # by table and id; kept for `Store.before_commit` only

    # reading
    def rows(self, noun: "Noun", *where: Condition | None, **equals: Any) -> list[Row]:
        query, values = statements.select(noun, where, equals, "rows")
        return self.select(query, **values)

    def select(self, query: sa.Select[Any], **values: Any) -> list[Row]:
        """Any select, as a list of dicts; `values` of its bound parameters. See `statements.kept`."""
        values = self.who | values
        prepared = statements.prepared(query, self.connection.dialect)
        if prepared is not None:
            return prepared.rows(self.connection, values)
        return statements.dicts(self.connection.execute(query, values))

    def one(self, noun: "Noun", *where: Condition | None, **equals: Any) -> Row | None:
        query, values = statements.select(noun, where, equals, "one")
        found = self.select(query, **values)
        return found[0] if found else None

    def get(self, noun: "Noun", key: str | None, *where: Condition | None) -> Row:
        """The row of this key, or `Fault("missing")` in the noun's own words."""
        row = self.one(noun, *where, **{noun.key: key}) if key is not None else None
        if row is None:
            raise noun.missing(str(key))
        return row

    def count(self, noun: "Noun", *where: Condition | None, **equals: Any) -> int:
        query, values = statements.select(noun, where, equals, "count")
        return int(self.scalar(query, **values))

    def scalar(self, query: sa.Select[Any], **values: Any) -> Any:
        found = self.select(query, **values)
        return next(iter(found[0].values())) if found else None

    def stamp(self, name: str) -> str | None:
        """What is another after each change of a table that was declared with ``info={"stamp": name}``, and never what
        it once was; None in a transaction that itself has changed one. "" before the first."""
        if name not in self._stamps:
            self._stamps[name] = self.scalar(STAMP, stamp_name=name) or ""
        return self._stamps[name]

    @property
    def is_sqlite(self) -> bool:
        return bool(self.connection.dialect.name == "sqlite")

    def now_s(self) -> float:
        """The database's clock, which is one for all controllers; seconds since 1970."""
        found = self.store.database.now_s(self.connection)
        return time.time() if found is None else found

    # writing
    def insert(self, noun: "Noun", row: Mapping[str, Any]) -> Row:
        """Adds a row; a broken unique rule is a conflict in the noun's own words."""
        full = noun.blank() | dict(row) | {"generation": 1}
        full["created_at"] = full.get("created_at") or now()
        full |= noun.derive(full)
        full = {name: full.get(name) for name in noun.table.c.keys()}  # noqa: SIM118 - a column collection
        with self._unique(noun, full):
            self.execute(noun.inserts, full)
        self._changed(noun, None, full)
        return full

    def update(self, noun: "Noun", row: Row, /, touch: bool = True, **changes: Any) -> Row:
        """Writes changed columns of one row; its generation grows by one. `row` as it was read: where another
        writer was faster, the generations differ and the whole transaction is asked to run again."""
        new = row | changes
        new |= noun.derive(new)
        changed = {c: new[c] for c in noun.table.c.keys() if c in new and new[c] != row.get(c)}  # noqa: SIM118
        if not changed:
            return row
        if touch:
            changed["updated_at"] = new["updated_at"] = now()
        changed["generation"] = new["generation"] = row["generation"] + 1
        at = {"at_identity": row[noun.identity], "at_generation": row["generation"]}
        with self._unique(noun, new):
            if self.execute(noun.updates, changed | at).rowcount != 1:
                raise Stale(f"{noun.name} {row[noun.identity]} was changed by another")
        self._changed(noun, row, new)
        return new

    def delete(self, noun: "Noun", row: Row) -> None:
        self.execute(noun.deletes, {"at_identity": row[noun.identity]})
        self._changed(noun, row, None)

    def delete_where(self, noun: "Noun", *where: Condition | None, **equals: Any) -> int:
        for row in (found := self.rows(noun, *where, **equals)):
            self.delete(noun, row)
        return len(found)

    def execute(self, query: sa.Executable, values: Row | None = None) -> sa.CursorResult[Any]:
        """Any other statement. Says nothing to anybody: hint by hand."""
        table = query.table if isinstance(query, sa.Insert | sa.Update | sa.Delete) else None
        name = table.info.get("stamp") if isinstance(table, sa.Table) else None
        if name is not None and self._stamps.get(name, "") is not None:
            self._renew(name)
        return self.connection.execute(query, values)

    def _renew(self, name: str) -> None:
        self._stamps[name] = None
        value = uuid.uuid4().hex
        if self.connection.execute(STAMPS.update().where(STAMPS.c.name == name).values(value=value)).rowcount == 0:
            self.connection.execute(STAMPS.insert().values(name=name, value=value))

    def hint(self, *topics: str) -> None:
        """Wakes who listens to a topic (``host:c1``, ``northbound``) after the commit."""
        self.hints.update(topics)

    def _changed(self, noun: "Noun", old: Row | None, new: Row | None) -> None:
        for row in (old, new):
            if row is not None and noun.wakes:
                self.hints.update(noun.wakes(row))
        for follow in noun.follows:
            follow(self, old, new)
        if self.store.before_commit is not None:
            key = (noun.table.name, str((new or old or {})[noun.identity]))
            first = self.changes[key][1] if key in self.changes else old
            self.changes[key] = (noun, first, new)

    @contextmanager
    def _unique(self, noun: "Noun", row: Row) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise noun.duplicate(row) from error


class Stale(Exception):
    """Somebody else changed a row between our read and our write: the transaction runs again."""


class Database(Protocol):
    """What `Store` needs of a kind of database. `enter` and `may_repeat`: see `mariadb.py`."""

    engine: sa.Engine

    def turn(self, in_vain: Callable[[], bool] | None) -> AbstractContextManager[None]: ...

    def enter(self, connection: sa.Connection, tx_id: str, attempt: int) -> int | None: ...

    def may_repeat(self, error: DBAPIError) -> bool: ...

    def now_s(self, connection: sa.Connection) -> float | None: ...

    def close(self) -> None: ...


class Store:
    """The database. `send_hints` takes a set of topics after each commit; `before_commit` ends each transaction, with
    all that was changed in `Tx.changes`."""

    def __init__(
        self,
        url: str,
        send_hints: Callable[[set[str]], None] = lambda topics: None,
        before_commit: Callable[[Tx], None] | None = None,
    ) -> None:
        self.url = url
        self.send_hints, self.before_commit = send_hints, before_commit
        kind: type[Sqlite | MariaDb] = Sqlite if url.startswith("sqlite") else MariaDb
        self.database: Database = kind(
            url,
            json_serializer=lambda value: msgspec.json.encode(value).decode(),
            hide_parameters=True,  # errors are logged, and passwords' hashes are parameters
        )
        self.engine = self.database.engine
        self._moved_s = 0.0  # when a writer of this process last got its turn
        _read_json_directly(self.engine.dialect)

    def create(self) -> None:
        """Makes every declared table that is missing. For tests; a cloud has them from the schema's revisions."""
        METADATA.create_all(self.engine)
        with self.engine.begin() as connection:
            if connection.execute(sa.select(WRITE_QUEUE)).first() is None:
                connection.execute(WRITE_QUEUE.insert().values(id=1, last_tx=""))

    def run(self, work: Callable[[Tx], T], write: bool = True, queue: bool = True) -> T:
        """``work(tx)`` in one transaction; again on deadlock, a lost writer or a stale row, until `RETRY_FOR_S`. Who
        waits for its turn waits longer, as long as others get theirs. A commit whose answer was lost counts once,
        whatever came of it.

        `queue` False: does not wait for other writers. Only for a compare-and-swap of one row, which may be repeated:
        a heartbeat, the renewal of a lease.
        """
        begun_s = time.monotonic()
        ticket: Ticket[T] | None = Ticket(lambda: self._in_vain(begun_s)) if write and queue else None
        for tries in itertools.count(1):
            try:
                result, hints = self._once(work, write, ticket)
                break
            except (Again, Stale) as error:
                late = time.monotonic() > begun_s + RETRY_FOR_S
                if late and (ticket is None or isinstance(error, Stale) or ticket.in_vain()):
                    log.error("the database is busy or away: %s", error.__cause__ or error)
                    raise Unavailable("the database is busy") from error
            time.sleep(random.uniform(0, 0.005 * 2 ** min(tries, 5)))
        if hints:
            self.send_hints(hints)
        return result

    def read(self, work: Callable[[Tx], T]) -> T:
        return self.run(work, write=False)

    def _once(self, work: Callable[[Tx], T], write: bool, ticket: "Ticket[T] | None") -> tuple[T, set[str]]:
        try:
            turn = self.database.turn(ticket.in_vain if ticket else None) if write else nullcontext()
            with turn, self.engine.connect() as connection:
                connection = connection.execution_options(trilith_write=write)
                with connection.begin():
                    if ticket is not None and (done := self._enter(connection, ticket)) is not None:
                        return done
                    tx = Tx(connection, self)
                    outcome = (work(tx), tx.hints)
                    if self.before_commit is not None:
                        self.before_commit(tx)
                    if ticket is not None:
                        ticket.sent[ticket.attempt] = outcome
            return outcome
        except DBAPIError as error:
            if self.database.may_repeat(error):
                raise Again(str(error.orig)) from error
            raise
        except sa.exc.TimeoutError as error:
            raise Again(str(error)) from error

    def _enter(self, connection: sa.Connection, ticket: "Ticket[T]") -> tuple[T, set[str]] | None:
        ticket.attempt += 1
        committed = self.database.enter(connection, ticket.tx_id, ticket.attempt)
        self._moved_s = time.monotonic()
        return None if committed is None else ticket.sent[committed]

    def _in_vain(self, since_s: float) -> bool:
        """Whether who waits since then shall give up."""
        return time.monotonic() > min(since_s + PATIENCE_S, max(since_s, self._moved_s) + RETRY_FOR_S)

    def close(self) -> None:
        self.database.close()


def _read_json_directly(dialect: sa.Dialect) -> None:
    """A list's cost is to a large part JSON columns: SQLAlchemy has two more functions around each value."""
    decode = msgspec.json.decode

    def reads(self: Any, dialect: sa.Dialect, kind: Any) -> Callable[[Any], Any]:
        return lambda value: decode(value) if isinstance(value, str) else value  # SQLite gives numbers as such

    base = dialect.colspecs[sa.JSON]
    dialect.colspecs = {**dialect.colspecs, sa.JSON: type("Json", (base,), {"result_processor": reads})}


class Again(Exception):
    """The database asks for the transaction to run again."""


class Ticket(Generic[T]):
    """One transaction over all its attempts, and what those came to that were sent to be committed. `in_vain`: whether
    it shall not wait for its turn any more."""

    def __init__(self, in_vain: Callable[[], bool]) -> None:
        self.tx_id, self.in_vain = uuid.uuid4().hex, in_vain
        self.attempt = 0
        self.sent: dict[int, tuple[T, set[str]]] = {}


def forget_commits(tx: Tx) -> None:
    """Forgets commits that nobody asks for any more, a bite at a time."""
    old = sa.select(COMMITS.c.tx_id).where(COMMITS.c.at_s < tx.now_s() - KEEP_COMMITS_S).limit(COMMITS_SWEPT_AT_ONCE)
    if found := [row["tx_id"] for row in tx.select(old)]:
        tx.execute(COMMITS.delete().where(COMMITS.c.tx_id.in_(found)))


def missing(noun_name: str, key: str) -> Fault:
    return Fault("missing", f"{noun_name.replace('_', ' ').capitalize()} {key} could not be found.")
