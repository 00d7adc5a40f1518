"""Subnets: a block of addresses on a network, and what machines there are told by DHCP and router advertisements."""

import ipaddress
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Field, Noun, Quota, flag, given, ident, listing, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Choice, Flag, ListOf, Member, Object, Prefix, Text, Whole
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx
from trilith.network import allocations, rbac_policies
from trilith.network.networks import AUTO_DELETED, NETWORK, check_mtu_of_subnet
from trilith.network.resource import bump, resource

Row = dict[str, Any]
Net = ipaddress.IPv4Network | ipaddress.IPv6Network

UNSET = ""  # not given, where null means "none"
MAX_DNS_NAMESERVERS = 5
MAX_HOST_ROUTES = 20
IPV6_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")
ROUTE = Object({"destination": Member(Prefix(), required=True), "nexthop": Member(Address(), required=True)})
POOL = Object({"start": Member(Address(), required=True), "end": Member(Address(), required=True)})


def _ipv6_mode(**more: Any) -> Field:
    return Field(kind=Choice(IPV6_MODES), create="optional", null=True, filter=True, **more)


def _scope(ctx: Ctx) -> Any:
    """The caller's own, those on its networks, and those on networks shared with it."""
    if ctx.who.is_admin:
        return None
    own = sa.select(NETWORK.c.id).where(NETWORK.c.project_id == ctx.who.project_id)
    shared = rbac_policies.granted("network", ctx.who.project_id, rbac_policies.SHARED)
    c = SUBNET.c
    return sa.or_(c.project_id == ctx.who.project_id, c.network_id.in_(own), c.network_id.in_(shared))


def _shared_filter(ctx: Ctx, values: list[str]) -> Any:
    """Subnets are shared as their networks are."""
    ids = rbac_policies.granted("network", ctx.who.project_id, rbac_policies.SHARED)
    wanted = {Flag().from_query(value, "shared") for value in values}
    return sa.or_(*[SUBNET.c.network_id.in_(ids) if on else SUBNET.c.network_id.not_in(ids) for on in wanted])


SUBNET: Noun = resource(
    "subnet",
    "/subnets",
    dict(
        network_id=ident(create="required", filter=True, sort=True, index=True),
        ip_version=whole(4, 6, create="required", filter=True, sort=True),
        subnetpool_id=text(64, create="optional", null=True, filter=True, index=True, extension="subnet_allocation"),
        use_default_subnetpool=given(Flag(), default=False, extension="default-subnetpools"),
        prefixlen=given(Whole(0, 128), null=True),
        cidr=Field(kind=Prefix(), create="optional", null=True, filter=True, sort=True),
        gateway_ip=Field(
            kind=Address(), create="optional", update=True, null=True, default=UNSET, filter=True, sort=True
        ),
        allocation_pools=Field(kind=ListOf(POOL), create="optional", update=True, null=True),
        dns_nameservers=listing(Address(), create="optional", update=True, null=True),
        host_routes=listing(ROUTE, create="optional", update=True, null=True),
        enable_dhcp=flag(create="optional", update=True, default=True, filter=True, sort=True),
        ipv6_ra_mode=_ipv6_mode(),
        ipv6_address_mode=_ipv6_mode(),
        service_types=listing(Text(255), create="optional", update=True, extension="subnet-service-types"),
        segment_id=text(64),
    ),
    quota=Quota("subnet", 100),
    scope=_scope,
    filters={"shared": _shared_filter},
)


def invalid(message: str, type_name: str = "InvalidInput") -> Fault:
    return Fault("invalid", f"Invalid input for operation: {message}", type_name)


@SUBNET.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    network = ctx.find(NETWORK, new["network_id"])
    if network["project_id"] != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("create_subnet")
    from trilith.network import subnetpools

    if new.pop("use_default_subnetpool", False) and not new["subnetpool_id"]:
        new["subnetpool_id"] = subnetpools.default_pool(ctx.tx, new["ip_version"])["id"]
    prefix_length = new.pop("prefixlen", None)
    if new["subnetpool_id"] not in (None, "prefix_delegation"):
        pool = ctx.find(subnetpools.POOL, new["subnetpool_id"])
        new["cidr"] = subnetpools.take(ctx.tx, pool, new["cidr"], prefix_length, new["ip_version"], new["project_id"])
    if new["cidr"] is None:
        raise Fault("invalid", "a subnetpool must be specified in the absence of a cidr", "BadRequest")
    return make_subnet(ctx.tx, ctx.new_id, network, **new)


