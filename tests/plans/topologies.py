"""Topologies for tests of the network: the plain documents that the network service hands to the northbound plan."""

from ipaddress import IPv6Network
from typing import Any
from uuid import NAMESPACE_URL, uuid5

Doc = dict[str, Any]


def an_id(name: str) -> str:
    """A UUID that is always the same for a name."""
    return str(uuid5(NAMESPACE_URL, name))


def topology(**lists: Any) -> Doc:
    names = ("networks", "subnets", "ports", "routers", "floating_ips", "security_groups", "security_group_rules")
    return {**{name: [] for name in names}, "gateway_chassis": ["h1"], "dns_domain": "example.org.", **lists}


def network(name: str, **fields: Any) -> Doc:
    return {
        "id": an_id(name),
        "name": name,
        "project_id": "p",
        "mtu": 1442,
        "external": False,
        "network_type": "geneve",
        "physical_network": None,
        "segmentation_id": 7,
        "admin_state_up": True,
        **fields,
    }


def subnet(name: str, of: Doc, cidr: str, **fields: Any) -> Doc:
    six = ":" in cidr
    return {
        "id": an_id(name),
        "network_id": of["id"],
        "ip_version": 6 if six else 4,
        "cidr": cidr,
        "gateway_ip": cidr.split("/")[0] + "1" if six else cidr.rsplit(".", 1)[0] + ".1",
        "enable_dhcp": True,
        "dns_nameservers": [],
        "host_routes": [],
        "ipv6_ra_mode": "slaac" if six else None,
        "ipv6_address_mode": "slaac" if six else None,
        **fields,
    }


def port(name: str, of: Doc, *addresses: tuple[Doc, str], **fields: Any) -> Doc:
    own = an_id(name)
    return {
        "id": own,
        "name": name,
        "network_id": of["id"],
        "mac_address": f"fa:16:3e:{own[0:2]}:{own[2:4]}:{own[4:6]}",
        "fixed_ips": [{"subnet_id": sub["id"], "ip_address": address} for sub, address in addresses],
        "device_id": "",
        "device_owner": "compute:nova",
        "admin_state_up": True,
        "port_security_enabled": True,
        "security_group_ids": [],
        "allowed_address_pairs": [],
        "extra_dhcp_opts": [],
        "binding_host": None,
        "dns_name": "",
        **fields,
    }


def with_slaac(of: Doc, sub: Doc) -> Doc:
    """The port, with the address that its MAC gives it in an IPv6 subnet."""
    mac = [int(part, 16) for part in of["mac_address"].split(":")]
    host = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    address = IPv6Network(sub["cidr"])[int.from_bytes(host, "big")]
    of["fixed_ips"].append({"subnet_id": sub["id"], "ip_address": str(address)})
    return of


def router(name: str, gateway: Doc | None = None, **fields: Any) -> Doc:
    return {
        "id": an_id(name),
        "name": name,
        "admin_state_up": True,
        "enable_snat": True,
        "external_network_id": gateway["network_id"] if gateway else None,
        "gateway_port_id": gateway["id"] if gateway else None,
        "routes": [],
        **fields,
    }


def floating_ip(address: str, of: Doc, to: Doc | None = None, via: Doc | None = None) -> Doc:
    return {
        "id": an_id(f"fip {address}"),
        "floating_ip_address": address,
        "floating_network_id": of["id"],
        "fixed_ip_address": to["fixed_ips"][0]["ip_address"] if to else None,
        "port_id": to["id"] if to else None,
        "router_id": via["id"] if via else None,
    }


def group(name: str, stateful: bool = True) -> Doc:
    return {"id": an_id(name), "stateful": stateful}


def rule(of: Doc, direction: str = "ingress", ethertype: str = "IPv4", **fields: Any) -> Doc:
    doc = {
        "security_group_id": of["id"],
        "direction": direction,
        "ethertype": ethertype,
        "protocol": None,
        "port_range_min": None,
        "port_range_max": None,
        "remote_ip_prefix": None,
        "remote_group_id": None,
        **fields,
    }
    return {"id": an_id(repr(sorted(doc.items(), key=str))), **doc}


def small_cloud(public: str = "172.24.4", host: str = "h1") -> Doc:
    """A public network, a private one with two machines (one with a floating address), a router, one group."""
    outside = network("public", external=True, network_type="flat", physical_network="public", mtu=1500)
    outside_subnet = subnet("public subnet", outside, f"{public}.0/24", enable_dhcp=False)
    inside = network("private")
    inside_subnet = subnet("private subnet", inside, "10.0.0.0/24")
    six = subnet("private six", inside, "fd00:7::/64")
    allow = group("default")
    gateway = port("gateway", outside, (outside_subnet, f"{public}.20"), device_owner="network:router_gateway",
                   port_security_enabled=False)  # fmt: skip
    one_router = router("router", gateway)
    gateway["device_id"] = one_router["id"]
    door = port("metadata", inside, (inside_subnet, "10.0.0.2"), device_owner="network:distributed",
                port_security_enabled=False)  # fmt: skip
    legs = [
        port(f"leg {s['cidr']}", inside, (s, s["gateway_ip"]), device_owner="network:router_interface",
             device_id=one_router["id"], port_security_enabled=False)
        for s in (inside_subnet, six)
    ]  # fmt: skip
    machines = [
        with_slaac(port(f"vm{n}", inside, (inside_subnet, f"10.0.0.1{n}"), dns_name=f"vm{n}", binding_host=host,
                        security_group_ids=[allow["id"]]), six)
        for n in (1, 2)
    ]  # fmt: skip
    return topology(
        networks=[outside, inside],
        subnets=[outside_subnet, inside_subnet, six],
        ports=[gateway, door, *legs, *machines],
        routers=[one_router],
        floating_ips=[floating_ip(f"{public}.101", outside, machines[0], one_router)],
        security_groups=[allow],
        security_group_rules=[
            rule(allow, "egress"),
            rule(allow, "egress", "IPv6"),
            rule(allow, remote_group_id=allow["id"]),
            rule(allow, ethertype="IPv6", remote_group_id=allow["id"]),
            rule(allow, protocol="icmp", remote_ip_prefix="0.0.0.0/0"),
            rule(allow, protocol="tcp", port_range_min=9000, port_range_max=9001, remote_ip_prefix="0.0.0.0/0"),
        ],
        gateway_chassis=[host],
    )


def port_named(cloud: Doc, name: str) -> Doc:
    return next(each for each in cloud["ports"] if each["name"] == name)
