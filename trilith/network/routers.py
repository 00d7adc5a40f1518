"""Routers: they join subnets, and reach the outside through a gateway port on an external network."""

import ipaddress
from typing import Any

from trilith.kernel.declare import Field, Quota, computed, flag, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Flag, Id, ListOf, Member, Object, Prefix, Text
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT, drop_port, make_port, readdress
from trilith.network.resource import bump, resource
from trilith.network.subnets import SUBNET

Row = dict[str, Any]

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"
MAX_ROUTES = 30
FIXED_IP = Object({"subnet_id": Member(Id(), null=True), "ip_address": Member(Address(), null=True)})
ROUTE = Object({"destination": Member(Prefix(loose=True), required=True), "nexthop": Member(Address(), required=True)})
ROUTES = ListOf(ROUTE)
GATEWAY_INFO = Object(
    {
        "network_id": Member(Id()),
        "enable_snat": Member(Flag()),
        "external_fixed_ips": Member(ListOf(FIXED_IP), null=True),
        "qos_policy_id": Member(Id(), null=True),
    }
)


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    ids = [row["gateway_port_id"] for row in rows if row["gateway_port_id"]]
    ports = {port["id"]: port for port in ctx.tx.rows(PORT, id=ids)} if ids else {}
    for row in rows:
        row["gateway_ips"] = ports[row["gateway_port_id"]]["fixed_ips"] if row["gateway_port_id"] in ports else []


def _gateway_view(row: Row, ctx: Ctx) -> Row | None:
    if row["external_network_id"] is None:
        return None
    return {
        "network_id": row["external_network_id"],
        "external_fixed_ips": row["gateway_ips"],
        "enable_snat": row["enable_snat"],
    }


ROUTER = resource(
    "router",
    "/routers",
    dict(
        admin_state_up=flag(create="optional", update=True, default=True, filter=True, sort=True),
        status=computed(lambda row, ctx: "ACTIVE"),
        external_gateway_info=Field(
            kind=GATEWAY_INFO,
            stored=False,
            create="optional",
            update=True,
            null=True,
            show=_gateway_view,
            extension="ext-gw-mode",
        ),
        external_network_id=text(64, hidden=True, index=True),
        gateway_port_id=text(64, hidden=True),
        enable_snat=flag(default=True, hidden=True),
        routes=Field(kind=ROUTES, create="no", update=True, null=True, default=list, extension="extraroute"),
        availability_zone_hints=Field(
            kind=ListOf(Text(255)), create="optional", default=list, extension="router_availability_zone"
        ),
        availability_zones=computed(lambda row, ctx: ["nova"], extension="router_availability_zone"),
        flavor_id=text(64),
    ),
    quota=Quota("router", 10),
    expand=_expand,
    extension="router",
)


def bad(resource_name: str, message: str) -> Fault:
    return Fault("invalid", f"Bad {resource_name} request: {message}.", "BadRequest")


@ROUTER.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    for zone in new["availability_zone_hints"]:
        if zone != "nova":
            raise Fault("missing", f"AvailabilityZone {zone} could not be found.", "AvailabilityZoneNotFound")
    info = new.pop("external_gateway_info", None)
    row = ctx.tx.insert(ROUTER, new)
    return _set_gateway(ctx, row, info) if info else row


@ROUTER.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if "external_gateway_info" in changes:
        row = _set_gateway(ctx, row, changes.pop("external_gateway_info") or None)
    if "routes" in changes:
        changes["routes"] = checked_routes(ctx.tx, row, changes["routes"] or [])
    return ctx.tx.update(ROUTER, row, **changes)


@ROUTER.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    if interfaces(ctx.tx, row["id"]):
        raise Fault("conflict", f"Router {row['id']} still has ports", "RouterInUse")
    clear_gateway(ctx.tx, row)
    ctx.tx.delete(ROUTER, row)


def interfaces(tx: Tx, router_id: str) -> list[Row]:
    """The ports by which a router is on its subnets."""
    return tx.rows(PORT, device_id=router_id, device_owner=INTERFACE)


