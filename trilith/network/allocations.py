"""IP addresses of ports: which is free, which is taken. One row an address, unique in its subnet, so that no two
requests ever get the same one."""

import ipaddress
import itertools
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from trilith.kernel.errors import Fault
from trilith.kernel.statements import kept
from trilith.kernel.store import METADATA, Stale, Tx

Row = dict[str, Any]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
AUTO_MODES = ("slaac", "dhcpv6-stateless")  # a port's address follows from its MAC address

ALLOCATION = sa.Table(
    "network_allocations",
    METADATA,
    sa.Column("subnet_id", sa.String(64), primary_key=True),
    sa.Column("ip_address", sa.String(45), primary_key=True),
    sa.Column("port_id", sa.String(64), nullable=False, index=True),
    sa.Column("network_id", sa.String(64), nullable=False, index=True),
)
# From which position in its pools on a subnet has free addresses: those before it are taken, as far as is known.
MARKS = sa.Table(
    "network_allocation_marks",
    METADATA,
    sa.Column("subnet_id", sa.String(64), primary_key=True),
    sa.Column("position", sa.BigInteger(), nullable=False),
)
LOOKED_AT, MOST_LOOKED_AT = 16, 4096  # addresses at once
_OF_SUBNET = ALLOCATION.c.subnet_id == sa.bindparam("subnet_id")
_TAKEN = kept(
    sa.select(ALLOCATION.c.ip_address).where(
        _OF_SUBNET, ALLOCATION.c.ip_address.in_(sa.bindparam("addresses", expanding=True))
    )
)
_HOLDER = kept(sa.select(ALLOCATION.c.port_id).where(_OF_SUBNET, ALLOCATION.c.ip_address == sa.bindparam("address")))
_MARK = kept(MARKS.select().where(MARKS.c.subnet_id == sa.bindparam("subnet_id")))
_MOVE = MARKS.update().where(MARKS.c.subnet_id == sa.bindparam("at_subnet"))
_HELD = kept(
    sa.select(ALLOCATION.c.subnet_id, ALLOCATION.c.ip_address, MARKS.c.position)
    .join(MARKS, MARKS.c.subnet_id == ALLOCATION.c.subnet_id)
    .where(ALLOCATION.c.port_id == sa.bindparam("port_id"))
)


def is_auto(subnet: Row) -> bool:
    """Whether machines make their own address in it."""
    return subnet["ip_version"] == 6 and subnet["ipv6_address_mode"] in AUTO_MODES


def eui64(cidr: str, mac: str) -> str:
    """The address that a machine with this MAC address gives itself in this IPv6 network."""
    octets = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.ip_address(int(ipaddress.ip_network(cidr).network_address) | int.from_bytes(tail, "big")))


def pool_size(subnet: Row) -> int:
    return sum(int(last) - int(first) + 1 for first, last in _pools(subnet))


def _pools(subnet: Row) -> Iterator[tuple[IpAddress, IpAddress]]:
    for pool in subnet["allocation_pools"]:
        yield ipaddress.ip_address(pool["start"]), ipaddress.ip_address(pool["end"])


def free_address(tx: Tx, subnet: Row) -> str | None:
    """The lowest address of the subnet's pools that nobody has; None when all are taken."""
    marked = tx.select(_MARK, subnet_id=subnet["id"])
    begin = marked[0]["position"] if marked else 0
    found, position = _free_from(tx, subnet, begin)
    if found is None and begin > 0:  # the mark is only a hint
        found, position = _free_from(tx, subnet, 0)
    if found is not None and position != begin:
        _mark(tx, subnet["id"], position)
    return found


def _free_from(tx: Tx, subnet: Row, begin: int) -> tuple[str | None, int]:
    """The first free address from a position on, and the position from which on it was looked for last."""
    numbers, size = _numbered(subnet, begin), LOOKED_AT
    while some := list(itertools.islice(numbers, size)):
        own = [address for address in some if address != subnet["gateway_ip"]]
        taken = {row["ip_address"] for row in tx.select(_TAKEN, subnet_id=subnet["id"], addresses=own)}
        for address in own:
            if address not in taken:
                return address, begin
        begin, size = begin + len(some), min(size * 4, MOST_LOOKED_AT)
    return None, begin


def _numbered(subnet: Row, begin: int) -> Iterator[str]:
    """The addresses of the pools, one pool after the other, from a position on."""
    for first, last in _pools(subnet):
        count = int(last) - int(first) + 1
        make = type(first)
        for number in range(int(first) + begin, int(last) + 1):
            yield str(make(number))
        begin = max(0, begin - count)


def _position(subnet: Row, address: str) -> int | None:
    """Where an address stands in the pools; None where it is in none."""
    found, before = ipaddress.ip_address(address), 0
    for first, last in _pools(subnet):
        if found.version == first.version and int(first) <= int(found) <= int(last):
            return before + int(found) - int(first)
        before += int(last) - int(first) + 1
    return None


def _mark(tx: Tx, subnet_id: str, position: int) -> None:
    if tx.execute(_MOVE, {"at_subnet": subnet_id, "position": position}).rowcount == 0:
        tx.execute(MARKS.insert(), {"subnet_id": subnet_id, "position": position})


def forget_mark(tx: Tx, subnet_id: str) -> None:
    """The subnet's pools are others now, or it is gone."""
    tx.execute(MARKS.delete().where(MARKS.c.subnet_id == subnet_id))


