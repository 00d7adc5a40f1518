"""Images through HTTP, with a real store of bytes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, MEMBER, READER, STRANGER, Client, client
from trilith.cluster.image_store import ImageBytes, kinds
from trilith.cluster.sql_source import SqlSource
from trilith.drivers.image_files import ImageFiles
from trilith.image import image_data, members, schemas, tasks, versions  # noqa: F401 - their routes
from trilith.image.images import sweep
from trilith.kernel.kinds import now
from trilith.kernel.reconcile import converge

V2 = "/image/v2/images"
PATCH = "application/openstack-images-v2.1-json-patch"
OCTETS = "application/octet-stream"


@pytest.fixture
def api(tmp_path: Path) -> Client:
    return client(tmp_path, {"image_files": ImageFiles(tmp_path / "images")})


def make(api: Client, who: str = MEMBER, **more: Any) -> dict[str, Any]:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare"} | more
    answer = api.post(V2, body, who)
    assert answer.status == 201, answer.json
    return dict(answer.json)


def send(api: Client, image: dict[str, Any], data: bytes = b"x" * 1000, where: str = "file", **more: Any) -> int:
    return api.put(f"{V2}/{image['id']}/{where}", raw=data, media=OCTETS, **more).status


def work(api: Client, image_id: str) -> None:
    """One round of the controller on this image."""
    files = api.app.settings["image_files"]
    source = SqlSource(api.app.store, kinds())
    want = source.wants("image").get(image_id, {"id": image_id, "generation": 0, "present": False})
    converge(ImageBytes(api.app.store, files), image_id, want)


def test_life(api: Client, tmp_path: Path) -> None:
    image = make(api, os_version="12", tags=["a", "a"])
    assert image["status"] == "queued"
    assert image["owner"] == "p1"
    assert image["os_version"] == "12"
    assert image["tags"] == ["a"]
    assert image["visibility"] == "shared"
    assert send(api, image) == 204
    assert send(api, image) == 409
    shown = api.get(f"{V2}/{image['id']}").json
    assert shown["status"] == "active"
    assert shown["size"] == 1000
    assert shown["checksum"] == hashlib.md5(b"x" * 1000).hexdigest()
    assert shown["os_hash_value"] == hashlib.sha512(b"x" * 1000).hexdigest()
    got = api.get(f"{V2}/{image['id']}/file")
    assert got.content == b"x" * 1000
    assert api.get(f"{V2}/{image['id']}", STRANGER).status == 404
    assert api.delete(f"{V2}/{image['id']}", READER).status == 403
    assert api.delete(f"{V2}/{image['id']}").status == 204
    work(api, image["id"])
    assert not [p for p in (tmp_path / "images").rglob("*") if p.is_file()]


def test_bad_bytes_leave_the_image_queued_and_nothing_behind(api: Client, tmp_path: Path) -> None:
    image = make(api, disk_format="qcow2")
    assert send(api, image, b"no qcow2 at all" * 100) == 415
    assert send(api, image, b"short", headers={"Content-Length": "9"}) in (400, 204, 415)
    assert api.put(f"{V2}/{image['id']}/file", raw=b"x", media="text/plain").status == 415
    assert api.get(f"{V2}/{image['id']}").json["status"] == "queued"
    assert not [p for p in (tmp_path / "images").rglob("*") if p.is_file()]


def test_patch(api: Client) -> None:
    image = make(api)
    url = f"{V2}/{image['id']}"

    def patch(*steps: Any, who: str = MEMBER, media: str = PATCH) -> int:
        return api.patch(url, list(steps), who, media=media).status

    assert (
        patch({"op": "replace", "path": "/name", "value": "n"}, {"op": "add", "path": "/colour", "value": "red"}) == 200
    )
    shown = api.get(url).json
    assert (shown["name"], shown["colour"]) == ("n", "red")
    assert patch({"op": "remove", "path": "/colour"}) == 200
    assert patch({"op": "remove", "path": "/colour"}) == 409
    assert patch({"op": "replace", "path": "/status", "value": "active"}) == 403
    assert patch({"op": "replace", "path": "/visibility", "value": "public"}) == 403
    assert patch({"op": "replace", "path": "/visibility", "value": "public"}, who=ADMIN) == 200
    assert patch({"op": "replace", "path": "/name", "value": "x"}, who=STRANGER) == 403
    assert patch({"op": "jump", "path": "/name"}) == 400
    assert patch(media="application/json") == 415
    assert api.put(f"{url}/tags/t1", None).status == 204
    assert api.delete(f"{url}/tags/t2", MEMBER).status == 404


def test_lists(api: Client) -> None:
    for name in ("a", "b", "c,d"):
        make(api, name=name, tags=[name], os_hidden=name == "b")
    names = [i["name"] for i in api.get(f"{V2}?sort=name:asc").json["images"]]
    assert names == ["a", "c,d"]
    assert [i["name"] for i in api.get(f"{V2}?os_hidden=true").json["images"]] == ["b"]
    assert [i["name"] for i in api.get(f'{V2}?name=in:a,"c,d"&sort=name:asc').json["images"]] == ["a", "c,d"]
    assert [i["name"] for i in api.get(f"{V2}?tag=a").json["images"]] == ["a"]
    long = make(api, name="long")
    assert send(api, long, b"x" * 30) == 204
    for condition in ("size=30", "virtual_size=30", "size_min=30"):
        assert [i["name"] for i in api.get(f"{V2}?{condition}").json["images"]] == ["long"], condition
    assert api.delete(f"{V2}/{long['id']}").status == 204
    page = api.get(f"{V2}?limit=1&sort=name:asc").json
    assert page["schema"] == "/v2/schemas/images"
    assert [i["name"] for i in api.get("/image" + page["next"]).json["images"]] == ["c,d"]
    assert api.get(V2, STRANGER).json["images"] == []
    for bad in (
        "limit=-1",
        "sort=colour:asc",
        "visibility=odd",
        "member_status=odd",
        "created_at=gte:yesterday",
        "size=big",
    ):
        assert api.get(f"{V2}?{bad}").status == 400, bad


def test_members(api: Client) -> None:
    image = make(api)
    url = f"{V2}/{image['id']}/members"
    assert api.post(url, {"member": "p2"}).status == 200
    assert api.post(url, {"member": "p2"}).status == 409
    assert api.get(f"{V2}/{image['id']}", STRANGER).status == 200
    assert api.get(V2, STRANGER).json["images"] == []
    assert api.put(f"{url}/p2", {"status": "accepted"}, MEMBER).status == 403
    assert api.put(f"{url}/p2", {"status": "accepted"}, STRANGER).json["status"] == "accepted"
    assert len(api.get(V2, STRANGER).json["images"]) == 1
    assert api.delete(f"{url}/p2", STRANGER).status == 403
    assert api.delete(f"{url}/p2").status == 204
    assert api.get(f"{V2}/{image['id']}", STRANGER).status == 404


def test_staged_import(api: Client) -> None:
    image = make(api)
    url = f"{V2}/{image['id']}"
    direct = {"method": {"name": "glance-direct"}}
    assert api.post(f"{url}/import", direct).status == 409
    assert send(api, image, where="stage") == 204
    assert api.get(url).json["status"] == "uploading"
    assert api.post(f"{url}/import", direct).status == 202
    assert api.get(url).json["status"] == "importing"
    work(api, image["id"])
    assert api.get(url).json["status"] == "active"
    assert [t["status"] for t in api.get(f"{url}/tasks").json["tasks"]] == ["success"]


def test_web_download_refuses_private_addresses(api: Client) -> None:
    image = make(api)
    url = f"{V2}/{image['id']}"
    wanted = {"method": {"name": "web-download", "uri": "http://127.0.0.1/x"}}
    assert api.post(f"{url}/import", wanted).status == 202
    work(api, image["id"])
    assert api.get(url).json["status"] == "queued"
    task = api.get(f"{url}/tasks").json["tasks"][0]
    assert task["status"] == "failure"
    assert "127.0.0.1" in task["message"]


def test_a_dead_upload_is_taken_back(api: Client) -> None:
    image = make(api)
    api.app.store.run(lambda tx: image_data.take(tx, tx.get(image_data.IMAGE, image["id"]), "saving", "t"))
    assert send(api, image) == 409

    def expire(tx: Any) -> None:
        row = tx.get(image_data.IMAGE, image["id"])
        tx.update(image_data.IMAGE, row, busy_until=now())

    api.app.store.run(expire)
    api.app.store.run(sweep)
    assert send(api, image) == 204


def test_protected_deactivated_and_documents(api: Client) -> None:
    image = make(api, protected=True)
    assert api.delete(f"{V2}/{image['id']}").status == 403
    send(api, image)
    assert api.post(f"{V2}/{image['id']}/actions/deactivate", None, READER).status == 403
    assert api.post(f"{V2}/{image['id']}/actions/deactivate", None, ADMIN).status == 204
    assert api.get(f"{V2}/{image['id']}/file").status == 403
    assert api.get("/image", None).status == 300
    assert api.get("/image/v2/schemas/image").json["properties"]["disk_format"]["enum"][0] is None
    assert api.get("/image/v2/info/import").status == 200
    plain = api.get(f"{V2}/none", headers={"Accept": "text/plain"})
    assert plain.content.startswith(b"<html>")
