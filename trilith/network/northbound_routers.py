"""Routers: their ports, routes, address translation, and the hosts where they meet the outside."""

import hashlib
from ipaddress import ip_network
from typing import Any

Doc = dict[str, Any]
Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]

ADVERTISED_MODES = {
    "slaac": "slaac",
    "dhcpv6-stateful": "dhcpv6_stateful",
    "dhcpv6-stateless": "dhcpv6_stateless",
}


def port_name(port_id: str) -> str:
    """Of the router's side; the switch's side has the port's id as its name."""
    return f"lrp-{port_id}"


def compile_routers(topology: Doc, networks: dict[str, Doc], subnets: dict[str, Doc], ports: list[Doc]) -> Rows:
    """Rows of the router tables. A floating address without a router with a gateway makes none."""
    rows: Rows = {
        table: {}
        for table in ("Logical_Router", "Logical_Router_Port", "Logical_Router_Static_Route", "Gateway_Chassis", "NAT")
    }
    interfaces: dict[str, list[Doc]] = {router["id"]: [] for router in topology["routers"]}
    for port in ports:
        if port["device_owner"].startswith("network:router_interface") and port["device_id"] in interfaces:
            interfaces[port["device_id"]].append(port)
    by_id = {port["id"]: port for port in ports}
    addresses: dict[str, list[Doc]] = {}
    for address in topology["floating_ips"]:
        if address["fixed_ip_address"] and address["router_id"]:
            addresses.setdefault(address["router_id"], []).append(address)
    for router in topology["routers"]:
        gateway = by_id.get(router["gateway_port_id"] or "")
        one = _Router(rows, router, gateway, networks, subnets)
        chassis = [*_turned(topology["gateway_chassis"], router["id"]), *topology.get("gateway_witnesses", [])]
        one.compile(interfaces[router["id"]], addresses.get(router["id"], []), chassis)
    return rows


