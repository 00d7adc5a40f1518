"""Topology in, OVN's rows out: one table a feature."""

import copy
from typing import Any

import pytest

from tests.plans import topologies as t
from trilith.network.northbound_acls import group_name
from trilith.network.northbound_plan import TABLES, Change, compile, diff

Doc = dict[str, Any]
NET = t.network("net")
SUB = t.subnet("sub", NET, "10.0.0.0/24")
SIX = t.subnet("six", NET, "fd00::/64")
OUT = t.network("out", external=True, network_type="flat", physical_network="public", mtu=1500)
OUT_SUB = t.subnet("out sub", OUT, "172.24.4.0/24", enable_dhcp=False)
GROUP, OTHER = t.group("one"), t.group("two")
PG = group_name(GROUP["id"])


def rows(**lists: Any) -> Any:
    lists = {"networks": [NET, OUT], "subnets": [SUB, SIX, OUT_SUB], **lists}
    return compile(t.topology(**lists))


def lsp(**fields: Any) -> Doc:
    """The switch port made of one machine's port with these fields."""
    one = t.port("vm", NET, (SUB, "10.0.0.11"), **{"mac_address": "fa:16:3e:00:00:01", **fields})
    result: Doc = rows(ports=[one])["Logical_Switch_Port"][one["id"]]
    return result


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({}, {"addresses": ["fa:16:3e:00:00:01 10.0.0.11"], "port_security": ["fa:16:3e:00:00:01 10.0.0.11"]}),
        ({"fixed_ips": []}, {"addresses": ["fa:16:3e:00:00:01"], "port_security": ["fa:16:3e:00:00:01"]}),
        (
            {"port_security_enabled": False},
            {"addresses": ["fa:16:3e:00:00:01 10.0.0.11", "unknown"], "port_security": None},
        ),
        (
            {"allowed_address_pairs": [{"ip_address": "10.0.0.99"}, {"ip_address": "10.1.0.7/16"}]},
            {
                "addresses": ["fa:16:3e:00:00:01 10.0.0.11"],
                "port_security": ["fa:16:3e:00:00:01 10.0.0.11 10.0.0.99 10.1.0.0/16"],
            },
        ),
        (
            {"allowed_address_pairs": [{"ip_address": "10.0.0.99", "mac_address": "fa:16:3e:00:00:99"}]},
            {
                "addresses": ["fa:16:3e:00:00:01 10.0.0.11", "fa:16:3e:00:00:99"],
                "port_security": ["fa:16:3e:00:00:01 10.0.0.11", "fa:16:3e:00:00:99 10.0.0.99"],
            },
        ),
        ({"admin_state_up": False}, {"enabled": False}),
        ({}, {"enabled": None, "type": None, "options": None}),
        ({"binding_host": "h1"}, {"options": {"requested-chassis": "h1"}}),
        ({"device_owner": "network:distributed"}, {"type": "localport", "dhcpv4_options": None}),
        ({}, {"dhcpv4_options": SUB["id"], "dhcpv6_options": None}),
        ({"extra_dhcp_opts": [{"opt_name": "dhcp_disabled", "opt_value": "true"}]}, {"dhcpv4_options": None}),
    ],
)
def test_a_port_of_a_machine(fields: Doc, columns: Doc) -> None:
    row = lsp(**fields)
    assert {name: row.get(name) for name in columns} == columns


def test_floating_and_lost_ports_have_no_switch_port() -> None:
    ports = [
        t.port("fip", OUT, (OUT_SUB, "172.24.4.9"), device_owner="network:floatingip"),
        t.port("of no network", t.network("gone")),
        t.port("of no router", NET, (SUB, "10.0.0.1"), device_owner="network:router_interface", device_id="gone"),
    ]
    assert list(rows(ports=ports)["Logical_Switch_Port"]) == [f"localnet-{OUT['id']}"]


@pytest.mark.parametrize(
    ("kind", "tag"),
    [({"network_type": "flat"}, None), ({"network_type": "vlan", "segmentation_id": 42}, 42)],
)
def test_a_network_of_a_provider_has_a_door(kind: Doc, tag: int | None) -> None:
    net = NET | kind | {"physical_network": "public"}
    made = rows(networks=[net])
    door = made["Logical_Switch_Port"][f"localnet-{net['id']}"]
    assert (door["type"], door["options"], door.get("tag")) == ("localnet", {"network_name": "public"}, tag)
    assert made["Logical_Switch"][net["id"]]["ports"] == [f"localnet-{net['id']}"]


