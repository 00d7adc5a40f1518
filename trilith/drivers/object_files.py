"""Bytes of objects as files, and small documents beside them. Knows names of files only; who is who stands in an index.

Each process that writes has a directory of its own, a *session*, and empty files in it that are made durably by the
dozen, because a new name in a directory needs a sync of its own. What an object needs is then one write and one sync.
A file is complete when it was synced with a *note* behind the bytes: a document that says whose bytes these are, sealed
with a key of this store, because the bytes are anybody's and could look like one. Another note may be appended later;
the last whole one counts.

    data/<session>/lock         held by the session's process; gone when nothing in it can be left over
    data/<session>/<number>     one object's bytes, then notes; empty: not used yet
    notes/<two letters>/<key>   documents that belong to no bytes
    seal                        the key of notes

So whatever a dead process left over lies in a directory whose lock nobody holds, and everything can be read again
without the index. A session ends after some thousand files; its successor's lock covers the next ones.
"""

import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trilith.drivers.durable import make_directory, publish, sync_directory
from trilith.kernel.errors import Kind, Unavailable

HELD_BYTES = 64 << 10  # of an object that are kept in memory before a file is taken
SYNC_BYTES = 32 << 20  # written between syncs, so that nobody else's sync waits for more than that
FIRST_SLOTS, SLOTS, SESSION_SLOTS = 16, 128, 16_384  # made at first, made at once later, in one session
FEW_SLOTS = 64  # then one of those who need one makes more, while the others take these
SEAL_BYTES = 16
END = struct.Struct(f">8s{SEAL_BYTES}sI")  # behind a document: sign, seal, length
SIGN = b"trilith\x01"
MAX_DOCUMENT_BYTES = 1 << 20
TAILS_BYTES = (64 << 10, 2 * (MAX_DOCUMENT_BYTES + END.size))  # of a file, in which its last whole note is
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(Unavailable):
    """The disk of the object store is full."""

    kind: Kind = "too_large"


class Session:
    """The directory that one living process fills. Its lock is held as long as `lock_fd` is open."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self.directory, self.lock_fd = directory, lock_fd
        self.made = 0
        self.is_making = False
        self.slots: list[Path] = []
        self.undecided: set[str] = set()
        "Files that were taken and of which nobody said yet whether they stay."

    @property
    def is_full(self) -> bool:
        return self.made >= SESSION_SLOTS

    def make_slots(self) -> list[Path]:
        """More empty files. Of one thread at a time."""
        made = []
        for number in range(self.made, self.made + (SLOTS if self.made else FIRST_SLOTS)):
            self.made = number + 1
            path = self.directory / f"{number:x}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            made.append(path)
        sync_directory(self.directory)
        return made

    def end(self) -> None:
        """Sealed, if everything in it is decided; else somebody will look through it."""
        if not self.undecided and not self.is_making:
            for path in self.slots:
                path.unlink(missing_ok=True)
            (self.directory / "lock").unlink(missing_ok=True)
        os.close(self.lock_fd)


class NewFile:
    """A file on its way. Of one thread at a time."""

    def __init__(self, files: "ObjectFiles") -> None:
        self._files = files
        self._held: list[bytes] = []
        self._held_bytes = self._unsynced_bytes = 0
        self._session: Session | None = None
        self._blob = ""
        self._fd = -1

    def write(self, chunk: bytes) -> None:
        """`DiskFull`, `Unavailable`."""
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes > HELD_BYTES:
            self._pour()

    def finish(self, document: bytes) -> str:
        """Everything and the note, durably; the file's name. May be called again with another note."""
        self._held.append(self._files.sealed(document))
        self._pour()
        with _told():
            os.fsync(self._fd)
        return self._blob

    def keep(self) -> None:
        """It stays."""
        self.leave()
        if self._session is not None:
            self._files.decided(self._session, self._blob)
            self._session = None

    def drop(self) -> None:
        """It goes. What cannot be removed now is left to whoever looks through the session."""
        try:
            if self._blob:
                self._files.remove([self._blob])
        except Unavailable:
            self.leave()
        else:
            self.keep()

    def leave(self) -> None:
        """Nobody knows whether it stays; whoever looks through the session will."""
        self._held.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pour(self) -> None:
        with _told():
            if self._session is None:
                self._session, self._blob, self._fd = self._files.take()
            view = memoryview(b"".join(self._held))
            self._held.clear()
            self._unsynced_bytes += len(view)
            self._held_bytes = 0
            while view:
                view = view[os.write(self._fd, view) :]
            if self._unsynced_bytes > SYNC_BYTES:
                os.fdatasync(self._fd)
                self._unsynced_bytes = 0


