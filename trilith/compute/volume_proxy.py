"""Volumes and their snapshots as compute showed them until clients learned to ask the volume service (2.36)."""

from typing import Any

from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.kinds import Flag, MapOf, Member, Object, Text, Whole
from trilith.kernel.paging import number
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.volume import snapshots, volumes
from trilith.volume.attachments import attachments_of_volumes
from trilith.volume.snapshots import SNAPSHOT
from trilith.volume.types import TYPE
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME

Row = dict[str, Any]
UNTIL = v("2.35")
NAMED = {"display_name": Member(Text(255), null=True), "display_description": Member(Text(255), null=True)}


def _volumes(ctx: Ctx, rows: list[Row]) -> list[Row]:
    attachments = attachments_of_volumes(ctx.tx, [row["id"] for row in rows])
    types = {row["id"]: row["name"] for row in ctx.tx.rows(TYPE)}
    return [
        {
            "id": row["id"],
            "status": row["status"],
            "size": row["size_gib"],
            "availabilityZone": row["availability_zone"],
            "createdAt": row["created_at"],
            "displayName": row["name"],
            "displayDescription": row["description"],
            "volumeType": types.get(row["type_id"]),
            "snapshotId": row["snapshot_id"],
            "metadata": row["metadata"] or {},
            "attachments": [_attachment(a) for a in attachments if a["volume_id"] == row["id"]] or [{}],
        }
        for row in rows
    ]


def _attachment(row: Row) -> Row:
    return {
        "id": row["volume_id"],
        "volumeId": row["volume_id"],
        "serverId": row["server_id"] or "",
        "device": row["device"] or "",
    }


def _page(ctx: Ctx, noun: Any) -> list[Row]:
    rows: list[Row] = ctx.tx.rows(noun, project_id=ctx.who.project_id)
    start, limit = number(ctx.one("offset"), "offset") or 0, number(ctx.one("limit"), "limit")
    return rows[start : start + limit if limit is not None else None]


@COMPUTE.route("GET", "/os-volumes", "reader", until=UNTIL)
def list_volumes(ctx: Ctx) -> Row:
    return {"volumes": _volumes(ctx, _page(ctx, VOLUME))}


@COMPUTE.route("GET", "/os-volumes/detail", "reader", until=UNTIL)
def list_volumes_detailed(ctx: Ctx) -> Row:
    return {"volumes": _volumes(ctx, _page(ctx, VOLUME))}


@COMPUTE.route("GET", "/os-volumes/{volume_id}", "reader", until=UNTIL)
def show_volume(ctx: Ctx) -> Row:
    return {"volume": _volumes(ctx, [ctx.find(VOLUME, ctx.path["volume_id"])])[0]}


NEW_VOLUME = Object(
    {
        "size": Member(Whole(1), required=True),
        "volume_type": Member(Text(255), null=True),
        "metadata": Member(MapOf(), null=True),
        "snapshot_id": Member(Text(36), null=True),
        "availability_zone": Member(Text(255), null=True),
        **NAMED,
    },
    open_ended=True,
)


@COMPUTE.route("POST", "/os-volumes", "member", until=UNTIL, body=Object({"volume": Member(NEW_VOLUME, required=True)}))
def create_volume(ctx: Ctx) -> Row:
    asked = ctx.body["volume"]
    if asked.get("snapshot_id"):
        ctx.find(SNAPSHOT, asked["snapshot_id"])
    row = volumes.make_volume(
        ctx.tx,
        ctx.new_id,
        project_id=str(ctx.who.project_id),
        user_id=ctx.who.user_id,
        size_gib=asked["size"],
        name=asked.get("display_name"),
        description=asked.get("display_description"),
        snapshot_id=asked.get("snapshot_id"),
        volume_type=asked.get("volume_type"),
        availability_zone=asked.get("availability_zone"),
        metadata=asked.get("metadata"),
    )
    return {"volume": _volumes(ctx, [row])[0]}


@COMPUTE.route("DELETE", "/os-volumes/{volume_id}", "member", until=UNTIL, status=202)
def delete_volume(ctx: Ctx) -> None:
    volumes.drop_volume(ctx.tx, ctx.find(VOLUME, ctx.path["volume_id"]))


def _snapshot(row: Row) -> Row:
    return {
        "id": row["id"],
        "volumeId": row["volume_id"],
        "status": row["status"],
        "size": row["volume_size_gib"],
        "createdAt": row["created_at"],
        "displayName": row["name"],
        "displayDescription": row["description"],
    }


@COMPUTE.route("GET", "/os-snapshots", "reader", until=UNTIL)
def list_snapshots(ctx: Ctx) -> Row:
    return {"snapshots": [_snapshot(row) for row in _page(ctx, SNAPSHOT)]}


@COMPUTE.route("GET", "/os-snapshots/detail", "reader", until=UNTIL)
def list_snapshots_detailed(ctx: Ctx) -> Row:
    return {"snapshots": [_snapshot(row) for row in _page(ctx, SNAPSHOT)]}


@COMPUTE.route("GET", "/os-snapshots/{snapshot_id}", "reader", until=UNTIL)
def show_snapshot(ctx: Ctx) -> Row:
    return {"snapshot": _snapshot(ctx.find(SNAPSHOT, ctx.path["snapshot_id"]))}


NEW_SNAPSHOT = Object({"volume_id": Member(Text(36), required=True), "force": Member(Flag()), **NAMED})


@COMPUTE.route(
    "POST", "/os-snapshots", "member", until=UNTIL, body=Object({"snapshot": Member(NEW_SNAPSHOT, required=True)})
)
def create_snapshot(ctx: Ctx) -> Row:
    asked = ctx.body["snapshot"]
    project_id = str(ctx.who.project_id)
    quota.check(ctx.tx, VOLUMES, project_id, snapshots=1)
    new = SNAPSHOT.blank() | {
        "id": ctx.new_id(),
        "project_id": project_id,
        "volume_id": asked["volume_id"],
        "name": asked.get("display_name"),
        "description": asked.get("display_description"),
        "force": asked.get("force", False),
    }
    return {"snapshot": _snapshot(snapshots.create(ctx, new))}


@COMPUTE.route("DELETE", "/os-snapshots/{snapshot_id}", "member", until=UNTIL, status=202)
def delete_snapshot(ctx: Ctx) -> None:
    snapshots.delete(ctx, ctx.find(SNAPSHOT, ctx.path["snapshot_id"]))
