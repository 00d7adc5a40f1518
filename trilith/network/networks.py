"""Networks: a layer-2 domain of a project (geneve), or a wire of the provider (flat, vlan)."""

from collections.abc import Callable
from functools import cache
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Field, Noun, Quota, choice, computed, flag, json, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, ListOf, Text
from trilith.kernel.request import Ctx
from trilith.kernel.statements import kept
from trilith.kernel.store import Tx
from trilith.network import rbac_policies
from trilith.network.rbac_policies import EXTERNAL, SHARED
from trilith.network.resource import resource

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]

ETHERNET_MTU = 1500
GENEVE_OVERHEAD = 58
LEAST_MTU = {4: 68, 6: 1280}
PHYSICAL_NETWORKS = ("public", "provider")  # what hosts map to their provider bridge
VLANS = range(1, 4095)
GENEVE_IDS = 2**24 - 1
_tunnel_mtu = ETHERNET_MTU  # see `use_tunnel_mtu`
AUTO_DELETED = ("network:distributed", "network:dhcp")  # owners of ports that are in nobody's way


def _shared_filter(ctx: Ctx, values: list[str]) -> Condition:
    ids = rbac_policies.granted("network", ctx.who.project_id, SHARED)
    wanted = {Flag().from_query(value, "shared") for value in values}
    return sa.or_(*[NETWORK.c.id.in_(ids) if on else NETWORK.c.id.not_in(ids) for on in wanted])


def _subnets_filter(ctx: Ctx, values: list[str]) -> Condition:
    from trilith.network.subnets import SUBNET

    return NETWORK.c.id.in_(sa.select(SUBNET.c.network_id).where(SUBNET.c.id.in_(values)))  # type: ignore[no-any-return]


def _provider(kind: Any, wire: str, **more: Any) -> Field:
    return Field(
        kind=kind.kind,
        wire=f"provider:{wire}",
        create="optional",
        null=True,
        policy="admin",
        see="admin",
        filter=True,
        extension="provider",
        **more,
    )


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        row["subnets"] = []
    for subnet in ctx.tx.select(_subnets(), ids=list(by_id)):
        by_id[subnet["network_id"]]["subnets"].append(subnet["id"])
    rbac_policies.fill_shared(ctx.tx, "network", rows, ctx.who.project_id)


@cache
def _subnets() -> sa.Select[Any]:
    from trilith.network.subnets import SUBNET

    of_these = SUBNET.c.network_id.in_(sa.bindparam("ids", expanding=True))
    return kept(sa.select(SUBNET.c.id, SUBNET.c.network_id).where(of_these).order_by(SUBNET.c.created_at))


NETWORK: Noun = resource(
    "network",
    "/networks",
    dict(
        admin_state_up=flag(create="optional", update=True, default=True, filter=True, sort=True),
        mtu=whole(0, 65535, create="optional", update=True, null=True, filter=True, extension="net-mtu-writable"),
        status=computed(
            lambda row, ctx: "ACTIVE", filter=lambda ctx, values: sa.true() if "ACTIVE" in values else sa.false()
        ),
        subnets=computed(lambda row, ctx: row["subnets"], filter=_subnets_filter),
        shared=Field(
            kind=Flag(),
            stored=False,
            create="optional",
            update=True,
            default=False,
            policy="admin",
            show=lambda row, ctx: row["shared"],
            filter=_shared_filter,
        ),
        external=flag(
            wire="router:external",
            create="optional",
            update=True,
            default=False,
            policy="admin",
            filter=True,
            extension="external-net",
        ),
        is_default=flag(create="optional", update=True, default=False, policy="admin", filter=True),
        network_type=_provider(choice("geneve", "flat", "vlan"), "network_type"),
        physical_network=_provider(text(64), "physical_network"),
        segmentation_id=_provider(whole(0, GENEVE_IDS), "segmentation_id"),
        segment_key=text(128, hidden=True),
        port_security_enabled=flag(create="optional", update=True, default=True, extension="port-security"),
        dns_domain=text(255, create="optional", update=True, default="", filter=True, extension="dns-integration"),
        availability_zone_hints=Field(
            kind=ListOf(Text(255)), create="optional", default=list, extension="network_availability_zone"
        ),
        availability_zones=computed(lambda row, ctx: ["nova"], extension="network_availability_zone"),
        ipv4_address_scope=json(stored=False),
        ipv6_address_scope=json(stored=False),
    ),
    quota=Quota("network", 100),
    scope=lambda ctx: rbac_policies.visible(ctx, NETWORK, "network"),
    expand=_expand,
    unique=[("segment_key",)],
)
rbac_policies.NOUNS["network"] = NETWORK


