"""Containers and accounts: metadata, lists in every form, lists of who may."""

import json
from xml.etree import ElementTree

from tests.client import ADMIN, MEMBER, READER, STRANGER, token
from tests.objectstore.front.client import Objects

NAMES = ("a", "b/1", "b/2", "b/c/3", "d", "é", "x&<y>")


def filled(objects: Objects) -> None:
    objects.put("/c")
    for name in NAMES:
        objects.put(f"/c/{name}", b"12345")


def test_lists_by_every_word(objects: Objects) -> None:
    filled(objects)
    names = objects.names
    assert names("/c") == ["a", "b/1", "b/2", "b/c/3", "d", "x&<y>", "é"]
    assert names("/c?delimiter=/") == ["a", "b/", "d", "x&<y>", "é"]
    assert names("/c?delimiter=/&prefix=b/") == ["b/1", "b/2", "b/c/"]
    assert names("/c?limit=2&marker=a") == ["b/1", "b/2"]
    assert names("/c?end_marker=b/2") == ["a", "b/1"]
    assert names("/c?reverse=true&limit=2") == ["é", "x&<y>"]
    assert names("/c?reverse=on&marker=d&end_marker=a") == ["b/c/3", "b/2", "b/1"]
    assert names("/c?limit=0") == []
    assert names("/c?limit=many") == names("/c")
    assert names("/c?path=") == ["a", "d", "x&<y>", "é"]
    assert names("/c?path=b") == ["b/1", "b/2"]
    objects.put("/c/b/c/", b"")  # stands for the folder
    assert names("/c?path=b/") == ["b/1", "b/2", "b/c/"]
    assert objects.get("/c?limit=10001").status == 412
    assert objects.get("/c?prefix=%ff").status == 400


def test_lists_in_every_form(objects: Objects) -> None:
    filled(objects)
    plain = objects.get("/c?delimiter=/")
    assert (plain.status, plain.headers["content-type"], plain.headers["vary"]) == (
        200,
        "text/plain; charset=utf-8",
        "Accept",
    )
    assert plain.content.decode() == "a\nb/\nd\nx&<y>\né\n"
    entry = json.loads(objects.get("/c?format=json&limit=1").content)[0]
    assert entry.pop("last_modified")[10] == "T"
    assert entry == {
        "name": "a", "bytes": 5, "hash": "827ccb0eea8a706c4c34a16891f84e7b", "content_type": "application/octet-stream",
    }  # fmt: skip
    xml = objects.get("/c?delimiter=/", accept="application/xml")
    assert xml.content.startswith(
        b'<?xml version="1.0" encoding="UTF-8"?>\n<container name="c"><object><name>a</name><hash>'
    )
    root = ElementTree.fromstring(xml.content)
    assert [(each.tag, each.findtext("name")) for each in root][1:4] == [
        ("subdir", "b/"),
        ("object", "d"),
        ("object", "x&<y>"),
    ]
    assert objects.get("/c", accept="image/png").status == 406
    assert (
        objects.get("/c", accept="application/json;q=0.5, text/xml;q=0.9").headers["content-type"]
        == "text/xml; charset=utf-8"
    )
    objects.put("/empty")
    for path in ("/empty", "/empty?prefix=x"):
        assert (objects.get(path).status, objects.get(path).content) == (204, b"")
    assert objects.get("/empty?format=json").content == b"[]"
    head = objects.head("/c")
    assert (head.status, head.headers["x-container-object-count"], head.headers["x-container-bytes-used"]) == (
        204,
        "7",
        "35",
    )


