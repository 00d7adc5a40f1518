"""What a running cloud is made of, and whether it is whole: `trilith status`."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trilith import __version__
from trilith.cluster import clouds_yaml, proc
from trilith.cluster.state import Settings, State
from trilith.cluster.supervisor import ask
from trilith.cluster.up import heartbeat_age_s
from trilith.drivers.nbd import daemons
from trilith.drivers.qemu_fake import FakeQemu

HEALTHY, DEGRADED, NOT_RUNNING = 0, 1, 3
HEARTBEAT_LATE_S = 15.0
FAILURES_IN_A_ROW = 3
VERSION_COMMANDS = {
    "qemu": ["qemu-system-x86_64", "--version"],
    "ovs": ["ovs-vswitchd", "--version"],
    "ovn": ["ovn-controller", "--version"],
}


@dataclass(frozen=True)
class Status:
    """`document` is what ``--json`` prints; `code` the exit code."""

    document: dict[str, Any]
    code: int


def status(state: State) -> Status:
    """Raises FileNotFoundError when there is no cloud."""
    settings = state.settings()
    answer = ask(state, "status")
    processes = _processes(answer) if answer else []
    degraded = _degraded(state, settings, answer, processes)
    document = {
        "cloud_id": settings.cloud_id,
        "name": settings.cluster.name,
        "state": str(state.root),
        "running": answer is not None,
        "fake": settings.fake,
        "clouds_yaml": list(clouds_yaml.names(state, settings)),
        "endpoints": {
            "api": settings.api_url,
            "identity": f"{settings.api_url}/identity",
            "consoles": settings.hub_url,
        },
        "ports": {"api": settings.port, "hub": settings.hub_port, "objects": settings.objects_port},
        "public_cidr": settings.public_cidr,
        "versions": _versions(settings),
        "processes": processes,
        "pss_mib": round(sum(process["pss_mib"] for process in processes), 1),
        "machines": machines_running(state, settings),
        "exports": len(daemons(state.host / "volumes")),
        "hosts": [_host(state, settings)],
        "degraded": degraded,
    }
    return Status(document, NOT_RUNNING if answer is None else DEGRADED if degraded else HEALTHY)


def machines_running(state: State, settings: Settings) -> int:
    """How many machines run on this host."""
    if settings.fake:
        driver = FakeQemu(state.host)
        return sum(bool((driver.seen(server_id) or {}).get("process")) for server_id in driver.known())
    count = 0
    for pidfile in state.host.glob("machines/*/run/pid"):
        with contextlib.suppress(OSError, ValueError):
            words = Path(f"/proc/{int(pidfile.read_text())}/cmdline").read_bytes()
            count += f"guest={pidfile.parts[-3]},".encode() in words
    return count


def _processes(answer: dict[str, Any]) -> list[dict[str, Any]]:
    own = {"name": "supervisor", "pid": answer["pid"], "since": answer["since"], "restarts": 0, "state": "ready"}
    found = [own, *(process for process in answer["processes"] if not process["once"])]
    return [
        {
            "name": process["name"],
            "pid": process["pid"],
            "since": _iso(process["since"]),
            "restarts": process["restarts"],
            "pss_mib": round(proc.pss_mib(proc.session_members(process["pid"])), 1) if process["pid"] else 0.0,
            "state": process["state"],
        }
        for process in found
    ]


def _degraded(
    state: State, settings: Settings, answer: dict[str, Any] | None, processes: list[dict[str, Any]]
) -> list[dict[str, str]]:
    if answer is None:
        return [{"what": "supervisor", "why": "it does not run; start it: trilith up"}]
    found = []
    for process in answer["processes"]:
        failing = process["failures"] >= FAILURES_IN_A_ROW
        if failing or process["state"] not in ("ready", "done"):
            why = "ends again and again" if failing else process["state"]
            why += f", last: {process['last_exit']}" if process["last_exit"] else ""
            found.append({"what": process["name"], "why": f"{why}; see: trilith logs"})
    age_s = heartbeat_age_s(state)
    if age_s > HEARTBEAT_LATE_S:
        late = "never" if age_s == float("inf") else f"{age_s:.0f} s ago"
        found.append({"what": f"host {settings.host}", "why": f"its last heartbeat was {late}; see: trilith logs"})
    return found


def _host(state: State, settings: Settings) -> dict[str, Any]:
    age_s = heartbeat_age_s(state)
    host = settings.this_host
    return {
        "name": host.name,
        "address": host.address,
        "roles": host.roles,
        "heartbeat_age_s": None if age_s == float("inf") else round(age_s, 1),
    }


def _versions(settings: Settings) -> dict[str, str]:
    found = {"trilith": __version__, "python": sys.version.split()[0]}
    if settings.fake:
        return found
    for name, argv in VERSION_COMMANDS.items():
        try:
            words = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split("\n")[0].split()
        except OSError:
            continue
        found[name] = next((word for word in words if word[:1].isdigit()), "unknown")
    return found


def _iso(moment: float | None) -> str | None:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if moment else None


def as_text(document: dict[str, Any]) -> str:
    """For people; at most 100 columns."""
    state = "degraded" if document["degraded"] else "healthy"
    lines = [
        f"Cloud {document['cloud_id']}{' (fake)' if document['fake'] else ''}: "
        f"{state if document['running'] else 'not running'}, state in {document['state']}",
        f"API {document['endpoints']['api']}   consoles {document['endpoints']['consoles']}   "
        f"public network {document['public_cidr']}",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
    ]
    if document["processes"]:
        rows = [
            (p["name"], p["pid"] or "-", _since(p["since"]), p["restarts"], f"{p['pss_mib']:.1f}", p["state"])
            for p in document["processes"]
        ]
        lines += ["", *table(("process", "pid", "up for", "restarts", "pss MiB", "state"), rows)]
        lines += [
            f"Memory without machines: {document['pss_mib']} MiB. Machines running: {document['machines']}. "
            f"Volumes served to other hosts: {document['exports']}."
        ]
    rows_of_hosts = [
        (h["name"], h["address"], " ".join(h["roles"]), "-" if h["heartbeat_age_s"] is None else h["heartbeat_age_s"])
        for h in document["hosts"]
    ]
    lines += ["", *table(("host", "address", "roles", "heartbeat s ago"), rows_of_hosts)]
    if document["degraded"]:
        lines += ["", *table(("degraded", "why"), [(d["what"], d["why"]) for d in document["degraded"]])]
    else:
        lines += ["", f"Next: export OS_CLOUD={document['clouds_yaml'][0]}; openstack server list"]
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces between."""
    cells = [head, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _since(iso: str | None) -> str:
    if iso is None:
        return "-"
    seconds = int(time.time() - datetime.fromisoformat(iso).timestamp())
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    return f"{days}d{hours}h" if days else f"{hours}h{minutes}m" if hours else f"{minutes}m{seconds % 60}s"


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2)
