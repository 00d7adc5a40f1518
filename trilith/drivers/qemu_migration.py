"""QMP of a machine that goes to another host, or comes from one: the same on both sides of each word.

The source copies local disks (mirrors) and memory to a QEMU that waits at a place: ``address port disks_port``. Both
connections are TLS by the move's own key, which lies in a directory of the machine.
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from trilith.drivers import nbd
from trilith.drivers import qemu_command as command
from trilith.drivers.qmp import CommandError, Monitor
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

MIRROR = "mirror-"  # a job of a move, with the disk's key
MIRRORS_S = 20.0
CREDENTIALS = "move"  # QEMU's name of the move's key
SENDS_WITH = ("pause-before-switchover", "auto-converge", "return-path")  # the last: completed is what has arrived
SENDING = ("setup", "active", "pre-switchover", "device")
BANDWIDTH_BYTES = 4 << 30  # a second: what the network gives
DOWNTIME_MS = 300


def status(monitor: Monitor) -> str:
    """QEMU's own word; "none" where nothing was ever sent."""
    return str(monitor.execute("query-migrate").get("status", "none"))


def progress(monitor: Monitor) -> Doc:
    """``status error mirrors memory disk`` of a machine that goes to another host."""
    found, jobs = monitor.execute("query-migrate"), list(mirrors(monitor).values())
    whole = {job["id"].removeprefix(MIRROR): job["status"] == "ready" for job in jobs if not job.get("error")}
    ram = found.get("ram", {})
    memory = {name: ram.get(name, 0) for name in ("total", "remaining")}
    disk = {"total": sum(job["total-progress"] for job in jobs)}
    disk["remaining"] = disk["total"] - sum(job["current-progress"] for job in jobs)
    for amounts in (memory, disk):
        amounts["processed"] = amounts["total"] - amounts["remaining"]
    error = found.get("error-desc")
    return {"status": found.get("status", "none"), "error": error, "mirrors": whole, "memory": memory, "disk": disk}


def use_key(
    monitor: Monitor, home: Path, move_id: str, secret: str, endpoint: str, owner: tuple[int, int] | None
) -> None:
    """`endpoint`: server where the machine comes to, client where it comes from."""
    nbd.make_key_directory(home / "move", {move_id: secret}, owner)
    if has_object(monitor, CREDENTIALS):
        return
    words = {"qom-type": "tls-creds-psk", "id": CREDENTIALS, "endpoint": endpoint, "dir": str(home / "move")}
    monitor.execute("object-add", words | ({"username": move_id} if endpoint == "client" else {}))


def forget_key(monitor: Monitor) -> None:
    """Also what was set for the move: saving a machine to a file must not wait before its last step."""
    _set(monitor, "", **dict.fromkeys(SENDS_WITH, False))
    if has_object(monitor, CREDENTIALS):
        monitor.execute("object-del", {"id": CREDENTIALS})


def has_object(monitor: Monitor, name: str) -> bool:
    return any(item["name"] == name for item in monitor.execute("qom-list", {"path": "/objects"}))


# ---- the target's side


def offer_disks(monitor: Monitor, address: str, port: int, keys: list[str]) -> None:
    """The other QEMU may write these disks."""
    inet = {"type": "inet", "data": {"host": address, "port": str(port)}}
    monitor.execute("nbd-server-start", {"addr": inet, "tls-creds": CREDENTIALS})
    for number, disk in enumerate(keys):
        export = {"type": "nbd", "id": f"move-{number}", "node-name": command.node(disk), "name": disk}
        monitor.execute("block-export-add", {**export, "writable": True})


def withdraw_disks(monitor: Monitor) -> None:
    for export in monitor.execute("query-block-exports"):
        monitor.execute("block-export-del", {"id": export["id"], "mode": "hard"})
    with contextlib.suppress(CommandError):
        monitor.execute("nbd-server-stop")