def test_the_account(objects: Objects) -> None:
    empty = objects.get("")
    assert (empty.status, empty.headers["x-account-container-count"], empty.content) == (204, "0", b"")
    filled(objects)
    objects.put("/b")
    assert objects.names("") == ["b", "c"]
    assert objects.names("?prefix=c") == ["c"]
    head = objects.head("").headers
    assert [head[f"x-account-{n}"] for n in ("container-count", "object-count", "bytes-used")] == ["2", "7", "35"]
    assert head["x-account-storage-policy-default-object-count"] == "7"
    root = ElementTree.fromstring(objects.get("?format=xml").content)
    assert (root.tag, root.get("name"), root[1].findtext("name"), root[1].findtext("count")) == (
        "account",
        "AUTH_p1",
        "c",
        "7",
    )
    assert objects.post("", x_account_meta_colour="red", x_account_meta_size="1").status == 204
    assert objects.post("", x_account_meta_size="").status == 204
    assert objects.post("", x_remove_account_meta_colour="x").status == 204
    assert not [name for name in objects.head("").headers if name.startswith("x-account-meta")]
    assert objects.delete("").status == 403
    assert objects.delete("", ADMIN).status == 409
    assert objects.put("").status == 403


def test_metadata_of_a_container_are_merged(objects: Objects) -> None:
    assert objects.put("/c", x_container_meta_a="1").status == 201
    assert objects.post("/c", x_container_meta_b="2").status == 204
    assert objects.put("/c", x_container_meta_c="3", x_remove_container_meta_a="x").status == 202
    found = {name: value for name, value in objects.head("/c").headers.items() if "-meta-" in name}
    assert found == {"x-container-meta-b": "2", "x-container-meta-c": "3"}
    assert objects.post("/c", x_container_meta_d="\xff").status == 400
    many = {f"x-container-meta-{number}": "1" for number in range(89)}
    assert objects.post("/c", more=many).content == b"Too many metadata items; max 90"
    assert objects.post("/no").status == 404
    assert objects.put("/" + "x" * 257).status == 400
    assert objects.put("/c2", x_storage_policy="gold").status == 400


