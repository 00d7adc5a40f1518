"""Objects made of segments, objects that stand for others, and older versions of objects."""

import hashlib
import json
import time
from typing import Any

import pytest

from tests.client import ADMIN, STRANGER, Answer
from tests.objectstore.front.client import Objects
from trilith.objectstore.expiry import expire
from trilith.objectstore.store import Put


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def put_manifest(objects: Objects, path: str, *segments: Any, **more: Any) -> Answer:
    return objects.put(f"{path}?multipart-manifest=put", json.dumps(segments).encode(), **more)


@pytest.fixture
def segments(objects: Objects) -> Objects:
    objects.put("/c")
    objects.put("/s")
    for name in ("1", "2", "3"):
        objects.put(f"/s/seg{name}", name.encode() * 4)
    return objects


def test_static(segments: Objects) -> None:
    objects = segments
    one, three = {"path": "/s/seg1", "etag": md5(b"1111"), "size_bytes": 4}, {"path": "s/seg3", "range": "1-2"}
    made = put_manifest(objects, "/c/big", one, {"data": "eHl6"}, three, x_object_meta_a="1")
    etag = md5(f"{md5(b'1111')}{md5(b'xyz')}{md5(b'3333')}:1-2;".encode())
    assert (made.status, made.headers["etag"]) == (201, f'"{etag}"')
    found = objects.get("/c/big")
    assert (found.content, found.headers["etag"], found.headers["content-length"]) == (b"1111xyz33", f'"{etag}"', "9")
    assert (found.headers["x-static-large-object"], found.headers["x-object-meta-a"]) == ("True", "1")
    assert objects.get("/c/big", range="bytes=3-7").content == b"1xyz3"
    assert objects.head("/c/big").headers["content-length"] == "9"
    assert objects.get("/c/big", if_none_match=etag).status == 304
    shown = json.loads(objects.get("/c/big?multipart-manifest=get").content)
    assert [each.get("name", each.get("data")) for each in shown] == ["/s/seg1", "eHl6", "/s/seg3"]
    raw = json.loads(objects.get("/c/big?multipart-manifest=get&format=raw").content)
    assert raw[0] == {"path": "/s/seg1", "etag": md5(b"1111"), "size_bytes": 4}
    listed = json.loads(objects.get("/c?format=json").content)[0]
    assert (listed["bytes"], listed["slo_etag"]) == (9, f'"{etag}"')
    # a manifest is a segment like any other; a copy is the bytes, unless the manifest is asked for
    put_manifest(objects, "/c/bigger", {"path": "/c/big"}, {"path": "/s/seg2"})
    assert objects.get("/c/bigger", range="bytes=-5").content == b"32222"
    assert objects("COPY", "/c/big", destination="c/copy").status == 201
    assert "x-static-large-object" not in objects.head("/c/copy").headers
    assert objects("COPY", "/c/big?multipart-manifest=get", destination="c/same").headers["etag"] == f'"{etag}"'
    assert objects.get("/c/same").content == b"1111xyz33"
    objects.post("/c/big", x_object_meta_b="2")
    assert objects.get("/c/big").content == b"1111xyz33"
    objects.put("/s/seg1", b"other")
    assert objects.get("/c/big").status == 409
    assert objects.get("/c/big", who=STRANGER).status == 403
    gone = objects.delete("/c/bigger?multipart-manifest=delete", accept="application/json")
    assert json.loads(gone.content)["Number Deleted"] == 5
    assert (objects.names("/c"), objects.names("/s")) == (["copy", "same"], [])
    assert objects.delete("/c/copy?multipart-manifest=delete").status == 400


