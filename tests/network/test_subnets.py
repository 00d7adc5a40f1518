import ipaddress
from typing import Any

import pytest

from tests.client import ADMIN, STRANGER
from tests.network.conftest import Networking, error
from trilith.network.subnets import default_pools


def test_what_is_not_said_is_filled_in(net: Networking) -> None:
    network, subnet = net.network("10.1.0.0/29")
    shown = net.show("subnet", subnet)
    assert shown["gateway_ip"] == "10.1.0.1"
    assert shown["allocation_pools"] == [{"start": "10.1.0.2", "end": "10.1.0.6"}]
    assert shown["enable_dhcp"] is True
    assert net.show("network", network)["subnets"] == [subnet]
    assert net.get(f"/subnets/{subnet}", STRANGER).status == 404


@pytest.mark.parametrize(
    ("cidr", "gateway", "pools"),
    [
        ("10.0.0.0/24", "10.0.0.1", [("10.0.0.2", "10.0.0.254")]),
        ("10.0.0.0/24", "10.0.0.254", [("10.0.0.1", "10.0.0.253")]),
        ("10.0.0.0/24", "10.0.0.9", [("10.0.0.1", "10.0.0.8"), ("10.0.0.10", "10.0.0.254")]),
        ("10.0.0.0/24", None, [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/24", "192.168.0.1", [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/31", None, [("10.0.0.0", "10.0.0.1")]),
        ("2001:db8::/126", "2001:db8::1", [("2001:db8::2", "2001:db8::3")]),
    ],
)
def test_default_pools(cidr: str, gateway: str | None, pools: list[tuple[str, str]]) -> None:
    assert [(p["start"], p["end"]) for p in default_pools(ipaddress.ip_network(cidr), gateway)] == pools


def pool(start: int, end: int) -> dict[str, str]:
    """Addresses counted from 10.9.0.0."""
    first = ipaddress.ip_address("10.9.0.0")
    return {"start": str(first + start), "end": str(first + end)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cidr": "10.0.0.5/24"}, (400, "HTTPBadRequest")),
        ({"cidr": "2001:db8::/64"}, (400, "InvalidInput")),
        ({"cidr": "10.0.0.0/25"}, (400, "InvalidInput")),  # overlaps the one that is there
        ({"gateway_ip": "10.9.0.0"}, (400, "InvalidInput")),
        ({"allocation_pools": [pool(9, 5)]}, (400, "InvalidAllocationPool")),
        ({"allocation_pools": [pool(9, 260)]}, (400, "OutOfBoundsAllocationPool")),
        ({"allocation_pools": [pool(5, 9), pool(9, 12)]}, (409, "OverlappingAllocationPools")),
        ({"gateway_ip": "10.9.0.7", "allocation_pools": [pool(5, 9)]}, (409, "GatewayConflictWithAllocationPools")),
        ({"ipv6_ra_mode": "slaac"}, (400, "InvalidInput")),
        ({"dns_nameservers": [f"9.9.9.{n}" for n in range(6)]}, (400, "DNSNameServersExhausted")),
        ({"cidr": None}, (400, "BadRequest")),
    ],
)
def test_bad_subnets(net: Networking, fields: dict[str, Any], expected: tuple[int, str]) -> None:
    network, _ = net.network()
    before = net.ids("/subnets")
    assert net.refused("subnet", network_id=network, ip_version=4, **{"cidr": "10.9.0.0/24"} | fields) == expected
    assert net.ids("/subnets") == before