class OpenFile:
    """Bytes to read, also after the file was removed. Of any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()  # the number of a closed file may be another one's at once

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        with self._lock, _told():
            return os.pread(self._fd, size_bytes, offset_bytes)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __del__(self) -> None:
        self.close()


class ObjectFiles:
    """The files under `directory`. Of many threads and processes at once."""

    def __init__(self, directory: Path) -> None:
        self._data = make_directory(directory / "data", 0o700)
        self._notes = make_directory(directory / "notes", 0o700)
        self._key = _key_in(directory)
        self._change = threading.Condition()
        self._session: Session | None = None
        self._ending: list[Session] = []

    def new(self) -> NewFile:
        return NewFile(self)

    def open(self, blob: str) -> OpenFile | None:
        """None if there is no such file."""
        with _told():
            try:
                return OpenFile(os.open(self._data / blob, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                return None

    def describe(self, blob: str, document: bytes) -> bool:
        """Append a note to a complete file, durably; False if there is no such file."""
        with _told():
            try:
                fd = os.open(self._data / blob, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                os.write(fd, self.sealed(document))  # torn, it is not the last whole one
                os.fsync(fd)
            finally:
                os.close(fd)
            return True

    def remove(self, blobs: Iterable[str], durably: bool = False) -> None:
        """Those that are there. Who has one open reads on."""
        parents = set()
        with _told():
            for blob in blobs:
                path = self._data / blob
                path.unlink(missing_ok=True)
                parents.add(path.parent)
            for parent in parents if durably else ():
                with contextlib.suppress(FileNotFoundError):
                    sync_directory(parent)

    def take(self) -> tuple[Session, str, int]:
        """An empty file: its session, its name, and open for writing."""
        with self._change:
            while True:
                session = self._filling()
                if len(session.slots) <= FEW_SLOTS and not session.is_making and not session.is_full:
                    self._fill(session)
                if session.slots:
                    path = session.slots.pop(0)
                    break
                if session.is_making:
                    self._change.wait()
            blob = f"{session.directory.name}/{path.name}"
            session.undecided.add(blob)
        return session, blob, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _filling(self) -> Session:
        session = self._session
        if session is None or (session.is_full and not session.slots and not session.is_making):
            if session is not None:
                self._ending.append(session)
            session = self._session = self._begin_session()
            self._end_sessions()
        return session

    def _fill(self, session: Session) -> None:
        """With the condition held; lets go of it meanwhile."""
        session.is_making = True
        self._change.release()
        made: list[Path] = []
        try:
            made = session.make_slots()
        finally:
            self._change.acquire()
            session.slots += made
            session.is_making = False
            self._change.notify_all()

    def decided(self, session: Session, blob: str) -> None:
        with self._change:
            session.undecided.discard(blob)
            self._end_sessions()

    def _end_sessions(self) -> None:
        for session in [each for each in self._ending if not each.undecided]:
            self._ending.remove(session)
            session.end()

    def _begin_session(self) -> Session:
        """Somebody who looks for dead ones may see it before it is locked; then another one is begun."""
        while True:
            directory = make_directory(self._data / secrets.token_hex(8), 0o700)
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if (directory / "lock").exists():
                    return Session(directory, fd)
                os.close(fd)

    def sealed(self, document: bytes) -> bytes:
        """As it stands in a file."""
        assert len(document) <= MAX_DOCUMENT_BYTES
        return document + END.pack(SIGN, self._seal(document), len(document))

    def _seal(self, document: bytes) -> bytes:
        return hashlib.blake2b(document, key=self._key, digest_size=SEAL_BYTES).digest()

    def _last_note(self, path: Path) -> bytes | None:
        """The last whole one; behind it may be one that was cut off."""
        with open(path, "rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            for most_bytes in TAILS_BYTES:
                file.seek(max(0, size_bytes - most_bytes))
                note = self._last_note_in(file.read())
                if note is not None or size_bytes <= most_bytes:
                    return note
        return None

    def _last_note_in(self, tail: bytes) -> bytes | None:
        at = len(tail)
        while (at := tail.rfind(SIGN, 0, at)) >= 0:
            if at + END.size <= len(tail):
                _, seal, length = END.unpack_from(tail, at)
                document = tail[at - length : at] if length <= at else b""
                if hmac.compare_digest(self._seal(document), seal):
                    return document
        return None

    # what is there, without an index

    def dead_sessions(self) -> Iterator[str]:
        """Those that ended and were not looked through yet; each is locked until the next one is asked for. `seal` it
        when it was looked through."""
        for session in self._sessions():
            try:
                fd = os.open(session / "lock", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                with contextlib.suppress(OSError):  # not empty
                    session.rmdir()
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield session.name
            except BlockingIOError:
                continue  # its process lives
            finally:
                os.close(fd)

    def seal(self, session: str) -> None:
        (self._data / session / "lock").unlink(missing_ok=True)

    def blobs(self, session: str | None = None) -> Iterator[tuple[str, bytes | None]]:
        """Every file of a session, or of all: its name and its last note; None: it is not complete."""
        for each in self._sessions() if session is None else [self._data / session]:
            for path in each.iterdir():
                if path.name != "lock":
                    with contextlib.suppress(FileNotFoundError):
                        yield f"{each.name}/{path.name}", self._last_note(path)

    def _sessions(self) -> list[Path]:
        return sorted(self._data.iterdir())

    # documents that belong to no bytes

    def write_note(self, key: str, document: Callable[[], bytes | None]) -> None:
        """Durably what `document` says in its turn, with no other note written at the same time; None: there is none.
        `key` is hexadecimal."""
        directory = make_directory(self._notes / key[:2], 0o700)
        with _told(), _locked(self._notes / ".turn"):
            content = document()
            if content is None:
                (directory / key).unlink(missing_ok=True)
                sync_directory(directory)
            else:
                part = directory / f".{key}"
                part.write_bytes(content)
                publish(part, directory / key)

    def notes(self) -> Iterator[bytes]:
        for path in self._notes.glob("*/*"):
            if not path.name.startswith("."):
                yield path.read_bytes()

    def close(self) -> None:
        """Ends the sessions."""
        with self._change:
            for session in [*self._ending, *([self._session] if self._session else [])]:
                session.end()
            self._session, self._ending = None, []


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the operating system refuses, in our words."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull("The object store is full; delete objects or enlarge its disk.") from error
        raise Unavailable(f"The object store's files cannot be used: {error.strerror}.") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _key_in(directory: Path) -> bytes:
    """The key of a store, made when there is none yet, whoever makes it first."""
    path = directory / "seal"
    if not path.exists():
        part = directory / f".seal.{secrets.token_hex(4)}"
        part.touch(mode=0o600)
        part.write_bytes(secrets.token_bytes(32))
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
        sync_directory(directory)
    return path.read_bytes()
