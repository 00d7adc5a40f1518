"""Bytes of objects in RADOS, in pieces; and which of them a dead process left over.

A process has a *session*: a lease on an object ``s.<session>``, whose keys say which blobs it may be writing: runs of
`RUN_BLOBS` numbers. The first piece of a blob has a note that says whose it is. So whoever finds a session without a
lease knows what to look at, and whatever no object has is removed; before that it bars the session in the containers
that these bytes are meant for, because the process may only have stood still.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from trilith.kernel.errors import Unavailable
from trilith.objectstore.rados_records import Records
from trilith.objectstore.store import told_full

PIECE_BYTES = 4 << 20
RUN_BLOBS = 64
LEASE_S = 300  # more than anybody may need for the next bytes; renewed while such come
SESSIONS = "sessions"
MISSING_PIECES = 2  # in a row, after which there are no more: they are written one after the other


class Whose(NamedTuple):
    """The container's id and the name of the object that bytes are meant for."""

    box_id: str
    name: str


def session_at(session: str) -> str:
    return f"s.{session}"


def piece_at(blob: str, number: int) -> str:
    return f"d.{blob}.{number}"


def awake_s() -> float:
    """A clock that also runs while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Session:
    """One process's lease, and the blobs that it may be writing."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.name = secrets.token_hex(8)
        self._held_until_s = 0.0
        self._next = 0
        self._undecided: dict[int, set[str]] = {}
        self._lock = threading.Lock()
        records.register(SESSIONS, {self.name.encode(): b"-"})
        records.rados.create(session_at(self.name), {})
        self._renew()

    def is_held(self) -> bool:
        """Nobody else can have begun to look through it. Renews the lease when half of it is over."""
        with self._lock:
            if awake_s() > self._held_until_s - LEASE_S / 2:
                self._renew()
            return awake_s() < self._held_until_s

    def _renew(self) -> None:
        until_s = awake_s() + LEASE_S  # counted from before the call: the OSD begins later
        if self._records.rados.lock(session_at(self.name), self.name, LEASE_S):
            self._held_until_s = until_s

    def take(self) -> str:
        """A new blob."""
        with self._lock:
            if self._next % RUN_BLOBS == 0:
                self._records.register(session_at(self.name), {f"{self._next:08x}".encode(): b"-"})
                self._undecided[self._next] = set()
            number, self._next = self._next, self._next + 1
            blob = f"{self.name}.{number:x}"
            self._undecided[number - number % RUN_BLOBS].add(blob)
            return blob

    def decided(self, blob: str) -> None:
        """Somebody has it, or its pieces are gone."""
        number = int(blob.rpartition(".")[2], 16)
        run = number - number % RUN_BLOBS
        with self._lock:
            self._undecided[run].discard(blob)
            is_over = not self._undecided[run] and self._next >= run + RUN_BLOBS
            if is_over:
                del self._undecided[run]
        if is_over:
            self._records.rados.change(session_at(self.name), {f"{run:08x}".encode(): None})

    def end(self) -> None:
        """Leaves nothing to look through, if all is decided."""
        if not any(self._undecided.values()):
            self._records.rados.remove(session_at(self.name))
            self._records.rados.change(SESSIONS, {self.name.encode(): None})


