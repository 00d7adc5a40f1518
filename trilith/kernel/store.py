"""Rows in SQL. One transaction function, run again as a whole where the database asks for it; hints go out after the
commit only.

`Store.run(work)` calls ``work(tx)`` inside one transaction. Ids are chosen before it, so a repeat after an unknown
commit finds its own
row. SQLite (WAL, full sync: what is acknowledged is on disk) on one machine; writers queue on a file lock, because
SQLite's own waiting polls.
"""

import fcntl
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError

from trilith.kernel.errors import Fault, Unavailable
from trilith.kernel.kinds import now

if TYPE_CHECKING:
    from trilith.kernel.declare import Noun

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
METADATA = sa.MetaData()
RETRY_FOR_S = 10.0
NO_ROOM = ("disk is full", "disk I/O error")
DEADLOCK = (1205, 1213, 1180, 1047, 2006, 2013)


class Tx:
    """One transaction. Every read and write of a service goes through it."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.hints: set[str] = set()

    # reading
    def rows(self, noun: "Noun", *where: Condition | None, **equals: Any) -> list[Row]:
        query = noun.table.select().where(*_conditions(noun, where, equals))
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def select(self, query: sa.Select[Any]) -> list[Row]:
        """Any select, as a list of dicts."""
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def one(self, noun: "Noun", *where: Condition | None, **equals: Any) -> Row | None:
        query = noun.table.select().where(*_conditions(noun, where, equals)).limit(1)
        row = self.connection.execute(query).mappings().first()
        return dict(row) if row is not None else None

    def get(self, noun: "Noun", key: str | None, *where: Condition | None) -> Row:
        """The row of this key, or `Fault("missing")` in the noun's own words."""
        row = self.one(noun, noun.table.c[noun.key] == key, *where) if key is not None else None
        if row is None:
            raise noun.missing(str(key))
        return row

    def count(self, noun: "Noun", *where: Condition | None, **equals: Any) -> int:
        query = sa.select(sa.func.count()).select_from(noun.table).where(*_conditions(noun, where, equals))
        return int(self.connection.execute(query).scalar_one())

    def scalar(self, query: sa.Select[Any]) -> Any:
        return self.connection.execute(query).scalar()

    # writing
    def insert(self, noun: "Noun", row: Mapping[str, Any]) -> Row:
        """Adds a row; a broken unique rule is a conflict in the noun's own words."""
        full = noun.blank() | dict(row) | {"generation": 1}
        full["created_at"] = full.get("created_at") or now()
        full |= noun.derive(full)
        full = {name: full.get(name) for name in noun.table.c.keys()}  # noqa: SIM118 - a column collection
        with self._unique(noun, full):
            self.connection.execute(noun.table.insert().values(full))
        self._woken(noun, full)
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
        query = (
            noun.table.update()
            .where(noun.table.c[noun.identity] == row[noun.identity], noun.table.c.generation == row["generation"])
            .values(changed)
        )
        with self._unique(noun, new):
            if self.connection.execute(query).rowcount != 1:
                raise Stale(f"{noun.name} {row[noun.identity]} was changed by another")
        self._woken(noun, row)
        self._woken(noun, new)
        return new

    def delete(self, noun: "Noun", row: Row) -> None:
        self.connection.execute(noun.table.delete().where(noun.table.c[noun.identity] == row[noun.identity]))
        self._woken(noun, row)

    def delete_where(self, noun: "Noun", *where: Condition | None, **equals: Any) -> int:
        for row in (found := self.rows(noun, *where, **equals)):
            self.delete(noun, row)
        return len(found)

    def execute(self, query: sa.Executable) -> sa.CursorResult[Any]:
        """Any other statement. Says nothing to anybody: hint by hand."""
        return self.connection.execute(query)

    def hint(self, *topics: str) -> None:
        """Wakes who listens to a topic (``host:c1``, ``northbound``) after the commit."""
        self.hints.update(topics)

    def _woken(self, noun: "Noun", row: Row) -> None:
        if noun.wakes:
            self.hints.update(noun.wakes(row))

    @contextmanager
    def _unique(self, noun: "Noun", row: Row) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise noun.duplicate(row) from error


