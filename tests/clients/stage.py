"""What the tests of real machines stand on: a project's key, network and machines, made through plain HTTP."""

import base64
import itertools
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.clients.cloud import SSH, Cloud, ssh, until

COMPUTE, NETWORK, VOLUME, IMAGE = "/compute/v2.1", "/networking/v2.0", "/volume/v3", "/image/v2"
VERSIONS = {COMPUTE: "compute 2.100", VOLUME: "volume 3.70"}
CIDR, CIDR6 = "10.77.0.0/24", "fd77::/64"
BUILD_S = 60
Doc = dict[str, Any]


class Stage:
    """One network (IPv4 and IPv6) behind a router, a group that lets SSH and pings in, and whatever tests add."""

    def __init__(self, cloud: Cloud, who: str = "demo") -> None:
        self.cloud, self.who = cloud, who
        self.key = cloud.state / "key"
        if not self.key.exists():
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "stage", "-f", str(self.key)]
            subprocess.run(words, check=True)
        self.call("POST", f"{COMPUTE}/os-keypairs", {"keypair": {"name": "stage", "public_key": self.public_key}})
        self.image = self.named(f"{IMAGE}/images", "trilith-guest")
        self.public = self.named(f"{NETWORK}/networks", "public")
        self.network = self.make(f"{NETWORK}/networks", network={"name": "stage"})
        own = {"network_id": self.network["id"], "name": "stage"}
        self.subnet = self.make(f"{NETWORK}/subnets", subnet=own | {"ip_version": 4, "cidr": CIDR})
        slaac = {"ip_version": 6, "cidr": CIDR6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
        self.subnet6 = self.make(f"{NETWORK}/subnets", subnet=own | slaac)
        gateway = {"network_id": self.public["id"]}
        self.router = self.make(f"{NETWORK}/routers", router={"name": "stage", "external_gateway_info": gateway})
        for subnet in (self.subnet, self.subnet6):
            path = f"{NETWORK}/routers/{self.router['id']}/add_router_interface"
            self.call("PUT", path, {"subnet_id": subnet["id"]})
        self.group = self.make(f"{NETWORK}/security-groups", security_group={"name": "stage"})
        self.allow("tcp", 22)
        self.allow("icmp")
        self.allow("icmpv6", ethertype="IPv6")

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    # the API

    def call(self, method: str, path: str, body: Any = None, who: str | None = None) -> Any:
        """The decoded answer; anything but a 2xx fails."""
        version = next((value for prefix, value in VERSIONS.items() if path.startswith(prefix)), "")
        more = {"OpenStack_API_Version": version} if version else {}
        status, _, answer = self.cloud.http(method, path, body, who or self.who, **more)
        assert status < 300, (method, path, body, status, answer)
        return answer

    def refused(self, method: str, path: str, body: Any = None, status: int = 409) -> str:
        """The answer's words; fails unless it is this error."""
        version = next((value for prefix, value in VERSIONS.items() if path.startswith(prefix)), "")
        more = {"OpenStack_API_Version": version} if version else {}
        found, _, answer = self.cloud.http(method, path, body, self.who, **more)
        assert found == status, (method, path, body, found, answer)
        return json.dumps(answer)

    def make(self, path: str, **body: Any) -> Doc:
        """POST; what is inside the answer's envelope. ``images`` have none: give their body as `image`."""
        if path == f"{IMAGE}/images":
            return dict(self.call("POST", path, body["image"]))
        return dict(next(iter(self.call("POST", path, body).values())))

    def get(self, path: str) -> Any:
        """What is inside the answer's envelope."""
        answer = self.call("GET", path)
        return next(iter(answer.values())) if len(answer) == 1 else answer

    def named(self, path: str, name: str) -> Doc:
        return self.cloud.named(path, name, self.who)

    def gone(self, path: str, for_s: float = 30) -> None:
        """DELETE, and wait until it answers 404."""
        self.call("DELETE", path)
        until(lambda: self.cloud.http("GET", path, None, self.who)[0] == 404, for_s, f"{path} gone")

    def allow(self, protocol: str, port: int | None = None, **more: Any) -> Doc:
        """A rule that lets it in."""
        rule = {"security_group_id": self.group["id"], "direction": "ingress", "protocol": protocol}
        return self.make(
            f"{NETWORK}/security-group-rules",
            security_group_rule=rule | {"port_range_min": port, "port_range_max": port} | more,
        )

    def volume(self, size_gib: int = 1, **more: Any) -> Doc:
        made = self.make(f"{VOLUME}/volumes", volume={"size": size_gib, **more})
        return self.volume_is(made["id"], "available")

    def volume_is(self, volume_id: str, status: str) -> Doc:
        def look() -> Doc | None:
            found: Doc = self.get(f"{VOLUME}/volumes/{volume_id}")
            assert status == found["status"] or not found["status"].startswith("error"), found
            return found if found["status"] == status else None

        return dict(until(look, 60, f"volume {status}"))

    # machines

    def machine(self, name: str, flavor: str = "m1.nano", **more: Any) -> "Machine":
        """One that is being built: `Machine.ready` waits for it."""
        asked = {
            "name": name,
            "flavorRef": self.flavor(flavor),
            "imageRef": self.image["id"],
            "key_name": "stage",
            "networks": [{"uuid": self.network["id"]}],
            "security_groups": [{"name": "stage"}],
        }
        given = {key: value for key, value in (asked | more).items() if value is not None}
        return Machine(self, self.make(f"{COMPUTE}/servers", server=given)["id"])

    def flavor(self, name: str) -> str:
        flavors = self.call("GET", f"{COMPUTE}/flavors")["flavors"]
        return str(next(flavor["id"] for flavor in flavors if flavor["name"] == name))

    def _none(self, path: str) -> bool:
        return not self.get(path)

    def clear(self) -> None:
        """Delete all that the project has, the way its owner would."""
        for path in (f"{COMPUTE}/servers", f"{VOLUME}/snapshots", f"{VOLUME}/volumes"):
            there = [thing["id"] for thing in self.get(path)]
            for one in there:
                self.call("DELETE", f"{path}/{one}")
            until(partial(self._none, path), 60, f"{path} deleted")
        for image in self.call("GET", f"{IMAGE}/images?visibility=private")["images"]:
            self.call("DELETE", f"{IMAGE}/images/{image['id']}")
        for floating in self.get(f"{NETWORK}/floatingips"):
            self.call("DELETE", f"{NETWORK}/floatingips/{floating['id']}")
        for subnet in (self.subnet, self.subnet6):
            path = f"{NETWORK}/routers/{self.router['id']}/remove_router_interface"
            self.call("PUT", path, {"subnet_id": subnet["id"]})
        self.call("DELETE", f"{NETWORK}/routers/{self.router['id']}")
        self.call("DELETE", f"{NETWORK}/networks/{self.network['id']}")
        self.call("DELETE", f"{NETWORK}/security-groups/{self.group['id']}")
        self.call("DELETE", f"{COMPUTE}/os-keypairs/stage")


class Machine:
    """A server of the stage, and its inside by SSH."""

    def __init__(self, stage: Stage, server_id: str) -> None:
        self.stage, self.id = stage, server_id
        self.path = f"{COMPUTE}/servers/{server_id}"
        self.floating: str | None = None

    def row(self) -> Doc:
        return dict(self.stage.get(self.path))

    def ready(self, status: str = "ACTIVE", for_s: float = BUILD_S) -> "Machine":
        """Waits until it has this status and nothing is going on."""

        def look() -> bool:
            row = self.row()
            assert status == "ERROR" or row["status"] != "ERROR", row.get("fault")
            return row["status"] == status and row["OS-EXT-STS:task_state"] is None

        until(look, for_s, f"{self.id} {status}")
        return self

    def act(self, verb: str, body: Any = None, then: str = "ACTIVE", for_s: float = BUILD_S) -> Any:
        """Does it and waits until it is done; gives the answer."""
        answer = self.stage.call("POST", f"{self.path}/action", {verb: body})
        self.ready(then, for_s)
        return answer

    def delete(self) -> None:
        self.stage.gone(self.path)

    # its network

    def ports(self) -> list[Doc]:
        return list(self.stage.get(f"{NETWORK}/ports?device_id={self.id}"))

    def address(self, version: int = 4) -> str:
        """The one on the stage's network."""
        entries = self.row()["addresses"]["stage"]
        return str(next(e["addr"] for e in entries if e["version"] == version and e["OS-EXT-IPS:type"] == "fixed"))

    def give_address(self) -> str:
        """A floating address for its first port."""
        body = {"floating_network_id": self.stage.public["id"], "port_id": self.ports()[0]["id"]}
        made = self.stage.make(f"{NETWORK}/floatingips", floatingip=body)
        self.floating = str(made["floating_ip_address"])
        return self.floating

    # its inside

    def run(self, command: str, for_s: float = 60, through: "Machine | None" = None) -> str:
        """The output of a command; one that fails fails the test. `through`: log in by way of that machine."""
        key = self.stage.key
        if through is None:
            assert self.floating is not None
            until(partial(answers, self.floating, 22), for_s, f"an answer of {self.floating}")
            return ssh(self.floating, key, command, for_s)
        proxy = " ".join(["ssh", "-i", str(key), *SSH, "-W", "%h:%p", f"root@{through.floating}"])
        return ssh(self.address(), key, command, for_s, proxy=proxy)

    def booted(self, for_s: float = 60) -> str:
        """Waits until its first boot has come to the end; gives its boot id."""
        return self.run("until [ -e /run/booted ]; do usleep 100000; done; cat /proc/sys/kernel/random/boot_id", for_s)

    def uptime_s(self) -> float:
        return float(self.run("cut -d' ' -f1 /proc/uptime"))

    def console(self) -> str:
        answer = self.stage.call("POST", f"{self.path}/action", {"os-getConsoleOutput": {}})
        return str(answer["output"])

    # its disks

    def attach(self, volume: Doc) -> str:
        """The device that the volume is in the guest, once it is there."""
        self.stage.make(f"{self.path}/os-volume_attachments", volumeAttachment={"volumeId": volume["id"]})
        self.stage.volume_is(volume["id"], "in-use")
        return self.device(volume)

    def device(self, volume: Doc) -> str:
        look = f"grep -l ^{volume['id'][:20]} /sys/block/vd*/serial"
        found = self.run(f"for i in $(seq 50); do {look} && exit; usleep 200000; done; exit 1")
        return f"/dev/{found.split('/')[3]}"

    def write(self, device: str, text: str) -> None:
        """At the beginning of a disk, past every cache: from now on a power cut loses nothing of it."""
        self.run(f"printf '%s' '{text}' | dd of={device} bs=4k conv=fsync,notrunc 2>/dev/null")

    def read(self, device: str, length: int) -> str:
        return self.run(f"head -c {length} {device}")

    def detach(self, volume: Doc) -> None:
        self.stage.call("DELETE", f"{self.path}/os-volume_attachments/{volume['id']}")
        self.stage.volume_is(volume["id"], "available")


def answers(address: str, port: int) -> bool:
    """Whether somebody takes a TCP connection there."""
    try:
        with socket.create_connection((address, port), timeout=0.5):
            return True
    except OSError:
        return False


class Ticker:
    """A command in a machine that prints lines for as long as its SSH session lives; notes when each one came."""

    COMMAND = "i=0; while :; do i=$((i+1)); echo $i; usleep 100000; done"

    def __init__(self, machine: Machine) -> None:
        assert machine.floating is not None
        keep = ("-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=15")
        words = ["ssh", "-i", str(machine.stage.key), *SSH, *keep, f"root@{machine.floating}", self.COMMAND]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.came: list[tuple[float, int]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: len(self.came) > 5, 30, "the first ticks")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.came.append((time.monotonic(), int(line)))

    def goes_on(self, for_s: float = 20) -> None:
        """Waits for ten more ticks; fails when the session has ended or a line is missing."""
        before = len(self.came)
        until(lambda: len(self.came) > before + 10 or self.process.poll() is not None, for_s, "ticks that go on")
        assert self.process.poll() is None, "the session has ended"
        assert [number for _, number in self.came] == list(range(1, len(self.came) + 1))

    def longest_gap_s(self) -> float:
        moments = [moment for moment, _ in self.came]
        return max(b - a for a, b in itertools.pairwise(moments))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def ticking(machine: Machine) -> Iterator[Ticker]:
    ticker = Ticker(machine)
    try:
        yield ticker
    finally:
        ticker.stop()


def user_data(script: str) -> str:
    return base64.b64encode(script.encode()).decode()


# what a cloud leaves behind

SWITCH_LINKS = ("ovs-netdev", "br-ex", "br-int")
NORTHBOUND = ("Logical_Router", "Logical_Switch", "Logical_Switch_Port", "DHCP_Options", "Port_Group", "NAT", "DNS")


def leaks(cloud: Cloud) -> list[str]:
    """What there is on this machine, and in the cloud's books, of machines, volumes and networks that the API does not
    show any more. The image cache stays."""
    settings = json.loads((cloud.state / "cloud/cloud.json").read_text())
    host, netns = cloud.state / "cloud/host", f"tri-{settings['cloud_id']}-{settings['host']}"
    found = [f"directory {path}" for name in ("machines", "volumes") for path in (host / name).iterdir()]
    found += [f"process {pid}" for pid in qemu_processes(cloud)]
    links = json.loads(output("ip", "-n", netns, "-json", "link", "show", "type", "tun"))
    found += [f"tap {link['ifname']}" for link in links if link.get("ifname", "ovs-netdev") not in SWITCH_LINKS]
    namespaces = output("ip", "netns", "list").splitlines()
    found += [f"namespace {line}" for line in namespaces if line.startswith(f"{netns}-md-")]
    return found + northbound_rows(cloud) + claims(cloud)


def output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def qemu_processes(cloud: Cloud) -> list[int]:
    """Every QEMU whose command line names this cloud's directory."""
    mark, found = str(cloud.state / "cloud").encode(), []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes()
            if b"qemu-system" in words.split(b"\0")[0] and mark in words:
                found.append(int(path.parent.name))
    return found


def northbound(cloud: Cloud, table: str) -> list[Doc]:
    """OVN's rows."""
    select = {"op": "select", "table": table, "where": [], "columns": ["_uuid", "external_ids"]}
    socket = f"unix:{cloud.state}/cloud/ovn/db.sock"
    answer = output("ovsdb-client", "query", socket, json.dumps(["OVN_Northbound", select]))
    return list(json.loads(answer)[0]["rows"])


def northbound_rows(cloud: Cloud) -> list[str]:
    """OVN's rows that belong to no network and no security group that the API shows."""
    kinds = ("networks", "security-groups")
    alive = [thing["id"] for kind in kinds for thing in next(iter(cloud.get(f"{NETWORK}/{kind}").values()))]
    rows = [f"{table} {row['external_ids']}" for table in NORTHBOUND for row in northbound(cloud, table)]
    return [row for row in rows if "'drop'" not in row and not any(one in row for one in alive)]


def claims(cloud: Cloud) -> list[str]:
    """What hosts are still charged with."""
    version = {"OpenStack_API_Version": "compute 2.1"}
    hosts = cloud.get(f"{COMPUTE}/os-hypervisors/detail", **version)["hypervisors"]
    names = ("vcpus_used", "running_vms", "local_gb_used")
    return [f"{host['hypervisor_hostname']} {name}" for host in hosts for name in names if host[name]]


def nothing_is_left(cloud: Cloud, for_s: float = 30) -> None:
    """Fails with what is left, not just with the time that it took."""
    give_up = time.monotonic() + for_s
    while left := leaks(cloud):
        assert time.monotonic() < give_up, left
        time.sleep(0.5)
