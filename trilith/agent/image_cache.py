"""Images that this host has used: downloaded once, verified, kept while there is room.

    <directory>/<image id>          whole, verified, read-only
    <directory>/<image id>.part     being downloaded

A machine whose disk is an overlay over an image keeps a hard link of it: a file with more than one link is in use and
stays. Of the others the least recently used goes first.
"""

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from trilith.drivers.durable import check_name, make_directory, publish
from trilith.kernel.errors import Unavailable

GIB = 1 << 30

# (image id, file to write) -> the SHA-512 that the server announced, in hex, or None if it has none.
# Raises `Unavailable` while the image cannot be had, `Refused` if it never can.
Fetch = Callable[[str, Path], str | None]
# (image id, file to read): hands the bytes over as the image's data; doing it twice does no harm.
Send = Callable[[str, Path], None]


class ImageCache:
    """The cache under `directory`; one per host, safe for many threads.

    `limit_bytes` bounds what no machine uses; `keep_s` is how long a file that was just asked for is safe from
    eviction, so that the caller can link or copy it; `owner` is the (uid, gid) of the unprivileged QEMU, whose group
    may read the files. They stay ours: a machine that broke out must not change what others boot from.
    """

    def __init__(
        self,
        directory: Path,
        fetch: Fetch,
        send: Send,
        limit_bytes: int = 40 * GIB,
        keep_s: float = 600.0,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._directory = make_directory(directory)
        self._fetch = fetch
        self._send = send
        self._limit_bytes = limit_bytes
        self._keep_s = keep_s
        self._owner = None if owner is None else (os.geteuid(), owner[1])
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self.sweep()

    def path(self, image_id: str) -> Path:
        """The file with the image's bytes, downloaded if it is not here yet; others who ask meanwhile wait for it."""
        path = self._directory / check_name(image_id)
        with self._lock(image_id):
            if not self._touch(path):
                self._download(image_id, path)
                self.evict(self._limit_bytes)
            return path

    def upload(self, image_id: str, path: Path) -> None:
        """Hand the file over as the data of that image."""
        self._send(image_id, path)

    def evict(self, limit_bytes: int) -> None:
        """Remove the least recently used files that nobody uses until the rest is within `limit_bytes`."""
        with self._guard:
            self._evict(limit_bytes)

    def sweep(self) -> None:
        """Remove parts of downloads that nobody goes on with."""
        for part in self._directory.glob("*.part"):
            lock = self._lock(part.stem)
            if lock.acquire(blocking=False):
                try:
                    part.unlink(missing_ok=True)
                finally:
                    lock.release()

    def _download(self, image_id: str, path: Path) -> None:
        part = path.with_name(f"{image_id}.part")
        try:
            part.unlink(missing_ok=True)
            announced = self._fetch(image_id, part)
            if announced is not None and _sha512(part) != announced:
                raise Unavailable(f"Image {image_id} arrived damaged: its SHA-512 is not the announced one.")
            publish(part, path, self._owner, mode=0o440)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink(missing_ok=True)
                self.evict(0)
            raise Unavailable(f"Image {image_id} cannot be kept on this host: {error.strerror or error}.") from error
        finally:
            part.unlink(missing_ok=True)

    def _evict(self, limit_bytes: int) -> None:
        files = sorted(((path, path.stat()) for path in self._whole()), key=lambda each: each[1].st_mtime)
        idle = [(path, stat) for path, stat in files if stat.st_nlink == 1]
        total_bytes = sum(stat.st_blocks * 512 for _, stat in idle)
        for path, stat in idle:
            if total_bytes <= limit_bytes or time.time() - stat.st_mtime < self._keep_s:
                return
            path.unlink(missing_ok=True)
            total_bytes -= stat.st_blocks * 512

    def _touch(self, path: Path) -> bool:
        """Set the clock of "least recently used"; False if the file is not here."""
        with self._guard:
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            return True

    def _whole(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.suffix != ".part"]

    def _lock(self, image_id: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(image_id, threading.Lock())


def _sha512(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
