"""The rows of this service as the one document that OVN's northbound rows are computed from, and what comes back."""

from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Noun
from trilith.kernel.store import Tx
from trilith.network import (  # noqa: F401 - their operations are declared
    auto_allocated_topology,
    extensions,
    insight,
    quotas,
    repair,
    subnetpools,
)
from trilith.network.floatingips import FLOATING_IP
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT
from trilith.network.routers import ROUTER
from trilith.network.security_group_rules import RULE
from trilith.network.security_groups import SECURITY_GROUP
from trilith.network.subnets import SUBNET
from trilith.placement import hosts

Row = dict[str, Any]
Doc = dict[str, Any]

METADATA_OWNER = "network:distributed"

COLUMNS: dict[str, tuple[Noun, str]] = {
    "networks": (
        NETWORK,
        "id name project_id mtu external network_type physical_network segmentation_id admin_state_up",
    ),
    "subnets": (
        SUBNET,
        "id network_id ip_version cidr gateway_ip enable_dhcp dns_nameservers host_routes ipv6_ra_mode "
        "ipv6_address_mode",
    ),
    "ports": (
        PORT,
        "id name network_id mac_address fixed_ips device_id device_owner admin_state_up port_security_enabled "
        "security_groups allowed_address_pairs extra_dhcp_opts binding_host binding_peer dns_name",
    ),
    "routers": (ROUTER, "id name admin_state_up enable_snat external_network_id gateway_port_id routes"),
    "floating_ips": (
        FLOATING_IP,
        "id floating_ip_address floating_network_id fixed_ip_address port_id router_id",
    ),
    "security_groups": (SECURITY_GROUP, "id stateful"),
    "security_group_rules": (
        RULE,
        "id security_group_id direction ethertype protocol port_range_min port_range_max remote_ip_prefix "
        "remote_group_id",
    ),
}


GATEWAY_WATCHERS = 3


def gateways(tx: Tx) -> Doc:
    """``gateway_chassis``: the hosts on which routers may have their gateway. ``gateway_witnesses``: hosts that only
    make three of them. Of two, each would think that it is the one cut off when the other one dies, and wait."""
    hosts_ = sorted(tx.rows(hosts.HOST), key=lambda row: row["name"])
    chassis = [row["name"] for row in hosts_ if "network" in row["roles"]]
    others = [row["name"] for row in hosts_ if "network" not in row["roles"] and "compute" in row["roles"]]
    return {"gateway_chassis": chassis, "gateway_witnesses": others[: max(0, GATEWAY_WATCHERS - len(chassis))]}


def topology(tx: Tx, gateways: Doc, dns_domain: str = "", dns_servers: list[str] | None = None) -> Doc:
    """Everything that OVN must know. `gateways`: see the function."""
    found: Doc = {
        **gateways,
        "dns_domain": dns_domain,
        "dns_servers": dns_servers or [],
    }
    for name, (noun, columns) in COLUMNS.items():
        found[name] = tx.select(sa.select(*[noun.c[column] for column in columns.split()]))
    for port in found["ports"]:
        port["security_group_ids"] = port.pop("security_groups")
        port["binding_host"] = port["binding_host"] or None
    return found


def fingerprint(tx: Tx) -> tuple[Any, ...]:
    """Differs whenever `topology` may: cheap to ask for, again and again."""
    found: list[Any] = []
    for noun, _ in COLUMNS.values():
        c = noun.c
        newest = sa.func.max(sa.func.coalesce(c.updated_at, c.created_at))
        found += tx.execute(sa.select(sa.func.count(), sa.func.sum(c.generation), newest)).one()
    return tuple(found)


def bound_ports(tx: Tx) -> list[Row]:
    """The ports of machines that have a host."""
    return tx.rows(PORT, PORT.c.binding_host != "")


def ports_that_changed(tx: Tx, up: set[str]) -> list[Row]:
    """The ports of which OVN says something else than their rows."""
    return [row for row in bound_ports(tx) if row["seen_up"] != (row["id"] in up)]


def report_ports_up(tx: Tx, up: set[str]) -> None:
    """OVN says which ports are plugged in somewhere; their rows follow, in both directions."""
    for port in ports_that_changed(tx, up):
        tx.update(PORT, port, seen_up=port["id"] in up)


def metadata_networks(tx: Tx, host: str) -> list[Doc]:
    """For the host's agent: the networks of its machines on which metadata is served, and at which address."""
    here = {port["network_id"] for port in tx.rows(PORT, binding_host=host)}
    found = []
    for port in tx.rows(PORT, network_id=list(here), device_owner=METADATA_OWNER) if here else []:
        ids = [fixed["subnet_id"] for fixed in port["fixed_ips"]]
        lengths = {subnet["id"]: subnet["cidr"].rpartition("/")[2] for subnet in tx.rows(SUBNET, id=ids)}
        neighbours = tx.rows(PORT, network_id=port["network_id"], binding_host=host)
        found.append(
            {
                "id": port["network_id"],
                "generation": port["generation"],
                "present": True,
                "port_id": port["id"],
                "mac": port["mac_address"],
                "addresses": [f"{fixed['ip_address']}/{lengths[fixed['subnet_id']]}" for fixed in port["fixed_ips"]],
                "servers": {
                    fixed["ip_address"]: neighbour["machine_id"]
                    for neighbour in neighbours
                    for fixed in neighbour["fixed_ips"]
                },
            }
        )
    return found


def _reported(tx: Tx, host: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
    """Metadata is served, or is not yet: nothing of it is kept."""


hosts.hosted("metadata_network", metadata_networks, _reported)
