"""Floating IPs: an address of an external network that a router translates to a port's fixed address."""

from collections.abc import Callable, Container
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Field, Quota, choice, computed, given, ident, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Id
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT, ROUTER_OWNERS, drop_port, make_port
from trilith.network.resource import resource
from trilith.network.subnets import SUBNET

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
OWNER = "network:floatingip"
DETAILS = ("name", "network_id", "mac_address", "admin_state_up", "status", "device_id", "device_owner")


def _status(row: Row) -> Row:
    return {"status": "ACTIVE" if row["port_id"] and row["router_id"] else "DOWN"}


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    ids = {row["port_id"] for row in rows if row["port_id"]}
    ports = {port["id"]: port for port in ctx.tx.rows(PORT, id=list(ids))} if ids else {}
    for row in rows:
        port = ports.get(row["port_id"])
        row["port_details"] = {name: port[name] for name in DETAILS} if port else None


def _or_none(column: str) -> Callable[[Ctx, list[str]], Condition]:
    """``?port_id=`` asks for those that have none."""
    return lambda ctx, values: sa.func.coalesce(FLOATING_IP.c[column], "").in_(values)


FLOATING_IP = resource(
    "floatingip",
    "/floatingips",
    dict(
        floating_network_id=ident(create="required", filter=True, sort=True, index=True),
        floating_ip_address=Field(
            kind=Address(4), create="optional", null=True, policy="admin", filter=True, sort=True
        ),
        subnet_id=given(Id(), null=True),
        port_id=ident(create="optional", update=True, null=True, filter=_or_none("port_id"), index=True),
        fixed_ip_address=Field(
            kind=Address(4), create="optional", update=True, null=True, filter=_or_none("fixed_ip_address")
        ),
        router_id=text(64, filter=_or_none("router_id"), index=True),
        status=choice("ACTIVE", "DOWN", filter=True, sort=True),
        floating_port_id=text(64, hidden=True),
        port_details=computed(lambda row, ctx: row["port_details"], extension="fip-port-details"),
        dns_name=text(255, create="optional", default="", extension="dns-integration"),
        dns_domain=text(255, create="optional", default="", extension="dns-integration"),
    ),
    quota=Quota("floatingip", 50),
    derive=_status,
    expand=_expand,
    unique=[("port_id", "fixed_ip_address")],
    type_name="FloatingIP",
    extension="router",
    without=("name",),
)


def bad(message: str) -> Fault:
    return Fault("invalid", f"Bad floatingip request: {message}.", "BadRequest")


@FLOATING_IP.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    """The address is taken by a port of nobody on the external network."""
    network = ctx.find(NETWORK, new["floating_network_id"])
    if not network["external"]:
        raise bad(f"Network {network['id']} is not a valid external network")
    asked = {"subnet_id": new.pop("subnet_id", None), "ip_address": new["floating_ip_address"]}
    subnets = ctx.tx.rows(SUBNET, network_id=network["id"], ip_version=4)
    if not subnets:
        message = f"Unable to find any IP address on external network {network['id']}."
        raise Fault("invalid", message, "ExternalIpAddressExhausted")
    if asked["subnet_id"] is not None and asked["subnet_id"] not in {s["id"] for s in subnets}:
        raise bad(f"Subnet {asked['subnet_id']} is not an IPv4 subnet of network {network['id']}")
    fixed_ips = [asked] if any(asked.values()) else None
    outer = make_port(
        ctx.tx,
        ctx.new_id,
        project_id="",
        network_id=network["id"],
        fixed_ips=fixed_ips,
        device_id=new["id"],
        device_owner=OWNER,
    )
    new["floating_ip_address"] = next(f["ip_address"] for f in outer["fixed_ips"] if "." in f["ip_address"])
    new["floating_port_id"] = outer["id"]
    row = FLOATING_IP.blank() | new
    return ctx.tx.insert(FLOATING_IP, row | _association(ctx, row, row["port_id"], row["fixed_ip_address"]))


