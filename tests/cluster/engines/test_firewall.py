"""Who reaches the ports of the controllers' engines: real nftables in network namespaces of this test's own."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from trilith.cluster.cluster_file import ClusterFile, Host, Role
from trilith.cluster.engines.engine import KEY, HostView
from trilith.cluster.engines.firewall import NO_TABLE, PORTS, Firewall
from trilith.cluster.state import Settings, State
from trilith.drivers import linux_net

INSIDE, OUTSIDE = f"tfw{os.getpid()}i", f"tfw{os.getpid()}o"
CONTROLLERS = ("10.9.0.1", "10.9.0.2", "fd09::3")
STRANGERS = ("10.9.0.9", "fd09::9")


def firewall(roles: list[Role], addresses: tuple[str, ...] = CONTROLLERS) -> Firewall:
    hosts = [Host(name=f"c{n}", address=address, roles=["control"]) for n, address in enumerate(addresses, 1)]
    hosts[0] = Host(name="c1", address=addresses[0], roles=roles)
    settings = Settings(cloud_id="t", host="c1", cluster=ClusterFile(hosts=hosts))
    return Firewall(HostView(State(Path("/nonexistent")), settings))


@pytest.fixture
def wire() -> Iterator[None]:
    """One controller, and a namespace with the addresses of everybody else."""
    for namespace in (INSIDE, OUTSIDE):
        linux_net.make_namespace(namespace)
    try:
        linux_net.ip("link", "add", "w0", "netns", INSIDE, "type", "veth", "peer", "name", "w0", "netns", OUTSIDE)
        here = ("10.9.0.1/24", "fd09::1/64")
        there = ("10.9.0.2/24", "fd09::3/64", "10.9.0.9/24", "fd09::9/64")
        for namespace, addresses in ((INSIDE, here), (OUTSIDE, there)):
            with linux_net.in_netns(namespace):
                linux_net.write_sysctl("net/ipv6/conf/w0/disable_ipv6", "0")
            for address in addresses:
                linux_net.ip("-n", namespace, "address", "add", address, "dev", "w0", *_no_wait(address))
            linux_net.ip("-n", namespace, "link", "set", "w0", "up")
            linux_net.ip("-n", namespace, "link", "set", "lo", "up")
        yield
    finally:
        for namespace in (INSIDE, OUTSIDE):
            linux_net.delete_namespace(namespace)


def _no_wait(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def reaches(source: str, port: int, from_inside: bool = False) -> bool:
    """Whether a connection from that address comes to pass at a listener of the controller."""
    six = ":" in source
    family, target = (socket.AF_INET6, "fd09::1") if six else (socket.AF_INET, "10.9.0.1")
    with contextlib.ExitStack() as stack:
        with linux_net.in_netns(INSIDE):
            stack.enter_context(socket.create_server((target, port), family=family))
        with linux_net.in_netns(INSIDE if from_inside else OUTSIDE):
            client = stack.enter_context(socket.socket(family))
        client.settimeout(0.5)
        client.bind((source, 0))
        try:
            client.connect((target, port))
        except TimeoutError:
            return False
        return True


def settle(engine: Firewall) -> int:
    """How many acts it took."""
    acts = 0
    with linux_net.in_netns(INSIDE):
        want = engine.want()
        while todo := engine.plan(want, engine.observe(KEY)):
            acts += 1
            engine.perform(KEY, todo[0])
        assert engine.status(want, engine.observe(KEY)).ready
    return acts


def test_only_controllers_reach_what_is_among_them(wire: None) -> None:
    assert reaches("10.9.0.9", 3306)
    assert settle(firewall(["control"])) == 1
    assert settle(firewall(["control"])) == 0
    for port in (3306, 4567, 11211, 6643):
        assert reaches("10.9.0.2", port)
        assert not reaches("10.9.0.9", port)
    assert reaches("fd09::3", 11211)
    assert not reaches("fd09::9", 11211)
    for port in (443, 6642, 8774, 9200):
        assert port not in PORTS
        assert all(reaches(stranger, port) for stranger in STRANGERS)
    assert reaches("10.9.0.1", 3306, from_inside=True)


def test_it_follows_the_cluster_file_and_ends_with_the_role(wire: None) -> None:
    settle(firewall(["control"]))
    assert settle(firewall(["control"], ("10.9.0.1", "10.9.0.9", "10.9.0.4"))) == 1
    assert reaches("10.9.0.9", 3306)
    assert not reaches("10.9.0.2", 3306)
    assert settle(firewall(["compute"])) == 1
    assert reaches("10.9.0.2", 3306)
    with linux_net.in_netns(INSIDE):
        assert firewall(["compute"]).observe(KEY) == NO_TABLE


def test_a_table_that_somebody_changed_is_set_anew(wire: None) -> None:
    settle(firewall(["control"]))
    with linux_net.in_netns(INSIDE):
        linux_net.run(["nft", "flush", "chain", "inet", "trilith_controllers", "arrivals"])
    assert reaches("10.9.0.9", 3306)
    assert settle(firewall(["control"])) == 1
    assert not reaches("10.9.0.9", 3306)