def await_memory(monitor: Monitor, place: Doc) -> None:
    _set(monitor, CREDENTIALS, **{"events": True, "return-path": True})
    monitor.execute("migrate-incoming", {"uri": _uri(place)})


# ---- the source's side


def mirrors(monitor: Monitor) -> dict[str, Doc]:
    """The jobs that copy disks to another host, by id."""
    return {job["id"]: job for job in monitor.execute("query-jobs") if job["id"].startswith(MIRROR)}


def mirror(monitor: Monitor, disk: str, to: Doc, job: Doc | None) -> None:
    """Begin to copy a disk anew; `job`: an earlier attempt."""
    end_mirror(monitor, disk, job)
    inet = {"type": "inet", "host": to["address"], "port": str(to["disks_port"])}
    target = {"driver": "nbd", "node-name": _far_node(disk), "export": disk, "server": inet}
    monitor.execute("blockdev-add", {**target, "tls-creds": CREDENTIALS})
    ask: Doc = {"job-id": mirror_id(disk), "device": command.node(disk), "target": _far_node(disk)}
    ask |= {"sync": "full", "copy-mode": "write-blocking", "auto-dismiss": False}
    monitor.execute("blockdev-mirror", ask)


def await_mirrors(monitor: Monitor) -> None:
    """Until all are complete and the source writes there no more; else the migration is called off."""
    deadline = time.monotonic() + MIRRORS_S
    while True:
        jobs = mirrors(monitor).values()
        if any(job.get("error") for job in jobs):
            monitor.execute("migrate_cancel")
            raise Unavailable("A disk was not copied to its end.")
        if all(job["status"] == "concluded" for job in jobs):
            return
        if time.monotonic() > deadline:
            raise Unavailable("The disks are not complete yet.")
        time.sleep(0.01)


def send_memory(monitor: Monitor, to: Doc) -> None:
    """It stops before the last step."""
    _set(monitor, CREDENTIALS, **dict.fromkeys(SENDS_WITH, True), events=True)
    monitor.execute("migrate", {"uri": _uri(to)})


def cancel(monitor: Monitor) -> None:
    """Nothing of it goes on when this returns."""
    monitor.execute("migrate_cancel")
    deadline = time.monotonic() + MIRRORS_S
    while status(monitor) in (*SENDING, "cancelling"):
        if time.monotonic() > deadline:
            raise Unavailable("The migration does not end.")
        time.sleep(0.02)
    for name, job in mirrors(monitor).items():
        end_mirror(monitor, name.removeprefix(MIRROR), job)
    forget_key(monitor)


def end_mirror(monitor: Monitor, disk: str, job: Doc | None) -> None:
    deadline = time.monotonic() + MIRRORS_S
    name = mirror_id(disk)
    while job is not None and time.monotonic() < deadline:
        with contextlib.suppress(CommandError):
            if job["status"] == "concluded":
                monitor.execute("job-dismiss", {"id": name})
            else:
                monitor.execute("block-job-cancel", {"device": name, "force": True})
                time.sleep(0.02)
        job = mirrors(monitor).get(name)
    with contextlib.suppress(CommandError):  # there is none
        monitor.execute("blockdev-del", {"node-name": _far_node(disk)})


def mirror_id(disk: str) -> str:
    return f"{MIRROR}{disk}"[:31]


def _far_node(disk: str) -> str:
    return f"m-{disk[:28]}"


def _uri(place: Doc) -> str:
    address = f"[{place['address']}]" if ":" in place["address"] else place["address"]
    return f"tcp:{address}:{place['port']}"


def _set(monitor: Monitor, credentials: str, **capabilities: bool) -> None:
    listed = [{"capability": name, "state": state} for name, state in capabilities.items()]
    monitor.execute("migrate-set-capabilities", {"capabilities": listed})
    limits = {"max-bandwidth": BANDWIDTH_BYTES, "downtime-limit": DOWNTIME_MS}
    monitor.execute("migrate-set-parameters", {"tls-creds": credentials, **limits})