# the way out
def _set_gateway(ctx: Ctx, row: Row, info: Row | None) -> Row:
    if info is None:
        return clear_gateway(ctx.tx, row)
    for name in ("enable_snat", "external_fixed_ips"):
        if info.get(name) is not None and not ctx.may("admin"):
            raise forbidden(f"update_router:external_gateway_info:{name}")
    if "network_id" not in info:
        raise Fault(
            "invalid", "Invalid input for external_gateway_info. Reason: network_id is required.", "HTTPBadRequest"
        )
    network = ctx.find(NETWORK, info["network_id"])
    if not network["external"]:
        raise bad("router", f"Network {network['id']} is not an external network")
    asked = info.get("external_fixed_ips") or None
    enable_snat = info.get("enable_snat", True)
    tx = ctx.tx
    if row["external_network_id"] == network["id"]:
        if asked is not None:
            readdress(tx, tx.get(PORT, row["gateway_port_id"]), asked)
        return tx.update(ROUTER, row, enable_snat=enable_snat)
    row = clear_gateway(tx, row)
    _no_overlap(tx, row, tx.rows(SUBNET, network_id=network["id"]))
    port = make_port(
        tx,
        ctx.new_id,
        project_id="",
        network_id=network["id"],
        fixed_ips=asked,
        device_id=row["id"],
        device_owner=GATEWAY,
    )
    changes = {"external_network_id": network["id"], "gateway_port_id": port["id"], "enable_snat": enable_snat}
    return tx.update(ROUTER, row, **changes)


def clear_gateway(tx: Tx, row: Row) -> Row:
    from trilith.network.floatingips import FLOATING_IP

    if row["external_network_id"] is None:
        return row
    if tx.one(FLOATING_IP, router_id=row["id"]) is not None:
        raise Fault(
            "conflict",
            f"Gateway cannot be updated for router {row['id']}, since a gateway to external network "
            f"{row['external_network_id']} is required by one or more floating IPs.",
            "RouterExternalGatewayInUseByFloatingIp",
        )
    if (port := tx.one(PORT, id=row["gateway_port_id"])) is not None:
        drop_port(tx, port)
    return tx.update(ROUTER, row, external_network_id=None, gateway_port_id=None, enable_snat=True)


# the subnets inside
def _subnets_of(tx: Tx, ports: list[Row]) -> list[Row]:
    ids = {fixed["subnet_id"] for port in ports for fixed in port["fixed_ips"]}
    return tx.rows(SUBNET, id=list(ids)) if ids else []


def _no_overlap(tx: Tx, row: Row, subnets: list[Row]) -> None:
    """A router cannot tell two subnets apart that have the same addresses."""
    ports = interfaces(tx, row["id"])
    if row["gateway_port_id"]:
        ports += tx.rows(PORT, id=row["gateway_port_id"])
    for known in _subnets_of(tx, ports):
        for subnet in subnets:
            if known["id"] == subnet["id"]:
                raise bad("router", f"Router already has a port on subnet {subnet['id']}")
            one, two = ipaddress.ip_network(known["cidr"]), ipaddress.ip_network(subnet["cidr"])
            if one.version == two.version and one.overlaps(two):
                raise bad(
                    "router",
                    f"Cidr {subnet['cidr']} of subnet {subnet['id']} overlaps with cidr {known['cidr']} of subnet "
                    f"{known['id']}",
                )


BODY = Object({"subnet_id": Member(Id(), null=True), "port_id": Member(Id(), null=True)}, open_ended=True)


@ROUTER.route("PUT", "/{id}/add_router_interface", "member", body=BODY, name="routers:add_router_interface")
def add_router_interface(ctx: Ctx, row: Row) -> Row:
    subnet_id, port_id = ctx.body.get("subnet_id"), ctx.body.get("port_id")
    if subnet_id and port_id:
        raise bad("router", "Cannot specify both subnet-id and port-id")
    if port_id:
        return _joined(ctx, row, *_add_port(ctx, row, port_id))
    if subnet_id:
        return _joined(ctx, row, *_add_subnet(ctx, row, subnet_id))
    raise bad("router", "Either subnet_id or port_id must be specified")


