"""Real machines with a Linux guest that move between two hosts of this machine: real QEMU, real TLS, the API's rows."""

import base64
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.build import image
from tests.client import ADMIN
from tests.compute.conftest import Cloud
from trilith.agent.machines import Machines
from trilith.agent.volumes import Volumes
from trilith.drivers import disk_export
from trilith.drivers.qemu import Qemu
from trilith.drivers.volume_files import VolumeFiles
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]

HOSTS = {"c1": "127.0.0.2", "c2": "127.0.0.3"}
LIVE = {"host": None, "block_migration": "auto"}
# counts in memory, and writes each number to its disk before it says it
TICK = b"""#!/bin/sh
(n=0; v=none; boot=$(cat /proc/sys/kernel/random/boot_id | cut -c1-8); while :; do
n=$((n+1)); echo $n | dd of=/dev/vda bs=512 seek=2000000 conv=fsync,notrunc 2>/dev/null
[ -e /sys/block/vdb ] && v=$(echo $n | dd of=/dev/vdb bs=512 conv=fsync 2>/dev/null && echo $n || echo BROKEN)
echo "TICK $boot $n DISK $(dd if=/dev/vda bs=512 skip=2000000 count=1 iflag=direct 2>/dev/null | head -n1). VOLUME $v."
sleep 0.2; done) >/dev/ttyS0 2>/dev/null &
"""


class Taps:
    """Taps of one host in the network namespace of all, on no switch."""

    def __init__(self, netns: str, host: str) -> None:
        self.netns, self.host = netns, host
        self.names: dict[str, str] = {}

    def plug(self, port_id: str, mac: str, mtu: int) -> str:
        name = f"{self.host}-{port_id[:8]}"
        if port_id not in self.names:
            subprocess.run(["ip", "-n", self.netns, "tuntap", "add", "dev", name, "mode", "tap"], check=True)
            subprocess.run(["ip", "-n", self.netns, "link", "set", name, "up"], check=True)
            self.names[port_id] = name
        return name

    def unplug(self, port_id: str) -> None:
        if port_id in self.names:
            subprocess.run(["ip", "-n", self.netns, "link", "del", self.names.pop(port_id)], check=True)

    def plugged(self) -> set[str]:
        return set(self.names)