@NETWORK.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    shared = new.pop("shared", False)
    _check_zones(new)
    row = make_network(ctx.tx, ctx.new_id, **new)
    if shared:
        rbac_policies.share(ctx.tx, ctx.new_id, "network", row, SHARED, True)
    return row


def make_network(tx: Tx, new_id: Callable[[], str], *, id: str, **fields: Any) -> Row:
    """A network row with its segment chosen. Raises `Fault` when the segment is taken or not possible."""
    row = NETWORK.blank() | {"id": id} | fields
    row |= _segment(tx, row)
    _check_mtu(tx, row, row["mtu"])
    row["mtu"] = row["mtu"] or greatest_mtu(row["network_type"])
    row = tx.insert(NETWORK, row)
    if row["external"]:
        rbac_policies.share(tx, new_id, "network", row, EXTERNAL, True)
    return row


def _check_zones(new: Row) -> None:
    for zone in new["availability_zone_hints"]:
        if zone != "nova":
            raise Fault("missing", f"AvailabilityZone {zone} could not be found.", "AvailabilityZoneNotFound")


def _segment(tx: Tx, row: Row) -> Row:
    """Checks what was asked of the provider, and fills in the rest."""
    kind, wire, number = row["network_type"], row["physical_network"], row["segmentation_id"]
    if kind is None and (wire is not None or number is not None):
        raise _bad_provider("network_type is required")
    kind = kind or "geneve"
    if kind == "geneve":
        if wire is not None:
            raise _bad_provider("physical_network is not for geneve networks")
        number = number or _free_geneve(tx)
        key, taken = f"geneve:{number}", "TunnelIdInUse"
    else:
        if wire not in PHYSICAL_NETWORKS:
            raise _bad_provider(f"physical_network {wire!r} is not one of {', '.join(PHYSICAL_NETWORKS)}")
        if kind == "flat":
            if number is not None:
                raise _bad_provider("segmentation_id is not for flat networks")
            key, taken = f"flat:{wire}", "FlatNetworkInUse"
        else:
            number = number or _free_vlan(tx, wire)
            if number not in VLANS:
                raise _bad_provider(f"segmentation_id must be {VLANS[0]} to {VLANS[-1]}")
            key, taken = f"vlan:{wire}:{number}", "VlanIdInUse"
    if tx.one(NETWORK, segment_key=key) is not None:
        raise Fault("conflict", f"The segment {key} is in use by another network.", taken)
    return {"network_type": kind, "physical_network": wire, "segmentation_id": number, "segment_key": key}


def _bad_provider(why: str) -> Fault:
    return Fault("invalid", f"Invalid input for operation: provider:{why}.", "InvalidInput")


def _free_geneve(tx: Tx) -> int:
    newest = tx.scalar(sa.select(sa.func.max(NETWORK.c.segmentation_id)).where(NETWORK.c.network_type == "geneve"))
    if (newest or 0) < GENEVE_IDS:
        return (newest or 0) + 1
    return _first_free(tx, range(1, GENEVE_IDS + 1), NETWORK.c.network_type == "geneve")


def _free_vlan(tx: Tx, wire: str | None) -> int:
    return _first_free(tx, VLANS, NETWORK.c.network_type == "vlan", NETWORK.c.physical_network == wire)


def _first_free(tx: Tx, numbers: range, *where: Condition) -> int:
    used = {row["segmentation_id"] for row in tx.select(sa.select(NETWORK.c.segmentation_id).where(*where))}
    found = next((number for number in numbers if number not in used), None)
    if found is None:
        raise Fault("no_capacity", "Unable to create the network: no segment is left.", "NoNetworkAvailable")
    return found


def use_tunnel_mtu(mtu: int) -> None:
    """What the network between the hosts carries, in bytes; 1500 where nobody says anything."""
    global _tunnel_mtu
    _tunnel_mtu = mtu


def greatest_mtu(network_type: str) -> int:
    """Of a network of this type, in bytes."""
    return _tunnel_mtu - GENEVE_OVERHEAD if network_type == "geneve" else ETHERNET_MTU


def _check_mtu(tx: Tx, row: Row, mtu: int | None) -> None:
    if not mtu:
        return
    greatest = greatest_mtu(row["network_type"])
    if mtu > greatest:
        message = f"Invalid input for operation: MTU {mtu} is more than {greatest}."
        raise Fault("invalid", message, "InvalidInput")
    from trilith.network.subnets import SUBNET

    for subnet in tx.rows(SUBNET, network_id=row["id"]) if mtu < LEAST_MTU[6] else ():
        check_mtu_of_subnet(mtu, subnet)