def test_static_manifests_that_are_wrong(segments: Objects) -> None:
    for body, sentence in (
        (b"{", b"Manifest must be valid JSON.\n"),
        (b"[" * 100_000, b"Manifest must be valid JSON.\n"),
        (b"{}", b"Manifest must be a list.\n"),
        (b"[1]", b"Index 0: not a JSON object\n"),
        (b"[{}]", b"Index 0: expected keys to include one of 'path' or 'data'\n"),
        (b'[{"path": "/s/1", "colour": 1}]', b'Index 0: extraneous keys "colour"\n'),
        (
            b'[{"path": "/s"}]',
            b"Index 0: path does not refer to an object. Path must be of the form /container/object.\n",
        ),
        (b'[{"path": "/c/big"}]', b"Index 0: manifest must not include itself as a segment\n"),
        (b'[{"path": "/s/seg1", "range": "1-2,3-4"}]', b"Index 0: multiple ranges (only one allowed)\n"),
        (b'[{"path": "/s/seg1", "range": "x"}]', b"Index 0: invalid range\n"),
        (b'[{"path": "/s/seg1", "size_bytes": "x"}]', b"Index 0: invalid size_bytes\n"),
        (b'[{"path": "/s/seg1", "size_bytes": 4, "range": "9-"}]', b"Index 0: unsatisfiable range\n"),
        (b'[{"data": "eA=="}]', b"Inline data segments require at least one object-backed segment.\n"),
        (b'[{"data": "?"}, {"path": "/s/seg1"}]', b"Index 0: data must be valid base64\n"),
    ):  # fmt: skip
        wrong = segments.put("/c/big?multipart-manifest=put", body)
        assert (wrong.status, wrong.content) == (400, sentence)
    for segment, why in (
        ({"path": "/s/no"}, "404 Not Found"),
        ({"path": "/s/seg1", "etag": "x"}, "Etag Mismatch"),
        ({"path": "/s/seg1", "size_bytes": 9}, "Size Mismatch"),
        ({"path": "/s/seg1", "range": "9-"}, "Unsatisfiable Range"),
    ):
        wrong = put_manifest(segments, "/c/big", segment, accept="application/json")
        assert (wrong.status, json.loads(wrong.content)["Errors"]) == (400, [[segment["path"], why]])
    assert put_manifest(segments, "/c/big", *[{"path": "/s/seg1"}] * 1001).status == 413
    assert put_manifest(segments, "/c/big", {"path": "/s/seg1"}, etag="0" * 32).status == 422
    assert segments.names("/c") == []


def test_dynamic(segments: Objects) -> None:
    objects = segments
    assert objects.put("/c/all", b"", x_object_manifest="s/seg").status == 201
    etag = md5("".join(md5(n * 4) for n in (b"1", b"2", b"3")).encode())
    found = objects.get("/c/all")
    assert (found.content, found.headers["etag"]) == (b"111122223333", f'"{etag}"')
    assert (objects.head("/c/all").headers["content-length"], found.headers["x-object-manifest"]) == ("12", "s/seg")
    objects.put("/s/seg4", b"4")
    assert objects.get("/c/all", range="bytes=-2").content == b"34"
    assert objects.get("/c/all?multipart-manifest=get").content == b""
    for wrong in ("s", "s/", "/seg", "s/x?y"):
        assert objects.put("/c/x", b"", x_object_manifest=wrong).status == 400
    objects.put("/c/loop", b"x", x_object_manifest="c/loop")
    assert objects.get("/c/loop").status == 409
    objects.post("/c", x_container_read="p2:u2")
    assert objects.get("/c/all", STRANGER).status == 403  # may read the manifest, not the segments


def test_symlinks(segments: Objects) -> None:
    objects = segments
    assert objects.put("/c/l", b"", x_symlink_target="s/seg1").status == 201
    found = objects.get("/c/l")
    assert (found.content, found.headers["content-location"]) == (b"1111", "/v1/AUTH_p1/s/seg1")
    link = objects.get("/c/l?symlink=get").headers
    assert (link["x-symlink-target"], link["content-length"], link["content-type"]) == (
        "s/seg1",
        "0",
        "application/symlink",
    )
    assert json.loads(objects.get("/c?format=json").content)[0]["symlink_path"] == "/v1/AUTH_p1/s/seg1"
    objects.put("/c/l2", b"", x_symlink_target="c/l")
    objects.put("/c/l3", b"", x_symlink_target="c/l2")
    assert (objects.get("/c/l2").status, objects.get("/c/l3").status) == (200, 409)
    moved = objects.post("/c/l", x_object_meta_a="1")
    assert (moved.status, moved.headers["location"]) == (307, "/v1/AUTH_p1/s/seg1")
    assert objects("COPY", "/c/l?symlink=get", destination="c/again").status == 201
    assert objects.get("/c/again?symlink=get").headers["x-symlink-target"] == "s/seg1"
    assert objects.put("/c/still", b"", x_symlink_target="s/seg1", x_symlink_target_etag=md5(b"1111")).status == 201
    assert objects.put("/c/x", b"", x_symlink_target="s/seg1", x_symlink_target_etag="no").status == 409
    assert objects.put("/c/x", b"", x_symlink_target="s/no", x_symlink_target_etag="no").status == 409
    objects.put("/s/seg1", b"other")
    assert (objects.get("/c/l").content, objects.get("/c/still").status) == (b"other", 409)
    for target, status in (("c/x", 400), ("c", 412), ("", 412), ("/c", 412)):
        assert objects.put("/c/x", b"", x_symlink_target=target).status == status
    assert objects.put("/c/x", b"y", x_symlink_target="s/seg1").status == 400
    objects.post("/c", x_container_read=".r:*")
    assert objects.get("/c/l", None).status == 401  # the target says who may read it
    objects.delete("/c/l")
    assert objects.get("/s/seg1").status == 200