class RealHosts:
    """The two hosts, stepped by hand; each step asserts that the machine runs on one of them at most."""

    def __init__(self, cloud: Cloud, directory: Path, netns: str) -> None:
        self.cloud, self.directory, self.netns = cloud, directory, netns
        self.taps = {host: Taps(netns, host) for host in HOSTS}
        self.drivers: dict[str, Qemu] = {}
        for host in HOSTS:
            self.restart_agent(host)

    def restart_agent(self, host: str) -> None:
        """A new agent over what the last one left."""
        if host in self.drivers:
            self.drivers[host].close()
        home = self.directory / host
        home.mkdir(mode=0o711, exist_ok=True)
        driver = Qemu(home, netns=self.netns, run_as="65534:65534", address=HOSTS[host])
        volumes = VolumeFiles(home / "volumes", driver, (65534, 65534), HOSTS[host], self.netns)
        self.drivers[host] = driver
        machines = Machines(driver, self.taps[host], self.cloud.images)
        self.cloud.agents[host] = [Volumes(volumes, self.cloud.images), machines]

    def until(self, done: Callable[[], bool], timeout_s: float = 900.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, [self.seen(host) for host in HOSTS]
            for host in HOSTS:
                self.cloud.beat(host)
                self.cloud.settle(1, host)
                assert len(self.running()) <= 1

    def seen(self, host: str) -> list[Doc]:
        driver = self.drivers[host]
        return [driver.seen(key) or {} for key in driver.known()]

    def running(self) -> list[str]:
        """Hosts where QEMU says that a guest runs at this moment."""
        found = []
        for host, driver in self.drivers.items():
            for key in driver.known():
                with contextlib.suppress(Unavailable):  # it is just ending
                    if driver._pid(key) is not None and driver._status(key) == "running":
                        found.append(host)
        return found

    def ticks(self, host: str, key: str) -> list[tuple[str, int, int]]:
        """What the guest said on that host: which boot it was, how far it had counted, and what its disk said."""
        found = re.findall(r"TICK (\w+) (\d+) DISK (\d+)\.", self.drivers[host].console_log(key))
        return [(boot, int(n), int(disk)) for boot, n, disk in found]


@pytest.fixture
def hosts(cloud: Cloud) -> Iterator[RealHosts]:
    directory = Path(tempfile.mkdtemp(prefix="t-mv", dir="/var/tmp"))
    directory.chmod(0o711)
    netns = f"mv{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
    shutil.copyfile(image(), directory / "image")
    cloud.images.file = directory / "image"
    cloud.add_host(directory, "c2", ["compute"])
    found = RealHosts(cloud, directory, netns)
    try:
        yield found
    finally:
        for host, driver in found.drivers.items():
            for key in driver.known():
                driver.destroy(key)
            driver.close()
            assert disk_export.daemons(directory / host / "machines") == set()
            volumes = VolumeFiles(directory / host / "volumes", address=HOSTS[host], netns=netns)
            for volume in volumes.exported():
                volumes.end_export(volume)
        subprocess.run(["ip", "netns", "del", netns], check=True)
        shutil.rmtree(directory)


def act(hosts: RealHosts, *words: Any, at: str = "") -> Any:
    for host in HOSTS:
        hosts.cloud.beat(host)
    return hosts.cloud.act(*words, at=at)


def make(hosts: RealHosts, **fields: Any) -> tuple[str, str, str]:
    """A server whose guest counts; its host and the other one."""
    cloud = hosts.cloud
    script = base64.b64encode(TICK).decode()
    # one processor: once, a guest's kernel found its lists broken while two were emulated side by side
    key = cloud.server(settled=False, flavorRef="4", user_data=script, config_drive=True, **fields)
    source = str(cloud.show(key, ADMIN)["OS-EXT-SRV-ATTR:host"])
    hosts.until(lambda: len(hosts.ticks(source, key)) > 3)
    return key, source, "c2" if source == "c1" else "c1"


def test_a_running_machine_moves_with_its_disk(hosts: RealHosts) -> None:
    cloud = hosts.cloud
    key, source, target = make(hosts)
    assert act(hosts, key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
    hosts.until(lambda: cloud.status(key) == "ACTIVE" and len(hosts.ticks(target, key)) > 3)
    assert cloud.show(key, ADMIN)["OS-EXT-SRV-ATTR:host"] == target
    (boot, first, disk) = hosts.ticks(target, key)[1]
    assert disk == first
    hosts.until(lambda: source not in [h for h in HOSTS if hosts.drivers[h].known()])
    assert len({boot for boot, _, _ in hosts.ticks(target, key)}) == 1  # it did not boot
    # and back, from where its disk is whole and over no image
    assert act(hosts, key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
    hosts.until(lambda: len(hosts.ticks(source, key)) > 3)
    again, count, disk = hosts.ticks(source, key)[-1]
    assert (again, disk) == (boot, count)
    assert count > first
    hosts.until(lambda: cloud.status(key) == "ACTIVE" and hosts.seen(source)[0]["incoming"] is None)


def test_a_running_machine_keeps_its_volume(hosts: RealHosts) -> None:
    """From a host that has the volume by network to the one that keeps it, and back."""
    cloud = hosts.cloud
    cloud.beat("c1", disabled=True)
    key, source, target = make(hosts)
    assert (source, target) == ("c2", "c1")
    cloud.beat("c1", disabled=False)
    volume = cloud.volume()
    cloud.post(f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    hosts.until(lambda: cloud.volume_status(volume) == "in-use" and writes(hosts, source, key))
    for place in (target, source):
        assert act(hosts, key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
        hosts.until(lambda place=place: cloud.status(key) == "ACTIVE" and writes(hosts, place, key))  # type: ignore[misc]
        assert cloud.volume_status(volume) == "in-use"
        assert "BROKEN" not in hosts.drivers[place].console_log(key)
    assert len({boot for boot, _, _ in hosts.ticks(source, key)}) == 1


def writes(hosts: RealHosts, host: str, key: str) -> bool:
    return len(re.findall(r"VOLUME \d+\.", hosts.drivers[host].console_log(key))) > 3


def test_a_cancelled_move_leaves_all_as_it_was(hosts: RealHosts) -> None:
    cloud = hosts.cloud
    key, source, target = make(hosts)
    for cut in ("cancel", "kill"):
        assert act(hosts, key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
        cloud.settle(1, target)  # it waits
        cloud.settle(1, source)  # and gets what it waits for
        assert (hosts.seen(source)[0]["outgoing"] or {})["move"]
        hosts.restart_agent(source)
        hosts.restart_agent(target)
        if cut == "cancel":
            number = cloud.get("/os-migrations", ADMIN, at="2.23").json["migrations"][0]["id"]
            assert cloud.delete(f"/servers/{key}/migrations/{number}", ADMIN, at="2.65").status == 202
        else:
            hosts.drivers[target].kill(key)
        count = len(hosts.ticks(source, key))
        hosts.until(lambda count=count: cloud.status(key) == "ACTIVE" and len(hosts.ticks(source, key)) > count + 2)  # type: ignore[misc]
        hosts.until(lambda: not hosts.drivers[target].known() and hosts.seen(source)[0]["outgoing"] is None)
    assert len({boot for boot, _, _ in hosts.ticks(source, key)}) == 1
    assert cloud.act(key, "suspend").status == 202  # nothing of the moves stands in the way of saving it
    hosts.until(lambda: cloud.status(key) == "SUSPENDED")


def test_a_stopped_machine_takes_its_disk_along(hosts: RealHosts) -> None:
    cloud = hosts.cloud
    key, source, target = make(hosts)
    last = hosts.ticks(source, key)[-1]
    hosts.drivers[source].shutdown_grace_s = 20.0
    assert act(hosts, key, "migrate", None, ADMIN).status == 202
    hosts.until(lambda: cloud.status(key) == "VERIFY_RESIZE" and "login" in hosts.drivers[target].console_log(key))
    assert hosts.running() == [target]
    assert hosts.drivers[source].seen(key)["export"] is None  # type: ignore[index]
    (disk,) = (hosts.directory / target / "machines" / key).glob("root-*.qcow2")
    # what it said before it was shut down is on the disk that moved; it may have said no more than that
    assert counted(disk) >= hosts.ticks(source, key)[-1][1] >= last[1]
    assert "TICK" not in hosts.drivers[target].console_log(key)  # its script ran once, and its disk knows that
    cloud.act(key, "revertResize")
    hosts.until(lambda: cloud.status(key) == "ACTIVE" and hosts.running() == [source])
    hosts.until(lambda: not hosts.drivers[target].known())


def counted(disk: Path) -> int:
    """The number that the guest wrote to its disk last."""
    with tempfile.TemporaryDirectory() as directory:
        words = [
            "qemu-img",
            "dd",
            "-U",
            "-f",
            "qcow2",
            "-O",
            "raw",
            "bs=512",
            "skip=2000000",
            "count=2000001",
        ]  # from the start
        subprocess.run([*words, f"if={disk}", f"of={directory}/sector"], check=True)
        return int((Path(directory) / "sector").read_bytes().split(b"\n")[0])
