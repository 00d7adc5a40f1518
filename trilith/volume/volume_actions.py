"""What can be done to a volume: extend, upload as an image, reserve, attach, detach, and the flags."""

from typing import Any

from trilith.image.images import make_image
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Flag, Json, MapOf, Member, Object, Text, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.volume import type_quotas
from trilith.volume.attachments import ATTACHMENT, attached, reserve, sum_up
from trilith.volume.types import find_type, shares
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME, drop_volume

Row = dict[str, Any]


def _must(row: Row, *statuses: str) -> None:
    if row["status"] not in statuses:
        message = f"Invalid volume: Volume {row['id']} status must be {' or '.join(statuses)}, but current status is: "
        raise Fault("invalid", f"{message}{row['status']}.")


@VOLUME.verb("os-extend", "member", body=Object({"new_size": Member(Whole(1), required=True)}))
def extend(ctx: Ctx, row: Row, body: Row) -> None:
    """Also while a machine has it (from 3.42)."""
    from trilith.compute.volume_attachments import note_growth

    _must(row, "available", *(("in-use",) if ctx.at >= v("3.42") else ()))
    grown = body["new_size"] - row["size_gib"]
    if grown <= 0:
        raise Fault("invalid", f"New size for extend must be greater than current size. (current: {row['size_gib']}).")
    quota.check(ctx.tx, VOLUMES, row["project_id"], gigabytes=grown, per_volume_gigabytes=body["new_size"])
    type_quotas.check(ctx.tx, row["project_id"], row["type_id"], gigabytes=grown)
    row = ctx.tx.update(VOLUME, row, size_gib=body["new_size"], fault=None, forced_status=None)
    for attachment in ctx.tx.rows(ATTACHMENT, volume_id=row["id"]):
        if attachment["server_id"]:
            note_growth(ctx, attachment["server_id"])
        if attachment["host"]:
            ctx.tx.hint(f"host:{attachment['host']}")


UPLOAD = Object(
    {
        "image_name": Member(Text(255), required=True),
        "force": Member(Flag(), null=True),
        "disk_format": Member(Choice(("raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ploop")), null=True),
        "container_format": Member(Choice(("bare", "ovf", "ova", "docker", "compressed")), null=True),
        "visibility": Member(Choice(("community", "public", "private", "shared")), since=v("3.1")),
        "protected": Member(Flag(), since=v("3.1")),
    }
)


@VOLUME.verb("os-volume_upload_image", "member", body=UPLOAD)
def upload(ctx: Ctx, row: Row, body: Row) -> Row:
    _must(row, "available", *(("in-use",) if body.get("force") else ()))
    visibility = body.get("visibility", "private")
    if visibility == "public" and not ctx.who.is_admin:
        raise Fault("forbidden", "Only administrators make public images.")
    disk_format = body.get("disk_format") or "raw"
    properties = {k: str(v_) for k, v_ in (row["image_metadata"] or {}).items() if k.startswith(("hw_", "os_"))}
    image = make_image(
        ctx.tx,
        ctx.new_id,
        project_id=ctx.who.project_id or row["project_id"],
        name=body["image_name"],
        disk_format=disk_format,
        container_format=body.get("container_format") or "bare",
        properties=properties,
        visibility=visibility,
        protected=bool(body.get("protected", False)),
        min_disk_gib=row["size_gib"] if disk_format == "raw" else 0,
    )
    row = ctx.tx.update(VOLUME, row, uploads=[*row["uploads"], {"image_id": image["id"], "disk_format": disk_format}])
    kind = ctx.tx.get(_types(), row["type_id"])
    found: Row = {
        "id": row["id"],
        "updated_at": row["updated_at"],
        "status": "uploading",
        "display_description": row["description"],
        "size": row["size_gib"],
        "volume_type": {"id": kind["id"], "name": kind["name"], "extra_specs": kind["extra_specs"]},
        "image_id": image["id"],
        "container_format": image["container_format"],
        "disk_format": disk_format,
        "image_name": image["name"],
    }
    if ctx.at >= v("3.1"):
        found |= {"visibility": visibility, "protected": image["protected"]}
    return {"os-volume_upload_image": found}


def _types() -> Any:
    from trilith.volume.types import TYPE

    return TYPE


@VOLUME.verb("os-set_bootable", "member", body=Object({"bootable": Member(Flag(), required=True)}), status=200)
def set_bootable(ctx: Ctx, row: Row, body: Row) -> None:
    ctx.tx.update(VOLUME, row, bootable=body["bootable"])


