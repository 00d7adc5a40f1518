"""The guest image under a plain QEMU with user networking: what a cloud says to it, it does."""

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from guest.build import LABEL, image

BOOT_TIMEOUT_S = 60
PASSWORD = 'sécret "x" \\n/'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Machine:
    """One QEMU process. `network` are more options of the user network, `more` of QEMU."""

    def __init__(self, place: Path, network: str = "", more: tuple[str, ...] = ()) -> None:
        self.place = place
        self.port = free_port()
        self.key = place / "key"
        if not self.key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        disk = place / "disk.qcow2"
        backing = ["-F", "qcow2", "-b", str(image())]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, disk, "1G"], check=True)
        self.console_log = place / "console.log"
        self.command = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"),
            *("-accel", "tcg,thread=multi,tb-size=32", "-cpu", "max", "-m", "128"),
            *("-serial", f"file:{self.console_log}", "-qmp", f"unix:{place}/qmp,server=on,wait=off"),
            *("-drive", f"file={disk},if=virtio,format=qcow2", "-device", "virtio-rng-pci"),
            *("-device", "pcie-root-port,id=spare,slot=1"),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{self.port}-:22{network}"),
            *("-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01", *more),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)

    def wait_for_console(self, text: str) -> str:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline:
            said = self.console_log.read_text(errors="replace") if self.console_log.exists() else ""
            if text in said:
                return said
            assert self.process is not None
            assert self.process.poll() is None, "QEMU ended"
            time.sleep(0.1)
        pytest.fail(f"{text!r} never came; the console says:\n{said}")

    def ssh(self, command: str, user: str = "root", password: str = "") -> str:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        environment = dict(os.environ)
        if password:
            ask = self.place / "ask"
            ask.write_text(f"#!/bin/sh\necho {base64.b64encode(password.encode()).decode()} | base64 -d\n")
            ask.chmod(0o700)
            environment |= {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
            options += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
        else:
            options += ["-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        argv = ["ssh", *options, "-p", str(self.port), f"{user}@127.0.0.1", command]
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def qmp(self, execute: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.place / "qmp"))
            stream = connection.makefile("rw")
            stream.readline()
            for command in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                while not {"return", "error"} & (answer := json.loads(stream.readline())).keys():
                    pass
                assert "return" in answer, answer

    def wait_for_end(self) -> None:
        assert self.process is not None
        self.process.wait(20)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    made: list[Machine] = []
    yield made
    for machine in made:
        machine.kill()


def meta_data(key: Path, **more: Any) -> dict[str, Any]:
    public = key.with_suffix(".pub").read_text()
    return {
        "uuid": "5d2b9a2e-0000-4000-8000-000000000001",
        "name": 'a "name" \\ here',
        "hostname": "box-1.novalocal",
        "meta": {"hostname": "not-this-one", "lines": "a\nb"},
        "public_keys": {"my key": public},
        "keys": [{"name": "my key", "type": "ssh", "data": public}],
        "random_seed": "QUJD" * 171,
        "devices": [],
    } | more


def make_config_drive(place: Path, meta: dict[str, Any], user_data: str) -> Path:
    latest = place / "drive/openstack/latest"
    (place / "drive/openstack/content").mkdir(parents=True)
    latest.mkdir()
    (place / "drive/openstack/content/0000").write_text("injected")
    (latest / "meta_data.json").write_text(json.dumps(meta))
    (latest / "user_data").write_text(user_data)
    iso = place / "drive.iso"
    command = ["genisoimage", "-quiet", "-J", "-r", "-V", "config-2", "-o", str(iso), str(place / "drive")]
    subprocess.run(command, check=True)
    return iso


USER_DATA = "#!/bin/sh\necho user data on $(hostname)\necho ran >>/root/ran\n"


def test_config_drive(tmp_path: Path, machines: list[Machine]) -> None:
    drive = tmp_path / "drive.iso"
    machine = Machine(tmp_path, more=("-drive", f"file={drive},if=virtio,format=raw,readonly=on"))
    machines.append(machine)
    files = [{"path": "/etc/injected/file", "content_path": "/content/0000"}]
    make_config_drive(tmp_path, meta_data(machine.key, admin_pass=PASSWORD, files=files), USER_DATA)
    machine.start()

    said = machine.wait_for_console("login:")
    assert "user data on box-1" in said
    assert "described by the config drive" in said
    assert len(said.splitlines()) >= 10  # as many lines as test suites ask of a console log

    assert machine.ssh("hostname; cat /root/ran /etc/injected/file") == "box-1\nran\ninjected"
    assert machine.ssh("sudo -n id -u", user="trilith") == "0\n"
    assert machine.ssh("echo by password", password=PASSWORD) == "by password\n"
    check_tools(machine)
    check_hotplug(machine)

    host_key = machine.ssh("dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key")
    machine.ssh("sync")
    machine.console_log.write_text("")
    machine.qmp("system_reset")
    machine.wait_for_console("login:")
    assert machine.ssh("cat /root/ran") == "ran\n", "user data runs once for each instance"
    assert machine.ssh("dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key") == host_key

    machine.qmp("system_powerdown")
    machine.wait_for_end()


def check_tools(machine: Machine) -> None:
    """What Tempest's remote client and the project's tests run over SSH."""
    wanted = (
        "arping awk blkid cat chmod curl cut date dd dmesg grep hostname ip kill ls lsblk md5sum mkdir mkfs mkfs.ext4 "
        "mount nc nslookup ping ping6 ps sudo sync tee touch umount uname wget"
    )
    assert machine.ssh(f"for tool in {wanted}; do command -v $tool >/dev/null || echo $tool; done") == ""
    assert "disk" in machine.ssh("lsblk -lb --nodeps")
    assert machine.ssh("blkid -L config-2 -o device") == "/dev/vdb\n"
    assert "10.0.2.15" in machine.ssh("ip -o addr")
    machine.ssh("ping -c1 -w2 -s56 10.0.2.2; ping6 -c1 ::1; cat /var/run/udhcpc.eth0.pid")
    serve = "nc -p 8080 -lk -e echo foolish & sleep 0.5"
    asks = "for i in 1 2; do echo bar | nc -w 1 127.0.0.1 8080; done; kill %1"
    assert machine.ssh(f"{serve}; {asks}") == "foolish\nfoolish\n"


def check_hotplug(machine: Machine) -> None:
    """A card that comes later gets its address by itself, and its DHCP client goes with it."""
    machine.qmp("netdev_add", type="user", id="net1", net="10.9.0.0/24")
    machine.qmp("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", bus="spare")
    machine.wait_for_console("eth1: 10.9.0.")
    machine.qmp("device_del", id="nic1")
    deadline = time.monotonic() + 20
    while "eth1" in (left := machine.ssh("ls /sys/class/net /run/net; dmesg | tail -n 5")):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert "eth1" not in machine.ssh("ps | grep '[u]dhcpc'")


class Metadata(BaseHTTPRequestHandler):
    documents: dict[str, bytes] = {}

    def do_GET(self) -> None:
        content = self.documents.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    """Options of a network in which `Metadata` answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The metadata address has to lie in QEMU's user network to be forwarded; each connection gets a program.
    forward = f"guestfwd=tcp:169.254.169.254:80-cmd:{shutil.which('socat')} STDIO TCP:127.0.0.1:{server.server_port}"
    yield f",net=169.254.0.0/16,{forward}"
    server.shutdown()
    server.server_close()


def test_metadata_service(tmp_path: Path, machines: list[Machine], metadata: str) -> None:
    machine = Machine(tmp_path, network=metadata)
    machines.append(machine)
    Metadata.documents = {
        "/openstack/latest/meta_data.json": json.dumps(meta_data(machine.key)).encode(),
        "/openstack/latest/user_data": USER_DATA.encode(),
        "/latest/meta-data/local-ipv4": b"169.254.0.15",
    }
    machine.start()
    said = machine.wait_for_console("login:")
    server_url = "http://169.254.169.254/latest/meta-data"
    assert "described by the metadata service" in said
    assert machine.ssh("hostname; cat /root/ran") == "box-1\nran\n"
    assert machine.ssh(f"curl -s {server_url}/local-ipv4") == "169.254.0.15"
    assert machine.ssh(f"curl -f {server_url}/nothing || echo $?") == "22\n"
    assert machine.ssh("awk -F: '$1 == \"root\" {print $2}' /etc/shadow") == "*\n", "no password was given, none is set"


def test_kernel_and_ramdisk_are_a_machine(tmp_path: Path, machines: list[Machine], metadata: str) -> None:
    """It has an address, and runs its user data at each boot."""
    boot = ("-kernel", str(image().with_suffix(".vmlinuz")), "-initrd", str(image().with_suffix(".ramdisk")))
    options = "console=ttyS0,115200 quiet mitigations=off net.ifnames=0"
    machine = Machine(tmp_path, metadata, (*boot, "-append", options))
    machines.append(machine)
    Metadata.documents = {"/openstack/latest/user_data": b"#!/bin/busybox sh\nip -4 -o addr show eth0\ncat /run/none\n"}
    machine.start()
    said = machine.wait_for_console("boot complete")
    assert "inet 169.254.2.15/16" in said
    assert "can't open '/run/none'" in said


def test_the_image_is_cached() -> None:
    path = image()
    assert path == image()
    assert path.name == f"{LABEL}.qcow2"
    assert 10 << 20 < path.stat().st_size < 30 << 20
