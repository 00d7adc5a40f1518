"""A pretended Ceph in this process's memory, with the calls of `ceph.Ceph` and what they promise."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trilith.drivers.ceph import PART, Access, Health, Image, InUse, check_client, check_names
from trilith.kernel.errors import Refused, Unavailable

POOLS = ("images", "volumes", "machines")


@dataclass
class _Stored:
    size_bytes: int
    content: bytes = b""
    snapshots: dict[str, bytes] = field(default_factory=dict)
    parent: tuple[str, str] | None = None
    days: int | None = None  # in the trash for so long; 0: until its clones are gone


class FakeCeph:
    """`opened` says which client has which image open; `away` makes every call fail as without a quorum."""

    def __init__(self, access: Access | None = None, pools: tuple[str, ...] = POOLS) -> None:
        self.access = access or Access(("127.0.0.1",), "fake", Path("/dev/null"))
        self.away = False
        self.opened: dict[tuple[str, str], list[str]] = {}
        self._pools: dict[str, dict[str, _Stored]] = {pool: {} for pool in pools}
        self._trash: dict[str, list[_Stored]] = {pool: [] for pool in pools}
        self._blocked: set[str] = set()
        self._lock = threading.RLock()

    # ---- images

    def images(self, pool: str) -> dict[str, Image]:
        with self._lock:
            found = self._pool(pool)
            return {name: _shown(stored) for name, stored in found.items() if not name.endswith(PART)}

    def image(self, pool: str, name: str) -> Image | None:
        stored = self._pool(pool, name).get(name)
        return None if stored is None else _shown(stored)

    def create(self, pool: str, name: str, size_bytes: int) -> None:
        self._pool(pool, name).setdefault(name, _Stored(size_bytes))

    def clone(self, source: tuple[str, str, str], pool: str, name: str) -> None:
        target = self._pool(pool, name)
        if name in target:
            return
        stored = self._pool(*source[:2]).get(source[1])
        if stored is None or source[2] not in stored.snapshots:
            raise _absent(*source[:2])
        target[name] = _Stored(stored.size_bytes, stored.snapshots[source[2]], parent=source[:2])

    def resize(self, pool: str, name: str, size_bytes: int) -> None:
        stored = self._existing(pool, name)
        if size_bytes < stored.size_bytes:
            raise Refused(f"The image {name} has {stored.size_bytes} bytes; it cannot shrink to {size_bytes}.")
        stored.size_bytes = size_bytes

    def rename(self, pool: str, name: str, new_name: str) -> None:
        images = self._pool(pool, name)
        if new_name in images and name in images:
            raise Refused(f"There is an image {new_name} already.")
        if name in images:
            images[new_name] = images.pop(name)
        elif new_name not in images:
            raise _absent(pool, name)

    def delete(self, pool: str, name: str) -> None:
        self._leave(pool, name, 0)

    def set_aside(self, pool: str, name: str, days: int = 7) -> None:
        self._leave(pool, name, days)

    def empty_trash(self, pool: str) -> None:
        self._trash[pool] = [stored for stored in self._trash[pool] if stored.days]

    def _leave(self, pool: str, name: str, days: int) -> None:
        images = self._pool(pool, name)
        if self.opened.get((pool, name)):
            raise InUse(f"The image {name} is still open.")
        stored = images.pop(name, None)
        if stored is not None:
            stored.days = days
            self._trash[pool].append(stored)

    # ---- snapshots

    def snapshot(self, pool: str, name: str, snapshot: str) -> None:
        check_names(snapshot)
        stored = self._existing(pool, name)
        stored.snapshots.setdefault(snapshot, stored.content)

    def drop_snapshot(self, pool: str, name: str, snapshot: str) -> None:
        stored = self._pool(pool, name).get(name)
        if stored is not None:
            stored.snapshots.pop(snapshot, None)

    # ---- in and out

    def import_raw(self, file: Path, pool: str, name: str, snapshot: str | None = None) -> None:
        images = self._pool(pool, name)
        if name not in images:
            content = file.read_bytes()
            images[name] = _Stored(len(content), content, {} if snapshot is None else {snapshot: content})

    def export_raw(self, pool: str, name: str, file: Path, snapshot: str | None = None) -> None:
        stored = self._existing(pool, name)
        content = stored.content if snapshot is None else stored.snapshots[snapshot]
        with open(file, "wb") as out:
            out.write(content)
            out.truncate(stored.size_bytes)

    # ---- who has it

    def watchers(self, pool: str, name: str) -> list[str]:
        self._pool(pool, name)
        return list(self.opened.get((pool, name), []))

    def watchers_of(self, images: Sequence[tuple[str, str]]) -> list[list[str]]:
        return [self.watchers(pool, name) for pool, name in images]

    def blocklist(self, addresses: Sequence[str], for_s: int = 3600) -> None:
        self._pool()
        blocked = {check_client(address) for address in addresses}
        self._blocked |= blocked
        for clients in self.opened.values():
            clients[:] = [client for client in clients if not {client, client.partition(":")[0]} & blocked]

    def unblock(self, address: str) -> None:
        self._pool()
        self._blocked.discard(check_client(address))

    def blocklisted(self) -> set[str]:
        self._pool()
        return set(self._blocked)

    # ---- the cluster

    def health(self) -> Health:
        self._pool()
        return Health("HEALTH_OK", (), 3, 3, 3 << 40, 2 << 40)

    def _pool(self, pool: str | None = None, name: str = "x") -> dict[str, _Stored]:
        if self.away:
            raise Unavailable("Ceph does not answer.")
        if pool is None:
            return {}
        check_names(pool, name)
        if pool not in self._pools:
            raise Unavailable(f"There is no pool {pool}.")
        return self._pools[pool]

    def _existing(self, pool: str, name: str) -> _Stored:
        stored = self._pool(pool, name).get(name)
        if stored is None:
            raise _absent(pool, name)
        return stored


def _shown(stored: _Stored) -> Image:
    parent = None if stored.parent is None else "/".join(stored.parent)
    return Image(stored.size_bytes, tuple(stored.snapshots), parent)


def _absent(pool: str, name: str) -> Unavailable:
    return Unavailable(f"The image {name} is not in the pool {pool}.")
