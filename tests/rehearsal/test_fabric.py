"""Names and addresses of a rehearsal's networks: tables, nothing is made."""

import msgspec
import pytest

from trilith.cluster.cluster_file import ClusterFile, Host, Networks, Public
from trilith.cluster.host_packages import all_packages, by_role, host_packages
from trilith.cluster.rehearsal_fabric import LINK_NAME_CHARACTERS, Fabric, port_name
from trilith.cluster.rehearsal_image import parsed_mirrors
from trilith.cluster.state import Problem

LONG = "a-controller-with-a-long-name"
CLUSTER = ClusterFile(
    name="one",
    vip="10.0.0.100",
    networks=Networks(management="10.0.0.0/24", tunnel="10.0.1.0/24", tunnel_mtu=9000),
    public=Public(cidr="10.0.2.0/24"),
    hosts=[
        Host(name="c1", address="10.0.0.1", tunnel_address="10.0.1.1"),
        Host(name=LONG, address="10.0.0.2", tunnel_address="10.0.1.2"),
        Host(name=f"{LONG}2", address="10.0.0.3"),
    ],
)


def test_every_cable_has_a_name_and_an_address_of_its_own() -> None:
    links = [link for host in CLUSTER.hosts for link in Fabric(CLUSTER).links(host)]
    assert len(links) == 9
    for kind in ("port", "mac", "port_mac"):
        assert len({link[kind] for link in links}) == 9
    assert all(len(link["port"]) <= LINK_NAME_CHARACTERS for link in links)
    assert port_name("c1", "tunnel") == "c1-t"


def test_addresses_come_from_the_file() -> None:
    cables = {link["interface"]: link for link in Fabric(CLUSTER).links(CLUSTER.hosts[0])}
    assert [(name, link["address"]) for name, link in cables.items()] == [
        ("eth0", "10.0.0.1/24"),
        ("eth1", "10.0.1.1/24"),
        ("eth2", None),
    ]
    assert [link["mtu"] for link in cables.values()] == [1500, 9000, 1500]


def test_addresses_of_cables_do_not_change_from_day_to_day() -> None:
    assert Fabric(CLUSTER).links(CLUSTER.hosts[0])[0]["mac"] == "02:90:48:f4:4e:41"


def test_this_machine_has_the_last_address_and_the_gateways() -> None:
    assert [wire.operator for wire in Fabric(CLUSTER).wires] == ["10.0.0.254/24", None, "10.0.2.1/24"]
    elsewhere = msgspec.structs.replace(CLUSTER, public=Public(cidr="10.0.2.0/24", gateway="10.0.2.254"))
    assert Fabric(elsewhere).wires[-1].operator == "10.0.2.254/24"


def test_a_cluster_without_a_tunnel_network_has_two_cables() -> None:
    cluster = msgspec.structs.replace(CLUSTER, networks=Networks(management="10.0.0.0/24"))
    assert [link["network"] for link in Fabric(cluster).links(cluster.hosts[0])] == ["management", "provider"]


@pytest.mark.parametrize(
    ("networks", "vip", "said"),
    [
        (Networks(), None, "needs `networks.management`"),
        (Networks(management="10.0.0.0/24"), "10.0.0.254", "10.0.0.254, the last address"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(networks: Networks, vip: str | None, said: str) -> None:
    with pytest.raises(Problem, match=said):
        Fabric(msgspec.structs.replace(CLUSTER, networks=networks, vip=vip))


def test_no_clusters_names_can_be_anothers() -> None:
    fabrics = [Fabric(msgspec.structs.replace(CLUSTER, name=name)) for name in ("one", "one-fabric", "one-c1")]
    names = [[fabric.netns, *(fabric.host_netns(host.name) for host in CLUSTER.hosts)] for fabric in fabrics]
    for fabric, own in zip(fabrics, names, strict=True):
        others = [name for each in names if each is not own for name in each]
        assert not [name for name in others if name.startswith(fabric.host_prefix) or name == fabric.netns]


def test_packages_of_a_host_are_those_of_its_roles() -> None:
    assert "mariadb-server" in host_packages(["control"])
    assert "mariadb-server" not in host_packages(["compute", "logging"])
    assert "openssh-server" in host_packages([])
    assert set(host_packages(by_role())) == set(all_packages())


def test_the_image_comes_from_debians_archives_only() -> None:
    told = """\
deb https://mirror.example/debian/ bookworm main|Debian|bookworm
deb https://mirror.example/debian/ bookworm main|Debian|bookworm
deb https://mirror.example/debian/ bookworm-updates main|Debian|bookworm-updates
deb https://mirror.example/debian/ sid main|Debian|sid
deb https://packages.example/ stable main|Example|stable
"""
    assert parsed_mirrors(told) == [
        "deb https://mirror.example/debian/ bookworm main",
        "deb https://mirror.example/debian/ bookworm-updates main",
    ]
