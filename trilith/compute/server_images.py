"""Images of servers: createImage and createBackup.

A root disk of its own is copied by the server's host and uploaded. Of a server that boots from a volume there is a
snapshot of each of its volumes, and an image without data that says so (``block_device_mapping``): a server that is
made of it gets volumes made of the snapshots.
"""

import hashlib
from typing import Any

from msgspec.json import encode

from trilith.compute.instance_actions import record
from trilith.compute.server_actions import must
from trilith.compute.server_requests import METADATA, NAME
from trilith.compute.servers import SERVER, wish
from trilith.compute.versions import COMPUTE
from trilith.image.images import IMAGE, make_image
from trilith.image.images import delete as delete_image
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Member, Object, Text, Whole
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v

Row = dict[str, Any]
NO_LOCATION_SINCE = v("2.45")
INHERITED = ("kernel_id", "ramdisk_id", "hw_", "os_", "img_")
NO_DATA: Row = {
    "size_bytes": 0,
    "checksum": hashlib.md5(b"", usedforsecurity=False).hexdigest(),
    "os_hash_algo": "sha512",
    "os_hash_value": hashlib.sha512(b"").hexdigest(),
}


CREATE_IMAGE = Object({"name": Member(Text(255, 1, NAME), required=True), "metadata": Member(METADATA)})


@SERVER.verb("createImage", "member", body=CREATE_IMAGE)
def create_image(ctx: Ctx, row: Row, body: Row) -> Reply:
    must(ctx, row, "createImage", "active", "stopped", "paused", "suspended")
    metadata = body.get("metadata", {})
    limit = quota.limits(ctx.tx, COMPUTE, row["project_id"])["metadata_items"]
    if 0 <= limit < len(metadata):
        raise Fault("over_quota", f"Quota exceeded for metadata_items: asked {len(metadata)} of {limit}.")
    if row["image_id"] is None:
        image = _image_of_volumes(ctx, row, body["name"], metadata)
        record(ctx, row, "createImage", done=True)
    else:
        image = make_snapshot(ctx, row, body["name"], {"image_type": "snapshot"} | metadata)
        record(ctx, row, "createImage")
    return image_reply(ctx, image)


def image_reply(ctx: Ctx, image: Row) -> Reply:
    if ctx.at >= NO_LOCATION_SINCE:
        return Reply({"image_id": image["id"]}, 202)
    return Reply(None, 202, [("Location", f"{ctx.base_url}/image/v2/images/{image['id']}")])


def make_snapshot(ctx: Ctx, row: Row, name: str, properties: Row) -> Row:
    """An image that the server's host fills with the root disk."""
    if row["image_id"] is None:
        raise Fault("invalid", "Backup is not supported for volume-backed instances.")
    own = {"instance_uuid": row["id"], "base_image_ref": row["image_id"], "user_id": row["user_id"]}
    image = make_image(
        ctx.tx,
        ctx.new_id,
        project_id=ctx.who.project_id or row["project_id"],
        name=name,
        disk_format="qcow2",
        properties=_inherited(row) | own | properties,
        min_disk_gib=row["flavor"]["disk_gib"],
        min_ram_mib=int(row["image_properties"].get("min_ram", 0)),
    )
    wish(ctx.tx, row, snapshots=[*row["snapshots"], {"image_id": image["id"], "quiesce": False}])
    return image


def _inherited(row: Row) -> Row:
    return {key: value for key, value in row["image_properties"].items() if key.startswith(INHERITED)}


def _image_of_volumes(ctx: Ctx, row: Row, name: str, metadata: Row) -> Row:
    """Complete at once: the snapshots that it names are made by the volumes' host."""
    mapping = [_snapshot(ctx, row, disk, name) for disk in row["disks"] if disk["kind"] == "volume"]
    root = next(disk for disk in row["disks"] if disk["boot_index"] == 0)
    own = {"block_device_mapping": encode(mapping).decode(), "bdm_v2": "True", "base_image_ref": ""}
    return make_image(
        ctx.tx,
        ctx.new_id,
        project_id=ctx.who.project_id or row["project_id"],
        name=name,
        disk_format="qcow2",
        properties=_inherited(row) | metadata | own | {"root_device_name": f"/dev/{root['device']}"},
        min_ram_mib=int(row["image_properties"].get("min_ram", 0)),
        phase="active",
        **NO_DATA,
    )


def _snapshot(ctx: Ctx, row: Row, disk: Row, name: str) -> Row:
    """Makes a snapshot of one of the server's volumes; returns how a server is given a volume made of it."""
    from trilith.volume.snapshots import make_snapshot as snapshot_of
    from trilith.volume.types import TYPE
    from trilith.volume.volumes import VOLUME

    volume = ctx.tx.get(VOLUME, disk["volume_id"])
    if volume["status"] not in ("available", "in-use"):
        message = f"Invalid volume: Volume {volume['id']} is {volume['status']}: no snapshot of it can be made now."
        raise Fault("invalid", message)
    snapshot = snapshot_of(ctx.tx, ctx.new_id, volume, user_id=ctx.who.user_id, name=f"snapshot for {name}")
    kind = ctx.tx.one(TYPE, id=volume["type_id"])
    return {
        "source_type": "snapshot",
        "destination_type": "volume",
        "snapshot_id": snapshot["id"],
        "volume_size": volume["size_gib"],
        "volume_type": kind["name"] if kind else None,
        "device_name": f"/dev/{disk['device']}",
        "boot_index": disk["boot_index"],
        "delete_on_termination": disk["delete_on_termination"],
        "tag": disk["tag"],
        "disk_bus": "virtio",
        "device_type": "disk",
        "guest_format": None,
        "image_id": None,
        "volume_id": None,
        "no_device": None,
    }


BACKUP = Object(
    {
        "name": Member(Text(255, 1, NAME), required=True),
        "backup_type": Member(Text(255), required=True),
        "rotation": Member(Whole(0), required=True),
        "metadata": Member(METADATA),
    }
)


@SERVER.verb("createBackup", "member", body=BACKUP)
def create_backup(ctx: Ctx, row: Row, body: Row) -> Reply:
    """An image of which only the newest `rotation` of one type are kept."""
    must(ctx, row, "createBackup", "active", "stopped", "paused", "suspended")
    properties = body.get("metadata", {}) | {"image_type": "backup", "backup_type": body["backup_type"]}
    _rotate(ctx, row, body["backup_type"], body["rotation"] - 1)
    if body["rotation"] == 0:
        return Reply(None, 202)
    image = make_snapshot(ctx, row, body["name"], properties)
    record(ctx, row, "createBackup")
    return image_reply(ctx, image)


def _rotate(ctx: Ctx, row: Row, kind: str, keep: int) -> None:
    found = [
        image
        for image in ctx.tx.rows(IMAGE, project_id=row["project_id"])
        if (image["extra"] or {}).get("instance_uuid") == row["id"]
        and (image["extra"] or {}).get("backup_type") == kind
        and image["status"] in ("queued", "saving", "active")
    ]
    for image in sorted(found, key=lambda image: image["created_at"])[: max(0, len(found) - max(keep, 0))]:
        delete_image(ctx, image)
