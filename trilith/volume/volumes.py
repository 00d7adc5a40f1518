"""Volumes: blocks that outlive machines.

A volume lies on one storage host (`host`), or in Ceph (`pool`). Requests write what is wanted (size, deletion,
uploads), the host's agent or a controller reports what is there (`path`, `seen_size_gib`). Attachments are rows
of their own (`attachments.py`); `attach_phase` sums them up.
The public status is computed from these, here, and nowhere else.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from msgspec import DecodeError
from msgspec.json import decode

from trilith.image.images import usable_image
from trilith.kernel import quota
from trilith.kernel.declare import ABSENT, Field, Noun, Quota, computed, flag, given, ident, json, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Id, Json, MapOf, Null, Text, Whole, now
from trilith.kernel.request import Ctx
from trilith.kernel.store import Condition, Tx
from trilith.kernel.versions import OLDEST, v
from trilith.placement.hosts import HOST, heard, hosted, is_up, topic
from trilith.volume import metadata, shared_storage, type_quotas
from trilith.volume.exports import ATTACHED, export_wants, is_remote, nbd_document
from trilith.volume.types import TYPE, find_type, shares
from trilith.volume.versions import VOLUMES

Row = dict[str, Any]
CREATE_S = 3600.0
DONE = ("available", "in-use", "error", "error_restoring", "error_extending", "error_managing")


def volume_status(row: Row) -> Row:
    """The public status, of what is wanted and what is seen: pure."""
    if row["deleting"]:
        status = "error_deleting" if row["fault"] else "deleting"
    elif row["forced_status"]:
        status = row["forced_status"]
    elif row["path"] is None:
        status = (
            "error" if row["fault"] else "downloading" if (row["source"] or {}).get("kind") == "image" else "creating"
        )
    elif row["seen_error"]:
        status = "error"
    elif (row["seen_size_gib"] or 0) < row["size_gib"]:
        status = "error_extending" if row["fault"] else "extending"
    elif row["attach_phase"]:
        status = row["attach_phase"]
    elif row["export"]:
        status = "detaching"  # its host still serves it to another: nobody else may open it
    elif row["uploads"]:
        status = "uploading"
    else:
        status = "awaiting-transfer" if row["transferring"] else "available"
    return {"status": status, "transient_since": _since(row, status)}


def _since(row: Row, status: str) -> str | None:
    if status in (*DONE, "reserved", "awaiting-transfer", "error_deleting"):
        return None
    return row.get("transient_since") if row.get("status") == status and row.get("transient_since") else now()


def _only_on_get(show: Callable[[Row, Ctx], Any]) -> Callable[[Row, Ctx], Any]:
    """Replies to changes are shorter than those to questions."""
    return lambda row, ctx: show(row, ctx) if ctx.method == "GET" else ABSENT


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    from trilith.volume.attachments import ATTACHMENT

    ids = [row["id"] for row in rows]
    found = ctx.tx.rows(ATTACHMENT, volume_id=ids, status="attached") if ids else []
    names = {row["id"]: row["name"] for row in ctx.tx.rows(TYPE)} if rows else {}
    for row in rows:
        row["_type"] = names.get(row["type_id"])
        row["_attachments"] = [
            {
                "id": row["id"],
                "volume_id": row["id"],
                "attachment_id": a["id"],
                "server_id": a["server_id"],
                "host_name": a["host"] if ctx.who.is_admin else None,
                "device": a["device"],
                "attached_at": a["attached_at"],
            }
            for a in found
            if a["volume_id"] == row["id"]
        ]


def links(path: str) -> Field:
    """The two links that every volume resource shows."""

    def show(row: Row, ctx: Ctx) -> list[Row]:
        item = f"{path}/{row['id']}"
        return [{"rel": "self", "href": ctx.url(item)}, {"rel": "bookmark", "href": f"{ctx.base_url}/volume{item}"}]

    return computed(show, brief=True)


def _metadata_filter(ctx: Ctx, values: list[str]) -> Condition:
    """``metadata={'key': 'value'}``: all of them."""
    import ast

    try:
        wanted = ast.literal_eval(values[-1])
        pairs = {str(key): str(value) for key, value in wanted.items()}
    except (ValueError, SyntaxError, AttributeError):
        raise Fault("invalid", f"Invalid metadata filter {values[-1]}: it must be an object.") from None
    return sa.and_(*(VOLUME.c.metadata[key].as_string() == value for key, value in pairs.items()))


def _bootable_filter(ctx: Ctx, values: list[str]) -> Condition:
    return VOLUME.c.bootable.is_(values[-1].lower() == "true")  # type: ignore[no-any-return]


def _never(**more: Any) -> Field:
    """Shown as null; null is taken too, since clients send it."""
    return Field(kind=Null(), stored=False, create="optional", null=True, show=lambda row, ctx: None, **more)


def _type_name(row: Row, ctx: Ctx) -> str | None:
    name: str | None = row.get("_type")
    return name


VOLUME = Noun(
    VOLUMES,
    "volume",
    "/volumes",
    dict(
        id=ident(brief=True, sort=True, filter=True),
        name=text(255, create="optional", update=True, null=True, brief=True, sort=True, filter=True),
        links=links("/volumes"),
        description=text(255, create="optional", update=True, null=True, filter=True),
        display_name=given(Text(255), update=True, null=True),
        display_description=given(Text(255), update=True, null=True),
        size_gib=Field(kind=Whole(1, 2**31 - 1), wire="size", create="optional", null=True, sort=True, filter=True),
        status=text(32, sort=True, filter=True),
        user_id=text(64),
        availability_zone=text(255, create="optional", null=True, sort=True, filter=True),
        created_at=time(sort=True, filter=True),
        updated_at=time(sort=True, filter=True),
        attachments=computed(lambda row, ctx: row["_attachments"]),
        type_name=Field(kind=Text(255), stored=False, show=_type_name, wire="volume_type", create="optional",
        null=True),
        type_id=text(64, wire="volume_type_id", since=v("3.63")),
        snapshot_id=ident(create="optional", null=True),
        source_volid=ident(create="optional", null=True),
        metadata=Field(kind=MapOf(Text(255), Text(255, 1)), create="optional", update=True, null=True, default=dict),
        bootable=flag(default=False, show=lambda row, ctx: str(row["bootable"]).lower(), sort=True,
        filter=_bootable_filter),
        encrypted=computed(lambda row, ctx: False),
        replication_status=computed(lambda row, ctx: None),
        consistencygroup_id=_never(),
        multiattach=flag(create="optional", default=False, null=True),
        migration_status=computed(lambda row, ctx: None, see="admin"),
        project=computed(_only_on_get(lambda row, ctx: row["project_id"]), wire="os-vol-tenant-attr:tenant_id"),
        host=text(
            255, wire="os-vol-host-attr:host", see="admin", filter=True, sort=True,
            show=_only_on_get(lambda row, ctx: shared_storage.place(row)),
        ),
        migstat=computed(_only_on_get(lambda row, ctx: None), wire="os-vol-mig-status-attr:migstat", see="admin"),
        name_id=computed(_only_on_get(lambda row, ctx: None), wire="os-vol-mig-status-attr:name_id", see="admin"),
        image_metadata=json(wire="volume_image_metadata", show=_only_on_get(lambda row, ctx: row["image_metadata"] or
        ABSENT)),
        group_id=_never(since=v("3.13")),
        provider_id=computed(_only_on_get(lambda row, ctx: None), since=v("3.21"), see="admin"),
        service_uuid=computed(lambda row, ctx: None, since=v("3.48")),
        shared_targets=computed(lambda row, ctx: False, since=v("3.48")),
        cluster_name=computed(lambda row, ctx: None, since=v("3.61"), see="admin"),
        encryption_key_id=computed(lambda row, ctx: ABSENT, since=v("3.64")),
        consumes_quota=computed(lambda row, ctx: True, since=v("3.65")),
        readonly=flag(default=False, hidden=True),
        pool=text(64, hidden=True),
        # asked at creation only
        image_ref=given(Text(255), wire="imageRef", null=True),
        backup_id=given(Text(255), null=True),
        hints=given(Json(), wire="OS-SCH-HNT:scheduler_hints", null=True),
        # wanted
        source=json(hidden=True),
        deleting=flag(default=False, hidden=True),
        uploads=json(default=list, hidden=True),
        transferring=flag(default=False, hidden=True),
        attach_phase=text(16, default="", hidden=True),
        forced_status=text(32, hidden=True),
        # seen
        path=text(1024, hidden=True),
        seen_size_gib=whole(hidden=True),
        seen_error=text(65535, hidden=True),
        export=json(hidden=True),
        fault=text(65535, hidden=True),
        transient_since=time(hidden=True),
    ),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
    detail=True,
    quota=Quota("volumes", 10),
    derive=volume_status,
    expand=_expand,
    wakes=lambda row: (topic(row["host"]), "volumes") if row["host"] else ("volumes",),
    filters={"metadata": _metadata_filter, "all_tenants": lambda ctx, values: None, "project_id": lambda ctx, values:
    _project(ctx, values)},
)  # fmt: skip
metadata.declare(VOLUME)


def _project(ctx: Ctx, values: list[str]) -> Condition | None:
    return VOLUME.c.project_id == values[-1] if ctx.who.is_admin else None


def _gigabytes(tx: Tx, project_id: str) -> int:
    from trilith.volume.snapshots import SNAPSHOT

    total = 0
    for noun in (VOLUME, SNAPSHOT):
        column = noun.c.size_gib if noun is VOLUME else noun.c.volume_size_gib
        total += tx.scalar(sa.select(sa.func.coalesce(sa.func.sum(column), 0)).where(noun.c.project_id == project_id))
    return total


VOLUMES.quota("gigabytes", 1000, _gigabytes)
VOLUMES.quota("per_volume_gigabytes", -1, lambda tx, project_id: 0)
VOLUMES.quota("backups", 10, lambda tx, project_id: 0)
VOLUMES.quota("backup_gigabytes", 1000, lambda tx, project_id: 0)
VOLUMES.quota("groups", 10, lambda tx, project_id: 0)


@VOLUME.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    if new.get("backup_id"):
        raise Fault("invalid", "Backups are not offered by this cloud: leave backup_id out.")
    sources = [name for name in ("snapshot_id", "source_volid", "image_ref") if new.get(name)]
    if len(sources) > 1:
        raise Fault("invalid", f"Give one of snapshot_id, source_volid, imageRef, not {' and '.join(sources)}.")
    for name in ("snapshot_id", "source_volid"):
        if new.get(name):
            ctx.find(_snapshots() if name == "snapshot_id" else VOLUME, new[name])
    if new.get("image_ref") and ctx.at >= v("3.46") and (snapshot_id := _boot_snapshot(ctx, new["image_ref"])):
        new |= {"snapshot_id": snapshot_id, "image_ref": None}
    return make_volume(
        ctx.tx,
        lambda: new["id"],
        project_id=new["project_id"],
        user_id=ctx.who.user_id,
        size_gib=new["size_gib"],
        name=new["name"] if new["name"] is not None else new.get("display_name"),
        description=new["description"] if new["description"] is not None else new.get("display_description"),
        image_id=new.get("image_ref"),
        snapshot_id=new["snapshot_id"],
        source_volume_id=new["source_volid"],
        volume_type=new.get("type_name"),
        availability_zone=new["availability_zone"],
        metadata=new["metadata"] or {},
        multiattach=bool(new["multiattach"]),
        is_admin=ctx.who.is_admin,
        counted=True,
    )


def _boot_snapshot(ctx: Ctx, image_id: str) -> str | None:
    """What to make a volume of where an image has no data: it is of a server that booted from a volume."""
    image = usable_image(ctx.tx, ctx.who.project_id, ctx.who.is_admin, image_id)
    text = (image["extra"] or {}).get("block_device_mapping")
    if image["size_bytes"] != 0 or not text:
        return None
    try:
        mapping = decode(text, type=list[dict[str, Any]])
    except DecodeError:
        return None
    roots = (each for each in mapping if each.get("boot_index") == 0 and each.get("source_type") == "snapshot")
    root = next(roots, {}).get("snapshot_id")
    return None if root is None else str(ctx.find(_snapshots(), str(root))["id"])


def _snapshots() -> Noun:
    from trilith.volume.snapshots import SNAPSHOT

    return SNAPSHOT


def make_volume(
    tx: Tx,
    new_id: Callable[[], str],
    *,
    project_id: str,
    user_id: str,
    size_gib: int | None,
    name: str | None = None,
    description: str | None = None,
    image_id: str | None = None,
    snapshot_id: str | None = None,
    source_volume_id: str | None = None,
    volume_type: str | None = None,
    availability_zone: str | None = None,
    metadata: dict[str, str] | None = None,
    multiattach: bool = False,
    host: str | None = None,
    is_admin: bool = False,
    counted: bool = False,
) -> Row:
    """The wanted row of a new volume; its host makes it. `host`: where it shall lie, unless its source says where.
    `counted`: the number of volumes was checked already."""
    source: Row | None = None
    origin: Row | None = None
    bootable, image_metadata = False, None
    if image_id:
        image = usable_image(tx, project_id, is_admin, image_id)
        if image["size_bytes"] == 0:
            raise Fault("invalid", f"Invalid image: {image_id} holds no data to make a volume of.")
        least = max(image["min_disk_gib"] or 0, _gib(max(image["virtual_size_bytes"] or 0, image["size_bytes"] or 0)))
        size_gib = _at_least(size_gib, least, f"image {image_id}")
        source = {"kind": "image", "image_id": image_id, "image_format": image["disk_format"]}
        bootable, image_metadata = True, _image_metadata(image)
    elif snapshot_id:
        snapshot = tx.get(_snapshots(), snapshot_id)
        if snapshot["status"] != "available":
            raise Fault("invalid", f"Invalid snapshot: its status must be available, it is {snapshot['status']}.")
        origin = tx.get(VOLUME, snapshot["volume_id"])
        size_gib = _at_least(size_gib, snapshot["volume_size_gib"], f"snapshot {snapshot_id}", fill=True)
        source = {"kind": "snapshot", "snapshot_id": snapshot_id, "volume_id": origin["id"]}
        bootable, image_metadata = origin["bootable"], origin["image_metadata"]
    elif source_volume_id:
        origin = tx.get(VOLUME, source_volume_id)
        if origin["status"] not in ("available", "in-use"):
            raise Fault("invalid", f"Invalid volume: status must be available or in-use, it is {origin['status']}.")
        size_gib = _at_least(size_gib, origin["size_gib"], f"volume {source_volume_id}", fill=True)
        source = {"kind": "volume", "volume_id": origin["id"]}
        bootable, image_metadata = origin["bootable"], origin["image_metadata"]
    if size_gib is None:
        raise Fault("invalid", "Invalid input received: 'size' is a required property")
    shared = shared_storage.shared_storage(tx)
    pool = origin["pool"] if origin else shared["volumes_pool"] if shared else None
    host = origin["host"] if origin else None if pool else host
    kind = find_type(tx, volume_type, project_id, is_admin)
    more = {} if counted else {"volumes": 1}
    quota.check(tx, VOLUMES, project_id, gigabytes=size_gib, per_volume_gigabytes=size_gib, **more)
    type_quotas.check(tx, project_id, kind["id"], volumes=1, gigabytes=size_gib)
    if pool is None:
        host = host or choose_host(tx, availability_zone)
    elif availability_zone:
        shared_storage.check_zone(tx, availability_zone)
    return tx.insert(
        VOLUME,
        {
            "id": new_id(),
            "project_id": project_id,
            "user_id": user_id,
            "name": name,
            "description": description,
            "size_gib": size_gib,
            "source": source,
            "source_volid": source_volume_id,
            "snapshot_id": snapshot_id,
            "type_id": kind["id"],
            "availability_zone": availability_zone or (_zone(tx, host) if host else "nova"),
            "metadata": metadata or {},
            "multiattach": multiattach or shares(kind),
            "bootable": bootable,
            "image_metadata": image_metadata,
            "host": host,
            "pool": pool,
            "fault": None if host or pool else "No storage host is up in this availability zone.",
        },
    )


def _gib(size_bytes: int) -> int:
    return -(-size_bytes // (1 << 30))


def _at_least(size_gib: int | None, least: int, what: str, fill: bool = False) -> int | None:
    if size_gib is None:
        return least if fill else None
    if size_gib < least:
        raise Fault("invalid", f"Volume size {size_gib}GB cannot be smaller than the {least}GB of {what}.")
    return size_gib


def _image_metadata(image: Row) -> Row:
    found = {key: str(value) for key, value in (image["extra"] or {}).items()}
    found |= {"image_id": image["id"], "image_name": image["name"] or "", "disk_format": image["disk_format"]}
    found |= {"container_format": image["container_format"], "checksum": image["checksum"] or ""}
    found |= {
        "size": str(image["size_bytes"]),
        "min_disk": str(image["min_disk_gib"]),
        "min_ram": str(image["min_ram_mib"]),
    }
    return found


def choose_host(tx: Tx, availability_zone: str | None) -> str | None:
    """The storage host that is up and holds least; None when none is. Raises unavailable just after an outage."""
    hosts = [h for h in heard(tx, "storage") if is_up(h) and not h["storage_disabled"]]
    if availability_zone:
        shared_storage.check_zone(tx, availability_zone)
        hosts = [h for h in hosts if h["availability_zone"] == availability_zone]
    held = sa.select(VOLUME.c.host, sa.func.sum(VOLUME.c.size_gib).label("gib")).group_by(VOLUME.c.host)
    gib = {row["host"]: row["gib"] for row in tx.select(held)}
    return min((h["name"] for h in hosts), key=lambda name: (gib.get(name, 0), name), default=None)


def storage_host(tx: Tx, name: str | None) -> str | None:
    """The host of that name if new volumes can be made there."""
    row = tx.one(HOST, name=name)
    return None if row is None or "storage" not in row["roles"] or row["storage_disabled"] else str(row["name"])


def _zone(tx: Tx, host: str) -> str:
    return str(tx.get(HOST, host)["availability_zone"])


@VOLUME.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    return ctx.tx.update(VOLUME, row, **asked_changes(changes))


def asked_changes(given: Row) -> Row:
    """What an update changes, older names of columns translated; of a snapshot too."""
    changes = dict(given)
    for old, new in (("display_name", "name"), ("display_description", "description")):
        if old in changes:
            changes.setdefault(new, changes.pop(old))
    if not changes:
        raise Fault("invalid", "At least one of name, description and metadata must be given.")
    return changes


@VOLUME.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    cascade = str(ctx.one("cascade", "false")).lower() == "true"
    force = ctx.at >= v("3.23") and str(ctx.one("force", "false")).lower() == "true"
    if force:
        ctx.require("admin", "volume:volumes:force_delete", row)
    drop_volume(ctx.tx, row, cascade=cascade, force=force)


def drop_volume(tx: Tx, row: Row, cascade: bool = False, force: bool = False) -> None:
    """The volume shall go: its host takes the file away, then the row goes."""
    from trilith.volume.attachments import ATTACHMENT

    snapshots = tx.rows(_snapshots(), volume_id=row["id"])
    good = ("available", "error", "error_restoring", "error_extending", "error_managing", "error_deleting")
    if row["deleting"] and not row["fault"]:
        return
    left = not row["attach_phase"] and (force or row["status"] == "detaching")
    if row["status"] not in good and not left:
        states = " or ".join(good)
        message = f"Invalid volume: Volume status must be {states}, it is {row['status']}: detach it or wait first."
        raise Fault("invalid", message)
    if snapshots and not cascade:
        raise Fault("invalid", f"Invalid volume: Volume {row['id']} has {len(snapshots)} snapshots: delete them first.")
    if tx.count(ATTACHMENT, volume_id=row["id"]):
        raise Fault("invalid", f"Invalid volume: Volume {row['id']} is still attached: detach it first.")
    for snapshot in snapshots:
        tx.delete(_snapshots(), snapshot)
    if shared_storage.is_elsewhere(row):
        tx.delete(VOLUME, row)
        return
    tx.update(VOLUME, row, deleting=True, fault=None, forced_status=None)


def disk_document(row: Row, attachment_id: str, host: str | None) -> Row:
    """What the want of a machine on `host` says of the volume. ``path`` or ``nbd`` comes when it can be opened."""
    if row["pool"]:
        return shared_storage.disk_document(row)
    ready, remote = row["path"] is not None and not row["seen_error"], is_remote(row, host)
    return {
        "volume_id": row["id"],
        "path": row["path"] if ready and not remote else None,
        "nbd": nbd_document(row, attachment_id) if ready and remote else None,
        "format": "qcow2",
        # the machine's host can grow a file, but only follow an export
        "size_gib": min(row["size_gib"], row["seen_size_gib"] or 0) if remote else row["size_gib"],
        "serial": row["id"][:20],
        "readonly": row["readonly"],
    }


# the storage host's agent
def wants(tx: Tx, host: str) -> list[Row]:
    return [document for _, document in documents(tx, tx.rows(VOLUME, host=host))]


def documents(tx: Tx, rows: list[Row]) -> list[tuple[Row, Row]]:
    """Volumes with their wants (see `volume_plan`), for who works on all of these."""
    from trilith.volume.attachments import ATTACHMENT

    ids = [row["id"] for row in rows]
    attachments = tx.rows(ATTACHMENT, status=list(ATTACHED), volume_id=ids) if ids else []
    attached = {a["volume_id"]: a["server_id"] for a in attachments}
    exports = export_wants(tx, rows, attachments)
    snapshots: dict[str, list[str]] = {}
    for snapshot in tx.rows(_snapshots(), volume_id=ids) if ids else []:
        if not snapshot["deleting"]:
            snapshots.setdefault(snapshot["volume_id"], []).append(snapshot["id"])
    # a snapshot that a volume is still being made of stays
    for row in rows:
        source = row["source"] or {}
        if row["path"] is None and source.get("kind") == "snapshot" and not row["deleting"]:
            kept = snapshots.setdefault(source["volume_id"], [])
            if source["snapshot_id"] not in kept:
                kept.append(source["snapshot_id"])
    return [
        (row, {
            "id": row["id"],
            "generation": row["generation"],
            "present": not row["deleting"],
            "size_gib": row["size_gib"],
            "format": "qcow2",
            "source": row["source"],
            "snapshots": sorted(snapshots.get(row["id"], [])),
            "uploads": row["uploads"],
            "attached_server": attached.get(row["id"]),
            "export": exports.get(row["id"]),
        })
        for row in rows
    ]  # fmt: skip


def report(tx: Tx, host: str, key: str, generation: int, seen: Row | None, fault: str | None) -> None:
    row = tx.one(VOLUME, id=key, host=host)
    if row is not None:
        note(tx, row, seen, fault)


def note(tx: Tx, row: Row, seen: Row | None, fault: str | None) -> None:
    """What was seen of the volume, or why it cannot be had."""
    from trilith.image.images import IMAGE

    if row["deleting"] and seen is None and fault is None:
        tx.delete(VOLUME, row)
        return
    seen = seen or {"path": None, "size_gib": 0, "snapshots": [], "uploads_done": [], "error": None, "export": None}
    (shared_storage.wake_machines if row["pool"] else _wake_clients)(tx, row, seen)
    uploads = [u for u in row["uploads"] if tx.count(IMAGE, IMAGE.c.id == u["image_id"], IMAGE.c.phase != "active")]
    tx.update(
        VOLUME,
        row,
        touch=False,
        path=seen["path"],
        seen_size_gib=seen["size_gib"],
        seen_error=seen["error"],
        export=seen.get("export"),
        uploads=uploads,
        fault=fault,
    )
    _report_snapshots(tx, row, set(seen["snapshots"]), fault)


def _wake_clients(tx: Tx, row: Row, seen: Row) -> None:
    """Hosts whose machines wait for the export, or for its new size."""
    from trilith.volume.attachments import ATTACHMENT

    if row["export"] == seen.get("export") and (row["export"] is None or row["seen_size_gib"] == seen["size_gib"]):
        return
    for attachment in tx.rows(ATTACHMENT, volume_id=row["id"]):
        if attachment["host"]:
            tx.hint(topic(attachment["host"]))


def _report_snapshots(tx: Tx, row: Row, there: set[str], fault: str | None) -> None:
    noun = _snapshots()
    for snapshot in tx.rows(noun, volume_id=row["id"]):
        if snapshot["deleting"] and snapshot["id"] not in there:
            tx.delete(noun, snapshot)
        elif not snapshot["deleting"] and (snapshot["id"] in there) != snapshot["seen"]:
            tx.update(noun, snapshot, touch=False, seen=snapshot["id"] in there, fault=None)
        elif not snapshot["deleting"] and snapshot["id"] not in there and fault:
            tx.update(noun, snapshot, touch=False, fault=fault)


hosted("volume", wants, report)


def sweep(tx: Tx) -> None:
    """What stayed in between for too long is an error, and says why."""
    late = (datetime.now(UTC) - timedelta(seconds=CREATE_S)).replace(tzinfo=None).isoformat(timespec="microseconds")
    for row in tx.rows(VOLUME, VOLUME.c.transient_since < late, VOLUME.c.fault.is_(None)):
        if row["status"] in ("creating", "downloading", "extending"):
            tx.update(
                VOLUME,
                row,
                fault=f"Still {row['status']} after {CREATE_S:.0f} s: {row['host'] or 'Ceph'} does not get on.",
            )
        elif row["status"] == "uploading":
            tx.update(VOLUME, row, uploads=[])


def check_id(value: str, name: str) -> None:
    try:
        Id().check(value, name, OLDEST)
    except Bad:
        raise Fault("invalid", f"Invalid {name}: {value}") from None
