"""What glance's listeners are told: ``image.*``. Not how an image is imported: that may be a URL with a password."""

from collections.abc import Iterator
from typing import Any

from trilith.image.images import IMAGE
from trilith.image.versions import IMAGES
from trilith.kernel.declare import Noun
from trilith.kernel.kinds import now
from trilith.kernel.notices import Event, Notices, picked
from trilith.kernel.store import Tx

Row = dict[str, Any]
SHOWN = (
    "id name status created_at min_disk=min_disk_gib min_ram=min_ram_mib protected checksum owner=project_id "
    "disk_format container_format size=size_bytes virtual_size=virtual_size_bytes visibility properties=extra tags"
)


def events(tx: Tx, noun: Noun, old: Row | None, new: Row | None) -> Iterator[Event]:
    if noun is not IMAGE:
        return
    before, after = picked(old or {}, SHOWN), picked(new or {}, SHOWN)
    row = new or old or {}
    image = (after if new else before) | {
        "is_public": row["visibility"] == "public",
        "updated_at": row["updated_at"] or row["created_at"],
        "deleted": new is None,
        "deleted_at": None if new else now(),
    }
    if old is None or new is None:
        yield f"image.{'create' if new else 'delete'}", image
    elif after != before:
        yield "image.update", image
    if new and new["phase"] == "active" and (old is None or old["phase"] != "active"):
        yield "image.upload", image
        yield "image.activate", image


IMAGES.notices = Notices("glance", "image", events)
