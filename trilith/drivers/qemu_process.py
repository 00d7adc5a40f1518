"""QEMU processes of one host, their records and their monitors: what `qemu` makes machines of.

A process is found by its locked pidfile, is asked through its monitor's socket, and is ended by its pidfd; whoever
holds a machine's lock may do any of it.
"""

import contextlib
import fcntl
import json
import logging
import os
import pwd
import select
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trilith.drivers import block_copy, linux_net, nbd, pidfiles, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers import qemu_migration as migration
from trilith.drivers.durable import publish
from trilith.drivers.qmp import CommandError, Monitor, Monitors
from trilith.kernel.errors import Refused, Unavailable

log = logging.getLogger(__name__)

Doc = dict[str, Any]

REREAD_S = 10.0  # a machine's state is asked for at least this often; in between, events say when it changed
CONSOLE_BYTES = 1 << 20
NICENESS = 39  # 19, whatever the agent has: what serves a host goes before its machines, of which all have the same
LAUNCH_S = 30.0
UNPLUG_S = 5.0
SOCKET_PATH_MAX = 107
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


class Processes:
    """See `qemu.Qemu` for what these are."""

    answer_s = 5.0  # for a running machine to say how it is

    def __init__(
        self,
        state_dir: Path,
        accel: str,
        netns: str | None,
        run_as: str | None,
        on_change: Callable[[], None],
        checksum_offload: bool,
    ) -> None:
        self.directory = (state_dir / "machines").absolute()
        self.accel = accel
        self.netns = netns
        self.owner = _owner(run_as)
        self.on_change = on_change
        self.checksum_offload = checksum_offload
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        longest = self.directory / ("x" * 36) / "run" / "serial"
        if len(str(longest)) > SOCKET_PATH_MAX:
            raise Refused(f"The state directory's path is too long for sockets: {state_dir}. Use a shorter one.")
        if self.owner is not None:
            _require_reachable(self.directory, *self.owner)
        self._monitors = Monitors()
        self._lives: dict[str, Live] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._guard = threading.Lock()  # the three above

    def close(self) -> None:
        """Let go of all machines; they run on."""
        self._monitors.stop()

    def known(self) -> set[str]:
        return {entry.name for entry in self.directory.iterdir()}

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

    # ---- the process

    @property
    def emulates(self) -> bool:
        """Whether machines' processors are emulated, and not the host's own."""
        return self.accel == "tcg"

    def cpu_s(self, server_id: str) -> float | None:
        """Seconds of processors that the machine's process has used; None while there is none."""
        pid = self._pid(server_id)
        return None if pid is None else pidfiles.cpu_s(pid)

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
            fds = {n["port_id"]: stack.enter_context(open_tap(taps[n["port_id"]], self.netns)) for n in spec["nics"]}
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
        return connected(live).execute(name, arguments, fds or (), timeout_s)

    def _refreshed(self, server_id: str) -> Live:
        """The running machine with a state that is not older than its last event, or than `REREAD_S`."""
        live = self._require(server_id)
        if live.dirty or time.monotonic() - live.read_at > REREAD_S:
            live.dirty = False  # before asking: what happens from here on makes it dirty again
            try:
                live.status = self._execute(live, "query-status", timeout_s=self.answer_s)["status"]
                live.devices = self._devices(live)
                live.size_bytes = block_copy.sizes(connected(live))
                if self._read(server_id).get("outgoing") is not None:
                    live.outgoing = migration.progress(connected(live))
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
        block_copy.drop_nodes(connected(live), key)
        if migration.has_object(connected(live), command.credentials_id(key)):
            self._execute(live, "object-del", {"id": command.credentials_id(key)})

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


def connected(live: Live) -> Monitor:
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
        "kernel": None,
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


def read_plain(path: Path) -> bytes:
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
def open_tap(name: str, netns: str | None) -> Iterator[int]:
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
