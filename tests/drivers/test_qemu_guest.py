"""A machine with a real Linux guest, reconciled through its life on this host: plugged, unplugged, shut down."""

import base64
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.build import image
from trilith.agent.machines import Machines
from trilith.drivers import qemu_img
from trilith.drivers.nbd import daemons
from trilith.drivers.qemu import Qemu
from trilith.drivers.volume_files import VolumeFiles
from trilith.kernel.reconcile import converge

Doc = dict[str, Any]

SERVER = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11"
VOLUME = "1b4a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"
REPORT = b"""#!/bin/sh
(while :; do echo "DEVICES" $(ls /sys/block | grep vd) $(ls /sys/class/net) MTU $(cat /sys/class/net/eth0/mtu).
sleep 0.3; done) >/dev/ttyS0 &
"""
WRITE = b"""#!/bin/sh
(n=1; while :; do
if [ -e /sys/block/vdb ]; then
echo $n | dd of=/dev/vdb bs=512 conv=fsync 2>/dev/null && n=$((n+1)) || echo BROKEN
fi
echo "WRITTEN $n SECTORS $(cat /sys/block/vdb/size 2>/dev/null)."
sleep 0.3; done) >/dev/ttyS0 2>/dev/null &
"""


class Taps:
    """Taps in a network namespace, on no network."""

    def __init__(self, netns: str) -> None:
        self.netns = netns

    def plug(self, port_id: str, mac: str, mtu: int) -> str:
        if port_id not in self.plugged():
            subprocess.run(["ip", "-n", self.netns, "tuntap", "add", "dev", f"tap{port_id}", "mode", "tap"], check=True)
            subprocess.run(["ip", "-n", self.netns, "link", "set", f"tap{port_id}", "up"], check=True)
        return f"tap{port_id}"

    def unplug(self, port_id: str) -> None:
        subprocess.run(["ip", "-n", self.netns, "link", "del", f"tap{port_id}"], check=False, stderr=subprocess.DEVNULL)

    def plugged(self) -> set[str]:
        shown = subprocess.run(["ip", "-n", self.netns, "-br", "link"], check=True, capture_output=True, text=True)
        return {line.split()[0].removeprefix("tap") for line in shown.stdout.splitlines() if line.startswith("tap")}


class OneImage:
    def __init__(self, path: Path) -> None:
        self.file = path

    def path(self, image_id: str) -> Path:
        return self.file

    def upload(self, image_id: str, path: Path) -> None:
        raise AssertionError("nothing is uploaded here")


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="tq-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def machines(directory: Path) -> Iterator[Machines]:
    netns = f"t2-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    copy = directory / "image"
    shutil.copyfile(image(), copy)
    driver = Qemu(directory, netns=netns, run_as="65534:65534")
    try:
        yield Machines(driver, Taps(netns), OneImage(copy))
    finally:
        driver.destroy(SERVER)
        driver.close()
        subprocess.run(["ip", "netns", "del", netns], check=True)


def want(**changes: Any) -> Doc:
    root = {
        "device": "vda",
        "boot_index": 0,
        "kind": "image",
        "image_id": "img",
        "image_format": "qcow2",
        "size_gib": 1,
    }
    document: Doc = {"id": SERVER, "generation": 1, "present": True, "name": "web", "power": "running"}
    document |= {"vcpus": 1, "ram_mib": 128, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0}
    document |= {"disks": [root], "nics": [nic("one", 1)], "config_drive": True, "rescue_image_id": None}
    document |= {"snapshots": [], "admin_password": None, "hostname": "web", "metadata": {"uuid": SERVER}}
    document |= {"user_data": base64.b64encode(REPORT).decode(), "network_data": {}, "vendor_data": {}}
    return {**document, **changes}


def nic(port_id: str, number: int) -> Doc:
    return {"port_id": port_id, "mac": f"fa:16:3e:00:00:0{number}", "mtu": 1442, "ready": True}


