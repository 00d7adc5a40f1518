"""Machines of a host, reconciled over the fake driver: every crash, every act twice, nothing left."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trilith.agent.machines import Machines, config_files
from trilith.drivers.qemu_fake import FakeQemu
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import converge
from trilith.kernel.testing import converges

Doc = dict[str, Any]

SERVER = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11"
OTHER = "9b0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"
ROOT = {"device": "vda", "boot_index": 0, "kind": "image", "image_id": "img", "image_format": "qcow2", "size_gib": 1}
VOLUME = {"device": "vdb", "kind": "volume", "volume_id": "vol", "path": "/v/vol", "format": "qcow2", "size_gib": 2}
NIC = {"port_id": "port-1", "mac": "fa:16:3e:00:00:01", "mtu": 1442, "ready": True}
NIC2 = {"port_id": "port-2", "mac": "fa:16:3e:00:00:02", "mtu": 1442, "ready": True}


class TapFiles:
    """A host's network of which only the taps exist: one file each, so that they outlive whoever made them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def plug(self, port_id: str, mac: str, mtu: int) -> str:
        (self.directory / port_id).write_text(mac)
        return f"tap{port_id[:11]}"

    def unplug(self, port_id: str) -> None:
        (self.directory / port_id).unlink(missing_ok=True)

    def plugged(self) -> set[str]:
        return {entry.name for entry in self.directory.iterdir()}


