"""What the types of a cluster file cannot say: all that is wrong with it, each mistake with the place where it stands.

Pure: what only the hosts can tell (names that do not resolve, missing interfaces) is asked by `trilith deploy`.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

from trilith.cluster.cluster_file import ALL_ROLES, ClusterFile

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

CONTROLLERS = (1, 3, 5)
TUNNEL_OVERHEAD_BYTES = 58
LEAST_MTU = 1280 + TUNNEL_OVERHEAD_BYTES  # what IPv6 needs inside of a tunnel
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MONITOR = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")
LEAST_OSD_GIB = 5
INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")


class Mistake(NamedTuple):
    """A sentence, and the way to its place in the file: ``("hosts", 1, "address")``."""

    sentence: str
    steps: tuple[str | int, ...]


def mistakes(cluster: ClusterFile) -> list[Mistake]:
    """Everything that is wrong, in the order of the file's subjects; [] for a file that can be used."""
    found = [*_names(cluster), *_hosts(cluster), *_roles(cluster), *_networks(cluster), *_ceph(cluster)]
    if cluster.clustered:
        found += [*_controllers(cluster), *_host_networks(cluster)]
    elif cluster.engines.database == "galera":
        found.append(Mistake("Galera needs three controllers or more; with one host, write `auto`.", DATABASE))
    return [*found, *_vip(cluster), *_fencing(cluster)]


DATABASE = ("engines", "database")


def _names(cluster: ClusterFile) -> Iterator[Mistake]:
    if not CLUSTER_NAME.fullmatch(cluster.name):
        yield Mistake(f"`{cluster.name}` is no name for a cluster: small letters, digits and dashes, 30.", ("name",))
    if not cluster.region.strip() or len(cluster.region) > 255:
        yield Mistake("`region` is empty or longer than 255 letters.", ("region",))
    if not 1 <= cluster.ssh.port <= 65535:
        yield Mistake(f"{cluster.ssh.port} is no port; ports are from 1 to 65535.", ("ssh", "port"))


def _hosts(cluster: ClusterFile) -> Iterator[Mistake]:
    if not cluster.hosts:
        yield Mistake("`hosts` is empty; name at least one host.", ("hosts",))
    owners: dict[str, int] = {}
    for index, host in enumerate(cluster.hosts):
        at = ("hosts", index)
        names = (host.name, *host.addresses)
        for value in names:
            if value in owners:
                yield Mistake(f"`{value}` is already used by host {owners[value] + 1}.", at)
        owners |= {value: index for value in names if value not in owners}
        if len(host.name) > 63 or not HOST_NAME.fullmatch(host.name):
            yield Mistake(f"`{host.name}` is no host name; use letters, digits, dots and dashes.", (*at, "name"))
        if _address(host.address) is None:
            yield Mistake(f"`{host.address}` is no IP address.", (*at, "address"))
        for field in ("tunnel_address", "storage_address"):
            if (address := getattr(host, field)) is not None and _address(address) is None:
                yield Mistake(f"`{address}` is no IP address.", (*at, field))
        if not host.roles:
            yield Mistake(f"host `{host.name}` has no role; give it some of {', '.join(ALL_ROLES)}.", at)
        for role in sorted({role for role in host.roles if host.roles.count(role) > 1}):
            yield Mistake(f"host `{host.name}` has the role `{role}` twice.", (*at, "roles"))
        if not host.availability_zone or ":" in host.availability_zone:
            yield Mistake("an availability zone's name is not empty and has no colon.", (*at, "availability_zone"))


def _roles(cluster: ClusterFile) -> Iterator[Mistake]:
    for role in ("control", "network", "compute"):
        if cluster.hosts and not cluster.with_role(role):
            yield Mistake(f"no host has the role `{role}`; a cloud needs at least one.", ("hosts",))


def _controllers(cluster: ClusterFile) -> Iterator[Mistake]:
    count = len(cluster.with_role("control"))
    if count not in CONTROLLERS:
        yield Mistake(
            f"{count} hosts have the role `control`; it takes 3 or 5: an even number survives no more failures than "
            "one less, and more than 5 make every write slower.",
            ("hosts",),
        )
    elif count == 1:
        yield Mistake(
            "one controller for several hosts: Galera needs three; give `control` to 3 or 5 hosts.", ("hosts",)
        )
    if cluster.engines.database == "sqlite":
        yield Mistake("SQLite serves one host only; with several hosts, write `auto` or `galera`.", DATABASE)


