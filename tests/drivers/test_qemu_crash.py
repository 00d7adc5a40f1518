"""The agent's acts on real machines, cut short everywhere: by the crash harness, and by kill -9 at random moments."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trilith.agent.machines import Machines
from trilith.drivers import qemu_img
from trilith.drivers.qemu import Qemu
from trilith.kernel.reconcile import converge
from trilith.kernel.testing import converges

Doc = dict[str, Any]

SERVER = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11"
VOLUME = "1b4a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"


class NoNetwork:
    def plug(self, port_id: str, mac: str, mtu: int) -> str:
        raise AssertionError("these machines have no ports")

    def unplug(self, port_id: str) -> None:
        raise AssertionError("these machines have no ports")

    def plugged(self) -> set[str]:
        return set()


class Folder:
    """Images in a folder; what is uploaded becomes one more."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, image_id: str) -> Path:
        return self.directory / image_id

    def upload(self, image_id: str, path: Path) -> None:
        shutil.copyfile(path, self.directory / image_id)


def make(directory: Path) -> Machines:
    run_as = "65534:65534" if os.getuid() == 0 else None
    driver = Qemu(directory, run_as=run_as)
    driver.shutdown_grace_s = 0.05  # the guest here is deaf
    return Machines(driver, NoNetwork(), Folder(directory))


def want(**changes: Any) -> Doc:
    root = {"device": "vda", "boot_index": 0, "kind": "image", "image_id": "img", "image_format": "raw", "size_gib": 1}
    document: Doc = {"id": SERVER, "generation": 1, "present": True, "name": "web", "power": "running"}
    document |= {"vcpus": 1, "ram_mib": 64, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0}
    document |= {"disks": [root], "nics": [], "config_drive": False, "rescue_image_id": None}
    document |= {"snapshots": [], "admin_password": None, "hostname": "web", "metadata": {}, "user_data": None}
    return {**document, "network_data": {}, "vendor_data": {}, **changes}


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="tq-", dir="/var/tmp"))
    made.chmod(0o711)
    (made / "img").write_bytes(bytes(512))
    yield made
    shutil.rmtree(made)


def processes(directory: Path) -> list[int]:
    """Every QEMU that has to do with `directory`, whatever the driver thinks of it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if entry.name.isdigit() and b"qemu-system" in words and str(directory).encode() in words:
                found.append(int(entry.name))
    return found


def test_real_machines_converge_after_every_crash(directory: Path) -> None:
    path = directory / "volume"
    qemu_img.create(path, "qcow2", qemu_img.GIB)
    volume = {
        "device": "vdb",
        "kind": "volume",
        "volume_id": VOLUME,
        "path": str(path),
        "format": "qcow2",
        "size_gib": 1,
    }
    with_volume = {"disks": [*want()["disks"], volume]}
    life = [
        want(power="suspended", snapshots=[{"image_id": "snap", "quiesce": False}]),
        want(power="paused", soft_reboot_epoch=1, ram_mib=96, **with_volume),
    ]
    agents: list[Machines] = []

    def next_agent() -> Machines:
        for agent in agents:
            agent._driver.close()  # a process that dies lets go of its monitors
        agents[:] = [make(directory)]
        return agents[0]

    def as_wanted(document: Doc, seen: Doc | None) -> bool:
        return seen is None if not document["present"] else seen is not None and seen["power"] == document["power"]

    def leftovers() -> list[object]:
        return [*(directory / "machines").iterdir(), *processes(directory)]

    converges(next_agent, life, leftovers, as_wanted)
    agents[0]._driver.close()


AGENT = f"""
import itertools, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.drivers.test_qemu_crash import SERVER, converge, make, want
machines = make(Path(sys.argv[1]))
print("ready", flush=True)
for epoch in itertools.count(int(sys.argv[2])):
    for power in ("running", "suspended", "paused", "stopped"):
        converge(machines, SERVER, want(power=power, boot_epoch=epoch))
"""


def test_an_agent_killed_at_any_moment_leaves_nothing_that_the_next_cannot_take_over(directory: Path) -> None:
    chance = random.Random(7)
    for number in range(8):
        argv = [sys.executable, "-c", AGENT, str(directory), str(1000 * number + 1)]
        agent = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.5))
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        agent.stdout.close()
        assert len(processes(directory)) <= 1
    machines = make(directory)
    deadline = time.monotonic() + 20
    document = want(boot_epoch=100_000)
    while (outcome := converge(machines, SERVER, document)).retry:
        assert time.monotonic() < deadline, outcome
    assert outcome.seen is not None
    assert (outcome.seen["power"], outcome.seen["boot_epoch"]) == ("running", 100_000)
    assert len(processes(directory)) == 1
    converge(machines, SERVER, want(present=False))
    assert (machines.known(), processes(directory)) == (set(), [])
    machines._driver.close()
