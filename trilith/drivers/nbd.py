"""Volumes served to machines of other hosts: one qemu-storage-daemon for each, by NBD with TLS.

    <volume id>/export.json    the port and who may connect; the export lasts as long as this file
    <volume id>/nbd/           the daemon's own: keys.psk, pid, qmp, log

A daemon outlives its agent and is found again by its locked pidfile; one that died is started again on the same port,
so that machines, whose QEMU waits for it, go on. Each attachment has a key of its own (TLS-PSK): nobody else gets in,
and nothing is spoken without TLS. The daemon keeps QEMU's lock on the file: no machine of this host can open it too.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from trilith.drivers import block_copy, linux_net, pidfiles, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers.durable import check_name, publish
from trilith.drivers.qmp import Monitors
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

PORTS = range(20000, 28000)  # below those that the kernel gives to whoever connects
START_S = 15.0
END_S = 5.0
CONNECT_S = 2.0
WORD = "type=nbd,id=volume-"  # by which a daemon's command line is known, with the volume's id
KEY = re.compile(r"[0-9a-f]{64}")


class NbdExports:
    """The exports of the volumes under `directory`, on `address` inside the network namespace `netns`.

    `owner` is the (uid, gid) of the unprivileged QEMU. All calls are idempotent; one caller per volume at a time, but
    for `live_copy`. Raises `Unavailable`.
    """

    def __init__(
        self, directory: Path, address: str, netns: str | None = None, owner: tuple[int, int] | None = None
    ) -> None:
        self._directory, self._address = directory.absolute(), address
        self._netns, self._owner = netns, owner
        self._ports = threading.Lock()  # from choosing a port until it is noted
        self._copying: dict[str, threading.Lock] = {}  # a monitor takes one client at a time
        self._children: list[subprocess.Popen[bytes]] = []

    def seen(self, volume_id: str) -> Doc | None:
        """``address port clients running``; `clients` are the attachments whose keys open it. None: not exported."""
        note = self._note(volume_id)
        return None if note is None else {**note, "running": self._runs(volume_id)}

    def known(self) -> set[str]:
        """Ids of all volumes that are exported, or were when their daemon died."""
        return {path.parent.name for path in self._directory.glob("*/export.json")}

    def serve(self, volume_id: str, keys: dict[str, str]) -> None:
        """Export the volume to those who have one of the `keys`: attachment id to 64 hexadecimal digits."""
        note = self._note(volume_id)
        if note is not None and not set(note["clients"]) <= keys.keys():
            self._stop(volume_id)  # whoever is connected with a key that was taken back
        self._write_keys(volume_id, keys)
        with self._ports:
            port = self._free_port() if note is None else note["port"]
            self._write_note(volume_id, {"address": self._address, "port": port, "clients": sorted(keys)})
        if note is not None and note["address"] != self._address:
            self._stop(volume_id)
        if not self._runs(volume_id):
            self._start(volume_id, port)

    def end(self, volume_id: str) -> None:
        """Nobody reaches the volume any more, and its file is free."""
        self._stop(volume_id)
        shutil.rmtree(self._home(volume_id), ignore_errors=True)
        self._note_file(volume_id).unlink(missing_ok=True)

    def resize(self, volume_id: str, size_gib: int) -> bool:
        """Grow the exported volume; False if it is not exported. A node that is exported cannot be resized: the daemon
        is away for a moment, which its clients wait out."""
        if (note := self._note(volume_id)) is None:
            return False
        self._stop(volume_id)
        qemu_img.resize(self._disk(volume_id), "qcow2", size_gib * qemu_img.GIB)
        self._start(volume_id, note["port"])
        return True

    def live_copy(self, volume_id: str, target: Path) -> bool:
        """Copy the exported volume, as of one moment, into the new qcow2 `target`; False if it is not exported."""
        if self._note(volume_id) is None:
            return False
        if not self._runs(volume_id):
            raise Unavailable(f"The export of volume {volume_id} is not running at the moment.")
        with self._ports:
            lock = self._copying.setdefault(volume_id, threading.Lock())
        with lock:
            monitors = Monitors()
            try:
                monitor = monitors.connect(self._home(volume_id) / "qmp")
                block_copy.backup(monitor, volume_id, target, self._owner)
            finally:
                monitors.stop()
        return True

    # --- the daemon

    def _runs(self, volume_id: str) -> bool:
        return pidfiles.holder(self._home(volume_id) / "pid", _word(volume_id)) is not None

    def _start(self, volume_id: str, port: int) -> None:
        home = self._home(volume_id)
        for name in ("qmp", "pid"):
            (home / name).unlink(missing_ok=True)
        words = command.launcher(self._netns, self._owner, "", "qemu-storage-daemon")
        words += _arguments(volume_id, home, self._disk(volume_id), self._address, port)
        child = pidfiles.start(words, home / "log")
        self._children = [old for old in self._children if old.poll() is None] + [child]
        deadline = time.monotonic() + START_S
        while not self._runs(volume_id):  # it writes its pid when it listens
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                child.wait()
                raise _failure(volume_id, (home / "log").read_text(errors="replace").strip())
            time.sleep(0.01)

    def _stop(self, volume_id: str) -> None:
        pidfiles.end(self._home(volume_id) / "pid", _word(volume_id), END_S)
        self._children = [child for child in self._children if child.poll() is None]

    # --- files

    def _home(self, volume_id: str) -> Path:
        return self._directory / check_name(volume_id) / "nbd"

    def _disk(self, volume_id: str) -> Path:
        return self._directory / check_name(volume_id) / "disk.qcow2"

    def _note_file(self, volume_id: str) -> Path:
        return self._directory / check_name(volume_id) / "export.json"

    def _note(self, volume_id: str) -> Doc | None:
        try:
            note: Doc = json.loads(self._note_file(volume_id).read_bytes())
        except FileNotFoundError:
            return None
        return note

    def _write_note(self, volume_id: str, note: Doc) -> None:
        if self._note(volume_id) != note:
            part = self._note_file(volume_id).with_suffix(".part")
            part.write_text(json.dumps(note))
            publish(part, self._note_file(volume_id))

    def _write_keys(self, volume_id: str, keys: dict[str, str]) -> None:
        """The daemon reads them whenever somebody connects."""
        home = self._home(volume_id)
        if not self._disk(volume_id).exists():
            raise Unavailable(f"Volume {volume_id} is not on this host yet.")
        make_key_directory(home, keys, self._owner)

    def _free_port(self) -> int:
        taken = {(self._note(volume_id) or {}).get("port") for volume_id in self.known()}
        with linux_net.in_netns(self._netns):
            for port in PORTS:
                if port not in taken and bindable(self._address, port):
                    return port
        raise Unavailable("All ports for exports of volumes are taken.")


def daemons(directory: Path) -> dict[str, int]:
    """Processes, by volume, that serve files under `directory`, whatever notes there are of them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        export = next((word for word in words if word.startswith(WORD)), None)
        if export and words[-2].startswith(f"{directory.absolute()}/"):  # the last word is its pidfile
            found[export.removeprefix(WORD).partition(",")[0]] = int(entry.name)
    return found


