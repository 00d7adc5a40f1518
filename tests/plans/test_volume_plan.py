"""The whole life of a volume as a table: what is wanted, what is seen, what comes next."""

from typing import Any

import pytest

from trilith.kernel.errors import Refused
from trilith.kernel.reconcile import Act
from trilith.volume.volume_plan import plan

Doc = dict[str, Any]

IMAGE = {"kind": "image", "image_id": "img", "image_format": "qcow2"}
VOLUME = {"kind": "volume", "volume_id": "other"}
SNAPSHOT = {"kind": "snapshot", "volume_id": "other", "snapshot_id": "snap"}
UPLOAD = {"image_id": "up", "disk_format": "raw"}


def want(**changes: Any) -> Doc:
    document: Doc = {"id": "v", "generation": 1, "present": True, "size_gib": 2, "format": "qcow2", "source": None}
    return {**document, "snapshots": [], "uploads": [], "attached_server": None, "export": None, **changes}


def seen(**changes: Any) -> Doc:
    document: Doc = {"size_gib": 2, "path": "/v/disk.qcow2", "format": "qcow2", "snapshots": [], "uploads_done": []}
    return {**document, "unfinished": [], "export": None, "error": None, **changes}


KEYS: Doc = {"keys": {"a": "0" * 64}}
EXPORT: Doc = {"address": "10.0.0.1", "port": 20000, "clients": ["a"], "running": True}
NOT_MADE = seen(size_gib=0, path=None, unfinished=["disk.qcow2.part"])
GONE = want(generation=2, present=False)
UNKNOWN = {"id": "v", "generation": 0, "present": False}

TABLE: list[tuple[str, Doc, Doc | None, list[Act]]] = [
    # made
    ("blank", want(), None, [Act("create_blank", {"size_gib": 2})]),
    (
        "from an image",
        want(source=IMAGE),
        None,
        [Act("create_from_image", {"size_gib": 2, "image_id": "img", "image_format": "qcow2"})],
    ),
    ("from a volume", want(source=VOLUME), None, [Act("create_from_volume", {"size_gib": 2, "source_id": "other"})]),
    (
        "from a snapshot",
        want(source=SNAPSHOT),
        None,
        [Act("create_from_snapshot", {"size_gib": 2, "source_id": "other", "snapshot_id": "snap"})],
    ),
    ("half made", want(), NOT_MADE, [Act("create_blank", {"size_gib": 2})]),
    ("made before all else", want(snapshots=["s"]), None, [Act("create_blank", {"size_gib": 2})]),
    ("made", want(), seen(), []),
    ("made of a source that is gone since", want(source=VOLUME), seen(), []),
    # grown
    ("to grow", want(size_gib=3), seen(), [Act("extend", {"size_gib": 3})]),
    ("to grow while attached", want(size_gib=3, attached_server="s"), seen(), [Act("extend", {"size_gib": 3})]),
    ("grown", want(size_gib=3), seen(size_gib=3), []),
    ("never cut", want(size_gib=1), seen(), []),
    # snapshots
    ("to snapshot", want(snapshots=["a"]), seen(), [Act("snapshot", {"snapshot_id": "a"})]),
    ("one more", want(snapshots=["a", "b"]), seen(snapshots=["a"]), [Act("snapshot", {"snapshot_id": "b"})]),
    ("one less", want(snapshots=["b"]), seen(snapshots=["a", "b"]), [Act("delete_snapshot", {"snapshot_id": "a"})]),
    (
        "room is made first",
        want(snapshots=["b"]),
        seen(snapshots=["a"]),
        [Act("delete_snapshot", {"snapshot_id": "a"}), Act("snapshot", {"snapshot_id": "b"})],
    ),
    ("snapshots as wanted", want(snapshots=["a", "b"]), seen(snapshots=["b", "a"]), []),
    # uploads
    ("to upload", want(uploads=[UPLOAD]), seen(), [Act("upload", UPLOAD)]),
    ("uploaded", want(uploads=[UPLOAD]), seen(uploads_done=["up"]), []),
    ("upload forgotten", want(), seen(uploads_done=["up"]), [Act("forget_upload", {"image_id": "up"})]),
    # served to other hosts
    ("to serve", want(export=KEYS), seen(), [Act("serve", KEYS)]),
    ("served", want(export=KEYS), seen(export=EXPORT), []),
    ("made before it is served", want(export=KEYS), None, [Act("create_blank", {"size_gib": 2})]),
    ("daemon died", want(export=KEYS), seen(export=EXPORT | {"running": False}), [Act("serve", KEYS)]),
    ("somebody else's", want(export=KEYS), seen(export=EXPORT | {"clients": ["b"]}), [Act("serve", KEYS)]),
    ("served before all else", want(export=KEYS, size_gib=3), seen(), [Act("serve", KEYS)]),
    ("served to nobody any more", want(), seen(export=EXPORT), [Act("end_export")]),
    ("damaged and served no more", want(), seen(export=EXPORT, error="no disk"), [Act("end_export")]),
    ("to grow while served", want(export=KEYS, size_gib=3), seen(export=EXPORT), [Act("extend", {"size_gib": 3})]),
    ("to go while served", GONE, seen(export=EXPORT), [Act("end_export")]),
    ("wanted by nobody and served", UNKNOWN, seen(export=EXPORT), [Act("end_export")]),
    # left by the killed
    ("to clean", want(), seen(unfinished=["s.part"]), [Act("clean")]),
    ("work before cleaning", want(uploads=[UPLOAD]), seen(unfinished=["s.part"]), [Act("upload", UPLOAD)]),
    # damaged
    ("damaged", want(size_gib=3, snapshots=["a"]), seen(size_gib=0, error="no disk"), []),
    ("damaged and to go", GONE, seen(size_gib=0, error="no disk"), [Act("delete")]),
    # gone
    ("to go", GONE, seen(), [Act("delete")]),
    ("to go with all it has", GONE, seen(snapshots=["a"], uploads_done=["up"]), [Act("delete")]),
    ("to go half made", GONE, NOT_MADE, [Act("delete")]),
    ("still attached", {**GONE, "attached_server": "s"}, seen(), []),
    ("gone", GONE, None, []),
    ("wanted by nobody", UNKNOWN, seen(), [Act("set_aside")]),
    ("wanted by nobody and gone", UNKNOWN, None, []),
]


@pytest.mark.parametrize(("wanted", "found", "acts"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_plan(wanted: Doc, found: Doc | None, acts: list[Act]) -> None:
    assert plan(wanted, found) == acts


def test_a_source_of_no_known_kind_is_refused() -> None:
    with pytest.raises(Refused, match="backup"):
        plan(want(source={"kind": "backup"}), None)