@FLOATING_IP.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    """A port puts it on (moving it where it was on another), null takes it off; without `port_id` it stays, unless
    nothing at all is asked for: that takes it off too."""
    if not changes:
        changes = {"port_id": None}
    if "port_id" in changes or changes.get("fixed_ip_address"):
        port_id = changes.get("port_id", row["port_id"])
        changes |= _association(ctx, row, port_id, changes.get("fixed_ip_address"))
    return ctx.tx.update(FLOATING_IP, row, **changes)


@FLOATING_IP.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    drop_floating_ip(ctx.tx, row)


def drop_floating_ip(tx: Tx, row: Row) -> None:
    """With the port that holds its address."""
    tx.delete(FLOATING_IP, row)
    if (outer := tx.one(PORT, id=row["floating_port_id"])) is not None:
        drop_port(tx, outer)


def disassociate(tx: Tx, port_id: str, keep: Container[str] = ()) -> None:
    """The port loses its addresses but for those to `keep`: floating addresses on them are on nothing."""
    for row in tx.rows(FLOATING_IP, port_id=port_id):
        if row["fixed_ip_address"] in keep:
            continue
        tx.update(FLOATING_IP, row, port_id=None, fixed_ip_address=None, router_id=None)


def _association(ctx: Ctx, row: Row, port_id: str | None, fixed_ip_address: str | None) -> Row:
    """The columns that say what the address is on."""
    if port_id is None:
        if fixed_ip_address is not None:
            raise bad("fixed_ip_address cannot be specified without a port_id")
        return {"port_id": None, "fixed_ip_address": None, "router_id": None}
    port = ctx.find(PORT, port_id)
    if port["project_id"] != row["project_id"] and not ctx.who.is_admin:
        raise bad(f"Port {port_id} is associated with a different project than Floating IP {row['id']}")
    fixed = _inner_address(port, fixed_ip_address)
    other = ctx.tx.one(
        FLOATING_IP, FLOATING_IP.c.id != row["id"], port_id=port_id, fixed_ip_address=fixed["ip_address"]
    )
    if other is not None:
        raise Fault(
            "conflict",
            f"Cannot associate floating IP {row['floating_ip_address']} ({row['id']}) with port {port_id} using fixed "
            f"IP {fixed['ip_address']}, as that fixed IP already has a floating IP on external network "
            f"{row['floating_network_id']}.",
            "FloatingIPPortAlreadyAssociated",
        )
    router_id = _router_between(ctx.tx, port, fixed["subnet_id"], row["floating_network_id"])
    return {"port_id": port_id, "fixed_ip_address": fixed["ip_address"], "router_id": router_id}


def _inner_address(port: Row, asked: str | None) -> Row:
    inner: list[Row] = [fixed for fixed in port["fixed_ips"] if "." in fixed["ip_address"]]
    if asked is not None:
        found = next((fixed for fixed in inner if fixed["ip_address"] == asked), None)
        if found is None:
            raise bad(f"Port {port['id']} does not have fixed ip {asked}")
        return found
    if not inner:
        raise bad(f"Cannot add floating IP to port {port['id']} that has no fixed IPv4 addresses")
    if len(inner) > 1:
        raise bad(f"Port {port['id']} has multiple fixed IPv4 addresses. Must provide a specific IPv4 address")
    return inner[0]


def _router_between(tx: Tx, port: Row, subnet_id: str, external_network_id: str) -> str:
    """The router of the port's subnet that has its gateway on the external network."""
    from trilith.network.routers import ROUTER

    subnet = tx.get(SUBNET, subnet_id)
    doors = tx.rows(PORT, network_id=port["network_id"], device_owner=ROUTER_OWNERS[0])
    found = []
    for door in doors:
        for fixed in door["fixed_ips"]:
            if fixed["subnet_id"] == subnet_id:
                found.append((fixed["ip_address"] != subnet["gateway_ip"], door["device_id"]))
    for _, router_id in sorted(found):
        if tx.one(ROUTER, id=router_id, external_network_id=external_network_id) is not None:
            return str(router_id)
    raise Fault(
        "missing",
        f"External network {external_network_id} is not reachable from subnet {subnet_id}. Therefore, cannot associate "
        f"Port {port['id']} with a Floating IP.",
        "ExternalGatewayForFloatingIPNotFound",
    )