def reach(machines: Machines, document: Doc, condition: Callable[[Doc], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = converge(machines, SERVER, document)
        assert outcome.fault is None
        if outcome.seen is not None and not outcome.retry and condition(outcome.seen):
            return
        assert time.monotonic() < deadline, outcome
        time.sleep(0.1)


def guest_says(machines: Machines, devices: str) -> Callable[[Doc], bool]:
    return lambda seen: f"DEVICES {devices} MTU 1442." in machines.console_log(SERVER, 3)


def test_a_guest_through_its_life(machines: Machines, directory: Path) -> None:
    reach(machines, want(), guest_says(machines, "vda eth0 lo"), 60.0)
    path = directory / "volume.qcow2"
    qemu_img.create(path, "qcow2", qemu_img.GIB)
    volume = {
        "device": "vdb",
        "kind": "volume",
        "volume_id": VOLUME,
        "path": str(path),
        "format": "qcow2",
        "size_gib": 1,
    }
    more = want(disks=[*want()["disks"], volume], nics=[nic("one", 1), nic("two", 2)])
    reach(machines, more, guest_says(machines, "vda vdb eth0 eth1 lo"))
    reach(machines, want(), guest_says(machines, "vda eth0 lo"))
    assert not qemu_img.in_use(path, "qcow2")  # what is seen detached is closed
    assert machines.known() == {SERVER}
    reach(machines, want(power="suspended"), lambda seen: seen["power"] == "suspended")
    reach(machines, want(), guest_says(machines, "vda eth0 lo"))
    reach(machines, want(power="stopped"), lambda seen: seen["power"] == "stopped" and not seen["process"])
    assert "overdue" not in str(machines.observe(SERVER))
    converge(machines, SERVER, want(present=False))
    assert machines.known() == set()


def written(machines: Machines) -> int:
    """How many times the guest has written to its second disk."""
    found = re.findall(r"WRITTEN (\d+) SECTORS", machines.console_log(SERVER, 5))
    return int(found[-1]) if found else 0


def goes_on(machines: Machines) -> None:
    before, deadline = written(machines), time.monotonic() + 30
    while written(machines) < before + 3:
        assert time.monotonic() < deadline, machines.console_log(SERVER, 20)
        time.sleep(0.1)


def test_a_guest_writes_to_another_host(machines: Machines, directory: Path) -> None:
    """Its volume is plugged by network, served again by a new daemon while it writes, grown, and unplugged."""
    key = secrets.token_hex(32)
    netns = f"t2-{os.getpid()}"
    subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
    volumes = VolumeFiles(directory / "volumes", owner=(65534, 65534), address="127.0.0.2", netns=netns)
    volumes.create_blank(VOLUME, 1)
    quiet = want(user_data=base64.b64encode(WRITE).decode())
    reach(machines, quiet, lambda seen: "WRITTEN" in machines.console_log(SERVER, 3), 60.0)
    try:
        volumes.serve(VOLUME, {"a1": key})
        export = (volumes.seen(VOLUME) or {})["export"]
        place = {"address": export["address"], "port": export["port"], "name": VOLUME, "user": "a1", "key": key}
        volume = {"device": "vdb", "kind": "volume", "volume_id": VOLUME, "path": None, "nbd": place}
        volume |= {"format": "qcow2", "size_gib": 1}
        more = {**quiet, "disks": [*quiet["disks"], volume]}
        reach(machines, more, lambda seen: VOLUME in seen["volumes"])
        goes_on(machines)
        os.kill(daemons(directory / "volumes")[VOLUME], signal.SIGKILL)
        time.sleep(2)
        volumes.serve(VOLUME, {"a1": key})
        goes_on(machines)
        volumes.snapshot(VOLUME, "s1")
        goes_on(machines)
        volumes.extend(VOLUME, 2)
        grown = {**more, "disks": [*quiet["disks"], volume | {"size_gib": 2}]}
        reach(machines, grown, lambda seen: f"SECTORS {2 << 21}." in machines.console_log(SERVER, 3))
        goes_on(machines)
        assert "BROKEN" not in machines.console_log(SERVER)
        reach(machines, quiet, lambda seen: VOLUME not in seen["volumes"])
        volumes.end_export(VOLUME)
        assert not qemu_img.in_use(volumes.path(VOLUME), "qcow2")
    finally:
        volumes.end_export(VOLUME)