@VOLUME.verb("os-update_readonly_flag", "member", body=Object({"readonly": Member(Flag(), required=True)}))
def set_readonly(ctx: Ctx, row: Row, body: Row) -> None:
    _must(row, "available")
    metadata = dict(row["metadata"]) | {"readonly": str(body["readonly"])}
    ctx.tx.update(VOLUME, row, readonly=body["readonly"], metadata=metadata)


RETYPE = Object(
    {
        "new_type": Member(Text(255, 1), required=True),
        "migration_policy": Member(Choice(("on-demand", "never")), null=True),
    }
)


@VOLUME.verb("os-retype", "member", body=RETYPE)
def retype(ctx: Ctx, row: Row, body: Row) -> None:
    _must(row, "available", "in-use")
    kind = find_type(ctx.tx, body["new_type"], ctx.who.project_id, ctx.who.is_admin)
    if kind["id"] == row["type_id"]:
        raise Fault("invalid", f"New volume_type same as original: {body['new_type']}.")
    shared = shares(kind)
    if shared != bool(row["multiattach"]) and row["status"] != "available":
        raise Fault("invalid", f"Whether servers share volume {row['id']} can change only while none has it.")
    type_quotas.check(ctx.tx, row["project_id"], kind["id"], volumes=1, gigabytes=row["size_gib"])
    ctx.tx.update(VOLUME, row, type_id=kind["id"], multiattach=shared)


@VOLUME.verb("os-force_delete", "admin")
def force_delete(ctx: Ctx, row: Row, body: Any) -> None:
    drop_volume(ctx.tx, row, force=True)


RESET = Object(
    {
        "status": Member(Text(64)),
        "attach_status": Member(Choice(("detached", "attached"), lower=True)),
        "migration_status": Member(Text(64), null=True),
    }
)


@VOLUME.verb("os-reset_status", "admin", body=RESET)
def reset_status(ctx: Ctx, row: Row, body: Row) -> None:
    """An operator's word for the status; the next change of what is wanted takes it back."""
    if not body:
        raise Fault("invalid", "Invalid input received: one of status, attach_status, migration_status is required")
    known = ("creating", "available", "deleting", "error", "error_deleting", "error_managing", "managing",
             "attaching", "detaching", "in-use", "maintenance", "restoring-backup", "error_restoring", "reserved",
             "awaiting-transfer", "backing-up", "error_backing-up", "error_extending", "downloading", "uploading",
             "retyping", "extending")  # fmt: skip
    status = str(body.get("status", row["status"])).lower()
    if status not in known:
        raise Fault("invalid", f"Invalid input received: {status} is not a valid status")
    plain = ctx.tx.update(VOLUME, row, forced_status=None, fault=None)
    if status != plain["status"]:
        ctx.tx.update(VOLUME, plain, forced_status=status)


# for those who connect volumes by themselves, as compute services did before there were attachments
@VOLUME.verb("os-reserve", "member")
def reserve_(ctx: Ctx, row: Row, body: Any) -> None:
    promised = reserve(ctx.tx, ctx.new_id, row, server_id=None)
    ctx.tx.update(ATTACHMENT, promised, status="attaching")
    sum_up(ctx.tx, row)


def _promised(ctx: Ctx, row: Row) -> list[Row]:
    """Attachments that ``os-reserve`` began and nobody has taken yet."""
    return ctx.tx.rows(ATTACHMENT, volume_id=row["id"], status="attaching", server_id=None, host=None)


@VOLUME.verb("os-unreserve", "member")
def unreserve(ctx: Ctx, row: Row, body: Any) -> None:
    for attachment in _promised(ctx, row):
        ctx.tx.delete(ATTACHMENT, attachment)
    sum_up(ctx.tx, row)


ATTACH = Object(
    {
        "instance_uuid": Member(Text(64)),
        "host_name": Member(Text(255), null=True),
        "mountpoint": Member(Text(255, 1), required=True),
        "mode": Member(Choice(("rw", "ro"))),
    }
)


@VOLUME.verb("os-attach", "member", body=ATTACH)
def attach_(ctx: Ctx, row: Row, body: Row) -> None:
    if bool(body.get("instance_uuid")) == bool(body.get("host_name")):
        raise Fault("invalid", "Invalid request to attach volume to an instance and a host: give one of them.")
    _must(row, "available", "reserved", "attaching", *(("in-use",) if row["multiattach"] else ()))
    promised = _promised(ctx, row) or ctx.tx.rows(ATTACHMENT, volume_id=row["id"], status="reserved")
    found = promised[0] if promised else None
    found = found or reserve(ctx.tx, ctx.new_id, row, server_id=body.get("instance_uuid"))
    found = ctx.tx.update(
        ATTACHMENT,
        found,
        server_id=body.get("instance_uuid"),
        host=body.get("host_name"),
        device=body["mountpoint"],
        mode=body.get("mode", "rw"),
    )
    attached(ctx.tx, found)


