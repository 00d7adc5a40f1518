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
import fcntl
import json
import logging
import os
import pwd
import select
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trilith.drivers import block_copy, crashes, disk_export, linux_net, nbd, pidfiles, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers.ceph import Ceph
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.durable import publish, sync_directory
from trilith.drivers.qmp import CommandError, Monitor, Monitors
from trilith.kernel.errors import Refused, Unavailable

log = logging.getLogger(__name__)

Doc = dict[str, Any]
ImagePath = Callable[[str], Path]

REREAD_S = 10.0  # a machine's state is asked for at least this often; in between, events say when it changed
CONSOLE_BYTES = 1 << 20
SHUTDOWN_REPEAT_S = 10.0  # a guest that is still booting misses the power button
NICENESS = 39  # 19, whatever the agent has: what serves a host goes before its machines, of which all have the same
LAUNCH_S = 30.0
UNPLUG_S = 5.0
FORMAT_S = 300.0
SOCKET_PATH_MAX = 107

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
CHANGES = {
    "MIGRATION",
    "BLOCK_JOB_READY",
    "BLOCK_JOB_COMPLETED",
    "SHUTDOWN",
    "STOP",
    "RESUME",
    "DEVICE_DELETED",
    "BLOCK_IO_ERROR",
    "GUEST_PANICKED",
    "WATCHDOG",
}
MIRROR = "mirror-"  # a job of a move, with the disk's key
MIRRORS_S = 20.0
SENDS_WITH = ("pause-before-switchover", "auto-converge", "return-path")  # the last: completed is what has arrived
SENDING = ("setup", "active", "pre-switchover", "device")
BANDWIDTH_BYTES = 4 << 30  # a second: what the network gives
DOWNTIME_MS = 300
NEVER = -1  # the epoch of a machine that was never started


class Live:
    """A running QEMU that we are connected to, and what it said last."""

    def __init__(self) -> None:
        self.monitor: Monitor | None = None
        self.dirty = True
        self.read_at = 0.0
        self.status = "running"
        self.devices: frozenset[str] = frozenset()
        self.size_bytes: dict[str, int] = {}  # by block node
        self.outgoing: Doc = {}  # how far a migration to another host is
        self.connecting = threading.Lock()  # the monitor takes one client: a second one of ours would hang