def test_who_may_by_lists(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/o", b"x")
    anna = token(
        "member", "p2", "anna", token={"project_name": "there", "user_name": "Anna"}, project_domain_id="default"
    )
    for acl, who, status in (
        ("", anna, 403),
        (".r:*", None, 200),
        (".r:*,.r:-.thief.com", None, 200),
        ("p2:anna", anna, 200),
        ("p2:*", anna, 200),
        ("*:anna", anna, 200),
        ("*:*", anna, 200),
        ("there:Anna", anna, 200),
        ("p3:anna", anna, 403),
        ("anna", anna, 403),
    ):
        assert objects.post("/c", x_container_read=acl).status == 204
        assert objects.get("/c/o", who).status == status, acl
    assert objects.put("/c/o", b"y", anna).status == 403
    objects.post("/c", x_container_read=".r:.good.org,.rlistings", x_container_write="p2:anna")
    assert objects.put("/c/o", b"y", anna).status == 201
    assert objects.delete("/c/o", anna).status == 204
    assert objects.post("/c", who=anna).status == 403
    assert objects.get("/c", None, referer="http://www.good.org/x").status == 204
    assert objects.get("/c", None, referer="http://bad.org").status == 401
    assert objects.get("/c", None, referer="http://[").status == 401
    assert objects.post("/c", x_container_read=".x:y").status == 400
    assert objects.post("/c", x_container_write=".r:*").status == 400
    objects.post("/c", x_container_read=" .ref:*example.com , ,bob ")
    assert objects.head("/c").headers["x-container-read"] == ".r:example.com,bob"
    assert "x-container-read" not in objects.head("/c", READER).headers
    objects.post("/c", x_remove_container_read="x")
    assert "x-container-read" not in objects.head("/c").headers


def test_names_count_in_the_default_domain_only(objects: Objects) -> None:
    objects.put("/c", x_container_read="there:Anna")
    objects.put("/c/o", b"x")
    names = {"project_name": "there", "user_name": "Anna"}
    for more, status in (({}, 403), ({"project_domain_id": "default"}, 200), ({"project_domain_id": "other"}, 403)):
        assert objects.get("/c/o", token("member", "p2", "anna", token=names, **more)).status == status
    other = token("member", "x9", "u9")
    objects.put("/c", who=other, base="/object-store/v1/AUTH_x9", x_container_read="there:Anna")
    anna = token("member", "p2", "anna", token=names, project_domain_id="default")
    assert objects.get("/c", anna, base="/object-store/v1/AUTH_x9").status == 403


def test_quotas(objects: Objects) -> None:
    objects.put("/c", x_container_meta_quota_bytes="10", x_container_meta_quota_count="2")
    assert objects.put("/c", x_container_meta_quota_bytes="many").status == 400
    assert objects.put("/c/1", b"x" * 11).status == 413
    assert objects.put("/c/1", [b"x" * 6, b"x" * 6]).status == 413
    assert objects.put("/c/1", b"x" * 5).status == 201
    assert objects.put("/c/2", b"x" * 6).status == 413
    assert objects.put("/c/2", b"x").status == 201
    assert objects.put("/c/3", b"").status == 413
    objects.put("/d")
    for name in (
        "x-account-meta-quota-bytes",
        "x-account-quota-bytes",
        "x-account-quota-count",
        "x-remove-account-quota-count",
    ):
        assert objects.post("", more={name: "7"}).status == 403
    assert objects.post("", who=ADMIN, x_account_quota_bytes="x").status == 400
    assert objects.post("", who=ADMIN, x_account_meta_quota_bytes="7").status == 204
    assert objects.head("").headers["x-account-quota-bytes"] == "7"
    assert objects.put("/d/1", b"xx").status == 413
    assert objects("COPY", "/c/1", destination="d/1").status == 413
    assert objects.post("", who=ADMIN, x_account_quota_bytes="", x_account_quota_count="3").status == 204
    assert [objects.put(f"/d/{number}", b"xx").status for number in (1, 2)] == [201, 413]


def test_cors(objects: Objects) -> None:
    objects.put("/c", x_container_meta_access_control_allow_origin="http://a.org http://b.org",
                x_container_meta_access_control_max_age="9", x_container_read=".r:*")  # fmt: skip
    objects.put("/c/o", b"x", x_object_meta_colour="red")
    asked = {
        "origin": "http://b.org",
        "access-control-request-method": "PUT",
        "access-control-request-headers": "x-a, x-b",
    }
    may = objects("OPTIONS", "/c/o", who=None, more=asked)
    assert (may.status, may.headers["access-control-allow-origin"], may.headers["access-control-max-age"]) == (
        200,
        "http://b.org",
        "9",
    )
    assert "PUT" in may.headers["access-control-allow-methods"].split(", ")
    assert may.headers["access-control-allow-headers"] == "x-a, x-b"
    assert objects("OPTIONS", "/c/o", who=None, more={**asked, "origin": "http://evil.org"}).status == 401
    assert objects("OPTIONS", "/c/o", who=None).headers["allow"].startswith("GET, HEAD, PUT")
    found = objects.get("/c/o", None, origin="http://a.org").headers
    assert found["access-control-allow-origin"] == "http://a.org"
    assert {"x-object-meta-colour", "etag"} <= set(found["access-control-expose-headers"].split(", "))
    assert "access-control-allow-origin" not in objects.get("/c/o", None, origin="http://evil.org").headers
    refused = objects.get("/c", None, origin="http://a.org")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "http://a.org")


def test_what_is_no_accounts(objects: Objects) -> None:
    for base in ("", "/object-store"):
        assert objects.get("/healthcheck", None, base=base).content == b"OK"
        assert json.loads(objects.get("/info", None, base=base).content)["swift"]["max_file_size"] == 5368709122
    assert objects.post("/info", base="").status == 405
    assert objects.get("/c", STRANGER).status == 403
    assert objects.get("/c", MEMBER).status == 404
