"""The object store of one machine: bytes in files, everything else in an index in SQLite.

A write is: bytes and a note behind them, synced; then one transaction of the index, together with all others that wait.
That commit is what makes an object; until then nobody sees its file, and if it never comes the file is swept away. The
index is made anew from the files when it is lost (`rebuild`).
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore import index
from trilith.objectstore.files_note import Files, NewFile, Note, OpenFile, box_note, noted
from trilith.objectstore.group_commit import GroupCommit
from trilith.objectstore.listing import listing
from trilith.objectstore.rebuild import INDEX, Door, rebuild
from trilith.objectstore.store import (
    CHUNK_BYTES,
    Account,
    Changes,
    Check,
    Container,
    Due,
    Object,
    Page,
    Put,
    StorageFull,
    Subdir,
    told_full,
)

T = TypeVar("T")
REMOVED_S = 60.0  # after which a file that is to go is removed again, durably, and forgotten
SWEEP_ROWS = 1000
TRIES = 20  # to open what is being replaced again and again


class FilesStore:
    """A `Store` in `directory`, over the files in it."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._files = files
        self._door = Door(directory)
        path = directory / INDEX
        if not path.exists() and self._door.enter_alone() and not path.exists():
            rebuild(path, files)
        self._door.enter()
        if not path.exists():
            raise Unavailable(f"The index {path} is gone while others use the store; end them all, then start again.")
        self._index = GroupCommit(path, index.SCHEMA)

    # accounts

    def account(self, account: str) -> Account | None:
        return self._read(lambda db: index.account(db, account))

    def update_account(self, account: str, changes: Changes) -> Account:
        found = self._index.run(lambda db: index.update_account(db, account, changes))
        self._keep_note(account)
        return found

    def delete_account(self, account: str) -> None:
        self._index.run(lambda db: index.delete_account(db, account))
        self._keep_note(account)

    def list_containers(self, account: str, page: Page) -> Sequence[Container | Subdir]:
        with self._one_moment() as db:
            return listing(page, lambda span, limit, reverse: index.scan_containers(db, account, span, limit, reverse))

    # containers

    def container(self, account: str, container: str) -> Container | None:
        return self._read(lambda db: index.container(db, account, container))

    def create_container(self, account: str, container: str, changes: Changes) -> bool:
        is_made = self._index.run(lambda db: index.put_container(db, account, container, changes))
        self._keep_note(account, container)
        return is_made

    def update_container(self, account: str, container: str, changes: Changes) -> Container:
        found = self._index.run(lambda db: index.update_container(db, account, container, changes))
        self._keep_note(account, container)
        return found

    def delete_container(self, account: str, container: str) -> None:
        self._index.run(lambda db: index.delete_container(db, account, container))
        self._keep_note(account, container)

    def list_objects(self, account: str, container: str, page: Page) -> Sequence[Object | Subdir]:
        with self._one_moment() as db:
            row_id = index.place(db, account, container).container_id
            return listing(page, lambda span, limit, reverse: index.scan_objects(db, row_id, span, limit, reverse))

    # objects

    def write(self, account: str, container: str, name: str) -> "FileWriter":
        return FileWriter(self._index, self._files, account, container, name)

    def object(self, account: str, container: str, name: str) -> Object | None:
        return self._read(lambda db: index.object_by_names(db, account, container, name))

    def open(self, account: str, container: str, name: str) -> "FileReader | None":
        for _ in range(TRIES):
            found = self.object(account, container, name)
            if found is None:
                return None
            file = self._files.open(found.blob)
            if file is not None:
                return FileReader(found, file)
        raise Unavailable(f"The bytes of the object {name} are not there.")

    def update_object(
        self, account: str, container: str, name: str, change: Callable[[Object], Put], check: Check | None = None
    ) -> Object:
        def step(db: sqlite3.Connection) -> bool:
            at = index.place(db, account, container)
            if index.object_at(db, at, name) != before:
                return False
            if check is not None:
                check(before)
            index.put_object(db, at, after, before)
            return True

        for _ in range(TRIES):
            found = self.object(account, container, name)
            if found is None:
                raise Fault("missing", f"There is no object {name}.")
            if check is not None:
                check(found)  # also now, so that what is refused is not written down
            before, after = found, changed(found, change(found))
            with told_full():
                is_there = self._files.describe(before.blob, noted(account, container, after))
            if is_there and self._index.run(step):
                return after
        raise Unavailable(f"The object {name} is being changed all the time; try again.")

    def delete_object(self, account: str, container: str, name: str, check: Check | None = None) -> Object:
        def step(db: sqlite3.Connection) -> Object:
            at = index.place(db, account, container)
            before = index.object_at(db, at, name)
            if before is None:
                raise Fault("missing", f"There is no object {name}.")
            if check is not None:
                check(before)
            index.delete_object(db, at, before)
            return before

        gone = self._index.run(step)
        self._files.remove([gone.blob])
        return gone

    # for whoever looks after the store

    def due(self, now_s: int, limit: int = 1000) -> Sequence[Due]:
        return self._read(lambda db: index.due(db, now_s, limit))

    def sweep(self) -> int:
        """Files of dead writers, and those that their successors replaced."""
        return self._sweep_sessions() + self._sweep_garbage()

    def _sweep_sessions(self) -> int:
        count = 0
        for session in self._files.dead_sessions():
            left = [blob for blob, note in self._files.blobs(session) if not self._is_meant(blob, note)]
            self._files.remove(left, durably=True)
            self._files.seal(session)
            count += len(left)
        return count

    def _is_meant(self, blob: str, note: bytes | None) -> bool:
        if note is None:
            return False
        whose = msgspec.json.decode(note, type=Note)
        found = self.object(whose.account, whose.container, whose.name)
        return found is not None and found.blob == blob

    def _sweep_garbage(self) -> int:
        """Those that were removed are removed again, durably: a power cut may have brought them back."""
        count = 0
        while rows := self._read(lambda db: index.garbage(db, time.time() - REMOVED_S, SWEEP_ROWS)):
            self._files.remove([blob for _, blob in rows], durably=True)
            self._index.run(lambda db, ids=[row_id for row_id, _ in rows]: index.forget_garbage(db, ids))  # type: ignore[misc]
            count += len(rows)
        return count

    def close(self) -> None:
        self._index.close()
        self._files.close()
        self._door.leave()

    def _keep_note(self, account: str, container: str = "") -> None:
        """What the index says now of an account or a container, beside it."""

        def note() -> bytes | None:
            box = self.container(account, container) if container else self.account(account)
            return box_note(account, container, box)

        name = f"{len(account)} {account}{container}"
        with told_full():
            self._files.write_note(hashlib.sha256(name.encode()).hexdigest(), note)

    def _read(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        with self._index.reader() as db:
            return ask(db)

    @contextmanager
    def _one_moment(self) -> Iterator[sqlite3.Connection]:
        """To read several times, all of the same moment."""
        with self._index.reader() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("ROLLBACK")


class FileWriter:
    """See `store.Writer`."""

    def __init__(self, commits: GroupCommit, files: Files, account: str, container: str, name: str) -> None:
        self._index, self._files = commits, files
        self._account, self._container, self._name = account, container, name
        self._file: NewFile | None = files.new()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    @property
    def etag(self) -> str:
        return self._md5.hexdigest()

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        with told_full():
            self._file.write(chunk)
        self._md5.update(chunk)
        self.size_bytes += len(chunk)

    def commit(self, put: Put, check: Check | None = None) -> Object:
        assert self._file is not None
        try:
            made = self._commit(self._file, put, check)
        finally:
            self.abandon()  # what was committed is closed by then
        return made

    def _commit(self, file: NewFile, put: Put, check: Check | None) -> Object:
        newest_us = 0
        while True:
            timestamp_us = put.timestamp_us or max(index.now_us(), newest_us + 10)
            made = described(self._name, put, self.size_bytes, self.etag, timestamp_us)
            with told_full():
                made = replace(made, blob=file.finish(noted(self._account, self._container, made)))
            before = self._run(made, put, check)
            if before is None or before.timestamp_us < timestamp_us:
                file.keep()
                self._file = None
                if before is not None:
                    self._files.remove([before.blob])
                return made
            newest_us = before.timestamp_us  # somebody was faster, or the clock was set back

    def _run(self, made: Object, put: Put, check: Check | None) -> Object | None:
        try:
            return self._index.run(lambda db: self._step(db, made, put, check))
        except StorageFull:
            raise
        except Unavailable:  # a sync that failed does not say what is on the disk
            assert self._file is not None
            self._file.leave()
            self._file = None
            raise

    def _step(self, db: sqlite3.Connection, made: Object, put: Put, check: Check | None) -> Object | None:
        """What was there before; if that is newer, nothing was done."""
        at = index.place(db, self._account, self._container)
        before = index.object_at(db, at, self._name)
        if check is not None:
            check(before)
        if before is None or before.timestamp_us < made.timestamp_us:
            index.put_object(db, at, made, before)
        elif put.timestamp_us is not None:
            raise Fault("conflict", f"The object {self._name} is newer.")
        return before

    def abandon(self) -> None:
        if self._file is not None:
            self._file.drop()
            self._file = None


class FileReader:
    """See `store.Reader`."""

    def __init__(self, found: Object, file: OpenFile) -> None:
        self.object, self._file = found, file

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        # behind the bytes come notes
        size_bytes = min(size_bytes, self.object.size_bytes - offset_bytes)
        if size_bytes <= 0:
            return b""
        found = self._file.read(offset_bytes, size_bytes)
        if len(found) != size_bytes:
            raise Unavailable(f"The bytes of the object {self.object.name} are not all there.")
        return found

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        end = self.object.size_bytes if end is None else min(end, self.object.size_bytes)
        for offset in range(start, end, CHUNK_BYTES):
            yield self.read(offset, min(CHUNK_BYTES, end - offset))

    def close(self) -> None:
        self._file.close()


def described(name: str, put: Put, size_bytes: int, etag: str, timestamp_us: int, blob: str = "") -> Object:
    """An object of these bytes and what belongs to them."""
    return Object(
        name, size_bytes, etag, put.content_type, timestamp_us, put.delete_at_s, put.headers, put.listed, blob
    )


def changed(before: Object, put: Put) -> Object:
    """An object with other metadata. `Fault("conflict")` if it is newer than these."""
    if put.timestamp_us is not None and put.timestamp_us <= before.timestamp_us:
        raise Fault("conflict", f"The object {before.name} is newer.")
    timestamp_us = put.timestamp_us or max(index.now_us(), before.timestamp_us + 10)
    return described(before.name, put, before.size_bytes, before.etag, timestamp_us, before.blob)
