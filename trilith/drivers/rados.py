"""One pool of Ceph's RADOS, by librados itself: its C interface is the same for every Python, and calls leave the other
threads running.

RADOS has objects with bytes, a few attributes, and keys in the order of their bytes. What changes one object in one
call is atomic. Each object has a version that every change raises; a change may be bound to the one that was read.

Calls are bounded by `OPERATION_S`. They raise `Unavailable`; then a change may have been made or may still be. Connects
when first asked, and must not be used on both sides of a fork.
"""

import ctypes
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint64, c_void_p
from typing import Any

from trilith.drivers.ceph import Access
from trilith.kernel.errors import Kind, Unavailable

LIBRARY = "librados.so.2"
CONNECT_S = 10
OPERATION_S = 30  # longer than any failover
MAY_RENEW = 1
EXCLUSIVE = 1
NOT_AS_READ = (errno.ERANGE, errno.EOVERFLOW)  # its version is another one
REFUSED_WHEN_FULL, EVEN_WHEN_FULL = 64, 128  # else a call waits for room, also one that would make some
FULL = (errno.ENOSPC, errno.EDQUOT)
NOTE = b"note"
MAX_NOTE_BYTES = 64 << 10
Values = dict[bytes, bytes]


class PoolFull(Unavailable):
    """Ceph has no room."""

    kind: Kind = "too_large"


class _Time(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long)]


