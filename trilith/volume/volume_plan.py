"""What a host does next for a volume: from nothing, or from any half, to what is wanted.

A want: ``id generation present size_gib format``; ``source`` (None, or ``kind`` image, volume or snapshot and its
ids),
used only to make it; ``snapshots`` (ids that must exist, no others stay); ``uploads`` (``image_id disk_format`` each,
kept in the want until the image is there); ``attached_server``; ``export`` (None, or ``keys``: attachment id to the key
with which that machine, on another host, opens the volume).

A seen: ``size_gib``, ``path`` (None until it is made), ``format``, ``snapshots``, ``uploads_done``, ``unfinished``
(what killed work left), ``export`` (None, or ``address port clients running``), ``error`` (the file is damaged).
"""

from typing import Any

from trilith.kernel.errors import Refused
from trilith.kernel.reconcile import Act

Doc = dict[str, Any]


def plan(want: Doc, seen: Doc | None) -> list[Act]:
    """The next acts for one volume; [] when it is as wanted or a machine has to let go of it first."""
    if not want["present"]:
        return _leave(want, seen)
    if seen is None or seen["path"] is None:
        return [_create(want)]
    export = _export(want, seen)
    if export is not None:
        return [export]  # machines wait for it
    if seen["error"] is not None:
        return []  # damaged: nothing but a delete helps, and that is the user's to ask for
    acts = [
        *(Act("forget_upload", {"image_id": each}) for each in _surplus(seen["uploads_done"], _upload_ids(want))),
        *(Act("delete_snapshot", {"snapshot_id": each}) for each in _surplus(seen["snapshots"], want["snapshots"])),
    ]
    if seen["size_gib"] < want["size_gib"]:
        acts.append(Act("extend", {"size_gib": want["size_gib"]}))
    acts += [Act("snapshot", {"snapshot_id": each}) for each in _surplus(want["snapshots"], seen["snapshots"])]
    acts += [Act("upload", each) for each in want["uploads"] if each["image_id"] not in seen["uploads_done"]]
    if not acts and seen["unfinished"]:
        return [Act("clean")]
    return acts


def _leave(want: Doc, seen: Doc | None) -> list[Act]:
    if seen is None or want.get("attached_server"):
        return []  # the machine lets go first
    if seen["export"] is not None:
        return [Act("end_export")]
    # Generation 0 is no row at all: nobody asked for this data's end, so it is kept within an operator's reach.
    return [Act("delete" if want["generation"] > 0 else "set_aside")]


def _export(want: Doc, seen: Doc) -> Act | None:
    wanted, export = want.get("export"), seen["export"]  # an older API, while it is upgraded, says nothing of it
    if wanted is None:
        return None if export is None else Act("end_export")
    if export is not None and export["running"] and export["clients"] == sorted(wanted["keys"]):
        return None
    return None if seen["error"] else Act("serve", {"keys": wanted["keys"]})


def _create(want: Doc) -> Act:
    size, source = {"size_gib": want["size_gib"]}, want["source"]
    match source and source["kind"]:
        case None:
            return Act("create_blank", size)
        case "image":
            return Act(
                "create_from_image", size | {"image_id": source["image_id"], "image_format": source["image_format"]}
            )
        case "volume":
            return Act("create_from_volume", size | {"source_id": source["volume_id"]})
        case "snapshot":
            return Act(
                "create_from_snapshot", size | {"source_id": source["volume_id"], "snapshot_id": source["snapshot_id"]}
            )
        case kind:
            raise Refused(f"A volume cannot be made from a source of kind {kind}.")


def _upload_ids(want: Doc) -> list[str]:
    return [each["image_id"] for each in want["uploads"]]


def _surplus(some: list[str], others: list[str]) -> list[str]:
    """Those of `some` that are not among `others`, in order."""
    return [each for each in some if each not in others]