def _add_port(ctx: Ctx, row: Row, port_id: str) -> tuple[Row, list[Row]]:
    tx, port = ctx.tx, ctx.find(PORT, port_id)
    if port["device_id"]:
        raise Fault(
            "conflict",
            f"Unable to complete operation on port {port_id} for network {port['network_id']}. Port already has an "
            f"attached device {port['device_id']}.",
            "PortInUse",
        )
    if not port["fixed_ips"]:
        raise bad("router", "Router port must have at least one fixed IP")
    subnets = _subnets_of(tx, [port])
    if len([s for s in subnets if s["ip_version"] == 4]) > 1:
        raise bad("router", "Cannot have multiple IPv4 subnets on router port")
    _no_overlap(tx, row, subnets)
    changes: Row = {"security_groups": [], "port_security_enabled": False, "allowed_address_pairs": []}
    return tx.update(PORT, port, device_id=row["id"], device_owner=INTERFACE, **changes), subnets


def _add_subnet(ctx: Ctx, row: Row, subnet_id: str) -> tuple[Row, list[Row]]:
    tx, subnet = ctx.tx, ctx.find(SUBNET, subnet_id)
    if not subnet["gateway_ip"]:
        raise bad("router", "Subnet for router interface must have a gateway IP")
    if subnet["ip_version"] == 6 and subnet["ipv6_address_mode"] and not subnet["ipv6_ra_mode"]:
        raise bad("router", f"IPv6 subnet {subnet_id} configured to receive RAs from an external router")
    _no_overlap(tx, row, [subnet])
    asked = {"subnet_id": subnet_id, "ip_address": subnet["gateway_ip"]}
    if subnet["ip_version"] == 6:
        for port in interfaces(tx, row["id"]):
            only_v6 = all(":" in fixed["ip_address"] for fixed in port["fixed_ips"])
            if port["network_id"] == subnet["network_id"] and only_v6:
                return readdress(tx, port, [*port["fixed_ips"], asked]), [subnet]
    port = make_port(
        tx,
        ctx.new_id,
        project_id=row["project_id"],
        network_id=subnet["network_id"],
        fixed_ips=[asked],
        device_id=row["id"],
        device_owner=INTERFACE,
    )
    return port, [subnet]


def _joined(ctx: Ctx, row: Row, port: Row, subnets: list[Row]) -> Row:
    """The reply to adding and removing: what joins the router and the subnet."""
    bump(ctx.tx, ROUTER, row["id"])
    return {
        "id": row["id"],
        "project_id": row["project_id"],
        "tenant_id": row["project_id"],
        "port_id": port["id"],
        "network_id": port["network_id"],
        "subnet_id": subnets[0]["id"],
        "subnet_ids": [subnet["id"] for subnet in subnets],
        "tags": row["tags"],
    }


@ROUTER.route("PUT", "/{id}/remove_router_interface", "member", body=BODY, name="routers:remove_router_interface")
def remove_router_interface(ctx: Ctx, row: Row) -> Row:
    tx, subnet_id, port_id = ctx.tx, ctx.body.get("subnet_id"), ctx.body.get("port_id")
    if not subnet_id and not port_id:
        raise bad("router", "Either subnet_id or port_id must be specified")
    doors = interfaces(tx, row["id"])
    if port_id:
        doors = [port for port in doors if port["id"] == port_id]
        if not doors:
            message = f"Router {row['id']} does not have an interface with id {port_id}"
            raise Fault("missing", message, "RouterInterfaceNotFound")
        if subnet_id and subnet_id not in {fixed["subnet_id"] for fixed in doors[0]["fixed_ips"]}:
            message = f"Subnet on port {port_id} does not match the requested subnet {subnet_id}."
            raise Fault("invalid", message, "SubnetMismatchForPort")
    else:
        ctx.find(SUBNET, subnet_id)
        doors = [port for port in doors if subnet_id in {fixed["subnet_id"] for fixed in port["fixed_ips"]}]
        if not doors:
            message = f"Router {row['id']} has no interface on subnet {subnet_id}"
            raise Fault("missing", message, "RouterInterfaceNotFoundForSubnet")
    door = doors[0]
    leaving = [s for s in _subnets_of(tx, [door]) if port_id or s["id"] == subnet_id]
    for subnet in leaving:
        _not_needed(tx, row, subnet)
    staying = [fixed for fixed in door["fixed_ips"] if fixed["subnet_id"] not in {s["id"] for s in leaving}]
    if staying:
        readdress(tx, door, staying)
    else:
        drop_port(tx, door)
    return _joined(ctx, row, door, leaving)


