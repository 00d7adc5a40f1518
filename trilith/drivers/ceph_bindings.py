"""Ceph's own bindings behind a pipe: the process of `ceph_process.CephProcess`.

It runs in the Python that Debian's Ceph packages have their bindings for, outside of the program's own, and keeps one
connection: Ceph's command lines make one for each question, and cost a third of a second of a processor each.

    python3 ceph_bindings.py --mon-host=HOSTS --id=USER --keyfile=FILE

    a line in    {"number": 7, "do": "create", "args": {"pool": ..., ...}}
    a line out   {"number": 7, "answer": ...} or {"number": 7, "errno": 2, "said": "..."}

Acts run beside each other, and answers come as they are ready. It ends when its input does: whoever asked is gone.
"""

import argparse
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import rados  # type: ignore[import-not-found]
import rbd  # type: ignore[import-not-found]

Doc = dict[str, Any]

CONNECT_S = 10
OPERATION_S = 30  # that one message to an OSD may take: longer than any failover
WORKERS = 16
COMMANDS = 64  # at once, so that the monitors decide them together: they decide once a second
FEATURES = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
)
SHUT_OUT = 108  # ESHUTDOWN: this client was blocklisted, and only a new one is heard


class Failed(Exception):
    """`errno` as Ceph gave it."""

    def __init__(self, errno: int, said: str) -> None:
        super().__init__(said)
        self.errno = errno


class Acts:
    """Each method without an underscore is an act; see `ceph.Ceph` for what they mean."""

    def __init__(self, monitors: str, user: str, key_file: str) -> None:
        bounds = {"client_mount_timeout": CONNECT_S, "rados_mon_op_timeout": CONNECT_S}
        bounds |= {"rados_osd_op_timeout": OPERATION_S, "rbd_default_clone_format": 2}
        settings = {"mon_host": monitors, "keyfile": key_file, "log_to_stderr": "false", "debug_ms": "0"}
        self._user, self._settings = user, settings | {name: str(value) for name, value in bounds.items()}
        self._cluster: Any = None
        self._lock = threading.Lock()
        self._rbd = rbd.RBD()

    def _connected(self) -> Any:
        with self._lock:
            if self._cluster is None:
                cluster = rados.Rados(rados_id=self._user, conf=self._settings)
                cluster.connect()
                self._cluster = cluster
            return self._cluster

    def _pool(self, pool: str) -> Any:
        return self._connected().open_ioctx(pool)

    def images(self, pool: str) -> Doc:
        with self._pool(pool) as place:
            names = [entry["name"] for entry in self._rbd.list2(place)]
            found = {name: self._image(place, name) for name in names}
        return {name: image for name, image in found.items() if image is not None}

    def image(self, pool: str, name: str) -> Doc | None:
        with self._pool(pool) as place:
            return self._image(place, name)

    def _image(self, place: Any, name: str) -> Doc | None:
        try:
            with rbd.Image(place, name, read_only=True) as image:
                snapshots = [each["name"] for each in image.list_snaps() if _is_users(each)]
                return {"size_bytes": image.size(), "snapshots": snapshots, "parent": _parent(image)}
        except rbd.ImageNotFound:
            return None

    def create(self, pool: str, name: str, size_bytes: int) -> None:
        with self._pool(pool) as place:
            self._rbd.create(place, name, size_bytes, old_format=False, features=FEATURES)

    def clone(self, source: list[str], pool: str, name: str) -> None:
        with self._pool(source[0]) as origin, self._pool(pool) as place:
            self._rbd.clone(origin, source[1], source[2], place, name, features=FEATURES)

    def resize(self, pool: str, name: str, size_bytes: int) -> None:
        with self._pool(pool) as place, rbd.Image(place, name) as image:
            image.resize(size_bytes, allow_shrink=False)

    def rename(self, pool: str, name: str, new_name: str) -> None:
        with self._pool(pool) as place:
            self._rbd.rename(place, name, new_name)

    def remove(self, pool: str, name: str) -> None:
        with self._pool(pool) as place:
            self._rbd.remove(place, name)

    def to_trash(self, pool: str, name: str, delay_s: int) -> None:
        with self._pool(pool) as place:
            self._rbd.trash_move(place, name, delay_s)

    def empty_trash(self, pool: str) -> None:
        with self._pool(pool) as place:
            self._rbd.trash_purge(place)

    def snapshot(self, pool: str, name: str, snapshot: str) -> None:
        with self._pool(pool) as place, rbd.Image(place, name) as image:
            image.create_snap(snapshot)

    def drop_snapshot(self, pool: str, name: str, snapshot: str) -> None:
        with self._pool(pool) as place, rbd.Image(place, name) as image:
            image.remove_snap(snapshot)

    def watchers(self, images: list[list[str]]) -> list[list[str]]:
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(lambda image: self._watchers(*image), images))

    def _watchers(self, pool: str, name: str) -> list[str]:
        with self._pool(pool) as place:
            try:
                with rbd.Image(place, name, read_only=True) as image:
                    return [watcher["addr"] for watcher in image.watchers_list()]
            except rbd.ImageNotFound:
                return []

    def commands(self, commands: list[Doc]) -> list[str]:
        """What the monitors say to each."""
        with ThreadPoolExecutor(COMMANDS) as pool:
            return list(pool.map(self._command, commands))

    def _command(self, command: Doc) -> str:
        code, out, said = self._connected().mon_command(json.dumps(command), b"")
        if code:
            raise Failed(abs(code), str(said))
        return str(out.decode())


def _is_users(snapshot: Doc) -> bool:
    """Others are of snapshots that were removed and still have clones."""
    return bool(snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER)


def _parent(image: Any) -> str | None:
    try:
        found = image.get_parent_image_spec()
    except rbd.ImageNotFound:
        return None
    return f"{found['pool_name']}/{found['image_name']}"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--mon-host", "--id", "--keyfile"):
        parser.add_argument(name, required=True)
    words = parser.parse_args()
    acts, writing = Acts(words.mon_host, words.id, words.keyfile), threading.Lock()

    def say(document: Doc) -> None:
        with writing:
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()

    def work(number: int, act: Callable[..., Any], args: Doc) -> None:
        try:
            say({"number": number, "answer": act(**args)})
        except (rados.Error, rbd.Error, Failed, OSError) as error:
            errno = abs(getattr(error, "errno", 0) or 0)
            say({"number": number, "errno": errno, "said": str(error) or type(error).__name__})
            if errno == SHUT_OUT:
                os._exit(1)

    def end(done: Future[None]) -> None:
        """Whoever waits hears of what nobody expected, too."""
        if (error := done.exception()) is not None:
            traceback.print_exception(error)
            os._exit(1)

    pool = ThreadPoolExecutor(WORKERS)
    for line in sys.stdin:
        request: Doc = json.loads(line)
        done = pool.submit(work, request["number"], getattr(acts, request["do"]), request["args"])
        done.add_done_callback(end)
    os._exit(0)  # an act may wait for a cluster that does not answer


if __name__ == "__main__":
    main()
