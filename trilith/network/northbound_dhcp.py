"""DHCP answers of OVN itself: one set of options for each subnet, one more for each port that asks for its own."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

Doc = dict[str, Any]
Row = dict[str, Any]

METADATA_ADDRESS = "169.254.169.254"
LEASE_S = 86400
QUOTED_V4 = {"domain_name", "bootfile_name", "path_prefix", "wpad", "hostname", "tftp_server", "domain_search_list"}
QUOTED_V6 = {"domain_search", "bootfile_name", "bootfile_name_alt"}
# What people write (dnsmasq's names, or the numbers of RFC 2132) and OVN calls otherwise.
NAMES_V4 = {
    "1": "netmask",
    "3": "router",
    "6": "dns_server",
    "7": "log_server",
    "12": "hostname",
    "15": "domain_name",
    "26": "mtu",
    "42": "ntp_server",
    "51": "lease_time",
    "66": "tftp_server",
    "67": "bootfile_name",
    "119": "domain_search_list",
    "121": "classless_static_route",
    "150": "tftp_server_address",
    "210": "path_prefix",
    "249": "ms_classless_static_route",
    "252": "wpad",
    "dns": "dns_server",
    "domain": "domain_name",
    "bootfile": "bootfile_name",
    "server_ip_address": "tftp_server_address",
    "domain_search": "domain_search_list",
}
NAMES_V6 = {"23": "dns_server", "24": "domain_search", "dns": "dns_server", "59": "bootfile_name"}
KNOWN_V4 = {
    *NAMES_V4.values(),
    *("lpr_server", "swap_server", "policy_filter", "router_solicitation", "nis_server", "server_id", "default_ttl"),
    *("arp_cache_timeout", "ip_forward_enable", "router_discovery", "ethernet_encap", "tcp_ttl", "T1", "T2"),
    *("tcp_keepalive_interval", "netbios_name_server", "netbios_node_type", "broadcast_address", "bootfile_name_alt"),
    "next_server",
}
KNOWN_V6 = {"dns_server", "domain_search", "bootfile_name", "bootfile_name_alt"}


@dataclass
class Dhcp:
    """Rows of the table ``DHCP_Options``, and which of them (IPv4, IPv6) each port is answered with."""

    rows: dict[str, Row] = field(default_factory=dict)
    of_port: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)


def compile_dhcp(topology: Doc, networks: dict[str, Doc], ports: list[Doc]) -> Dhcp:
    """Options for every subnet with DHCP, and for every port of a machine that has its own."""
    result = Dhcp()
    options: dict[str, dict[str, str]] = {}
    serving = {s["id"]: s for s in topology["subnets"] if s["enable_dhcp"] and s["network_id"] in networks}
    doors = _metadata_doors(ports)
    for key, subnet in serving.items():
        network = networks[subnet["network_id"]]
        if subnet["ip_version"] == 4:
            options[key] = _options_v4(topology, network, subnet, doors.get(key))
        elif subnet["ipv6_address_mode"] in ("dhcpv6-stateful", "dhcpv6-stateless"):
            options[key] = _options_v6(topology, subnet)
    result.rows = {key: {"cidr": serving[key]["cidr"], "options": values} for key, values in options.items()}
    for port in ports:
        if not port["device_owner"].startswith("network:"):
            result.of_port[port["id"]] = (
                _of_port(result, serving, options, port, 4),
                _of_port(result, serving, options, port, 6),
            )
    return result


def _metadata_doors(ports: list[Doc]) -> dict[str, str]:
    """The address, in each subnet, of the port behind which the metadata service answers."""
    doors = [port for port in ports if port["device_owner"] == "network:distributed"]
    return {fixed["subnet_id"]: fixed["ip_address"] for port in doors for fixed in port["fixed_ips"]}


def _of_port(
    result: Dhcp, serving: dict[str, Doc], options: dict[str, dict[str, str]], port: Doc, version: int
) -> str | None:
    """The key of the options for a port; the first of its addresses that has some decides."""
    extra = [opt for opt in port["extra_dhcp_opts"] or [] if int(opt.get("ip_version") or 4) == version]
    if any(opt["opt_name"] == "dhcp_disabled" and str(opt["opt_value"]).lower() == "true" for opt in extra):
        return None
    for fixed in port["fixed_ips"]:
        subnet = fixed["subnet_id"]
        if subnet in options and serving[subnet]["ip_version"] == version:
            own = _extra(extra, version)
            if not own:
                return str(subnet)
            key = f"{subnet}/{port['id']}"
            merged = {name: value for name, value in (options[subnet] | own).items() if value}
            result.rows[key] = {"cidr": serving[subnet]["cidr"], "options": merged}
            return key
    return None


def _extra(wanted: list[Doc], version: int) -> dict[str, str]:
    """A port's own options in OVN's words; those that OVN does not know are left out, as OVN would do."""
    names, known, quoted = (NAMES_V4, KNOWN_V4, QUOTED_V4) if version == 4 else (NAMES_V6, KNOWN_V6, QUOTED_V6)
    result: dict[str, str] = {}
    for option in wanted:
        word = str(option["opt_name"]).removeprefix("option:").removeprefix("option6:").replace("-", "_")
        name = names.get(word, word)
        if name in known:
            value = str(option["opt_value"] or "")
            result[name] = _quoted(value) if value and name in quoted else _listed(value)
    return result


def _options_v4(topology: Doc, network: Doc, subnet: Doc, door: str | None) -> dict[str, str]:
    gateway = subnet["gateway_ip"]
    server = gateway or door
    if not server:  # nobody to answer as
        server = str(subnet["cidr"]).split("/")[0]
    values = {
        "server_id": server,
        "server_mac": _mac(subnet["id"]),
        "lease_time": str(LEASE_S),
        "mtu": str(network["mtu"]),
        # Without a server, guests would ask nobody, and so not find their neighbours' names, which OVN itself answers.
        "dns_server": _list(subnet["dns_nameservers"] or topology.get("dns_servers") or [server]),
    }
    if gateway:
        values["router"] = gateway
    if topology.get("dns_domain"):
        values["domain_name"] = _quoted(topology["dns_domain"].strip("."))
    routes = [(METADATA_ADDRESS + "/32", door)] if door else []
    routes += [(route["destination"], route["nexthop"]) for route in subnet["host_routes"] or []]
    if routes and gateway:  # who gets routes by this option does not look at the router's
        routes.append(("0.0.0.0/0", gateway))
    if routes:
        values["classless_static_route"] = "{" + ", ".join(f"{to},{via}" for to, via in routes) + "}"
    return values


def _options_v6(topology: Doc, subnet: Doc) -> dict[str, str]:
    values = {"server_id": _mac(subnet["id"])}
    if subnet["dns_nameservers"]:
        values["dns_server"] = _list(subnet["dns_nameservers"])
    if topology.get("dns_domain"):
        values["domain_search"] = _quoted(topology["dns_domain"].strip("."))
    if subnet["ipv6_address_mode"] == "dhcpv6-stateless":
        values["dhcpv6_stateless"] = "true"
    return values


def _mac(seed: str) -> str:
    """Of the DHCP server: always the same for a subnet."""
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return f"fa:16:3e:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def _quoted(value: str) -> str:
    return '"' + value.strip('"') + '"'


def _list(values: list[str]) -> str:
    return values[0] if len(values) == 1 else "{" + ", ".join(values) + "}"


def _listed(value: str) -> str:
    """``a,b`` as people write it, in OVN's braces."""
    return value if value.startswith("{") or "," not in value else "{" + value + "}"
