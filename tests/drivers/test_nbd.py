"""Volumes served to other hosts: two hosts on loopback addresses, real daemons, real TLS, a real QEMU."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trilith.drivers import linux_net, nbd, qemu_img
from trilith.drivers.qemu import Qemu
from trilith.drivers.qemu_img import InUse
from trilith.drivers.volume_files import VolumeFiles
from trilith.kernel.errors import Unavailable

Doc = dict[str, Any]
STORE = "127.0.0.2"
M1 = "11111111-1111-4111-8111-111111111111"
NOBODY = (65534, 65534)
SECRET, OTHER = secrets.token_hex(32), secrets.token_hex(32)


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[VolumeFiles]:
    made = VolumeFiles(tmp_path / "volumes", address=STORE)
    made.create_blank("v1", 1)
    yield made
    for volume_id in made.exported():
        made.end_export(volume_id)
    assert nbd.daemons(tmp_path / "volumes") == {}


def export_of(volumes: VolumeFiles, volume_id: str = "v1") -> Doc:
    found: Doc = (volumes.seen(volume_id) or {})["export"]
    return found


def io(
    tmp_path: Path, port: int, *commands: str, key: str = SECRET, user: str = "a1"
) -> subprocess.CompletedProcess[str]:
    """qemu-io on the export, with a key; an empty `key`: without TLS."""
    nbd.make_key_directory(tmp_path / "client", {user: key or SECRET}, None)
    url = f"driver=nbd,server.type=inet,server.host={STORE},server.port={port},export=v1,reconnect-delay=20"
    words = ["qemu-io"]
    if key:
        words += ["--object", f"tls-creds-psk,id=k,dir={tmp_path / 'client'},endpoint=client,username={user}"]
        url += ",tls-creds=k"
    words += ["--image-opts", url, *(word for command in commands for word in ("-c", command))]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def kill(tmp_path: Path, volume_id: str = "v1") -> None:
    pid = nbd.daemons(tmp_path / "volumes")[volume_id]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while volume_id in nbd.daemons(tmp_path / "volumes") and time.monotonic() < deadline:
        time.sleep(0.01)


def test_what_is_written_through_the_network_is_in_the_volume(volumes: VolumeFiles, tmp_path: Path) -> None:
    volumes.serve("v1", {"a1": SECRET})
    port = export_of(volumes)["port"]
    assert io(tmp_path, port, "write -P 7 0 64k", "flush").returncode == 0
    assert "failed" not in io(tmp_path, port, "read -P 7 0 64k").stdout
    with pytest.raises(InUse):
        qemu_img.info(volumes.path("v1"), "qcow2")
    volumes.end_export("v1")
    read = ["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 64k", str(volumes.path("v1"))]
    done = subprocess.run(read, capture_output=True, text=True, check=True)
    assert "failed" not in done.stdout


def test_nobody_else_gets_in(volumes: VolumeFiles, tmp_path: Path) -> None:
    volumes.serve("v1", {"a1": SECRET})
    port = export_of(volumes)["port"]
    assert io(tmp_path, port, "read 0 512", key=OTHER).returncode != 0
    assert io(tmp_path, port, "read 0 512", user="a2").returncode != 0
    assert io(tmp_path, port, "read 0 512", key="").returncode != 0
    volumes.serve("v1", {"a1": SECRET, "a2": OTHER})  # one more, without a pause
    assert io(tmp_path, port, "read 0 512", key=OTHER, user="a2").returncode == 0
    volumes.serve("v1", {"a2": OTHER})  # one less
    assert io(tmp_path, port, "read 0 512").returncode != 0


def test_keys_are_nobody_elses(volumes: VolumeFiles, tmp_path: Path) -> None:
    volumes.serve("v1", {"a1": SECRET})
    home = volumes.path("v1").parent / "nbd"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "keys.psk").stat().st_mode & 0o777 == 0o600
    pid = nbd.daemons(tmp_path / "volumes")["v1"]
    assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert SECRET not in (home / "log").read_text()


def test_the_daemon_is_not_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    volumes = VolumeFiles(tmp_path / "volumes", owner=NOBODY, address=STORE)
    volumes.create_blank("v1", 1)
    volumes.serve("v1", {"a1": SECRET})
    try:
        status = Path(f"/proc/{nbd.daemons(tmp_path / 'volumes')['v1']}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(NOBODY[0])] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert io(tmp_path, export_of(volumes)["port"], "write -P 1 0 512").returncode == 0
        volumes.snapshot("v1", "s1")
    finally:
        volumes.end_export("v1")


def test_a_daemon_outlives_its_agent_and_is_found_again(volumes: VolumeFiles, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from trilith.drivers.volume_files import VolumeFiles\n"
        f"VolumeFiles(Path(sys.argv[1]), address={STORE!r}).serve('v1', {{'a1': {SECRET!r}}})"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "volumes")], check=True)
    before = nbd.daemons(tmp_path / "volumes")
    volumes.serve("v1", {"a1": SECRET})
    assert nbd.daemons(tmp_path / "volumes") == before
    assert export_of(volumes)["running"]


def test_every_volume_has_its_own_port_and_keeps_it(volumes: VolumeFiles, tmp_path: Path) -> None:
    volumes.create_blank("v2", 1)
    for volume_id in ("v1", "v2"):
        volumes.serve(volume_id, {"a1": SECRET})
    ports = {volume_id: export_of(volumes, volume_id)["port"] for volume_id in ("v1", "v2")}
    assert len(set(ports.values())) == 2
    kill(tmp_path)
    assert export_of(volumes) | {"running": True} != export_of(volumes)
    volumes.serve("v1", {"a1": SECRET})
    assert export_of(volumes)["port"] == ports["v1"]


def test_a_daemon_that_is_killed_while_it_writes_loses_nothing(volumes: VolumeFiles, tmp_path: Path) -> None:
    """The client waits for it, as a machine does; what was acknowledged is there."""
    volumes.serve("v1", {"a1": SECRET})
    port = export_of(volumes)["port"]
    writes = [f"write -P {number % 255 + 1} {number * 1024}k 64k" for number in range(400)]
    done: list[subprocess.CompletedProcess[str]] = []
    client = threading.Thread(target=lambda: done.append(io(tmp_path, port, *writes, "flush")))
    client.start()
    for _ in range(3):
        time.sleep(0.3)
        kill(tmp_path)
        time.sleep(0.2)
        volumes.serve("v1", {"a1": SECRET})
    client.join(60)
    assert done[0].returncode == 0, done[0].stderr
    assert "failed" not in done[0].stdout
    reads = [write.replace("write", "read") for write in writes]
    assert "failed" not in io(tmp_path, port, *reads).stdout
    volumes.end_export("v1")
    check = subprocess.run(["qemu-img", "check", "-f", "qcow2", volumes.path("v1")], capture_output=True, check=False)
    assert check.returncode in (0, 3), check.stdout  # clusters that are lost, at most: no damage


def test_copies_of_an_exported_volume(volumes: VolumeFiles, tmp_path: Path) -> None:
    volumes.serve("v1", {"a1": SECRET})
    port = export_of(volumes)["port"]
    io(tmp_path, port, "write -P 7 0 64k")
    volumes.snapshot("v1", "s1")
    io(tmp_path, port, "write -P 8 0 64k")
    volumes.create_from_volume("v2", 1, "v1")
    volumes.create_from_snapshot("v3", 1, "v1", "s1")
    exported = volumes.export("v1", "raw", "i1")
    assert exported.read_bytes()[:1] == b"\x08"
    for volume_id, pattern in (("v2", 8), ("v3", 7)):
        read = ["qemu-io", "-f", "qcow2", "-c", f"read -P {pattern} 0 64k", str(volumes.path(volume_id))]
        assert "failed" not in subprocess.run(read, capture_output=True, text=True, check=True).stdout


def test_a_volume_that_a_machine_of_this_host_has_is_not_served(volumes: VolumeFiles) -> None:
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(volumes.path("v1"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as machine:
        assert machine.stdout is not None
        machine.stdout.read(1)
        with pytest.raises(InUse):
            volumes.serve("v1", {"a1": SECRET})
        machine.communicate(b"quit\n")
    volumes.serve("v1", {"a1": SECRET})


# the other side: a machine on another host


@pytest.fixture
def machines() -> Iterator[Qemu]:
    with tempfile.TemporaryDirectory() as short:  # sockets' names are
        driver = Qemu(Path(short))
        yield driver
        for server_id in driver.known():
            driver.destroy(server_id)
        driver.close()


def disk_of(volumes: VolumeFiles, key: str = SECRET, **more: Any) -> Doc:
    export = export_of(volumes)
    place = {name: export[name] for name in ("address", "port")}
    disk = {"kind": "volume", "key": "v1", "volume_id": "v1", "device": "vdb", "boot_index": None, "size_gib": 1}
    return disk | {"path": None, "format": "qcow2", "nbd": place | {"name": "v1", "user": "a1", "key": key}} | more


def machine(*disks: Doc) -> Doc:
    document: Doc = {"name": "m", "vcpus": 1, "ram_mib": 64, "root_epoch": 0, "root_gib": 1, "rescue_image_id": None}
    blank = {"kind": "blank", "key": "blank", "label": "blank", "device": "vda", "boot_index": 0, "size_gib": 1}
    return document | {"config_drive": False, "disks": [blank, *disks], "nics": []}


def no_image(image_id: str) -> Path:
    raise AssertionError(image_id)


def run_in(machines: Qemu, line: str) -> str:
    """QEMU's own I/O on the disk, as if by the guest."""
    live = machines._require(M1)
    said: str = machines._execute(live, "human-monitor-command", {"command-line": f'qemu-io n-v1 "{line}"'})
    return said


