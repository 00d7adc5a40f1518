"""The switch of a host: one suite, on the fake and on a real Open vSwitch."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.drivers.ovn_lab import Lab, lab, wait_for
from tests.plans.topologies import an_id
from trilith.drivers import linux_net
from trilith.drivers.ovs import HostNetwork, MetadataPort, tap_name
from trilith.drivers.ovs_fake import FakeHostNetwork
from trilith.kernel.errors import Unavailable

MAC = "fa:16:3e:00:00:01"
DOOR = MetadataPort(an_id("door"), "fa:16:3e:00:00:02", ("10.0.0.2/24",))


@pytest.fixture(scope="module")
def real() -> Iterator[Lab]:
    with lab(95) as made:
        yield made


@pytest.fixture(params=["fake", "real"])
def network(request: pytest.FixtureRequest) -> Any:
    return FakeHostNetwork() if request.param == "fake" else request.getfixturevalue("real").network


def test_a_port_is_plugged_and_unplugged(network: Any) -> None:
    port = an_id("a port")
    for _ in range(2):
        assert network.plug(port, MAC, 1442, owner_uid=65534) == tap_name(port)
        assert network.plugged() == {port: tap_name(port)}
    for _ in range(2):
        network.unplug(port)
        assert network.plugged() == {}


def test_metadata_comes_and_goes(network: Any) -> None:
    net = an_id("a network")
    name = network.ensure_metadata(net, DOOR)
    assert network.ensure_metadata(net, DOOR) == name == network.metadata_namespace(net)
    assert network.metadata_networks() == {net}
    assert network.plugged() == {}
    for _ in range(2):
        network.remove_metadata(net)
        assert network.metadata_networks() == set()


def test_the_tap_is_persistent_and_has_its_mtu(real: Lab) -> None:
    port = an_id("a port")
    tap = real.network.plug(port, MAC, 1400, owner_uid=65534)
    said = linux_net.ip("-n", real.host.netns, "-d", "link", "show", tap)
    assert "mtu 1400" in said
    assert "persist on" in said
    assert "user nobody" in said
    again = HostNetwork(str(real.host.socket), real.host.netns, real.host.datapath)
    assert again.plugged() == {port: tap}
    again.close()
    real.network.unplug(port)
    with linux_net.in_netns(real.host.netns):
        assert not linux_net.link_exists(tap)


def test_a_tap_that_vanished_is_made_again(real: Lab) -> None:
    port = an_id("a port")
    tap = real.network.plug(port, MAC, 1400)
    with linux_net.in_netns(real.host.netns):
        linux_net.delete_link(tap)
    real.network.plug(port, MAC, 1400)
    wait_for("the switch took the new tap", lambda: _works(real, tap))
    real.network.unplug(port)


def _works(real: Lab, link: str) -> bool:
    words = ["ovs-vsctl", f"--db={real.host.remote}", "get", "Interface", link, "link_state", "ofport"]
    state, number = linux_net.run(words).split()
    return number.isdigit() and state in ("up", "down")


def test_taps_of_a_crash_are_swept(real: Lab) -> None:
    port = an_id("kept")
    kept = real.network.plug(port, MAC, 1400)
    with linux_net.in_netns(real.host.netns):
        linux_net.make_tap("tapleft", 0)
        real.network.sweep()
        assert linux_net.links("tap") == {kept}
    real.network.unplug(port)


def test_a_metadata_namespace_that_is_half_there_is_completed(real: Lab) -> None:
    net = an_id("a network")
    name = real.network.ensure_metadata(net, DOOR)
    linux_net.delete_namespace(name)
    assert real.network.metadata_networks() == {net}
    real.network.ensure_metadata(net, DOOR)
    moved = MetadataPort(DOOR.port_id, DOOR.mac, ("10.0.0.3/24", "fd00::3/64"))
    real.network.ensure_metadata(net, moved)
    said = linux_net.ip("-n", name, "-br", "addr", "show", "dev", "eth0")
    assert set(said.split()[2:]) == {"10.0.0.3/24", "169.254.169.254/32"}
    real.network.remove_metadata(net)


def test_metadata_soon_forgets_who_had_an_address(real: Lab) -> None:
    """The address of a deleted machine may be another's, with another MAC, a moment later."""
    net = an_id("a network")
    name = real.network.ensure_metadata(net, DOOR)
    linux_net.ip("-n", name, "neigh", "replace", "10.0.0.9", "lladdr", MAC, "dev", "eth0", "nud", "reachable")

    def forgotten() -> bool:
        with linux_net.in_netns(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"are you there", ("10.0.0.9", 9))
        return MAC not in linux_net.ip("-n", name, "neigh", "show", "10.0.0.9")

    wait_for("the neighbour is forgotten", forgotten)
    real.network.remove_metadata(net)


def test_without_the_namespace_it_is_unavailable(real: Lab) -> None:
    lost = HostNetwork(str(real.host.socket), "t3-nowhere", "netdev")
    with pytest.raises(Unavailable):
        lost.plug(an_id("a port"), MAC, 1442)
    lost.close()
