"""The stock `openstack` client, unmodified: commands as users type them, and the state that each must leave.

The order is one story: two networks, a router, servers, volumes, and everything taken apart again. Lines marked EXTRA
are not part of the recorded list: they make what the story needs (a subnet to take floating addresses from) or clear
the stage between its two acts.
"""

import json
import shlex
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.cloud import Cloud, ssh, until

NETWORK, COMPUTE, VOLUME, IMAGE = "/networking/v2.0", "/compute/v2.1", "/volume/v3", "/image/v2"
Check = Callable[[Cloud, str], Any]
MEMORY: dict[str, Any] = {}


def server(cloud: Cloud, name: str) -> dict[str, Any]:
    found = cloud.named(f"{COMPUTE}/servers/detail", name)
    return found


def status(name: str, wanted: str) -> Check:
    return lambda cloud, out: until(lambda: server(cloud, name)["status"] == wanted, 90, f"{name} {wanted}")


def exists(path: str, name: str) -> Check:
    return lambda cloud, out: cloud.named(path, name)


def says(*words: str) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        for word in words:
            assert word in out, out

    return check


def volume_status(name: str, wanted: str) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        until(lambda: cloud.named(f"{VOLUME}/volumes/detail", name)["status"] == wanted, 60, f"{name} {wanted}")

    return check


def gateway(wanted: bool) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        info = cloud.named(f"{NETWORK}/routers", "r1")["external_gateway_info"]
        assert bool(info) == wanted, info

    return check


def interface(wanted: bool) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        router = cloud.named(f"{NETWORK}/routers", "r1")["id"]
        ports = cloud.get(f"{NETWORK}/ports?device_id={router}&device_owner=network:router_interface")["ports"]
        assert bool(ports) == wanted

    return check


def key_made(cloud: Cloud, out: str) -> None:
    """The client prints the private key that it made; later the machine must know it."""
    path = cloud.state / "k"
    path.touch(mode=0o600)
    path.write_text(out if out.endswith("\n") else out + "\n")
    assert "PRIVATE KEY" in out


def in_guest(cloud: Cloud, command: str) -> str:
    return ssh(MEMORY["address"], cloud.state / "k", command)


def rule(group: str) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        rules = cloud.named(f"{NETWORK}/security-groups", group)["security_group_rules"]
        assert any(r["protocol"] == "tcp" and r["port_range_min"] == 22 for r in rules)

    return check


def took_address(cloud: Cloud, out: str) -> None:
    floating = cloud.get(f"{NETWORK}/floatingips")["floatingips"]
    MEMORY["address"] = floating[-1]["floating_ip_address"]


def reachable(cloud: Cloud, out: str) -> None:
    """Login by the floating address, with the key that the client made; the guest read its name from the metadata."""
    assert in_guest(cloud, "hostname") == "s1"
    assert "vdb" in in_guest(cloud, "cat /proc/partitions")


def console_url(cloud: Cloud, out: str) -> None:
    url = next(word for word in out.split() if word.startswith("http"))
    with urllib.request.urlopen(url, timeout=10) as page:
        assert b"noVNC" in page.read()


def image_active(name: str) -> Check:
    return lambda cloud, out: until(lambda: cloud.named(f"{IMAGE}/images", name)["status"] == "active", 90, name)


def disk_gone(cloud: Cloud, out: str) -> None:
    volume_status("v1", "available")(cloud, out)


def gone(name: str) -> Check:
    def check(cloud: Cloud, out: str) -> None:
        rows = cloud.get(f"{COMPUTE}/servers?name={name}")["servers"]
        assert not [row for row in rows if row["name"] == name]

    return check


def snapshot_there(cloud: Cloud, out: str) -> None:
    until(lambda: cloud.named(f"{VOLUME}/snapshots/detail", "snap1")["status"] == "available", 60, "snap1")


def boots_from_volume(cloud: Cloud, out: str) -> None:
    found = server(cloud, "s2")
    assert found["status"] == "ACTIVE"
    assert found["image"] == ""
    assert len(found["os-extended-volumes:volumes_attached"]) == 1


def two_ports(cloud: Cloud, out: str) -> None:
    found = server(cloud, "s9")["id"]
    assert len(cloud.get(f"{NETWORK}/ports?device_id={found}")["ports"]) == 2


def resized(cloud: Cloud, out: str) -> None:
    until(lambda: server(cloud, "s9")["status"] == "VERIFY_RESIZE", 90, "VERIFY_RESIZE")


