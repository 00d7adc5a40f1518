"""Shelved servers: their disks become images, their host forgets them, and any host makes them again."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, STRANGER
from tests.compute.conftest import IMAGE_ID, Cloud
from tests.compute.test_moves import claims, host_of, machines, make, other, row, running, settle
from trilith.image.images import IMAGE

Doc = dict[str, Any]


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    cloud.add_host(tmp_path, "c2", ["compute"])
    return cloud


def images(cloud: Cloud) -> list[str]:
    return sorted(image["name"] for image in cloud.api.get("/image/v2/images").json["images"])


def test_shelve_and_unshelve(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    assert cloud.act(key, "unshelve").status == 409
    assert cloud.act(key, "shelve", who=STRANGER).status == 404
    assert cloud.act(key, "shelve").status == 202
    assert cloud.show(key)["OS-EXT-STS:task_state"] == "shelving_image_uploading"
    settle(cloud)
    assert cloud.status(key) == "SHELVED_OFFLOADED"
    assert (host_of(cloud, key), images(cloud)) == ("None", ["guest", "s1-shelved"])
    assert (machines(cloud, source), claims(cloud)) == (set(), {"c1": 0, "c2": 0})
    for verb in ("shelve", "shelveOffload", "os-start", "reboot", "pause"):
        body = {"type": "HARD"} if verb == "reboot" else None
        assert cloud.act(key, verb, body, ADMIN).status == 409
    assert cloud.act(key, "unshelve", {"availability_zone": "nova", "host": target}, at="2.91").status == 403
    assert cloud.act(key, "unshelve", {"host": "nowhere"}, ADMIN, at="2.91").status == 400
    assert cloud.act(key, "unshelve", {"availability_zone": "none"}, at="2.77").status == 400
    assert cloud.act(key, "unshelve", {"host": target}, ADMIN, at="2.91").status == 202
    assert cloud.show(key)["OS-EXT-STS:task_state"] == "spawning"
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", target, [target])
    assert (images(cloud), claims(cloud)) == (["guest"], {source: 0, target: 512})
    assert cloud.show(key)["image"]["id"] == IMAGE_ID
    cloud.act(key, "migrate", who=ADMIN)
    settle(cloud)
    assert cloud.status(key) == "VERIFY_RESIZE"


def test_volumes_stay_the_servers_own(cloud: Cloud) -> None:
    key, _, _ = make(cloud)
    kept, later = cloud.volume(), cloud.volume()
    cloud.post(f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": kept}})
    settle(cloud)
    cloud.act(key, "shelve")
    settle(cloud)
    assert (cloud.status(key), cloud.volume_status(kept)) == ("SHELVED_OFFLOADED", "reserved")
    body = {"volumeAttachment": {"volumeId": later}}
    assert cloud.post(f"/servers/{key}/os-volume_attachments", body).status == 409  # before 2.20
    assert cloud.post(f"/servers/{key}/os-volume_attachments", body, at="2.20").status == 200
    assert cloud.volume_status(later) == "in-use"
    (told,) = cloud.api.get(f"/volume/v3/volumes/{later}").json["volume"]["attachments"]
    assert (told["server_id"], told["device"]) == (key, "/dev/vdc")
    assert cloud.delete(f"/servers/{key}/os-volume_attachments/{later}", at="2.20").status == 202
    assert cloud.volume_status(later) == "available"
    assert cloud.post(f"/servers/{key}/os-volume_attachments", body, at="2.20").status == 200
    cloud.act(key, "unshelve")
    assert (cloud.volume_status(kept), cloud.volume_status(later)) == ("attaching", "attaching")
    settle(cloud, 6)
    assert (cloud.status(key), cloud.volume_status(kept), cloud.volume_status(later)) == ("ACTIVE", "in-use", "in-use")
    host = cloud.reconcilers if host_of(cloud, key) == "c1" else cloud.agents["c2"]
    assert set(host[1]._driver.seen(key)["volumes"]) == {kept, later}  # type: ignore[attr-defined]


def test_a_shelved_server_is_deleted_with_its_image(cloud: Cloud) -> None:
    key, _, _ = make(cloud)
    cloud.act(key, "shelve")
    settle(cloud)
    assert cloud.delete(f"/servers/{key}").status == 204
    assert (cloud.get(f"/servers/{key}").status, images(cloud)) == (404, ["guest"])


@pytest.mark.parametrize("moment", range(4))
def test_deleted_on_the_way(cloud: Cloud, moment: int) -> None:
    key, source, _ = make(cloud)
    cloud.act(key, "shelve")
    cloud.settle(moment, source)
    cloud.delete(f"/servers/{key}")
    settle(cloud)
    assert (cloud.get(f"/servers/{key}").status, images(cloud), machines(cloud, source)) == (404, ["guest"], set())


def test_without_its_image_nothing_is_given_up(cloud: Cloud) -> None:
    key, source, _ = make(cloud)
    cloud.act(key, "shelve")
    image_id = row(cloud, key)["shelve"]["image_id"]
    cloud.store.run(lambda tx: tx.delete(IMAGE, tx.get(IMAGE, image_id)))
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert other(source) not in running(cloud)