class Rados:
    """A namespace of the pool `pool`, as the user of `access`. Names of objects are ASCII; keys and values are bytes;
    keys have no NUL. Of any thread."""

    def __init__(self, access: Access, pool: str, namespace: str = "") -> None:
        self._access, self._pool, self._namespace = access, pool, namespace
        self._lock = threading.Lock()
        self._cluster: c_void_p | None = None
        self._ways: deque[c_void_p] = deque()
        self._c: Any = None

    # keys

    def values(self, name: str, keys: Sequence[bytes]) -> tuple[Values, int] | None:
        """Those of `keys` that it has, and its version; None if there is no such object."""

        def ask(c: Any, op: c_void_p, found: Any, code: Any) -> None:
            lengths = c_size_t(len(keys)), _lengths(keys)
            c.rados_read_op_omap_get_vals_by_keys2(op, _texts(keys), *lengths, found, code)

        read = self._read(name, "read", ask)
        return None if read is None else (dict(read[0]), read[1])

    def range(
        self, name: str, after: bytes, prefix: bytes, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bool] | None:
        """At most `limit` keys with a prefix that come after a key, in their order, and whether there are more. Fewer
        than `limit` do not mean that there are not. None if there is no such object."""
        more = c_ubyte()

        def ask(c: Any, op: c_void_p, found: Any, code: Any) -> None:
            c.rados_read_op_omap_get_vals2(op, after, prefix, c_uint64(limit), found, byref(more), code)

        read = self._read(name, "list", ask)
        return None if read is None else (read[0], bool(more.value))

    def _read(
        self, name: str, what: str, ask: Callable[[Any, c_void_p, Any, Any], None]
    ) -> tuple[list[tuple[bytes, bytes]], int] | None:
        """Keys with their values, and the object's version; None if there is no such object."""
        with self._way() as (c, way):
            op, found, code = c_void_p(c.rados_create_read_op()), c_void_p(), c_int()
            try:
                ask(c, op, byref(found), byref(code))
                result = c.rados_read_op_operate(op, way, name.encode(), 0)
                values = self._taken(found)
            finally:
                c.rados_release_read_op(op)
            version = int(c.rados_get_last_version(way))
        if result == -errno.ENOENT:
            return None
        self._check(result or code.value, f"{what} {name}")
        return values, version

    def _taken(self, found: c_void_p) -> list[tuple[bytes, bytes]]:
        if not found.value:
            return []
        key, value, key_bytes, value_bytes = c_void_p(), c_void_p(), c_size_t(), c_size_t()
        taken = []
        while True:
            self._c.rados_omap_get_next2(found, byref(key), byref(value), byref(key_bytes), byref(value_bytes))
            if not key.value:
                break
            content = ctypes.string_at(value.value, value_bytes.value) if value.value else b""
            taken.append((ctypes.string_at(key.value, key_bytes.value), content))
        self._c.rados_omap_get_end(found)
        return taken

    def change(self, name: str, changes: Mapping[bytes, bytes | None], version: int | None = None) -> bool:
        """Set keys, remove those whose value is None, all in one step. False if there is no such object, or if its
        version is not `version` any more."""

        def fill(c: Any, op: c_void_p) -> None:
            c.rados_write_op_assert_exists(op)
            if version is not None:
                c.rados_write_op_assert_version(op, c_uint64(version))
            _add_changes(c, op, changes)

        return self._write(name, fill, (errno.ENOENT, *NOT_AS_READ))

    def create(self, name: str, values: Mapping[bytes, bytes]) -> bool:
        """A new object with these keys; False if there is one already."""

        def fill(c: Any, op: c_void_p) -> None:
            c.rados_write_op_create(op, EXCLUSIVE, None)
            _add_changes(c, op, values)

        return self._write(name, fill, (errno.EEXIST,))

    # bytes

    def put(self, name: str, content: bytes, note: bytes = b"") -> None:
        """Replace its bytes; give it a note, unless that is empty."""

        def fill(c: Any, op: c_void_p) -> None:
            c.rados_write_op_write_full(op, content, c_size_t(len(content)))
            if note:
                c.rados_write_op_setxattr(op, NOTE, note, c_size_t(len(note)))

        self._write(name, fill, (), REFUSED_WHEN_FULL)

    def get(self, name: str, offset_bytes: int, size_bytes: int) -> bytes | None:
        """So many bytes, fewer at the end; None if there is no such object."""
        buffer = ctypes.create_string_buffer(size_bytes)
        with self._way() as (c, way):
            result = c.rados_read(way, name.encode(), buffer, c_size_t(size_bytes), c_uint64(offset_bytes))
        if result == -errno.ENOENT:
            return None
        self._check(result, f"read {name}")
        return ctypes.string_at(buffer, result)

    def note(self, name: str) -> bytes | None:
        """None if there is no such object; empty if it has none."""
        buffer = ctypes.create_string_buffer(MAX_NOTE_BYTES)
        with self._way() as (c, way):
            result = c.rados_getxattr(way, name.encode(), NOTE, buffer, c_size_t(MAX_NOTE_BYTES))
        if result in (-errno.ENOENT, -errno.ENODATA):
            return None if result == -errno.ENOENT else b""
        self._check(result, f"read {name}")
        return ctypes.string_at(buffer, result)

    def remove(self, name: str) -> bool:
        """False if there was none."""
        return self._write(name, lambda c, op: c.rados_write_op_remove(op), (errno.ENOENT,))

    # locks

    def lock(self, name: str, cookie: str, duration_s: int) -> bool:
        """Take or renew the lock of an object, which need not be there, for so long by the OSDs' clocks; False while
        another cookie has it. Who takes a lock whose time is over takes it from whoever had it."""
        until = _Time(duration_s, 0)
        words = (name.encode(), b"owner", cookie.encode(), b"", byref(until), c_ubyte(MAY_RENEW))
        with self._way() as (c, way):
            result = c.rados_lock_exclusive(way, *words)
        if result in (-errno.EBUSY, -errno.EEXIST):
            return False
        self._check(result, f"lock {name}")
        return True

    def close(self) -> None:
        """When nobody uses it any more."""
        with self._lock:
            if self._cluster is not None:
                while self._ways:
                    self._c.rados_ioctx_destroy(self._ways.pop())
                self._c.rados_shutdown(self._cluster)
            self._cluster = None

    def _write(
        self, name: str, fill: Callable[[Any, c_void_p], Any], refused: Sequence[int], flags: int = EVEN_WHEN_FULL
    ) -> bool:
        with self._way() as (c, way):
            op = c_void_p(c.rados_create_write_op())
            try:
                fill(c, op)
                result = c.rados_write_op_operate2(op, way, name.encode(), None, flags)
            finally:
                c.rados_release_write_op(op)
        if -result in refused:
            return False
        self._check(result, f"write {name}")
        return True

    @contextmanager
    def _way(self) -> Iterator[tuple[Any, c_void_p]]:
        """The library, and a way to the pool that nobody else uses now: it remembers the version that was read last."""
        try:
            way = self._ways.pop() if self._ways else self._new_way()
        except IndexError:  # somebody was faster
            way = self._new_way()
        try:
            yield self._c, way
        finally:
            self._ways.append(way)

    def _new_way(self) -> c_void_p:
        with self._lock:
            self._connect()
            way = c_void_p()
            code = self._c.rados_ioctx_create(self._cluster, self._pool.encode(), byref(way))
            self._check(code, f"open the pool {self._pool}")
            self._c.rados_ioctx_set_namespace(way, self._namespace.encode())
            return way

    def _connect(self) -> None:
        if self._cluster is not None:
            return
        if self._c is None:
            self._c = _library()
        cluster, access = c_void_p(), self._access
        settings = {
            "mon_host": ",".join(access.monitors),
            "keyfile": str(access.key_file),
            "log_to_stderr": "false",
            "client_mount_timeout": str(CONNECT_S),
            "rados_mon_op_timeout": str(CONNECT_S),
            "rados_osd_op_timeout": str(OPERATION_S),
        }
        user = f"client.{access.user}".encode()
        self._check(self._c.rados_create2(byref(cluster), b"ceph", user, c_uint64(0)), "begin")
        for setting, value in settings.items():
            self._check(self._c.rados_conf_set(cluster, setting.encode(), value.encode()), f"set {setting}")
        try:
            self._check(self._c.rados_connect(cluster), "connect")
        except Unavailable:
            self._c.rados_shutdown(cluster)
            raise
        self._cluster = cluster

    def _check(self, code: int, what: str) -> None:
        if code < 0:
            said = f"Ceph cannot {what}: {os.strerror(-code)}."
            raise PoolFull("Ceph is full; delete objects or add disks.") if -code in FULL else Unavailable(said)