def test_versions_come_back(objects: Objects) -> None:
    objects.put("/old")
    assert objects.put("/c", x_versions_location="old", x_history_location="old").status == 400
    assert objects.put("/c", x_versions_location="old").status == 201
    assert objects.head("/c").headers["x-versions-location"] == "old"
    for data in (b"1", b"2", b"3"):
        assert objects.put("/c/o", data, x_object_meta_n=data.decode()).status == 201
    assert [each[:5] for each in objects.names("/old")] == ["001o/"] * 2
    for data in (b"2", b"1"):
        assert objects.delete("/c/o").status == 204
        found = objects.get("/c/o")
        assert (found.content, found.headers["x-object-meta-n"]) == (data, data.decode())
    assert objects.delete("/c/o").status == 204
    assert (objects.get("/c/o").status, objects.names("/old")) == (404, [])
    objects.post("/c", x_remove_versions_location="x")
    assert "x-versions-location" not in objects.head("/c").headers


def test_history_stays(objects: Objects) -> None:
    objects.put("/old")
    objects.put("/c", x_history_location="old")
    objects.put("/c/o", b"1")
    objects.put("/c/o", b"2")
    assert objects.delete("/c/o").status == 204
    assert objects.get("/c/o").status == 404
    old = objects.names("/old")
    assert [objects.get(f"/old/{name}").content for name in old] == [b"1", b"2", b""]
    assert objects.head(f"/old/{old[2]}").headers["content-type"] == "application/x-deleted;swift_versions_deleted=1"
    objects.post("/c", x_history_location="nowhere")
    objects.put("/c/p", b"1")
    assert objects.put("/c/p", b"2").status == 412
    assert objects.get("/c/p").content == b"1"


