"""Machines whose disks lie in a real Ceph: opened by QEMU itself, with the rights of a compute host and no others."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.drivers.ceph_lab import CephLab, ceph_lab
from tests.drivers.test_qemu import BOOT_SECTOR, NOBODY, SERVER, VOLUME, Bench, Doc, booted, make_bench, seen, until
from tests.drivers.test_qemu import machine as plain_machine
from trilith.drivers import qemu_img
from trilith.drivers.ceph import Access, Ceph, InUse
from trilith.drivers.qemu import Qemu
from trilith.drivers.qemu_img import GIB, MIB
from trilith.kernel.errors import Refused, Unavailable

__all__ = ["ceph_lab"]

RIGHTS = "profile rbd pool=volumes, profile rbd pool=machines, profile rbd-read-only pool=images"
ROOT: Doc = {
    "key": "root", "device": "vda", "boot_index": 0, "kind": "image", "image_id": "img", "image_format": "qcow2",
    "rbd": {"pool": "machines", "image": f"{SERVER}_root-0", "parent": ["images", "img", "whole"]}, "shared": True,
}  # fmt: skip


@dataclass
class Host:
    bench: Bench
    access: Access

    def driver(self) -> Qemu:
        run_as = f"{NOBODY}:{NOBODY}"
        return Qemu(self.bench.directory, run_as=run_as, ceph=Ceph(self.access))


@pytest.fixture(scope="module")
def access(ceph_lab: CephLab) -> Access:
    return ceph_lab.user("host", "profile rbd", RIGHTS)


@pytest.fixture
def host(ceph_lab: CephLab, access: Access) -> Iterator[Host]:
    ceph = ceph_lab.ceph
    for pool in ("machines", "volumes"):
        for name in ceph.images(pool):
            for client in ceph.watchers(pool, name):  # of a machine that was killed
                ceph.blocklist([client])
            ceph.delete(pool, name)
    with make_bench(True) as bench:
        (bench.directory / "boot").write_bytes((BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(MIB, b"\0"))
        ceph.import_raw(bench.directory / "boot", "images", "img", "whole")
        yield Host(bench, access)


def machine(size_gib: int = 1, **changes: object) -> Doc:
    return plain_machine(disks=[ROOT | {"size_gib": size_gib}], **changes)


def volume(size_gib: int = 1) -> Doc:
    disk = {"key": VOLUME, "device": "vdb", "kind": "volume", "volume_id": VOLUME, "path": None, "nbd": None}
    return {**disk, "rbd": {"pool": "volumes", "image": VOLUME}, "format": "raw", "size_gib": size_gib, "shared": True}


def no_image(image_id: str) -> Path:
    raise AssertionError("nothing is downloaded")


def test_a_machine_boots_from_a_clone_of_its_image(host: Host, ceph_lab: CephLab) -> None:
    ceph, driver = ceph_lab.ceph, host.driver()
    driver.define(SERVER, machine(), no_image)
    driver.define(SERVER, machine(), no_image)
    image = ceph.image("machines", f"{SERVER}_root-0")
    assert image is not None
    assert (image.size_bytes, image.parent) == (GIB, "images/img")
    driver.start(SERVER, {}, 1, 0)
    booted(driver)
    assert (seen(driver)["power"], seen(driver)["error"]) == ("running", None)
    key = host.access.key_file.read_text().strip()
    pid = driver._pid(SERVER)
    assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert (host.bench.directory / f"machines/{SERVER}/ceph.key").stat().st_mode & 0o777 == 0o400
    with pytest.raises(InUse):
        ceph.delete("machines", f"{SERVER}_root-0")
    driver.suspend(SERVER)
    driver.resume(SERVER, {})
    assert seen(driver)["power"] == "running"
    driver.destroy(SERVER)
    assert ceph.image("machines", f"{SERVER}_root-0") is not None, "it may run on another host by now"
    driver.close()


def test_a_volume_comes_grows_under_its_machine_and_goes(host: Host, ceph_lab: CephLab) -> None:
    ceph, driver = ceph_lab.ceph, host.driver()
    driver.define(SERVER, machine(), no_image)
    driver.start(SERVER, {}, 1, 0)
    with pytest.raises(Unavailable):
        driver.attach_disk(SERVER, volume(), no_image)  # it is not there yet
    ceph.create("volumes", VOLUME, GIB)
    for _ in range(2):
        driver.attach_disk(SERVER, volume(), no_image)
    assert seen(driver)["volume_sizes_gib"] == {VOLUME: 1}
    assert len(ceph.watchers("volumes", VOLUME)) == 1
    ceph.resize("volumes", VOLUME, 2 * GIB)
    ceph.snapshot("volumes", VOLUME, "s1")
    for _ in range(2):
        driver.resize_volume(SERVER, VOLUME, 2)
    assert seen(driver)["volume_sizes_gib"] == {VOLUME: 2}
    driver.close()
    again = host.driver()
    assert seen(again)["volumes"] == [VOLUME]
    again.kill(SERVER)
    again.detach_disk(SERVER, VOLUME)
    assert seen(again)["volumes"] == []
    until(lambda: not ceph.watchers("volumes", VOLUME), 60)
    again.close()


@pytest.mark.parametrize("runs", [True, False])
def test_a_snapshot_of_a_machine_is_a_file_of_its_own(host: Host, runs: bool) -> None:
    driver = host.driver()
    driver.define(SERVER, machine(), no_image)
    driver.start(SERVER, {}, 1, 0)
    booted(driver)
    if not runs:
        driver.end(SERVER)
    path = driver.snapshot(SERVER, "snap")
    found = qemu_img.require_standalone(path, "qcow2")
    assert found.virtual_size_bytes == GIB
    raw = host.bench.directory / "raw"
    qemu_img.convert(path, "qcow2", raw, "raw")
    with open(raw, "rb") as file:
        assert file.read(len(BOOT_SECTOR)) == BOOT_SECTOR
    driver.close()


def test_a_swap_disk_is_made_in_ceph_and_a_rebuilt_machine_has_another_root(host: Host, ceph_lab: CephLab) -> None:
    driver = host.driver()
    swap: Doc = {"key": "swap0", "device": "vdb", "kind": "blank", "label": "swap0", "size_mib": 64, "size_gib": 0}
    swap |= {"rbd": {"pool": "machines", "image": f"{SERVER}_swap0-0"}, "shared": True}
    disks = [ROOT | {"size_gib": 1}, swap]
    driver.define(SERVER, plain_machine(disks=disks), no_image)
    made = ceph_lab.ceph.image("machines", f"{SERVER}_swap0-0")
    assert made is not None
    assert made.size_bytes == 64 * MIB
    driver.start(SERVER, {}, 1, 0)
    assert seen(driver)["disks"] == ["vda", "vdb"]
    driver.kill(SERVER)
    other = ROOT | {"size_gib": 2, "rbd": ROOT["rbd"] | {"image": f"{SERVER}_root-1"}}
    driver.define(SERVER, plain_machine(disks=[other], root_epoch=1, root_gib=2), no_image)
    assert set(ceph_lab.ceph.images("machines")) == {f"{SERVER}_root-{n}" for n in (0, 1)} | {f"{SERVER}_swap0-0"}
    driver.close()


def test_an_image_that_is_not_in_ceph_yet_is_waited_for_and_one_too_large_refused(host: Host) -> None:
    driver = host.driver()
    absent = ROOT | {"size_gib": 1, "rbd": ROOT["rbd"] | {"parent": ["images", "none", "whole"]}}
    with pytest.raises(Unavailable, match="not in Ceph yet"):
        driver.define(SERVER, plain_machine(disks=[absent]), no_image)
    with pytest.raises(Unavailable, match="knows no Ceph"):
        Qemu(host.bench.directory).define(SERVER, machine(), no_image)
    driver.close()


def test_a_machine_whose_host_is_gone_starts_elsewhere_at_once_when_its_client_is_cut_off(
    host: Host, ceph_lab: CephLab
) -> None:
    """The takeover's fence: no 30 s of waiting for the lock of a client that is gone, and no write of it comes late."""
    first = host.driver()
    first.define(SERVER, machine(), no_image)
    first.start(SERVER, {}, 1, 0)
    booted(first)
    (watcher,) = ceph_lab.ceph.watchers("machines", f"{SERVER}_root-0")
    first.pause(SERVER)  # as a host that hangs
    ceph_lab.ceph.blocklist([watcher])
    with make_bench(True) as elsewhere:
        second = Qemu(elsewhere.directory, run_as=f"{NOBODY}:{NOBODY}", ceph=Ceph(host.access))
        second.define(SERVER, machine(), no_image)
        second.start(SERVER, {}, 1, 0)
        booted(second)
        watchers = ceph_lab.ceph.watchers("machines", f"{SERVER}_root-0")
        assert watchers
        assert watcher not in watchers
        second.destroy(SERVER)
        second.close()
    first.close()


def test_a_root_disk_grows_and_never_shrinks(host: Host, ceph_lab: CephLab) -> None:
    driver = host.driver()
    driver.define(SERVER, machine(1), no_image)
    driver.define(SERVER, machine(2), no_image)
    image = ceph_lab.ceph.image("machines", f"{SERVER}_root-0")
    assert image is not None
    assert image.size_bytes == 2 * GIB
    driver.define(SERVER, machine(1), no_image)  # back to a smaller flavor: the disk stays
    ceph_lab.ceph.resize("images", "img", 3 * GIB)
    ceph_lab.ceph.snapshot("images", "img", "large")
    parent = ROOT["rbd"] | {"parent": ["images", "img", "large"], "image": f"{SERVER}_root-9"}
    with pytest.raises(Refused, match="needs a disk of 3 GiB"):
        driver.define(SERVER, plain_machine(disks=[ROOT | {"size_gib": 2, "rbd": parent}]), no_image)
    driver.close()
