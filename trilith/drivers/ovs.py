"""Open vSwitch on one host: a tap for each port of a machine, and a namespace for each network's metadata service.

What is there stands in the switch's own database and in the kernel, nowhere else: after a crash of anything, the same
calls find it again. Taps are persistent, so a machine keeps running when the switch is started anew.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from trilith.drivers import linux_net
from trilith.drivers.ovsdb import Columns, Operation, Replica, Tables, as_map, as_set, where
from trilith.kernel.errors import Unavailable

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
COLUMNS: Columns = {
    "Open_vSwitch": ("next_cfg", "cur_cfg"),
    "Bridge": ("name", "ports"),
    "Port": ("name", "interfaces"),
    "Interface": ("name", "external_ids"),
}
MODULE = Path("/sys/module/openvswitch")
BRIDGE = "br-int"
METADATA_ADDRESS = "169.254.169.254"
INNER_LINK = "eth0"
# Of neighbours: a deleted machine's address may be another one's a second later, which must not wait for its metadata.
FORGETFUL = {
    "base_reachable_time_ms": "1000",
    "delay_first_probe_time": "0",
    "ucast_solicit": "1",
    "retrans_time_ms": "250",
}
PORT_KEY, NETWORK_KEY = "iface-id", "trilith:network"


@dataclass(frozen=True)
class MetadataPort:
    """The port of a network behind which the metadata service answers; `addresses` with prefix: ``10.0.0.2/24``."""

    port_id: str
    mac: str
    addresses: tuple[str, ...]


def datapath() -> str:
    """Which this host's switch has: the kernel's (``system``) where the module is there, else the one in userspace
    (``netdev``)."""
    return "system" if MODULE.is_dir() else "netdev"


def tap_name(port_id: str) -> str:
    return f"tap{port_id[:11]}"


class HostNetwork:
    """The switch whose database is at `db_socket`, in the namespace `netns` (None: the root namespace)."""

    def __init__(self, db_socket: str, netns: str | None, datapath: str, timeout_s: float = 10.0) -> None:
        self.netns = netns
        self.datapath = datapath
        self._replica = Replica(f"unix:{db_socket}", "Open_vSwitch", SCHEMA, COLUMNS, timeout_s)

    def close(self) -> None:
        self._replica.close()

    def plug(self, port_id: str, mac: str, mtu: int, owner_uid: int = 0) -> str:
        """A tap on the switch for a port, to be opened by that user; gives the tap's name. Idempotent."""
        tap = tap_name(port_id)
        self._forget_vanished(tap)
        with linux_net.in_netns(self.netns):
            linux_net.make_tap(tap, owner_uid)
            linux_net.set_up(tap, mtu)
        self.attach(tap, port_id, mac)
        return tap

    def attach(self, link: str, port_id: str, mac: str) -> None:
        """Put a link of the host's namespace on the switch as this port. Idempotent."""
        self._attach(link, {PORT_KEY: port_id, "attached-mac": mac, "iface-status": "active"})

    def unplug(self, port_id: str) -> None:
        """Take the port from the switch and delete its tap. Idempotent."""
        self._detach(PORT_KEY, port_id)
        with linux_net.in_netns(self.netns):
            linux_net.delete_link(tap_name(port_id))

    def plugged(self) -> dict[str, str]:
        """Ports of machines on the switch: their id to the name of their link."""
        with self._replica.frozen() as tables:
            interfaces = [_external_ids(tables, row) | {"": _name(tables, row)} for row in _all(tables, "Interface")]
        return {ids[PORT_KEY]: ids[""] for ids in interfaces if PORT_KEY in ids and NETWORK_KEY not in ids}

    def sweep(self) -> None:
        """Delete taps that a crash left without a port. For the agent's start, before anything is plugged."""
        attached = set(self.plugged().values())
        with linux_net.in_netns(self.netns):
            for tap in linux_net.links("tap") - attached:
                linux_net.delete_link(tap)

    def metadata_namespace(self, network_id: str) -> str:
        return f"{self.netns or 'tri'}-md-{network_id}"

    def ensure_metadata(self, network_id: str, port: MetadataPort) -> str:
        """A namespace that is `port` of the network and has the metadata address; gives its name. Idempotent."""
        name = self.metadata_namespace(network_id)
        outer = _outer_link(name)
        addresses = {address for address in port.addresses if ":" not in address}  # it is asked by IPv4 only
        linux_net.make_namespace(name)
        self._forget_vanished(outer)
        with linux_net.in_netns(name):
            complete = linux_net.link_exists(INNER_LINK)
        with linux_net.in_netns(self.netns):
            if not (complete and linux_net.link_exists(outer)):
                linux_net.delete_link(outer)
                linux_net.ip("link", "add", outer, "type", "veth", "peer", "name", INNER_LINK, "netns", name)
            linux_net.set_up(outer)
        with linux_net.in_netns(name):
            linux_net.checksum_offload_off(INNER_LINK)
            for setting, value in FORGETFUL.items():
                linux_net.write_sysctl(f"net/ipv4/neigh/{INNER_LINK}/{setting}", value)
            linux_net.set_addresses(INNER_LINK, port.mac, {*addresses, f"{METADATA_ADDRESS}/32"})
        ids = {PORT_KEY: port.port_id, NETWORK_KEY: network_id, "attached-mac": port.mac}
        self._attach(outer, ids)
        return name

    def remove_metadata(self, network_id: str) -> None:
        """Idempotent."""
        self._detach(NETWORK_KEY, network_id)
        name = self.metadata_namespace(network_id)
        with linux_net.in_netns(self.netns):
            linux_net.delete_link(_outer_link(name))
        linux_net.delete_namespace(name)

    def metadata_networks(self) -> set[str]:
        """Networks of which this host has anything of the metadata service."""
        prefix = self.metadata_namespace("")
        with self._replica.frozen() as tables:
            attached = {_external_ids(tables, row).get(NETWORK_KEY) for row in _all(tables, "Interface")}
        left = {name.removeprefix(prefix) for name in linux_net.namespaces(prefix)}
        return left | {network for network in attached if network}

    def _forget_vanished(self, link: str) -> None:
        """Take a link that the kernel has no more off the switch, which would not notice a new one of its name."""
        with linux_net.in_netns(self.netns):
            if linux_net.link_exists(link):
                return
        with self._replica.frozen() as tables:
            if link not in {_name(tables, row) for row in _all(tables, "Port")}:
                return
        self._detach("", link)
        self._replica.transact(_ask_for_a_round)
        self._replica.wait_until(_has_done_a_round)

    def _attach(self, link: str, ids: dict[str, str]) -> None:
        def build(tables: Tables) -> list[Operation]:
            for uuid, row in tables.rows("Interface").items():
                if _name(tables, row) == link:
                    if _external_ids(tables, row).items() >= ids.items():
                        return []
                    change = {"external_ids": as_map(ids)}
                    return [{"op": "update", "table": "Interface", "where": where(uuid), "row": change}]
            return _insertion(tables, link, ids)

        self._replica.transact(build)

    def _detach(self, key: str, value: str) -> None:
        """Take links off by an external id, or by their name (key "")."""

        def build(tables: Tables) -> list[Operation]:
            interfaces = {
                uuid
                for uuid, row in tables.rows("Interface").items()
                if (_external_ids(tables, row) | {"": _name(tables, row)}).get(key) == value
            }
            ports = [
                ["uuid", str(uuid)]
                for uuid, row in tables.rows("Port").items()
                if interfaces & set(tables.value(row, "interfaces"))
            ]
            if not ports:
                return []
            mutation = ["ports", "delete", as_set(ports)]
            return [{"op": "mutate", "table": "Bridge", "where": where(_bridge(tables)), "mutations": [mutation]}]

        self._replica.transact(build)


