"""What the object store does, whatever it is made of: accounts, containers, objects, and the bytes of these.

Calls block, and come from any thread of any process of a machine, or of several controllers, at the same time. A call
that returned is durable, and every later call anywhere sees it. One that raised, or whose process died, has either done
all or nothing, except that a write which ended in `Unavailable` may be found done later.

Names are any text that UTF-8 can encode (also with NUL, slashes, dots); their length is the front end's matter. Lists
are in the order of names' UTF-8 bytes. Times are whole microseconds since 1970, always multiples of 10, because the
protocol tells them with five decimals. Within one name they only grow: what is stored later is newer, whatever clocks
say.

Errors: `Fault("missing")` for a container or an object that is not there, `Fault("conflict")` for a container that is
not empty, `StorageFull` (507) when there is no room, `Unavailable` when a part of the store is away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from trilith.kernel.errors import Kind, Unavailable

CHUNK_BYTES = 1 << 20  # what a reader gives at once, at most
Headers = Mapping[str, str]
"""Metadata as the front end has it; the store does not look into it."""
Changes = Mapping[str, str | None]
"""Metadata to set; None: to remove."""


class StorageFull(Unavailable):
    """There is no room for it. 507 to the client."""

    kind: Kind = "too_large"


@contextmanager
def told_full() -> Iterator[None]:
    """A full disk, in the store's words."""
    try:
        yield
    except Unavailable as error:
        if error.kind == "too_large" and not isinstance(error, StorageFull):
            raise StorageFull(str(error)) from error
        raise


@dataclass(frozen=True, slots=True)
class Account:
    """Counts are exact: they change in the same step as what they count."""

    name: str
    timestamp_us: int
    "When it was made."
    headers: Headers
    container_count: int
    object_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Container:
    """`changed_us`: when its metadata changed last."""

    account: str
    name: str
    timestamp_us: int
    changed_us: int
    headers: Headers
    object_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Object:
    """`timestamp_us`: of the bytes or, if newer, of the metadata. `etag`: MD5 of the bytes in hex. `blob`: which bytes;
    another string whenever they were put anew, also equal ones. `listed`: what lists shall tell beside the rest. Lists
    leave `headers` empty."""

    name: str
    size_bytes: int
    etag: str
    content_type: str
    timestamp_us: int
    delete_at_s: int | None = None
    headers: Headers = field(default_factory=dict)
    listed: Headers = field(default_factory=dict)
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Subdir:
    """All names that begin with `name`, which ends with the delimiter."""

    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list. Only names after `marker` and before `end_marker`; with `reverse` the list runs from the
    last name to the first, and the markers are met in that order. Empty strings say nothing. At most `limit` entries,
    subdirs among them; a marker that is a subdir's name is past that subdir."""

    prefix: str = ""
    delimiter: str = ""
    marker: str = ""
    end_marker: str = ""
    limit: int = 10_000
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """What belongs to the bytes. `timestamp_us`: None, which is usual, for the store's clock; a given one loses against
    an object that is not older: `Fault("conflict")`."""

    content_type: str
    headers: Headers = field(default_factory=dict)
    listed: Headers = field(default_factory=dict)
    delete_at_s: int | None = None
    timestamp_us: int | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """An object whose time is over."""

    account: str
    container: str
    name: str
    delete_at_s: int


Check = Callable[[Object | None], None]
"""Looks at the object that is there now, in the same step as the change, and raises (`Fault`) what shall not be done:
``If-None-Match: *`` is a check that raises when there is one. It may be called more than once, must be quick, and must
not call the store."""


class Writer(Protocol):
    """Bytes on their way in. Nobody sees them before `commit`; whatever else happens, nothing of them stays. Of one
    thread at a time."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def etag(self) -> str:
        """MD5 of what was written until now, in hex."""

    def write(self, chunk: bytes) -> None: ...

    def commit(self, put: Put, check: Check | None = None) -> Object:
        """Make it the object, durably. Raises what `check` raises; `Fault("missing")` when the container is not there.
        When it raises, the writer is abandoned."""

    def abandon(self) -> None:
        """Drop it. Does nothing after `commit`, or the second time."""


class Reader(Protocol):
    """An object as it was when it was opened, whatever happens to it: for an hour at least. Of any thread."""

    @property
    def object(self) -> Object: ...

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """So many bytes; fewer only at the end. `Unavailable` when they cannot be read."""

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `end` (None: all), in pieces of `CHUNK_BYTES` at most."""

    def close(self) -> None: ...


class Store(Protocol):
    """See the module."""

    # accounts: one that nobody wrote to is as one that is empty

    def account(self, account: str) -> Account | None:
        """None if nothing was ever made in it."""

    def update_account(self, account: str, changes: Changes) -> Account:
        """Makes it if need be."""

    def delete_account(self, account: str) -> None:
        """With its metadata. `Fault("conflict")` while it has containers; `Fault("missing")`."""

    def list_containers(self, account: str, page: Page) -> Sequence[Container | Subdir]:
        """Without their headers. Empty if there is no such account."""

    # containers

    def container(self, account: str, container: str) -> Container | None: ...

    def create_container(self, account: str, container: str, changes: Changes) -> bool:
        """Makes it, and the account, or updates the metadata of the one that is there; whether it was made."""

    def update_container(self, account: str, container: str, changes: Changes) -> Container:
        """`Fault("missing")`."""

    def delete_container(self, account: str, container: str) -> None:
        """`Fault("conflict")` while it has objects; `Fault("missing")`."""

    def list_objects(self, account: str, container: str, page: Page) -> Sequence[Object | Subdir]:
        """Without their headers. `Fault("missing")` if there is no such container."""

    # objects

    def write(self, account: str, container: str, name: str) -> Writer:
        """A new writer. Whether the container is there is found out by `commit`."""

    def object(self, account: str, container: str, name: str) -> Object | None:
        """None also if there is no such container."""

    def open(self, account: str, container: str, name: str) -> Reader | None: ...

    def update_object(
        self, account: str, container: str, name: str, change: Callable[[Object], Put], check: Check | None = None
    ) -> Object:
        """Give the bytes that are there other metadata: what `change` makes of the object; as `Check`, it may be called
        more than once. `Fault("missing")`."""

    def delete_object(self, account: str, container: str, name: str, check: Check | None = None) -> Object:
        """What was deleted. `Fault("missing")`."""

    # for whoever looks after the store

    def due(self, now_s: int, limit: int = 1000) -> Sequence[Due]:
        """Objects whose `delete_at_s` is not after `now_s`, the longest overdue first. They stay until they are
        deleted: with a check that they are still due."""

    def sweep(self) -> int:
        """Take away what dead writers left; how many things. To be called now and then, by any process."""

    def close(self) -> None: ...
