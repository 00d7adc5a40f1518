"""What the object store keeps in RADOS, and how several controllers change it at once.

    a.<digest of an account>    keys: h, the account; c<name>, the id of each container
    c.<id>                      keys: h, a container and its counts; o<name>, each object; t<time><name>, what ends;
                                g<time><blob>, bytes that no object has any more; x<session>, that may put no more
    d.<blob>.<number>           bytes, in pieces; the first has a note, whose they are (`rados_blobs`)
    containers                  keys: the id of every container that there is or may be
    orphans                     keys: g..., of containers that are gone
    endings                     keys: a minute and the id of a container in which objects end then

A change reads the keys that it is about, decides, and writes bound to the version that it read; so it is one step, and
counts are exact. What several threads want of one container is one such step.
"""

import hashlib
import random
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore.store import Container, Headers, Object, Put, told_full
from trilith.objectstore.together import Together, Waiting

TRIES = 100
PAUSE_S = 0.02  # at most, times the number of tries, while others are faster
HEAD = b"h"
OBJECT, CONTAINER, ENDS, GARBAGE, BARRED = b"o", b"c", b"t", b"g", b"x"
CONTAINERS, ORPHANS, ENDINGS = "containers", "orphans", "endings"
T = TypeVar("T")
Changes = Mapping[bytes, bytes | None]
encode = msgspec.json.Encoder().encode


class Rados(Protocol):
    """See `drivers.rados`."""

    def values(self, name: str, keys: Sequence[bytes]) -> tuple[dict[bytes, bytes], int] | None: ...
    def range(
        self, name: str, after: bytes, prefix: bytes, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bool] | None: ...
    def change(self, name: str, changes: Changes, version: int | None = None) -> bool: ...
    def create(self, name: str, values: Mapping[bytes, bytes]) -> bool: ...
    def put(self, name: str, content: bytes, note: bytes = b"") -> None: ...
    def get(self, name: str, offset_bytes: int, size_bytes: int) -> bytes | None: ...
    def note(self, name: str) -> bytes | None: ...
    def remove(self, name: str) -> bool: ...
    def lock(self, name: str, cookie: str, duration_s: int) -> bool: ...
    def close(self) -> None: ...


class Home(msgspec.Struct):
    """An account."""

    name: str
    timestamp_us: int
    headers: dict[str, str] = {}


class Box(msgspec.Struct):
    """A container. `is_closed`: it is being deleted, and nothing may come into it."""

    account: str
    name: str
    timestamp_us: int
    changed_us: int
    headers: dict[str, str] = {}
    object_count: int = 0
    size_bytes: int = 0
    is_closed: bool = False

    def told(self, with_headers: bool) -> Container:
        headers = self.headers if with_headers else {}
        times = (self.timestamp_us, self.changed_us)
        return Container(self.account, self.name, *times, headers, self.object_count, self.size_bytes)


class Entry(msgspec.Struct, omit_defaults=True):
    """An object. `piece_count`: of its bytes."""

    size_bytes: int
    etag: str
    content_type: str
    timestamp_us: int
    blob: str
    piece_count: int
    delete_at_s: int | None = None
    headers: dict[str, str] = {}
    listed: dict[str, str] = {}

    def told(self, name: str, with_headers: bool = True) -> Object:
        headers = self.headers if with_headers else {}
        return Object(
            name, self.size_bytes, self.etag, self.content_type, self.timestamp_us, self.delete_at_s,
            headers, self.listed, self.blob,
        )  # fmt: skip

    def described(self, put: Put, timestamp_us: int) -> "Entry":
        """The same bytes with other metadata."""
        return msgspec.structs.replace(
            self, content_type=put.content_type, timestamp_us=timestamp_us, delete_at_s=put.delete_at_s,
            headers=dict(put.headers), listed=dict(put.listed),
        )  # fmt: skip


as_home = msgspec.json.Decoder(Home).decode
as_box = msgspec.json.Decoder(Box).decode
as_entry = msgspec.json.Decoder(Entry).decode


class Gone(Fault):
    """The container of this id is not there any more, or is being deleted."""

    def __init__(self) -> None:
        super().__init__("missing", "The container is gone.")


class Garbage(NamedTuple):
    key: bytes
    blob: str
    piece_count: int


def now_us() -> int:
    return time.time_ns() // 10_000 * 10


def account_at(account: str) -> str:
    return f"a.{hashlib.sha256(account.encode()).hexdigest()}"


def box_at(box_id: str) -> str:
    return f"c.{box_id}"


def key(kind: bytes, name: str) -> bytes:
    """In the order of names. Ceph's keys end at a NUL, so that it and what stands for it are written otherwise."""
    return kind + name.encode().replace(b"\1", b"\1\2").replace(b"\0", b"\1\1")


def name_of(found: bytes) -> str:
    return found[1:].replace(b"\1\1", b"\0").replace(b"\1\2", b"\1").decode()


