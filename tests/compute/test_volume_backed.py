"""Servers that boot from volumes: images of them, servers made of those images, where their volumes are made."""

import json
from typing import Any

from tests.client import ADMIN, STRANGER
from tests.compute.conftest import IMAGE_ID, VOLUME, Cloud
from trilith.placement.hosts import register
from trilith.volume.volumes import VOLUME as VOLUME_NOUN

Doc = dict[str, Any]
ROOT: Doc = {
    "source_type": "image",
    "destination_type": "volume",
    "uuid": IMAGE_ID,
    "boot_index": 0,
    "volume_size": 2,
    "delete_on_termination": True,
}


def volume_backed(cloud: Cloud, *more: Doc, **fields: Any) -> str:
    return cloud.server(imageRef="", block_device_mapping_v2=[ROOT, *more], **fields)


def image_of(cloud: Cloud, server_id: str) -> Doc:
    answer = cloud.act(server_id, "createImage", {"name": "snap", "metadata": {"k": "v"}}, at="2.45")
    assert answer.status == 202, answer.content
    found: Doc = cloud.api.get(f"/image/v2/images/{answer.json['image_id']}").json
    return found


def test_an_image_of_a_server_that_boots_from_a_volume(cloud: Cloud) -> None:
    key = volume_backed(cloud)
    data = cloud.volume()
    cloud.post(f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": data}})
    cloud.settle()
    image = image_of(cloud, key)
    assert (image["status"], image["size"], image["bdm_v2"], image["k"]) == ("active", 0, "True", "v")
    assert image["root_device_name"] == "/dev/vda"
    assert cloud.show(key)["OS-EXT-STS:task_state"] is None
    root, other = json.loads(image["block_device_mapping"])
    assert (root["source_type"], root["boot_index"], root["volume_size"]) == ("snapshot", 0, 2)
    assert (other["boot_index"], other["delete_on_termination"]) == (None, False)
    snapshot = cloud.api.get(f"{VOLUME}/snapshots/{root['snapshot_id']}").json["snapshot"]
    assert (snapshot["name"], snapshot["status"]) == ("snapshot for snap", "creating")
    cloud.settle()
    snapshots = cloud.api.get(f"{VOLUME}/snapshots").json["snapshots"]
    assert {s["id"] for s in snapshots} == {root["snapshot_id"], other["snapshot_id"]}
    assert cloud.api.get(f"{VOLUME}/snapshots/{root['snapshot_id']}").json["snapshot"]["status"] == "available"
    assert cloud.api.get(f"/image/v2/images/{image['id']}/file").status == 204
    assert cloud.act(key, "createBackup", {"name": "b", "backup_type": "daily", "rotation": 1}).status == 400


def test_a_server_of_such_an_image(cloud: Cloud) -> None:
    origin = volume_backed(cloud)
    image = image_of(cloud, origin)
    assert cloud.try_server(imageRef=image["id"]).status == 400  # its snapshot is not there yet
    cloud.settle()
    key = cloud.server(imageRef=image["id"])
    shown = cloud.show(key)
    assert (shown["status"], shown["image"]) == ("ACTIVE", "")
    (attached,) = shown["os-extended-volumes:volumes_attached"]
    volume = cloud.api.get(f"{VOLUME}/volumes/{attached['id']}").json["volume"]
    (snapshot_id,) = [each["snapshot_id"] for each in json.loads(image["block_device_mapping"])]
    assert (volume["snapshot_id"], volume["size"], volume["status"]) == (snapshot_id, 2, "in-use")
    assert volume["volume_image_metadata"]["image_id"] == IMAGE_ID
    # no bytes: nothing else can be made of it
    body = {"volume": {"size": 2, "imageRef": image["id"]}}
    assert cloud.api.post(f"{VOLUME}/volumes", body).status == 400
    newer = cloud.api.post(f"{VOLUME}/volumes", body, at="volume 3.46")
    assert (newer.status, newer.json["volume"]["snapshot_id"]) == (202, snapshot_id)
    cloud.settle()
    cloud.api.delete(f"{VOLUME}/volumes/{newer.json['volume']['id']}")
    assert cloud.act(cloud.server(), "rebuild", {"imageRef": image["id"]}).status == 400
    # both go, the snapshot in between
    cloud.delete(f"/servers/{key}")
    cloud.settle()
    assert cloud.volume_status(attached["id"]) == "gone"
    assert cloud.api.delete(f"{VOLUME}/snapshots/{snapshot_id}").status == 202
    cloud.settle()
    cloud.delete(f"/servers/{origin}")
    cloud.settle()
    assert cloud.api.get(f"{VOLUME}/volumes").json["volumes"] == []


def test_what_anybody_may_write_into_an_image(cloud: Cloud) -> None:
    volume = cloud.volume()
    root = {"source_type": "volume", "destination_type": "volume", "volume_id": volume, "boot_index": 0}
    for mapping in (
        "nonsense",
        "{}",
        "[1]",
        json.dumps([{"source_type": "spoon"}]),
        json.dumps([root]),  # not bootable, and to the stranger not there
        json.dumps([root | {"boot_index": 1}] * 40),
    ):
        body = {"name": "i", "disk_format": "raw", "container_format": "bare", "block_device_mapping": mapping}
        image_id = cloud.api.post("/image/v2/images", body, STRANGER).json["id"]
        path = f"/image/v2/images/{image_id}/file"
        cloud.api("PUT", path, STRANGER, media="application/octet-stream", raw=b"x" * 512)
        assert cloud.try_server(STRANGER, imageRef=image_id, networks=...).status == 400, mapping


def test_volumes_of_a_server_are_made_on_its_host(cloud: Cloud) -> None:
    """The emptiest storage host is not asked: the server's host opens the volume's file."""

    def second(tx: Any) -> None:
        register(tx, "s2", "22222222-2222-4222-8222-222222222223", ["storage"], "nova")
        register(tx, "c2", "22222222-2222-4222-8222-222222222224", ["compute"], "nova")

    cloud.store.run(second)
    cloud.volume(5)
    cloud.beat("s2")
    cloud.beat("c2")
    key = volume_backed(cloud)
    shown = cloud.show(key, ADMIN)
    (attached,) = shown["os-extended-volumes:volumes_attached"]
    volume = cloud.store.read(lambda tx: tx.get(VOLUME_NOUN, attached["id"]))
    assert (shown["status"], shown["OS-EXT-SRV-ATTR:host"], volume["host"]) == ("ACTIVE", "c1", "c1")


def test_a_root_volume_takes_none_of_the_hosts_disk(cloud: Cloud) -> None:
    from trilith.compute.scheduler import usage

    volume_backed(cloud)
    assert cloud.store.read(lambda tx: usage(tx))["c1"]["disk_gib"] == 0