def test_every_upload_is_a_version(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/o", b"before", x_object_meta_n="0")
    assert objects.post("/c", x_versions_enabled="true").status == 204
    assert objects.head("/c").headers["x-versions-enabled"] == "True"
    ids = [objects.put("/c/o", data, x_object_meta_n="1").headers["x-object-version-id"] for data in (b"1", b"22")]
    found = objects.get("/c/o")
    assert (found.content, found.headers["x-object-version-id"]) == (b"22", ids[1])
    assert objects.get("/c/o", range="bytes=1-").content == b"2"
    assert objects.get(f"/c/o?version-id={ids[0]}").content == b"1"
    kept = json.loads(objects.get("/c?versions").content)
    assert [(each["bytes"], each["is_latest"]) for each in kept] == [(2, True), (1, False), (6, False)]
    assert objects.get(f"/c/o?version-id={kept[2]['version_id']}").headers["x-object-meta-n"] == "0"
    listed = json.loads(objects.get("/c?format=json").content)
    assert [(each["name"], each["bytes"], each["hash"]) for each in listed] == [("o", 2, md5(b"22"))]
    assert "version" not in listed[0]
    head = objects.head("/c").headers
    assert (head["x-container-object-count"], head["x-container-bytes-used"]) == ("1", "9")
    objects.post("/c/o", x_object_meta_n="2", content_type="a/b")
    assert objects.head("/c/o").headers["x-object-meta-n"] == "2"
    assert objects.names("") == ["c"]
    assert objects.names("?limit=1") == ["c"]
    assert objects.names("?reverse=1&limit=5") == ["c"]
    # deleted, and back again
    mark = objects.delete("/c/o").headers["x-object-version-id"]
    assert (objects.get("/c/o").status, objects.names("/c")) == (404, [])
    assert objects.get(f"/c/o?version-id={mark}").status == 404
    assert [each["is_latest"] for each in json.loads(objects.get("/c?versions").content)] == [True, False, False, False]
    assert objects.delete("/c").status == 409
    assert objects.put(f"/c/o?version-id={ids[0]}", b"").status == 201
    assert objects.get("/c/o").content == b"1"
    assert objects("COPY", f"/c/o?version-id={ids[1]}", destination="c/copy").status == 201
    assert objects.get("/c/copy").content == b"22"
    assert objects.put("/c/o", b"3", if_none_match="*").status == 412
    assert objects.get("/c/o?version-id=nonsense").status == 400
    assert objects.get("/c/o?version-id=null").status == 404
    # the newest of all goes for good, then the rest
    gone = objects.delete(f"/c/o?version-id={ids[0]}").headers
    assert (gone["x-object-version-id"], gone["x-object-current-version-id"]) == (ids[0], "null")
    assert objects.get("/c/o").status == 404
    assert objects.delete(f"/c/o?version-id={ids[0]}").status == 404
    for each in json.loads(objects.get("/c?versions").content):
        assert objects.delete(f"/c/{each['name']}?version-id={each['version_id']}").status == 204
    assert (objects.names("/c"), objects.delete("/c").status) == ([], 204)
    assert objects.head("").headers["x-account-container-count"] == "0"


def test_lists_of_versions_in_pages(objects: Objects) -> None:
    objects.put("/c", x_versions_enabled="true")
    assert objects.post("/c", x_versions_location="old", x_versions_enabled="true").status == 400
    for name in ("a", "b", "b/1", "c"):
        for data in (b"1", b"2"):
            objects.put(f"/c/{name}", data)
    everything = json.loads(objects.get("/c?versions").content)
    assert [each["name"] for each in everything] == ["a", "a", "b", "b", "b/1", "b/1", "c", "c"]
    seen: list[Any] = []
    while page := json.loads(objects.get(f"/c?versions&limit=3{after(seen)}").content):
        seen += page
    assert [(each["name"], each["version_id"]) for each in seen] == [
        (each["name"], each["version_id"]) for each in everything
    ]
    found = json.loads(objects.get("/c?versions&delimiter=/&prefix=b").content)
    assert [each.get("subdir", each.get("name")) for each in found] == ["b", "b", "b/"]
    assert objects.get("/c?versions&version_marker=1").status == 400
    objects.post("/c", x_versions_enabled="false")
    objects.put("/c/a", b"plain")
    assert objects.get("/c/a").content == b"plain"
    assert json.loads(objects.get("/c?versions&prefix=a").content)[0]["version_id"] == "null"


def after(seen: list[Any]) -> str:
    return f"&marker={seen[-1]['name']}&version_marker={seen[-1]['version_id']}" if seen else ""


def test_what_is_due_is_deleted(objects: Objects) -> None:
    objects.put("/c")
    now_s = int(time.time())
    for name, after_s in (("soon", 100), ("late", 1000)):
        objects.put(f"/c/{name}", b"x", x_delete_at=str(now_s + after_s))
    assert expire(objects.store, now_s) == 0
    assert expire(objects.store, now_s + 100) == 1
    assert objects.names("/c") == ["late"]
    put = Put("a/b", delete_at_s=1)
    objects.store.write("AUTH_p1", "c", "over").commit(put)
    assert objects.get("/c/over").status == 404
    assert objects.post("/c/over").status == 404
    assert objects.put("/c/over", b"", if_none_match="*").status == 201
    objects.store.write("AUTH_p1", "c", "over").commit(put)
    assert objects.delete("/c/over").status == 404  # and is gone now
    assert objects.names("/c") == ["late"]
    assert objects.delete("", ADMIN).status == 409
