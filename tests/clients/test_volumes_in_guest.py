"""Volumes, snapshots and images with guests as witnesses: the bytes that one wrote, another reads."""

import pytest

from tests.clients.cloud import Cloud, until
from tests.clients.stage import COMPUTE, IMAGE, VOLUME, Doc, Machine, Stage, nothing_is_left

MARK = "the bytes that were written here"
GIB = 1 << 30


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    return Stage(cloud)


@pytest.fixture(scope="module")
def pair(stage: Stage) -> tuple[Machine, Machine]:
    pair = stage.machine("first"), stage.machine("second")
    for machine in pair:
        machine.ready().give_address()
    for machine in pair:
        machine.booted()
    return pair


@pytest.fixture(scope="module")
def first(pair: tuple[Machine, Machine]) -> Machine:
    return pair[0]


@pytest.fixture(scope="module")
def second(pair: tuple[Machine, Machine]) -> Machine:
    return pair[1]


@pytest.fixture(scope="module")
def volume(stage: Stage) -> Doc:
    return stage.volume(name="data")


def test_data_moves_with_the_volume(stage: Stage, first: Machine, second: Machine, volume: Doc) -> None:
    device = first.attach(volume)
    shown = stage.get(f"{VOLUME}/volumes/{volume['id']}")["attachments"]
    assert [(each["server_id"], each["device"]) for each in shown] == [(first.id, device)]
    first.write(device, MARK)
    first.detach(volume)
    until(lambda: "vdb" not in first.run("ls /sys/block"), 10, "the disk gone from the guest")
    assert second.read(second.attach(volume), len(MARK)) == MARK


def test_grows_under_a_running_machine(stage: Stage, second: Machine, volume: Doc) -> None:
    boot_id, device = second.booted(), second.device(volume)
    stage.call("POST", f"{VOLUME}/volumes/{volume['id']}/action", {"os-extend": {"new_size": 2}})
    until(lambda: int(second.run(f"blockdev --getsize64 {device}")) == 2 * GIB, 20, "the guest sees the new size")
    assert stage.volume_is(volume["id"], "in-use")["size"] == 2
    assert second.booted() == boot_id
    second.run(f"printf end | dd of={device} bs=1 seek={2 * GIB - 3} 2>/dev/null && sync")


@pytest.fixture(scope="module")
def of_snapshot(stage: Stage, second: Machine, volume: Doc) -> Doc:
    """A volume made of a snapshot that was taken while a machine had the original."""
    asked = {"volume_id": volume["id"], "force": True, "name": "kept"}
    snapshot = stage.make(f"{VOLUME}/snapshots", snapshot=asked)
    path = f"{VOLUME}/snapshots/{snapshot['id']}"
    until(lambda: stage.get(path)["status"] == "available", 30, "the snapshot")
    second.write(second.device(volume), "something else was written later")
    found = stage.volume(size_gib=2, snapshot_id=snapshot["id"])
    stage.gone(path)
    return found


def test_snapshot_of_an_attached_volume(first: Machine, second: Machine, volume: Doc, of_snapshot: Doc) -> None:
    device = first.attach(of_snapshot)
    assert first.read(device, len(MARK)) == MARK
    assert first.run(f"tail -c 3 {device}") == "end"
    assert second.read(second.device(volume), len(MARK)).startswith("something else")


def test_clone_of_a_volume(stage: Stage, first: Machine, of_snapshot: Doc) -> None:
    first.detach(of_snapshot)
    clone = stage.volume(size_gib=2, source_volid=of_snapshot["id"])
    assert first.read(first.attach(clone), len(MARK)) == MARK


def test_survives_a_reboot_and_a_stop(first: Machine, second: Machine, volume: Doc) -> None:
    """A machine keeps its volumes; so does one that is rebuilt."""
    second.write(second.device(volume), MARK)
    second.act("rebuild", {"imageRef": second.stage.image["id"]})
    second.booted()
    assert second.read(second.device(volume), len(MARK)) == MARK


def test_boot_volume_goes_with_its_server(stage: Stage) -> None:
    disk = {"source_type": "image", "destination_type": "volume", "uuid": stage.image["id"], "volume_size": 1}
    device = disk | {"boot_index": 0, "delete_on_termination": True}
    machine = stage.machine("short", imageRef=None, block_device_mapping_v2=[device]).ready()
    (attached,) = stage.get(f"{machine.path}/os-volume_attachments")
    machine.delete()
    until(lambda: attached["volumeId"] not in [v["id"] for v in stage.get(f"{VOLUME}/volumes")], 30, "volume deleted")


@pytest.fixture(scope="module")
def booted_volume(stage: Stage) -> Doc:
    """A volume that a machine was booted from, and wrote to; the machine is gone."""
    root = stage.volume(name="root", imageRef=stage.image["id"])
    assert root["bootable"] == "true"
    device = {"source_type": "volume", "destination_type": "volume", "uuid": root["id"], "boot_index": 0}
    machine = stage.machine("rooted", imageRef=None, block_device_mapping_v2=[device]).ready()
    assert machine.row()["image"] == ""
    machine.give_address()
    machine.booted()
    machine.run(f"echo '{MARK}' >/root/mark; sync")
    machine.delete()
    return stage.volume_is(root["id"], "available")


def test_volume_becomes_an_image(stage: Stage, booted_volume: Doc) -> None:
    asked = {"image_name": "of-volume", "disk_format": "qcow2", "container_format": "bare"}
    answer = stage.make(f"{VOLUME}/volumes/{booted_volume['id']}/action", **{"os-volume_upload_image": asked})
    until(lambda: image(stage, answer["image_id"])["status"] == "active", 60, "the image")
    assert stage.volume_is(booted_volume["id"], "available")
    assert mark_in(stage, answer["image_id"]) == MARK


def test_server_becomes_an_image(stage: Stage, first: Machine) -> None:
    first.run(f"echo '{MARK}' >/root/mark; sync")
    answer = stage.call("POST", f"{first.path}/action", {"createImage": {"name": "of-server"}})
    until(lambda: image(stage, answer["image_id"])["status"] == "active", 60, "the image")
    first.ready()
    assert image(stage, answer["image_id"])["instance_uuid"] == first.id
    first.run("rm /root/mark")
    assert mark_in(stage, answer["image_id"]) == MARK


def image(stage: Stage, image_id: str) -> Doc:
    return dict(stage.call("GET", f"{IMAGE}/images/{image_id}"))


def mark_in(stage: Stage, image_id: str) -> str:
    """What a machine that boots from the image finds in the file."""
    machine = stage.machine("copy", imageRef=image_id).ready()
    machine.give_address()
    machine.booted()
    found = machine.run("cat /root/mark")
    machine.delete()
    return found


def test_nothing_is_left(cloud: Cloud, stage: Stage, pair: tuple[Machine, Machine]) -> None:
    """Volumes that machines still have are freed with the machines, and deleted like all others."""
    stage.clear()
    nothing_is_left(cloud)
    assert stage.get(f"{COMPUTE}/servers") == []