class ImageFolder:
    """Images in a folder; an upload becomes one more."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        (directory / "img").touch()

    def path(self, image_id: str) -> Path:
        if not (self.directory / image_id).exists():
            raise Unavailable(f"image {image_id} is not there")
        return self.directory / image_id

    def upload(self, image_id: str, path: Path) -> None:
        (self.directory / image_id).write_bytes(path.read_bytes())


def want(**changes: Any) -> Doc:
    document: Doc = {"id": SERVER, "generation": 1, "present": True, "name": "web", "power": "running"}
    document |= {"vcpus": 1, "ram_mib": 128, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0}
    document |= {"disks": [ROOT], "nics": [NIC], "config_drive": True, "rescue_image_id": None, "snapshots": []}
    document |= {"admin_password": "s3cret", "hostname": "web", "metadata": {"uuid": SERVER}, "user_data": None}
    return {**document, "network_data": {}, "vendor_data": {}, **changes}


Make = Callable[[], Machines]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda: Machines(FakeQemu(tmp_path), TapFiles(tmp_path / "taps"), ImageFolder(tmp_path / "images"))


def reach(machines: Machines, document: Doc) -> Doc:
    outcome = converge(machines, document["id"], document)
    assert outcome.fault is None
    assert not outcome.retry
    assert outcome.seen is not None
    return outcome.seen


def as_wanted(document: Doc, seen: Doc | None) -> bool:
    return seen is None if not document["present"] else seen is not None and seen["power"] == document["power"]


LIVES: dict[str, list[Doc]] = {
    "made, stopped, started": [want(), want(power="stopped"), want(boot_epoch=2)],
    "devices": [want(), want(disks=[ROOT, VOLUME], nics=[NIC, NIC2]), want(nics=[NIC2])],
    "devices of a stopped one": [want(power="stopped"), want(power="stopped", disks=[ROOT, VOLUME], nics=[NIC2])],
    "suspended and resumed": [want(), want(power="suspended"), want()],
    "paused": [want(power="paused"), want()],
    "resized, rebuilt, rescued": [want(), want(ram_mib=256), want(root_epoch=1), want(rescue_image_id="img"), want()],
    "rebooted": [want(), want(soft_reboot_epoch=1), want(soft_reboot_epoch=1, boot_epoch=2)],
    "snapshot": [want(), want(snapshots=[{"image_id": "snap", "quiesce": False}])],
    "snapshot taken back": [want(snapshots=[{"image_id": "snap", "quiesce": False}]), want(boot_epoch=2)],
    "volume grown": [want(disks=[ROOT, VOLUME]), want(disks=[ROOT, {**VOLUME, "size_gib": 3}])],
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_converges_after_every_crash(tmp_path: Path, make: Make, life: list[Doc]) -> None:
    def leftovers() -> list[Path]:
        return [*(tmp_path / "machines").iterdir(), *(tmp_path / "taps").iterdir()]

    converges(make, life, leftovers, as_wanted, patience_s=1.0)


def test_a_snapshot_is_uploaded_once_and_its_file_dropped(tmp_path: Path, make: Make) -> None:
    seen = reach(make(), want(snapshots=[{"image_id": "snap", "quiesce": False}]))
    assert seen["snapshots_done"] == ["snap"]
    assert (tmp_path / "images" / "snap").read_bytes().startswith(b"QFI\xfb")
    assert not list((tmp_path / "machines" / SERVER / "snapshots").iterdir())


def test_a_machine_starts_when_its_turn_to_boot_has_come(tmp_path: Path) -> None:
    asked: list[str] = []

    def may_boot(server_id: str) -> bool:
        asked.append(server_id)
        return len(asked) > 1

    folders = TapFiles(tmp_path / "taps"), ImageFolder(tmp_path / "images")
    machines = Machines(FakeQemu(tmp_path), *folders, may_boot=may_boot)
    outcome = converge(machines, SERVER, want())
    assert outcome.again_s is not None
    assert outcome.seen is None
    assert not FakeQemu(tmp_path).known(), "nothing is made before"
    assert reach(machines, want())["power"] == "running"
    assert asked == [SERVER, SERVER]


def test_what_nobody_wants_is_known_taps_of_a_lost_directory_too(tmp_path: Path, make: Make) -> None:
    reach(make(), want())
    TapFiles(tmp_path / "taps").plug("stray", "fa:16:3e:00:00:09", 1442)
    machines = make()
    assert machines.known() == {SERVER, "stray"}
    converge(machines, "stray", {"id": "stray", "generation": 0, "present": False})
    assert machines.known() == {SERVER}
    assert TapFiles(tmp_path / "taps").plugged() == {"port-1"}


def test_a_port_that_fell_off_the_switch_is_plugged_again(tmp_path: Path, make: Make) -> None:
    reach(make(), want())
    taps = TapFiles(tmp_path / "taps")
    taps.unplug("port-1")
    assert reach(make(), want())["nics"] == ["port-1"]
    assert taps.plugged() == {"port-1"}


def test_machines_are_stopped_while_the_switch_is_away(tmp_path: Path, make: Make) -> None:
    class Away(TapFiles):
        def plugged(self) -> set[str]:
            raise Unavailable("the switch is away")

    reach(make(), want())
    machines = Machines(FakeQemu(tmp_path), Away(tmp_path / "taps"), ImageFolder(tmp_path / "images"))
    assert machines.known() == {SERVER}
    assert reach(machines, want(power="stopped"))["power"] == "stopped"


def test_a_port_that_has_moved_on_keeps_its_tap(tmp_path: Path, make: Make) -> None:
    machines = make()
    reach(machines, want())
    reach(machines, want(id=OTHER))  # the same port, wanted by another machine by now
    converge(machines, SERVER, want(present=False))
    assert machines.known() == {OTHER}
    assert TapFiles(tmp_path / "taps").plugged() == {"port-1"}


def test_a_killed_machine_comes_back(tmp_path: Path, make: Make) -> None:
    machines = make()
    reach(machines, want())
    FakeQemu(tmp_path).kill(SERVER)
    seen = machines.observe(SERVER)
    assert seen is not None
    assert seen["power"] == "crashed"
    assert reach(make(), want())["power"] == "running"


def test_an_image_that_is_away_is_asked_for_again_later(make: Make) -> None:
    outcome = converge(make(), SERVER, want(disks=[{**ROOT, "image_id": "away"}]))
    assert outcome.retry
    assert outcome.fault is None


def test_config_drive_has_what_guests_look_for() -> None:
    user_data = base64.b64encode(b"#!/bin/sh\n").decode()
    config = {"metadata": {"name": "web"}, "user_data": user_data, "network_data": {"links": []}, "vendor_data": {}}
    files = config_files(SERVER, {**config, "admin_password": "s3cret", "hostname": "web.cloud"})
    metadata = json.loads(files["openstack/latest/meta_data.json"])
    assert metadata == {"name": "web", "uuid": SERVER, "hostname": "web.cloud", "admin_pass": "s3cret"}
    assert files["openstack/latest/user_data"] == b"#!/bin/sh\n"
    assert json.loads(files["openstack/latest/network_data.json"]) == {"links": []}
    assert json.loads(files["ec2/latest/meta-data.json"])["instance-id"] == SERVER