class _Router:
    """One router on its way into `rows`."""

    def __init__(
        self, rows: Rows, router: Doc, gateway: Doc | None, networks: dict[str, Doc], subnets: dict[str, Doc]
    ) -> None:
        self.rows = rows
        self.router = router
        self.id: str = router["id"]
        self.gateway = gateway
        self.networks = networks
        self.subnets = subnets
        self.made: dict[str, list[str]] = {"Logical_Router_Port": [], "Logical_Router_Static_Route": [], "NAT": []}

    def compile(self, interfaces: list[Doc], floating_ips: list[Doc], chassis: list[str]) -> None:
        """`chassis`: where the gateway may be, the best first."""
        attached = [port for port in interfaces if self._cidrs(port)]
        for port in attached:
            self._interface(port, [*attached, self.gateway] if self.gateway else attached)
        if self.gateway and self._cidrs(self.gateway):
            self._gateway_port(self.gateway, attached, chassis)
            self._translation(self.gateway, attached, floating_ips)
        self._routes()
        self.rows["Logical_Router"][self.id] = {
            "name": self.id,
            "ports": self.made["Logical_Router_Port"],
            "static_routes": self.made["Logical_Router_Static_Route"],
            "nat": self.made["NAT"],
            "enabled": None if self.router["admin_state_up"] else False,
            # Neighbours are learned when they are needed, not from every question heard on the wire.
            "options": {"always_learn_from_arp_request": "false", "dynamic_neigh_routers": "true"},
        }

    def _add(self, table: str, key: str, row: Row) -> None:
        self.rows[table][key] = row
        self.made[table].append(key)

    def _cidrs(self, port: Doc) -> list[str]:
        """Addresses of a port with the length of their subnets' prefixes."""
        return [
            f"{fixed['ip_address']}/{ip_network(self.subnets[fixed['subnet_id']]['cidr']).prefixlen}"
            for fixed in port["fixed_ips"]
            if fixed["subnet_id"] in self.subnets
        ]

    def _port_row(self, port: Doc, peers: list[Doc]) -> Row:
        network = self.networks[port["network_id"]]
        row: Row = {
            "name": port_name(port["id"]),
            "mac": port["mac_address"],
            "networks": self._cidrs(port),
            "enabled": None if port["admin_state_up"] else False,
            "options": {},
        }
        # Where a larger packet can come from, its sender is told to send smaller ones.
        if any(self.networks[peer["network_id"]]["mtu"] > network["mtu"] for peer in peers):
            row["options"]["gateway_mtu"] = str(network["mtu"])
        return row

    def _interface(self, port: Doc, peers: list[Doc]) -> None:
        row = self._port_row(port, peers)
        network = self.networks[port["network_id"]]
        if network["network_type"] in ("flat", "vlan") and self.gateway:
            row["options"]["reside-on-redirect-chassis"] = "true"
        subnets = [self.subnets[f["subnet_id"]] for f in port["fixed_ips"] if f["subnet_id"] in self.subnets]
        advertised = [s for s in subnets if s["ip_version"] == 6 and s["ipv6_ra_mode"]]
        if advertised:
            mode = advertised[0]["ipv6_address_mode"] or advertised[0]["ipv6_ra_mode"]
            row["ipv6_ra_configs"] = {
                "address_mode": ADVERTISED_MODES[mode],
                "send_periodic": "true",
                "mtu": str(network["mtu"]),
            }
            if advertised[0]["dns_nameservers"]:
                row["ipv6_ra_configs"]["rdnss"] = advertised[0]["dns_nameservers"][0]
        self._add("Logical_Router_Port", port["id"], row)

    def _gateway_port(self, port: Doc, attached: list[Doc], chassis: list[str]) -> None:
        row = self._port_row(port, attached)
        row["gateway_chassis"] = [f"{port['id']}/{name}" for name in chassis]
        self._add("Logical_Router_Port", port["id"], row)
        for priority, name in enumerate(reversed(chassis), start=1):
            self.rows["Gateway_Chassis"][f"{port['id']}/{name}"] = {
                "name": f"{port_name(port['id'])}_{name}",
                "chassis_name": name,
                "priority": priority,
            }
        for fixed in port["fixed_ips"]:
            subnet = self.subnets.get(fixed["subnet_id"])
            if subnet and subnet["gateway_ip"]:
                self._default_route(port, subnet)

    def _default_route(self, port: Doc, subnet: Doc) -> None:
        prefix = "0.0.0.0/0" if subnet["ip_version"] == 4 else "::/0"
        if any(route["destination"] == prefix for route in self.router["routes"] or []):
            return  # the router's own route is meant to win
        row = {"ip_prefix": prefix, "nexthop": subnet["gateway_ip"], "output_port": port_name(port["id"])}
        self._add("Logical_Router_Static_Route", f"{self.id}/{prefix}", row)

    def _routes(self) -> None:
        for route in self.router["routes"] or []:
            key = f"{self.id}/{route['destination']}/{route['nexthop']}"
            row = {"ip_prefix": route["destination"], "nexthop": route["nexthop"]}
            self._add("Logical_Router_Static_Route", key, row)

    def _translation(self, gateway: Doc, attached: list[Doc], floating_ips: list[Doc]) -> None:
        """One address for all of each IPv4 subnet, and one of its own for each floating address."""
        outside = [
            fixed["ip_address"]
            for fixed in gateway["fixed_ips"]
            if fixed["subnet_id"] in self.subnets and self.subnets[fixed["subnet_id"]]["ip_version"] == 4
        ]
        inside = {fixed["subnet_id"] for port in attached for fixed in port["fixed_ips"]} & self.subnets.keys()
        if outside and self.router["enable_snat"]:
            for subnet in sorted(inside):
                if self.subnets[subnet]["ip_version"] == 4:
                    row = {"type": "snat", "external_ip": outside[0], "logical_ip": self.subnets[subnet]["cidr"]}
                    self._add("NAT", f"{self.id}/{subnet}", row)
        for address in floating_ips:
            row = {
                "type": "dnat_and_snat",
                "external_ip": address["floating_ip_address"],
                "logical_ip": address["fixed_ip_address"],
            }
            self._add("NAT", address["id"], row)


def _turned(chassis: list[str], seed: str) -> list[str]:
    """The gateway hosts in an order of this router's own, always the same: so routers spread over the hosts."""
    if not chassis:
        return []
    ordered = sorted(chassis)
    start = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % len(ordered)
    return ordered[start:] + ordered[:start]
