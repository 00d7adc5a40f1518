"""The network as OVN's northbound rows, computed from the SQL rows: pure, whole, every time.

`compile` takes the topology (lists of plain documents: networks, subnets, ports, routers, floating_ips,
security_groups, security_group_rules; names of hosts: gateway_chassis, gateway_witnesses; dns_domain and dns_servers)
and gives every row that OVN shall have; `diff` gives the changes that bring what OVN has to that. Keys are our own ids,
so nothing else has to be remembered, and a lost northbound database is simply written again.

Rows: ``{table: {key: {column: value}}}`` in normal form: a column at its default is absent, a set is a sorted list, a
reference is the other row's key.
"""

from collections import defaultdict
from ipaddress import ip_network
from typing import Any, Literal, NamedTuple

from trilith.network import northbound_acls, northbound_dhcp, northbound_routers

Doc = dict[str, Any]
Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]

TABLES = (
    *("Logical_Switch", "Logical_Switch_Port", "Logical_Router", "Logical_Router_Port"),
    *("Logical_Router_Static_Route", "Gateway_Chassis", "NAT", "DHCP_Options", "DNS", "Port_Group", "ACL"),
)
FLOATING_IP, METADATA = "network:floatingip", "network:distributed"
ROUTER_OWNERS = ("network:router_interface", "network:router_gateway")


class Change(NamedTuple):
    """One row to insert, update (only the columns that differ; None: back to the default) or delete."""

    what: Literal["insert", "update", "delete"]
    table: str
    key: str
    columns: Row


def compile(topology: Doc) -> Rows:
    """Every row that OVN shall have. What refers to something that is not in the topology (any more) is left out."""
    rows: Rows = {table: {} for table in TABLES}
    networks = {network["id"]: network for network in topology["networks"]}
    subnets = {subnet["id"]: subnet for subnet in topology["subnets"]}
    ports = [
        port
        for port in topology["ports"]
        if port["network_id"] in networks and port["device_owner"] not in (FLOATING_IP, "network:dhcp")
    ]
    dhcp = northbound_dhcp.compile_dhcp(topology, networks, ports)
    rows["DHCP_Options"] = dhcp.rows
    router_rows = northbound_routers.compile_routers(topology, networks, subnets, ports)
    _merge(rows, router_rows)
    for port in ports:
        if (row := _port(port, networks[port["network_id"]], dhcp, rows["Logical_Router_Port"])) is not None:
            rows["Logical_Switch_Port"][port["id"]] = row
    rows["DNS"] = _dns(ports, topology.get("dns_domain") or "")
    members = _by_network(rows, ports)
    for network in networks.values():
        _switch(rows, network, members[network["id"]])
    _merge(rows, northbound_acls.compile_groups(topology, [p for p in ports if p["id"] in rows["Logical_Switch_Port"]]))
    return {table: {key: _normal(row) for key, row in keyed.items()} for table, keyed in rows.items()}


def diff(want: Rows, seen: Rows) -> list[Change]:
    """The changes that make `seen` into `want`; all of them belong into one transaction."""
    changes: list[Change] = []
    for table in TABLES:
        wanted, there = want.get(table, {}), seen.get(table, {})
        for key, row in wanted.items():
            old = there.get(key)
            if old is None:
                changes.append(Change("insert", table, key, row))
            elif old != row:
                columns = {name: row.get(name) for name in row.keys() | old.keys() if row.get(name) != old.get(name)}
                changes.append(Change("update", table, key, columns))
        changes += [Change("delete", table, key, {}) for key in there.keys() - wanted.keys()]
    return changes


def _merge(rows: Rows, more: Rows) -> None:
    for table, keyed in more.items():
        rows[table].update(keyed)


def _normal(row: Row) -> Row:
    """Without what is at its default, and with sets in order. A False is kept: it stands in optional columns only."""
    return {
        column: sorted(value) if isinstance(value, list) else value
        for column, value in row.items()
        if value not in (None, "", [], {})
    }


