"""Objects through the real application: in, out, described, copied, gone."""

import hashlib
import re
import time

from tests.client import READER, STRANGER
from tests.objectstore.front.client import CUT, Objects


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_an_object_comes_back_with_what_was_said_about_it(objects: Objects) -> None:
    assert objects.put("/c").status == 201
    assert objects.put("/c").status == 202
    made = objects.put("/c/a b/é", b"hello", content_type="text/x", x_object_meta_colour="r\xf6t", content_encoding="x")
    assert (made.status, made.headers["etag"], made.content) == (201, md5(b"hello"), b"")
    assert re.match("^tx[0-9a-f]{21}-[0-9a-f]{10}$", made.headers["x-trans-id"])
    found = objects.get("/c/a b/é")
    assert (found.status, found.content) == (200, b"hello")
    told = {"content-type": "text/x", "x-object-meta-colour": "r\xf6t", "content-encoding": "x", "content-length": "5"}
    assert told.items() <= found.headers.items()
    head = objects.head("/c/a b/é")
    assert (head.status, head.content, head.headers["content-length"]) == (200, b"", "5")
    assert float(head.headers["x-timestamp"]) <= time.time() + 1
    assert objects.delete("/c").status == 409
    assert objects.delete("/c/a b/é").status == 204
    assert objects.get("/c/a b/é").status == 404
    assert objects.delete("/c/a b/é").status == 404
    assert objects.delete("/c").status == 204
    assert objects.get("/c").status == 404


def test_an_upload_that_is_wrong_leaves_nothing(objects: Objects) -> None:
    objects.put("/c")
    assert objects.put("/c/o", b"hello", etag="0" * 32).status == 422
    assert objects.put("/c/o", [b"he", CUT]).status == 499
    assert objects.put("/c/o", [b"he", CUT, b"llo"]).status == 499
    assert objects.put("/c/o", b"hell", content_length="5").status == 499
    assert objects.put("/c/o", b"hello", content_length="4").status == 499
    assert objects.put("/c/o", b"x", content_length="x").status == 400
    assert objects.put("/c/o", [b"x"], transfer_encoding="gzip").status == 400
    assert objects("PUT", "/c/o", content_length="5368709123").status == 413
    assert objects.put("/c/" + "x" * 1025, b"").status == 400
    assert objects.put("/nowhere/o", b"").status == 404
    assert objects.put("/c/o", b"", x_object_meta_="x").status == 400
    assert objects.put("/c/o", b"", x_object_meta_a="x" * 257).status == 400
    assert objects.put("/c/o", b"", more={f"x-object-meta-{n}": "1" for n in range(91)}).status == 400
    assert objects.names("/c") == []
    assert objects.put("/c/" + "x" * 1024, b"").status == 201


