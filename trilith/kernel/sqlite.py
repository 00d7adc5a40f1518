"""SQLite, the database of one machine: WAL with full sync, so what is acknowledged is on disk.

Writers queue on a file lock, because SQLite's own waiting polls and may starve one of them.
"""

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from trilith.kernel.errors import Unavailable

NO_ROOM = ("disk is full", "disk I/O error")


class Sqlite:
    """One database file."""

    def __init__(self, url: str, **options: Any) -> None:
        self.engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, **options)
        self._writer = threading.Lock()
        self._lock_file = -1
        event.listen(self.engine, "connect", _connected)
        event.listen(self.engine, "begin", _begin)
        path = self.engine.url.database
        if path and path != ":memory:":
            # its owner's only, before SQLite makes it; the write-ahead log inherits that
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._lock_file = os.open(f"{path}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def turn(self, in_vain: Callable[[], bool] | None) -> Iterator[None]:
        """A writer's turn: waits for all who came before, however long it takes."""
        if self._lock_file < 0:
            yield
            return
        with self._writer:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def enter(self, connection: sa.Connection, tx_id: str, attempt: int) -> int | None:
        """Nothing to do inside the transaction: `turn` has waited, and a commit's outcome is always known."""
        return None

    def may_repeat(self, error: DBAPIError) -> bool:
        """Whether the transaction shall run again. Raises `Unavailable` when nothing can be written now."""
        if any(words in str(error.orig) for words in NO_ROOM):
            raise Unavailable("the database cannot be written now") from error
        return "locked" in str(error.orig)

    def now_s(self, connection: sa.Connection) -> float | None:
        """None: the clock of this machine is the database's."""
        return None

    def close(self) -> None:
        self.engine.dispose()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1


def _connected(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.create_function("regexp", 2, _regexp, deterministic=True)
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=30000",
        "cache_size=-8000",
        "temp_store=MEMORY",
        "case_sensitive_like=ON",  # as everything else compares
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _regexp(pattern: str, value: Any) -> bool:
    try:
        return value is not None and re.search(pattern, str(value), re.IGNORECASE) is not None
    except re.error:
        return False


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("trilith_write", True)
    if write:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.connection.cursor().execute("BEGIN")  # touches no file, so that SQLAlchemy need not see errors
