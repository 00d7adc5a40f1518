"""Volumes as qcow2 files on this host's disk, opened by QEMU itself.

    <volume id>/disk.qcow2                   the volume
    <volume id>/snapshots/<snapshot id>      a standalone qcow2: no chain binds a volume to its snapshots
    <volume id>/uploads/<image id>           an empty mark: this upload is done
    <volume id>/export.json nbd/             while machines of other hosts have it (see `nbd`)
    <volume id>/**.part                      being made; never taken for finished, replaced by the next try
    .set_aside/<volume id>.<unix time>       volumes that nobody wants and nobody asked to delete

A copy is a reflink where the file system can, else a sparse copy by qemu-img. While a machine has a volume open, its
QEMU alone may touch the file: copies and growth then go through the machines' driver (`LiveVolumes`), or through the
daemon that serves it to another host (`NbdExports`).
"""

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from trilith.drivers import qemu_img
from trilith.drivers.durable import check_name, make_directory, publish, sync_directory
from trilith.drivers.nbd import NbdExports
from trilith.drivers.qemu_img import GIB, InUse
from trilith.kernel.errors import Refused, Unavailable

FICLONE = 0x40049409  # ioctl: share the extents of another file
NO_REFLINK = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
SET_ASIDE_S = 7 * 24 * 3600
OURS = (os.geteuid(), os.getegid())  # no machine opens a snapshot, so its user gets no access to it


class LiveVolumes(Protocol):
    """What the machines' driver does for a volume that one of its machines has open."""

    def live_copy(self, volume_id: str, target: Path) -> bool:
        """Copy the volume, as of one moment, into the new standalone qcow2 `target`; False if no machine has it."""

    def live_resize(self, volume_id: str, size_gib: int) -> bool:
        """Grow the volume under its machine; False if no machine has it."""


class NoMachines:
    """`LiveVolumes` of a host on which no machine runs."""

    def live_copy(self, volume_id: str, target: Path) -> bool:
        return False

    def live_resize(self, volume_id: str, size_gib: int) -> bool:
        return False


