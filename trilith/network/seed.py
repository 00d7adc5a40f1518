"""The first external network of a cloud: what routers and floating addresses reach the outside through."""

import ipaddress
import uuid
from collections.abc import Callable
from typing import Any

from trilith.kernel.store import Tx
from trilith.network.networks import NETWORK, make_network
from trilith.network.subnets import make_subnet

Row = dict[str, Any]

NAME = "public"
PHYSICAL_NETWORK = "provider"  # the name "public" stays free for a network that an operator makes
POOL = (10, 250)  # of a /24; a smaller network gives what it has


def random_id() -> str:
    return str(uuid.uuid4())


def seed_network(
    tx: Tx,
    new_id: Callable[[], str] = random_id,
    *,
    public_cidr: str,
    gateway_ip: str,
    admin_project_id: str,
) -> Row:
    """The network ``public`` with its subnet; made once, found ever after (by its segment)."""
    found = tx.one(NETWORK, network_type="flat", physical_network=PHYSICAL_NETWORK)
    if found is not None:
        return found
    network = make_network(
        tx,
        new_id,
        id=new_id(),
        name=NAME,
        project_id=admin_project_id,
        external=True,
        is_default=True,
        network_type="flat",
        physical_network=PHYSICAL_NETWORK,
        port_security_enabled=True,
    )
    net = ipaddress.ip_network(public_cidr)
    first, last = POOL
    pools = None
    if net.num_addresses > last + 1:
        pools = [{"start": str(net.network_address + first), "end": str(net.network_address + last)}]
    make_subnet(
        tx,
        new_id,
        network,
        name="public-subnet",
        project_id=admin_project_id,
        ip_version=net.version,
        cidr=str(net),
        gateway_ip=gateway_ip,
        allocation_pools=pools,
        enable_dhcp=False,
    )
    return network