def test_a_network_that_is_down_takes_its_ports_down() -> None:
    one = t.port("vm", NET, (SUB, "10.0.0.11"))
    made = rows(networks=[NET | {"admin_state_up": False}], ports=[one])
    assert made["Logical_Switch_Port"][one["id"]]["enabled"] is False


DOOR = t.port("door", NET, (SUB, "10.0.0.2"), device_owner="network:distributed")


@pytest.mark.parametrize(
    ("subnet", "ports", "options"),
    [
        (
            {},
            [],
            {
                "server_id": "10.0.0.1",
                "router": "10.0.0.1",
                "mtu": "1442",
                "lease_time": "86400",
                "dns_server": "10.0.0.1",
                "domain_name": '"example.org"',
                "classless_static_route": None,
            },
        ),
        ({"dns_nameservers": ["9.9.9.9"]}, [], {"dns_server": "9.9.9.9"}),
        ({"dns_nameservers": ["9.9.9.9", "8.8.8.8"]}, [], {"dns_server": "{9.9.9.9, 8.8.8.8}"}),
        ({}, [DOOR], {"classless_static_route": "{169.254.169.254/32,10.0.0.2, 0.0.0.0/0,10.0.0.1}"}),
        (
            {"host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}]},
            [],
            {"classless_static_route": "{10.9.0.0/16,10.0.0.9, 0.0.0.0/0,10.0.0.1}"},
        ),
        (
            {"gateway_ip": None},
            [DOOR],
            {"server_id": "10.0.0.2", "router": None, "classless_static_route": "{169.254.169.254/32,10.0.0.2}"},
        ),
    ],
)
def test_dhcp_of_a_subnet(subnet: Doc, ports: list[Doc], options: Doc) -> None:
    made = rows(subnets=[SUB | subnet], ports=ports)["DHCP_Options"][SUB["id"]]
    assert made["cidr"] == "10.0.0.0/24"
    assert {name: made["options"].get(name) for name in options} == options


def test_without_dhcp_there_are_no_options() -> None:
    one = t.port("vm", NET, (SUB, "10.0.0.11"))
    made = rows(subnets=[SUB | {"enable_dhcp": False}], ports=[one])
    assert made["DHCP_Options"] == {}
    assert "dhcpv4_options" not in made["Logical_Switch_Port"][one["id"]]


@pytest.mark.parametrize(
    ("name", "value", "option", "written"),
    [
        ("mtu", "1400", "mtu", "1400"),
        ("bootfile-name", "undionly.kpxe", "bootfile_name", '"undionly.kpxe"'),
        ("dns-server", "1.1.1.1,2.2.2.2", "dns_server", "{1.1.1.1,2.2.2.2}"),
        ("15", "lab", "domain_name", '"lab"'),
        ("router", "", "router", None),
        ("never-heard-of", "x", "never_heard_of", None),
    ],
)
def test_dhcp_of_a_port_with_its_own_options(name: str, value: str, option: str, written: str | None) -> None:
    one = t.port("vm", NET, (SUB, "10.0.0.11"), extra_dhcp_opts=[{"opt_name": name, "opt_value": value}])
    made = rows(ports=[one])
    key = made["Logical_Switch_Port"][one["id"]]["dhcpv4_options"]
    assert made["DHCP_Options"][key]["options"].get(option) == written
    assert made["DHCP_Options"][SUB["id"]]["options"]["mtu"] == "1442"


@pytest.mark.parametrize(
    ("mode", "answers", "stateless"),
    [("slaac", False, None), ("dhcpv6-stateless", True, "true"), ("dhcpv6-stateful", True, None)],
)
def test_ipv6_modes(mode: str, answers: bool, stateless: str | None) -> None:
    six = SIX | {"ipv6_ra_mode": mode, "ipv6_address_mode": mode}
    leg = t.port("leg", NET, (six, "fd00::1"), device_owner="network:router_interface", device_id=t.an_id("r"))
    one = t.port("vm", NET, (six, "fd00::11"))
    made = rows(subnets=[six], ports=[leg, one], routers=[t.router("r")])
    advertised = made["Logical_Router_Port"][leg["id"]]["ipv6_ra_configs"]
    assert advertised == {"address_mode": mode.replace("-", "_"), "send_periodic": "true", "mtu": "1442"}
    assert made["Logical_Switch_Port"][one["id"]].get("dhcpv6_options") == (six["id"] if answers else None)
    if answers:
        assert made["DHCP_Options"][six["id"]]["options"].get("dhcpv6_stateless") == stateless


@pytest.mark.parametrize(
    ("fields", "direction", "match"),
    [
        ({}, "to-lport", f"outport == @{PG} && ip4"),
        ({"direction": "egress"}, "from-lport", f"inport == @{PG} && ip4"),
        ({"ethertype": "IPv6"}, "to-lport", f"outport == @{PG} && ip6"),
        ({"remote_ip_prefix": "10.0.0.7/24"}, "to-lport", f"outport == @{PG} && ip4 && ip4.src == 10.0.0.0/24"),
        (
            {"remote_ip_prefix": "0.0.0.0/0", "direction": "egress"},
            "from-lport",
            f"inport == @{PG} && ip4 && ip4.dst == 0.0.0.0/0",
        ),
        (
            {"remote_group_id": OTHER["id"]},
            "to-lport",
            f"outport == @{PG} && ip4 && ip4.src == ${group_name(OTHER['id'])}_ip4",
        ),
        ({"protocol": "tcp"}, "to-lport", f"outport == @{PG} && ip4 && tcp"),
        (
            {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
            "to-lport",
            f"outport == @{PG} && ip4 && tcp && tcp.dst == 22",
        ),
        (
            {"protocol": "17", "port_range_min": 1, "port_range_max": 9},
            "to-lport",
            f"outport == @{PG} && ip4 && udp && udp.dst >= 1 && udp.dst <= 9",
        ),
        ({"protocol": "icmp"}, "to-lport", f"outport == @{PG} && ip4 && icmp4"),
        (
            {"protocol": "icmp", "port_range_min": 8, "port_range_max": 0},
            "to-lport",
            f"outport == @{PG} && ip4 && icmp4 && icmp4.type == 8 && icmp4.code == 0",
        ),
        (
            {"protocol": "ipv6-icmp", "ethertype": "IPv6", "port_range_min": 128},
            "to-lport",
            f"outport == @{PG} && ip6 && icmp6 && icmp6.type == 128",
        ),
        ({"protocol": "vrrp"}, "to-lport", f"outport == @{PG} && ip4 && ip.proto == 112"),
        ({"protocol": "47"}, "to-lport", f"outport == @{PG} && ip4 && ip.proto == 47"),
        ({"protocol": "any"}, "to-lport", f"outport == @{PG} && ip4"),
    ],
)
def test_a_rule_is_an_acl(fields: Doc, direction: str, match: str) -> None:
    one = t.rule(GROUP, **fields)
    made = rows(security_groups=[GROUP, OTHER], security_group_rules=[one])
    acl = {"direction": direction, "match": match, "action": "allow-related", "priority": 1002}
    assert made["ACL"][one["id"]] == acl
    assert made["Port_Group"][GROUP["id"]]["acls"] == [one["id"]]


def test_groups_hold_the_ports_under_security() -> None:
    in_group = t.port("a", NET, (SUB, "10.0.0.11"), security_group_ids=[GROUP["id"]])
    in_none = t.port("b", NET, (SUB, "10.0.0.12"))
    free = t.port("c", NET, (SUB, "10.0.0.13"), port_security_enabled=False, security_group_ids=[GROUP["id"]])
    made = rows(security_groups=[GROUP], ports=[in_group, in_none, free, DOOR])["Port_Group"]
    assert made[GROUP["id"]]["ports"] == [in_group["id"]]
    assert made["drop"]["ports"] == sorted([in_group["id"], in_none["id"]])


def test_a_stateless_group_has_stateless_acls_and_lost_rules_make_none() -> None:
    plain = t.rule(OTHER | {"stateful": False})
    lost = [
        t.rule(t.group("gone")),
        t.rule(GROUP, remote_group_id=t.an_id("gone")),
        t.rule(GROUP, protocol="no such thing"),
    ]
    made = rows(security_groups=[GROUP, OTHER | {"stateful": False}], security_group_rules=[plain, *lost])["ACL"]
    assert made[plain["id"]]["action"] == "allow-stateless"
    assert not {rule["id"] for rule in lost} & made.keys()


GATE = t.port("gate", OUT, (OUT_SUB, "172.24.4.20"), device_owner="network:router_gateway", device_id=t.an_id("r"))
LEG = t.port("leg", NET, (SUB, "10.0.0.1"), device_owner="network:router_interface", device_id=t.an_id("r"))


def routed(router: Doc | None = None, **lists: Any) -> Any:
    return rows(**{"ports": [GATE, LEG], "routers": [t.router("r", GATE, **(router or {}))], **lists})


def test_a_router_joins_its_networks() -> None:
    made = routed()
    router = made["Logical_Router"][t.an_id("r")]
    assert router["ports"] == sorted([GATE["id"], LEG["id"]])
    assert made["Logical_Router_Port"][LEG["id"]]["networks"] == ["10.0.0.1/24"]
    side = made["Logical_Switch_Port"][LEG["id"]]
    assert (side["type"], side["addresses"]) == ("router", ["router"])
    assert side["options"] == {"router-port": made["Logical_Router_Port"][LEG["id"]]["name"]}
    assert made["Logical_Switch_Port"][GATE["id"]]["options"]["nat-addresses"] == "router"


def test_a_smaller_network_tells_larger_senders() -> None:
    made = routed()["Logical_Router_Port"]
    assert made[LEG["id"]]["options"] == {"gateway_mtu": "1442"}
    assert "options" not in made[GATE["id"]]


def test_a_port_with_all_addresses_of_its_subnets() -> None:
    leg = t.port("leg", NET, (SIX, "fd00::1"), (SUB, "10.0.0.1"), device_owner=LEG["device_owner"])
    leg["device_id"] = t.an_id("r")
    assert routed(ports=[leg])["Logical_Router_Port"][leg["id"]]["networks"] == ["10.0.0.1/24", "fd00::1/64"]


FIP = t.floating_ip("172.24.4.101", OUT, LEG | {"fixed_ips": [{"ip_address": "10.0.0.11"}]}, t.router("r"))
SNAT = {"type": "snat", "external_ip": "172.24.4.20", "logical_ip": "10.0.0.0/24"}
DNAT = {"type": "dnat_and_snat", "external_ip": "172.24.4.101", "logical_ip": "10.0.0.11"}


@pytest.mark.parametrize(
    ("router", "lists", "nat"),
    [
        ({}, {}, [SNAT]),
        ({}, {"floating_ips": [FIP]}, [SNAT, DNAT]),
        ({"enable_snat": False}, {"floating_ips": [FIP]}, [DNAT]),
        ({}, {"floating_ips": [FIP | {"router_id": None}]}, [SNAT]),
        ({}, {"floating_ips": [FIP | {"fixed_ip_address": None}]}, [SNAT]),
        ({"gateway_port_id": None}, {"floating_ips": [FIP]}, []),
    ],
)
def test_translation(router: Doc, lists: Doc, nat: list[Doc]) -> None:
    made = routed(router, **lists)
    assert [made["NAT"][key] for key in made["NAT"]] == nat
    assert made["Logical_Router"][t.an_id("r")].get("nat", []) == sorted(made["NAT"])


@pytest.mark.parametrize(
    ("router", "lists", "routes"),
    [
        ({}, {}, [("0.0.0.0/0", "172.24.4.1")]),
        ({}, {"subnets": [SUB, OUT_SUB | {"gateway_ip": None}]}, []),
        ({"gateway_port_id": None}, {}, []),
        (
            {"routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}]},
            {},
            [("0.0.0.0/0", "172.24.4.1"), ("10.9.0.0/16", "10.0.0.9")],
        ),
        ({"routes": [{"destination": "0.0.0.0/0", "nexthop": "10.0.0.9"}]}, {}, [("0.0.0.0/0", "10.0.0.9")]),
    ],
)
def test_routes(router: Doc, lists: Doc, routes: list[tuple[str, str]]) -> None:
    made = routed(router, **lists)["Logical_Router_Static_Route"]
    assert sorted((row["ip_prefix"], row["nexthop"]) for row in made.values()) == routes


def test_gateways_are_spread_over_hosts_and_stay_where_they_are() -> None:
    made = routed(gateway_chassis=["a", "b", "c"])
    keys = made["Logical_Router_Port"][GATE["id"]]["gateway_chassis"]
    of_one = {made["Gateway_Chassis"][key]["chassis_name"]: made["Gateway_Chassis"][key]["priority"] for key in keys}
    assert sorted(of_one) == ["a", "b", "c"]
    assert sorted(of_one.values()) == [1, 2, 3]
    assert routed(gateway_chassis=["c", "b", "a"]) == made


def test_witnesses_of_two_gateways_come_last() -> None:
    made = routed(gateway_chassis=["a", "b"], gateway_witnesses=["c"])
    of_one = {row["chassis_name"]: row["priority"] for row in made["Gateway_Chassis"].values()}
    assert of_one.keys() == {"a", "b", "c"}
    assert of_one["c"] == 1


def test_a_router_that_is_down() -> None:
    assert routed({"admin_state_up": False})["Logical_Router"][t.an_id("r")]["enabled"] is False


def test_names_of_neighbours() -> None:
    ports = [
        t.port("a", NET, (SUB, "10.0.0.11"), (SIX, "fd00::11"), dns_name="Web"),
        t.port("b", NET, (SUB, "10.0.0.12")),
    ]
    made = rows(ports=ports)
    both = "10.0.0.11 fd00::11"
    assert made["DNS"] == {NET["id"]: {"records": {"web": both, "web.example.org": both}}}
    assert made["Logical_Switch"][NET["id"]]["dns_records"] == [NET["id"]]
    assert "dns_records" not in made["Logical_Switch"][OUT["id"]]


def test_the_same_topology_in_another_order_gives_the_same_rows() -> None:
    cloud = t.small_cloud()
    turned = {name: value[::-1] if isinstance(value, list) else value for name, value in cloud.items()}
    assert diff(compile(turned), compile(cloud)) == []


def test_every_reference_leads_to_a_row() -> None:
    """With anything missing: each document of the small cloud is taken away in turn."""
    cloud = t.small_cloud()
    for name, documents in cloud.items():
        for n in range(len(documents) if isinstance(documents, list) else 0):
            without = copy.deepcopy(cloud)
            del without[name][n]
            made = compile(without)
            assert not _dangling(made), f"without {name} {n}"


REFERENCES = {
    ("Logical_Switch", "ports"): "Logical_Switch_Port",
    ("Logical_Switch", "dns_records"): "DNS",
    ("Logical_Switch_Port", "dhcpv4_options"): "DHCP_Options",
    ("Logical_Router", "ports"): "Logical_Router_Port",
    ("Logical_Router", "nat"): "NAT",
    ("Logical_Router", "static_routes"): "Logical_Router_Static_Route",
    ("Logical_Router_Port", "gateway_chassis"): "Gateway_Chassis",
    ("Port_Group", "ports"): "Logical_Switch_Port",
    ("Port_Group", "acls"): "ACL",
}


def _dangling(made: Any) -> list[str]:
    lost = []
    for (table, column), target in REFERENCES.items():
        for key, row in made[table].items():
            named = row.get(column, [])
            lost += [f"{table} {key} {name}" for name in ([named] if isinstance(named, str) else named)
                     if name not in made[target]]  # fmt: skip
    return lost


@pytest.mark.parametrize(
    ("want", "seen", "changes"),
    [
        ({}, {}, []),
        ({"a": {"name": "x"}}, {"a": {"name": "x"}}, []),
        ({"a": {"name": "x"}}, {}, [Change("insert", "NAT", "a", {"name": "x"})]),
        ({}, {"a": {"name": "x"}}, [Change("delete", "NAT", "a", {})]),
        (
            {"a": {"name": "y", "same": 1}},
            {"a": {"name": "x", "same": 1, "old": 2}},
            [Change("update", "NAT", "a", {"name": "y", "old": None})],
        ),
    ],
)
def test_diff(want: Doc, seen: Doc, changes: list[Change]) -> None:
    assert diff({"NAT": want}, {"NAT": seen}) == changes


def test_no_topology_is_only_the_group_that_drops() -> None:
    made = compile(t.topology())
    assert {table for table in TABLES if made[table]} == {"Port_Group", "ACL"}
