"""An import is killed before, in the middle of, and after each of its acts: it ends, once, and leaves nothing over."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, client
from tests.image.test_images import V2, make, send
from trilith.cluster.image_store import ImageBytes, kinds
from trilith.cluster.sql_source import SqlSource
from trilith.drivers.image_files import ImageFiles
from trilith.image import image_import
from trilith.kernel.reconcile import Act
from trilith.kernel.store import Tx
from trilith.kernel.testing import Killed

POINTS = ("before the act", "bytes taken in", "file published", "after the act")


@pytest.fixture
def api(tmp_path: Path) -> Client:
    return client(tmp_path, {"image_files": ImageFiles(tmp_path / "images")})


class DyingFiles(ImageFiles):
    """A store of bytes whose process dies at one point."""

    point = ""

    def receive(self, *given: Any, **more: Any) -> Any:
        stored = super().receive(*given, **more)
        if self.point == "bytes taken in":
            raise Killed(self.point)
        return stored

    def publish(self, stored: Any, place: str = "data") -> None:
        super().publish(stored, place)
        if self.point == "file published":  # and no row says so
            raise Killed(self.point)


def rounds(api: Client, reconciler: ImageBytes, image_id: str, point: str = "") -> None:
    """The controller's rounds on one image until nothing is left to do."""
    source = SqlSource(api.app.store, kinds())
    for _ in range(5):
        want = source.wants("image").get(image_id, {"id": image_id, "generation": 0, "present": False})
        acts = reconciler.plan(want, reconciler.observe(image_id))
        if not acts:
            return
        for act in acts:
            if point == "before the act":
                raise Killed(point)
            reconciler.perform(image_id, act)
            if point == "after the act":
                raise Killed(point)
    raise AssertionError(f"no end: {acts}")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(api: Client, tmp_path: Path, point: str) -> None:
    image = make(api)
    url = f"{V2}/{image['id']}"
    assert send(api, image, b"z" * 5000, "stage") == 204
    assert api.post(f"{url}/import", {"method": {"name": "glance-direct"}}).status == 202
    dying = DyingFiles(tmp_path / "images")
    dying.point = point
    with pytest.raises(Killed):
        rounds(api, ImageBytes(api.app.store, dying), image["id"], point)
    if point != "after the act":
        assert api.get(url).json["status"] == "importing"
    next_one = ImageBytes(api.app.store, ImageFiles(tmp_path / "images"))
    rounds(api, next_one, image["id"])
    assert api.get(url).json["status"] == "active"
    assert api.get(f"{url}/file").content == b"z" * 5000
    assert api.delete(url).status == 204
    rounds(api, next_one, image["id"])
    ImageFiles(tmp_path / "images").sweep(min_idle_s=0)
    assert not [path for path in (tmp_path / "images").rglob("*") if path.is_file()]


def test_twice_does_no_harm(api: Client, tmp_path: Path) -> None:
    image = make(api)
    send(api, image, b"z" * 5000, "stage")
    api.post(f"{V2}/{image['id']}/import", {"method": {"name": "glance-direct"}})
    reconciler = ImageBytes(api.app.store, ImageFiles(tmp_path / "images"))
    act = Act("import", {"method": {"name": "glance-direct", "staged": hashlib.sha512(b"z" * 5000).hexdigest()}})
    reconciler.perform(image["id"], act)
    reconciler.perform(image["id"], act)
    assert api.get(f"{V2}/{image['id']}").json["status"] == "active"


def test_a_refused_import_says_why_and_can_be_repeated(api: Client, tmp_path: Path) -> None:
    image = make(api, disk_format="qcow2")
    send(api, image, b"no qcow2", "stage")
    api.post(f"{V2}/{image['id']}/import", {"method": {"name": "glance-direct"}})

    def refuse(tx: Tx) -> None:
        assert image_import.begin(tx, image["id"], "w:1")
        image_import.fail(tx, image["id"], "w:2", "of one who lost it")
        image_import.fail(tx, image["id"], "w:1", "it is no qcow2")

    api.app.store.run(refuse)
    rounds(api, ImageBytes(api.app.store, ImageFiles(tmp_path / "images")), image["id"])
    assert not [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    assert api.get(f"{V2}/{image['id']}").json["status"] == "queued"
    assert api.get(f"{V2}/{image['id']}/tasks").json["tasks"][0]["message"] == "it is no qcow2"
