"""Machines as QEMU processes, driven by QMP. No libvirt, and no daemon of ours that they depend on.

A machine outlives its agent: QEMU runs in a session of its own, and whoever comes next finds it by its locked pidfile
and its monitor socket, in milliseconds. What a machine is made of stands in its directory, ``machines/<id>/``:

    spec.json          its record, replaced as a whole; written before the world is changed
    root-<epoch>.qcow2 overlay over base-<image>, a hard link that keeps the cached image's bytes
    *.raw config.iso   blank disks, config drive
    saved              memory of a suspended machine
    snapshots/         finished copies of the root disk that wait to be uploaded
    run/               all that QEMU itself may write besides its disks: pidfile, sockets, console.log

Every method is idempotent, takes the server's id first, and raises `Unavailable` or `Refused`. `seen` tells the world:

    power: running | paused | suspended | stopped (shut down, by its guest or by us) | crashed (gone without us)
"""

import contextlib
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trilith.drivers import block_copy, crashes, disk_export, nbd, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers import qemu_migration as migration
from trilith.drivers.ceph import Ceph
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.durable import publish, sync_directory
from trilith.drivers.qemu_disks import Disks, ImagePath, own_file
from trilith.drivers.qemu_process import Live, Processes, connected, open_tap, read_plain
from trilith.drivers.qmp import CommandError
from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]

SHUTDOWN_REPEAT_S = 10.0  # a guest that is still booting misses the power button

POWER = {
    "running": "running",
    "suspended": "running",
    "io-error": "running",
    "shutdown": "stopped",
    "internal-error": "crashed",
    "guest-panicked": "crashed",
    "inmigrate": "incoming",
    "postmigrate": "moved",
}  # any other state of QEMU is a paused machine
# By RARP, for half a minute: OVN's port on this host opens with the first one that it hears, and
# QEMU's own few come within a second, when a switch may not have the port yet. Milliseconds.
ANNOUNCED = {"initial": 50, "max": 1000, "rounds": 35, "step": 100}


