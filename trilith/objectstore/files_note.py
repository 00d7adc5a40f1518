"""What a files store writes into files beside the objects' bytes, so that its index can be made anew; and what it needs
of these files."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from trilith.objectstore.store import Account, Container, Object

_encode = msgspec.json.Encoder().encode


class NewFile(Protocol):
    """See `drivers.object_files`."""

    def write(self, chunk: bytes) -> None: ...
    def finish(self, document: bytes) -> str: ...
    def keep(self) -> None: ...
    def drop(self) -> None: ...
    def leave(self) -> None: ...


class OpenFile(Protocol):
    def read(self, offset_bytes: int, size_bytes: int) -> bytes: ...
    def close(self) -> None: ...


class Files(Protocol):
    def new(self) -> NewFile: ...
    def open(self, blob: str) -> OpenFile | None: ...
    def describe(self, blob: str, document: bytes) -> bool: ...
    def remove(self, blobs: Iterable[str], durably: bool = False) -> None: ...
    def dead_sessions(self) -> Iterator[str]: ...
    def seal(self, session: str) -> None: ...
    def blobs(self, session: str | None = None) -> Iterator[tuple[str, bytes | None]]: ...
    def write_note(self, key: str, document: Callable[[], bytes | None]) -> None: ...
    def notes(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands behind the bytes of an object: all that its row in the index says."""

    account: str
    container: str
    name: str
    size_bytes: int
    etag: str
    content_type: str
    timestamp_us: int
    delete_at_s: int | None = None
    headers: dict[str, str] = {}
    listed: dict[str, str] = {}

    def described(self, blob: str) -> Object:
        """The object, with its bytes in this file."""
        return Object(
            self.name, self.size_bytes, self.etag, self.content_type, self.timestamp_us, self.delete_at_s,
            self.headers, self.listed, blob,
        )  # fmt: skip


class BoxNote(msgspec.Struct, frozen=True):
    """An account (`container` empty) or a container, beside the index."""

    account: str
    container: str
    timestamp_us: int
    changed_us: int
    headers: dict[str, str]


def box_note(account: str, container: str, box: Account | Container | None) -> bytes | None:
    """The note of an account (`container` empty) or a container; None if there is none."""
    if box is None:
        return None
    changed_us = box.changed_us if isinstance(box, Container) else box.timestamp_us
    return _encode(BoxNote(account, container, box.timestamp_us, changed_us, dict(box.headers)))


def noted(account: str, container: str, made: Object) -> bytes:
    """The note behind an object's bytes."""
    return _encode(
        Note(
            account=account, container=container, name=made.name, size_bytes=made.size_bytes, etag=made.etag,
            content_type=made.content_type, timestamp_us=made.timestamp_us, delete_at_s=made.delete_at_s,
            headers=dict(made.headers), listed=dict(made.listed),
        )
    )  # fmt: skip
