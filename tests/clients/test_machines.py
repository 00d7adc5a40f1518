"""Machines as their users meet them: from outside by SSH, and with the guest as the witness of what was done to it."""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.clients.cloud import Cloud, until
from tests.clients.stage import (
    COMPUTE,
    NETWORK,
    Doc,
    Machine,
    Stage,
    answers,
    nothing_is_left,
    qemu_processes,
    user_data,
)

SCRIPT = "#!/bin/sh\necho $(hostname) >>/root/user-data-ran\n"
OTHER_ADDRESS = "10.77.0.200"
MIB_OF_KERNEL = 80  # at most so much of a machine's memory does not show as MemTotal


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    return Stage(cloud)


@pytest.fixture(scope="module")
def pair(stage: Stage) -> tuple[Machine, Machine]:
    """`one` has a floating address and user data; `two` has a config drive, and no address of its own outside."""
    one = stage.machine("one", user_data=user_data(SCRIPT), metadata={"role": "first"})
    two = stage.machine("two", config_drive=True)
    one.ready().give_address()
    two.ready()
    one.booted()
    two.run("until [ -e /run/booted ]; do usleep 100000; done", through=one)
    return one, two


@pytest.fixture(scope="module")
def one(pair: tuple[Machine, Machine]) -> Machine:
    return pair[0]


@pytest.fixture(scope="module")
def two(pair: tuple[Machine, Machine]) -> Machine:
    return pair[1]


# from outside, and its network


def test_metadata_says_who_it_is(stage: Stage, one: Machine) -> None:
    row = one.row()
    document = json.loads(one.run("curl -s http://169.254.169.254/openstack/latest/meta_data.json"))
    assert document["uuid"] == one.id
    assert (document["name"], document["hostname"], document["meta"]) == ("one", "one", {"role": "first"})
    assert (document["project_id"], document["launch_index"]) == (row["tenant_id"], 0)
    assert document["availability_zone"] == row["OS-EXT-AZ:availability_zone"]
    assert document["public_keys"] == {"stage": stage.public_key}
    assert document["keys"] == [{"name": "stage", "type": "ssh", "data": stage.public_key}]
    network = json.loads(one.run("curl -s http://169.254.169.254/openstack/latest/network_data.json"))
    assert [link["ethernet_mac_address"] for link in network["links"]] == [one.ports()[0]["mac_address"]]


def test_metadata_of_old(stage: Stage, one: Machine) -> None:
    facts = one.run(
        "for name in local-ipv4 public-ipv4 hostname instance-id public-keys/0/openssh-key instance-type; do "
        "curl -s http://169.254.169.254/latest/meta-data/$name; echo; done"
    ).splitlines()
    assert facts[:2] == [one.address(), one.floating]
    assert facts[2].split(".")[0] == "one"
    assert facts[3].startswith("i-")
    assert facts[4] == stage.public_key
    assert facts[5] == "m1.nano"


def test_user_data_ran_once(one: Machine) -> None:
    assert one.run("cat /root/user-data-ran") == "one"
    assert one.run("curl -s http://169.254.169.254/openstack/latest/user_data") == SCRIPT.strip()


def test_config_drive(one: Machine, two: Machine) -> None:
    script = "mkdir -p /mnt/config; mount -o ro /dev/sr0 /mnt/config; cat /mnt/config/openstack/latest/meta_data.json"
    document = json.loads(two.run(f"{script}; umount /mnt/config", through=one))
    assert (document["uuid"], document["name"]) == (two.id, "two")
    assert "described by the config drive" in two.console()
    assert two.row()["config_drive"] == "True"


class Greeter(socketserver.StreamRequestHandler):
    """Tells whoever comes where they come from."""

    def handle(self) -> None:
        self.wfile.write(f"{self.client_address[0]}\n".encode())


