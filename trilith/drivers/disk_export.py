"""The disks of a stopped machine, offered read-only to the host that it moves to: one qemu-storage-daemon.

    <machine>/export/    note.json (address, port, for which move, the disks), keys.psk, pid, qmp, log

By NBD with TLS and a key that is good for this move alone. The daemon outlives its agent and is found again by its
locked pidfile; its lock on the files keeps the machine from being started meanwhile.
"""

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from trilith.drivers import linux_net, nbd, pidfiles, qemu_img
from trilith.drivers import qemu_command as command
from trilith.drivers.durable import publish
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

PORTS = range(28000, 29000)  # of moves: beside those of volumes
WORD = "type=nbd,id=move-"  # with the server's id, by which a daemon's command line is known
END_S = 5.0


class DiskExports:
    """On `address` inside the network namespace `netns`; `owner` is the (uid, gid) of the unprivileged QEMU."""

    def __init__(self, address: str, netns: str | None, owner: tuple[int, int] | None) -> None:
        self._address, self._netns, self._owner = address, netns, owner
        self._children: list[subprocess.Popen[bytes]] = []

    def seen(self, home: Path) -> Doc | None:
        """``move address port disks running``; None where nothing is offered."""
        try:
            note: Doc = json.loads((home / "export" / "note.json").read_bytes())
        except FileNotFoundError:
            return None
        return {**note, "running": self._runs(home)}

    def serve(self, home: Path, move_id: str, key: str, disks: list[Doc]) -> None:
        """Offer these disks (records of the machine's) to whoever has the key."""
        self.end(home)
        directory = home / "export"
        nbd.make_key_directory(directory, {move_id: key}, self._owner)
        note: Doc = {"move": move_id, "address": self._address}
        sizes = {disk["key"]: _size_bytes(home, disk) for disk in disks}
        note["disks"] = {disk["key"]: {"format": disk["format"], "size_bytes": sizes[disk["key"]]} for disk in disks}
        note["port"] = free_port(self._address, self._netns)
        if disks:
            self._start(home, disks, note["port"])
        part = directory / "note.part"
        part.write_text(json.dumps(note))
        publish(part, directory / "note.json")

    def end(self, home: Path) -> None:
        """Nobody reads them any more, and the files are free."""
        pidfiles.end(home / "export" / "pid", _word(home), END_S)
        self._children = [child for child in self._children if child.poll() is None]
        shutil.rmtree(home / "export", ignore_errors=True)

    def _runs(self, home: Path) -> bool:
        note = json.loads((home / "export" / "note.json").read_bytes())
        return not note["disks"] or pidfiles.holder(home / "export" / "pid", _word(home)) is not None

    def _start(self, home: Path, disks: list[Doc], port: int) -> None:
        directory = home / "export"
        words = command.launcher(self._netns, self._owner, "", "qemu-storage-daemon")
        words += _arguments(home, disks, self._address, port)
        child = pidfiles.start(words, directory / "log")
        self._children.append(child)
        deadline = time.monotonic() + nbd.START_S
        while pidfiles.holder(directory / "pid", _word(home)) is None:
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                child.wait()
                complaint = (directory / "log").read_text(errors="replace").strip()
                raise Unavailable(f"The disks cannot be offered: {qemu_img.DIRECTORIES.sub('', complaint[-300:])}")
            time.sleep(0.02)


def free_port(address: str, netns: str | None, taken: tuple[int, ...] = ()) -> int:
    """One that nobody listens on, of those that moves may use."""
    with linux_net.in_netns(netns):
        for port in PORTS:
            if port not in taken and nbd.bindable(address, port):
                return port
    raise Unavailable("All ports for moves of machines are taken.")


def daemons(machines: Path) -> set[str]:
    """Machines under that directory whose disks are offered at the moment."""
    found = set()
    for home in machines.iterdir() if machines.is_dir() else ():
        with contextlib.suppress(OSError):
            if pidfiles.holder(home / "export" / "pid", _word(home)) is not None:
                found.add(home.name)
    return found


def _word(home: Path) -> str:
    return f"{WORD}{home.name}"


def _size_bytes(home: Path, disk: Doc) -> int:
    file = home / disk["file"]
    return qemu_img.qcow2_size_bytes(file) if disk["format"] == "qcow2" else file.stat().st_size


def _arguments(home: Path, disks: list[Doc], address: str, port: int) -> list[str]:
    directory = home / "export"
    psk = {"qom-type": "tls-creds-psk", "id": "psk", "dir": str(directory), "endpoint": "server"}
    words = ["--object", json.dumps(psk)]
    for disk in disks:
        for document in command.disk_nodes(home, disk):
            words += ["--blockdev", json.dumps({**document, "read-only": True})]
    words += ["--nbd-server", f"addr.type=inet,addr.host={address},addr.port={port},tls-creds=psk"]
    for number, disk in enumerate(disks):
        export = f"{_word(home)}-{number},node-name={command.node(disk['key'])},name={disk['key']},writable=off"
        words += ["--export", export]
    return [*words, "--pidfile", str(directory / "pid")]
