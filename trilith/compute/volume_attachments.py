"""The volumes of a server."""

from typing import Any

from trilith.compute.instance_actions import record
from trilith.compute.server_actions import must
from trilith.compute.server_disks import attach_volume, next_device
from trilith.compute.server_requests import TAG
from trilith.compute.server_shelving import must_be_offloaded
from trilith.compute.servers import SERVER, wish
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Id, Member, Object, Text
from trilith.kernel.paging import number
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v

Row = dict[str, Any]
TAG_SINCE, FLAG_SINCE, IDS_SINCE, EMPTY_SINCE = v("2.70"), v("2.79"), v("2.89"), v("2.101")
SHELVED_SINCE = v("2.20")
DEVICE = Text(255, 1, r"(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*")

ASKED = Object(
    {
        "volumeId": Member(Id(), required=True),
        "device": Member(DEVICE, null=True),
        "tag": Member(TAG, since=v("2.49")),
        "delete_on_termination": Member(Flag(), since=FLAG_SINCE),
    }
)
ATTACH = Object({"volumeAttachment": Member(ASKED, required=True)})
CHANGE = Object(
    {
        "volumeAttachment": Member(
            Object(
                {
                    "volumeId": Member(Id(), required=True),
                    "device": Member(DEVICE, null=True, since=v("2.85")),
                    "tag": Member(TAG, since=v("2.85")),
                    "delete_on_termination": Member(Flag(), since=v("2.85")),
                    "serverId": Member(Id(), since=v("2.85")),
                    "id": Member(Id(), since=v("2.85")),
                }
            ),
            required=True,
        )
    }
)


def _view(ctx: Ctx, row: Row, disk: Row, answer: bool = False) -> Row:
    """`answer`: to the request that attached it."""
    view: Row = {"volumeId": disk["volume_id"], "serverId": row["id"], "device": f"/dev/{disk['device']}"}
    if answer or ctx.at < IDS_SINCE:
        view["id"] = disk["volume_id"]
    else:
        view |= {"attachment_id": disk["attachment_id"], "bdm_uuid": disk["bdm_id"]}
    if ctx.at >= TAG_SINCE:
        view["tag"] = disk["tag"]
    if ctx.at >= FLAG_SINCE:
        view["delete_on_termination"] = disk["delete_on_termination"]
    return view


def _disk(row: Row, volume_id: str) -> Row:
    for disk in row["disks"]:
        if disk.get("volume_id") == volume_id:
            return disk  # type: ignore[no-any-return]
    raise Fault("missing", f"Instance {row['id']} is not attached to volume {volume_id}")


def _must(ctx: Ctx, row: Row, verb: str) -> None:
    """A shelved server, which has no host, may be given volumes for later."""
    if row["vm_state"] == "shelved_offloaded" and ctx.at >= SHELVED_SINCE:
        must_be_offloaded(ctx, row, verb)
    else:
        must(ctx, row, verb, "active", "paused", "stopped", "resized", "suspended")


@SERVER.route("GET", "/{id}/os-volume_attachments", "reader")
def list_attachments(ctx: Ctx, row: Row) -> Row:
    limit, offset = number(ctx.one("limit"), "limit"), number(ctx.one("offset"), "offset") or 0
    found = [_view(ctx, row, disk) for disk in row["disks"] if disk["kind"] == "volume"][offset:]
    return {"volumeAttachments": found[:limit] if limit is not None else found}


@SERVER.route("GET", "/{id}/os-volume_attachments/{volume_id}", "reader")
def show_attachment(ctx: Ctx, row: Row) -> Row:
    return {"volumeAttachment": _view(ctx, row, _disk(row, ctx.path["volume_id"]))}


@SERVER.route("POST", "/{id}/os-volume_attachments", "member", body=ATTACH)
def attach(ctx: Ctx, row: Row) -> Reply:
    from trilith.volume.volumes import VOLUME

    asked = ctx.body["volumeAttachment"]
    _must(ctx, row, "attach_volume")
    volume = ctx.tx.one(VOLUME, VOLUME.c.id == asked["volumeId"], VOLUME.scope(ctx))
    if volume is None:
        raise Fault("missing", f"Volume {asked['volumeId']} could not be found.")
    if any(disk.get("volume_id") == volume["id"] for disk in row["disks"]):
        raise Fault("invalid", f"Invalid volume: Volume {volume['id']} is already attached to server {row['id']}.")
    device = next_device(row["disks"])
    disk = {
        "device": device,
        "kind": "volume",
        "boot_index": None,
        "tag": asked.get("tag"),
        "delete_on_termination": asked.get("delete_on_termination", False),
        "bdm_id": ctx.new_id(),
        **attach_volume(ctx, row, volume, device),
    }
    record(ctx, row, "attach_volume", done=row["host"] is None)
    row = wish(ctx.tx, row, disks=[*row["disks"], disk])
    if ctx.at >= EMPTY_SINCE:
        return Reply(None, 202)
    return Reply({"volumeAttachment": _view(ctx, row, disk, answer=True)}, 200)


@SERVER.route("PUT", "/{id}/os-volume_attachments/{volume_id}", "admin|member", body=CHANGE, status=202)
def change(ctx: Ctx, row: Row) -> None:
    """Whether the volume goes with the server; putting another volume in its place is not offered."""
    asked, disk = ctx.body["volumeAttachment"], _disk(row, ctx.path["volume_id"])
    if asked["volumeId"] != disk["volume_id"]:
        raise Fault("conflict", "A volume in use cannot be replaced by another: detach the one, attach the other.")
    if asked.get("serverId", row["id"]) != row["id"] or asked.get("device") not in (None, f"/dev/{disk['device']}"):
        raise Fault("invalid", "Only delete_on_termination of an attachment can be changed.")
    if asked.get("tag", disk["tag"]) != disk["tag"] or asked.get("id", disk["attachment_id"]) not in (
        disk["attachment_id"],
        disk["volume_id"],
    ):
        raise Fault("invalid", "Only delete_on_termination of an attachment can be changed.")
    if "delete_on_termination" in asked:
        new = disk | {"delete_on_termination": asked["delete_on_termination"]}
        ctx.tx.update(SERVER, row, disks=[new if each is disk else each for each in row["disks"]])


def note_growth(ctx: Ctx, server_id: str) -> None:
    """An action that ends when the running machine has its volume at the new size."""
    row = ctx.tx.one(SERVER, id=server_id, deleted_at=None)
    if row is not None:
        record(ctx, row, "extend_volume", done=row["host"] is None or row["status"] != "ACTIVE")


@SERVER.route("DELETE", "/{id}/os-volume_attachments/{volume_id}", "member", status=202)
def detach(ctx: Ctx, row: Row) -> None:
    from trilith.volume.attachments import begin_detach, detached

    disk = _disk(row, ctx.path["volume_id"])
    _must(ctx, row, "detach_volume")
    if disk["boot_index"] == 0:
        raise Fault("forbidden", "Cannot detach a root device volume")
    if disk["leaving"]:
        raise Fault("invalid", f"Volume {disk['volume_id']} is being detached already.")
    record(ctx, row, "detach_volume", done=row["host"] is None)
    if row["host"] is None:
        detached(ctx.tx, disk["volume_id"], row["id"])
        wish(ctx.tx, row, disks=[each for each in row["disks"] if each is not disk])
        return
    begin_detach(ctx.tx, disk["volume_id"], row["id"])
    wish(ctx.tx, row, disks=[each | {"leaving": True} if each is disk else each for each in row["disks"]])