@pytest.fixture
def greeter(cloud: Cloud) -> Iterator[tuple[str, int]]:
    """A service of the outside world, at the public network's gateway."""
    cidr = json.loads((cloud.state / "cloud/cloud.json").read_text())["public_cidr"]
    with socketserver.ThreadingTCPServer((f"{cidr.rpartition('.')[0]}.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_address[0]), server.server_address[1]
        server.shutdown()


def test_the_outside_sees_router_or_floating_address(
    stage: Stage, one: Machine, two: Machine, greeter: tuple[str, int]
) -> None:
    ask = f"nc -w 5 {greeter[0]} {greeter[1]} </dev/null"
    assert one.run(ask) == one.floating
    gateway = stage.router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
    assert two.run(ask, through=one) == gateway


def test_neighbour_by_address_and_by_name(one: Machine, two: Machine) -> None:
    for name in (two.address(4), two.address(6), "two"):
        one.run(f"ping -c 1 -W 3 {name}")
    assert two.run("nslookup one", through=one).splitlines()[-1].split()[-1] == one.address(6)


def test_addresses_are_the_ports(one: Machine) -> None:
    """DHCP gives the port's IPv4 address and MTU; by router advertisements the guest makes the IPv6 one itself."""
    port = one.ports()[0]
    look = (
        "for i in $(seq 50); do ip -6 -o addr show dev eth0 scope global | grep -q inet6 && break; usleep 100000; done"
    )
    shown = one.run(f"{look}; ip -o addr show dev eth0; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu")
    for fixed in port["fixed_ips"]:
        assert f"{fixed['ip_address']}/" in shown
    assert port["mac_address"] in shown
    assert shown.splitlines()[-1] == str(stage_mtu(one))


def stage_mtu(machine: Machine) -> int:
    return int(machine.stage.get(f"{NETWORK}/networks/{machine.stage.network['id']}")["mtu"])


def test_rule_taken_away_cuts_an_open_connection(stage: Stage, one: Machine) -> None:
    """And given again, lets it go on."""
    rule = stage.allow("tcp", 7000)
    one.run("(while :; do echo tick; usleep 100000; done | nc -l -p 7000) </dev/null >/dev/null 2>&1 & sleep 0.3")
    with opened(one.floating or "", 7000) as stream:
        stream.settimeout(0.2)
        until(lambda: arrives(stream), 10, "ticks")
        stage.call("DELETE", f"{NETWORK}/security-group-rules/{rule['id']}")
        until(lambda: all(not arrives(stream) for _ in range(5)), 10, "silence")
        assert not answers(one.floating or "", 7000)
        stage.allow("tcp", 7000)
        until(lambda: arrives(stream), 30, "ticks again")


def opened(address: str, port: int) -> socket.socket:
    """A connection to what lets in just one: no try before it."""

    def connection() -> socket.socket | None:
        try:
            return socket.create_connection((address, port), timeout=1)
        except OSError:
            return None

    found: socket.socket = until(connection, 20, "a connection")
    return found


def arrives(stream: socket.socket) -> bool:
    """Whether there is something to read now. Asks for it, too: only the side that began may take the word again."""
    try:
        stream.send(b"go on\n")
        return stream.recv(65536) != b""
    except TimeoutError:
        return False


def test_foreign_source_address_is_dropped_until_allowed(stage: Stage, one: Machine, two: Machine) -> None:
    def pings_seen() -> int:
        return int(two.run("awk '/^Icmp:/ && $2 ~ /[0-9]/ {print $10}' /proc/net/snmp", through=one))

    one.run(f"ip addr add {OTHER_ADDRESS}/24 dev eth0")
    # the neighbour's address is known: nothing but the foreign source keeps the pings from it
    spoof = f"ping -c 1 {two.address()} >/dev/null; ping -I {OTHER_ADDRESS} -c 3 -i 0.3 -W 1 {two.address()}; true"
    before = pings_seen()
    assert "100% packet loss" in one.run(spoof)
    assert pings_seen() == before + 1
    port = f"{NETWORK}/ports/{one.ports()[0]['id']}"
    stage.call("PUT", port, {"port": {"allowed_address_pairs": [{"ip_address": OTHER_ADDRESS}]}})
    until(lambda: " 0% packet loss" in one.run(spoof), 20, "pings from the allowed address")
    stage.call("PUT", port, {"port": {"allowed_address_pairs": []}})
    until(lambda: "100% packet loss" in one.run(spoof), 20, "dropped again")
    one.run(f"ip addr del {OTHER_ADDRESS}/24 dev eth0")


# what is done to it


def test_soft_reboot(one: Machine) -> None:
    before = one.booted()
    one.run("echo kept >/root/file; sync")
    one.act("reboot", {"type": "SOFT"})
    assert one.booted() != before
    assert one.run("cat /root/file /root/user-data-ran") == "kept\none"


def test_hard_reboot(one: Machine) -> None:
    before = one.booted()
    one.act("reboot", {"type": "HARD"})
    assert one.booted() != before


def test_stop_and_start(cloud: Cloud, one: Machine) -> None:
    before, running = one.booted(), len(qemu_processes(cloud))
    one.act("os-stop", then="SHUTOFF")
    assert len(qemu_processes(cloud)) == running - 1
    one.act("os-start")
    assert one.booted() != before
    assert one.run("cat /root/file") == "kept"


def test_pause_and_unpause(one: Machine) -> None:
    boot_id, before = one.booted(), one.uptime_s()
    one.act("pause", then="PAUSED")
    assert not answers(one.floating or "", 22)
    begun = time.monotonic()
    time.sleep(2)
    one.act("unpause")
    assert one.booted() == boot_id
    assert before <= one.uptime_s() < before + (time.monotonic() - begun) + 30


def test_suspend_and_resume(cloud: Cloud, one: Machine) -> None:
    boot_id, before, running = one.booted(), one.uptime_s(), len(qemu_processes(cloud))
    one.run("touch /dev/shm/in-memory")
    one.act("suspend", then="SUSPENDED")
    assert len(qemu_processes(cloud)) == running - 1
    one.act("resume")
    assert one.booted() == boot_id
    assert one.uptime_s() >= before
    one.run("ls /dev/shm/in-memory")


def memory_mib(machine: Machine) -> int:
    return int(machine.run("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))


def test_resize_confirmed_and_reverted(stage: Stage, one: Machine) -> None:
    one.act("resize", {"flavorRef": stage.flavor("m1.micro")}, then="VERIFY_RESIZE")
    assert 192 - MIB_OF_KERNEL < memory_mib(one) < 192
    one.act("confirmResize")
    one.act("resize", {"flavorRef": stage.flavor("m1.tiny")}, then="VERIFY_RESIZE")
    assert 512 - MIB_OF_KERNEL < memory_mib(one) < 512
    one.act("revertResize")
    assert memory_mib(one) < 192
    assert one.row()["flavor"]["original_name"] == "m1.micro"
    assert one.run("cat /root/file") == "kept"


def test_rebuild(stage: Stage, one: Machine) -> None:
    before = (one.address(4), one.address(6), one.ports()[0]["id"])
    answer = one.act("rebuild", {"imageRef": stage.image["id"]})
    assert answer["server"]["adminPass"]
    one.booted()
    assert one.run("ls /root/file 2>&1; cat /root/user-data-ran").splitlines()[1:] == ["one"]
    assert (one.address(4), one.address(6), one.ports()[0]["id"]) == before


@pytest.fixture
def second_network(stage: Stage) -> Iterator[Doc]:
    network = stage.make(f"{NETWORK}/networks", network={"name": "second"})
    subnet = {"network_id": network["id"], "ip_version": 4, "cidr": "10.78.0.0/24", "gateway_ip": None}
    stage.make(f"{NETWORK}/subnets", subnet=subnet)
    yield network
    stage.call("DELETE", f"{NETWORK}/networks/{network['id']}")


def test_interface_comes_and_goes(one: Machine, second_network: Doc) -> None:
    one.booted()
    added = one.stage.make(f"{one.path}/os-interface", interfaceAttachment={"net_id": second_network["id"]})
    address = added["fixed_ips"][0]["ip_address"]
    one.run(f"for i in $(seq 100); do ip -o addr | grep ' {address}/' && exit; usleep 200000; done; exit 1")
    assert one.row()["addresses"]["second"][0]["addr"] == address
    one.stage.call("DELETE", f"{one.path}/os-interface/{added['port_id']}")
    until(lambda: one.run("ls /sys/class/net").split() == ["eth0", "lo"], 20, "the card gone")
    one.ready()
    assert "second" not in one.row()["addresses"]


def test_password_needs_an_agent_in_the_guest(stage: Stage, one: Machine) -> None:
    stage.refused("POST", f"{one.path}/action", {"changePassword": {"adminPass": "secret"}}, 409)
    one.ready()


def test_console_log(one: Machine) -> None:
    assert f"instance {one.id}, described by the metadata service" in one.console()
    last = one.stage.call("POST", f"{one.path}/action", {"os-getConsoleOutput": {"length": 3}})["output"]
    assert one.console().endswith(last)
    assert 1 <= len(last.splitlines()) <= 3


def test_lock(stage: Stage, one: Machine) -> None:
    one.act("lock", {"locked_reason": "mine"})
    assert "locked" in stage.refused("POST", f"{one.path}/action", {"os-stop": None}, 409)
    stage.refused("DELETE", one.path, status=409)
    assert (one.row()["locked"], one.row()["locked_reason"]) == (True, "mine")
    one.act("unlock")
    assert one.row()["locked"] is False


def test_nothing_is_left(cloud: Cloud, stage: Stage, pair: tuple[Machine, Machine]) -> None:
    stage.clear()
    nothing_is_left(cloud)
    assert stage.get(f"{COMPUTE}/servers") == []