class Stale(Exception):
    """Somebody else changed a row between our read and our write: the transaction runs again."""


def _conditions(noun: "Noun", where: Iterable[Condition | None], equals: Mapping[str, Any]) -> list[Condition]:
    found: list[Condition] = [c for c in where if c is not None]
    for name, value in equals.items():
        column = noun.table.c[name]
        if isinstance(value, list | tuple | set | frozenset):
            found.append(column.in_(list(value)))
        else:
            found.append(column.is_(None) if value is None else column == value)
    return found


class Store:
    """The database. `send_hints` takes a set of topics after each commit."""

    def __init__(self, url: str, send_hints: Callable[[set[str]], None] = lambda topics: None) -> None:
        self.url = url
        self.send_hints = send_hints
        self.is_sqlite = url.startswith("sqlite")
        self.engine = sa.create_engine(
            url,
            json_serializer=lambda value: msgspec.json.encode(value).decode(),
            json_deserializer=msgspec.json.decode,
            **({"connect_args": {"timeout": 30, "check_same_thread": False}} if self.is_sqlite else {}),
        )
        self._writer = threading.Lock()
        self._lock_file = -1
        if self.is_sqlite:
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
            path = self.engine.url.database
            if path and path != ":memory:":
                # its owner's only, before SQLite makes it; the write-ahead log inherits that
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._lock_file = os.open(f"{path}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def create(self) -> None:
        """Makes every table that is missing."""
        METADATA.create_all(self.engine)

    def run(self, work: Callable[[Tx], T], write: bool = True) -> T:
        """``work(tx)`` in one transaction; again on deadlock, a lost writer or a stale row, until `RETRY_FOR_S`."""
        give_up = time.monotonic() + RETRY_FOR_S
        tries = 0
        while True:
            try:
                return self._once(work, write)
            except (OperationalError, Stale) as error:
                if isinstance(error, OperationalError) and not _may_retry(error):
                    if not any(words in str(error) for words in NO_ROOM):
                        raise
                    log.error("the database cannot be written: %s", error.orig)
                    raise Unavailable("the database cannot be written now") from error
                if time.monotonic() > give_up:
                    raise Unavailable("the database is busy") from error
                tries += 1
                time.sleep(random.uniform(0, 0.005 * 2 ** min(tries, 5)))

    def read(self, work: Callable[[Tx], T]) -> T:
        return self.run(work, write=False)

    def _once(self, work: Callable[[Tx], T], write: bool) -> T:
        with self._queue(write), self.engine.connect() as connection:
            connection = connection.execution_options(trilith_write=write)
            with connection.begin():
                tx = Tx(connection)
                result = work(tx)
        if tx.hints:
            self.send_hints(tx.hints)
        return result

    @contextmanager
    def _queue(self, write: bool) -> Iterator[None]:
        if not write or self._lock_file < 0:
            yield
            return
        with self._writer:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def close(self) -> None:
        self.engine.dispose()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1


def _may_retry(error: OperationalError) -> bool:
    number = error.orig.args[0] if error.orig and error.orig.args else None
    return number in DEADLOCK or "locked" in str(error)


def _sqlite_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.create_function("regexp", 2, _regexp, deterministic=True)
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=30000",
        "cache_size=-8000",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _regexp(pattern: str, value: Any) -> bool:
    try:
        return value is not None and re.search(pattern, str(value), re.IGNORECASE) is not None
    except re.error:
        return False


def _sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("trilith_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def missing(noun_name: str, key: str) -> Fault:
    return Fault("missing", f"{noun_name.replace('_', ' ').capitalize()} {key} could not be found.")
