"""Copies of a disk that a running QEMU (a machine's, or a storage daemon) has open, as of one moment."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from trilith.drivers import qemu_command as command
from trilith.drivers import qemu_img
from trilith.drivers.qmp import CommandError, Monitor
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

COPY_S = 4 * 3600.0
CLOSE_S = 5.0


def sizes(monitor: Monitor) -> dict[str, int]:
    """Bytes by block node."""
    nodes = monitor.execute("query-named-block-nodes", {"flat": True})
    return {item["node-name"]: item["image"]["virtual-size"] for item in nodes}


def backup(monitor: Monitor, key: str, target: Path, owner: tuple[int, int] | None) -> None:
    """Copy the disk `key`, as it is at this moment, into the standalone qcow2 `target`, which shall be `owner`'s."""
    job, source = f"copy-{key}"[:31], command.node(key)
    _cancel(monitor, job)
    size_bytes = sizes(monitor).get(source)
    if size_bytes is None:
        raise Unavailable(f"The disk {key} is not attached.")
    target.unlink(missing_ok=True)
    qemu_img.create(target, "qcow2", size_bytes)
    if owner is not None:
        os.chown(target, *owner)
    try:
        monitor.execute("blockdev-add", command.file_node(target, "p-copy"))
        monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": "n-copy", "file": "p-copy", "backing": None})
        arguments = {"job-id": job, "device": source, "target": "n-copy", "sync": "full", "auto-dismiss": False}
        monitor.execute("blockdev-backup", arguments)
        _wait(monitor, job)
    finally:
        with contextlib.suppress(Unavailable):
            _cancel(monitor, job)


def drop_nodes(monitor: Monitor, key: str) -> None:
    """Close the disk's files. A device that was just unplugged holds them for a moment longer than it is seen."""
    deadline = time.monotonic() + CLOSE_S
    for name in (command.node(key), command.protocol_node(key)):
        while name in sizes(monitor):
            try:
                monitor.execute("blockdev-del", {"node-name": name})
            except CommandError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"The machine has not closed {name} yet.") from error
                time.sleep(0.05)


def _wait(monitor: Monitor, job: str) -> None:
    deadline, pause_s = time.monotonic() + COPY_S, 0.02
    while time.monotonic() < deadline:
        found: Doc = next((item for item in monitor.execute("query-jobs") if item["id"] == job), {})
        if found.get("status") in ("concluded", None):
            if found.get("error") or not found:
                raise Unavailable(f"The disk could not be copied: {found.get('error', 'the job is gone')}")
            return
        time.sleep(pause_s)
        pause_s = min(0.5, pause_s * 1.5)
    raise Unavailable(f"The disk was not copied within {COPY_S:g} s.")


def _cancel(monitor: Monitor, job: str) -> None:
    """End a copy, and let go of its target: finished, failed, or begun by an agent that died."""
    for _ in range(200):
        found = next((item for item in monitor.execute("query-jobs") if item["id"] == job), None)
        if found is None:
            break
        with contextlib.suppress(CommandError):
            if found["status"] == "concluded":
                monitor.execute("job-dismiss", {"id": job})
            else:
                monitor.execute("job-cancel", {"id": job})
                time.sleep(0.05)
    drop_nodes(monitor, "copy")
