"""The network as machines see it: rows compiled from a topology, a real OVN, real packets."""

import contextlib
import copy
import fcntl
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.drivers.ovn_lab import Lab, Machine, lab, wait_for
from tests.plans import topologies as t
from trilith.agent.metadata import Metadata
from trilith.cluster.ovn_engine import prepare_host
from trilith.drivers import linux_net
from trilith.drivers.ovs import METADATA_ADDRESS, MetadataPort
from trilith.network.northbound_plan import compile

PORT = 9000


@pytest.fixture(scope="module")
def cloud() -> Iterator[Lab]:
    with lab(96) as made:
        made.topology = t.small_cloud(made.public)
        for name in ("vm1", "vm2"):
            made.machine(t.port_named(made.topology, name))
        made.sync()
        for machine in made.machines:
            machine.static_address("10.0.0.1")
        yield made


@pytest.fixture(autouse=True)
def same_topology_again(cloud: Lab) -> Iterator[None]:
    before = copy.deepcopy(cloud.topology)
    yield
    cloud.topology = before
    cloud.sync()


class Stream:
    """A TCP connection from `source` (None: the outside) to an echo server on a machine."""

    def __init__(self, server: Machine, address: str, source: Machine | None = None) -> None:
        self.peer = ""
        with linux_net.in_netns(server.netns):
            self._listener = socket.create_server(("0.0.0.0", PORT), reuse_port=True)
        threading.Thread(target=self._echo, daemon=True).start()
        with linux_net.in_netns(source.netns if source else None):
            self._client = socket.socket()
        self._client.settimeout(2)
        try:
            self._client.connect((address, PORT))
        except OSError:
            self.close()
            raise

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            connection, (self.peer, _) = self._listener.accept()
            while data := connection.recv(65536):
                connection.sendall(data)

    def says(self, data: bytes = b"hello", timeout_s: float = 5.0) -> bool:
        """Whether all of it comes back in time."""
        self._client.settimeout(timeout_s)
        threading.Thread(target=self._send, args=(data,), daemon=True).start()
        received = b""
        with contextlib.suppress(TimeoutError):
            while not received.endswith(data):  # what was sent while the way was closed comes first
                received += self._client.recv(65536)
        return received.endswith(data)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._client.sendall(data)

    def close(self) -> None:
        self._client.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def floating(cloud: Lab) -> str:
    return f"{cloud.public}.101"


def test_dhcp_gives_address_routes_and_names(cloud: Lab) -> None:
    lease = cloud.machines[0].lease()
    wanted = {"ip": "10.0.0.11", "mtu": "1442", "domain": "example.org", "dns": "10.0.0.1"}
    assert {name: lease.get(name) for name in wanted} == wanted
    assert lease["staticroutes"] == "169.254.169.254/32 10.0.0.2 0.0.0.0/0 10.0.0.1"


def test_neighbours_and_the_outside_answer(cloud: Lab) -> None:
    one, two = cloud.machines
    assert one.pings(two.address, tries=3)
    assert two.pings(f"{cloud.public}.1", tries=3)


def test_the_outside_sees_the_routers_address_or_the_floating_one(cloud: Lab) -> None:
    seen = []
    with socket.create_server((f"{cloud.public}.1", PORT)) as outside:
        for machine in cloud.machines:
            with linux_net.in_netns(machine.netns):
                client = socket.create_connection((f"{cloud.public}.1", PORT), timeout=5)
            seen.append(outside.accept()[1][0])
            client.close()
    assert seen == [floating(cloud), f"{cloud.public}.20"]


def test_a_floating_address_carries_data_and_can_be_taken_away(cloud: Lab) -> None:
    with Stream(cloud.machines[0], floating(cloud)) as stream:
        assert stream.says(b"x" * 300_000)
        assert stream.peer == f"{cloud.public}.1"
    cloud.topology["floating_ips"] = []
    cloud.sync()
    with pytest.raises(OSError):
        Stream(cloud.machines[0], floating(cloud))


def test_a_rule_taken_away_cuts_an_open_connection(cloud: Lab) -> None:
    rules = cloud.topology["security_group_rules"]
    tcp = next(rule for rule in rules if rule["protocol"] == "tcp")
    with Stream(cloud.machines[0], floating(cloud)) as stream:
        assert stream.says()
        rules.remove(tcp)
        cloud.sync()
        assert not stream.says(timeout_s=1)
        rules.append(tcp)
        cloud.sync()
        assert stream.says(b"again")


def test_the_outside_gets_in_only_by_rule_but_members_of_the_group_always(cloud: Lab) -> None:
    rules = cloud.topology["security_group_rules"]
    cloud.topology["security_group_rules"] = [r for r in rules if r["direction"] == "egress" or r["remote_group_id"]]
    cloud.sync()
    with pytest.raises(OSError):
        Stream(cloud.machines[0], floating(cloud))
    with Stream(cloud.machines[0], "10.0.0.11", source=cloud.machines[1]) as stream:
        assert stream.says()


