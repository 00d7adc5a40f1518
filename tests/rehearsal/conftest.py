"""Rehearsals for tests: cluster files with networks of their own, and what a rehearsal may leave behind: nothing."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trilith.cluster import rehearse
from trilith.cluster.rehearse import Rehearsal

CLUSTER = """\
name: {name}
vip: 10.61.{number}.100
networks: {{management: 10.61.{number}.0/24, tunnel: 10.61.{tunnel}.0/24}}
public: {{cidr: 10.61.{public}.0/24}}
hosts:
"""


def write_cluster(directory: Path, name: str, number: int, hosts: int) -> Path:
    """A cluster file of controllers c1, c2, ...; its networks are 10.61.`number` and the two after it."""
    text = CLUSTER.format(name=name, number=number, tunnel=number + 1, public=number + 2)
    for index in range(1, hosts + 1):
        addresses = f"address: 10.61.{number}.{10 + index}, tunnel_address: 10.61.{number + 1}.{10 + index}"
        text += f"  - {{name: c{index}, {addresses}, roles: [control, network, compute]}}\n"
    file = directory / f"{name}.yaml"
    file.write_text(text)
    return file


def traces(name: str) -> list[str]:
    """Whatever of a rehearsal is in the kernel: namespaces, links, control groups, mounts, processes, rules."""
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"tri-{name}[@-]*")]
    found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/tri-{name}@*")]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"tri-{name}@" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"--machine={name}-" in words or f"{name}-state/hosts/" in words:
            found.append(f"process {process.name} {words}")
    cables = subprocess.run(["ip", "-br", "addr"], capture_output=True, text=True, check=True).stdout
    found += [f"link {line}" for line in cables.splitlines() if " 10.61." in line]
    return found


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Three bare hosts, c1 to c3."""
    directory = tmp_path_factory.mktemp("rehearsal")
    file = write_cluster(directory, f"re-{os.getpid()}", 10, hosts=3)
    try:
        yield rehearse.up(file, directory / "state", print, bare=True)
    finally:  # what came up only halfway would be in the way of the next run
        rehearse.down(directory / "state")


@pytest.fixture
def ssh(rehearsal: Rehearsal) -> Callable[..., str]:
    """Run a command on a host as an operator does."""

    def run(host: str, *words: str) -> str:
        argv = ["ssh", "-F", str(rehearsal.ssh_config), "-o", "ConnectTimeout=5", host, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    return run
