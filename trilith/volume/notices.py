"""What cinder's listeners are told: ``volume.*`` with the volume's attachments, and ``snapshot.*``."""

from collections.abc import Iterator
from typing import Any

from trilith.kernel.declare import Noun
from trilith.kernel.notices import Event, Notices, picked
from trilith.kernel.store import Tx
from trilith.volume.attachments import ATTACHMENT
from trilith.volume.snapshots import SNAPSHOT
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME

Row = dict[str, Any]
USAGE = (
    "tenant_id=project_id user_id host availability_zone volume_id=id volume_type=type_id display_name=name created_at "
    "launched_at=created_at status snapshot_id size=size_gib"
)
OF_ATTACHMENT = (
    "id volume_id instance_uuid=server_id server_id attached_host=host mountpoint=device attach_mode=mode "
    "attach_status=status attach_time=attached_at"
)
OF_SNAPSHOT = (
    "tenant_id=project_id user_id volume_id volume_size=volume_size_gib snapshot_id=id display_name=name created_at "
    "status metadata"
)


def events(tx: Tx, noun: Noun, old: Row | None, new: Row | None) -> Iterator[Event]:
    row, was, now = new or old or {}, old or {}, new or {}
    if noun is VOLUME:
        names = [*_life(was, now, "path"), *(_changes(old, new) if old and new else ())]
        yield from ((f"volume.{name}", _usage(tx, row)) for name in names)
    elif noun is SNAPSHOT:
        usage = picked(row, OF_SNAPSHOT) | {"deleted": "" if new else "True"}
        yield from ((f"snapshot.{name}", usage) for name in _life(was, now, "seen"))
    elif noun is ATTACHMENT and (volume := tx.one(VOLUME, id=row["volume_id"])) is not None:
        names = list(_attaching(was.get("status"), now.get("status")))
        yield from ((f"volume.{name}", _usage(tx, volume, [] if new else [row])) for name in names)


def _life(was: Row, now: Row, sign: str) -> Iterator[str]:
    """`sign`: the column that says that it is made."""
    if not was:
        yield "create.start"
    if now.get(sign) and not was.get(sign):
        yield "create.end"
    if was and not was["deleting"] and (not now or now["deleting"]):
        yield "delete.start"
    if not now:
        yield "delete.end"


def _changes(old: Row, new: Row) -> Iterator[str]:
    if new["size_gib"] > old["size_gib"]:
        yield "resize.start"
    if old["path"] and (old["seen_size_gib"] or 0) < new["size_gib"] <= (new["seen_size_gib"] or 0):
        yield "resize.end"
    if new["project_id"] != old["project_id"]:
        yield "transfer.accept.end"
    if any(new[name] != old[name] for name in ("name", "description", "metadata")):
        yield "update.end"


def _attaching(was: str | None, now: str | None) -> Iterator[str]:
    """Of an attachment's statuses; None where it is not there."""
    if now == "attaching" and was in (None, "reserved"):
        yield "attach.start"
    if now == "attached" and was not in ("attached", "detaching"):
        yield "attach.end"
    if now == "detaching" and was != "detaching":
        yield "detach.start"
    if now is None and was in ("attached", "detaching"):
        yield "detach.end"


def _usage(tx: Tx, row: Row, gone: list[Row] | None = None) -> Row:
    attachments = tx.rows(ATTACHMENT, volume_id=row["id"]) + (gone or [])
    return picked(row, USAGE) | {
        "replication_status": None,
        "metadata": _pairs(row["metadata"]),
        "glance_metadata": _pairs(row["image_metadata"]),
        "volume_attachment": [picked(each, OF_ATTACHMENT) for each in attachments],
    }


def _pairs(found: Row | None) -> list[Row]:
    return [{"key": key, "value": value} for key, value in (found or {}).items()]


VOLUMES.notices = Notices("cinder", "volume", events)