def make_subnet(tx: Tx, new_id: Callable[[], str], network: Row, **fields: Any) -> Row:
    """A subnet row, its gateway and pools filled in, and the network's own port told of it."""
    row = SUBNET.blank() | {"network_id": network["id"]} | fields
    row["id"] = row.get("id") or new_id()
    row["project_id"] = row.get("project_id") or network["project_id"]
    net = _checked_cidr(tx, row)
    for name in ("dns_nameservers", "host_routes", "service_types"):
        row[name] = row[name] or []
    _check_ipv6(row)
    check_mtu_of_subnet(network["mtu"], row)
    if row["gateway_ip"] == UNSET:
        row["gateway_ip"] = _first_address(net)
    elif row["gateway_ip"] is not None:
        _check_gateway(row, net)
    if row["allocation_pools"] is None:
        row["allocation_pools"] = default_pools(net, row["gateway_ip"])
    row["allocation_pools"] = checked_pools(net, row["allocation_pools"], row["gateway_ip"])
    _check_lists(row)
    row = tx.insert(SUBNET, row)
    bump(tx, NETWORK, network["id"])
    keep_network_port(tx, new_id, network)
    _address_existing(tx, row)
    return row


def _checked_cidr(tx: Tx, row: Row) -> Net:
    net = ipaddress.ip_network(row["cidr"])
    if net.version != row["ip_version"]:
        raise invalid(f"cidr '{row['cidr']}' does not match the ip_version '{row['ip_version']}'.")
    if net.prefixlen == 0 or net.is_multicast or (net.version == 6 and net.is_link_local):
        raise invalid(f"cidr '{net}' is not one that a subnet can have.")
    if net.version == 4 and net.prefixlen == net.max_prefixlen and row["enable_dhcp"]:
        raise invalid("a subnet with DHCP enabled needs more than one address.")
    for other in tx.rows(SUBNET, network_id=row["network_id"]):
        known = ipaddress.ip_network(other["cidr"])
        if known.version == net.version and net.overlaps(known):
            raise invalid(
                f"Requested subnet with cidr: {net} for network: {row['network_id']} overlaps with another subnet."
            )
    return net


def _first_address(net: Net) -> str:
    return str(net.network_address + 1) if net.prefixlen < net.max_prefixlen - 1 else str(net.network_address)


def _check_gateway(row: Row, net: Net) -> None:
    """A gateway outside of the subnet is fine: somebody may route it there."""
    gateway = ipaddress.ip_address(row["gateway_ip"])
    if gateway.version != net.version:
        raise invalid(f"gateway_ip '{gateway}' does not match the ip_version '{net.version}'")
    edges = {net.network_address, net.broadcast_address} if net.version == 4 else {net.network_address}
    if gateway in edges and net.prefixlen < net.max_prefixlen - 1:
        raise invalid("Gateway is not valid on subnet")