class Qemu:
    """The machines of one host, under `state_dir`/machines.

    `accel` is kvm or tcg; `netns` the network namespace that QEMU runs in; `run_as` a user's name or ``uid:gid``,
    None to stay who we are. `on_change` is called, from another thread, when a machine changes by itself; it must not
    block. `checksum_offload` is only for a network whose datapath completes checksums. `address` is where other hosts
    reach this one when machines move. `ceph`: where machines' disks may lie; an image in it is made here, and never
    removed: the machine may run elsewhere by now.
    """

    shutdown_grace_s = 60.0
    answer_s = 5.0  # for a running machine to say how it is

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
        self.directory = (state_dir / "machines").absolute()
        self.accel = accel
        self.netns = netns
        self.owner = _owner(run_as)
        self.on_change = on_change
        self.checksum_offload = checksum_offload
        self.ceph = ceph
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        longest = self.directory / ("x" * 36) / "run" / "serial"
        if len(str(longest)) > SOCKET_PATH_MAX:
            raise Refused(f"The state directory's path is too long for sockets: {state_dir}. Use a shorter one.")
        if self.owner is not None:
            _require_reachable(self.directory, *self.owner)
        self.address = address
        self._exports = disk_export.DiskExports(address, netns, self.owner)
        self._monitors = Monitors()
        self._lives: dict[str, Live] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._guard = threading.Lock()  # the three above

    def close(self) -> None:
        """Let go of all machines; they run on."""
        self._monitors.stop()

    # ---- what is there

    def known(self) -> set[str]:
        return {entry.name for entry in self.directory.iterdir()}

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
        text = b"".join(_read_plain(run / name) for name in ("console.0", "console.log")).decode(errors="replace")
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

    def define(self, server_id: str, machine: Doc, image_path: ImagePath) -> None:
        """Make its directory, its local disks and its record, for a machine that is not running.

        `machine`: ``name vcpus ram_mib root_epoch root_gib rescue_image_id config_drive disks nics``; a disk has a
        ``key`` that stays (its volume's id, or ``root``, ``rescue``, a label), a nic ``port_id mac mtu``. `image_path`
        is asked only for an image that a disk has yet to be made from.
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
            spec["disks"] = []
            for disk in machine["disks"]:
                self._add_disk(server_id, spec, disk, image_path)
            # a port that shall go keeps its place in the record until its tap is gone
            wanted = [nic["port_id"] for nic in machine["nics"]]
            spec["nics"] = [nic for port_id, nic in old_ports.items() if port_id in wanted]
            leaving = [nic for port_id, nic in old_ports.items() if port_id not in wanted]
            for nic in machine["nics"]:
                _add_nic(spec, nic)
            spec["nics"] += leaving
            self._write(server_id, spec)
            self._drop_unused(home, spec)

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
                record = self._add_disk(server_id, spec, disk, image_path)
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
            with _open_tap(tap, self.netns) as fd:
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
            if block_copy.sizes(_connected(live)).get(command.node(volume_id), size_bytes) < size_bytes:
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
                block_copy.backup(_connected(self._require(server_id)), "root", part, self.owner)
            elif root.get("rbd"):
                self._copy_out(root["rbd"], home / "snapshots" / f"{image_id}.raw.part", part)
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
                    block_copy.backup(_connected(self._require(server_id)), volume_id, target, self.owner)
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
                target = home / _own_file(disk, root_epoch)
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
    ) -> None:
        """Define the machine as one that takes over what runs on another host: the same devices at the same places, and
        empty local disks that the other QEMU fills."""
        with self._lock(server_id):
            if self._receives(server_id, move_id):
                return
            if (layout["accel"], layout["checksum_offload"]) != (self.accel, self.checksum_offload):
                raise Refused("This host does not run machines as the other one does: accelerator or datapath differ.")
            home = self._home(server_id)
            home.mkdir(mode=0o711, exist_ok=True)
            self._terminate(server_id)
            for disk in local:
                self._make_empty(home / _own_file(disk, machine["root_epoch"]), layout["disks"][disk]["size_bytes"])
            there = [{**disk, "made": True} for disk in machine["disks"]]  # what is in Ceph is
            self.define(server_id, {**machine, "disks": there}, _no_image)
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

    def _make_empty(self, file: Path, size_bytes: int) -> None:
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        qemu_img.create(part, "qcow2" if file.suffix == ".qcow2" else "raw", size_bytes)
        publish(part, file, self.owner)

    def _listen(self, server_id: str, move_id: str, secret: str, local: list[str]) -> Doc:
        live, home = self._require(server_id), self._home(server_id)
        self._use_key(live, home, move_id, secret, "server")
        place: Doc = {"move": move_id, "address": self.address, "disks_port": None}
        if local:
            place["disks_port"] = disk_export.free_port(self.address, self.netns)
            inet = {"type": "inet", "data": {"host": self.address, "port": str(place["disks_port"])}}
            self._execute(live, "nbd-server-start", {"addr": inet, "tls-creds": "move"})
        for number, disk in enumerate(local):
            export = {"type": "nbd", "id": f"move-{number}", "node-name": command.node(disk), "name": disk}
            self._execute(live, "block-export-add", {**export, "writable": True})
        place["port"] = disk_export.free_port(self.address, self.netns, (place["disks_port"],))
        self._set_migration(live, "move", **{"events": True, "return-path": True})
        self._execute(live, "migrate-incoming", {"uri": _uri(place)})
        live.dirty = True
        return place

    def settle(self, server_id: str) -> None:
        """The machine has come, or never will: nothing waits for the other host any more."""
        with self._lock(server_id):
            spec = self._read(server_id)
            if self._pid(server_id) is not None and spec.get("incoming") is not None:
                live = self._require(server_id)
                for export in self._execute(live, "query-block-exports"):
                    self._execute(live, "block-export-del", {"id": export["id"], "mode": "hard"})
                with contextlib.suppress(CommandError):
                    self._execute(live, "nbd-server-stop")
                self._forget_key(live)
            shutil.rmtree(self._home(server_id) / "move", ignore_errors=True)
            self._write(server_id, {**spec, "incoming": None, "fetched": None})

    # ---- the source's side

    def mirror(self, server_id: str, move_id: str, secret: str, to: Doc, keys: list[str]) -> None:
        """Begin to copy the local disks `keys` to the QEMU that waits at `to`; what is written from then on is written
        there too. `seen` tells, under ``outgoing``, which are complete."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            if (spec.get("outgoing") or {}).get("move") != move_id:
                self._stop_sending(server_id, live)
                spec["outgoing"] = {"move": move_id, "sent": False, "mirrored": False}
                self._write(server_id, spec)
            self._use_key(live, self._home(server_id), move_id, secret, "client")
            jobs = {job["id"]: job for job in self._execute(live, "query-jobs")}
            for disk in keys:
                job = jobs.get(_mirror(disk))
                if job is not None and not job.get("error"):
                    continue
                self._end_mirror(live, disk, job)
                inet = {"type": "inet", "host": to["address"], "port": str(to["disks_port"])}
                target = {"driver": "nbd", "node-name": _far_node(disk), "export": disk, "server": inet}
                self._execute(live, "blockdev-add", {**target, "tls-creds": "move"})
                ask: Doc = {"job-id": _mirror(disk), "device": command.node(disk), "target": _far_node(disk)}
                ask |= {"sync": "full", "copy-mode": "write-blocking", "auto-dismiss": False}
                self._execute(live, "blockdev-mirror", ask)
            live.dirty = True

    def send(self, server_id: str, move_id: str, to: Doc) -> None:
        """Begin to send the memory. The machine runs on, and stops before the last step (`switch`)."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            if self._execute(live, "query-migrate").get("status") not in SENDING:
                self._set_migration(live, "move", **dict.fromkeys(SENDS_WITH, True), events=True)
                self._execute(live, "migrate", {"uri": _uri(to)})
            spec["outgoing"]["sent"] = True
            self._write(server_id, spec)
            live.dirty = True

    def switch(self, server_id: str, move_id: str) -> None:
        """Take the last step: from here on this process runs the machine again only if QEMU says that it failed."""
        with self._lock(server_id):
            live, spec = self._require(server_id), self._read(server_id)
            if self._execute(live, "query-migrate").get("status") != "pre-switchover":
                return
            jobs = {job["id"]: job for job in self._execute(live, "query-jobs") if job["id"].startswith(MIRROR)}
            if not spec["outgoing"]["mirrored"]:
                if any(job["status"] != "ready" for job in jobs.values()):
                    self._execute(live, "migrate_cancel")  # a disk that is not whole over there stays here
                    raise Unavailable("A disk was not copied to its end.")
                spec["outgoing"]["mirrored"] = True
                self._write(server_id, spec)
            for name, job in jobs.items():
                if job["status"] == "ready":
                    self._execute(live, "block-job-cancel", {"device": name})
            self._await_mirrors(live)
            self._execute(live, "migrate-continue", {"state": "pre-switchover"})
            live.dirty = True

    def _await_mirrors(self, live: Live) -> None:
        deadline = time.monotonic() + MIRRORS_S
        while True:
            jobs = [job for job in self._execute(live, "query-jobs") if job["id"].startswith(MIRROR)]
            if any(job.get("error") for job in jobs):
                self._execute(live, "migrate_cancel")
                raise Unavailable("A disk was not copied to its end.")
            if all(job["status"] == "concluded" for job in jobs):
                return
            if time.monotonic() > deadline:
                raise Unavailable("The disks are not complete yet.")
            time.sleep(0.01)

    def stop_sending(self, server_id: str) -> None:
        """The machine stays: it runs on here. One whose memory has gone for good is ended, and seen as crashed."""
        with self._lock(server_id):
            if self._pid(server_id) is not None:
                live = self._require(server_id)
                if self._execute(live, "query-status")["status"] == "postmigrate":
                    self._terminate(server_id)
                else:
                    self._stop_sending(server_id, live)
            shutil.rmtree(self._home(server_id) / "move", ignore_errors=True)
            self._write(server_id, {**self._read(server_id), "outgoing": None})

    def _stop_sending(self, server_id: str, live: Live) -> None:
        self._execute(live, "migrate_cancel")
        deadline = time.monotonic() + MIRRORS_S
        while self._execute(live, "query-migrate").get("status") in (*SENDING, "cancelling"):
            if time.monotonic() > deadline:
                raise Unavailable("The migration does not end.")
            time.sleep(0.02)
        for job in self._execute(live, "query-jobs"):
            if job["id"].startswith(MIRROR):
                self._end_mirror(live, job["id"].removeprefix(MIRROR), job)
        self._forget_key(live)
        live.dirty = True

    def _end_mirror(self, live: Live, disk: str, job: Doc | None) -> None:
        deadline = time.monotonic() + MIRRORS_S
        name = _mirror(disk)
        while job is not None and time.monotonic() < deadline:
            with contextlib.suppress(CommandError):
                if job["status"] == "concluded":
                    self._execute(live, "job-dismiss", {"id": name})
                else:
                    self._execute(live, "block-job-cancel", {"device": name, "force": True})
                    time.sleep(0.02)
            job = next((each for each in self._execute(live, "query-jobs") if each["id"] == name), None)
        with contextlib.suppress(CommandError):  # there is none
            self._execute(live, "blockdev-del", {"node-name": _far_node(disk)})

    def _use_key(self, live: Live, home: Path, move_id: str, secret: str, endpoint: str) -> None:
        nbd.make_key_directory(home / "move", {move_id: secret}, self.owner)
        if self._has_object(live, "move"):
            return
        credentials = {"qom-type": "tls-creds-psk", "id": "move", "endpoint": endpoint, "dir": str(home / "move")}
        self._execute(live, "object-add", credentials | ({"username": move_id} if endpoint == "client" else {}))

    def _forget_key(self, live: Live) -> None:
        """Also what was set for the move: saving a machine to a file must not wait before its last step."""
        self._set_migration(live, "", **dict.fromkeys(SENDS_WITH, False))
        if self._has_object(live, "move"):
            self._execute(live, "object-del", {"id": "move"})

    def _set_migration(self, live: Live, credentials: str, **capabilities: bool) -> None:
        listed = [{"capability": name, "state": state} for name, state in capabilities.items()]
        self._execute(live, "migrate-set-capabilities", {"capabilities": listed})
        limits = {"max-bandwidth": BANDWIDTH_BYTES, "downtime-limit": DOWNTIME_MS}
        self._execute(live, "migrate-set-parameters", {"tls-creds": credentials, **limits})

    def _outgoing(self, live: Live) -> Doc:
        """``status error mirrors memory disk`` of a machine that goes to another host."""
        found = self._execute(live, "query-migrate")
        jobs = [job for job in self._execute(live, "query-jobs") if job["id"].startswith(MIRROR)]
        whole = {job["id"].removeprefix(MIRROR): job["status"] == "ready" for job in jobs if not job.get("error")}
        ram = found.get("ram", {})
        memory = {name: ram.get(name, 0) for name in ("total", "remaining")}
        disk = {"total": sum(job["total-progress"] for job in jobs)}
        disk["remaining"] = disk["total"] - sum(job["current-progress"] for job in jobs)
        for amounts in (memory, disk):
            amounts["processed"] = amounts["total"] - amounts["remaining"]
        error = found.get("error-desc")
        return {"status": found.get("status", "none"), "error": error, "mirrors": whole, "memory": memory, "disk": disk}

    # ---- the record

    def _home(self, server_id: str) -> Path:
        return self.directory / server_id

    def _saved(self, server_id: str) -> Path:
        return self._home(server_id) / "saved"

    def _lock(self, server_id: str) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(server_id, threading.RLock())

    def _read(self, server_id: str) -> Doc:
        try:
            document: Doc = json.loads((self._home(server_id) / "spec.json").read_bytes())
        except FileNotFoundError:
            return _blank_spec()
        return _blank_spec() | document

    def _write(self, server_id: str, spec: Doc) -> None:
        part = self._home(server_id) / "spec.part"
        part.write_text(json.dumps(spec))
        publish(part, self._home(server_id) / "spec.json")

    def _holders(self, volume_id: str) -> list[str]:
        """Machines that have the volume in their record."""
        known = ((server_id, self._read(server_id)["disks"]) for server_id in self.known())
        return [server_id for server_id, disks in known if any(disk["key"] == volume_id for disk in disks)]

    # ---- files

    def _add_disk(self, server_id: str, spec: Doc, disk: Doc, image_path: ImagePath) -> Doc:
        """Put `disk` into `spec` with its file, which is made if it is local and not there yet."""
        home, record = self._home(server_id), {"key": disk["key"], "device": disk["device"]}
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

    def _copy_out(self, rbd: Doc, raw: Path, target: Path) -> None:
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

    def _drop_unused(self, home: Path, spec: Doc) -> None:
        """Remove disks of former epochs, of ended rescues, and what a killed agent left unfinished."""
        keep = {"spec.json", "run", "snapshots", "saved", "config.iso", "qemu.log"}
        keep |= {command.CEPH_KEY} if any(disk.get("rbd") for disk in spec["disks"]) else set()
        keep |= {disk["file"] if "file" in disk else command.credentials_id(disk["key"]) for disk in spec["disks"]}
        keep |= {d["base"]["file"] for d in spec["disks"] if "base" in d}
        keep |= {"move"}
        unused = [entry for entry in home.iterdir() if entry.name not in keep]
        for entry in [*unused, *(home / "snapshots").glob("*.part")]:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    # ---- the process

    def _pid(self, server_id: str) -> int | None:
        return pidfiles.holder(self._home(server_id) / "run" / "pid", f"guest={server_id},")

    def _require_volume(self, disk: Doc) -> None:
        """`Unavailable` while a volume on another host cannot be reached."""
        if disk.get("nbd"):
            nbd.require_answer(disk["nbd"]["address"], disk["nbd"]["port"], self.netns)

    def _launch(
        self,
        server_id: str,
        spec: Doc,
        taps: dict[str, str],
        incoming_fd: int | None = None,
        incoming: str | None = None,
    ) -> None:
        home = self._home(server_id)
        for disk in spec["disks"]:
            self._require_volume(disk)
        run = home / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        if self.owner is not None:
            os.chown(run, *self.owner)
        for name in ("qmp", "qmp2", "serial", "vnc"):
            (run / name).unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            spec = {**spec, "nics": [nic for nic in spec["nics"] if nic["port_id"] in taps]}
            fds = {n["port_id"]: stack.enter_context(_open_tap(taps[n["port_id"]], self.netns)) for n in spec["nics"]}
            words = ["nice", "-n", str(NICENESS), *command.launcher(self.netns, self.owner, self.accel)]
            words += command.arguments(server_id, home, spec, self.accel, self.checksum_offload, fds)
            passed = list(fds.values())
            if incoming_fd is not None:
                words += ["-incoming", f"fd:{incoming_fd}"]
                passed.append(incoming_fd)
            elif incoming is not None:
                words += ["-incoming", incoming, "-S"]
            child = pidfiles.start(words, home / "qemu.log", passed)
        with self._guard:
            self._children = [old for old in self._children if old.poll() is None] + [child]
        self._wait_launched(server_id, child)

    def _wait_launched(self, server_id: str, child: subprocess.Popen[bytes]) -> None:
        self._forget(server_id)
        deadline = time.monotonic() + LAUNCH_S
        pause_s = 0.01
        while time.monotonic() < deadline:
            if child.poll() is not None:
                complaint = self._complaint(server_id)
                log.error("QEMU did not start: %s", complaint, extra={"server": server_id})
                self._kill(server_id)  # one that an agent started and died may hold the pidfile
                raise Unavailable(f"QEMU did not start: {qemu_img.DIRECTORIES.sub('', complaint[-300:])}")
            if self._pid(server_id) is not None:
                with contextlib.suppress(Unavailable):
                    self._require(server_id)
                    return
            time.sleep(pause_s)
            pause_s = min(0.2, pause_s * 1.5)
        self._kill(server_id)
        raise Unavailable(f"QEMU was not ready after {LAUNCH_S:g} s.")

    def _complaint(self, server_id: str) -> str:
        """What QEMU said on its way out."""
        return (self._home(server_id) / "qemu.log").read_text(errors="replace").strip()

    def _terminate(self, server_id: str) -> None:
        """End QEMU so that its disks are left whole: by asking, and after some seconds by force."""
        if self._pid(server_id) is not None:
            with contextlib.suppress(Unavailable):
                self._execute(self._require(server_id), "quit", timeout_s=3.0)
            self._await_exit(server_id, 5.0)
        self._kill(server_id)
        self._forget(server_id)

    def _kill(self, server_id: str) -> None:
        pid = self._pid(server_id)
        if pid is None:
            return
        self._send_kill(server_id, pid)
        if not self._await_exit(server_id, 10.0):
            raise Unavailable(f"QEMU process {pid} does not die.")

    def _send_kill(self, server_id: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                if self._pid(server_id) == pid:  # still the same process, now that it is held
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)

    def _await_exit(self, server_id: str, timeout_s: float) -> bool:
        pid = self._pid(server_id)
        if pid is None:
            return True
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            if self._pid(server_id) == pid:
                select.select([fd], [], [], timeout_s)
        finally:
            os.close(fd)
        with self._guard:
            self._children = [child for child in self._children if child.poll() is None]
        return self._pid(server_id) is None

    # ---- the monitor

    def _require(self, server_id: str) -> Live:
        """The running machine, connected; `Unavailable` when it is not running or does not answer."""
        with self._guard:
            live = self._lives.setdefault(server_id, Live())

        def touched() -> None:
            live.dirty = True
            self.on_change()

        def on_event(name: str, data: Doc) -> None:
            if name in CHANGES:
                touched()

        with live.connecting:
            if live.monitor is None or live.monitor.closed:
                path = self._home(server_id) / "run" / "qmp"
                live.monitor = self._monitors.connect(path, on_event, touched)
                live.dirty = True
        return live

    def _forget(self, server_id: str) -> None:
        with self._guard:
            live = self._lives.pop(server_id, None)
        if live is not None and live.monitor is not None:
            self._monitors.close(live.monitor)

    def _execute(
        self, live: Live, name: str, arguments: Doc | None = None, fds: list[int] | None = None, timeout_s: float = 20.0
    ) -> Any:
        return _connected(live).execute(name, arguments, fds or (), timeout_s)

    def _refreshed(self, server_id: str) -> Live:
        """The running machine with a state that is not older than its last event, or than `REREAD_S`."""
        live = self._require(server_id)
        if live.dirty or time.monotonic() - live.read_at > REREAD_S:
            live.dirty = False  # before asking: what happens from here on makes it dirty again
            try:
                live.status = self._execute(live, "query-status", timeout_s=self.answer_s)["status"]
                live.devices = self._devices(live)
                live.size_bytes = block_copy.sizes(_connected(live))
                if self._read(server_id).get("outgoing") is not None:
                    live.outgoing = self._outgoing(live)
                    live.dirty = True  # it is on its way
                if live.status == "io-error":
                    self._execute(live, "cont")  # there may be room again
                    live.dirty = True
            except Unavailable:
                live.dirty = True
                raise
            live.read_at = time.monotonic()
            _trim(self._home(server_id) / "run")
        return live

    def _status(self, server_id: str) -> str:
        return str(self._execute(self._require(server_id), "query-status")["status"])

    def _devices(self, live: Live) -> frozenset[str]:
        listing = self._execute(live, "qom-list", {"path": "/machine/peripheral"})
        return frozenset(item["name"] for item in listing)

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

    def _unplug(self, live: Live, device: str) -> None:
        deadline = time.monotonic() + UNPLUG_S
        if device not in self._devices(live):
            return
        with contextlib.suppress(CommandError):  # it is on its way out already
            self._execute(live, "device_del", {"id": device})
        while device in self._devices(live):
            if time.monotonic() > deadline:
                raise Unavailable(f"The guest has not let go of {device} yet.")
            time.sleep(0.05)

    def _drop_nodes(self, live: Live, key: str) -> None:
        block_copy.drop_nodes(_connected(live), key)
        if self._has_object(live, command.credentials_id(key)):
            self._execute(live, "object-del", {"id": command.credentials_id(key)})

    def _has_object(self, live: Live, name: str) -> bool:
        return any(item["name"] == name for item in self._execute(live, "qom-list", {"path": "/objects"}))

    def _save(self, live: Live, part: Path) -> None:
        self._execute(live, "stop")
        with open(part, "wb") as memory:
            os.fchmod(memory.fileno(), 0o600)
            self._execute(live, "getfd", {"fdname": "saved"}, fds=[memory.fileno()])
        self._execute(live, "migrate", {"uri": "fd:saved"})
        self._wait_saved(live)

    def _wait_saved(self, live: Live) -> None:
        while (found := self._execute(live, "query-migrate"))["status"] != "completed":
            if found["status"] in ("failed", "cancelled"):
                raise Unavailable(f"The machine's memory could not be saved: {found.get('error-desc', '')}")
            time.sleep(0.05)


def _by_watchdog(live: Live | None) -> bool:
    return live is not None and live.status == "watchdog"


def _connected(live: Live) -> Monitor:
    if live.monitor is None:
        raise Unavailable("The machine's monitor is not connected.")
    return live.monitor


def _owner(run_as: str | None) -> tuple[int, int] | None:
    if run_as is None:
        return None
    if ":" in run_as:
        uid, gid = run_as.split(":")
        return int(uid), int(gid)
    try:
        user = pwd.getpwnam(run_as)
    except KeyError as error:
        raise Refused(f"There is no user {run_as} to run machines as.") from error
    return user.pw_uid, user.pw_gid


def _require_reachable(directory: Path, uid: int, gid: int) -> None:
    """Refused if the user that machines run as cannot pass through the directories that their files are in."""
    for parent in directory.parents:
        status = parent.stat()
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            raise Refused(f"User {uid}, whom machines run as, cannot get through {parent}. Type: chmod a+x {parent}")


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


def _blank_spec() -> Doc:
    return {
        "name": "",
        "vcpus": 0,
        "ram_mib": 0,
        "root_gib": 0,
        "root_epoch": NEVER,
        "boot_epoch": NEVER,
        "soft_reboot_epoch": NEVER,
        "rescue_image_id": None,
        "config_drive": False,
        "disks": [],
        "nics": [],
        "power": "stopped",  # what we made of it last: running without a process means crashed
        "started_at": None,
        "starts": 0,
        "crashes": [],
        "watchdog_action": "disabled",
        "watchdog_noted": False,  # that the watchdog paused it is known, and it is wanted paused
        "shutdown_asked_at": None,
        "shutdown_sent_at": None,
        "snapshots_done": [],
        "fetched": None,
        "incoming": None,
        "outgoing": None,
    }


def _own_file(key: str, root_epoch: int) -> str:
    """Name of a local disk that came from another host: whole, over no image."""
    return f"root-{root_epoch}-whole.qcow2" if key == "root" else f"{key}-{root_epoch}.raw"


def _no_image(image_id: str) -> Path:
    raise Unavailable(f"The disk over image {image_id} has not come from the other host.")


def _mirror(disk: str) -> str:
    return f"{MIRROR}{disk}"[:31]


def _far_node(disk: str) -> str:
    return f"m-{disk[:28]}"


def _uri(place: Doc) -> str:
    address = f"[{place['address']}]" if ":" in place["address"] else place["address"]
    return f"tcp:{address}:{place['port']}"


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


def _read_plain(path: Path) -> bytes:
    """Bytes of a file in a directory that QEMU may write to: never through a link that it may have put there."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read(2 * CONSOLE_BYTES)
    except OSError:
        return b""


