"""The disks of machines: files in a machine's directory, volumes, images in Ceph."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trilith.drivers import nbd, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers.ceph import Ceph
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.durable import publish
from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]
ImagePath = Callable[[str], Path]

FORMAT_S = 300.0


class Disks:
    """Of one host. `owner`: who QEMU runs as. `ceph`: where they may lie; an image in it is made here, and never
    removed: the machine may run elsewhere by now."""

    def __init__(self, owner: tuple[int, int] | None, ceph: Ceph | FakeCeph | None) -> None:
        self.owner, self.ceph = owner, ceph

    def add(self, home: Path, spec: Doc, disk: Doc, image_path: ImagePath) -> Doc:
        """Put `disk` into `spec`, the record of the machine at `home`, with its file, made if there is none."""
        record = {"key": disk["key"], "device": disk["device"]}
        try:
            record["port"] = command.disk_port(disk["device"], {d["port"] for d in spec["disks"]})
        except ValueError as error:
            raise Refused(f"Cannot attach {disk['device']}: {error}.") from error
        record.update(boot_index=disk.get("boot_index"), shared=bool(disk.get("shared")))
        if disk.get("rbd"):
            self._add_in_ceph(home, record, disk)
        elif disk["kind"] == "volume" and disk.get("nbd"):
            record.update(format="raw", volume_id=disk["volume_id"], size_gib=disk["size_gib"])
            record["nbd"] = {name: value for name, value in disk["nbd"].items() if name != "key"}
            keys = {disk["nbd"]["user"]: disk["nbd"]["key"]}
            nbd.make_key_directory(home / command.credentials_id(disk["key"]), keys, self.owner)
        elif disk["kind"] == "volume":
            record.update(
                file=disk["path"], format=disk["format"], volume_id=disk["volume_id"], size_gib=disk["size_gib"]
            )
            if self.owner is not None and os.path.exists(disk["path"]):
                os.chown(disk["path"], *self.owner)
        elif disk["kind"] == "image":
            epoch = f"root-{spec['root_epoch']}" if disk["key"] == "root" else f"{disk['key']}-{disk['image_id']}"
            base = {"file": f"base-{disk['image_id']}", "format": disk["image_format"]}
            record.update(file=f"{epoch}.qcow2", format="qcow2", base=base)
            self._make_overlay(home, record, disk, image_path)
        else:
            record.update(file=f"{disk['key']}-{spec['root_epoch']}.raw", format="raw")
            self._make_blank(home / record["file"], disk)
        spec["disks"].append(record)
        return record

    def kernel(self, home: Path, kernel: Doc | None, image_path: ImagePath) -> Doc | None:
        """The record of what is booted in place of the first disk, with its files, made if there are none."""
        if kernel is None:
            return None
        record: Doc = {"command_line": kernel["command_line"], "ramdisk": None}
        for name in ("kernel", "ramdisk"):
            if image_id := kernel[f"{name}_id"]:
                record[name] = f"{name}-{image_id}"
                if not (home / record[name]).exists():
                    self._link(image_path(image_id), home / record[name])
        return record

    def _add_in_ceph(self, home: Path, record: Doc, disk: Doc) -> None:
        """A volume is there; a disk of the machine's own is made when it is not, but where it has to be (``made``)."""
        if self.ceph is None:
            raise Unavailable("This host knows no Ceph: its cluster file names none.")
        rbd, access = disk["rbd"], self.ceph.access
        place = {"monitors": list(access.monitors), "user": access.user}
        record.update(format="raw", rbd={"pool": rbd["pool"], "image": rbd["image"], **place})
        if disk["kind"] == "volume":
            record.update(volume_id=disk["volume_id"], size_gib=disk["size_gib"])
        elif disk["kind"] == "image" and not disk.get("made"):
            self._make_clone(rbd, disk)
        elif not disk.get("made"):
            self._make_blank_in_ceph(home, rbd, disk)
        key, part = home / command.CEPH_KEY, home / f"{command.CEPH_KEY}.part"
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_text(access.key_file.read_text().strip())
        publish(part, key, self.owner, mode=0o400)

    def _make_clone(self, rbd: Doc, disk: Doc) -> None:
        assert self.ceph is not None
        size_bytes, pool, image = disk["size_gib"] * qemu_img.GIB, rbd["pool"], rbd["image"]
        found = self.ceph.image(pool, image)
        if found is None:
            source = self.ceph.image(rbd["parent"][0], rbd["parent"][1])
            if source is None:
                raise Unavailable(f"Image {disk['image_id']} is not in Ceph yet.")
            if size_bytes and source.size_bytes > size_bytes:
                need_gib = -(-source.size_bytes // qemu_img.GIB)
                raise Refused(f"The image needs a disk of {need_gib} GiB, the flavor has {disk['size_gib']}.")
            self.ceph.clone((rbd["parent"][0], rbd["parent"][1], rbd["parent"][2]), pool, image)
            found = source
        if size_bytes > found.size_bytes:
            self.ceph.resize(pool, image, size_bytes)

    def _make_blank_in_ceph(self, home: Path, rbd: Doc, disk: Doc) -> None:
        assert self.ceph is not None
        if self.ceph.image(rbd["pool"], rbd["image"]) is None:
            file = home / f"{disk['key']}.raw"
            file.unlink(missing_ok=True)
            self._make_blank(file, disk)
            self.ceph.import_raw(file, rbd["pool"], rbd["image"])
            file.unlink()

    def copy_out(self, rbd: Doc, raw: Path, target: Path) -> None:
        """A qcow2 of a disk in Ceph that no machine has open."""
        if self.ceph is None:
            raise Unavailable("This host knows no Ceph: its cluster file names none.")
        self.ceph.export_raw(rbd["pool"], rbd["image"], raw)
        qemu_img.convert(raw, "raw", target, "qcow2")
        raw.unlink()

    def _make_overlay(self, home: Path, record: Doc, disk: Doc, image_path: ImagePath) -> None:
        size_bytes = disk["size_gib"] * qemu_img.GIB
        whole = home / record["file"].replace(".qcow2", "-whole.qcow2")
        if whole.exists():
            record.update(file=whole.name)
            record.pop("base")
            if size_bytes > qemu_img.qcow2_size_bytes(whole):
                qemu_img.resize(whole, "qcow2", size_bytes)
            return
        file, base, image_format = home / record["file"], home / record["base"]["file"], disk["image_format"]
        if not file.exists():
            if not base.exists():
                self._link(image_path(disk["image_id"]), base)
            image_bytes = qemu_img.require_standalone(base, image_format).virtual_size_bytes
            if size_bytes and image_bytes > size_bytes:
                need_gib = -(-image_bytes // qemu_img.GIB)
                raise Refused(f"The image needs a disk of {need_gib} GiB, the flavor has {disk['size_gib']}.")
            part = file.with_suffix(".part")
            qemu_img.create(part, "qcow2", size_bytes or image_bytes, backing=(base, image_format))
            publish(part, file, self.owner)
        elif size_bytes > qemu_img.qcow2_size_bytes(file):
            qemu_img.resize(file, "qcow2", size_bytes)

    def _link(self, image: Path, base: Path) -> None:
        part = base.with_suffix(".part")
        part.unlink(missing_ok=True)
        try:
            os.link(image, part)  # the cache may drop its own name of it whenever it likes
        except OSError:
            shutil.copyfile(image, part)  # another file system
        if self.owner is not None:
            os.chown(part, -1, self.owner[1])
            os.chmod(part, 0o440)
        os.rename(part, base)

    def _make_blank(self, file: Path, disk: Doc) -> None:
        if file.exists():
            return
        part = file.with_suffix(".part")
        size_bytes = disk["size_mib"] * qemu_img.MIB if disk.get("size_mib") else disk["size_gib"] * qemu_img.GIB
        with open(part, "wb") as blank:
            blank.truncate(size_bytes)
        _format(part, disk["key"])
        publish(part, file, self.owner)

    def drop_unused(self, home: Path, spec: Doc) -> None:
        """Remove disks of former epochs, of ended rescues, and what a killed agent left unfinished."""
        keep = {"spec.json", "run", "snapshots", "saved", "config.iso", "qemu.log"}
        keep |= {command.CEPH_KEY} if any(disk.get("rbd") for disk in spec["disks"]) else set()
        keep |= {disk["file"] if "file" in disk else command.credentials_id(disk["key"]) for disk in spec["disks"]}
        keep |= {d["base"]["file"] for d in spec["disks"] if "base" in d}
        keep |= {file for name in ("kernel", "ramdisk") if (file := (spec.get("kernel") or {}).get(name))}
        keep |= {"move"}
        unused = [entry for entry in home.iterdir() if entry.name not in keep]
        for entry in [*unused, *(home / "snapshots").glob("*.part")]:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def make_empty(self, file: Path, size_bytes: int) -> None:
        """Of a disk that another host fills."""
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        qemu_img.create(part, "qcow2" if file.suffix == ".qcow2" else "raw", size_bytes)
        publish(part, file, self.owner)


def own_file(key: str, root_epoch: int) -> str:
    """Name of a local disk that came from another host: whole, over no image."""
    return f"root-{root_epoch}-whole.qcow2" if key == "root" else f"{key}-{root_epoch}.raw"


def _format(file: Path, label: str) -> None:
    """Make an empty local disk what its label says: ``swap0`` swap space, ``ephemeral<n>`` an ext4 file system."""
    ext4 = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
    programs = {"swap": ["mkswap", "-q"], "ephemeral": ext4}
    program = next((words for kind, words in programs.items() if label.startswith(kind)), None)
    if program is None:
        return
    words = ["setpriv", "--pdeathsig", "KILL", *program, "-L", label, str(file)]
    environment = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=FORMAT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        raise Unavailable(f"The disk {label} cannot be formatted: {said.decode(errors='replace')[-300:]}") from error