def _check_ipv6(row: Row) -> None:
    ra, address = row["ipv6_ra_mode"], row["ipv6_address_mode"]
    if row["ip_version"] == 4:
        if ra or address:
            raise invalid("ipv6_ra_mode and ipv6_address_mode are only for subnets of IP version 6")
        return
    if (ra or address) and not row["enable_dhcp"]:
        raise invalid("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    if ra and address and ra != address:
        raise invalid(f"ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{address}' is not valid")
    if (ra in allocations.AUTO_MODES or address in allocations.AUTO_MODES) and ipaddress.ip_network(
        row["cidr"]
    ).prefixlen != 64:
        raise invalid("Invalid CIDR for IPv6 address mode: machines make their own addresses in a /64 only")


def _check_lists(row: Row) -> None:
    if len(row["dns_nameservers"]) > MAX_DNS_NAMESERVERS:
        raise invalid(f"more than {MAX_DNS_NAMESERVERS} DNS nameservers.", "DNSNameServersExhausted")
    if len(row["host_routes"]) > MAX_HOST_ROUTES:
        raise invalid(f"more than {MAX_HOST_ROUTES} host routes.", "HostRoutesExhausted")
    for address in row["dns_nameservers"]:
        if row["dns_nameservers"].count(address) > 1:
            raise invalid(f"Duplicate nameserver '{address}'", "HTTPBadRequest")
    for route in row["host_routes"]:
        versions = {ipaddress.ip_network(route["destination"]).version, ipaddress.ip_address(route["nexthop"]).version}
        if versions != {row["ip_version"]}:
            raise invalid(f"host route {route['destination']} does not match the ip_version '{row['ip_version']}'")


def default_pools(net: Net, gateway_ip: str | None) -> list[Row]:
    """All addresses that a port can have, but for the gateway's."""
    first, last = int(net.network_address), int(net.broadcast_address)
    if net.prefixlen < net.max_prefixlen - 1:
        first, last = first + 1, last - (net.version == 4)
    gateway = ipaddress.ip_address(gateway_ip) if gateway_ip else None
    spans = [(first, last)]
    if gateway is not None and first <= int(gateway) <= last and gateway in net:
        spans = [(first, int(gateway) - 1), (int(gateway) + 1, last)]
    make = type(net.network_address)
    return [{"start": str(make(a)), "end": str(make(b))} for a, b in spans if a <= b]


def checked_pools(net: Net, pools: list[Row], gateway_ip: str | None) -> list[Row]:
    """The pools in their order, each inside the subnet, apart from each other, and without the gateway."""
    spans = []
    for pool in pools:
        start, end = ipaddress.ip_address(pool["start"]), ipaddress.ip_address(pool["end"])
        if start.version != net.version or end.version != net.version or int(start) > int(end):
            raise invalid(f"The allocation pool {start}-{end} is not valid.", "InvalidAllocationPool")
        edges = {net.network_address, net.broadcast_address} if net.version == 4 and net.prefixlen < 31 else set()
        if start not in net or end not in net or start in edges or end in edges:
            raise invalid(
                f"The allocation pool {start}-{end} spans beyond the subnet cidr {net}.", "OutOfBoundsAllocationPool"
            )
        spans.append((int(start), int(end), str(start), str(end)))
        if gateway_ip and int(start) <= int(ipaddress.ip_address(gateway_ip)) <= int(end):
            raise Fault(
                "conflict",
                f"Gateway ip {gateway_ip} conflicts with allocation pool {start}-{end}.",
                "GatewayConflictWithAllocationPools",
            )
    ordered = sorted(spans)
    for one, two in pairwise(ordered):
        if two[0] <= one[1]:
            raise Fault(
                "conflict",
                f"Found overlapping allocation pools: {one[2]}-{one[3]} {two[2]}-{two[3]} for subnet {net}.",
                "OverlappingAllocationPools",
            )
    return [{"start": start, "end": end} for _, _, start, end in spans]


def keep_network_port(tx: Tx, new_id: Callable[[], str], network: Row) -> None:
    """The network's own port, which serves metadata: there while a subnet has DHCP, with an address in each such."""
    from trilith.network import ports

    device_id = f"ovnmeta-{network['id']}"
    found = tx.one(ports.PORT, network_id=network["id"], device_owner="network:distributed", device_id=device_id)
    subnets = [s for s in tx.rows(SUBNET, network_id=network["id"]) if s["enable_dhcp"] and s["ip_version"] == 4]
    if not subnets:
        if found is not None:
            ports.drop_port(tx, found)
        return
    served = {fixed["subnet_id"] for fixed in found["fixed_ips"]} if found else set()
    if found is not None and served == {s["id"] for s in subnets}:
        return
    asked = [
        fixed for fixed in (found["fixed_ips"] if found else []) if fixed["subnet_id"] in {s["id"] for s in subnets}
    ]
    asked += [{"subnet_id": s["id"]} for s in subnets if s["id"] not in served and allocations.free_address(tx, s)]
    if found is not None:
        ports.readdress(tx, found, asked)
    else:
        ports.make_port(
            tx,
            new_id,
            project_id=network["project_id"],
            network_id=network["id"],
            fixed_ips=asked,
            device_id=device_id,
            device_owner="network:distributed",
        )


def _address_existing(tx: Tx, subnet: Row) -> None:
    """Machines that are on the network already make themselves an address in a new IPv6 subnet of that kind."""
    from trilith.network import ports

    if not allocations.is_auto(subnet):
        return
    for port in tx.rows(ports.PORT, network_id=subnet["network_id"]):
        if not port["device_owner"].startswith("network:"):
            own = allocations.take(tx, port, subnet, allocations.eui64(subnet["cidr"], port["mac_address"]))
            tx.update(ports.PORT, port, fixed_ips=[*port["fixed_ips"], own])


@SUBNET.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    net = ipaddress.ip_network(row["cidr"])
    for name in ("dns_nameservers", "host_routes"):
        if name in changes:
            changes[name] = changes[name] or []
    if changes.get("allocation_pools", ()) is None:
        del changes["allocation_pools"]
    new = row | changes
    if "gateway_ip" in changes and changes["gateway_ip"] != row["gateway_ip"]:
        if changes["gateway_ip"] is not None:
            _check_gateway(new, net)
        _gateway_is_free(ctx.tx, row)
    if "gateway_ip" in changes or "allocation_pools" in changes:
        pools = checked_pools(net, new["allocation_pools"], new["gateway_ip"])
        changes |= {"allocation_pools": pools} if "allocation_pools" in changes else {}
    if "enable_dhcp" in changes and not changes["enable_dhcp"] and (row["ipv6_ra_mode"] or row["ipv6_address_mode"]):
        raise invalid("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    _check_lists(new)
    row = ctx.tx.update(SUBNET, row, **changes)
    bump(ctx.tx, NETWORK, row["network_id"])
    if "enable_dhcp" in changes:
        keep_network_port(ctx.tx, ctx.new_id, ctx.tx.get(NETWORK, row["network_id"]))
    return row


def _gateway_is_free(tx: Tx, row: Row) -> None:
    """A gateway that a router has here cannot be another one from now on."""
    from trilith.network.ports import PORT

    if row["gateway_ip"] is None:
        return
    where = (allocations.ALLOCATION.c.subnet_id == row["id"], allocations.ALLOCATION.c.ip_address == row["gateway_ip"])
    port_id = tx.scalar(sa.select(allocations.ALLOCATION.c.port_id).where(*where))
    port = tx.one(PORT, id=port_id) if port_id else None
    if port is not None and port["device_owner"] == "network:router_interface":
        raise Fault(
            "conflict",
            f"Current gateway ip {row['gateway_ip']} already in use by port {port['id']}. Unable to update.",
            "GatewayIpInUse",
        )


def _pools_changed(tx: Tx, old: Row | None, new: Row | None) -> None:
    if old is not None and (new is None or new["allocation_pools"] != old["allocation_pools"]):
        allocations.forget_mark(tx, old["id"])


SUBNET.follows.append(_pools_changed)


@SUBNET.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    """With the addresses that are in nobody's way; refused while a port has another one there."""
    from trilith.network import ports

    tx = ctx.tx
    query = sa.select(allocations.ALLOCATION.c.port_id).where(allocations.ALLOCATION.c.subnet_id == row["id"])
    users = tx.rows(ports.PORT, ports.PORT.c.id.in_(query))
    by_themselves = allocations.is_auto(row)
    for port in users:
        routes = port["device_owner"].startswith("network:router")
        if port["device_owner"] not in AUTO_DELETED and (routes or not by_themselves):
            raise Fault(
                "conflict",
                f"Unable to complete operation on subnet {row['id']}: One or more ports have an IP allocation from "
                "this subnet.",
                "SubnetInUse",
            )
    for port in users:
        allocations.release(
            tx, port["id"], next(f["ip_address"] for f in port["fixed_ips"] if f["subnet_id"] == row["id"])
        )
        tx.update(ports.PORT, port, fixed_ips=[f for f in port["fixed_ips"] if f["subnet_id"] != row["id"]])
    tx.delete(SUBNET, row)
    bump(tx, NETWORK, row["network_id"])
    keep_network_port(tx, ctx.new_id, tx.get(NETWORK, row["network_id"]))