def make_key_directory(directory: Path, keys: dict[str, str], owner: tuple[int, int] | None) -> None:
    """A directory with ``keys.psk`` as QEMU's ``tls-creds-psk`` wants it, readable by `owner` alone."""
    if not all(KEY.fullmatch(key) for key in keys.values()):
        raise ValueError("a key has 64 hexadecimal digits")
    directory.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(directory, *owner)
    text = "".join(f"{check_name(user)}:{key}\n" for user, key in sorted(keys.items()))
    part = directory / "keys.part"
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    publish(part, directory / "keys.psk", owner)


def require_answer(address: str, port: int, netns: str | None) -> None:
    """`Unavailable` unless somebody listens there: QEMU, which stands still while it connects, is not to find out."""
    with linux_net.in_netns(netns):
        connection = _socket(address)
    with contextlib.closing(connection):
        connection.settimeout(CONNECT_S)
        try:
            connection.connect((address, port))
        except OSError as error:
            raise Unavailable(f"The volume's host {address} does not answer: {error}") from error


def bindable(address: str, port: int) -> bool:
    """Whether somebody could listen there now."""
    with contextlib.closing(_socket(address)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _word(volume_id: str) -> str:
    return f"{WORD}{volume_id},"


def _arguments(volume_id: str, home: Path, disk: Path, address: str, port: int) -> list[str]:
    psk = {"qom-type": "tls-creds-psk", "id": "psk", "dir": str(home), "endpoint": "server"}
    record = {"key": volume_id, "file": str(disk), "format": "qcow2"}
    words = ["--object", json.dumps(psk)]
    for document in command.disk_nodes(disk.parent, record):
        words += ["--blockdev", json.dumps(document)]
    words += ["--nbd-server", f"addr.type=inet,addr.host={address},addr.port={port},tls-creds=psk"]
    # without an iothread, with which QEMU 7.2 aborts when a client leaves
    words += ["--export", f"{_word(volume_id)}node-name={command.node(volume_id)},name={volume_id},writable=on"]
    path = str(home / "qmp").replace(",", ",,")
    words += ["--chardev", f"socket,id=qmp,path={path},server=on,wait=off", "--monitor", "chardev=qmp"]
    return [*words, "--pidfile", str(home / "pid")]


def _failure(volume_id: str, complaint: str) -> Unavailable:
    if "Failed to get" in complaint and "lock" in complaint:
        return qemu_img.InUse(f"A machine of this host still has volume {volume_id} open.")
    return Unavailable(f"The export did not start: {qemu_img.DIRECTORIES.sub('', complaint[-300:])}")
