"""A machine with a real Linux guest, reconciled through its life on this host: plugged, unplugged, shut down."""

import base64
import os
import shutil
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
from trilith.drivers.qemu import Qemu
from trilith.kernel.reconcile import converge

Doc = dict[str, Any]

SERVER = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11"
VOLUME = "1b4a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"
REPORT = b"""#!/bin/sh
(while :; do echo "DEVICES" $(ls /sys/block | grep vd) $(ls /sys/class/net) MTU $(cat /sys/class/net/eth0/mtu).
sleep 0.3; done) >/dev/ttyS0 &
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
