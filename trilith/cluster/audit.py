"""What SQL says and what there really is, side by side: what is stuck, what leaks, what is lost.

`look` runs on a host and reads past every driver; `unsettled` compares what the hosts of a cloud said.
"""

import json
import re
import subprocess
from collections.abc import Set
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from trilith.cluster import proc
from trilith.cluster.api import open_store
from trilith.cluster.ceph_access import access
from trilith.cluster.state import Settings, State
from trilith.cluster.up import ovn_host
from trilith.compute.instance_actions import ACTION
from trilith.compute.servers import SERVER
from trilith.drivers import disk_export
from trilith.drivers.ceph import Ceph
from trilith.drivers.nbd import daemons
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.image.images import IMAGE
from trilith.kernel.store import Tx
from trilith.network.ports import PORT
from trilith.volume.attachments import ATTACHMENT
from trilith.volume.exports import is_remote
from trilith.volume.volumes import VOLUME

Doc = dict[str, Any]
STEADY = {
    "server": {"ACTIVE", "SHUTOFF"},
    "volume": {"available", "in-use"},
    "snapshot": {"available"},
    "port": {"ACTIVE", "DOWN"},
    "image": {"queued", "active"},
}
COLUMNS = {
    "server": (SERVER, ("id", "project_id", "status", "task_state", "deleted_at")),
    "volume": (VOLUME, ("id", "project_id", "status", "deleted_at", "host", "pool", "multiattach")),
    "port": (PORT, ("id", "project_id", "status", "device_owner", "device_id")),
    "image": (IMAGE, ("id", "project_id", "name", "status", "deleted_at")),
    "attachment": (ATTACHMENT, ("id", "server_id", "volume_id", "host", "by_network")),
    "action": (ACTION, ("server_id", "action", "finished_at")),
}
SYSTEM_SWITCH = "unix:/run/openvswitch/db.sock"
OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}(_|$)")  # names in Ceph that can be of this cloud
COPIES = 2  # of an image's bytes, at least, where there are so many controllers


class World(Protocol):
    """What a host has outside SQL. `starts`: server id -> what changes whenever the machine starts anew. The others:
    ids of what exists; None where this host does not know."""

    def starts(self) -> dict[str, str]: ...
    def interfaces(self) -> set[str]: ...
    def volumes(self) -> set[str]: ...
    def disks(self) -> set[str]: ...
    def exports(self) -> set[str]: ...
    def images(self) -> set[str]: ...
    def logical_ports(self) -> set[str] | None: ...


def world_of(state: State) -> World:
    settings = state.settings()
    return FakeWorld(state) if settings.fake else RealWorld(state, settings)


class FakeWorld:
    """The notes that the fakes keep below the host's directory; images are real."""

    def __init__(self, state: State) -> None:
        self._state = state

    def starts(self) -> dict[str, str]:
        return {server: str(note["console"].count("Booted ")) for server, note in self._notes().items()}

    def interfaces(self) -> set[str]:
        return {nic["port_id"] for note in self._notes().values() for nic in note["nics"]}

    def volumes(self) -> set[str]:
        return {path.name.partition(".")[0] for path in _entries(self._state.host / "volumes")} - {""}

    def disks(self) -> set[str]:
        return set()

    def exports(self) -> set[str]:
        return FakeVolumeFiles(self._state.host / "volumes").exported()

    def images(self) -> set[str]:
        return {path.name for path in _entries(self._state.images / "data")}

    def logical_ports(self) -> set[str] | None:
        return None  # the fake's are in its controller's memory

    def _notes(self) -> dict[str, Doc]:
        found: dict[str, Doc] = {}
        for home in _entries(self._state.host / "machines"):
            try:
                found[home.name] = json.loads((home / "world.json").read_text())
            except (FileNotFoundError, NotADirectoryError):
                found[home.name] = {"console": "", "nics": []}
        return found