def test_who_may(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/o", b"x")
    assert objects.get("/c/o", READER).status == 200
    assert objects.put("/c/o", b"y", READER).status == 403
    assert objects.get("/c/o", STRANGER).status == 403
    refused = objects.get("/c/o", None)
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Swift realm="AUTH_p1"')
    assert refused.content == (
        b"<html><h1>Unauthorized</h1><p>This server could not verify that you are authorized to access the document"
        b" you requested.</p></html>"
    )


def test_metadata_are_replaced_by_post(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/o", b"x", content_type="a/b", x_object_meta_a="1", x_object_meta_b="2")
    assert objects.post("/c/o", x_object_meta_b="3").status == 202
    head = objects.head("/c/o").headers
    assert ("x-object-meta-a" in head, head["x-object-meta-b"], head["content-type"]) == (False, "3", "a/b")
    assert objects.post("/c/no").status == 404


def test_ranges(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/o", b"0123456789")
    part = objects.get("/c/o", range="bytes=2-4")
    assert (part.status, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert objects.get("/c/o", range="bytes=-3").content == b"789"
    assert objects.get("/c/o", range="bytes=7-").content == b"789"
    assert objects.get("/c/o", range="bytes=5-100").headers["content-length"] == "5"
    beyond = objects.get("/c/o", range="bytes=10-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */10")
    for nonsense in ("bytes=3-2", "bytes=x-", "lines=1-2", "bytes=-", ""):
        assert objects.get("/c/o", range=nonsense).status == 200
    several = objects.get("/c/o", range="bytes=0-1,4-4,20-")
    boundary = several.headers["content-type"].partition("boundary=")[2]
    head = "Content-Type: application/octet-stream\r\nContent-Range: bytes"
    assert several.content.decode() == (
        f"--{boundary}\r\n{head} 0-1/10\r\n\r\n01\r\n--{boundary}\r\n{head} 4-4/10\r\n\r\n4\r\n--{boundary}--"
    )
    assert several.headers["content-length"] == str(len(several.content))
    assert objects.get("/c/o", range="bytes=" + ",".join(["0-5"] * 4)).status == 416


def test_conditions(objects: Objects) -> None:
    objects.put("/c")
    etag = objects.put("/c/o", b"x").headers["etag"]
    changed = objects.head("/c/o").headers["last-modified"]
    assert objects.get("/c/o", if_match=f'"{etag}"').status == 200
    assert objects.get("/c/o", if_match="nothing").status == 412
    known = objects.get("/c/o", if_none_match=etag)
    assert (known.status, known.content, known.headers["etag"]) == (304, b"", etag)
    assert objects.get("/c/o", if_none_match="*").status == 304
    assert objects.get("/c/o", if_modified_since=changed).status == 304
    assert objects.get("/c/o", if_modified_since="Thu, 01 Jan 1970 00:00:00 GMT").status == 200
    assert objects.get("/c/o", if_unmodified_since="Thu, 01 Jan 1970 00:00:00 GMT").status == 412
    assert objects.get("/c/o", if_modified_since="yesterday").status == 200
    assert objects.put("/c/o", b"y", if_none_match="*").status == 412
    assert objects.put("/c/p", b"y", if_none_match="*").status == 201
    assert objects.put("/c/p", b"y", if_none_match=etag).status == 400


def test_copies(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/d")
    objects.put("/c/ü", b"bytes", content_type="a/b", x_object_meta_a="1", x_object_meta_b="2")
    copied = objects("COPY", "/c/ü", destination="d/%C3%BC", x_object_meta_b="3")
    assert (copied.status, copied.headers["x-copied-from"]) == (201, "c/%C3%BC")
    assert copied.headers["x-copied-from-last-modified"]
    found = objects.get("/d/ü")
    assert found.content == b"bytes"
    expected = {"x-object-meta-a": "1", "x-object-meta-b": "3", "content-type": "a/b"}
    assert expected.items() <= found.headers.items()
    fresh = objects.put("/d/fresh", b"", x_copy_from="/c/%C3%BC", x_fresh_metadata="true", x_object_meta_c="4")
    assert fresh.status == 201
    head = objects.head("/d/fresh").headers
    assert {name for name in head if name.startswith("x-object-meta")} == {"x-object-meta-c"}
    assert head["content-type"] == "a/b"
    assert objects.put("/d/x", b"body", x_copy_from="/c/%C3%BC").status == 400
    assert objects.put("/d/x", b"", x_copy_from="/c").status == 412
    assert objects.put("/d/x", b"", x_copy_from="/c/no").status == 404
    assert objects("COPY", "/c/ü").status == 412
    assert objects("COPY", "/c/ü", destination="nowhere/x").status == 404
    assert objects("COPY", "/c/ü", who=STRANGER, destination="d/x").status == 403


def test_what_expires_is_gone(objects: Objects) -> None:
    objects.put("/c")
    soon = str(int(time.time()) + 1000)
    assert objects.put("/c/o", b"x", x_delete_at=soon).status == 201
    assert objects.head("/c/o").headers["x-delete-at"] == soon
    assert objects.post("/c/o", x_delete_after="100").status == 202
    assert int(objects.head("/c/o").headers["x-delete-at"]) < int(soon)
    assert objects.post("/c/o", x_remove_delete_at="1").status == 202
    assert "x-delete-at" not in objects.head("/c/o").headers
    assert objects.put("/c/o", b"x", x_delete_at="1").content == b"X-Delete-At in past"
    assert objects.put("/c/o", b"x", x_delete_at="soon").content == b"Non-integer X-Delete-At"
    assert objects.put("/c/o", b"x", x_delete_after="-1").content == b"X-Delete-After in past"


def test_bad_paths_and_methods(objects: Objects) -> None:
    objects.put("/c")
    for path, status in (("/c/%ff", 412), ("/c/%00", 412), ("/%ff", 412), ("//o", 404), ("/c/o%2Fp", 404)):
        assert objects.get(path, raw=True).status == status, path
    assert objects("GET", "/c", base="/object-store/v2/AUTH_p1").status == 400
    assert objects("GET", "", base="/object-store/v1").status == 404
    wrong = objects("TRACE", "/c/o")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, PUT, POST, DELETE, COPY, OPTIONS")
    assert objects("COPY", "/c", destination="d/e").status == 405
    assert objects.get("/c", more={"x-big": "a" * 8193}).status == 400