class VolumeFiles:
    """The volumes under `directory`. All calls are idempotent; one caller per volume at a time.

    `owner` is the (uid, gid) of the unprivileged QEMU, to which the disks shall belong. Volumes are served to machines
    of other hosts on `address` inside the network namespace `netns`.
    Raises `Unavailable` (disk full, in use, source not there yet) or `Refused` (source larger than the volume).
    """

    def __init__(
        self,
        directory: Path,
        live: LiveVolumes | None = None,
        owner: tuple[int, int] | None = None,
        address: str = "127.0.0.1",
        netns: str | None = None,
    ) -> None:
        self.live: LiveVolumes = live or NoMachines()
        self._directory = make_directory(directory)
        self._owner = owner
        self._exports = NbdExports(directory, address, netns, owner)
        self.sweep()

    def path(self, volume_id: str) -> Path:
        """Where the volume's disk is, or will be."""
        return self._directory / check_name(volume_id) / "disk.qcow2"

    def known(self) -> set[str]:
        """Ids of all volumes of which anything is here."""
        return {path.name for path in self._directory.iterdir() if not path.name.startswith(".")}

    def seen(self, volume_id: str) -> dict[str, Any] | None:
        """The seen document; `path` is None and `size_gib` 0 while the disk is not made yet. No process is started."""
        disk = self.path(volume_id)
        if not disk.parent.is_dir():
            return None
        made = disk.exists()
        size_gib, error = 0, None
        try:
            size_gib = qemu_img.qcow2_size_bytes(disk) // GIB if made else 0
        except Refused as damage:
            error = str(damage)
        return {
            "size_gib": size_gib,
            "path": str(disk) if made else None,
            "format": "qcow2",
            "snapshots": _finished(disk.parent / "snapshots"),
            "uploads_done": _finished(disk.parent / "uploads"),
            "unfinished": sorted(path.name for path in disk.parent.rglob("*.part")),
            "export": self._exports.seen(volume_id),
            "error": error,
        }

    def create_blank(self, volume_id: str, size_gib: int) -> None:
        """Make an empty volume."""
        disk, part = self._begin(volume_id)
        if not disk.exists():
            part.unlink(missing_ok=True)
            qemu_img.create(part, "qcow2", size_gib * GIB)
            publish(part, disk, self._owner)

    def create_from_image(self, volume_id: str, size_gib: int, image: Path, image_format: str) -> None:
        """Make a volume with the content of the image file `image`."""
        disk, part = self._begin(volume_id)
        if not disk.exists():
            needed_bytes = qemu_img.require_standalone(image, image_format).virtual_size_bytes
            if needed_bytes > size_gib * GIB:
                needed_gib = -(-needed_bytes // GIB)
                raise Refused(f"The image needs a volume of {needed_gib} GiB; this one has {size_gib} GiB.")
            qemu_img.convert(image, image_format, part, "qcow2")
            self._finish(part, disk, size_gib)

    def create_from_volume(self, volume_id: str, size_gib: int, source_id: str) -> None:
        """Make a volume with the content that the volume `source_id` has at this moment."""
        disk, part = self._begin(volume_id)
        if not disk.exists():
            self._copy_volume(source_id, part)
            self._finish(part, disk, size_gib)

    def create_from_snapshot(self, volume_id: str, size_gib: int, source_id: str, snapshot_id: str) -> None:
        """Make a volume with the content of a snapshot of the volume `source_id`."""
        disk, part = self._begin(volume_id)
        if not disk.exists():
            _copy(self._snapshot(source_id, snapshot_id), part)
            self._finish(part, disk, size_gib)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Keep the volume's content of this moment as a snapshot."""
        final = self._snapshot(volume_id, snapshot_id)
        if not final.exists():
            part = final.with_name(f"{final.name}.part")
            make_directory(final.parent)
            self._copy_volume(volume_id, part)
            publish(part, final, OURS)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Remove a snapshot; volumes made of it do not need it."""
        self._snapshot(volume_id, snapshot_id).unlink(missing_ok=True)

    def extend(self, volume_id: str, size_gib: int) -> None:
        """Grow the volume, under its machine if one has it open."""
        if not self._exports.resize(volume_id, size_gib) and not self.live.live_resize(volume_id, size_gib):
            qemu_img.resize(self._existing(volume_id), "qcow2", size_gib * GIB)

    def export(self, volume_id: str, disk_format: str, image_id: str) -> Path:
        """An image file of `disk_format` with the volume's content; the caller uploads it, then `mark_uploaded`."""
        target = self._export(volume_id, image_id)
        copy = target.with_name(f"{target.name}.qcow2.part")
        copy.unlink(missing_ok=True)
        if self._live_copy(volume_id, copy):
            qemu_img.convert(copy, "qcow2", target, disk_format)
            copy.unlink()
        else:
            qemu_img.convert(self._existing(volume_id), "qcow2", target, disk_format)
        return target

    def serve(self, volume_id: str, keys: dict[str, str]) -> None:
        """Let machines of other hosts reach the volume; `keys`: attachment id to its key."""
        self._existing(volume_id)
        self._exports.serve(volume_id, keys)

    def end_export(self, volume_id: str) -> None:
        """No machine of another host has the volume any more."""
        self._exports.end(volume_id)

    def exported(self) -> set[str]:
        """Ids of the volumes that are served to other hosts."""
        return self._exports.known()

    def mark_uploaded(self, volume_id: str, image_id: str) -> None:
        """Note durably that the upload as `image_id` is done, and drop the exported file."""
        marks = make_directory(self._directory / check_name(volume_id) / "uploads", 0o700)
        (marks / check_name(image_id)).touch()
        sync_directory(marks)
        self._export(volume_id, image_id).unlink(missing_ok=True)

    def forget_upload(self, volume_id: str, image_id: str) -> None:
        """Drop the mark of an upload that nobody asks for any more."""
        (self._directory / check_name(volume_id) / "uploads" / check_name(image_id)).unlink(missing_ok=True)

    def clean(self, volume_id: str) -> None:
        """Remove what unfinished work left, once nothing of it is wanted any more."""
        for path in self.path(volume_id).parent.rglob("*.part"):
            path.unlink(missing_ok=True)

    def delete(self, volume_id: str) -> None:
        """Remove the volume, its snapshots and all that was left of unfinished work. `InUse` while a machine has it."""
        disk = self.path(volume_id)
        if disk.exists() and qemu_img.in_use(disk, "qcow2"):
            raise InUse(f"A machine still has volume {volume_id} open; it is deleted when the machine lets go.")
        shutil.rmtree(disk.parent, ignore_errors=True)
        if disk.parent.exists():
            raise Unavailable(
                f"The files of volume {volume_id} cannot be removed; see the permissions of {disk.parent}."
            )

    def set_aside(self, volume_id: str) -> None:
        """Put away a volume that nobody wants and nobody asked to delete (a database restored from an older backup
        does not know it): an operator can move its directory back for a week."""
        directory = self._directory / check_name(volume_id)
        if directory.exists():
            away = make_directory(self._directory / ".set_aside", 0o700)
            os.rename(directory, away / f"{volume_id}.{int(time.time())}")

    def sweep(self, older_than_s: float = SET_ASIDE_S) -> None:
        """Remove what was set aside longer ago than that."""
        away = self._directory / ".set_aside"
        for path in away.iterdir() if away.is_dir() else []:
            if time.time() - float(path.name.rpartition(".")[2]) > older_than_s:
                shutil.rmtree(path, ignore_errors=True)

    def _begin(self, volume_id: str) -> tuple[Path, Path]:
        disk = self.path(volume_id)
        make_directory(disk.parent)
        return disk, disk.with_name("disk.qcow2.part")

    def _finish(self, part: Path, disk: Path, size_gib: int) -> None:
        qemu_img.resize(part, "qcow2", size_gib * GIB)
        publish(part, disk, self._owner)

    def _existing(self, volume_id: str) -> Path:
        disk = self.path(volume_id)
        if not disk.exists():
            raise Unavailable(f"Volume {volume_id} is not on this host yet.")
        return disk

    def _snapshot(self, volume_id: str, snapshot_id: str) -> Path:
        return self._directory / check_name(volume_id) / "snapshots" / check_name(snapshot_id)

    def _export(self, volume_id: str, image_id: str) -> Path:
        return self._directory / check_name(volume_id) / f"export.{check_name(image_id)}.part"

    def _live_copy(self, volume_id: str, target: Path) -> bool:
        # the daemon first: a machine of this host may be one of its clients, and knows nothing of what others write
        return self._exports.live_copy(volume_id, target) or self.live.live_copy(volume_id, target)

    def _copy_volume(self, source_id: str, part: Path) -> None:
        source = self._existing(source_id)
        part.unlink(missing_ok=True)
        if not self._live_copy(source_id, part):
            _copy(source, part)


def _finished(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".part"))


def _copy(source: Path, part: Path) -> None:
    """A standalone copy of the qcow2 `source`, which no machine has open."""
    if not source.exists():
        raise Unavailable(f"The source {source.name} is not on this host yet.")
    part.unlink(missing_ok=True)
    if _reflink(source, part):
        return
    qemu_img.convert(source, "qcow2", part, "qcow2")


def _reflink(source: Path, target: Path) -> bool:
    """Clone the file in one instant; False where the file system cannot."""
    if qemu_img.in_use(source, "qcow2"):
        raise InUse(f"{source.name} is open in a machine.")
    with open(source, "rb") as read, open(target, "xb") as write:
        try:
            fcntl.ioctl(write, FICLONE, read.fileno())
        except OSError as error:
            if error.errno not in NO_REFLINK:
                raise Unavailable(f"{source.name} cannot be copied: {error.strerror}.") from error
            return False
    # a machine that opened the volume meanwhile may have been caught between two of its writes
    if qemu_img.in_use(source, "qcow2"):
        raise InUse(f"{source.name} was opened by a machine during its copy; it is copied again.")
    return True
