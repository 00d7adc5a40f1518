"""Get me a network: a project without one gets a network, a subnet, and a router to the default external network."""

import ipaddress
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, Reply, forbidden
from trilith.kernel.store import METADATA, Tx
from trilith.network.networks import NETWORK, drop_network, make_network
from trilith.network.ports import drop_port, make_port
from trilith.network.routers import GATEWAY, INTERFACE, ROUTER, interfaces
from trilith.network.subnets import SUBNET, make_subnet
from trilith.network.versions import NETWORKING

Row = dict[str, Any]

NAME = "auto_allocated_network"
BLOCK = ipaddress.ip_network("10.64.0.0/10")  # what automatic subnets are cut out of
PREFIX_LENGTH = 26

TOPOLOGY = sa.Table(
    "network_auto_allocated",
    METADATA,
    sa.Column("project_id", sa.String(64), primary_key=True),
    sa.Column("network_id", sa.String(64), nullable=False),
    sa.Column("router_id", sa.String(64)),
)


def find(tx: Tx, project_id: str) -> Row | None:
    """The project's automatic network, if it is there (still)."""
    network_id = tx.scalar(sa.select(TOPOLOGY.c.network_id).where(TOPOLOGY.c.project_id == project_id))
    return tx.one(NETWORK, id=network_id) if network_id else None


def default_external(tx: Tx) -> Row | None:
    """The external network that is marked as the default one."""
    return tx.one(NETWORK, external=True, is_default=True)


def allocate(tx: Tx, new_id: Callable[[], str], project_id: str) -> Row:
    """The project's automatic network; made when it is not there. `Fault` when there is no default external network."""
    if (known := find(tx, project_id)) is not None:
        return known
    outside = default_external(tx)
    if outside is None:
        message = "Deployment error: No default router:external network."
        raise Fault("missing", message, "AutoAllocationFailure")
    tx.execute(TOPOLOGY.delete().where(TOPOLOGY.c.project_id == project_id))
    network = make_network(tx, new_id, id=new_id(), name=NAME, project_id=project_id)
    subnet = make_subnet(
        tx,
        new_id,
        network,
        name="auto_allocated_subnet_v4",
        project_id=project_id,
        ip_version=4,
        cidr=_free_block(tx, project_id),
    )
    router = tx.insert(
        ROUTER, ROUTER.blank() | {"id": new_id(), "name": "auto_allocated_router", "project_id": project_id}
    )
    gateway = make_port(
        tx, new_id, project_id="", network_id=outside["id"], device_id=router["id"], device_owner=GATEWAY
    )
    tx.update(ROUTER, router, external_network_id=outside["id"], gateway_port_id=gateway["id"])
    make_port(
        tx,
        new_id,
        project_id=project_id,
        network_id=network["id"],
        fixed_ips=[{"subnet_id": subnet["id"], "ip_address": subnet["gateway_ip"]}],
        device_id=router["id"],
        device_owner=INTERFACE,
    )
    tx.execute(TOPOLOGY.insert().values(project_id=project_id, network_id=network["id"], router_id=router["id"]))
    return network


def _free_block(tx: Tx, project_id: str) -> str:
    """The first block that none of the project's subnets touches."""
    known = [ipaddress.ip_network(row["cidr"]) for row in tx.rows(SUBNET, project_id=project_id, ip_version=4)]
    for net in BLOCK.subnets(new_prefix=PREFIX_LENGTH):
        if not any(net.overlaps(other) for other in known):
            return str(net)
    raise Fault("no_capacity", "No block of addresses is left for an automatic network.", "AutoAllocationFailure")


def _asked_project(ctx: Ctx) -> str:
    project_id = ctx.path["project_id"]
    if project_id in ("None", "null"):
        return str(ctx.who.project_id)
    if project_id != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("get_auto_allocated_topology")
    return project_id


@NETWORKING.route("GET", "/auto-allocated-topology/{project_id}", "member", write=True)
def show(ctx: Ctx) -> Row:
    project_id = _asked_project(ctx)
    if "dry-run" in ctx.query.get("fields", []):
        if default_external(ctx.tx) is None and find(ctx.tx, project_id) is None:
            raise Fault("missing", "Deployment error: No default router:external network.", "AutoAllocationFailure")
        return {"auto_allocated_topology": {"id": "dry-run=pass", "project_id": project_id, "tenant_id": project_id}}
    network = allocate(ctx.tx, ctx.new_id, project_id)
    return {"auto_allocated_topology": {"id": network["id"], "project_id": project_id, "tenant_id": project_id}}


@NETWORKING.route("DELETE", "/auto-allocated-topology/{project_id}", "member", status=204)
def delete(ctx: Ctx) -> Reply | None:
    """Everything that was made for it goes; refused while machines are on the network."""
    tx, project_id = ctx.tx, _asked_project(ctx)
    row = tx.execute(sa.select(TOPOLOGY).where(TOPOLOGY.c.project_id == project_id)).mappings().first()
    if row is None:
        return None
    router, network = tx.one(ROUTER, id=row["router_id"]), tx.one(NETWORK, id=row["network_id"])
    if router is not None:
        for port in interfaces(tx, router["id"]):
            drop_port(tx, port)
        from trilith.network.routers import clear_gateway

        clear_gateway(tx, router)
        tx.delete(ROUTER, tx.get(ROUTER, router["id"]))
    if network is not None:
        drop_network(tx, network)
    tx.execute(TOPOLOGY.delete().where(TOPOLOGY.c.project_id == project_id))
    return None