def _networks(cluster: ClusterFile) -> Iterator[Mistake]:
    """Each network by itself, and none of them inside of another."""
    texts = {
        ("networks", "management"): cluster.networks.management,
        ("networks", "tunnel"): cluster.networks.tunnel,
        ("networks", "storage"): cluster.networks.storage,
        ("public", "cidr"): cluster.public.cidr,
    }
    known: dict[tuple[str, ...], Network] = {}
    for place, text in texts.items():
        if text is None:
            continue
        network = _network(text)
        if network is None:
            yield Mistake(f"`{text}` is no network{_suggested(text)}.", place)
            continue
        for other, their in known.items():
            if network.overlaps(their):
                yield Mistake(f"{'.'.join(place)} {network} overlaps {'.'.join(other)} {their}.", place)
        known[place] = network
    public = known.get(("public", "cidr"))
    gateway = cluster.public.gateway
    if gateway is not None and public is not None and not _usable(gateway, public):
        yield Mistake(f"`{gateway}` is no address for a host in {public}.", ("public", "gateway"))
    if not LEAST_MTU <= cluster.networks.tunnel_mtu <= 65535:
        yield Mistake(f"a tunnel's MTU is from {LEAST_MTU} to 65535 bytes.", ("networks", "tunnel_mtu"))
    yield from _interfaces(cluster)


def _ceph(cluster: ClusterFile) -> Iterator[Mistake]:
    ceph = cluster.ceph
    if ceph is None:
        return
    if not cluster.clustered or cluster.fake:
        yield Mistake("`ceph` is for several real hosts; on one machine, volumes are files.", ("ceph",))
    names = (*ceph.pools, ceph.objects_pool)
    for name in names:
        if not POOL.fullmatch(name) or names.count(name) > 1:
            yield Mistake(f"`{name}` is no name for this pool: letters, digits, dots and dashes, not twice.", ("ceph",))
    if ceph.existing is not None:
        for monitor in ceph.existing.monitors or [""]:
            if not MONITOR.fullmatch(monitor):
                yield Mistake(f"`{monitor}` is no monitor: an address, or an address:port.", ("ceph", "existing"))
        return
    storage = cluster.with_role("storage")
    if not 1 <= ceph.min_size <= ceph.size:
        yield Mistake("`min_size` is from 1 to `size`.", ("ceph", "min_size"))
    if len(storage) < ceph.size:
        hosts = f"{len(storage)} host{'s have' if len(storage) != 1 else ' has'} the role `storage`"
        yield Mistake(f"{hosts}; {ceph.size} copies need as many.", ("ceph",))
    if ceph.osd_size_gib is not None and ceph.osd_size_gib < LEAST_OSD_GIB:
        yield Mistake(f"an OSD has {LEAST_OSD_GIB} GiB or more.", ("ceph", "osd_size_gib"))
    for name, device in ceph.osd_devices.items():
        if name not in {host.name for host in storage}:
            yield Mistake(f"`{name}` is no storage host.", ("ceph", "osd_devices"))
        if not device.startswith("/dev/"):
            yield Mistake(f"`{device}` is no device: give it as /dev/NAME.", ("ceph", "osd_devices", name))
    for host in storage:
        if ceph.osd_size_gib is None and host.name not in ceph.osd_devices:
            yield Mistake(f"say where host `{host.name}` stores: `osd_size_gib`, or its device.", ("ceph",))


def _interfaces(cluster: ClusterFile) -> Iterator[Mistake]:
    networks = cluster.networks
    names = {"management_interface": networks.management_interface, "provider_interface": networks.provider_interface}
    if networks.tunnel is not None:
        names["tunnel_interface"] = networks.tunnel_interface
    if networks.storage is not None:
        names["storage_interface"] = networks.storage_interface
    used: dict[str, str] = {}
    for field, name in names.items():
        if not INTERFACE.fullmatch(name):
            yield Mistake(f"`{name}` is no name of an interface.", ("networks", field))
        if name in used:
            yield Mistake(f"`{name}` is already the {used[name]}.", ("networks", field))
        used[name] = field


