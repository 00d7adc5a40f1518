"""The object store as one would explain it: dictionaries and a lock. What real stores are compared with."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from trilith.kernel.errors import Fault
from trilith.objectstore.listing import Span, listing
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
    Subdir,
)


@dataclass
class Held:
    object: Object
    content: bytes


@dataclass
class Box:
    timestamp_us: int
    changed_us: int
    headers: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Held] = field(default_factory=dict)


@dataclass
class Home:
    timestamp_us: int
    headers: dict[str, str] = field(default_factory=dict)
    containers: dict[str, Box] = field(default_factory=dict)


class ModelStore:
    """A `Store` of one process, gone with it."""

    def __init__(self) -> None:
        self._homes: dict[str, Home] = {}
        self._lock = threading.RLock()
        self._count = 0

    def account(self, account: str) -> Account | None:
        with self._lock:
            home = self._homes.get(account)
            if home is None:
                return None
            held = [held for box in home.containers.values() for held in box.objects.values()]
            size_bytes = sum(each.object.size_bytes for each in held)
            return Account(account, home.timestamp_us, dict(home.headers), len(home.containers), len(held), size_bytes)

    def update_account(self, account: str, changes: Changes) -> Account:
        with self._lock:
            home = self._homes.setdefault(account, Home(self._now_us()))
            _change(home.headers, changes)
            found = self.account(account)
            assert found is not None
            return found

    def delete_account(self, account: str) -> None:
        with self._lock:
            home = self._homes.get(account)
            if home is None:
                raise Fault("missing", f"There is no account {account}.")
            if home.containers:
                raise Fault("conflict", f"The account {account} has containers; delete these first.")
            del self._homes[account]

    def list_containers(self, account: str, page: Page) -> Sequence[Container | Subdir]:
        with self._lock:
            home = self._homes.get(account)
            boxes = home.containers if home else {}
            entries = [replace(_container(account, name, box), headers={}) for name, box in sorted(boxes.items())]
            return listing(page, lambda *words: _scan(entries, *words))

    def container(self, account: str, container: str) -> Container | None:
        with self._lock:
            box = self._box(account, container)
            return _container(account, container, box) if box else None

    def create_container(self, account: str, container: str, changes: Changes) -> bool:
        with self._lock:
            now_us = self._now_us()
            home = self._homes.setdefault(account, Home(now_us))
            made = container not in home.containers
            box = home.containers.setdefault(container, Box(now_us, now_us))
            _change(box.headers, changes)
            box.changed_us = now_us
            return made

    def update_container(self, account: str, container: str, changes: Changes) -> Container:
        with self._lock:
            box = self._there(account, container)
            _change(box.headers, changes)
            box.changed_us = self._now_us()
            return _container(account, container, box)

    def delete_container(self, account: str, container: str) -> None:
        with self._lock:
            if self._there(account, container).objects:
                raise Fault("conflict", f"The container {container} has objects; delete these first.")
            del self._homes[account].containers[container]

    def list_objects(self, account: str, container: str, page: Page) -> Sequence[Object | Subdir]:
        with self._lock:
            held = self._there(account, container).objects
            entries = [replace(each.object, headers={}) for _, each in sorted(held.items())]
            return listing(page, lambda *words: _scan(entries, *words))

    def write(self, account: str, container: str, name: str) -> "ModelWriter":
        return ModelWriter(lambda content, put, check: self._put(account, container, name, content, put, check))

    def _put(self, account: str, container: str, name: str, content: bytes, put: Put, check: Check | None) -> Object:
        with self._lock:
            objects = self._there(account, container).objects
            before = objects[name].object if name in objects else None
            if check is not None:
                check(before)
            etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            self._count += 1
            made = _object(name, put, len(content), etag, str(self._count), self._newer(before, put))
            objects[name] = Held(made, content)
            return made

    def object(self, account: str, container: str, name: str) -> Object | None:
        reader = self.open(account, container, name)
        return reader.object if reader else None

    def open(self, account: str, container: str, name: str) -> "ModelReader | None":
        with self._lock:
            box = self._box(account, container)
            held = box.objects.get(name) if box else None
            return ModelReader(held.object, held.content) if held else None

    def update_object(
        self, account: str, container: str, name: str, change: Callable[[Object], Put], check: Check | None = None
    ) -> Object:
        with self._lock:
            held = self._object(account, container, name)
            before = held.object
            if check is not None:
                check(before)
            put = change(before)
            timestamp_us = self._newer(before, put)
            held = Held(_object(name, put, before.size_bytes, before.etag, before.blob, timestamp_us), held.content)
            self._there(account, container).objects[name] = held
            return held.object

    def delete_object(self, account: str, container: str, name: str, check: Check | None = None) -> Object:
        with self._lock:
            held = self._object(account, container, name)
            if check is not None:
                check(held.object)
            del self._there(account, container).objects[name]
            return held.object

    def due(self, now_s: int, limit: int = 1000) -> Sequence[Due]:
        with self._lock:
            found = [
                Due(account, container, name, held.object.delete_at_s)
                for account, home in self._homes.items()
                for container, box in home.containers.items()
                for name, held in box.objects.items()
                if held.object.delete_at_s is not None and held.object.delete_at_s <= now_s
            ]
            return sorted(found, key=lambda due: due.delete_at_s)[:limit]

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        return None

    def _box(self, account: str, container: str) -> Box | None:
        home = self._homes.get(account)
        return home.containers.get(container) if home else None

    def _there(self, account: str, container: str) -> Box:
        box = self._box(account, container)
        if box is None:
            raise Fault("missing", f"There is no container {container}.")
        return box

    def _object(self, account: str, container: str, name: str) -> Held:
        box = self._box(account, container)
        held = box.objects.get(name) if box else None
        if held is None:
            raise Fault("missing", f"There is no object {name}.")
        return held

    def _newer(self, before: Object | None, put: Put) -> int:
        if before is None:
            return put.timestamp_us or self._now_us()
        if put.timestamp_us is not None and put.timestamp_us <= before.timestamp_us:
            raise Fault("conflict", f"The object {before.name} is newer.")
        return put.timestamp_us or max(self._now_us(), before.timestamp_us + 10)

    def _now_us(self) -> int:
        return time.time_ns() // 10_000 * 10


class ModelWriter:
    def __init__(self, put: Callable[[bytes, Put, Check | None], Object]) -> None:
        self._put: Callable[[bytes, Put, Check | None], Object] | None = put
        self._content = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    @property
    def etag(self) -> str:
        return hashlib.md5(self._content, usedforsecurity=False).hexdigest()

    def write(self, chunk: bytes) -> None:
        assert self._put is not None
        self._content += chunk

    def commit(self, put: Put, check: Check | None = None) -> Object:
        act, self._put = self._put, None
        assert act is not None
        return act(bytes(self._content), put, check)

    def abandon(self) -> None:
        self._put = None


class ModelReader:
    def __init__(self, found: Object, content: bytes) -> None:
        self.object, self._content = found, content

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return self._content[offset_bytes : offset_bytes + size_bytes]

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        end = len(self._content) if end is None else min(end, len(self._content))
        for offset in range(start, end, CHUNK_BYTES):
            yield self._content[offset : min(offset + CHUNK_BYTES, end)]

    def close(self) -> None:
        return None


def _change(headers: dict[str, str], changes: Changes) -> None:
    for name, value in changes.items():
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value


def _container(account: str, name: str, box: Box) -> Container:
    sizes = [held.object.size_bytes for held in box.objects.values()]
    return Container(account, name, box.timestamp_us, box.changed_us, dict(box.headers), len(sizes), sum(sizes))


def _object(name: str, put: Put, size_bytes: int, etag: str, blob: str, timestamp_us: int) -> Object:
    return Object(
        name, size_bytes, etag, put.content_type, timestamp_us, put.delete_at_s, put.headers, put.listed, blob
    )


def _scan(entries: list[Container] | list[Object], span: Span, limit: int, reverse: bool) -> list:  # type: ignore[type-arg]
    found = [entry for entry in entries if span.has(entry.name)]
    return (found[::-1] if reverse else found)[:limit]
