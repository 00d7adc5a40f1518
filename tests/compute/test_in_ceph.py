"""Servers of a cluster with Ceph: their disks lie where every host reaches them, and go when the server is gone."""

from typing import Any

import pytest

from tests.compute.conftest import IMAGE_ID, VOLUME, Cloud
from trilith.cluster.ceph_controller import CephDisks, Pool
from trilith.compute.flavors import FLAVOR
from trilith.drivers.ceph_fake import FakeCeph
from trilith.kernel.reconcile import converge, gone
from trilith.placement.hosts import HOSTED
from trilith.volume import shared_storage
from trilith.volume.volumes import VOLUME as VOLUME_NOUN
from trilith.volume.volumes import note

Doc = dict[str, Any]
POOLS = ("images", "volumes", "machines")
GIB = 1 << 30


@pytest.fixture
def cloud(cloud: Cloud) -> Cloud:
    cloud.store.run(lambda tx: shared_storage.declare(tx, "44444444-4444-4444-8444-444444444444", POOLS))
    return cloud


def disks(cloud: Cloud, server: str) -> list[Doc]:
    wants = cloud.store.read(lambda tx: HOSTED["server"].wants(tx, "c1"))
    found: list[Doc] = next(doc for doc in wants if doc["id"] == server)["disks"]
    return found


def collect(cloud: Cloud, ceph: FakeCeph) -> None:
    """What a controller does about disks that nobody wants."""
    reconciler = CephDisks(Pool(ceph, "machines"), cloud.store)
    wanted = cloud.store.read(shared_storage.disk_wants).get("machines", set())
    for key in reconciler.known():
        converge(reconciler, key, {"id": key, "generation": 1, "present": True} if key in wanted else gone(key))


def test_a_servers_own_disks_are_in_ceph_until_it_is_gone(cloud: Cloud) -> None:
    def swap(tx: Any) -> None:
        tx.update(FLAVOR, tx.one(FLAVOR, name="f1"), swap_mib=64, ephemeral_gib=1)

    cloud.store.run(swap)
    server = cloud.server()
    root, ephemeral, swapped = disks(cloud, server)
    assert root["rbd"] == {"pool": "machines", "image": f"{server}_root-0", "parent": ["images", IMAGE_ID, "whole"]}
    assert ephemeral["rbd"] == {"pool": "machines", "image": f"{server}_ephemeral0-0"}
    assert swapped["rbd"] == {"pool": "machines", "image": f"{server}_swap0-0"}
    assert all(disk["shared"] for disk in (root, ephemeral, swapped))
    assert cloud.status(server) == "ACTIVE"
    ceph = FakeCeph()
    for disk in (root, ephemeral, swapped):
        ceph.create("machines", disk["rbd"]["image"], GIB)
    collect(cloud, ceph)
    assert len(ceph.images("machines")) == 3
    cloud.do(server, "rebuild", {"imageRef": IMAGE_ID})
    assert disks(cloud, server)[0]["rbd"]["image"] == f"{server}_root-1"
    ceph.create("machines", f"{server}_root-1", GIB)
    collect(cloud, ceph)
    assert set(ceph.images("machines")) == {f"{server}_root-1"}
    ceph.opened["machines", f"{server}_root-1"] = ["10.0.0.1:0/1"]
    assert cloud.delete(f"/servers/{server}").status == 204
    cloud.settle()
    collect(cloud, ceph)
    assert set(ceph.images("machines")) == {f"{server}_root-1"}, "some host has it open"
    ceph.blocklist(["10.0.0.1:0/1"])
    collect(cloud, ceph)
    assert ceph.images("machines") == {}


def test_servers_from_before_ceph_keep_their_files(cloud: Cloud) -> None:
    cloud.store.run(lambda tx: shared_storage.declare(tx, "x", None))
    server = cloud.server()
    assert "rbd" not in disks(cloud, server)[0]
    cloud.store.run(lambda tx: shared_storage.declare(tx, "44444444-4444-4444-8444-444444444444", POOLS))
    cloud.do(server, "rebuild", {"imageRef": IMAGE_ID})
    assert "rbd" not in disks(cloud, server)[0]
    assert cloud.status(server) == "ACTIVE"


def test_a_machine_waits_for_its_volume_and_follows_its_size(cloud: Cloud) -> None:
    server, volume = cloud.server(), cloud.volume()

    def made(size_gib: int) -> None:
        seen: Doc = {"path": f"volumes/{volume}", "size_gib": size_gib, "snapshots": [], "uploads_done": []}
        seen |= {"error": None, "export": None}
        cloud.store.run(lambda tx: note(tx, tx.get(VOLUME_NOUN, volume), seen, None))

    assert cloud.volume_status(volume) == "creating"
    made(1)
    assert cloud.volume_status(volume) == "available"
    answer = cloud.post(f"/servers/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    assert answer.status == 200, answer.content
    cloud.settle()
    assert cloud.volume_status(volume) == "in-use"
    (disk,) = [disk for disk in disks(cloud, server) if disk["kind"] == "volume"]
    assert (disk["rbd"], disk["shared"], disk["size_gib"]) == ({"pool": "volumes", "image": volume}, True, 1)
    extend = {"os-extend": {"new_size": 2}}
    headers = "volume 3.42"
    assert cloud.api.post(f"{VOLUME}/volumes/{volume}/action", extend, at=headers).status == 202
    (disk,) = [disk for disk in disks(cloud, server) if disk["kind"] == "volume"]
    assert disk["size_gib"] == 1, "the controller grows it first"
    made(2)
    (disk,) = [disk for disk in disks(cloud, server) if disk["kind"] == "volume"]
    assert disk["size_gib"] == 2
    assert cloud.delete(f"/servers/{server}/os-volume_attachments/{volume}").status == 202
    cloud.settle()
    assert cloud.volume_status(volume) == "available"
