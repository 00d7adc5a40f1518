"""The image service's store: the bytes of images as files on this controller's disk.

Bytes stream in; hashes and format inspection run on the stream: nothing is whole in memory, nothing is read twice.
A file gets its place only after it was hashed, synced and, where it becomes an image's data, inspected. Its name there
is what its content is: the row that says which SHA-512 an image has says which file is meant, and all others are
left over, wherever they come from: an upload that lost, a copy that broke off, a process that was killed.

    incoming/<image id>.<random>          being received, locked by its writer
    data/<image id>/<its SHA-512 in hex>   may be an image's data
    staging/<image id>/<its SHA-512>       staged for a later import, not inspected yet
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

from cryptography.hazmat.primitives import hashes
from oslo_utils.imageutils import format_inspector

from trilith.drivers.durable import check_name, make_directory, publish
from trilith.kernel.errors import Kind, Refused, Unavailable

CHUNK_BYTES = 1 << 18  # larger ones leave the processor's cache, and ext4 takes four times as long to write them
ROOM_BYTES = 64 << 20  # that a file being received takes ahead, at most
PLACES = ("data", "staging")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Content that may stand under the declared format "raw": plain bytes, a partitioned disk, an optical disc
# written as a disk, and an encrypted volume. Any other known header under "raw" is a mistake or an attack.
RAW_CONTENT = frozenset({"raw", "gpt", "iso", "luks"})


class Digest(Protocol):
    def update(self, data: Any, /) -> None: ...


class WrongFormat(Refused):
    """The content is not of the declared disk format, or is one that is never safe to open. 415 to the uploader."""

    kind: Kind = "bad_media"


class WrongSize(Refused):
    """Fewer or more bytes came than were announced."""


class TooLarge(Refused):
    """More bytes than the limit allows. 413 to the uploader."""

    kind: Kind = "too_large"


class StorageFull(Unavailable):
    """The disk of the image store is full. 413 to the uploader, as upstream."""

    kind: Kind = "too_large"


@dataclass(frozen=True)
class Stored:
    """What was received. `virtual_size_bytes` is the size of the disk inside, None if the content cannot tell."""

    image_id: str
    size_bytes: int
    checksum_md5: str
    os_hash_value: str
    detected_format: str
    virtual_size_bytes: int | None
    part: Path
    os_hash_algo: str = "sha512"


class ImageFiles:
    """The store under `directory`. Safe for many threads and processes at once.

    `unrecognized_ok` accepts content of no known format under any declared one (upstream's
    ``require_image_format_match = false``, but content of *another* known format is refused even then).
    """

    def __init__(self, directory: Path, unrecognized_ok: bool = False) -> None:
        self.directory = directory
        self.unrecognized_ok = unrecognized_ok
        self._incoming = make_directory(directory / "incoming", 0o700)
        self._places = {place: make_directory(directory / place, 0o700) for place in PLACES}

    def write(
        self,
        image_id: str,
        chunks: Iterable[bytes],
        disk_format: str,
        max_bytes: int,
        expected_size_bytes: int | None = None,
        container_format: str = "bare",
    ) -> Stored:
        """`receive` and `publish` in one."""
        stored = self.receive(image_id, chunks, disk_format, max_bytes, expected_size_bytes, container_format)
        self.publish(stored)
        return stored

    def receive(
        self,
        image_id: str,
        chunks: Iterable[bytes],
        disk_format: str,
        max_bytes: int,
        expected_size_bytes: int | None = None,
        container_format: str = "bare",
    ) -> Stored:
        """Take the stream in and judge it, without giving it its place yet.

        Raises `WrongFormat`, `WrongSize`, `TooLarge`, `StorageFull`; what the iterator raises passes through.
        In all these cases nothing is left over. Content is inspected in container format "bare" only, as upstream.
        """
        inspection = _Inspection() if container_format == "bare" else None
        return self._take(
            image_id,
            inspection.passing(chunks) if inspection else chunks,
            max_bytes,
            expected_size_bytes,
            lambda size_bytes: self._judge(inspection, disk_format, size_bytes),
        )

    def keep(
        self, image_id: str, chunks: Iterable[bytes], max_bytes: int, expected_size_bytes: int | None = None
    ) -> Stored:
        """Take bytes in as they are: for a later import, or another controller's copy. Raises as `receive`, but for
        the format."""
        return self._take(image_id, chunks, max_bytes, expected_size_bytes, lambda size_bytes: ("unknown", None))

    def stage(
        self, image_id: str, chunks: Iterable[bytes], max_bytes: int, expected_size_bytes: int | None = None
    ) -> Stored:
        """`keep` and `publish` in one, for a later import."""
        stored = self.keep(image_id, chunks, max_bytes, expected_size_bytes)
        self.publish(stored, "staging")
        return stored

    def _take(
        self,
        image_id: str,
        chunks: Iterable[bytes],
        max_bytes: int,
        expected_size_bytes: int | None,
        judge: Callable[[int], tuple[str, int | None]],
    ) -> Stored:
        md5, sha512 = hashes.Hash(hashes.MD5()), hashlib.sha512()  # a twentieth faster than hashlib's
        part, file = self._new_part(image_id)
        kept = False
        try:
            with file:
                growing = _Growing(file, expected_size_bytes)
                size_bytes = _pour(chunks, growing, (md5, sha512), max_bytes, expected_size_bytes)
                detected, virtual_size_bytes = judge(size_bytes)
                growing.finish()
            kept = True
        finally:
            if not kept:
                part.unlink(missing_ok=True)
        checksum = md5.finalize().hex()
        return Stored(image_id, size_bytes, checksum, sha512.hexdigest(), detected, virtual_size_bytes, part)

    def publish(self, stored: Stored, place: str = "data") -> None:
        """Put a received file in its place; durable on return. Do it before the row says which content is meant.
        Doing it again does no harm. `Unavailable` if it lay so long that it was swept away."""
        final = self._path(stored.image_id, stored.os_hash_value, place)
        while stored.part.exists():
            make_directory(final.parent, 0o700)
            with contextlib.suppress(FileNotFoundError):  # somebody just tidied the directory away
                publish(stored.part, final)
        if not final.exists():
            raise Unavailable(f"The upload of image {stored.image_id} lay too long; repeat it.")

    def discard(self, stored: Stored) -> None:
        """Drop a received file that has not got its place. One that has it is left over, and found as such."""
        stored.part.unlink(missing_ok=True)

    def open(self, image_id: str, sha512: str, place: str = "data") -> BinaryIO:
        """The file with this content, to read. `Unavailable` if this controller does not have it."""
        try:
            return open(self._path(image_id, sha512, place), "rb")
        except FileNotFoundError as error:
            raise Unavailable(f"The bytes of image {image_id} are not on this controller.") from error

    def size_bytes(self, image_id: str, sha512: str, place: str = "data") -> int | None:
        """None if there is no such file."""
        try:
            return self._path(image_id, sha512, place).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, image_id: str, place: str = "data") -> set[str]:
        """Of all files of an image in one place: the SHA-512 of each."""
        try:
            return {path.name for path in (self._places[place] / check_name(image_id)).iterdir()}
        except FileNotFoundError:
            return set()

    def remove(self, image_id: str, names: Iterable[str], place: str = "data") -> None:
        """Remove files of an image, and its directory when it is empty then. Who has them open reads on to the end."""
        directory = self._places[place] / check_name(image_id)
        for name in names:
            (directory / check_name(name)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            directory.rmdir()

    def has_any(self, image_id: str) -> bool:
        """Whether the image has a directory here, if only an empty one."""
        return any((directory / check_name(image_id)).is_dir() for directory in self._places.values())

    def known(self) -> set[str]:
        """Ids of all images of which `has_any` is true."""
        return {path.name for directory in self._places.values() for path in directory.iterdir() if path.is_dir()}

    def adopt(self, image_id: str, sha512: str) -> None:
        """Take over ``data/<image id>``, where earlier versions of this store had a file."""
        old, aside = self._places["data"] / check_name(image_id), self._places["data"] / f"{image_id}.old"
        if old.is_file():
            old.rename(aside)
        if aside.is_file():
            make_directory(old, 0o700)
            publish(aside, old / sha512)

    def _path(self, image_id: str, sha512: str, place: str) -> Path:
        return self._places[place] / check_name(image_id) / check_name(sha512)

    def sweep(self, min_idle_s: float = 3600.0) -> int:
        """Remove parts that no process holds and nobody wrote to for `min_idle_s`; returns how many."""
        removed = 0
        for path in self._incoming.iterdir():
            try:
                if time.time() - path.stat().st_mtime < min_idle_s:
                    continue
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    removed += 1
            except (FileNotFoundError, BlockingIOError):
                continue  # published meanwhile, or its writer lives
        return removed

    def _new_part(self, image_id: str) -> tuple[Path, IO[bytes]]:
        self.sweep()
        try:
            fd, name = tempfile.mkstemp(prefix=f"{check_name(image_id)}.", dir=self._incoming)
        except OSError as error:
            raise _full(error) from error
        fcntl.flock(fd, fcntl.LOCK_EX)
        return Path(name), os.fdopen(fd, "wb", buffering=0)

    def _judge(self, inspection: "_Inspection | None", declared: str, size_bytes: int) -> tuple[str, int | None]:
        """(detected format, virtual size) of a stream that has ended; `WrongFormat` if it must not be used."""
        if inspection is None:
            return "unknown", None
        found = {str(match): match for match in inspection.finish()}
        # a disc that also boots as a disk has both headers, and is meant to
        name = "iso" if found.keys() == {"iso", "gpt"} else "".join(found) if len(found) == 1 else ""
        if not name:
            raise WrongFormat(f"The content looks like several formats at once: {', '.join(sorted(found))}.")
        if declared == "raw" and name in RAW_CONTENT:
            return name, size_bytes  # served as plain bytes, whatever its partition table says
        _check_safety(found[name], name)
        if declared == name:
            return name, int(found[name].virtual_size)
        if name == "raw" and (self.unrecognized_ok or declared not in format_inspector.ALL_FORMATS):
            return name, None  # ami, aki, ari, ploop: have no header to be known by
        if name == "raw":
            raise WrongFormat(f"The disk_format is {declared}, but the content is of no known format.")
        raise WrongFormat(f"The disk_format is {declared}, but the content is {name}. Set the disk_format to {name}.")


def _check_safety(inspector: format_inspector.FileInspector, name: str) -> None:
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = ", ".join(sorted(error.failures))
        raise WrongFormat(f"The {name} content is not safe to use: {reasons}.") from error
    except format_inspector.ImageFormatError as error:
        raise WrongFormat(f"The {name} content is damaged or cut off.") from error


class _Inspection:
    """What a stream of bytes is. It is looked at until nothing that follows can change the answer."""

    def __init__(self) -> None:
        self._wrapper: Any = format_inspector.InspectWrapper(self)  # type: ignore[arg-type]
        self._chunk, self._known = b"", False

    def read(self, size: int) -> bytes:
        """For the wrapper, which reads what it is to look at."""
        return self._chunk

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if not self._known:
                self._chunk = chunk
                self._wrapper.read(len(chunk))
                self._known = self._wrapper.formats is not None
            yield chunk

    def finish(self) -> list[format_inspector.FileInspector]:
        """All formats that it can be taken for."""
        if not self._known:
            self._wrapper.close()
        return list(self._wrapper.formats or [])


class _Growing:
    """A file that is written from its start. It takes its room in large steps, because a write that has to find some
    costs twice as much."""

    def __init__(self, file: IO[bytes], expected: int | None) -> None:
        self._file, self._expected = file, expected
        self._size = self._room = 0

    def write(self, chunk: bytes | memoryview) -> None:
        if self._size + len(chunk) > self._room:
            self._take_room(len(chunk))
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _full(error) from error
        self._size += len(chunk)

    def _take_room(self, least: int) -> None:
        step = max(least, min(self._size, ROOM_BYTES))
        if self._expected is not None:
            step = max(least, min(ROOM_BYTES, self._expected - self._size))
        try:
            os.posix_fallocate(self._file.fileno(), self._size, step)
            self._room = self._size + step
        except OSError:  # no room for all of it, or none is taken ahead here: the writes will tell
            self._room = sys.maxsize

    def finish(self) -> None:
        """Gives back the room that was not needed, and makes the rest durable."""
        try:
            self._file.truncate(self._size)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _full(error) from error


def _pour(
    chunks: Iterable[bytes], file: _Growing, digests: Iterable[Digest], max_bytes: int, expected: int | None
) -> int:
    """Write all `chunks`, feeding the digests; returns the number of bytes."""
    size_bytes = 0
    if expected is not None and expected > max_bytes:
        raise TooLarge(f"The image has {expected} bytes; the limit is {max_bytes}.")
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise TooLarge(f"The image has more than {max_bytes} bytes, which is the limit.")
        for start in range(0, len(chunk), CHUNK_BYTES):
            piece = memoryview(chunk)[start : start + CHUNK_BYTES]
            for digest in digests:
                digest.update(piece)
            file.write(piece)
    if expected is not None and size_bytes != expected:
        raise WrongSize(f"{expected} bytes were announced and {size_bytes} came; upload again.")
    return size_bytes


def _full(error: OSError) -> Unavailable:
    if error.errno in NO_ROOM:
        return StorageFull("The image store is full; delete images or enlarge its disk.")
    return Unavailable(f"The image store cannot be written: {error.strerror}.")
