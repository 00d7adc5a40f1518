"""The networks of a rehearsal: bridges in a network namespace of their own, and this machine's two cables to them.

    this machine                 namespace tri-CLUSTER-fabric                hosts
    last address ===== veth ===== management ===== veth ===== eth0 of each (their addresses)
                                  tunnel     ===== veth ===== eth1 of each (tunnel addresses)
                                  storage    ===== veth ===== eth3 of each (storage addresses, where there are any)
    public gateway === veth ===== provider   ===== veth ===== eth2 of each (none)

This machine stands for the operator's in the management network, and for the router outside in the provider network.
"""

import hashlib
import ipaddress
import json
import socket
from dataclasses import dataclass
from typing import Any

from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.state import Problem
from trilith.drivers import linux_net

ETHERNET_MTU = 1500
LINK_NAME_CHARACTERS = 15


@dataclass(frozen=True)
class Wire:
    """One network: its bridge is called `name`, on hosts it is `interface`. `operator`: our address on it."""

    name: str
    interface: str
    mtu: int
    operator: str | None = None  # 10.0.0.254/24
    cable: str = ""  # this machine's link to it


class Fabric:
    """All networks of one cluster. Everything it makes in the kernel is found again by the cluster's name."""

    def __init__(self, cluster: ClusterFile) -> None:
        self.cluster = cluster
        self.netns = f"tri-{cluster.name}-fabric"
        self.wires = _wires(cluster)
        self.nft_table = f"tri_rehearsal_{_digest(cluster.name)[:9]}"

    @property
    def operator(self) -> str:
        """This machine's address on the management network."""
        return next(wire.operator for wire in self.wires if wire.operator).partition("/")[0]

    def host_netns(self, host: str) -> str:
        """Also the name of its control groups. No other cluster's can begin with `host_prefix`."""
        return f"{self.host_prefix}{host}"

    @property
    def host_prefix(self) -> str:
        return f"tri-{self.cluster.name}@"

    def links(self, host: Host) -> list[dict[str, Any]]:
        """The cables of a host, as `rehearsal_boot` wants them."""
        addresses: dict[str, str | None] = {
            "management": _with_prefix(host.address, self.cluster.networks.management),
            "tunnel": _with_prefix(host.tunnel_address, self.cluster.networks.tunnel),
            "storage": _with_prefix(host.storage_address, self.cluster.networks.storage),
            "provider": None,
        }
        return [
            {
                "network": wire.name,
                "interface": wire.interface,
                "port": port_name(host.name, wire.name),
                "mac": self._mac(host.name, wire.name),
                "port_mac": self._mac(host.name, wire.name, "port"),
                "mtu": wire.mtu,
                "address": addresses[wire.name],
            }
            for wire in self.wires
        ]

    def make(self) -> None:
        """Make what is missing, again and again. `Problem` when another network of this machine is in the way."""
        self._check_free()
        linux_net.make_namespace(self.netns)
        for wire in self.wires:
            with linux_net.in_netns(self.netns):
                if not linux_net.link_exists(wire.name):
                    options = ["type", "bridge", "forward_delay", "0", "mcast_snooping", "0"]
                    linux_net.ip("link", "add", wire.name, "address", self._mac(wire.name), *options)
                linux_net.set_up(wire.name, wire.mtu)
            if wire.operator:
                self._connect(wire)
        linux_net.run(["nft", "-f", "-"], self._rules())
        linux_net.write_sysctl("net/ipv4/ip_forward", "1")

    def remove(self) -> None:
        """Missing is fine. Hosts must be off."""
        for wire in self.wires:
            linux_net.delete_link(wire.cable)
        linux_net.delete_namespace(self.netns)
        linux_net.run(["nft", "-f", "-"], self._without_rules())

    def _connect(self, wire: Wire) -> None:
        """This machine's cable to a network."""
        port = f"out-{wire.name}"
        with linux_net.in_netns(self.netns):
            complete = linux_net.link_exists(port)
        if not (complete and linux_net.link_exists(wire.cable)):
            linux_net.delete_link(wire.cable)
            peer = ["peer", "name", port, "netns", self.netns, "address", self._mac("operator", wire.name, "port")]
            linux_net.ip("link", "add", wire.cable, "address", self._mac("operator", wire.name), "type", "veth", *peer)
        with linux_net.in_netns(self.netns):
            linux_net.ip("link", "set", port, "master", wire.name)
            linux_net.set_up(port)
        linux_net.write_sysctl(f"net/ipv6/conf/{wire.cable}/disable_ipv6", "1")
        linux_net.checksum_offload_off(wire.cable)
        linux_net.ip("addr", "replace", wire.operator or "", "dev", wire.cable)
        linux_net.set_up(wire.cable)

    def _rules(self) -> str:
        """The public network reaches the outside behind this machine; nothing reaches the hosts through it."""
        public = ipaddress.ip_network(self.cluster.public.cidr)
        management, provider = self._cable("management"), self._cable("provider")
        return (
            f"{self._without_rules()}table ip {self.nft_table} {{\n"
            f"chain public {{ type nat hook postrouting priority srcnat;\n"
            f'ip saddr {public} ip daddr != {public} oifname != "{provider}" masquerade\n}}\n'
            f"chain hosts {{ type filter hook forward priority filter;\n"
            f'iifname "{management}" drop\noifname "{management}" drop\n}}\n}}\n'
        )

    def _without_rules(self) -> str:
        """Declared first, so that deleting works when it is not there."""
        return f"table ip {self.nft_table} {{}}\ndelete table ip {self.nft_table}\n"

    def _cable(self, network: str) -> str:
        return next(wire.cable for wire in self.wires if wire.name == network)

    def _check_free(self) -> None:
        ours = {wire.cable for wire in self.wires}
        wanted = [ipaddress.ip_interface(wire.operator).network for wire in self.wires if wire.operator]
        for route in json.loads(linux_net.ip("-j", "-4", "route", "show")):
            if route["dst"] == "default" or route.get("dev") in ours:
                continue
            taken = ipaddress.ip_network(route["dst"])
            for network in wanted:
                if network.overlaps(taken):
                    raise Problem(
                        f"{network} is in use on this machine: {route.get('dev')} has {taken}. "
                        "Write another network into the cluster file, or take the other one down."
                    )

    def _mac(self, *words: str) -> str:
        """Always the same for the same thing: neighbours remember them."""
        return "02:" + bytes.fromhex(_digest(self.cluster.name, *words)[:10]).hex(":")