class RealWorld:
    """QEMU processes, links and the databases of Open vSwitch and OVN."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state, self._settings = state, settings
        self._switch = SYSTEM_SWITCH if settings.clustered else ovn_host(state, settings).remote

    def starts(self) -> dict[str, str]:
        """A machine's process, by its number and its time of birth."""
        found = {home.name: "" for home in _entries(self._state.host / "machines")}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for server in found:
                if any(word.startswith(f"guest={server},".encode()) for word in words):
                    found[server] = f"{entry.name} {proc.start_ticks(int(entry.name))}"
        return found

    def interfaces(self) -> set[str]:
        """Ports that the switch has an interface for."""
        listed = self._run("ovs-vsctl", f"--db={self._switch}", "--columns=external_ids", "list", "Interface")
        pairs = (word for interface in listed for word in interface[0][1])
        return {value for name, value in pairs if name == "iface-id" and not value.startswith("provnet")}

    def volumes(self) -> set[str]:
        """Files of this host; on a controller, those in Ceph too."""
        found = {path.name for path in _entries(self._state.host / "volumes") if not path.name.startswith(".")}
        return found | self._in_ceph("volumes_pool")

    def disks(self) -> set[str]:
        return self._in_ceph("machines_pool")

    def _in_ceph(self, which: str) -> set[str]:
        ceph = self._settings.cluster.ceph
        reached = access(self._state, self._settings, control=True)
        if ceph is None or reached is None or "control" not in self._settings.this_host.roles:
            return set()
        return {name for name in Ceph(reached).images(getattr(ceph, which)) if OURS.match(name)}

    def exports(self) -> set[str]:
        """Volumes of this state directory that a storage daemon serves to other hosts, and machines whose disks are
        offered for a move: at rest there are none."""
        return set(daemons(self._state.host / "volumes")) | disk_export.daemons(self._state.host / "machines")

    def images(self) -> set[str]:
        return {path.name for path in _entries(self._state.images / "data")}

    def logical_ports(self) -> set[str] | None:
        if "control" not in self._settings.this_host.roles:
            return None
        where = ["--no-leader-only"] if self._settings.clustered else [f"--db={self._switch}"]
        listed = self._run("ovn-nbctl", *where, "--columns=name", "list", "Logical_Switch_Port")
        return {row[0] for row in listed}

    def _run(self, command: str, *words: str) -> list[Any]:
        argv = [command, "--timeout=10", "--format=json", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        rows: list[Any] = json.loads(done.stdout)["data"]
        return rows


def look(state: State, rows: bool = True) -> Doc:
    """This host as a document: host, roles, starts, interfaces, volumes, disks, exports, images, logical_ports; with
    `rows` also what SQL says: rows by kind."""
    settings, world = state.settings(), world_of(state)
    roles, logical = settings.this_host.roles, world.logical_ports()
    computes = "compute" in roles
    document: Doc = {
        "host": settings.host,
        "roles": roles,
        "starts": world.starts() if computes else {},
        "interfaces": sorted(world.interfaces()) if computes else [],
        "volumes": sorted(world.volumes()),
        "disks": sorted(world.disks()),
        "exports": sorted(world.exports()),
        "images": sorted(world.images()),
        "logical_ports": None if logical is None else sorted(logical),
    }
    if rows and "control" in roles:
        store = open_store(state, settings)
        try:
            document["rows"] = store.read(_rows)
        finally:
            store.close()
    return document


def _rows(tx: Tx) -> dict[str, list[Doc]]:
    found: dict[str, list[Doc]] = {}
    for kind, (noun, names) in COLUMNS.items():
        columns = [noun.table.c[name] for name in names if name in noun.table.c]
        selected = tx.execute(sa.select(*columns)).mappings()
        found[kind] = [{name: _plain(value) for name, value in row.items()} for row in selected]
    return found


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


# --- comparing


def living(looks: list[Doc], kind: str) -> dict[str, Doc]:
    """Rows by id, as the first host that read SQL has them; one that was deleted may leave a row for those who ask."""
    rows: list[Doc] = next(look["rows"] for look in looks if look.get("rows") is not None)[kind]
    return {row["id"]: row for row in rows if not row.get("deleted_at")}


def starts(looks: list[Doc]) -> dict[str, str]:
    """Every machine of the cloud with its start; one on two hosts has both."""
    found: dict[str, str] = {}
    for each in looks:
        for server, start in each["starts"].items():
            found[server] = f"{found[server]} and {start}" if server in found else start
    return found


def unsettled(looks: list[Doc]) -> list[str]:
    """What is in between, belongs to nobody, or differs between SQL and the world: sentences; [] when all is well."""
    servers, volumes, ports, images = (living(looks, kind) for kind in ("server", "volume", "port", "image"))
    found = []
    for row in servers.values():
        if row["status"] not in STEADY["server"] or row["task_state"]:
            found.append(f"server {row['id']} is {row['status']} ({row['task_state']})")
    for kind, those in (("volume", volumes), ("image", images)):
        found += [f"{kind} {key} is {row['status']}" for key, row in those.items() if row["status"] not in STEADY[kind]]
    for port in ports.values():
        if port["device_owner"].startswith("compute:") and port["device_id"] not in servers:
            found.append(f"port {port['id']} belongs to server {port['device_id']}, which is gone")
    rows = next(look["rows"] for look in looks if look.get("rows") is not None)
    for attachment in rows["attachment"]:
        if attachment["server_id"] not in servers or attachment["volume_id"] not in volumes:
            found.append(f"attachment {attachment['id']} of {attachment['server_id']} is left")
    for action in rows["action"]:
        if action["finished_at"] is None:
            found.append(f"action {action['action']} of server {action['server_id']} never ended")
    return found + _differing(looks, servers, volumes, ports, images)


def _differing(
    looks: list[Doc], servers: dict[str, Doc], volumes: dict[str, Doc], ports: dict[str, Doc], images: dict[str, Doc]
) -> list[str]:
    machines = [server for look in looks for server in look["starts"]]
    found = [f"machine {server} is on two hosts" for server in set(machines) if machines.count(server) > 1]
    found += different("machines", set(machines), set(servers))
    networks_own = {key for key, port in ports.items() if port["device_owner"].startswith("network:")}
    bound = {key for key, port in ports.items() if port["device_id"] in servers}
    found += different("interfaces", _union(looks, "interfaces") - networks_own, bound)
    found += different("volumes", _union(looks, "volumes"), set(volumes))
    stray = {disk for disk in _union(looks, "disks") if disk.partition("_")[0] not in servers}
    found += different("machines' disks", stray, set())
    found += different("exports of volumes", _union(looks, "exports"), _exported(looks, volumes))
    active = {key for key, row in images.items() if row["status"] == "active"}
    found += different("images", _union(looks, "images"), active)
    controllers = [look for look in looks if "control" in look["roles"]]
    for key in active:
        copies = sum(key in look["images"] for look in controllers)
        if 0 < copies < min(COPIES, len(controllers)):
            found.append(f"image {key} has one copy only")
    logical = next((look["logical_ports"] for look in looks if look["logical_ports"] is not None), None)
    if logical is not None:
        switched = {key for key, port in ports.items() if port["device_owner"] != "network:floatingip"}  # NAT has none
        found += different("logical ports", {key for key in logical if key in ports or len(key) == 36}, switched)
    return found


def _exported(looks: list[Doc], volumes: dict[str, Doc]) -> set[str]:
    """Volumes that a server of another host has."""
    attachments = living(looks, "attachment").values()
    pairs = ((volumes[a["volume_id"]], a) for a in attachments if a["host"] and a["volume_id"] in volumes)
    return {volume["id"] for volume, a in pairs if a.get("by_network") or is_remote(volume, a["host"])}


def different(what: str, world: set[str], sql: set[str]) -> list[str]:
    found = [f"{what} that nobody wants: {sorted(world - sql)}"] if world - sql else []
    return found + ([f"{what} that are missing: {sorted(sql - world)}"] if sql - world else [])


def left_over(looks: list[Doc], project_id: str, kept: Set[str] = frozenset()) -> list[str]:
    """What a project that gave everything back still has, but for the servers `kept` and its networks' own ports."""
    found = unsettled(looks)
    for kind in ("server", "volume", "port", "image"):
        for row in living(looks, kind).values():
            owned = row.get("device_owner", "").startswith("network:") or row.get("device_id") in kept
            if row["project_id"] == project_id and row["id"] not in kept and not owned:
                found.append(f"{kind} {row['id']}")
    return found


def _union(looks: list[Doc], what: str) -> set[str]:
    return {key for look in looks for key in look.get(what, ())}