class Blobs:
    """The bytes of a store's objects. Of any thread."""

    def __init__(self, records: Records) -> None:
        self._records, self._rados = records, records.rados
        self._session: Session | None = None
        self._lock = threading.Lock()

    def session(self) -> Session:
        """The one that has its lease; a new one where it was lost."""
        with self._lock:
            if self._session is None or not self._session.is_held():
                self._session = Session(self._records)
            return self._session

    def read(self, blob: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Exactly so many bytes."""
        found = b""
        while len(found) < size_bytes:
            number, start = divmod(offset_bytes + len(found), PIECE_BYTES)
            part = self._rados.get(piece_at(blob, number), start, min(size_bytes - len(found), PIECE_BYTES - start))
            if not part:
                raise Unavailable("The bytes of the object are not all there.")
            found += part
        return found

    def remove(self, blob: str, piece_count: int | None = None) -> None:
        """The first piece last, because it says whose they are. `piece_count`: None, if nobody knows."""
        count = self._count(blob) if piece_count is None else piece_count
        for number in reversed(range(count)):
            self._rados.remove(piece_at(blob, number))

    def _count(self, blob: str) -> int:
        number = missing = 0
        while missing < MISSING_PIECES:
            missing = missing + 1 if self._rados.get(piece_at(blob, number), 0, 1) is None else 0
            number += 1
        return number - missing

    def close(self) -> None:
        with self._lock:
            if self._session is not None and self._session.is_held():
                self._session.end()
            self._session = None

    # what dead sessions left

    def dead(self) -> Iterator[tuple[str, list[tuple[str, Whose]]]]:
        """Sessions without a lease, and all the blobs that they may have left, with whose these are."""
        own = self._session.name if self._session else ""
        for found, _ in self._records.each(SESSIONS, b""):
            name = found.decode()
            if name != own and self._rados.lock(session_at(name), f"sweep-{secrets.token_hex(4)}", LEASE_S):
                yield name, list(self._left(name))

    def _left(self, session: str) -> Iterator[tuple[str, Whose]]:
        for run, _ in self._records.each(session_at(session), b""):
            for number in range(int(run, 16), int(run, 16) + RUN_BLOBS):
                blob = f"{session}.{number:x}"
                note = self._rados.note(piece_at(blob, 0))
                if note:
                    yield blob, Whose(*json.loads(note))

    def forget(self, session: str) -> None:
        """A session that was looked through."""
        self._rados.remove(session_at(session))
        self._rados.change(SESSIONS, {session.encode(): None})


class NewBlob:
    """Bytes on their way into RADOS. Of one thread at a time. There is at least one piece, with the note."""

    def __init__(self, blobs: Blobs, records: Records) -> None:
        self._blobs, self._rados = blobs, records.rados
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._session: Session | None = None
        self.blob = ""
        self.piece_count = 0

    def write(self, chunk: bytes, whose: Callable[[], Whose]) -> None:
        """`whose` is asked once, before the first piece is written."""
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._session is not None and not self._session.is_held():
            raise Unavailable("This process stood still for too long; put the object again.")
        while self._held_bytes >= PIECE_BYTES:
            self._pour(PIECE_BYTES, whose)

    def finish(self, whose: Callable[[], Whose]) -> None:
        """All of it, durably."""
        if self._held_bytes or not self.piece_count:
            self._pour(self._held_bytes, whose)

    @property
    def session_name(self) -> str:
        return self._session.name if self._session else ""

    def _pour(self, size_bytes: int, whose: Callable[[], Whose]) -> None:
        whole = b"".join(self._held)
        self._held = [whole[size_bytes:]] if len(whole) > size_bytes else []
        self._held_bytes = len(whole) - size_bytes
        with told_full():
            if self._session is None:
                meant = whose()
                self._session = self._blobs.session()
                self.blob = self._session.take()
                note = json.dumps(meant).encode()
            else:
                note = b""
            self._rados.put(piece_at(self.blob, self.piece_count), whole[:size_bytes], note)
            self.piece_count += 1

    def keep(self) -> None:
        """It has its place."""
        if self._session is not None:
            self._session.decided(self.blob)
            self._session = None

    def drop(self) -> None:
        """It goes. What cannot be removed now is left to whoever looks through the session."""
        self._held.clear()
        if self._session is not None and self.blob:
            try:
                self._blobs.remove(self.blob, self.piece_count + 1)  # the last one may have been written, too
            except Unavailable:
                self.leave()
            self.keep()

    def leave(self) -> None:
        """Nobody knows whether it stays; whoever looks through the session will."""
        self._held.clear()
        self._session = None