def test_ipv6_modes(net: Networking) -> None:
    network = net.make("network")["id"]
    slaac: dict[str, Any] = {"ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    assert net.refused("subnet", network_id=network, cidr="2001:db8::/80", **slaac) == (400, "InvalidInput")
    mixed = slaac | {"ipv6_address_mode": "dhcpv6-stateful"}
    assert net.refused("subnet", network_id=network, cidr="2001:db8::/64", **mixed) == (400, "InvalidInput")
    early = net.make("port", network_id=network, mac_address=None)
    net.make("subnet", network_id=network, cidr="2001:db8::/64", **slaac)
    late = net.make("port", network_id=network)
    for port in (net.show("port", early["id"]), late):
        assert port["fixed_ips"][0]["ip_address"].startswith("2001:db8::f816:3eff:fe")


def test_update(net: Networking) -> None:
    _, subnet = net.network()
    wanted = {
        "name": "s",
        "dns_nameservers": ["8.8.8.8"],
        "host_routes": [{"destination": "10.20.0.0/32", "nexthop": "10.0.0.9"}],
        "gateway_ip": None,
    }
    changed = net.put(f"/subnets/{subnet}", {"subnet": wanted}).json["subnet"]
    assert {name: changed[name] for name in wanted} == wanted
    assert net.put(f"/subnets/{subnet}", {"subnet": {"cidr": "10.3.0.0/24"}}).status == 400
    pools = [{"start": "10.0.0.20", "end": "10.0.0.30"}]
    assert (
        net.put(f"/subnets/{subnet}", {"subnet": {"allocation_pools": pools}}).json["subnet"]["allocation_pools"]
        == pools
    )


def test_the_gateway_of_a_router_stays(net: Networking) -> None:
    _, subnet = net.network()
    router = net.make("router")["id"]
    net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet})
    changed = net.put(f"/subnets/{subnet}", {"subnet": {"gateway_ip": "10.0.0.77"}})
    assert changed.status == 409


def test_delete(net: Networking) -> None:
    network, subnet = net.network()
    port = net.make("port", network_id=network)
    assert error(net.delete(f"/subnets/{subnet}")) == (409, "SubnetInUse")
    net.delete(f"/ports/{port['id']}")
    assert net.delete(f"/subnets/{subnet}").status == 204
    assert net.ids("/ports") == set()


def test_the_metadata_port_follows_dhcp(net: Networking) -> None:
    network, subnet = net.network(enable_dhcp=False)
    assert net.ids("/ports") == set()
    net.put(f"/subnets/{subnet}", {"subnet": {"enable_dhcp": True}})
    other = net.make("subnet", network_id=network, cidr="10.5.0.0/24", ip_version=4)
    (port,) = net.get("/ports").json["ports"]
    assert (port["device_owner"], port["project_id"]) == ("network:distributed", "p1")
    assert {fixed["subnet_id"] for fixed in port["fixed_ips"]} == {subnet, other["id"]}
    net.put(f"/subnets/{subnet}", {"subnet": {"enable_dhcp": False}})
    (port,) = net.get("/ports").json["ports"]
    assert {fixed["subnet_id"] for fixed in port["fixed_ips"]} == {other["id"]}
    assert net.delete(f"/subnets/{other['id']}").status == 204
    assert net.ids("/ports") == set()


def test_subnets_of_others_networks(net: Networking) -> None:
    shared = net.make("network", ADMIN, shared=True)["id"]
    assert net.refused("subnet", network_id=shared, cidr="10.0.0.0/24", ip_version=4)[0] == 403
    assert (
        net.refused("subnet", network_id=net.make("network", STRANGER)["id"], cidr="10.0.0.0/24", ip_version=4)[0]
        == 404
    )


def test_pools(net: Networking) -> None:
    pool = net.make("subnetpool", name="p", prefixes=["10.8.0.0/16", "10.9.0.0/16"], default_prefixlen=24)
    assert (pool["prefixes"], pool["min_prefixlen"], pool["ip_version"]) == (["10.8.0.0/15"], "8", 4)
    network = net.make("network")["id"]
    cidrs = [
        net.make("subnet", network_id=network, subnetpool_id=pool["id"], ip_version=4, **more)["cidr"]
        for more in ({}, {"prefixlen": 26}, {"cidr": "10.9.0.0/24"}, {})
    ]
    assert cidrs == ["10.8.0.0/24", "10.8.1.0/26", "10.9.0.0/24", "10.8.2.0/24"]
    again = {"network_id": network, "subnetpool_id": pool["id"], "ip_version": 4}
    assert net.refused("subnet", **again, cidr="10.8.0.0/26")[0] == 409
    assert net.refused("subnet", **again, prefixlen=4) == (400, "MinPrefixSubnetAllocationError")
    assert error(net.delete(f"/subnetpools/{pool['id']}")) == (400, "SubnetPoolDeleteError")
    net.delete(f"/networks/{network}")
    smaller = {"subnetpool": {"prefixes": ["10.8.0.0/16"]}}
    assert error(net.put(f"/subnetpools/{pool['id']}", smaller)) == (400, "IllegalSubnetPoolPrefixUpdate")
    assert net.delete(f"/subnetpools/{pool['id']}").status == 204
    assert net.refused("subnetpool", prefixes=["10.0.0.0/8", "2001:db8::/32"]) == (400, "PrefixVersionMismatch")