def _library() -> Any:
    try:
        c: Any = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Unavailable(f"{LIBRARY} cannot be loaded; install librados2.") from error
    for makes in ("rados_create_read_op", "rados_create_write_op"):
        getattr(c, makes).restype = c_void_p
    c.rados_get_last_version.restype = c_uint64
    for ends in (
        "rados_release_read_op",
        "rados_release_write_op",
        "rados_omap_get_end",
        "rados_shutdown",
        "rados_ioctx_set_namespace",
        "rados_ioctx_destroy",
    ):
        getattr(c, ends).restype = None
    return c


def _add_changes(c: Any, op: c_void_p, changes: Mapping[bytes, bytes | None]) -> None:
    put = {key: value for key, value in changes.items() if value is not None}
    gone = [key for key, value in changes.items() if value is None]
    if put:
        keys, values = list(put), list(put.values())
        lengths = (_lengths(keys), _lengths(values))
        c.rados_write_op_omap_set2(op, _texts(keys), _texts(values), *lengths, c_size_t(len(keys)))
    if gone:
        c.rados_write_op_omap_rm_keys2(op, _texts(gone), _lengths(gone), c_size_t(len(gone)))


def _texts(texts: Sequence[bytes]) -> Any:
    return (c_char_p * len(texts))(*texts)


def _lengths(texts: Sequence[bytes]) -> Any:
    return (c_size_t * len(texts))(*(len(text) for text in texts))
