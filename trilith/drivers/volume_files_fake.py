"""Volumes that are only a note each: `volume_files` for clouds without disks, at once and without root.

The notes are files, so that this world survives the kill -9 of its agent as the real one does.
"""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from trilith.drivers.durable import check_name, make_directory
from trilith.kernel.errors import Refused, Unavailable

GIB = 1 << 30


class FakeVolumeFiles:
    """The interface of `VolumeFiles`, with one JSON file per volume under `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = make_directory(directory)

    def path(self, volume_id: str) -> Path:
        return self._directory / check_name(volume_id) / "disk.qcow2"

    def known(self) -> set[str]:
        return {path.stem for path in self._directory.glob("*.json")}

    def seen(self, volume_id: str) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads(self._note(volume_id).read_text())
        except FileNotFoundError:
            return None
        return note

    def create_blank(self, volume_id: str, size_gib: int) -> None:
        if self.seen(volume_id) is None:
            self._write(
                volume_id,
                {
                    "size_gib": size_gib,
                    "path": str(self.path(volume_id)),
                    "format": "qcow2",
                    "snapshots": [],
                    "uploads_done": [],
                    "unfinished": [],
                    "export": None,
                    "error": None,
                },
            )

    def create_from_image(self, volume_id: str, size_gib: int, image: Path, image_format: str) -> None:
        self.create_blank(volume_id, size_gib)

    def create_from_volume(self, volume_id: str, size_gib: int, source_id: str) -> None:
        source = self._existing(source_id)
        if source["size_gib"] > size_gib:
            raise Refused(f"The source has {source['size_gib']} GiB; this volume has {size_gib} GiB.")
        self.create_blank(volume_id, size_gib)

    def create_from_snapshot(self, volume_id: str, size_gib: int, source_id: str, snapshot_id: str) -> None:
        if snapshot_id not in self._existing(source_id)["snapshots"]:
            raise Unavailable(f"The source {snapshot_id} is not on this host yet.")
        self.create_blank(volume_id, size_gib)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._add(volume_id, "snapshots", snapshot_id)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._drop(volume_id, "snapshots", snapshot_id)

    def extend(self, volume_id: str, size_gib: int) -> None:
        note = self._existing(volume_id)
        if size_gib < note["size_gib"]:
            raise Refused(f"The volume has {note['size_gib']} GiB; it cannot shrink to {size_gib}.")
        self._write(volume_id, note | {"size_gib": size_gib})

    def export(self, volume_id: str, disk_format: str, image_id: str) -> Path:
        target = self._export(volume_id, image_id)
        target.write_bytes(empty_disk(disk_format, self._existing(volume_id)["size_gib"] * GIB))
        return target

    def serve(self, volume_id: str, keys: dict[str, str]) -> None:
        note = self._existing(volume_id)
        # the port is one that a daemon could have: the same for the same volume
        port = 20000 + zlib.crc32(volume_id.encode()) % 8000
        export = {"address": "127.0.0.1", "port": port, "clients": sorted(keys), "running": True}
        self._write(volume_id, note | {"export": export})

    def end_export(self, volume_id: str) -> None:
        if (note := self.seen(volume_id)) is not None:
            self._write(volume_id, note | {"export": None})

    def exported(self) -> set[str]:
        return {volume_id for volume_id in self.known() if (self.seen(volume_id) or {}).get("export")}

    def mark_uploaded(self, volume_id: str, image_id: str) -> None:
        self._add(volume_id, "uploads_done", image_id)
        self._export(volume_id, image_id).unlink(missing_ok=True)

    def forget_upload(self, volume_id: str, image_id: str) -> None:
        self._drop(volume_id, "uploads_done", image_id)

    def clean(self, volume_id: str) -> None:
        """Nothing of a note is ever unfinished."""

    def delete(self, volume_id: str) -> None:
        for path in (*self._directory.glob(f"{check_name(volume_id)}.*.part"), self._note(volume_id)):
            path.unlink(missing_ok=True)

    def set_aside(self, volume_id: str) -> None:
        self.delete(volume_id)

    def _note(self, volume_id: str) -> Path:
        return self._directory / f"{check_name(volume_id)}.json"

    def _export(self, volume_id: str, image_id: str) -> Path:
        return self._directory / f"{check_name(volume_id)}.{check_name(image_id)}.part"

    def _existing(self, volume_id: str) -> dict[str, Any]:
        note = self.seen(volume_id)
        if note is None:
            raise Unavailable(f"Volume {volume_id} is not on this host yet.")
        return note

    def _add(self, volume_id: str, names: str, name: str) -> None:
        note = self._existing(volume_id)
        self._write(volume_id, note | {names: sorted({*note[names], name})})

    def _drop(self, volume_id: str, names: str, name: str) -> None:
        note = self.seen(volume_id)
        if note is not None:
            self._write(volume_id, note | {names: [each for each in note[names] if each != name]})

    def _write(self, volume_id: str, note: dict[str, Any]) -> None:
        part = self._note(volume_id).with_suffix(".part")
        part.write_text(json.dumps(note))
        os.rename(part, self._note(volume_id))


def empty_disk(disk_format: str, size_bytes: int) -> bytes:
    """The least content that an image store takes for an empty disk: a bare qcow2 header, or a sector of zeros."""
    if disk_format == "qcow2":
        # magic, version, backing file (offset, length), cluster bits, size; zeros mean "no" in all later fields
        return struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, size_bytes).ljust(512, b"\0")
    if disk_format in ("raw", "ami", "aki", "ari"):
        return bytes(512)
    raise Refused(f"A cloud of fakes has no disks of format {disk_format}; use raw or qcow2.")
