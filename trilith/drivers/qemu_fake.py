"""Machines that are only pretended, with the interface of `drivers.qemu.Qemu`. No root, no process, ready at once.

The pretended world is one JSON file per machine, ``machines/<id>/world.json``, so it outlives whoever drives it: an
agent over this fake can be killed like one over the real thing. A guest here always obeys: it powers off and lets go at
once. Nobody listens on its console sockets.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trilith.drivers import crashes
from trilith.drivers.qemu_command import watchdog_action
from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]
ImagePath = Callable[[str], Path]

NEVER = -1
NO_CRASH: Doc = {"starts": 0, "crashes": []}
DEFINED = ("name", "vcpus", "ram_mib", "root_epoch", "root_gib", "rescue_image_id", "config_drive")


class FakeQemu:
    """As `Qemu`; `accel`, `netns`, `run_as`, `checksum_offload` and `address` are taken and not used. Two of them
    reach each other through their files: what one offers, or waits with, says where its world lies."""

    shutdown_grace_s = 60.0
    emulates = False

    def __init__(
        self,
        state_dir: Path,
        accel: str = "tcg",
        netns: str | None = None,
        run_as: str | None = None,
        on_change: Callable[[], None] = lambda: None,
        checksum_offload: bool = False,
        address: str = "127.0.0.1",
    ) -> None:
        self.directory = (state_dir / "machines").absolute()
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.on_change = on_change
        self.fails_at_last: Callable[[], bool] = lambda: False  # a migration, when all has come to the other host
        self._lock = threading.RLock()

    def close(self) -> None:
        """Nothing is held open."""

    def cpu_s(self, server_id: str) -> float | None:
        return None

    def known(self) -> set[str]:
        return {entry.name for entry in self.directory.iterdir()}

    def seen(self, server_id: str) -> Doc | None:
        if not (self.directory / server_id).is_dir():
            return None
        world = self._read(server_id)
        disks, nics, runs = world["disks"], world["nics"], world["process"]
        power = world["power"]
        power = "crashed" if power in ("running", "paused") and not runs else power
        return {
            "power": power,
            "crash": crashes.verdict(world["crashes"], world["starts"], time.time()) if power == "crashed" else None,
            "by_watchdog": False,
            **{name: world[name] for name in DEFINED if name not in ("name", "config_drive")},
            **{name: world[name] for name in ("process", "boot_epoch", "soft_reboot_epoch", "snapshots_done")},
            "disks": [disk["device"] for disk in disks],
            "disk_keys": [disk["key"] for disk in disks],
            "volumes": [disk["key"] for disk in disks if disk["kind"] == "volume"],
            "volume_sizes_gib": {disk["key"]: disk["size_gib"] for disk in disks if disk["kind"] == "volume"},
            "nics": [nic["port_id"] for nic in nics if not runs or nic["attached"]],
            "taps": [nic["port_id"] for nic in nics],
            "snapshots_made": sorted(p.stem for p in (self.directory / server_id / "snapshots").glob("*.qcow2")),
            "shutdown": None,
            "started_at": world["started_at"] if runs else None,
            "error": None,
            **{name: world.get(name) for name in ("export", "fetched")},
            "incoming": world.get("incoming") if runs else None,
            "outgoing": _lost(world.get("outgoing")) if not runs else world.get("outgoing"),
            "layout": {"disks": {}, "nics": {}} if runs else None,
        }

    def ports(self) -> set[str]:
        return {nic["port_id"] for server_id in self.known() for nic in self._read(server_id)["nics"]}

    def nics(self, server_id: str) -> list[Doc]:
        return list(self._read(server_id)["nics"])

    def console_log(self, server_id: str, lines: int | None = None) -> str:
        text: str = self._read(server_id)["console"]
        return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines > 0 else [])

    def console_socket(self, server_id: str, kind: str) -> Path:
        if kind not in ("serial", "vnc"):
            raise Refused(f"A machine has no {kind} console.")
        if not self._read(server_id)["process"]:
            raise Unavailable("The machine is not running.")
        return self.directory / server_id / kind

    def define(self, server_id: str, machine: Doc, image_path: ImagePath, kernel_path: ImagePath | None = None) -> None:
        with self._lock:
            (self.directory / server_id / "snapshots").mkdir(parents=True, exist_ok=True)
            world = self._read(server_id)
            if world["process"]:
                raise Unavailable("The machine is running; it cannot be defined anew.")
            world.update({name: machine[name] for name in DEFINED})
            watchdog_action(machine.get("watchdog_action"))
            for name in ("kernel_id", "ramdisk_id"):
                if image_id := (machine.get("kernel") or {}).get(name):
                    (kernel_path or image_path)(image_id)
            for disk in machine["disks"]:
                self._ask_for_image(world, disk, image_path)
            world["disks"] = machine["disks"]
            wanted = {nic["port_id"]: nic for nic in machine["nics"]}
            leaving = [nic for nic in world["nics"] if nic["port_id"] not in wanted]
            world["nics"] = [{**nic, "attached": False} for nic in wanted.values()] + leaving
            self._write(server_id, world)

    def write_config_drive(self, server_id: str, files: dict[str, bytes]) -> None:
        with self._lock:
            self._change(server_id, config_drive_files=sorted(files))

    def destroy(self, server_id: str) -> None:
        with self._lock:
            shutil.rmtree(self.directory / server_id, ignore_errors=True)

    def start(self, server_id: str, taps: dict[str, str], boot_epoch: int, soft_reboot_epoch: int) -> None:
        with self._lock:
            world = self._read(server_id)
            epochs = {"boot_epoch": boot_epoch, "soft_reboot_epoch": soft_reboot_epoch}
            if world["process"] and world["power"] == "running" and epochs.items() <= world.items():
                return
            lines = ["Linux version 6.1.0 (pretended)", f"Booted {world['name']} at epoch {boot_epoch}", "login:"]
            console = world["console"] + "".join(f"{line}\n" for line in lines)
            started_at = datetime.now(UTC).isoformat(timespec="seconds")
            world["crashes"] = world["crashes"] if boot_epoch == world["boot_epoch"] else []
            world["starts"] += 1
            world.update(**epochs, power="running", process=True, started_at=started_at, console=console[-(1 << 20) :])
            world["nics"] = [{**nic, "attached": nic["port_id"] in taps} for nic in world["nics"]]
            self._write(server_id, world)
        self.on_change()

    def note_crash(self, server_id: str) -> None:
        with self._lock:
            world = self._read(server_id)
            self._change(server_id, crashes=crashes.noted(world["crashes"], world["starts"], time.time()))

    def resume(self, server_id: str, taps: dict[str, str]) -> None:
        with self._lock:
            if self._read(server_id)["power"] == "suspended":
                self._change(server_id, power="running", process=True)

    def cont(self, server_id: str) -> None:
        with self._lock:
            world = self._read(server_id)
            if world["power"] == "incoming" and not (world.get("incoming") or {}).get("arrived"):
                raise Unavailable("The machine's memory has not come yet.")
            self._running(server_id, power="running")

    def pause(self, server_id: str) -> None:
        self._running(server_id, power="paused")

    def suspend(self, server_id: str) -> None:
        with self._lock:
            if self._read(server_id)["process"]:
                self._change(server_id, power="suspended", process=False)

    def powerdown(self, server_id: str) -> None:
        self._running(server_id, power="stopped")

    def end(self, server_id: str) -> None:
        with self._lock:
            self._change(server_id, power="stopped", process=False)

    def kill(self, server_id: str) -> None:
        with self._lock:
            if server_id in self.known() and self._read(server_id)["process"]:
                self._change(server_id, process=False, power="running")  # which without a process is crashed
                self._hang_up(server_id)

    def stop_shared(self) -> set[str]:
        with self._lock:
            running = {server_id for server_id in self.known() if self._read(server_id)["process"]}
            shared = {key for key in running if all(map(_is_shared, self._read(key)["disks"]))}
            for server_id in shared:
                self.kill(server_id)
        return set()

    def attach_disk(self, server_id: str, disk: Doc, image_path: ImagePath) -> None:
        with self._lock:
            world = self._read(server_id)
            self._ask_for_image(world, disk, image_path)
            others = [known for known in world["disks"] if known["key"] != disk["key"]]
            self._running(server_id, disks=[*others, disk])

    def detach_disk(self, server_id: str, key: str) -> None:
        with self._lock:
            disks = [disk for disk in self._read(server_id)["disks"] if disk["key"] != key]
            self._change(server_id, disks=disks)

    def record_nic(self, server_id: str, nic: Doc) -> None:
        with self._lock:
            nics = self._read(server_id)["nics"]
            if nic["port_id"] not in [known["port_id"] for known in nics]:
                self._change(server_id, nics=[*nics, {**nic, "attached": False}])

    def attach_nic(self, server_id: str, port_id: str, tap: str) -> None:
        self._mark_nic(server_id, port_id, True)

    def detach_nic(self, server_id: str, port_id: str) -> None:
        self._mark_nic(server_id, port_id, False)

    def forget_nic(self, server_id: str, port_id: str) -> None:
        with self._lock:
            nics = self._read(server_id)["nics"]
            if any(nic["port_id"] == port_id for nic in nics):
                self._change(server_id, nics=[nic for nic in nics if nic["port_id"] != port_id])

    def resize_volume(self, server_id: str, volume_id: str, size_gib: int) -> None:
        with self._lock:
            disks = self._read(server_id)["disks"]
            grown = [{**disk, "size_gib": size_gib} if disk["key"] == volume_id else disk for disk in disks]
            self._running(server_id, disks=grown)

    def snapshot(self, server_id: str, image_id: str) -> Path:
        with self._lock:
            if "root" not in [disk["key"] for disk in self._read(server_id)["disks"]]:
                raise Refused("The machine has no root disk of its own; take a snapshot of its volume.")
            target = self.directory / server_id / "snapshots" / f"{image_id}.qcow2"
            if not target.exists():
                _write_empty_qcow2(target)
            return target

    def snapshot_done(self, server_id: str, image_id: str, keep: list[str]) -> None:
        with self._lock:
            done = {known for known in self._read(server_id)["snapshots_done"] if known in keep} | {image_id}
            self._change(server_id, snapshots_done=sorted(done))
            self.drop_snapshot(server_id, image_id)

    def drop_snapshot(self, server_id: str, image_id: str) -> None:
        (self.directory / server_id / "snapshots" / f"{image_id}.qcow2").unlink(missing_ok=True)

    # to another host

    def export(self, server_id: str, move_id: str, secret: str, keys: list[str]) -> None:
        with self._lock:
            place = {"move": move_id, "address": "127.0.0.1", "port": 28000, "world": str(self.directory)}
            self._change(server_id, export={**place, "disks": {key: {} for key in keys}, "running": True})

    def end_export(self, server_id: str) -> None:
        with self._lock:
            self._change(server_id, export=None)

    def fetch(self, server_id: str, move_id: str, secret: str, place: Doc, root_epoch: int, disk: str | None) -> None:
        with self._lock:
            (self.directory / server_id / "snapshots").mkdir(parents=True, exist_ok=True)
            world = self._read(server_id)
            fetched = world.get("fetched")
            keys = set(fetched["keys"]) if fetched and fetched["move"] == move_id else set()
            if disk is not None:
                source = self._read(server_id, Path(place["world"]))
                if source["process"] or source.get("export") is None:
                    raise Unavailable(f"The disk {disk} is not offered.")
                keys.add(disk)
                world["content"] = source.get("content", "")
            self._write(server_id, {**world, "fetched": {"move": move_id, "keys": sorted(keys)}})

    def make_receiver(
        self,
        server_id: str,
        machine: Doc,
        move_id: str,
        layout: Doc,
        local: list[str],
        boot_epoch: int,
        soft_reboot_epoch: int,
        image_path: ImagePath | None = None,
    ) -> None:
        with self._lock:
            if self._receives(server_id, move_id):
                return
            self.kill(server_id)
            world = self._read(server_id)
            world["disks"] = [{**disk, "image_id": None} for disk in machine["disks"]]
            (self.directory / server_id / "snapshots").mkdir(parents=True, exist_ok=True)
            self._write(server_id, world)
            self.define(server_id, machine, _no_image, image_path)
            epochs = {"boot_epoch": boot_epoch, "soft_reboot_epoch": soft_reboot_epoch}
            self._change(server_id, **epochs, power="running", incoming=None, outgoing=None)

    def receive(self, server_id: str, taps: dict[str, str], move_id: str, secret: str, local: list[str]) -> None:
        with self._lock:
            if self._receives(server_id, move_id):
                return
            place = {"move": move_id, "address": "127.0.0.1", "port": 28001, "world": str(self.directory)}
            nics = [{**nic, "attached": nic["port_id"] in taps} for nic in self._read(server_id)["nics"]]
            self._change(server_id, process=True, power="incoming", nics=nics, incoming={**place, "arrived": False})

    def settle(self, server_id: str) -> None:
        with self._lock:
            world = self._read(server_id)
            arrived = world["power"] == "incoming" and (world.get("incoming") or {}).get("arrived")
            self._change(server_id, incoming=None, fetched=None, power="paused" if arrived else world["power"])

    def mirror(self, server_id: str, move_id: str, secret: str, to: Doc, keys: list[str]) -> None:
        self._running(server_id, outgoing={"move": move_id, "status": "none", "mirrors": dict.fromkeys(keys, True)})

    def send(self, server_id: str, move_id: str, to: Doc) -> None:
        with self._lock:
            world = self._read(server_id)
            out = {**world["outgoing"], "status": "pre-switchover", "to": to, "was": world["power"]}
            self._running(server_id, outgoing=out, power="paused")

    def switch(self, server_id: str, move_id: str) -> None:
        with self._lock:
            world = self._read(server_id)
            out = world["outgoing"]
            if out is None or out["status"] != "pre-switchover" or not world["process"]:
                return
            there = Path(out["to"]["world"])
            other = self._read(server_id, there)
            if not (other["process"] and (other.get("incoming") or {}).get("move") == move_id):
                self._change(server_id, outgoing={**out, "status": "failed"}, power=out["was"])
                raise Unavailable("The other host does not take the machine.")
            came = {"incoming": {**other["incoming"], "arrived": True}, "content": world.get("content", "")}
            self._write(server_id, {**other, **came}, there)
            if self.fails_at_last():
                self._change(server_id, outgoing={**out, "status": "failed"}, power=out["was"])
            else:
                self._change(server_id, outgoing={**out, "status": "completed"}, power="moved")

    def stop_sending(self, server_id: str) -> None:
        with self._lock:
            world = self._read(server_id)
            out = world["outgoing"]
            if world["process"] and world["power"] == "moved":
                self.kill(server_id)
            elif world["process"] and out and "was" in out:
                self._change(server_id, power=out["was"])
            self._change(server_id, outgoing=None)

    def _hang_up(self, server_id: str) -> None:
        """The process that waits on the other host for this one's memory ends when it does not get all of it."""
        out = self._read(server_id).get("outgoing")
        if out is None or out["status"] != "pre-switchover":
            return
        there = Path(out["to"]["world"])
        other = self._read(server_id, there)
        if other["process"] and other["power"] == "incoming" and other["incoming"]["move"] == out["move"]:
            self._write(server_id, {**other, "process": False, "power": "running"}, there)

    def _receives(self, server_id: str, move_id: str) -> bool:
        world = self._read(server_id)
        return bool(world["process"] and world.get("incoming") and world["incoming"]["move"] == move_id)

    def live_copy(self, volume_id: str, target: Path) -> bool:
        return False  # a pretended machine has no file open

    def live_resize(self, volume_id: str, size_gib: int) -> bool:
        return False

    def _ask_for_image(self, world: Doc, disk: Doc, image_path: ImagePath) -> None:
        made = {(known["key"], known.get("image_id")) for known in world["disks"]}
        fetched = (world.get("fetched") or {"keys": []})["keys"]
        if disk["key"] in fetched or (disk["key"], None) in made:
            return
        if disk["kind"] == "image" and (disk["key"], disk["image_id"]) not in made:
            image_path(disk["image_id"])

    def _mark_nic(self, server_id: str, port_id: str, attached: bool) -> None:
        with self._lock:
            if server_id not in self.known():
                return
            nics = self._read(server_id)["nics"]
            marked = [{**nic, "attached": attached} if nic["port_id"] == port_id else nic for nic in nics]
            self._change(server_id, nics=marked)

    def _running(self, server_id: str, **changes: Any) -> None:
        with self._lock:
            if not self._read(server_id)["process"]:
                raise Unavailable("The machine is not running.")
            self._change(server_id, **changes)

    def _change(self, server_id: str, **changes: Any) -> None:
        self._write(server_id, {**self._read(server_id), **changes})

    def _read(self, server_id: str, directory: Path | None = None) -> Doc:
        try:
            document: Doc = json.loads(((directory or self.directory) / server_id / "world.json").read_bytes())
        except FileNotFoundError:
            zeros = {"name": "", "vcpus": 0, "ram_mib": 0, "root_gib": 0, "root_epoch": NEVER, "boot_epoch": NEVER}
            lists: Doc = {"disks": [], "nics": [], "snapshots_done": [], "config_drive_files": []}
            state = {
                "starts": 0,
                "power": "stopped",
                "process": False,
                "console": "",
                "started_at": None,
                "config_drive": False,
            }
            return {**zeros, **lists, **state, "soft_reboot_epoch": NEVER, "rescue_image_id": None, **NO_CRASH}
        return NO_CRASH | document

    def _write(self, server_id: str, world: Doc, directory: Path | None = None) -> None:
        home = (directory or self.directory) / server_id
        part = home / f"world.{threading.get_ident()}.part"
        part.write_text(json.dumps(world))
        part.rename(home / "world.json")  # not synced: it is to survive a kill, not a power cut


def _lost(outgoing: Doc | None) -> Doc | None:
    return None if outgoing is None else {**outgoing, "status": "lost"}


def _no_image(image_id: str) -> Path:
    raise Unavailable(f"The disk over image {image_id} has not come from the other host.")


def _is_shared(disk: Doc) -> bool:
    return bool(disk.get("shared") or disk.get("nbd"))


def _write_empty_qcow2(target: Path) -> None:
    """A header that says: version 2, clusters of 64 KiB, size 0. Enough for whoever inspects the format."""
    header = b"QFI\xfb" + (2).to_bytes(4, "big") + bytes(12) + (16).to_bytes(4, "big") + bytes(8)
    header += bytes(4) + bytes(4) + (1 << 16).to_bytes(8, "big") + (1 << 17).to_bytes(8, "big") + (1).to_bytes(4, "big")
    part = target.with_suffix(".part")
    part.write_bytes(header + bytes(12) + bytes((3 << 16) - len(header) - 12))
    part.rename(target)
