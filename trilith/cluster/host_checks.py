"""What is wrong with a host, judged from the facts that `deploy_on_host` told: pure, so that a table can test it.

A problem stops `trilith deploy` before anything is changed; a warning is shown.
"""

import ipaddress
from typing import Any

from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.engines.ceph import MONITOR_PORT
from trilith.cluster.state import DEFAULT_PORT, KEEPER_PORT, WRITER_PORT

Facts = dict[str, Any]

OURS = frozenset({"trilith", "python3", "granian"})
ENGINE_PORTS: dict[int, frozenset[str]] = {
    443: frozenset({"haproxy"}),
    WRITER_PORT: frozenset({"haproxy"}),
    3306: frozenset({"mariadbd"}),
    4567: frozenset({"mariadbd"}),
    4369: frozenset({"epmd", "systemd"}),
    5671: frozenset({"beam.smp"}),
    25672: frozenset({"beam.smp"}),
    11211: frozenset({"memcached"}),
    6641: frozenset({"ovsdb-server"}),
    6642: frozenset({"ovsdb-server"}),
    DEFAULT_PORT: OURS,
    DEFAULT_PORT + 1: OURS,
}
"Ports of a controller, and who may already listen there: the engine itself, from an earlier deploy or a fresh package."

CLOCK_S = 0.5
MEMORY_MIB = {"control": 2000, "network": 500, "compute": 1000, "storage": 500, "logging": 250}
FREE_MIB = {"control": 4000, "network": 500, "compute": 4000, "storage": 4000, "logging": 2000}
PROGRAM_MIB = 600
GOOD_SYSTEMD = ("running", "degraded", "starting")
TAKES_ADDRESS = "br-phy"  # the userspace data path moves the tunnel's address from its interface to this bridge


def ports(cluster: ClusterFile, host: Host) -> dict[int, frozenset[str]]:
    """TCP ports that a host of these roles needs, and the processes that may have them."""
    found = {KEEPER_PORT: OURS}
    if "control" in host.roles:
        found |= ENGINE_PORTS
        if cluster.own_ceph is not None:
            found[MONITOR_PORT] = frozenset({"ceph-mon"})
        if cluster.ceph is not None:
            found[DEFAULT_PORT + 2] = OURS  # the object store
    if "logging" in host.roles:
        found[6514] = frozenset({"rsyslogd"})
    return found


def problems(cluster: ClusterFile, host: Host, facts: Facts, clock_offset_s: float) -> list[str]:
    """Sentences without the host's name; [] for a host that can be deployed to."""
    return [
        *_system(facts),
        *_room(cluster, host, facts),
        *_clock(clock_offset_s),
        *_names(cluster, host, facts),
        *_interfaces(cluster, host, facts),
        *_occupied(cluster, host, facts),
    ] + ([_no_kvm(facts)] if cluster.engines.accelerator == "kvm" and _lacks_kvm(host, facts) else [])


def warnings(cluster: ClusterFile, host: Host, facts: Facts) -> list[str]:
    found = []
    if cluster.engines.accelerator == "auto" and not cluster.fake and _lacks_kvm(host, facts):
        found.append(_no_kvm(facts) + " Machines will be emulated, which is slow.")
    if facts["systemd"] == "degraded":
        found.append("some unit of this host has failed before; see: systemctl --failed")
    return found


def _system(facts: Facts) -> list[str]:
    found = []
    if facts["user"] != "root":
        found.append(f"we are `{facts['user']}` there and not root.")
    if facts["os"] != "debian 12":
        found.append(f"it runs {facts['os']}; hosts run Debian 12.")
    if tuple(facts["python"][:2]) != (3, 11):
        found.append(f"its python3 is {'.'.join(map(str, facts['python']))}; 3.11 is needed.")
    if facts["machine"] != "x86_64":
        found.append(f"it is a {facts['machine']}; hosts are x86_64.")
    if facts["systemd"] not in GOOD_SYSTEMD:
        found.append(f"systemd is {facts['systemd']}; it has to run.")
    return found


def _room(cluster: ClusterFile, host: Host, facts: Facts) -> list[str]:
    found = []
    memory_mib = max(MEMORY_MIB[role] for role in host.roles)
    if "storage" in host.roles and cluster.own_ceph is not None:
        memory_mib += cluster.own_ceph.osd_memory_mib
    if facts["memory_mib"] < memory_mib:
        found.append(f"it has {facts['memory_mib']} MiB of memory; {'/'.join(host.roles)} needs {memory_mib}.")
    needed = {"/var/lib": max(FREE_MIB[role] for role in host.roles), "/opt": PROGRAM_MIB}
    for place, mib in needed.items():
        if facts["free_mib"][place] < mib:
            found.append(f"{place} has {facts['free_mib'][place]} MiB free; {mib} are needed.")
    return found


