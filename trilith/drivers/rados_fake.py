"""A pool of RADOS in memory: what `rados.Rados` does, of one process."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trilith.kernel.errors import Unavailable

Values = dict[bytes, bytes]
RANGE_KEYS = 1000  # an OSD tells no more at once


@dataclass
class Held:
    values: Values = field(default_factory=dict)
    content: bytes = b""
    note: bytes = b""
    version: int = 0
    owner: str = ""
    until_s: float = 0.0


class FakeRados:
    """`before_change`, where given, is called with an object's name before each change: to count, or to raise
    `Unavailable`, as a cluster without a quorum does. `skip_s`: how far its clock is ahead."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.before_change: Callable[[str], None] = lambda name: None
        self.skip_s = 0.0
        self._version = 0
        self._lock = threading.Lock()

    def values(self, name: str, keys: Sequence[bytes]) -> tuple[Values, int] | None:
        with self._lock:
            held = self.held.get(name)
            if held is None:
                return None
            return {key: held.values[key] for key in keys if key in held.values}, held.version

    def range(
        self, name: str, after: bytes, prefix: bytes, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bool] | None:
        with self._lock:
            held = self.held.get(name)
            if held is None:
                return None
            found = sorted(item for item in held.values.items() if item[0] > after and item[0].startswith(prefix))
            most = min(limit, RANGE_KEYS)
            return found[:most], len(found) > most

    def change(self, name: str, changes: Mapping[bytes, bytes | None], version: int | None = None) -> bool:
        self.before_change(name)
        with self._lock:
            held = self.held.get(name)
            if held is None or (version is not None and held.version != version):
                return False
            self._change(held, changes)
            return True

    def create(self, name: str, values: Mapping[bytes, bytes]) -> bool:
        self.before_change(name)
        with self._lock:
            if name in self.held:
                return False
            self._change(self.held.setdefault(name, Held()), values)
            return True

    def put(self, name: str, content: bytes, note: bytes = b"") -> None:
        self.before_change(name)
        with self._lock:
            held = self.held.setdefault(name, Held())
            held.content, held.note = content, note
            self._change(held, {})

    def get(self, name: str, offset_bytes: int, size_bytes: int) -> bytes | None:
        with self._lock:
            held = self.held.get(name)
            return None if held is None else held.content[offset_bytes : offset_bytes + size_bytes]

    def note(self, name: str) -> bytes | None:
        with self._lock:
            held = self.held.get(name)
            return None if held is None else held.note

    def remove(self, name: str) -> bool:
        self.before_change(name)
        with self._lock:
            return self.held.pop(name, None) is not None

    def lock(self, name: str, cookie: str, duration_s: int) -> bool:
        self.before_change(name)
        with self._lock:
            held, now_s = self.held.setdefault(name, Held()), time.monotonic() + self.skip_s
            if held.owner != cookie and held.until_s > now_s:
                return False
            held.owner, held.until_s = cookie, now_s + duration_s
            return True

    def close(self) -> None:
        return None

    def _change(self, held: Held, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if b"\0" in key:
                raise Unavailable("A key has no NUL.")
            if value is None:
                held.values.pop(key, None)
            else:
                held.values[key] = value
        self._version += 1
        held.version = self._version
