"""Snapshots of volumes: a volume's content at one moment, kept beside it on its host."""

from collections.abc import Callable
from typing import Any

from trilith.kernel import quota
from trilith.kernel.declare import ABSENT, Field, Noun, Quota, computed, flag, given, ident, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Flag, MapOf, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.kernel.versions import v
from trilith.volume import metadata, type_quotas
from trilith.volume.shared_storage import is_elsewhere, wake
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME, asked_changes

Row = dict[str, Any]


def snapshot_status(row: Row) -> Row:
    if row["forced_status"]:
        return {"status": row["forced_status"]}
    if row["deleting"]:
        return {"status": "deleting"}
    if row["fault"]:
        return {"status": "error"}
    return {"status": "available" if row["seen"] else "creating"}


def _details(show: Any) -> Any:
    """Creations and changes answer without these."""
    return lambda row, ctx: show(row) if ctx.method == "GET" else ABSENT


SNAPSHOT = Noun(
    VOLUMES,
    "snapshot",
    "/snapshots",
    dict(
        id=ident(brief=True, sort=True, filter=True),
        name=text(255, create="optional", update=True, null=True, brief=True, sort=True, filter=True),
        description=text(255, create="optional", update=True, null=True, brief=True, filter=True),
        display_name=given(Text(255), update=True, null=True),
        display_description=given(Text(255), update=True, null=True),
        volume_id=ident(create="required", null=True, brief=True, sort=True, filter=True, index=True),
        volume_size_gib=whole(wire="size", brief=True, sort=True, filter=True),
        status=text(32, brief=True, sort=True, filter=True),
        metadata=Field(
            kind=MapOf(Text(255), Text(255, 1)), create="optional", update=True, null=True, default=dict, brief=True
        ),
        created_at=time(brief=True, sort=True),
        updated_at=time(brief=True, sort=True),
        user_id=text(64, since=v("3.41"), brief=True),
        progress=computed(
            _details(lambda row: row["told_progress"] or ("100%" if row["status"] == "available" else "0%")),
            wire="os-extended-snapshot-attributes:progress",
        ),
        project=computed(_details(lambda row: row["project_id"]), wire="os-extended-snapshot-attributes:project_id"),
        group_snapshot_id=computed(lambda row, ctx: None, since=v("3.14")),
        consumes_quota=computed(lambda row, ctx: True, since=v("3.65"), brief=True),
        force=given(Flag(), null=True),
        deleting=flag(default=False, hidden=True),
        seen=flag(default=False, hidden=True),
        fault=text(65535, hidden=True),
        forced_status=text(32, hidden=True),
        told_progress=text(8, hidden=True),
    ),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
    detail=True,
    quota=Quota("snapshots", 10),
    derive=snapshot_status,
    wakes=lambda row: ("volumes",),
    filters={"all_tenants": lambda ctx, values: None},
)
metadata.declare(SNAPSHOT)


@SNAPSHOT.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    volume = ctx.find(VOLUME, new["volume_id"])
    if volume["status"] != "available" and not (
        volume["status"] == "in-use" and (new.get("force") or ctx.at >= v("3.66"))
    ):
        message = f"Invalid volume: Volume {volume['id']} status must be available, it is {volume['status']}."
        raise Fault("invalid", message)
    if ctx.at >= v("3.66") and new.get("force") is False:
        raise Fault("invalid", "Since microversion 3.66 force may only be true, or better left out.")
    return make_snapshot(
        ctx.tx,
        lambda: new["id"],
        volume,
        user_id=ctx.who.user_id,
        name=new["name"] if new["name"] is not None else new.get("display_name"),
        description=new["description"] if new["description"] is not None else new.get("display_description"),
        metadata=new["metadata"] or {},
        counted=True,
    )


def make_snapshot(
    tx: Tx,
    new_id: Callable[[], str],
    volume: Row,
    *,
    user_id: str,
    name: str | None,
    description: str | None = None,
    metadata: dict[str, str] | None = None,
    counted: bool = False,
) -> Row:
    """The wanted row of a snapshot; the volume's host makes it. `counted`: their number was checked already."""
    quota.check(
        tx, VOLUMES, volume["project_id"], gigabytes=volume["size_gib"], **({} if counted else {"snapshots": 1})
    )
    type_quotas.check(tx, volume["project_id"], volume["type_id"], snapshots=1, gigabytes=volume["size_gib"])
    row = {
        "id": new_id(),
        "project_id": volume["project_id"],
        "user_id": user_id,
        "volume_id": volume["id"],
        "volume_size_gib": volume["size_gib"],
        "name": name,
        "description": description,
        "metadata": metadata or {},
    }
    wake(tx, volume)
    return tx.insert(SNAPSHOT, row)


@SNAPSHOT.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    return ctx.tx.update(SNAPSHOT, row, **asked_changes(changes))


@SNAPSHOT.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    if row["status"] not in ("available", "error", "error_deleting"):
        raise Fault("invalid", f"Invalid snapshot: status must be available or error, it is {row['status']}.")
    drop(ctx, row)


def drop(ctx: Ctx, row: Row) -> None:
    volume = ctx.tx.one(VOLUME, id=row["volume_id"])
    if volume is None or is_elsewhere(volume):
        ctx.tx.delete(SNAPSHOT, row)
        return
    ctx.tx.update(SNAPSHOT, row, deleting=True, fault=None, forced_status=None)
    wake(ctx.tx, volume)


STATUSES = ("available", "error", "creating", "deleting", "error_deleting")


@SNAPSHOT.verb("os-reset_status", "admin", body=Object({"status": Member(Choice(STATUSES, lower=True), required=True)}))
def reset_status(ctx: Ctx, row: Row, body: Row) -> None:
    ctx.tx.update(SNAPSHOT, row, forced_status=None if body["status"] == row["status"] else body["status"])


TOLD = Object({"status": Member(Choice(STATUSES), required=True), "progress": Member(Text(4, 0, "[0-9]{1,3}%"))})
NEXT = {
    "creating": ("creating", "available", "error"),
    "deleting": ("deleting", "error_deleting"),
}


@SNAPSHOT.verb("os-update_snapshot_status", "member", body=TOLD)
def update_status(ctx: Ctx, row: Row, body: Row) -> None:
    """What somebody else who makes or removes the snapshot says of it."""
    if body["status"] not in NEXT.get(row["status"], ()):
        raise Fault(
            "invalid", f"Provided snapshot status {body['status']} is not allowed for one that is {row['status']}."
        )
    ctx.tx.update(SNAPSHOT, row, forced_status=body["status"], told_progress=body.get("progress"))


@SNAPSHOT.verb("os-force_delete", "admin")
def force_delete(ctx: Ctx, row: Row, body: Any) -> None:
    drop(ctx, row)