def _not_needed(tx: Tx, row: Row, subnet: Row) -> None:
    """Neither a floating address nor a route goes through this interface."""
    from trilith.network.floatingips import FLOATING_IP

    net = ipaddress.ip_network(subnet["cidr"])
    for address in tx.rows(FLOATING_IP, router_id=row["id"]):
        if ipaddress.ip_address(address["fixed_ip_address"]) in net:
            raise Fault(
                "conflict",
                f"Router interface for subnet {subnet['id']} on router {row['id']} cannot be deleted, as it is "
                "required by one or more floating IPs.",
                "RouterInterfaceInUseByFloatingIP",
            )
    for route in row["routes"]:
        if ipaddress.ip_address(route["nexthop"]) in net:
            raise Fault(
                "conflict",
                f"Router interface for subnet {subnet['id']} on router {row['id']} cannot be deleted, as it is "
                "required by one or more routes.",
                "RouterInterfaceInUseByRoute",
            )


# routes
def checked_routes(tx: Tx, row: Row, routes: list[Row]) -> list[Row]:
    """Each route once, with a next hop that the router can reach and does not have itself."""
    if len(routes) > MAX_ROUTES:
        message = (
            f"Unable to complete operation for {row['id']}. The number of routes exceeds the maximum {MAX_ROUTES}."
        )
        raise Fault("invalid", message, "RoutesExhausted")
    ports = interfaces(tx, row["id"])
    if row["gateway_port_id"]:
        ports += tx.rows(PORT, id=row["gateway_port_id"])
    nets = [ipaddress.ip_network(subnet["cidr"]) for subnet in _subnets_of(tx, ports)]
    own = {fixed["ip_address"] for port in ports for fixed in port["fixed_ips"]}
    for n, route in enumerate(routes):
        hop = ipaddress.ip_address(route["nexthop"])
        if route in routes[:n]:
            why = "Duplicate route"
        elif hop.version != ipaddress.ip_network(route["destination"]).version:
            why = "the destination and the nexthop are of different IP versions"
        elif not any(hop in net for net in nets):
            why = "the nexthop is not connected with router"
        elif str(hop) in own:
            why = "the nexthop is used by router"
        else:
            continue
        raise Fault("invalid", f"Invalid format for routes: {route}, {why}", "InvalidRoutes")
    return routes


ROUTES_BODY = Object({"router": Member(Object({"routes": Member(ROUTES, required=True)}), required=True)})


@ROUTER.route("PUT", "/{id}/add_extraroutes", "member", body=ROUTES_BODY, name="routers:add_extraroutes")
def add_extraroutes(ctx: Ctx, row: Row) -> Row:
    more = [route for route in ctx.body["router"]["routes"] if route not in row["routes"]]
    row = ctx.tx.update(ROUTER, row, routes=checked_routes(ctx.tx, row, row["routes"] + more))
    return {"router": ctx.show(ROUTER, row)}


@ROUTER.route("PUT", "/{id}/remove_extraroutes", "member", body=ROUTES_BODY, name="routers:remove_extraroutes")
def remove_extraroutes(ctx: Ctx, row: Row) -> Row:
    less = ctx.body["router"]["routes"]
    row = ctx.tx.update(ROUTER, row, routes=[route for route in row["routes"] if route not in less])
    return {"router": ctx.show(ROUTER, row)}
