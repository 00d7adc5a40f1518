from typing import Any

import pytest

from tests.client import ADMIN, STRANGER
from tests.network.conftest import Networking, error


def test_the_default_group(net: Networking) -> None:
    (group,) = net.get("/security-groups?name=default").json["security_groups"]
    assert group["project_id"] == "p1"
    rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in group["security_group_rules"]}
    egress = {("egress", "IPv4", None), ("egress", "IPv6", None)}
    assert rules == egress | {("ingress", "IPv4", group["id"]), ("ingress", "IPv6", group["id"])}
    assert net.ids("/security-groups") == {group["id"]}
    assert error(net.delete(f"/security-groups/{group['id']}")) == (409, "SecurityGroupCannotRemoveDefault")
    rename = {"security_group": {"name": "x"}}
    assert error(net.put(f"/security-groups/{group['id']}", rename)) == (409, "SecurityGroupCannotUpdateDefault")
    assert net.refused("security_group", name="default") == (409, "SecurityGroupDefaultAlreadyExists")
    assert net.get(f"/security-groups/{group['id']}", STRANGER).status == 404


def test_an_admin_finds_the_default_group_of_a_project_that_never_looked(net: Networking) -> None:
    (group,) = net.get("/security-groups?name=default&project_id=p7", ADMIN).json["security_groups"]
    assert group["project_id"] == "p7"
    assert net.get("/security-groups?project_id=p8").json["security_groups"] == []
    assert net.ids("/security-groups?project_id=p8", ADMIN) != set()


def test_life(net: Networking) -> None:
    group = net.make("security_group", name="g")
    assert [rule["direction"] for rule in group["security_group_rules"]] == ["egress", "egress"]
    changed = net.put(f"/security-groups/{group['id']}", {"security_group": {"description": "d"}}).json[
        "security_group"
    ]
    assert (changed["name"], changed["description"], changed["stateful"]) == ("g", "d", True)
    network, _ = net.network()
    port = net.make("port", network_id=network, security_groups=[group["id"]])
    assert error(net.delete(f"/security-groups/{group['id']}")) == (409, "SecurityGroupInUse")
    net.delete(f"/ports/{port['id']}")
    assert net.delete(f"/security-groups/{group['id']}").status == 204
    assert error(net.get(f"/security-groups/{group['id']}")) == (404, "SecurityGroupNotFound")
    assert net.ids(f"/security-group-rules?security_group_id={group['id']}") == set()


def test_rules(net: Networking) -> None:
    group = net.make("security_group", name="g")["id"]
    wanted = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    rule = net.make(
        "security_group_rule", **wanted, port_range_min=22, port_range_max=22, remote_ip_prefix="10.0.0.5/24"
    )
    assert (rule["remote_ip_prefix"], rule["normalized_cidr"]) == ("10.0.0.5/24", "10.0.0.0/24")
    assert (rule["ethertype"], rule["project_id"]) == ("IPv4", "p1")
    assert net.show("security_group_rule", rule["id"]) == rule
    again = wanted | {"protocol": "6", "port_range_min": 22, "port_range_max": 22, "remote_ip_prefix": "10.0.0.0/24"}
    assert net.refused("security_group_rule", **again) == (409, "SecurityGroupRuleExists")
    assert rule["id"] in net.ids("/security-group-rules?direction=ingress&protocol=tcp")
    assert net.get(f"/security-group-rules/{rule['id']}", STRANGER).status == 404
    assert net.put(f"/security-group-rules/{rule['id']}", {"security_group_rule": {}}).status == 405
    assert net.delete(f"/security-group-rules/{rule['id']}").status == 204


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 22}, (400, "SecurityGroupInvalidPortRange")),
        ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 22}, (400, "SecurityGroupInvalidPortValue")),
        ({"protocol": "tcp", "port_range_max": 22}, (400, "SecurityGroupInvalidPortRange")),
        ({"port_range_min": 22, "port_range_max": 22}, (400, "SecurityGroupProtocolRequiredWithPorts")),
        ({"protocol": "gre", "port_range_min": 22, "port_range_max": 22}, (400, "SecurityGroupInvalidProtocolForPort")),
        ({"protocol": "icmp", "port_range_max": 2}, (400, "SecurityGroupMissingIcmpType")),
        ({"protocol": "icmp", "port_range_min": 256}, (400, "SecurityGroupInvalidIcmpValue")),
        ({"protocol": "ipv6-icmp"}, (400, "SecurityGroupEthertypeConflictWithProtocol")),
        ({"remote_ip_prefix": "2001:db8::/32"}, (400, "SecurityGroupRuleParameterConflict")),
        ({"protocol": "carrier-pigeon"}, (400, "HTTPBadRequest")),
        ({"direction": "sideways"}, (400, "HTTPBadRequest")),
        ({"remote_ip_prefix": "moon"}, (400, "HTTPBadRequest")),
    ],
)
def test_bad_rules(net: Networking, fields: dict[str, Any], expected: tuple[int, str]) -> None:
    group = net.make("security_group", name="g")["id"]
    assert (
        net.refused("security_group_rule", **{"security_group_id": group, "direction": "ingress"} | fields) == expected
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol": "any"},
        {"protocol": None, "remote_group_id": None, "port_range_min": None},
        {"protocol": 50},
        {"protocol": "icmp", "port_range_min": 8, "port_range_max": 0},
        {"protocol": "icmpv6", "ethertype": "IPv6"},
        {"protocol": "tcp", "port_range_min": -1, "port_range_max": -1},
    ],
)
def test_good_rules(net: Networking, fields: dict[str, Any]) -> None:
    group = net.make("security_group", name="g")["id"]
    net.make("security_group_rule", **{"security_group_id": group, "direction": "ingress"} | fields)


def test_remote_groups(net: Networking) -> None:
    one, two = net.make("security_group", name="a")["id"], net.make("security_group", name="b")["id"]
    rule = {"security_group_id": one, "direction": "ingress", "remote_group_id": two}
    assert (
        net.refused("security_group_rule", **rule, remote_ip_prefix="10.0.0.0/8")[1]
        == "SecurityGroupMultipleRemoteEntites"
    )
    theirs = net.make("security_group", STRANGER, name="c")["id"]
    assert net.refused("security_group_rule", **rule | {"remote_group_id": theirs}) == (404, "SecurityGroupNotFound")
    assert net.refused("security_group_rule", **rule | {"security_group_id": theirs})[0] == 404
    made = net.make("security_group_rule", **rule)
    assert net.delete(f"/security-groups/{two}").status == 204
    assert net.get(f"/security-group-rules/{made['id']}", ADMIN).status == 404