def ends_key(delete_at_s: int, name: str) -> bytes:
    return key(ENDS, f"{max(delete_at_s, 0):012d}{name}")


def before(wanted: bytes) -> bytes:
    """A key after which `wanted` comes next: no key has a byte of 255."""
    return wanted[:-1] + bytes([wanted[-1] - 1]) + b"\xff"


class View:
    """The keys of one object, as a step sees and changes them."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values
        self.changes: dict[bytes, bytes | None] = {}

    def get(self, wanted: bytes) -> bytes | None:
        return self.changes[wanted] if wanted in self.changes else self._values.get(wanted)

    def set(self, wanted: bytes, value: bytes | None) -> None:
        self.changes[wanted] = value

    # a container's

    def box(self) -> Box:
        """Raises `Gone`."""
        found = self.get(HEAD)
        box = as_box(found) if found else None
        if box is None or box.is_closed:
            raise Gone
        return box

    def entry(self, name: str) -> Entry | None:
        found = self.get(key(OBJECT, name))
        return as_entry(found) if found else None

    def put(self, name: str, was: Entry | None, made: Entry | None) -> None:
        """An object instead of another, with all that follows from it."""
        box = self.box()
        box.object_count += (made is not None) - (was is not None)
        box.size_bytes += (made.size_bytes if made else 0) - (was.size_bytes if was else 0)
        self.set(HEAD, encode(box))
        self.set(key(OBJECT, name), encode(made) if made else None)
        if was is not None and was.delete_at_s is not None:
            self.set(ends_key(was.delete_at_s, name), None)
        if made is not None and made.delete_at_s is not None:
            self.set(ends_key(made.delete_at_s, name), b"-")
        if was is not None and was.piece_count and (made is None or made.blob != was.blob):
            self.set(GARBAGE + f"{int(time.time()):012d}{was.blob}".encode(), str(was.piece_count).encode())


class Step(NamedTuple):
    keys: Sequence[bytes]
    apply: Callable[[View], Any]
    "Raises `Fault` before it changes anything."


class Records:
    """Changes of objects in RADOS, each one step."""

    def __init__(self, rados: Rados) -> None:
        self.rados = rados
        self._together: weakref.WeakValueDictionary[str, Together[Step]] = weakref.WeakValueDictionary()

    def change(self, at: str, keys: Sequence[bytes], apply: Callable[[View], T]) -> T:
        """What `apply` returns. It may be called more than once. `Gone` if there is no such object."""
        together = self._together.get(at)
        if together is None:
            together = self._together.setdefault(at, Together(lambda group: self._act(at, group)))
        result: T = together.run(Step(keys, apply))
        return result

    def _act(self, at: str, group: list[Waiting[Step]]) -> None:
        try:
            with told_full():
                self._act_or_raise(at, group)
        except Unavailable as error:
            for each in group:
                each.error = error

    def _act_or_raise(self, at: str, group: list[Waiting[Step]]) -> None:
        wanted = sorted({each for waiting in group for each in waiting.step.keys})
        for tries in range(TRIES):
            found = self.rados.values(at, wanted)
            refused: dict[int, Fault | Unavailable] = {}
            view = View(found[0] if found else {})
            for number, each in enumerate(group):
                try:
                    if found is None:
                        raise Gone
                    each.result = each.step.apply(view)
                except (Fault, Unavailable) as error:
                    refused[number] = error
            if found is None or not view.changes or self.rados.change(at, view.changes, found[1]):
                for number, each in enumerate(group):
                    each.error = refused.get(number)
                return
            time.sleep(random.uniform(0, PAUSE_S * min(tries, 10)))
        raise Unavailable("Too many write here at once; try again.")

    def entry(self, box_id: str, name: str) -> Entry | None:
        """None also if the container is gone."""
        wanted = key(OBJECT, name)
        found = self.rados.values(box_at(box_id), [wanted])
        return as_entry(found[0][wanted]) if found and wanted in found[0] else None

    def register(self, where: str, changes: Changes) -> None:
        """Keys of an object that is made if need be."""
        with told_full():
            while not self.rados.change(where, changes):
                self.rados.create(where, {})

    def each(self, at: str, prefix: bytes, after: bytes = b"") -> "list[tuple[bytes, bytes]]":
        """All keys with a prefix; none if there is no such object."""
        found: list[tuple[bytes, bytes]] = []
        while part := self.rados.range(at, found[-1][0] if found else after, prefix, 1000):
            found += part[0]
            if not part[1] or not part[0]:
                break
        return found


def garbage_in(found: Sequence[tuple[bytes, bytes]], before_s: float) -> list[Garbage]:
    """Bytes that nobody has since `before_s` or longer."""
    return [Garbage(each, each[13:].decode(), int(value)) for each, value in found if int(each[1:13]) <= before_s]


def merged(headers: Headers, changes: Mapping[str, str | None]) -> dict[str, str]:
    after = {**headers, **changes}
    return {name: value for name, value in after.items() if value is not None}
