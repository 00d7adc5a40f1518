"""Host aggregates: groups of hosts with metadata; one of those names their availability zone."""

from typing import Any

import sqlalchemy as sa

from trilith.compute.versions import COMPUTE
from trilith.kernel.declare import Noun, computed, given, ident, json, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Json, MapOf, Member, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import METADATA
from trilith.kernel.versions import v
from trilith.placement.hosts import HOST

Row = dict[str, Any]
ZONE_NAME = r"[^\s:]([^:]*[^\s:])?"
NAME = r"\S(.*\S)?"

AGGREGATE = Noun(
    COMPUTE,
    "aggregate",
    "/os-aggregates",
    dict(
        id=ident(wire="uuid", since=v("2.41")),
        number=whole(wire="id"),
        name=text(255, NAME, 1, create="required", update=True),
        zone=computed(lambda row, ctx: row["metadata"].get("availability_zone"), wire="availability_zone"),
        availability_zone=given(Text(255, 1, ZONE_NAME), null=True, update=True),
        metadata=json(default=dict),
        hosts=json(default=list),
        created_at=time(),
        updated_at=time(),
        deleted=computed(lambda row, ctx: False),
        deleted_at=computed(lambda row, ctx: None),
    ),
    dict(list="admin", show="admin", create="admin", update="admin", delete="admin"),
    key="number",
    owner=None,
    unique=[("name",)],
    status=dict(delete=200),
    order=[("number", "asc")],
    type_name="Aggregate",
)


def zone_of(host: Row, aggregates: list[Row]) -> str:
    """A host's availability zone: what an aggregate says, else its own."""
    zones = [a["metadata"]["availability_zone"] for a in aggregates if host["name"] in a["hosts"] and _zone(a)]
    return str(zones[0] if zones else host["availability_zone"] or "nova")


def _zone(aggregate: Row) -> str | None:
    zone: str | None = aggregate["metadata"].get("availability_zone")
    return zone


@AGGREGATE.on("create")
def create(ctx: Ctx, new: Row) -> Reply:
    """Answered without hosts and metadata, as upstream does."""
    zone = new.pop("availability_zone", None)
    last = ctx.tx.scalar(sa.select(sa.func.max(AGGREGATE.c.number))) or 0
    new |= {"number": last + 1, "metadata": {"availability_zone": zone} if zone else {}, "hosts": []}
    view = ctx.show(AGGREGATE, ctx.tx.insert(AGGREGATE, new))
    return Reply({"aggregate": {name: view[name] for name in view if name not in ("hosts", "metadata")}}, 200)


@AGGREGATE.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if "availability_zone" in changes:
        row = _set_metadata(ctx, row, {"availability_zone": changes.pop("availability_zone")})
    return ctx.tx.update(AGGREGATE, row, **changes)


@AGGREGATE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    if row["hosts"]:
        raise Fault("invalid", f"Cannot remove aggregate {row['number']}: it is not empty")
    ctx.tx.delete(AGGREGATE, row)


def _in_use(ctx: Ctx, hosts: list[str]) -> bool:
    c = METADATA.tables["compute_servers"].c
    query = sa.select(c.id).where(c.host.in_(hosts), c.deleted_at.is_(None)).limit(1)
    return bool(hosts) and ctx.tx.scalar(query) is not None


def _set_metadata(ctx: Ctx, row: Row, changes: Row) -> Row:
    new = {key: value for key, value in (row["metadata"] | changes).items() if value is not None}
    zone = new.get("availability_zone")
    if zone != _zone(row):
        if _in_use(ctx, row["hosts"]):
            raise Fault("invalid", f"Cannot update aggregate {row['number']}: its hosts hold servers of its zone")
        for other in ctx.tx.rows(AGGREGATE):
            shared = set(other["hosts"]) & set(row["hosts"])
            if zone and shared and _zone(other) not in (None, zone) and other["id"] != row["id"]:
                raise Fault("conflict", f"One or more hosts already in availability zone(s): {sorted(shared)}")
    return ctx.tx.update(AGGREGATE, row, metadata=new)


ONE_HOST = Object({"host": Member(Text(255, 1), required=True)})


@AGGREGATE.verb("add_host", "admin", body=ONE_HOST, status=200)
def add_host(ctx: Ctx, row: Row, body: Row) -> Row:
    name = body["host"]
    if ctx.tx.one(HOST, name=name) is None:
        raise Fault("missing", f"Compute host {name} could not be found.")
    if name in row["hosts"]:
        raise Fault("conflict", f"Aggregate {row['number']} already has host {name}.")
    others = [a for a in ctx.tx.rows(AGGREGATE) if name in a["hosts"] and _zone(a)]
    if _zone(row) and any(_zone(a) != _zone(row) for a in others):
        raise Fault("conflict", f"Host {name} already is in availability zone {_zone(others[0])}")
    row = ctx.tx.update(AGGREGATE, row, hosts=[*row["hosts"], name])
    return {"aggregate": ctx.show(AGGREGATE, row)}


@AGGREGATE.verb("remove_host", "admin", body=ONE_HOST, status=200)
def remove_host(ctx: Ctx, row: Row, body: Row) -> Row:
    name = body["host"]
    if name not in row["hosts"]:
        raise Fault("missing", f"Aggregate {row['number']} has no host {name}.")
    if _zone(row) and _in_use(ctx, [name]):
        raise Fault("conflict", f"Host {name} holds servers of zone {_zone(row)}.")
    row = ctx.tx.update(AGGREGATE, row, hosts=[host for host in row["hosts"] if host != name])
    return {"aggregate": ctx.show(AGGREGATE, row)}


NEW_METADATA = Object({"metadata": Member(MapOf(Json(), Text(255, 1)), required=True)})


@AGGREGATE.verb("set_metadata", "admin", body=NEW_METADATA, status=200)
def set_metadata(ctx: Ctx, row: Row, body: Row) -> Row:
    for key, value in body["metadata"].items():
        if value is not None:
            Text(255).check(value, key, ctx.at)
    return {"aggregate": ctx.show(AGGREGATE, _set_metadata(ctx, row, body["metadata"]))}


IMAGES_TO_CACHE = Object({"cache": Member(Json(), required=True)})


@AGGREGATE.route("POST", "/{id}/images", "admin", since=v("2.81"), status=202, body=IMAGES_TO_CACHE)
def cache_images(ctx: Ctx, row: Row) -> None:
    """Hosts fetch an image when they first need it; asking earlier changes nothing that could be seen."""