FIRST = [
    ("token issue", says("project_id")),
    ("image list", says("trilith-guest", "active")),
    ("flavor list", says("m1.nano", "m1.large")),
    ("network create net1", exists(f"{NETWORK}/networks", "net1")),
    ("subnet create --network net1 --subnet-range 10.0.0.0/24 sub1", exists(f"{NETWORK}/subnets", "sub1")),
    (
        "network create --external --provider-network-type flat --provider-physical-network public ext",
        exists(f"{NETWORK}/networks", "ext"),
    ),
    ("EXTRA subnet create --network ext --subnet-range {range} --gateway {gateway} --no-dhcp "
     "--allocation-pool start={low},end={high} ext-sub", exists(f"{NETWORK}/subnets", "ext-sub")),
    ("router create r1", exists(f"{NETWORK}/routers", "r1")),
    ("router set --external-gateway ext r1", gateway(True)),
    ("router add subnet r1 sub1", interface(True)),
    ("security group rule create --proto tcp --dst-port 22 default", rule("default")),
    ("security group create sg1", exists(f"{NETWORK}/security-groups", "sg1")),
    ("security group rule create --proto tcp --dst-port 22 sg1", rule("sg1")),
    ("keypair create k", key_made),
    ("volume create --size 1 v1", volume_status("v1", "available")),
    (
        "server create --image trilith-guest --flavor m1.tiny --network net1 --security-group sg1 --key-name k "
        "--wait s1",
        status("s1", "ACTIVE"),
    ),
    ("server list", says("s1", "ACTIVE", "trilith-guest", "m1.tiny")),
    ("server show s1", says("s1", "ACTIVE", "sg1")),
    ("server add volume s1 v1", volume_status("v1", "in-use")),
    ("floating ip create ext", took_address),
    ("server add floating ip s1 {address}", reachable),
    ("console log show s1", says("login")),
    ("console url show s1", console_url),
    (
        "server create --flavor m1.tiny --network net1 --image trilith-guest --boot-from-volume 1 --wait s2",
        boots_from_volume,
    ),
    ("server image create --name snap s1", image_active("snap")),
    ("server stop s1", status("s1", "SHUTOFF")),
    (
        "image create --disk-format qcow2 --container-format bare --file {file} img2",
        image_active("img2"),
    ),
    ("quota show", says("cores", "volumes", "networks")),
    ("hypervisor list", says("up")),
    ("compute service list", says("nova-compute", "enabled", "up")),
    ("availability zone list", says("nova", "available")),
    ("limits show --absolute", says("total_cores", "max_total_volumes")),
    ("EXTRA server remove volume s1 v1", disk_gone),
    ("volume snapshot create --volume v1 snap1", snapshot_there),
    ("EXTRA server add volume s1 v1", volume_status("v1", "in-use")),
    ("server remove volume s1 v1", disk_gone),
    ("server delete --wait s1", gone("s1")),
    ("EXTRA server delete --wait s2", gone("s2")),
    ("EXTRA floating ip delete {address}", None),
    ("router remove subnet r1 sub1", interface(False)),
    ("router unset --external-gateway r1", gateway(False)),
    ("network list", says("net1", "ext", "public")),
    ("port list", None),
    ("catalog list", says("compute", "identity", "network", "image")),
    ("versions show", says("2.104", "3.71")),
]  # fmt: skip
CLEARED = [
    ("EXTRA router delete r1", None),
    ("EXTRA network delete net1", None),
    ("EXTRA network delete ext", None),
    ("EXTRA security group delete sg1", None),
]
SECOND = [
    ("network create --external ext", exists(f"{NETWORK}/networks", "ext")),
    ("network create net1", exists(f"{NETWORK}/networks", "net1")),
    ("subnet create --network net1 --subnet-range 10.0.0.0/24 sub1", exists(f"{NETWORK}/subnets", "sub1")),
    ("router create r1", exists(f"{NETWORK}/routers", "r1")),
    ("router set --external-gateway ext r1", gateway(True)),
    ("security group create sg1", exists(f"{NETWORK}/security-groups", "sg1")),
    ("security group list", says("sg1", "default")),
    ("port create --network net1 p1", exists(f"{NETWORK}/ports", "p1")),
    ("server create --image trilith-guest --flavor m1.tiny --nic port-id=p1 --wait s9", status("s9", "ACTIVE")),
    ("server reboot --wait s9", status("s9", "ACTIVE")),
    ("server resize --flavor m1.micro --wait s9", resized),
    ("EXTRA server resize confirm s9", status("s9", "ACTIVE")),
    ("server rebuild --image trilith-guest --wait s9", status("s9", "ACTIVE")),
    ("server add network s9 net1", two_ports),
    ("server migration list", says("resize")),
    ("volume list", says("v1", "available")),
    ("volume type list", says("__DEFAULT__")),
    ("project list", says("admin", "demo")),
    ("user list", says("admin", "demo")),
    ("role assignment list", None),
]


@pytest.mark.parametrize(("line", "check"), [pytest.param(*step, id=step[0][:60]) for step in FIRST + CLEARED + SECOND])
def test_command(cloud: Cloud, line: str, check: Check | None) -> None:
    command = line.removeprefix("EXTRA ").format(**facts(cloud))
    done = cloud.openstack(*shlex.split(command))
    if check is not None:
        check(cloud, done.stdout)


def facts(cloud: Cloud) -> dict[str, str]:
    """Names and addresses as this cloud has them. The machine itself is the gateway of the outside."""
    settings = json.loads((cloud.state / "cloud/cloud.json").read_text())
    base = settings["public_cidr"].rpartition(".")[0]
    image = next(iter(Path(cloud.env["TRILITH_CACHE"]).glob("guest/*/trilith-guest.qcow2")))
    return {
        "range": settings["public_cidr"],
        "gateway": f"{base}.1",
        "low": f"{base}.251",
        "high": f"{base}.253",
        "file": str(image),
        "address": MEMORY.get("address", ""),
    }