def _by_network(rows: Rows, ports: list[Doc]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = defaultdict(list)
    for port in ports:
        if port["id"] in rows["Logical_Switch_Port"]:
            result[port["network_id"]].append(port["id"])
    return result


def _switch(rows: Rows, network: Doc, ports: list[str]) -> None:
    """A network; one of a provider has a door to the wire besides its ports."""
    key = network["id"]
    members = list(ports)
    if network["network_type"] in ("flat", "vlan"):
        door = f"localnet-{key}"
        rows["Logical_Switch_Port"][door] = {
            "name": door,
            "type": "localnet",
            "addresses": ["unknown"],
            "options": {"network_name": network["physical_network"]},
            "tag": network["segmentation_id"] if network["network_type"] == "vlan" else None,
        }
        members.append(door)
    rows["Logical_Switch"][key] = {
        "name": key,
        "ports": members,
        "dns_records": [key] if key in rows["DNS"] else [],
        "other_config": {"mcast_snoop": "false", "vlan-passthru": "false"},
    }


def _port(port: Doc, network: Doc, dhcp: northbound_dhcp.Dhcp, router_ports: dict[str, Row]) -> Row | None:
    """A port of a switch. Its name is its id: by it, a host binds its own link to it."""
    enabled = None if port["admin_state_up"] and network["admin_state_up"] else False
    row: Row = {"name": port["id"], "enabled": enabled}
    owner = port["device_owner"]
    if owner.startswith(ROUTER_OWNERS):
        if port["id"] not in router_ports:
            return None
        options = {"router-port": router_ports[port["id"]]["name"]}
        if owner == "network:router_gateway":  # announces the addresses that it translates to
            options |= {"nat-addresses": "router", "exclude-lb-vips-from-garp": "true"}
        return row | {"type": "router", "addresses": ["router"], "options": options}
    if owner == METADATA:
        return row | {"type": "localport", "addresses": [_own_addresses(port)]}
    if port.get("binding_host"):
        row["options"] = {"requested-chassis": port["binding_host"]}
        if port.get("binding_peer"):  # on the second chassis it is blocked until the machine there says that it lives
            both = f"{port['binding_host']},{port['binding_peer']}"
            row["options"] = {"requested-chassis": both, "activation-strategy": "rarp"}
    v4, v6 = dhcp.of_port.get(port["id"], (None, None))
    return row | _security(port) | {"dhcpv4_options": v4, "dhcpv6_options": v6}


def _own_addresses(port: Doc) -> str:
    return " ".join([port["mac_address"], *sorted(fixed["ip_address"] for fixed in port["fixed_ips"])])


def _security(port: Doc) -> Row:
    """What the port may send from, and what is sent to it."""
    own = _own_addresses(port)
    if not port["port_security_enabled"]:
        return {"addresses": [own, "unknown"]}
    by_mac: dict[str, list[str]] = {}
    for pair in port["allowed_address_pairs"] or []:
        by_mac.setdefault(pair.get("mac_address") or port["mac_address"], []).append(_pair_address(pair))
    extra = sorted(by_mac.pop(port["mac_address"], []))
    others = {mac: " ".join([mac, *sorted(addresses)]) for mac, addresses in by_mac.items()}
    return {"addresses": [own, *others], "port_security": [" ".join([own, *extra]), *others.values()]}


def _pair_address(pair: Doc) -> str:
    """An address pair may name a whole network; host bits are not taken by OVN then."""
    address: str = pair["ip_address"]
    return str(ip_network(address, strict=False)) if "/" in address else address


def _dns(ports: list[Doc], domain: str) -> dict[str, Row]:
    """Names of the ports of each network, with and without the domain; OVN itself answers the questions for them."""
    records: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    suffix = domain.strip(".").lower()
    for port in ports:
        name = (port.get("dns_name") or "").lower()
        addresses = [fixed["ip_address"] for fixed in port["fixed_ips"]]
        if not name or not addresses:
            continue
        for each in (name, f"{name}.{suffix}") if suffix else (name,):
            records[port["network_id"]][each] += addresses
    return {
        network: {"records": {name: " ".join(sorted(set(found))) for name, found in names.items()}}
        for network, names in records.items()
    }