def check_mtu_of_subnet(mtu: int, subnet: Row) -> None:
    """IPv4 needs packets of 68 bytes, IPv6 of 1280."""
    least = LEAST_MTU[subnet["ip_version"]]
    if mtu < least:
        message = f"MTU {mtu} is less than {least}, which IPv{subnet['ip_version']} needs."
        raise Fault("conflict", message, "NetworkMTUSubnetConflict")


@NETWORK.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if "mtu" in changes:
        _check_mtu(ctx.tx, row, changes["mtu"])
        changes["mtu"] = changes["mtu"] or greatest_mtu(row["network_type"])
    if "shared" in changes:
        rbac_policies.share(ctx.tx, ctx.new_id, "network", row, SHARED, changes.pop("shared"))
    if "external" in changes:
        if row["external"] and not changes["external"]:
            _not_used_from_inside(ctx.tx, row)
        rbac_policies.share(ctx.tx, ctx.new_id, "network", row, EXTERNAL, changes["external"])
    return ctx.tx.update(NETWORK, row, **changes)


@NETWORK.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    drop_network(ctx.tx, row)


def drop_network(tx: Tx, row: Row) -> None:
    """With its subnets and floating addresses that are on nothing; refused while ports of somebody are on it."""
    from trilith.network.floatingips import FLOATING_IP, drop_floating_ip
    from trilith.network.ports import PORT, drop_port
    from trilith.network.subnets import SUBNET

    for address in tx.rows(FLOATING_IP, floating_network_id=row["id"], port_id=None):
        drop_floating_ip(tx, address)
    ports = tx.rows(PORT, network_id=row["id"])
    if busy := [port["id"] for port in ports if port["device_owner"] not in AUTO_DELETED]:
        raise Fault(
            "conflict",
            f"Unable to complete operation on network {row['id']}. There are one or more ports still in use on the "
            f"network, id(s): {', '.join(sorted(busy))}.",
            "NetworkInUse",
        )
    for port in ports:
        drop_port(tx, port)
    tx.delete_where(SUBNET, network_id=row["id"])
    rbac_policies.forget(tx, row["id"])
    tx.delete(NETWORK, row)


def _users(tx: Tx, row: Row, action: str) -> set[str]:
    """The projects that have machines on it, or routers that go out through it."""
    from trilith.network.ports import PORT
    from trilith.network.routers import ROUTER

    if action == EXTERNAL:
        return {router["project_id"] for router in tx.rows(ROUTER, external_network_id=row["id"])}
    ports = tx.rows(PORT, PORT.c.network_id == row["id"], PORT.c.device_owner.not_like("network:%"))
    return {port["project_id"] for port in ports}


rbac_policies.USERS["network"] = _users


def _not_used_from_inside(tx: Tx, row: Row) -> None:
    from trilith.network.ports import PORT

    if tx.one(PORT, network_id=row["id"], device_owner=["network:router_gateway", "network:floatingip"]) is not None:
        message = f"External network {row['id']} cannot be updated to be made non-external: it has gateway ports."
        raise Fault("conflict", message, "ExternalNetworkInUse")


def usable_networks(tx: Tx, project_id: str, is_admin: bool = False) -> list[Row]:
    """What a new machine of the project may be put on: its own networks, and shared ones; those with subnets only."""
    from trilith.network.subnets import SUBNET

    shared = rbac_policies.granted("network", project_id, SHARED)
    with_subnets = sa.select(SUBNET.c.network_id)
    found = tx.rows(
        NETWORK,
        sa.or_(NETWORK.c.project_id == project_id, sa.and_(NETWORK.c.id.in_(shared), sa.not_(NETWORK.c.external))),
        NETWORK.c.id.in_(with_subnets),
    )
    return sorted(found, key=lambda row: (row["project_id"] != project_id, row["created_at"], row["id"]))


def usable_network(tx: Tx, project_id: str, is_admin: bool, network_id: str) -> Row:
    """A network that the project may see, by id. `Fault` missing else."""
    seen = sa.or_(NETWORK.c.project_id == project_id, NETWORK.c.id.in_(rbac_policies.granted("network", project_id)))
    return tx.get(NETWORK, network_id, None if is_admin else seen)


def auto_network(tx: Tx, new_id: Callable[[], str], project_id: str) -> Row:
    """Get me a network: the project's only usable one, else its automatic topology, made when there is none."""
    from trilith.network.auto_allocated_topology import allocate

    own = usable_networks(tx, project_id)
    if len(own) > 1:
        raise Fault("conflict", "Multiple possible networks found, use a network ID to be more specific.")
    return own[0] if own else allocate(tx, new_id, project_id)
