"""What an operator looks at: agents, zones, how full networks are. Computed, but for what is noted of an agent."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import METADATA
from trilith.network.allocations import ALLOCATION, pool_size
from trilith.network.networks import NETWORK
from trilith.network.subnets import SUBNET
from trilith.network.versions import NETWORKING
from trilith.placement import hosts

Row = dict[str, Any]

NOTES = sa.Table(
    "network_agent_notes",
    METADATA,
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("admin_state_up", sa.Boolean(), nullable=False),
    sa.Column("description", sa.String(255), nullable=False),
)
NOTE = Object({"admin_state_up": Member(Flag()), "description": Member(Text(255))})
BODY = Object({"agent": Member(NOTE, required=True)})


def _narrowed(ctx: Ctx, rows: Iterable[Row]) -> list[Row]:
    """Filters by what stands in the query, and keeps the fields that were asked for."""
    names = [name for value in ctx.query.get("fields", []) for name in value.split(",") if name]
    found = []
    for row in rows:
        wanted = {k: v for k, v in ctx.query.items() if k in row and k != "fields"}
        if all(str(row[k]).lower() in [word.lower() for word in v] for k, v in wanted.items()):
            found.append({k: v for k, v in row.items() if k in names} if names else row)
    return found


def _agents(ctx: Ctx) -> list[Row]:
    found = []
    notes = {note["agent_id"]: note for note in ctx.tx.select(sa.select(NOTES))}
    for host in ctx.tx.rows(hosts.HOST):
        seen_at = datetime.fromtimestamp(host["seen_at_s"] or 0, UTC).strftime("%Y-%m-%d %H:%M:%S")
        for kind, binary in _agent_types(host):
            agent_id = str(uuid.uuid5(uuid.UUID(host["id"]), kind))
            noted = notes.get(agent_id, {"admin_state_up": True, "description": ""})
            found.append(
                {
                    "id": agent_id,
                    "agent_type": kind,
                    "binary": binary,
                    "host": host["name"],
                    "topic": "n/a",
                    "availability_zone": host["availability_zone"],
                    "admin_state_up": noted["admin_state_up"],
                    "alive": hosts.is_up(host),
                    "created_at": host["created_at"][:19].replace("T", " "),
                    "started_at": host["created_at"][:19].replace("T", " "),
                    "heartbeat_timestamp": seen_at,
                    "description": noted["description"],
                    "configurations": {},
                    "resources_synced": None,
                }
            )
    return found


def _agent_types(host: Row) -> Iterator[tuple[str, str]]:
    """What upstream calls the processes of a host that has these roles, and their programs."""
    if {"network", "compute"} & {*host["roles"]}:
        yield "OVN Controller Gateway agent" if "network" in host["roles"] else "OVN Controller agent", "ovn-controller"
    if "compute" in host["roles"]:
        yield "OVN Metadata agent", "trilith-agent"


@NETWORKING.route("GET", "/agents", "reader")
def agents(ctx: Ctx) -> Row:
    """Administrators see them; others an empty list."""
    return {"agents": _narrowed(ctx, _agents(ctx)) if ctx.may("admin") else []}


@NETWORKING.route("GET", "/agents/{agent_id}", "admin")
def agent(ctx: Ctx) -> Row:
    return {"agent": _agent(ctx)}


def _agent(ctx: Ctx) -> Row:
    for row in _agents(ctx):
        if row["id"] == ctx.path["agent_id"]:
            return row
    raise Fault("missing", f"Agent {ctx.path['agent_id']} could not be found.", "AgentNotFound")


@NETWORKING.route("PUT", "/agents/{agent_id}", "admin", body=BODY)
def update_agent(ctx: Ctx) -> Row:
    row = _agent(ctx) | ctx.body["agent"]
    values = {"admin_state_up": row["admin_state_up"], "description": row["description"]}
    if ctx.tx.execute(NOTES.update().where(NOTES.c.agent_id == row["id"]).values(values)).rowcount == 0:
        ctx.tx.execute(NOTES.insert().values(agent_id=row["id"], **values))
    return {"agent": row}


@NETWORKING.route("DELETE", "/agents/{agent_id}", "admin", status=204)
def delete_agent(ctx: Ctx) -> None:
    """An agent is there as long as its host is in the cluster file; only what was noted of it goes."""
    row = _agent(ctx)
    if row["alive"]:
        raise Fault(
            "conflict", f"Agent {row['id']} is alive: take its host out of the cluster file first.", "AgentInUse"
        )
    ctx.tx.execute(NOTES.delete().where(NOTES.c.agent_id == row["id"]))


@NETWORKING.route("GET", "/availability_zones", "reader")
def availability_zones(ctx: Ctx) -> Row:
    names = {host["availability_zone"] for host in ctx.tx.rows(hosts.HOST)} | {"nova"}
    rows = [
        {"name": name, "resource": resource, "state": "available"}
        for name in sorted(names)
        for resource in ("network", "router")
    ]
    return {"availability_zones": _narrowed(ctx, rows)}


@NETWORKING.route("GET", "/service-providers", "reader")
def service_providers(ctx: Ctx) -> Row:
    return {"service_providers": []}


def _availabilities(ctx: Ctx, networks: list[Row]) -> list[Row]:
    ids = [network["id"] for network in networks]
    count = sa.select(ALLOCATION.c.subnet_id, sa.func.count().label("used")).group_by(ALLOCATION.c.subnet_id)
    used = {row["subnet_id"]: row["used"] for row in ctx.tx.select(count)}
    by_network: dict[str, list[Row]] = {network_id: [] for network_id in ids}
    for subnet in ctx.tx.rows(SUBNET, network_id=ids):
        by_network[subnet["network_id"]].append(
            {
                "subnet_id": subnet["id"],
                "subnet_name": subnet["name"],
                "cidr": subnet["cidr"],
                "ip_version": subnet["ip_version"],
                "total_ips": pool_size(subnet),
                "used_ips": used.get(subnet["id"], 0),
            }
        )
    return [
        {
            "network_id": network["id"],
            "network_name": network["name"],
            "project_id": network["project_id"],
            "tenant_id": network["project_id"],
            "total_ips": sum(subnet["total_ips"] for subnet in by_network[network["id"]]),
            "used_ips": sum(subnet["used_ips"] for subnet in by_network[network["id"]]),
            "subnet_ip_availability": by_network[network["id"]],
        }
        for network in networks
    ]


@NETWORKING.route("GET", "/network-ip-availabilities", "reader")
def network_ip_availabilities(ctx: Ctx) -> Row:
    """Administrators see them; others an empty list."""
    rows = _availabilities(ctx, ctx.tx.rows(NETWORK)) if ctx.may("admin") else []
    return {"network_ip_availabilities": _narrowed(ctx, rows)}


@NETWORKING.route("GET", "/network-ip-availabilities/{network_id}", "admin")
def network_ip_availability(ctx: Ctx) -> Row:
    network = ctx.find(NETWORK, ctx.path["network_id"])
    return {"network_ip_availability": _availabilities(ctx, [network])[0]}