def take(tx: Tx, port: Row, subnet: Row, address: str) -> Row:
    """The address is the port's from here on. `Fault` IpAddressInUse when it is another's."""
    values = {
        "subnet_id": subnet["id"],
        "ip_address": address,
        "port_id": port["id"],
        "network_id": subnet["network_id"],
    }
    if tx.scalar(_HOLDER, subnet_id=subnet["id"], address=address) is not None:
        raise Fault(
            "conflict",
            f"Unable to complete operation for network {subnet['network_id']}. The IP address {address} is in use.",
            "IpAddressInUse",
        )
    try:
        tx.execute(ALLOCATION.insert(), values)
    except IntegrityError as error:
        raise Stale(f"address {address} was taken by another at the same time") from error
    return {"subnet_id": subnet["id"], "ip_address": address}


def release(tx: Tx, port_id: str, ip_address: str | None = None) -> None:
    """One address of a port, or all."""
    from trilith.network.subnets import SUBNET

    for held in tx.select(_HELD, port_id=port_id):
        if ip_address in (None, held["ip_address"]):
            position = _position(tx.get(SUBNET, held["subnet_id"]), held["ip_address"])
            if position is not None and position < held["position"]:
                _mark(tx, held["subnet_id"], position)
    where = [ALLOCATION.c.port_id == port_id]
    if ip_address is not None:
        where.append(ALLOCATION.c.ip_address == ip_address)
    tx.execute(ALLOCATION.delete().where(*where))


def checked(subnet: Row, address: str) -> str:
    """An address that somebody asked for: it must be one of the subnet's that a port can have."""
    found, net = ipaddress.ip_address(address), ipaddress.ip_network(subnet["cidr"])
    edges = {net.network_address, net.broadcast_address} if net.version == 4 and net.prefixlen < 31 else set()
    if found.version != net.version or found not in net or found in edges:
        raise Fault(
            "invalid",
            f"IP address {address} is not a valid IP for the specified subnet {subnet['id']}.",
            "InvalidIpForSubnet",
        )
    return str(found)


def holds(subnet: Row, address: str) -> bool:
    found, net = ipaddress.ip_address(address), ipaddress.ip_network(subnet["cidr"])
    return found.version == net.version and found in net


def choose(tx: Tx, port: Row, subnets: list[Row], asked: list[Row] | None) -> list[Row]:
    """Takes addresses for a port that has none yet: `asked` are ``{"subnet_id", "ip_address"}``, either may be left
    out; None asks for the usual: one of each IP version, and each IPv6 subnet where machines make their own."""
    network_id = port["network_id"]
    if asked is None:
        return _usual(tx, port, subnets)
    by_id = {subnet["id"]: subnet for subnet in subnets}
    found = []
    for want in asked:
        address, subnet_id = want.get("ip_address"), want.get("subnet_id")
        if subnet_id is not None:
            if subnet_id not in by_id:
                message = f"fixed_ips of a port on network {network_id} included invalid subnet {subnet_id}."
                raise Fault("invalid", f"Invalid input for operation: {message}", "InvalidInput")
            subnet = by_id[subnet_id]
        else:
            fitting = [s for s in subnets if address is not None and holds(s, address)]
            if not fitting:
                message = f"IP address {address} is not a valid IP for any of the subnets on the specified network."
                raise Fault("invalid", message, "InvalidIpForNetwork")
            subnet = fitting[0]
        found.append(take(tx, port, subnet, _address(tx, port, subnet, address)))
    return found


def _address(tx: Tx, port: Row, subnet: Row, asked: str | None) -> str:
    """The address to take: the one asked for, the one that the machine will give itself, or the next free one."""
    routes = port["device_owner"].startswith("network:router")
    if is_auto(subnet) and not routes:
        own = eui64(subnet["cidr"], port["mac_address"])
        if asked is not None and asked != own:
            raise Fault(
                "invalid",
                f"IPv6 address {asked} cannot be directly assigned to a port on subnet {subnet['id']} as the subnet is "
                "configured for automatic addresses",
                "AllocationOnAutoAddressSubnet",
            )
        return own
    if asked is not None:
        return checked(subnet, asked)
    if (found := free_address(tx, subnet)) is not None:
        return found
    raise exhausted(port["network_id"])


def exhausted(network_id: str) -> Fault:
    return Fault(
        "no_capacity", f"No more IP addresses available on network {network_id}.", "IpAddressGenerationFailure"
    )


def _usual(tx: Tx, port: Row, subnets: list[Row]) -> list[Row]:
    owner = port["device_owner"]
    typed = [s for s in subnets if any(owner.startswith(kind) for kind in s["service_types"])]
    usable = typed or [s for s in subnets if not s["service_types"]]
    if subnets and not usable:
        raise Fault(
            "no_capacity",
            f"No valid service subnet for the given device owner, network {port['network_id']}.",
            "IpAddressGenerationFailureNoMatchingSubnet",
        )
    found = []
    for version in (4, 6):
        plain = [s for s in usable if s["ip_version"] == version and not is_auto(s)]
        for subnet in plain:
            if (address := free_address(tx, subnet)) is not None:
                found.append(take(tx, port, subnet, address))
                break
        else:
            if plain:
                raise exhausted(port["network_id"])
    routes = owner.startswith("network:router")
    for subnet in (s for s in usable if is_auto(s) and not routes):
        found.append(take(tx, port, subnet, _address(tx, port, subnet, None)))
    return found