def _ask_for_a_round(_: Tables) -> list[Operation]:
    """The switch copies this counter when it has done all that its database said then."""
    more = ["next_cfg", "+=", 1]
    return [{"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [more]}]


def _has_done_a_round(tables: Tables) -> bool:
    return all(tables.value(row, "cur_cfg") >= tables.value(row, "next_cfg") for row in _all(tables, "Open_vSwitch"))


def _insertion(tables: Tables, link: str, ids: dict[str, str]) -> list[Operation]:
    interface = {"name": link, "external_ids": as_map(ids)}
    port = {"name": link, "interfaces": ["named-uuid", "interface"]}
    mutation = ["ports", "insert", as_set([["named-uuid", "port"]])]
    return [
        {"op": "insert", "table": "Interface", "uuid-name": "interface", "row": interface},
        {"op": "insert", "table": "Port", "uuid-name": "port", "row": port},
        {"op": "mutate", "table": "Bridge", "where": where(_bridge(tables)), "mutations": [mutation]},
    ]


def _bridge(tables: Tables) -> UUID:
    for uuid, row in tables.rows("Bridge").items():
        if _name(tables, row) == BRIDGE:
            return UUID(str(uuid))
    raise Unavailable(f"The bridge {BRIDGE} is not there yet.")


def _all(tables: Tables, table: str) -> list[Any]:
    return list(tables.rows(table).values())


def _name(tables: Tables, row: Any) -> str:
    return str(tables.value(row, "name"))


def _external_ids(tables: Tables, row: Any) -> dict[str, str]:
    return dict(tables.value(row, "external_ids"))


def _outer_link(namespace: str) -> str:
    """At most 15 characters: the switch's side of the link into a metadata namespace."""
    return f"md{hashlib.sha256(namespace.encode()).hexdigest()[:11]}"
