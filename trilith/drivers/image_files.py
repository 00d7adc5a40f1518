"""The image service's store: one file per image on this controller's disk.

Bytes stream in; hashes and format inspection run on the stream: nothing is whole in memory, nothing is read twice.
A file gets its public name only after it was inspected, hashed and synced. An upload has three endings: published,
discarded, or (its process was killed) a part that nobody holds locked, which a later upload sweeps away.

    incoming/<image id>.<random>   being received, locked by its writer
    staging/<image id>             staged for a later import, not inspected yet
    data/<image id>                published
"""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from oslo_utils.imageutils import format_inspector

from trilith.drivers.durable import check_name, make_directory, publish
from trilith.kernel.errors import Kind, Refused, Unavailable

CHUNK_BYTES = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Content that may stand under the declared format "raw": plain bytes, a partitioned disk, an optical disc
# written as a disk, and an encrypted volume. Any other known header under "raw" is a mistake or an attack.
RAW_CONTENT = frozenset({"raw", "gpt", "iso", "luks"})


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
    inode: int
    os_hash_algo: str = "sha512"


class ImageFiles:
    """The store under `directory`. Safe for many threads and processes at once.

    `unrecognized_ok` accepts content of no known format under any declared one (upstream's
    ``require_image_format_match = false``, but content of *another* known format is refused even then).
    """

    def __init__(self, directory: Path, unrecognized_ok: bool = False) -> None:
        self.directory = directory
        self.unrecognized_ok = unrecognized_ok
        self._data = make_directory(directory / "data", 0o700)
        self._incoming = make_directory(directory / "incoming", 0o700)
        self._staging = make_directory(directory / "staging", 0o700)

    def write(
        self,
        image_id: str,
        chunks: Iterable[bytes],
        disk_format: str,
        max_bytes: int,
        expected_size_bytes: int | None = None,
        container_format: str = "bare",
    ) -> Stored:
        """`receive` and `publish` in one, for a caller to whom nobody can be a rival."""
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
        """Take the stream in and judge it, without giving it its public name yet.

        Raises `WrongFormat`, `WrongSize`, `TooLarge`, `StorageFull`; what the iterator raises passes through.
        In all these cases nothing is left over. Content is inspected in container format "bare" only, as upstream.
        """
        stream: Any = iter(chunks)
        inspector = format_inspector.InspectWrapper(stream) if container_format == "bare" else None
        md5 = hashlib.md5(usedforsecurity=False)
        sha512 = hashlib.sha512()
        part, file = self._new_part(image_id)
        kept = False
        try:
            with file:
                size_bytes = _pour(inspector or stream, file, (md5, sha512), max_bytes, expected_size_bytes)
                detected, virtual_size_bytes = self._judge(inspector, disk_format, size_bytes)
                _sync(file)
                inode = os.fstat(file.fileno()).st_ino
            kept = True
        finally:
            if not kept:
                part.unlink(missing_ok=True)
        return Stored(
            image_id, size_bytes, md5.hexdigest(), sha512.hexdigest(), detected, virtual_size_bytes, part, inode
        )

    def publish(self, stored: Stored) -> None:
        """Give a received image its name. Call it inside the transaction that makes the row active, so that of
        two rival uploads the one whose row was written is the one whose bytes stay. Doing it again does no harm.
        `Unavailable` if it lay so long that it was swept away."""
        final = self._data / stored.image_id
        try:
            publish(stored.part, final)
        except FileNotFoundError as error:
            if not final.exists() or final.stat().st_ino != stored.inode:
                raise Unavailable(f"The upload of image {stored.image_id} lay too long; repeat it.") from error

    def discard(self, stored: Stored) -> None:
        """Drop a received image that is not to be published."""
        stored.part.unlink(missing_ok=True)

    def stage(
        self, image_id: str, chunks: Iterable[bytes], max_bytes: int, expected_size_bytes: int | None = None
    ) -> int:
        """Keep bytes for a later import; returns their number. Raises as `receive`, but for the format."""
        part, file = self._new_part(image_id)
        kept = False
        try:
            with file:
                size_bytes = _pour(chunks, file, (), max_bytes, expected_size_bytes)
                _sync(file)
            publish(part, self._staging / image_id)
            kept = True
        finally:
            if not kept:
                part.unlink(missing_ok=True)
        return size_bytes

    def staged(self, image_id: str) -> Iterator[bytes]:
        """The staged bytes, in chunks. `Unavailable` if nothing is staged here."""
        path = self._staging / check_name(image_id)
        try:
            with open(path, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise Unavailable(f"No data of image {image_id} is staged on this controller.") from error

    def has_staged(self, image_id: str) -> bool:
        return (self._staging / check_name(image_id)).exists()

    def unstage(self, image_id: str) -> None:
        """Drop the staged bytes; nothing happens if there are none."""
        (self._staging / check_name(image_id)).unlink(missing_ok=True)

    def open(self, image_id: str) -> BinaryIO:
        """The published bytes as a file to read. `Unavailable` if this controller does not have them."""
        try:
            return open(self._data / check_name(image_id), "rb")
        except FileNotFoundError as error:
            raise Unavailable(f"The data of image {image_id} is not on this controller.") from error

    def size_bytes(self, image_id: str) -> int | None:
        """The size of the published file; None if there is none."""
        try:
            return (self._data / check_name(image_id)).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, image_id: str) -> None:
        """Remove the image's published and staged bytes. Readers that have it open read on to the end."""
        (self._data / check_name(image_id)).unlink(missing_ok=True)
        self.unstage(image_id)

    def known(self) -> set[str]:
        """Ids of all images with published or staged bytes."""
        return {path.name for directory in (self._data, self._staging) for path in directory.iterdir()}

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

    def _judge(
        self, inspector: format_inspector.InspectWrapper | None, declared: str, size_bytes: int
    ) -> tuple[str, int | None]:
        """(detected format, virtual size) of a stream that has ended; `WrongFormat` if it must not be used."""
        if inspector is None:
            return "unknown", None
        found = {str(match): match for match in inspector.formats or []}
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


def _pour(
    chunks: Iterable[bytes], file: IO[bytes], digests: tuple["hashlib._Hash", ...], max_bytes: int, expected: int | None
) -> int:
    """Write all `chunks`, feeding the digests; returns the number of bytes."""
    size_bytes = 0
    if expected is not None and expected > max_bytes:
        raise TooLarge(f"The image has {expected} bytes; the limit is {max_bytes}.")
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise TooLarge(f"The image has more than {max_bytes} bytes, which is the limit.")
        for digest in digests:
            digest.update(chunk)
        _write(file, chunk)
    if expected is not None and size_bytes != expected:
        raise WrongSize(f"{expected} bytes were announced and {size_bytes} came; upload again.")
    return size_bytes


def _write(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise _full(error) from error


def _sync(file: IO[bytes]) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise _full(error) from error


def _full(error: OSError) -> Unavailable:
    if error.errno in NO_ROOM:
        return StorageFull("The image store is full; delete images or enlarge its disk.")
    return Unavailable(f"The image store cannot be written: {error.strerror}.")