def _host_networks(cluster: ClusterFile) -> Iterator[Mistake]:
    """Hosts lie where their networks are."""
    networks = cluster.networks
    if networks.management is None:
        yield Mistake("several hosts need `networks.management`, the network of their addresses.", ("networks",))
    management = _network(networks.management or "")
    for index, host in enumerate(cluster.hosts):
        at = ("hosts", index)
        if management is not None and _address(host.address) and not _usable(host.address, management):
            yield Mistake(
                f"`{host.address}` is no address for a host in the management network {management}.", (*at, "address")
            )
        yield from _other_network(cluster, index, "tunnel", {"network", "compute"})
        yield from _other_network(cluster, index, "storage", {"control", "compute", "storage"})


def _other_network(cluster: ClusterFile, index: int, name: str, roles: set[str]) -> Iterator[Mistake]:
    """Hosts with one of `roles` have an address in that network, if there is one."""
    host, at = cluster.hosts[index], ("hosts", index)
    field, text = f"{name}_address", getattr(cluster.networks, name)
    address, network = getattr(host, field), _network(text or "")
    if address is None:
        if text is not None and roles & {*host.roles}:
            yield Mistake(f"host `{host.name}` needs a `{field}` in {text}.", at)
    elif text is None:
        yield Mistake(f"a `{field}` needs `networks.{name}`.", (*at, field))
    elif network is not None and _address(address) and not _usable(address, network):
        yield Mistake(f"`{address}` is no address for a host in the {name} network {network}.", (*at, field))


def _vip(cluster: ClusterFile) -> Iterator[Mistake]:
    if cluster.vip is None:
        if cluster.clustered:
            yield Mistake("several hosts need a `vip`: the address that clients use, whoever serves.", ("hosts",))
        return
    if _address(cluster.vip) is None:
        yield Mistake(f"`{cluster.vip}` is no IP address.", ("vip",))
        return
    for host in cluster.hosts:
        if cluster.vip in host.addresses:
            yield Mistake(f"the VIP {cluster.vip} is host `{host.name}`'s own; take a free one.", ("vip",))
    management = _network(cluster.networks.management or "")
    if cluster.clustered and management is not None and not _usable(cluster.vip, management):
        yield Mistake(
            f"the VIP {cluster.vip} is no address for a host in the management network {management}.", ("vip",)
        )


def _fencing(cluster: ClusterFile) -> Iterator[Mistake]:
    """A power switch is named wholly, and is one host's own."""
    switches: dict[tuple[str | None, str | None], str] = {}
    for index, host in enumerate(cluster.hosts):
        at = ("hosts", index, "fencing") if host.fencing else ("fencing",)
        fencing = cluster.fencing_of(host)
        if "compute" not in host.roles or fencing.driver not in ("redfish", "ipmi"):
            continue
        for name in ("address", "user", "password_file"):
            if getattr(fencing, name) is None:
                yield Mistake(f"host `{host.name}`: a {fencing.driver} switch needs `{name}`.", at)
        if fencing.driver == "redfish" and not (fencing.address or "https://").startswith("https://"):
            yield Mistake(f"`{fencing.address}`: Redfish is spoken to by https://.", at)
        switch = (fencing.address, fencing.system)
        if fencing.address and switch in switches:
            yield Mistake(f"hosts `{switches[switch]}` and `{host.name}` have the same power switch.", at)
        switches[switch] = host.name


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _suggested(text: str) -> str:
    """What was probably meant by an address with a prefix."""
    try:
        return f"; its first address is meant: `{ipaddress.ip_interface(text).network}`" if "/" in text else ""
    except ValueError:
        return ""


def _usable(text: str, network: Network) -> bool:
    """Whether a host of the network may have this address."""
    address = _address(text)
    if address is None or address not in network:
        return False
    edges = (network.network_address, network.broadcast_address)
    return network.version == 6 or network.prefixlen >= 31 or address not in edges