def test_a_machine_gets_and_gives_back_a_volume_of_another_host(
    volumes: VolumeFiles, machines: Qemu, tmp_path: Path
) -> None:
    volumes.serve("v1", {"a1": SECRET})
    io(tmp_path, export_of(volumes)["port"], "write -P 7 0 64k")
    machines.define(M1, machine(), no_image)
    machines.start(M1, {}, 0, 0)
    with pytest.raises(Unavailable):
        machines.attach_disk(M1, disk_of(volumes, OTHER), no_image)
    for _ in range(2):
        machines.attach_disk(M1, disk_of(volumes), no_image)
    assert "failed" not in run_in(machines, "read -P 7 0 64k")
    seen = machines.seen(M1) or {}
    assert (seen["volumes"], seen["volume_sizes_gib"]) == (["v1"], {"v1": 1})
    home = machines.directory / M1
    assert SECRET not in (home / "spec.json").read_text()
    assert (home / "psk-v1/keys.psk").stat().st_mode & 0o777 == 0o600
    # the daemon dies, the volume grows
    kill(tmp_path)
    volumes.serve("v1", {"a1": SECRET})
    assert "failed" not in run_in(machines, "read -P 7 0 64k")
    volumes.extend("v1", 2)
    for _ in range(2):
        machines.resize_volume(M1, "v1", 2)
    assert (machines.seen(M1) or {})["volume_sizes_gib"] == {"v1": 2}
    # a firmware lets go of no device: the machine ends, and begins without
    machines.end(M1)
    machines.define(M1, machine(disk_of(volumes, size_gib=2)), no_image)
    machines.start(M1, {}, 1, 0)
    assert "failed" not in run_in(machines, "read -P 7 0 64k")
    machines.end(M1)
    machines.detach_disk(M1, "v1")
    assert (machines.seen(M1) or {})["volumes"] == []
    assert not (home / "psk-v1").exists()