@VOLUME.verb("os-begin_detaching", "member")
def begin_detaching(ctx: Ctx, row: Row, body: Any) -> None:
    _must(row, "in-use")
    for attachment in ctx.tx.rows(ATTACHMENT, volume_id=row["id"], status="attached"):
        ctx.tx.update(ATTACHMENT, attachment, status="detaching")
    sum_up(ctx.tx, row)


@VOLUME.verb("os-roll_detaching", "member")
def roll_detaching(ctx: Ctx, row: Row, body: Any) -> None:
    _must(row, "detaching")
    for attachment in ctx.tx.rows(ATTACHMENT, volume_id=row["id"], status="detaching"):
        ctx.tx.update(ATTACHMENT, attachment, status="attached")
    sum_up(ctx.tx, row)


DETACH = Object({"attachment_id": Member(Text(64), null=True), "connector": Member(Json(), null=True)})


@VOLUME.verb("os-detach", "member", body=DETACH)
def detach(ctx: Ctx, row: Row, body: Row) -> None:
    _detach(ctx, row, body.get("attachment_id"))


@VOLUME.verb("os-force_detach", "admin", body=DETACH)
def force_detach(ctx: Ctx, row: Row, body: Row) -> None:
    _detach(ctx, row, body.get("attachment_id"))


def _detach(ctx: Ctx, row: Row, attachment_id: str | None) -> None:
    """Only what no machine of ours has: those are detached through their server."""
    from trilith.compute.servers import SERVER

    found = ctx.tx.rows(ATTACHMENT, volume_id=row["id"])
    if attachment_id:
        found = [a for a in found if a["id"] == attachment_id]
        if not found:
            raise Fault("missing", f"Volume attachment could not be found with id: {attachment_id}.")
    for attachment in found:
        server = ctx.tx.one(SERVER, id=attachment["server_id"], deleting=False) if attachment["server_id"] else None
        if server is not None and any(disk.get("volume_id") == row["id"] for disk in server["disks"]):
            raise Fault("conflict", f"Detach the volume from server {attachment['server_id']} through the compute API.")
        ctx.tx.delete(ATTACHMENT, attachment)
    sum_up(ctx.tx, row)


# the image metadata that a volume carries on from its image
IMAGE_METADATA = Object({"metadata": Member(MapOf(Text(255), Text(255, 1)), required=True)})


@VOLUME.verb("os-set_image_metadata", "member", body=IMAGE_METADATA, status=200)
def set_image_metadata(ctx: Ctx, row: Row, body: Row) -> Row:
    found = dict(row["image_metadata"] or {}) | body["metadata"]
    ctx.tx.update(VOLUME, row, image_metadata=found)
    return {"metadata": found}


@VOLUME.verb("os-unset_image_metadata", "member", body=Object({"key": Member(Text(255), required=True)}), status=200)
def unset_image_metadata(ctx: Ctx, row: Row, body: Row) -> None:
    found = dict(row["image_metadata"] or {})
    if body["key"] not in found:
        raise Fault("missing", "Metadata item was not found.")
    del found[body["key"]]
    ctx.tx.update(VOLUME, row, image_metadata=found)


@VOLUME.verb("os-show_image_metadata", "reader", status=200)
def show_image_metadata(ctx: Ctx, row: Row, body: Any) -> Row:
    return {"metadata": row["image_metadata"] or {}}


@VOLUME.route("GET", "/summary", "reader", member=False, since=v("3.12"))
def summary(ctx: Ctx) -> Row:
    where = ctx.service.wire.narrowed(ctx, VOLUME) + [c for c in [VOLUME.scope(ctx)] if c is not None]
    rows = ctx.tx.rows(VOLUME, *where)
    found: Row = {"total_size": sum(row["size_gib"] for row in rows), "total_count": len(rows)}
    if ctx.at >= v("3.36"):
        merged: dict[str, list[str]] = {}
        for row in rows:
            for key, value in row["metadata"].items():
                merged.setdefault(key, []).append(value)
        found["metadata"] = {key: sorted(set(values)) for key, values in merged.items()}
    return {"volume-summary": found}