def _clock(offset_s: float) -> list[str]:
    if abs(offset_s) <= CLOCK_S:
        return []
    way = "ahead of" if offset_s > 0 else "behind"
    return [f"its clock is {abs(offset_s):.1f} s {way} this machine's. Let all hosts follow one time server (NTP)."]


def _names(cluster: ClusterFile, host: Host, facts: Facts) -> list[str]:
    """Every host knows every host's name, and the name of every address."""
    found = []
    if facts["host_name"].partition(".")[0] != host.name.partition(".")[0]:
        found.append(f"it calls itself `{facts['host_name']}`. Type there: hostnamectl set-hostname {host.name}")
    for other in cluster.hosts if cluster.clustered else []:
        line = f"Add to its /etc/hosts (or to DNS): {other.address} {other.name}"
        addresses = facts["addresses_of"].get(other.name, [])
        if not addresses:
            found.append(f"the name `{other.name}` does not resolve there. {line}")
        elif wrong := [address for address in addresses if not _same(address, other.address)]:
            found.append(
                f"the name `{other.name}` resolves to {', '.join(wrong)} there, not to {other.address}. {line}"
            )
        names = facts["name_of"].get(other.address, [])
        if not any(name == other.name or name.startswith(f"{other.name}.") for name in names):
            called = f"is called `{names[0]}`" if names else "has no name"
            if addresses:
                found.append(f"the address {other.address} {called} there, not `{other.name}`. {line}")
    return found


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one.partition("%")[0]) == ipaddress.ip_address(other)


def _interfaces(cluster: ClusterFile, host: Host, facts: Facts) -> list[str]:
    if not cluster.clustered:
        return []
    links, networks, found = facts["interfaces"], cluster.networks, []
    places = [(networks.management_interface, host.address, "management")]
    if networks.tunnel is not None and host.tunnel_address is not None:
        places.append((networks.tunnel_interface, host.tunnel_address, "tunnel"))
    if networks.storage is not None and host.storage_address is not None:
        places.append((networks.storage_interface, host.storage_address, "storage"))
    for name, address, field in places:
        if name not in links:
            found.append(f"it has no interface `{name}` (networks.{field}_interface); it has {_listed(links)}.")
        elif not any(
            _same(a, address) for link in (name, TAKES_ADDRESS) for a in links.get(link, {}).get("addresses", [])
        ):
            found.append(f"its interface `{name}` does not have the address {address}.")
    if "network" in host.roles and not cluster.fake:
        found += _provider(networks.provider_interface, links)
    tunnels = links.get(networks.tunnel_interface if networks.tunnel else networks.management_interface)
    if tunnels and tunnels["mtu"] < networks.tunnel_mtu and {"network", "compute"} & set(host.roles):
        found.append(f"the MTU of its tunnel interface is {tunnels['mtu']}; `tunnel_mtu` says {networks.tunnel_mtu}.")
    return found


def _provider(name: str, links: dict[str, Any]) -> list[str]:
    if name not in links:
        return [f"it has no interface `{name}` (networks.provider_interface); it has {_listed(links)}."]
    if links[name]["addresses"]:
        return [f"its provider interface `{name}` has the address {links[name]['addresses'][0]}; it must have none."]
    return []


def _listed(links: dict[str, Any]) -> str:
    return ", ".join(name for name in links if name != "lo") or "none"


def _occupied(cluster: ClusterFile, host: Host, facts: Facts) -> list[str]:
    allowed = ports(cluster, host)
    found = [
        f"port {port} is taken by {owner}."
        for port, owner in facts["listening"].items()
        if owner not in allowed.get(int(port), frozenset({owner}))
    ]
    if "control" in host.roles:
        found += [f"{data} that are not this cloud's. Move them away first." for data in facts["foreign"]]
    return found


def _lacks_kvm(host: Host, facts: Facts) -> bool:
    return "compute" in host.roles and facts["kvm"] is not None and not facts["kvm"]["usable"]


def _no_kvm(facts: Facts) -> str:
    return f"KVM does not really work there ({facts['kvm']['reason']})."
