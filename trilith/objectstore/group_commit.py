"""Commits to one SQLite file, many at a time: what several threads want is one transaction, and one sync.

Processes take turns by a file lock, because SQLite's own waiting polls.
"""

import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore.store import StorageFull
from trilith.objectstore.together import Together, Waiting

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]
"""What one caller wants. Raises `Fault` or `Unavailable` before it writes anything, or not at all."""

BUSY_S = 30.0
CHECKPOINT_PAGES = 4_000
READERS_CACHE_KIB, WRITERS_CACHE_KIB = 2_000, 16_000


class GroupCommit:
    """The database file `path`, made with `schema` (which may be run again). Of many threads and processes at once."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        self._lock_fd = os.open(f"{path}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # its log inherits the mode
        self._together: Together[Step[Any]] = Together(self._commit, self._turn)
        self._readers: deque[sqlite3.Connection] = deque()  # those that nobody uses just now
        with self._turn():  # what changes the file's kind, SQLite does not wait for
            try:
                self._writer = self._connect(WRITERS_CACHE_KIB)
                self._writer.execute("PRAGMA journal_mode=WAL")
                self._writer.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
                self._writer.executescript(schema)
            except sqlite3.Error as error:
                raise told(error) from error

    def run(self, step: Step[T]) -> T:
        """The result of `step`, once it is durable. Raises what it raises; `StorageFull`, `Unavailable`."""
        result: T = self._together.run(step)
        return result

    @contextmanager
    def _turn(self) -> Iterator[None]:
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _commit(self, group: list[Waiting[Step[Any]]]) -> None:
        refused: dict[int, Fault | Unavailable] = {}
        try:
            with self._writer as connection:  # which commits, or rolls back
                connection.execute("BEGIN IMMEDIATE")
                for number, each in enumerate(group):
                    try:
                        each.result = each.step(connection)
                    except (Fault, Unavailable) as error:
                        refused[number] = error
            for number, each in enumerate(group):
                each.error = refused.get(number)
        except sqlite3.Error as error:
            for each in group:
                each.error = told(error)

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for questions; several within BEGIN and ROLLBACK see one moment. Raises as `run`."""
        try:
            connection = self._readers.pop() if self._readers else self._connect(READERS_CACHE_KIB)
        except IndexError:  # somebody was faster
            connection = self._connect(READERS_CACHE_KIB)
        try:
            yield connection
        except sqlite3.Error as error:
            raise told(error) from error
        finally:
            self._readers.append(connection)

    def _connect(self, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_S, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous=FULL", f"cache_size=-{cache_kib}", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def close(self) -> None:
        """When nobody uses it any more."""
        while self._readers:
            self._readers.pop().close()
        self._writer.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def told(error: sqlite3.Error) -> Unavailable:
    """An error of SQLite in our words."""
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
        return StorageFull("The object store's index has no room; delete objects or enlarge its disk.")
    return Unavailable(f"The object store's index cannot be used: {error}.")