def test_a_stateless_group_needs_rules_for_both_ways(cloud: Lab) -> None:
    cloud.topology["security_groups"][0]["stateful"] = False
    cloud.sync()
    with Stream(cloud.machines[0], floating(cloud)) as stream:
        assert stream.says()  # answers leave by the egress rule


def test_a_forged_sender_is_dropped_unless_it_is_allowed(cloud: Lab) -> None:
    one, two = cloud.machines
    linux_net.ip("-n", one.netns, "addr", "add", "10.0.0.99/24", "dev", "eth0")
    try:
        assert "100% packet loss" in one.run("ping", "-c1", "-W1", "-I", "10.0.0.99", two.address)
        one.port["allowed_address_pairs"] = [{"ip_address": "10.0.0.99"}]
        t.port_named(cloud.topology, "vm1")["allowed_address_pairs"] = [{"ip_address": "10.0.0.99"}]
        cloud.sync()
        wait_for("allowed", lambda: ", 0% packet loss" in one.run("ping", "-c1", "-W1", "-I", "10.0.0.99", two.address))
    finally:
        linux_net.ip("-n", one.netns, "addr", "del", "10.0.0.99/24", "dev", "eth0")


def test_a_port_that_is_down_is_silent(cloud: Lab) -> None:
    t.port_named(cloud.topology, "vm2")["admin_state_up"] = False
    cloud.sync(until_up=False)
    assert not cloud.machines[0].pings("10.0.0.12")


def test_neighbours_are_found_by_name(cloud: Lab) -> None:
    one = cloud.machines[0]
    for name in ("vm2", "vm2.example.org"):
        said = one.run("busybox", "nslookup", "-type=a", name + ".", "10.0.0.1")
        assert "10.0.0.12" in said, said


def test_ipv6_addresses_come_from_the_router(cloud: Lab) -> None:
    one, two = cloud.machines
    for machine in (one, two):
        own = machine.port["fixed_ips"][1]["ip_address"]
        wait_for("the address", lambda m=machine, a=own: f"{a}/64" in m.run("ip", "-6", "addr", "show", "eth0"), 15)
    assert one.pings(two.port["fixed_ips"][1]["ip_address"], tries=5)
    assert one.pings("fd00:7::1", tries=3)


def test_the_whole_database_is_rewritten_under_a_connection(cloud: Lab) -> None:
    with Stream(cloud.machines[0], floating(cloud)) as stream:
        for _ in range(3):
            cloud.northbound.replace(compile(cloud.topology))
            assert stream.says(b"y" * 100_000)


@pytest.mark.parametrize("name", ["ovs-vswitchd", "ovn-controller", "ovn-northd", "ovsdb-server"])
def test_an_engine_killed_and_started_again_keeps_connections(cloud: Lab, name: str) -> None:
    with Stream(cloud.machines[0], floating(cloud)) as stream:
        assert stream.says()
        cloud.kill(name)
        cloud.start_process(name)
        wait_for("the connection goes on", lambda: stream.says(timeout_s=5), 15)
    cloud.sync()
    wait_for("neighbours answer", lambda: cloud.machines[0].pings("10.0.0.12"))


def fetch(machine: Machine, path: str, timeout_s: float = 5) -> str:
    """By hand, so that the socket is made inside the machine."""
    with linux_net.in_netns(machine.netns):
        client = socket.create_connection((METADATA_ADDRESS, 80), timeout_s)
    with client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: metadata\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while data := client.recv(65536):
            received += data
    head, _, body = received.decode().partition("\r\n\r\n")
    assert " 200 " in head.split("\r\n")[0], head
    return body


@contextlib.contextmanager
def metadata_service(cloud: Lab) -> Iterator[Metadata]:
    documents = {m.address: {"id": m.port["id"], "metadata": {"uuid": m.port["id"], "pad": "x" * 20_000}}
                 for m in cloud.machines}  # fmt: skip
    inside = t.an_id("private")

    def lookup(network_id: str, address: str) -> dict[str, Any] | None:
        return documents.get(address) if network_id == inside else None

    service = Metadata(cloud.network, lookup)
    door = t.port_named(cloud.topology, "metadata")
    port = MetadataPort(door["id"], door["mac_address"], ("10.0.0.2/24",))
    service.set_networks({inside: port})
    yield service
    service.close()


def test_each_machine_reads_its_own_metadata_after_a_restart_too(cloud: Lab) -> None:
    for machine in cloud.machines:
        linux_net.ip("-n", machine.netns, "route", "replace", METADATA_ADDRESS, "via", "10.0.0.2")
    for _ in range(2):
        with metadata_service(cloud):
            for machine in cloud.machines:
                document = json.loads(fetch(machine, "/openstack/latest/meta_data.json"))
                assert document["uuid"] == machine.port["id"]
                assert fetch(machine, "/latest/meta-data/local-ipv4") == machine.address
    with metadata_service(cloud) as service:
        service.set_networks({})
        assert cloud.network.metadata_networks() == set()
        with pytest.raises(OSError):
            fetch(cloud.machines[0], "/openstack", timeout_s=0.5)