class Qemu(Processes):
    """The machines of one host, under `state_dir`/machines.

    `accel` is kvm or tcg; `netns` the network namespace that QEMU runs in; `run_as` a user's name or ``uid:gid``,
    None to stay who we are. `on_change` is called, from another thread, when a machine changes by itself; it must not
    block. `checksum_offload` is only for a network whose datapath completes checksums. `address` is where other hosts
    reach this one when machines move. `ceph`: where machines' disks may lie; an image in it is made here, and never
    removed: the machine may run elsewhere by now.
    """

    shutdown_grace_s = 60.0

    def __init__(
        self,
        state_dir: Path,
        accel: str = "tcg",
        netns: str | None = None,
        run_as: str | None = None,
        on_change: Callable[[], None] = lambda: None,
        checksum_offload: bool = False,
        address: str = "127.0.0.1",
        ceph: Ceph | FakeCeph | None = None,
    ) -> None:
        super().__init__(state_dir, accel, netns, run_as, on_change, checksum_offload)
        self.address = address
        self._disks = Disks(self.owner, ceph)
        self._exports = disk_export.DiskExports(address, netns, self.owner)

    # ---- what is there

    def seen(self, server_id: str) -> Doc | None:
        """What this host has of the machine; None when nothing. Cheap: no question to QEMU unless something changed."""
        if not self._home(server_id).is_dir():
            return None
        spec = self._read(server_id)
        error, live = None, None
        pid = self._pid(server_id)
        if pid is not None:
            try:
                live = self._refreshed(server_id)
            except Unavailable as cause:
                error = f"The machine's monitor does not answer: {cause}"
        attached = None if live is None else live.devices
        disks = [d for d in spec["disks"] if attached is None or command.disk_id(d["key"]) in attached]
        nics = [n["port_id"] for n in spec["nics"] if attached is None or command.nic_id(n["port_id"]) in attached]
        if live is not None and live.status == "io-error":
            error = "The machine waits: its disk has no room or does not answer."
        if live is not None and live.status == "guest-panicked":
            error = "The guest's kernel panicked."
        power = self._power(server_id, spec, pid, live)
        return {
            "power": power,
            "crash": crashes.verdict(spec["crashes"], spec["starts"], time.time()) if power == "crashed" else None,
            "by_watchdog": power == "paused" and _by_watchdog(live) and not spec["watchdog_noted"],
            "process": pid is not None,
            "boot_epoch": spec["boot_epoch"],
            "soft_reboot_epoch": spec["soft_reboot_epoch"],
            "root_epoch": spec["root_epoch"],
            "rescue_image_id": spec["rescue_image_id"],
            "vcpus": spec["vcpus"],
            "ram_mib": spec["ram_mib"],
            "root_gib": spec["root_gib"],
            "disks": [d["device"] for d in disks],
            "disk_keys": [d["key"] for d in disks],
            "volumes": [d["volume_id"] for d in disks if d.get("volume_id")],
            "volume_sizes_gib": {d["volume_id"]: _gib(d, live) for d in disks if d.get("volume_id")},
            "nics": nics,
            "taps": [n["port_id"] for n in spec["nics"]],
            "snapshots_made": sorted(p.stem for p in (self._home(server_id) / "snapshots").glob("*.qcow2")),
            "snapshots_done": spec["snapshots_done"],
            "shutdown": self._shutdown_state(spec) if pid is not None else None,
            "started_at": spec["started_at"] if pid is not None else None,
            "error": error,
            **self._seen_of_moves(server_id, spec, pid, live),
        }

    def _power(self, server_id: str, spec: Doc, pid: int | None, live: Live | None) -> str:
        if _by_watchdog(live) and spec["watchdog_action"] == "poweroff":
            return "stopped"
        if pid is not None:
            power = POWER.get(live.status, "paused") if live is not None else "running"
            if power == "moved" and spec.get("outgoing") is None:
                power = "paused"  # its memory went into a file
            return "incoming" if power == "paused" and spec.get("incoming") else power
        if spec["power"] == "suspended" and self._saved(server_id).exists():
            return "suspended"
        return "stopped" if spec["power"] == "stopped" else "crashed"

    def _shutdown_state(self, spec: Doc) -> str | None:
        if spec["shutdown_asked_at"] is None:
            return None
        if time.time() - spec["shutdown_asked_at"] >= self.shutdown_grace_s:
            return "overdue"
        return "again" if time.time() - spec["shutdown_sent_at"] >= SHUTDOWN_REPEAT_S else "asked"

    def _seen_of_moves(self, server_id: str, spec: Doc, pid: int | None, live: Live | None) -> Doc:
        """``export fetched incoming outgoing layout``: see the methods that make them."""
        incoming, outgoing = spec.get("incoming"), spec.get("outgoing")
        if incoming is not None:
            arrived = live is not None and live.status != "inmigrate"
            incoming = {**incoming, "arrived": arrived} if pid is not None else None
        if outgoing is not None:
            status = "lost" if live is None else "none" if not outgoing["sent"] else live.outgoing.get("status", "none")
            outgoing = {"mirrors": {}, **({} if live is None else live.outgoing), **outgoing, "status": status}
        return {
            "export": self._exports.seen(self._home(server_id)),
            "fetched": spec.get("fetched"),
            "incoming": incoming,
            "outgoing": outgoing,
            "layout": None if live is None else self._layout(spec, live),
        }

    def _layout(self, spec: Doc, live: Live) -> Doc:
        """What a machine must have in common with the one whose memory it takes over."""
        sizes = {d["key"]: live.size_bytes.get(command.node(d["key"])) for d in spec["disks"]}
        return {
            "accel": self.accel,
            "checksum_offload": self.checksum_offload,
            "disks": {d["key"]: {"port": d["port"], "size_bytes": sizes[d["key"]]} for d in spec["disks"]},
            "nics": {n["port_id"]: n["port"] for n in spec["nics"]},
        }

    def ports(self) -> set[str]:
        """Ids of all ports that a machine here has or is about to have."""
        return {nic["port_id"] for server_id in self.known() for nic in self._read(server_id)["nics"]}

    def nics(self, server_id: str) -> list[Doc]:
        """The machine's ports as recorded: ``port_id mac mtu``."""
        return [{name: nic[name] for name in ("port_id", "mac", "mtu")} for nic in self._read(server_id)["nics"]]

    def console_log(self, server_id: str, lines: int | None = None) -> str:
        """The last `lines` (None: all that is kept) of what the guest wrote to its serial port."""
        run = self._home(server_id) / "run"
        text = b"".join(read_plain(run / name) for name in ("console.0", "console.log")).decode(errors="replace")
        return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines > 0 else [])

    def console_socket(self, server_id: str, kind: str) -> Path:
        """Unix socket of the machine's console: `kind` is ``serial`` (bytes) or ``vnc`` (RFB)."""
        if kind not in ("serial", "vnc"):
            raise Refused(f"A machine has no {kind} console.")
        path = self._home(server_id) / "run" / kind
        if self._pid(server_id) is None or not stat.S_ISSOCK(path.lstat().st_mode):  # nor a link that QEMU put there
            raise Unavailable("The machine is not running.")
        return path

    # ---- made and unmade

    def define(self, server_id: str, machine: Doc, image_path: ImagePath, kernel_path: ImagePath | None = None) -> None:
        """Make its directory, its local disks and its record, for a machine that is not running.

        `machine`: ``name vcpus ram_mib root_epoch root_gib rescue_image_id config_drive kernel disks nics``; a disk has
        a ``key`` that stays (its volume's id, or ``root``, ``rescue``, a label), a nic ``port_id mac mtu``, a kernel
        (None: the first disk is booted) ``kernel_id ramdisk_id command_line``. `image_path` is asked only for an image
        that a disk has yet to be made from, `kernel_path` for a kernel's, where that is another one.
        """
        with self._lock(server_id):
            if self._pid(server_id) is not None:
                raise Unavailable("The machine is running; it cannot be defined anew.")
            home = self._home(server_id)
            for directory in (home, home / "snapshots"):
                directory.mkdir(mode=0o711, exist_ok=True)
            spec = self._read(server_id)
            old_ports = {nic["port_id"]: nic for nic in spec["nics"]}
            spec.update({field: machine[field] for field in ("name", "vcpus", "ram_mib", "root_epoch", "root_gib")})
            spec.update({field: machine[field] for field in ("rescue_image_id", "config_drive")})
            spec["watchdog_action"] = command.watchdog_action(machine.get("watchdog_action"))
            spec["kernel"] = self._disks.kernel(home, machine.get("kernel"), kernel_path or image_path)
            spec["disks"] = []
            for disk in machine["disks"]:
                self._disks.add(self._home(server_id), spec, disk, image_path)
            # a port that shall go keeps its place in the record until its tap is gone
            wanted = [nic["port_id"] for nic in machine["nics"]]
            spec["nics"] = [nic for port_id, nic in old_ports.items() if port_id in wanted]
            leaving = [nic for port_id, nic in old_ports.items() if port_id not in wanted]
            for nic in machine["nics"]:
                _add_nic(spec, nic)
            spec["nics"] += leaving
            self._write(server_id, spec)
            self._disks.drop_unused(home, spec)

    def write_config_drive(self, server_id: str, files: dict[str, bytes]) -> None:
        """Make the config drive: an ISO 9660 file system of `files` (relative path to content), label config-2."""
        home = self._home(server_id)
        tree, part = home / "config.tree", home / "config.part"
        shutil.rmtree(tree, ignore_errors=True)
        part.unlink(missing_ok=True)
        tree.mkdir(mode=0o700)  # there is a password in it
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        words = ["genisoimage", "-quiet", "-V", "config-2", "-J", "-R", "-o", str(part), str(tree)]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", umask=0o077, check=False
        )
        shutil.rmtree(tree)
        if done.returncode:
            raise Unavailable(f"The config drive could not be made: {done.stderr.strip()[-300:]}")
        publish(part, home / "config.iso", self.owner)

    def destroy(self, server_id: str) -> None:
        """Kill it and remove all that is here of it."""
        with self._lock(server_id):
            self._forget(server_id)
            self._kill(server_id)
            self._exports.end(self._home(server_id))
            gone = self._home(server_id)
            if gone.is_dir():
                shutil.rmtree(gone)
                sync_directory(self.directory)
        with self._guard:
            self._locks.pop(server_id, None)

    # ---- power

    def start(self, server_id: str, taps: dict[str, str], boot_epoch: int, soft_reboot_epoch: int) -> None:
        """Boot it as recorded; what ran or was saved before is gone. Does nothing if it runs at these epochs already.

        `taps`: port id to the name of its tap device.
        """
        with self._lock(server_id):
            spec = self._read(server_id)
            epochs = (spec["boot_epoch"], spec["soft_reboot_epoch"])
            if self._pid(server_id) is not None:
                if epochs == (boot_epoch, soft_reboot_epoch) and self._status(server_id) == "running":
                    return
                self._terminate(server_id)
            if boot_epoch != spec["boot_epoch"]:
                spec["crashes"] = []  # somebody asked for it
            spec.update(
                watchdog_noted=False, boot_epoch=boot_epoch, soft_reboot_epoch=soft_reboot_epoch, power="running"
            )
            spec.update(started_at=datetime.now(UTC).isoformat(timespec="seconds"))
            spec.update(shutdown_asked_at=None, shutdown_sent_at=None)
            self._write(server_id, spec)
            self._saved(server_id).unlink(missing_ok=True)
            self._launch(server_id, spec, taps)
            self._write(server_id, {**spec, "starts": spec["starts"] + 1})

    def note_crash(self, server_id: str) -> None:
        """It ended by itself: see `crashes`."""
        with self._lock(server_id):
            spec = self._read(server_id)
            found = crashes.noted(spec["crashes"], spec["starts"], time.time())
            self._write(server_id, {**spec, "crashes": found})

    def resume(self, server_id: str, taps: dict[str, str]) -> None:
        """Go on with a suspended machine. Saved memory that cannot be used is dropped: the machine is then crashed."""
        with self._lock(server_id):
            saved = self._saved(server_id)
            if self._pid(server_id) is None and saved.exists():
                try:
                    with open(saved, "rb") as memory:
                        self._launch(server_id, self._read(server_id), taps, memory.fileno())
                    while self._status(server_id) == "inmigrate":
                        time.sleep(0.02)
                except Unavailable:
                    if self._pid(server_id) is None and "load of migration failed" in self._complaint(server_id):
                        saved.unlink()  # without its memory it can still boot
                    raise
            self.cont(server_id)

    def cont(self, server_id: str) -> None:
        """Let a paused machine run."""
        with self._lock(server_id):
            live = self._require(server_id)
            spec = self._read(server_id)
            if spec.get("incoming") and self._status(server_id) == "inmigrate":
                raise Unavailable("The machine's memory has not come yet.")
            if spec["power"] != "running" or spec["watchdog_noted"]:
                # from here on its disks change: the saved memory must never be used again
                self._write(server_id, {**spec, "power": "running", "watchdog_noted": False})
                self._saved(server_id).unlink(missing_ok=True)
            self._execute(live, "cont")
            if spec.get("incoming"):
                self._execute(live, "announce-self", ANNOUNCED)
            live.dirty = True

    def pause(self, server_id: str) -> None:
        with self._lock(server_id):
            live = self._require(server_id)
            self._execute(live, "stop")
            self._write(server_id, {**self._read(server_id), "watchdog_noted": True})
            live.dirty = True

    def suspend(self, server_id: str) -> None:
        """Save its memory to a file and end the process."""
        with self._lock(server_id):
            if self._pid(server_id) is None:
                return
            live = self._require(server_id)
            part, saved = self._home(server_id) / "saved.part", self._saved(server_id)
            status = self._execute(live, "query-migrate").get("status")
            if not saved.exists():
                if status in ("setup", "active", "device") or (status == "completed" and part.exists()):
                    self._wait_saved(live)  # somebody began it and died
                else:
                    self._save(live, part)
                publish(part, saved)
            self._write(server_id, {**self._read(server_id), "power": "suspended"})
            self._terminate(server_id)

    def powerdown(self, server_id: str) -> None:
        """Press the power button. `seen` tells what becomes of it, under ``shutdown``:

        ``asked``, then ``again`` (press it again), after `shutdown_grace_s` ``overdue``.
        """
        with self._lock(server_id):
            live = self._require(server_id)
            self._execute(live, "system_powerdown")
            spec = self._read(server_id)
            spec["shutdown_sent_at"] = time.time()
            spec["shutdown_asked_at"] = spec["shutdown_asked_at"] or spec["shutdown_sent_at"]
            self._write(server_id, spec)

    def end(self, server_id: str) -> None:
        """Stop it for good: its process ends, saved memory is dropped, and it counts as stopped."""
        with self._lock(server_id):
            self._terminate(server_id)
            spec = self._read(server_id)
            spec.update(power="stopped", shutdown_asked_at=None, shutdown_sent_at=None)
            self._write(server_id, spec)
            self._saved(server_id).unlink(missing_ok=True)

    def kill(self, server_id: str) -> None:
        """End its process without a word in the record: it is seen as crashed, so it starts again if it is wanted."""
        with self._lock(server_id):
            self._terminate(server_id)

    def stop_shared(self) -> set[str]:
        """For when another host may start them: end at once every machine whose disks are all shared, waiting for no
        lock and no answer. Returns those that still run."""
        found = set()
        for server_id in self.known():
            disks, pid = self._read(server_id)["disks"], self._pid(server_id)
            if pid is not None and all(disk.get("shared") or "nbd" in disk for disk in disks):
                found.add(server_id)
                self._send_kill(server_id, pid)
        return found

    # ---- devices of a running machine

    def attach_disk(self, server_id: str, disk: Doc, image_path: ImagePath) -> None:
        with self._lock(server_id):
            live, spec, key = self._require(server_id), self._read(server_id), disk["key"]
            if command.disk_id(key) in self._devices(live):
                return
            record = next((d for d in spec["disks"] if d["key"] == key), None)
            if record is not None and any(record.get(kind) or disk.get(kind) for kind in ("nbd", "rbd")):
                spec["disks"].remove(record)  # it may be of an attachment that never came to be
                record = None
            if record is None:
                record = self._disks.add(self._home(server_id), spec, disk, image_path)
                self._write(server_id, spec)
            self._drop_nodes(live, key)
            self._require_volume(record)
            if (secret := command.credentials(self._home(server_id), record)) is not None:
                self._execute(live, "object-add", secret)
            for document in command.disk_nodes(self._home(server_id), record):
                self._execute(live, "blockdev-add", document)
            self._execute(live, "device_add", command.disk_device(record))
            live.dirty = True

    def detach_disk(self, server_id: str, key: str) -> None:
        """Unplug the disk; `Unavailable` until the guest has let go of it."""
        with self._lock(server_id):
            if self._pid(server_id) is not None:
                live = self._require(server_id)
                self._unplug(live, command.disk_id(key))
                self._drop_nodes(live, key)
                live.dirty = True
            spec = self._read(server_id)
            spec["disks"] = [disk for disk in spec["disks"] if disk["key"] != key]
            self._write(server_id, spec)
            shutil.rmtree(self._home(server_id) / command.credentials_id(key), ignore_errors=True)

    def record_nic(self, server_id: str, nic: Doc) -> None:
        """Note that the machine is to have the port. Before its tap is made, so that this is always found again."""
        with self._lock(server_id):
            spec = self._read(server_id)
            _add_nic(spec, nic)
            self._write(server_id, spec)

    def attach_nic(self, server_id: str, port_id: str, tap: str) -> None:
        """Plug the recorded port, whose tap exists, into the running machine."""
        with self._lock(server_id):
            live = self._require(server_id)
            if command.nic_id(port_id) in self._devices(live):
                return
            nic = next(nic for nic in self._read(server_id)["nics"] if nic["port_id"] == port_id)
            name = command.netdev_id(port_id)
            with contextlib.suppress(CommandError):
                self._execute(live, "netdev_del", {"id": name})
            with open_tap(tap, self.netns) as fd:
                self._execute(live, "getfd", {"fdname": name}, fds=[fd])
            self._execute(live, "netdev_add", {"type": "tap", "id": name, "fd": name})
            self._execute(live, "device_add", command.nic_device(nic, self.checksum_offload))
            live.dirty = True

    def detach_nic(self, server_id: str, port_id: str) -> None:
        """Unplug the card; `Unavailable` until the guest has let go of it. The record stays (see `forget_nic`)."""
        with self._lock(server_id):
            if self._pid(server_id) is None:
                return
            live = self._require(server_id)
            self._unplug(live, command.nic_id(port_id))
            with contextlib.suppress(CommandError):
                self._execute(live, "netdev_del", {"id": command.netdev_id(port_id)})
            live.dirty = True

    def forget_nic(self, server_id: str, port_id: str) -> None:
        """Take the port, whose tap is gone, out of the record."""
        with self._lock(server_id):
            spec = self._read(server_id)
            if any(nic["port_id"] == port_id for nic in spec["nics"]):
                spec["nics"] = [nic for nic in spec["nics"] if nic["port_id"] != port_id]
                self._write(server_id, spec)

    def resize_volume(self, server_id: str, volume_id: str, size_gib: int) -> None:
        """Grow an attached volume; the guest sees it at once."""
        with self._lock(server_id):
            live = self._require(server_id)
            size_bytes = size_gib * qemu_img.GIB
            if block_copy.sizes(connected(live)).get(command.node(volume_id), size_bytes) < size_bytes:
                if any(disk["key"] == volume_id and disk.get("nbd") for disk in self._read(server_id)["disks"]):
                    # QEMU asks an export for its size when it connects, and connects again when it has to read
                    words = f'qemu-io {command.node(volume_id)} "read 0 512"'
                    self._execute(live, "human-monitor-command", {"command-line": words})
                self._execute(live, "block_resize", {"node-name": command.node(volume_id), "size": size_bytes})
            live.dirty = True

    # ---- copies

    def snapshot(self, server_id: str, image_id: str) -> Path:
        """A standalone qcow2 of the root disk as it is now, under the machine's directory."""
        home = self._home(server_id)
        target = home / "snapshots" / f"{image_id}.qcow2"
        part = target.with_suffix(".part")
        with self._lock(server_id):
            if target.exists():
                return target
            root = next((disk for disk in self._read(server_id)["disks"] if disk["key"] == "root"), None)
            if root is None:
                raise Refused("The machine has no root disk of its own; take a snapshot of its volume.")
            if self._pid(server_id) is not None:
                block_copy.backup(connected(self._require(server_id)), "root", part, self.owner)
            elif root.get("rbd"):
                self._disks.copy_out(root["rbd"], home / "snapshots" / f"{image_id}.raw.part", part)
            else:
                qemu_img.convert(home / root["file"], root["format"], part, "qcow2")
            publish(part, target)
        return target

    def snapshot_done(self, server_id: str, image_id: str, keep: list[str]) -> None:
        """The snapshot is where it belongs: note it and drop the file. Notes of others than `keep` are dropped too."""
        with self._lock(server_id):
            spec = self._read(server_id)
            spec["snapshots_done"] = sorted({i for i in spec["snapshots_done"] if i in keep} | {image_id})
            self._write(server_id, spec)
            self.drop_snapshot(server_id, image_id)

    def drop_snapshot(self, server_id: str, image_id: str) -> None:
        """Nobody wants it any more: drop the file."""
        (self._home(server_id) / "snapshots" / f"{image_id}.qcow2").unlink(missing_ok=True)

    def live_copy(self, volume_id: str, target: Path) -> bool:
        """Copy a volume as it is now to a new qcow2 file; False when no running machine has it open."""
        for server_id in self._holders(volume_id):
            with self._lock(server_id):
                if self._pid(server_id) is not None:
                    block_copy.backup(connected(self._require(server_id)), volume_id, target, self.owner)
                    return True
        return False

    def live_resize(self, volume_id: str, size_gib: int) -> bool:
        """Grow a volume through the machine that has it open; False when none has."""
        for server_id in self._holders(volume_id):
            with self._lock(server_id):
                if self._pid(server_id) is not None:
                    self.resize_volume(server_id, volume_id, size_gib)
                    return True
        return False

    # ---- to another host: a stopped machine's disks

    def export(self, server_id: str, move_id: str, secret: str, keys: list[str]) -> None:
        """Offer the machine's disks `keys` to the host that has the key of this move."""
        with self._lock(server_id):
            if self._pid(server_id) is not None:
                raise Unavailable("The machine is running; its disks cannot be offered.")
            disks = [disk for disk in self._read(server_id)["disks"] if disk["key"] in keys]
            self._exports.serve(self._home(server_id), move_id, secret, disks)

    def end_export(self, server_id: str) -> None:
        with self._lock(server_id):
            self._exports.end(self._home(server_id))

    def fetch(self, server_id: str, move_id: str, secret: str, place: Doc, root_epoch: int, disk: str | None) -> None:
        """Copy one disk from where another host offers it; None: there is none to copy. Durable on return."""
        with self._lock(server_id):
            home = self._home(server_id)
            home.mkdir(mode=0o711, exist_ok=True)
            spec = self._read(server_id)
            fetched = spec.get("fetched")
            if fetched is None or fetched["move"] != move_id:
                fetched = {"move": move_id, "keys": []}
            if disk is not None and disk not in fetched["keys"]:
                offered = place["disks"].get(disk)
                if offered is None:
                    raise Unavailable(f"The disk {disk} is not offered.")
                target = home / own_file(disk, root_epoch)
                part = target.with_suffix(".part")
                nbd.make_key_directory(home / "move", {move_id: secret}, None)
                qemu_img.fetch(place, disk, home / "move", move_id, part, offered["format"], self.netns)
                publish(part, target, self.owner)
                shutil.rmtree(home / "move")
                fetched["keys"].append(disk)
            self._write(server_id, {**spec, "fetched": fetched})

    # ---- to another host: a running machine. The target's side

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
        """Define the machine as one that takes over what runs on another host: the same devices at the same places, and
        empty local disks that the other QEMU fills. `image_path` is asked for its kernel, if it has one."""
        with self._lock(server_id):
            if self._receives(server_id, move_id):
                return
            if (layout["accel"], layout["checksum_offload"]) != (self.accel, self.checksum_offload):
                raise Refused("This host does not run machines as the other one does: accelerator or datapath differ.")
            home = self._home(server_id)
            home.mkdir(mode=0o711, exist_ok=True)
            self._terminate(server_id)
            for disk in local:
                size_bytes = layout["disks"][disk]["size_bytes"]
                self._disks.make_empty(home / own_file(disk, machine["root_epoch"]), size_bytes)
            there = [{**disk, "made": True} for disk in machine["disks"]]  # what is in Ceph is
            self.define(server_id, {**machine, "disks": there}, _no_image, image_path)
            spec = self._read(server_id)
            for record in spec["disks"]:
                record["port"] = layout["disks"][record["key"]]["port"]
            for nic in spec["nics"]:
                nic["port"] = layout["nics"].get(nic["port_id"], nic["port"])
            spec.update(boot_epoch=boot_epoch, soft_reboot_epoch=soft_reboot_epoch, power="running")
            spec.update(started_at=datetime.now(UTC).isoformat(timespec="seconds"), incoming=None, outgoing=None)
            self._write(server_id, spec)
            self._saved(server_id).unlink(missing_ok=True)

    def receive(self, server_id: str, taps: dict[str, str], move_id: str, secret: str, local: list[str]) -> None:
        """Start it. When all of the other's memory has come it stands still (``incoming``) until `cont`."""
        with self._lock(server_id):
            if self._receives(server_id, move_id):
                return
            self._terminate(server_id)
            spec = self._read(server_id)
            self._launch(server_id, spec, taps, incoming="defer")
            self._write(server_id, {**spec, "incoming": self._listen(server_id, move_id, secret, local)})

    def _receives(self, server_id: str, move_id: str) -> bool:
        incoming = self._read(server_id).get("incoming")
        return self._pid(server_id) is not None and incoming is not None and incoming["move"] == move_id

    def _listen(self, server_id: str, move_id: str, secret: str, local: list[str]) -> Doc:
        live, home = self._require(server_id), self._home(server_id)
        migration.use_key(connected(live), home, move_id, secret, "server", self.owner)
        place: Doc = {"move": move_id, "address": self.address, "disks_port": None}
        if local:
            place["disks_port"] = disk_export.free_port(self.address, self.netns)
            migration.offer_disks(connected(live), self.address, place["disks_port"], local)
        place["port"] = disk_export.free_port(self.address, self.netns, (place["disks_port"],))
        migration.await_memory(connected(live), place)
        live.dirty = True
        return place

    def settle(self, server_id: str) -> None:
        """The machine has come, or never will: nothing waits for the other host any more."""
        with self._lock(server_id):
            spec = self._read(server_id)
            if self._pid(server_id) is not None and spec.get("incoming") is not None:
                live = self._require(server_id)
                migration.withdraw_disks(connected(live))
                migration.forget_key(connected(live))
            shutil.rmtree(self._home(server_id) / "move", ignore_errors=True)
            self._write(server_id, {**spec, "incoming": None, "fetched": None})

    # ---- the source's side

    def mirror(self, server_id: str, move_id: str, secret: str, to: Doc, keys: list[str]) -> None:
        """Begin to copy the local disks `keys` to the QEMU that waits at `to`; what is written from then on is written
        there too. `seen` tells, under ``outgoing``, which are complete."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            monitor = connected(live)
            if (spec.get("outgoing") or {}).get("move") != move_id:
                migration.cancel(monitor)
                spec["outgoing"] = {"move": move_id, "sent": False, "mirrored": False}
                self._write(server_id, spec)
            migration.use_key(monitor, self._home(server_id), move_id, secret, "client", self.owner)
            jobs = migration.mirrors(monitor)
            for disk in keys:
                job = jobs.get(migration.mirror_id(disk))
                if job is None or job.get("error"):
                    migration.mirror(monitor, disk, to, job)
            live.dirty = True

    def send(self, server_id: str, move_id: str, to: Doc) -> None:
        """Begin to send the memory. The machine runs on, and stops before the last step (`switch`)."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            if migration.status(connected(live)) not in migration.SENDING:
                migration.send_memory(connected(live), to)
            spec["outgoing"]["sent"] = True
            self._write(server_id, spec)
            live.dirty = True

    def switch(self, server_id: str, move_id: str) -> None:
        """Take the last step: from here on this process runs the machine again only if QEMU says that it failed."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            if migration.status(connected(live)) != "pre-switchover":
                return
            jobs = migration.mirrors(connected(live))
            if not spec["outgoing"]["mirrored"]:
                if any(job["status"] != "ready" for job in jobs.values()):
                    self._execute(live, "migrate_cancel")  # a disk that is not whole over there stays here
                    raise Unavailable("A disk was not copied to its end.")
                spec["outgoing"]["mirrored"] = True
                self._write(server_id, spec)
            for name, job in jobs.items():
                if job["status"] == "ready":
                    self._execute(live, "block-job-cancel", {"device": name})
            migration.await_mirrors(connected(live))
            self._execute(live, "migrate-continue", {"state": "pre-switchover"})
            live.dirty = True

    def stop_sending(self, server_id: str) -> None:
        """The machine stays: it runs on here. One whose memory has gone for good is ended, and seen as crashed."""
        with self._lock(server_id):
            if self._pid(server_id) is not None:
                live = self._require(server_id)
                if self._execute(live, "query-status")["status"] == "postmigrate":
                    self._terminate(server_id)
                else:
                    migration.cancel(connected(live))
                    live.dirty = True
            shutil.rmtree(self._home(server_id) / "move", ignore_errors=True)
            self._write(server_id, {**self._read(server_id), "outgoing": None})


def _by_watchdog(live: Live | None) -> bool:
    return live is not None and live.status == "watchdog"


def _no_image(image_id: str) -> Path:
    raise Unavailable(f"The disk over image {image_id} has not come from the other host.")


def _add_nic(spec: Doc, nic: Doc) -> None:
    if any(known["port_id"] == nic["port_id"] for known in spec["nics"]):
        return
    try:
        port = command.nic_port({known["port"] for known in spec["nics"]})
    except ValueError as error:
        raise Refused(f"Cannot attach port {nic['port_id']}: {error}.") from error
    spec["nics"].append({"port_id": nic["port_id"], "mac": nic["mac"], "mtu": nic["mtu"], "port": port})


def _gib(disk: Doc, live: Live | None) -> int:
    size_bytes = live.size_bytes.get(command.node(disk["key"])) if live is not None else None
    return int(disk["size_gib"]) if size_bytes is None else size_bytes // qemu_img.GIB