def port_name(host: str, network: str) -> str:
    """The fabric's end of a host's cable."""
    name = f"{host}-{network[0]}"
    return name if len(name) <= LINK_NAME_CHARACTERS else f"{_digest(host)[:12]}-{network[0]}"


def set_port(fabric: Fabric, host: str, network: str, up: bool) -> None:
    """Plug or pull a host's cable; both ends see it. One that does not exist stays away."""
    port = port_name(host, network)
    with linux_net.in_netns(fabric.netns):
        if linux_net.link_exists(port):
            linux_net.ip("link", "set", port, "up" if up else "down")


def port_is_up(fabric: Fabric, host: str, network: str) -> bool:
    with linux_net.in_netns(fabric.netns):
        shown = json.loads(linux_net.ip("-j", "link", "show"))
    return any(link["ifname"] == port_name(host, network) and "UP" in link["flags"] for link in shown)


def block(fabric: Fabric, pairs: list[tuple[str, str]]) -> None:
    """Drop everything between the hosts of each pair, both ways, on every network; between all others nothing."""
    rules = "table bridge blocked {}\ndelete table bridge blocked\n"
    if pairs:
        rules += "table bridge blocked {\nchain links { type filter hook forward priority 0;\n"
        for one, other in [*pairs, *((b, a) for a, b in pairs)]:
            for wire in fabric.wires:
                ports = port_name(one, wire.name), port_name(other, wire.name)
                rules += f'iifname "{ports[0]}" oifname "{ports[1]}" drop\n'
        rules += "}\n}\n"
    with linux_net.in_netns(fabric.netns):
        linux_net.run(["nft", "-f", "-"], rules)


def answers_ssh(address: str, port: int, limit_s: float = 1.0) -> bool:
    """Whether an SSH server greets there."""
    try:
        with socket.create_connection((address, port), timeout=limit_s) as connection:
            connection.settimeout(limit_s)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _wires(cluster: ClusterFile) -> list[Wire]:
    networks, names = cluster.networks, cluster.name
    if networks.management is None:
        raise Problem("A rehearsal needs `networks.management` in the cluster file, as 10.0.0.0/24.")
    public = ipaddress.ip_network(cluster.public.cidr)
    gateway = cluster.public.gateway or str(next(public.hosts()))
    wires = [
        Wire(
            "management",
            networks.management_interface,
            ETHERNET_MTU,
            _operator_address(cluster, networks.management),
            _cable_name(names, "management"),
        )
    ]
    if networks.tunnel is not None and networks.tunnel_interface != networks.management_interface:
        wires.append(Wire("tunnel", networks.tunnel_interface, networks.tunnel_mtu))
    outside = f"{gateway}/{public.prefixlen}"
    cable = _cable_name(names, "provider")
    wires.append(Wire("provider", networks.provider_interface, ETHERNET_MTU, outside, cable))
    if networks.storage is not None and networks.storage_interface != networks.management_interface:
        wires.append(Wire("storage", networks.storage_interface, ETHERNET_MTU))
    return wires


def _operator_address(cluster: ClusterFile, management: str) -> str:
    network = ipaddress.ip_network(management)
    address = network.broadcast_address - 1
    if str(address) in {cluster.vip, *(host.address for host in cluster.hosts)}:
        raise Problem(
            f"{address}, the last address of {network}, is this machine's in a rehearsal; give it to no host."
        )
    return f"{address}/{network.prefixlen}"


def _with_prefix(address: str | None, network: str | None) -> str | None:
    return f"{address}/{ipaddress.ip_network(network).prefixlen}" if address and network else None


def _cable_name(cluster: str, network: str) -> str:
    return f"tri{_digest(cluster, network)[:9]}{network[0]}"


def _digest(*words: str) -> str:
    return hashlib.sha256("/".join(words).encode()).hexdigest()
