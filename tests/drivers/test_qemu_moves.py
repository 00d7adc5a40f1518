"""Machines that go to another host: one suite for the real driver and its fake. Both hosts are directories of one."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.test_qemu import SERVER, Bench, booted, machine, make_bench, seen, started, until
from trilith.drivers.ceph import Access
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.qemu import Qemu
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

MOVE, SECRET = "7c0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d33", "5a" * 32


@pytest.fixture(params=["fake", "real"])
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Bench]]:
    real = request.param == "real"
    with ExitStack() as stack:
        yield stack.enter_context(make_bench(real)), stack.enter_context(make_bench(real))


@pytest.fixture
def drivers(hosts: tuple[Bench, Bench]) -> Iterator[tuple[Qemu, Qemu]]:
    found = [host.driver() for host in hosts]
    yield found[0], found[1]
    for driver in found:
        for server_id in driver.known():
            driver.end_export(server_id)
            driver.kill(server_id)
        driver.close()


def out(driver: Qemu) -> Doc:
    return seen(driver)["outgoing"] or {"status": "none", "mirrors": {}}


def sent(hosts: tuple[Bench, Bench], drivers: tuple[Qemu, Qemu]) -> None:
    """A running machine, of which all but the last step has gone to the other host."""
    source, target = drivers
    booted(started(hosts[0], source))
    epochs = {"boot_epoch": 1, "soft_reboot_epoch": 0}
    for _ in range(2):  # each may be asked for once more
        target.make_receiver(SERVER, machine(), MOVE, layout=seen(source)["layout"], local=["root"], **epochs)
        target.receive(SERVER, {}, MOVE, SECRET, ["root"])
    place = seen(target)["incoming"]
    assert (place["move"], place["arrived"], seen(target)["power"]) == (MOVE, False, "incoming")
    with pytest.raises(Unavailable, match="has not come"):
        target.cont(SERVER)
    for _ in range(2):
        source.mirror(SERVER, MOVE, SECRET, place, ["root"])
    until(lambda: out(source)["mirrors"] == {"root": True}, 60.0)
    source.send(SERVER, MOVE, place)
    until(lambda: out(source)["status"] == "pre-switchover", 60.0)
    assert seen(source)["power"] == "paused"
    assert not seen(target)["incoming"]["arrived"]


def obeys(driver: Qemu) -> None:
    """Its guest runs: it hears the power button."""
    assert seen(driver)["power"] == "running"
    driver.powerdown(SERVER)
    until(lambda: seen(driver)["power"] == "stopped")


def test_what_has_come_stands_still_until_it_is_told(hosts: tuple[Bench, Bench], drivers: tuple[Qemu, Qemu]) -> None:
    source, target = drivers
    sent(hosts, drivers)
    source.switch(SERVER, MOVE)
    until(lambda: out(source)["status"] == "completed")
    assert seen(source)["power"] == "moved"
    assert (seen(target)["power"], seen(target)["incoming"]["arrived"]) == ("incoming", True)
    source.destroy(SERVER)
    target.cont(SERVER)
    target.settle(SERVER)
    assert (seen(target)["incoming"], seen(target)["boot_epoch"]) == (None, 1)
    obeys(target)


def test_one_that_is_wanted_paused_stays_so(hosts: tuple[Bench, Bench], drivers: tuple[Qemu, Qemu]) -> None:
    source, target = drivers
    sent(hosts, drivers)
    source.switch(SERVER, MOVE)
    until(lambda: out(source)["status"] == "completed")
    target.settle(SERVER)
    assert seen(target)["power"] == "paused"
    target.cont(SERVER)
    obeys(target)


def test_it_runs_on_where_it_was(hosts: tuple[Bench, Bench], drivers: tuple[Qemu, Qemu]) -> None:
    """The move is undone before the last step."""
    source, target = drivers
    sent(hosts, drivers)
    source.stop_sending(SERVER)
    target.kill(SERVER)
    target.destroy(SERVER)
    assert seen(source)["outgoing"] is None
    if seen(source)["power"] == "paused":
        source.cont(SERVER)
    obeys(source)


def test_disks_of_a_stopped_machine(hosts: tuple[Bench, Bench], drivers: tuple[Qemu, Qemu]) -> None:
    source, target = drivers
    started(hosts[0], source)
    with_disk = {"move_id": MOVE, "secret": SECRET}
    source.end(SERVER)
    for _ in range(2):
        source.export(SERVER, **with_disk, keys=["root"])
    place = seen(source)["export"]
    assert (place["move"], place["running"], set(place["disks"])) == (MOVE, True, {"root"})
    with pytest.raises(Unavailable):
        target.fetch(SERVER, **with_disk, place={**place, "disks": {}, "world": "/none"}, root_epoch=0, disk="other")
    for _ in range(2):
        target.fetch(SERVER, **with_disk, place=place, root_epoch=0, disk="root")
    assert seen(target)["fetched"] == {"move": MOVE, "keys": ["root"]}
    source.end_export(SERVER)
    assert seen(source)["export"] is None
    target.define(SERVER, machine(), hosts[1].image)
    target.start(SERVER, {}, 2, 0)
    booted(target)
    target.settle(SERVER)
    assert seen(target)["fetched"] is None


def test_disks_in_ceph_are_there_for_who_receives() -> None:
    """They are open on the other host: nothing is made, nor grown."""
    ceph = FakeCeph(Access(("127.0.0.1",), "fake", Path("/dev/null")))
    disk = {
        "key": "root",
        "device": "vda",
        "boot_index": 0,
        "kind": "image",
        "image_id": "img",
        "image_format": "qcow2",
    }
    disk |= {"rbd": {"pool": "machines", "image": "m_root-0", "parent": ["images", "img", "whole"]}, "shared": True}
    layout = {"accel": "tcg", "checksum_offload": False, "disks": {"root": {"port": 0, "size_bytes": 1}}, "nics": {}}
    with make_bench(True) as host:
        driver = Qemu(host.directory, ceph=ceph)
        there = machine(disks=[disk | {"size_gib": 1}])
        driver.make_receiver(SERVER, there, MOVE, layout, [], boot_epoch=1, soft_reboot_epoch=0)
        assert ceph.images("machines") == {}
        assert seen(driver)["disk_keys"] == ["root"]
        driver.close()
