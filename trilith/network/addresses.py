"""What machines show of their ports: addresses, fixed and floating, and security groups. Read for many at once, and
only what is shown."""

from typing import Any

import sqlalchemy as sa

from trilith.kernel.statements import kept
from trilith.kernel.store import Tx
from trilith.network.floatingips import FLOATING_IP
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT
from trilith.network.security_groups import SECURITY_GROUP

Row = dict[str, Any]

IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
CARDS = kept(
    sa.select(
        *(PORT.c[name] for name in ("id", "machine_id", "network_id", "mac_address", "fixed_ips", "security_groups"))
    )
    .where(PORT.c.machine_id.in_(IDS))
    .order_by(PORT.c.created_at, PORT.c.id)
)
NETWORKS = kept(sa.select(NETWORK.c.id, NETWORK.c.name).where(NETWORK.c.id.in_(IDS)))
GROUPS = kept(sa.select(SECURITY_GROUP.c.id, SECURITY_GROUP.c.name).where(SECURITY_GROUP.c.id.in_(IDS)))
FLOATING = kept(
    sa.select(FLOATING_IP.c.port_id, FLOATING_IP.c.fixed_ip_address, FLOATING_IP.c.floating_ip_address).where(
        FLOATING_IP.c.port_id.in_(IDS)
    )
)


def cards(tx: Tx, device_ids: list[str]) -> list[Row]:
    """The ports of these machines, oldest first: ``id machine_id network_id mac_address fixed_ips security_groups``."""
    return tx.select(CARDS, ids=device_ids) if device_ids else []


def addresses(tx: Tx, device_ids: list[str], ports: list[Row] | None = None) -> dict[str, dict[str, list[Row]]]:
    """The addresses of machines: ``{device_id: {network name: [address, ...]}}``. `ports`: their `cards`, where the
    caller has read them already."""
    ports = cards(tx, device_ids) if ports is None else ports
    found: dict[str, dict[str, list[Row]]] = {device_id: {} for device_id in device_ids}
    if not ports:
        return found
    networks = _names(tx, NETWORKS, {port["network_id"] for port in ports})
    floating: dict[tuple[str, str], list[str]] = {}
    for row in tx.select(FLOATING, ids=[port["id"] for port in ports]):
        floating.setdefault((row["port_id"], row["fixed_ip_address"]), []).append(row["floating_ip_address"])
    for port in ports:
        of_network = found[port["machine_id"]].setdefault(networks[port["network_id"]], [])
        for fixed in port["fixed_ips"]:
            of_network.append(_address(port, fixed["ip_address"], "fixed"))
            for outer in floating.get((port["id"], fixed["ip_address"]), []):
                of_network.append(_address(port, outer, "floating"))
    return found


def _address(port: Row, address: str, kind: str) -> Row:
    return {
        "addr": address,
        "version": 6 if ":" in address else 4,
        "OS-EXT-IPS:type": kind,
        "OS-EXT-IPS-MAC:mac_addr": port["mac_address"],
    }


def groups(tx: Tx, ports: list[Row]) -> dict[str, list[str]]:
    """The names of the security groups that the ports of each machine are in, by machine."""
    names = _names(tx, GROUPS, {group for port in ports for group in port["security_groups"] or []})
    found: dict[str, list[str]] = {}
    for port in ports:
        own = [names[group] for group in port["security_groups"] or [] if group in names]
        found.setdefault(port["machine_id"], []).extend(own)
    return found


def _names(tx: Tx, query: sa.Select[Any], ids: set[str]) -> dict[str, str]:
    return {row["id"]: row["name"] for row in tx.select(query, ids=list(ids))} if ids else {}