def test_ovn_understands_every_match(cloud: Lab) -> None:
    group = cloud.topology["security_groups"][0]
    forms: list[dict[str, Any]] = [
        {"direction": "egress", "remote_ip_prefix": "10.0.0.7/24"},
        {"ethertype": "IPv6", "remote_ip_prefix": "fd00::/8"},
        {"ethertype": "IPv6", "protocol": "icmpv6", "port_range_min": 128, "port_range_max": 0},
        {"protocol": "icmp", "port_range_min": 8},
        {"protocol": "udp", "port_range_min": 1, "port_range_max": 65535},
        {"protocol": "sctp", "port_range_max": 7},
        *({"protocol": name} for name in ("vrrp", "hopopt", "47", "ipv6-frag")),
    ]
    log = cloud.directory / "ovn-controller.log"
    before = len(log.read_text())
    cloud.topology["security_group_rules"] += [t.rule(group, **form) for form in forms]
    cloud.sync()
    complaints = [line for line in log.read_text()[before:].splitlines() if "rror" in line]
    assert complaints == []


def test_the_world_beyond_sees_this_machines_address(cloud: Lab) -> None:
    """Another namespace that has no route back to the public network stands for the world."""
    world = f"{cloud.cloud}-w"
    link = f"w{cloud.cloud[3:]}"[:15]
    linux_net.make_namespace(world)
    try:
        linux_net.ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", world)
        linux_net.ip("addr", "add", "192.0.2.1/24", "dev", link)
        linux_net.ip("link", "set", link, "up")
        linux_net.ip("-n", world, "addr", "add", "192.0.2.2/24", "dev", "eth0")
        linux_net.ip("-n", world, "link", "set", "eth0", "up")
        assert all(machine.pings("192.0.2.2", tries=3) for machine in cloud.machines)
    finally:
        linux_net.delete_link(link)
        linux_net.delete_namespace(world)


ASKING, ASKED = bytes([10, 0, 0, 27]), bytes([10, 0, 0, 1])


def router_answers(netns: str | None, tap: str, mac: str) -> bool:
    """Ask, as a machine that has opened this tap, who is 10.0.0.1."""
    own = bytes.fromhex(mac.replace(":", ""))
    with linux_net.in_netns(netns):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, linux_net.TUNSETIFF, struct.pack("16sH22x", tap.encode(), 0x1002))
    try:
        os.write(tun, b"\xff" * 6 + own + bytes.fromhex("08060001080006040001") + own + ASKING + b"\0" * 6 + ASKED)
        while select.select([tun], [], [], 1)[0]:
            frame = os.read(tun, 4096)
            if frame[12:14] == b"\x08\x06" and frame[28:32] == ASKED and frame[:6] == own:
                return True
        return False
    finally:
        os.close(tun)


def test_a_tap_carries_frames_after_the_switch_or_the_tap_was_made_anew(cloud: Lab) -> None:
    inside, subnet = cloud.topology["networks"][1], cloud.topology["subnets"][1]
    port = t.port("on a tap", inside, (subnet, "10.0.0.27"), binding_host="h1")
    cloud.topology["ports"].append(port)
    mac, netns = port["mac_address"], cloud.host.netns
    tap = cloud.network.plug(port["id"], mac, 1442)
    try:
        cloud.sync()
        wait_for("a first answer", lambda: router_answers(netns, tap, mac))
        cloud.kill("ovs-vswitchd")
        cloud.start_process("ovs-vswitchd")
        wait_for("an answer from the new switch", lambda: router_answers(netns, tap, mac))
        with linux_net.in_netns(netns):
            linux_net.delete_link(tap)
        cloud.network.plug(port["id"], mac, 1442)
        wait_for("an answer by the new tap", lambda: router_answers(netns, tap, mac))
    finally:
        cloud.network.unplug(port["id"])


def test_a_machine_on_the_public_network_itself(cloud: Lab) -> None:
    outside, subnet = cloud.topology["networks"][0], cloud.topology["subnets"][0]
    group = cloud.topology["security_groups"][0]["id"]
    address = f"{cloud.public}.50"
    port = t.port("direct", outside, (subnet, address), binding_host="h1", security_group_ids=[group])
    cloud.topology["ports"].append(port)
    machine = cloud.machine(port)
    try:
        cloud.sync()
        machine.static_address(f"{cloud.public}.1")
        assert machine.pings(f"{cloud.public}.1", tries=3)
        with Stream(machine, address) as stream:
            assert stream.says(b"z" * 100_000)
        with Stream(cloud.machines[0], floating(cloud), source=machine) as stream:
            assert stream.says()
            assert stream.peer == address
    finally:
        cloud.machines.remove(machine)
        cloud.network.unplug(port["id"])
        linux_net.delete_namespace(machine.netns)


def test_the_link_to_the_outside_can_be_made_again(cloud: Lab) -> None:
    linux_net.delete_link(cloud.host.outer_link)
    prepare_host(cloud.host)
    wait_for("the outside answers", lambda: cloud.machines[1].pings(f"{cloud.public}.1"))


def test_a_floating_address_is_reached_from_inside_too(cloud: Lab) -> None:
    one, two = cloud.machines
    with Stream(one, floating(cloud), source=two) as stream:
        assert stream.says()
        assert stream.peer == f"{cloud.public}.20"