def _trim(run: Path) -> None:
    """Keep the console log within bounds: QEMU appends to the open file, so it is cut in place."""
    try:
        fd = os.open(run / "console.log", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        size_bytes = os.fstat(fd).st_size
        if size_bytes > CONSOLE_BYTES:
            tail = os.pread(fd, CONSOLE_BYTES // 2, size_bytes - CONSOLE_BYTES // 2)
            os.ftruncate(fd, 0)
            part = run / "console.part"
            part.unlink(missing_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as kept:
                kept.write(tail)
            part.rename(run / "console.0")
    finally:
        os.close(fd)


@contextlib.contextmanager
def _open_tap(name: str, netns: str | None) -> Iterator[int]:
    """An open descriptor of the tap `name` in `netns`: QEMU, which is not root, gets only this."""
    with linux_net.in_netns(netns):
        if not linux_net.link_exists(name):  # opening would make one that is on no switch
            raise Unavailable(f"There is no tap {name}.")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            flags = linux_net.IFF_TAP | linux_net.IFF_NO_PI | linux_net.IFF_VNET_HDR
            fcntl.ioctl(fd, linux_net.TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except OSError as error:
            os.close(fd)
            raise Unavailable(f"The tap {name} cannot be opened: {error.strerror}") from error
    try:
        os.set_blocking(fd, False)
        yield fd
    finally:
        os.close(fd)