def test_a_volume_that_cannot_be_reached_keeps_nobody_waiting(volumes: VolumeFiles, machines: Qemu) -> None:
    volumes.serve("v1", {"a1": SECRET})
    disk = disk_of(volumes)
    volumes.end_export("v1")
    machines.define(M1, machine(disk), no_image)
    with pytest.raises(Unavailable, match="does not answer"):
        machines.start(M1, {}, 0, 0)


def test_routes_are_quick_and_keep_the_rest() -> None:
    netns, network = f"st-{os.getpid()}", "10.77.0.0/24"
    linux_net.make_namespace(netns)
    try:
        for words in (
            "link add eth9 type veth peer name eth8",
            "link set eth8 up",
            "address add 10.77.0.1/24 dev eth9 metric 7",
            "link set eth9 up",
            "route change 10.77.0.0/24 dev eth9 proto kernel scope link src 10.77.0.1 metric 7 mtu 1400",
        ):
            linux_net.ip("-n", netns, *words.split())
        with linux_net.in_netns(netns):
            assert linux_net.quick_acks(network)
            assert not linux_net.quick_acks(network)
            assert not linux_net.quick_acks("10.78.0.0/24")
        (line,) = linux_net.ip("-n", netns, "route", "show").strip().splitlines()
        for words in ("10.77.0.0/24 dev eth9", "src 10.77.0.1", "metric 7", "mtu 1400", "quickack 1"):
            assert words in line
    finally:
        linux_net.delete_namespace(netns)
