"""Networks and floating addresses as compute showed them until clients learned to ask the network service (2.36;
putting an address on a server until 2.44)."""

from typing import Any

from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.network import floatingips
from trilith.network.floatingips import FLOATING_IP
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT, ports_of
from trilith.network.versions import NETWORKING

Row = dict[str, Any]
UNTIL, ACTIONS_UNTIL = v("2.35"), v("2.43")
# what only a network service inside compute could tell
UNKNOWN = (
    "bridge", "bridge_interface", "broadcast", "cidr", "cidr_v6", "created_at", "deleted", "deleted_at",
    "dhcp_server", "dhcp_start", "dns1", "dns2", "enable_dhcp", "gateway", "gateway_v6", "host", "injected", "mtu",
    "multi_host", "netmask", "netmask_v6", "priority", "project_id", "rxtx_base", "share_address", "updated_at",
    "vlan", "vpn_private_address", "vpn_public_address", "vpn_public_port",
)  # fmt: skip


def _networks(ctx: Ctx) -> list[Row]:
    return ctx.tx.rows(NETWORK, NETWORK.scope(ctx))


def _network(ctx: Ctx) -> Row:
    row = ctx.tx.one(NETWORK, NETWORK.scope(ctx), id=ctx.path["network_id"])
    if row is None:
        raise Fault("missing", "Network not found")
    return row


def _full(row: Row) -> Row:
    return dict.fromkeys(UNKNOWN) | {"id": row["id"], "label": row["name"]}


def _short(row: Row) -> Row:
    return {"id": row["id"], "label": row["name"], "cidr": "None"}


@COMPUTE.route("GET", "/os-networks", "reader", until=UNTIL)
def list_networks(ctx: Ctx) -> Row:
    return {"networks": [_full(row) for row in _networks(ctx)]}


@COMPUTE.route("GET", "/os-networks/{network_id}", "reader", until=UNTIL)
def show_network(ctx: Ctx) -> Row:
    return {"network": _full(_network(ctx))}


@COMPUTE.route("GET", "/os-tenant-networks", "reader", until=UNTIL)
def list_project_networks(ctx: Ctx) -> Row:
    return {"networks": [_short(row) for row in _networks(ctx)]}


@COMPUTE.route("GET", "/os-tenant-networks/{network_id}", "reader", until=UNTIL)
def show_project_network(ctx: Ctx) -> Row:
    return {"network": _short(_network(ctx))}


# floating addresses


def _view(ctx: Ctx, row: Row) -> Row:
    pool = ctx.tx.one(NETWORK, id=row["floating_network_id"])
    port = ctx.tx.one(PORT, id=row["port_id"]) if row["port_id"] else None
    return {
        "id": row["id"],
        "ip": row["floating_ip_address"],
        "fixed_ip": row["fixed_ip_address"],
        "pool": pool["name"] if pool else None,
        "instance_id": port["device_id"] or None if port else None,
    }


def _pools(ctx: Ctx) -> list[Row]:
    return ctx.tx.rows(NETWORK, NETWORK.scope(ctx), external=True)


@COMPUTE.route("GET", "/os-floating-ip-pools", "reader", until=UNTIL)
def list_pools(ctx: Ctx) -> Row:
    return {"floating_ip_pools": [{"name": row["name"]} for row in _pools(ctx)]}


@COMPUTE.route("GET", "/os-floating-ips", "reader", until=UNTIL)
def list_floating_ips(ctx: Ctx) -> Row:
    rows = ctx.tx.rows(FLOATING_IP, project_id=ctx.who.project_id)
    return {"floating_ips": [_view(ctx, row) for row in rows]}


def _floating_ip(ctx: Ctx) -> Row:
    row = ctx.tx.one(FLOATING_IP, FLOATING_IP.scope(ctx), id=ctx.path["address_id"])
    if row is None:
        raise Fault("missing", f"Floating IP not found for ID {ctx.path['address_id']}")
    return row


@COMPUTE.route("GET", "/os-floating-ips/{address_id}", "reader", until=UNTIL)
def show_floating_ip(ctx: Ctx) -> Row:
    return {"floating_ip": _view(ctx, _floating_ip(ctx))}


POOL = Object({"pool": Member(Text(255), null=True)}, open_ended=True)


@COMPUTE.route("POST", "/os-floating-ips", "member", until=UNTIL)
def create_floating_ip(ctx: Ctx) -> Row:
    asked = POOL.check(ctx.body or {}, "body", ctx.at).get("pool")
    pool = next((row for row in _pools(ctx) if asked in (None, row["name"], row["id"])), None)
    if pool is None:
        raise Fault("missing", "Floating IP pool not found.")
    project_id = str(ctx.who.project_id)
    quota.check(ctx.tx, NETWORKING, project_id, floatingip=1)
    new = FLOATING_IP.blank() | {"id": ctx.new_id(), "project_id": project_id, "floating_network_id": pool["id"]}
    return {"floating_ip": _view(ctx, floatingips.create(ctx, new))}


@COMPUTE.route("DELETE", "/os-floating-ips/{address_id}", "member", until=UNTIL, status=202)
def delete_floating_ip(ctx: Ctx) -> None:
    floatingips.delete(ctx, _floating_ip(ctx))


ADD = Object({"address": Member(Address(), required=True), "fixed_address": Member(Address())})


def _by_address(ctx: Ctx, address: str) -> Row:
    row = ctx.tx.one(FLOATING_IP, FLOATING_IP.scope(ctx), floating_ip_address=address)
    if row is None:
        raise Fault("missing", "floating IP not found")
    return row


@SERVER.verb("addFloatingIp", "member", body=ADD, until=ACTIONS_UNTIL)
def put_on(ctx: Ctx, server: Row, body: Row) -> None:
    """On the server's first port with an IPv4 address, or on that with the fixed address."""
    row = _by_address(ctx, body["address"])
    wanted = body.get("fixed_address")
    for port in ports_of(ctx.tx, [server["id"]]):
        fixed = [f["ip_address"] for f in port["fixed_ips"] if "." in f["ip_address"]]
        if (wanted is None and fixed) or wanted in fixed:
            break
    else:
        raise Fault("invalid", f"No fixed IPs associated to instance {server['id']}: it has nothing to translate to.")
    try:
        floatingips.update(ctx, row, {"port_id": port["id"], "fixed_ip_address": wanted or fixed[0]})
    except Fault as fault:
        raise Fault("invalid", fault.message) from fault


@SERVER.verb("removeFloatingIp", "member", body=Object({"address": ADD.members["address"]}), until=ACTIONS_UNTIL)
def take_off(ctx: Ctx, server: Row, body: Row) -> None:
    row = _by_address(ctx, body["address"])
    if row["port_id"] not in {port["id"] for port in ports_of(ctx.tx, [server["id"]])}:
        raise Fault("conflict", f"Floating IP {body['address']} is not associated with instance {server['id']}.")
    floatingips.update(ctx, row, {"port_id": None})
