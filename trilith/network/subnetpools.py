"""Subnet pools: prefixes that subnets are cut out of, so that nobody has to choose a CIDR."""

import ipaddress
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Field, Noun, Quota, flag, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, ListOf, Prefix, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.network import rbac_policies
from trilith.network.rbac_policies import SHARED
from trilith.network.resource import resource

Row = dict[str, Any]
Net = ipaddress.IPv4Network | ipaddress.IPv6Network

LEAST = {4: 8, 6: 64}  # the shortest prefix that may be asked for when the pool does not say
MAX_ALLOCATIONS_TRIED = 1 << 20


def _length(column: str) -> Field:
    """Shown as text, as it always was."""
    kind = Whole(0, 128)
    return Field(
        kind=kind, create="optional", update=True, null=True, filter=True, show=lambda row, ctx: str(row[column])
    )


def _shared_filter(ctx: Ctx, values: list[str]) -> Any:
    ids = rbac_policies.granted("subnetpool", ctx.who.project_id, SHARED)
    wanted = {Flag().from_query(value, "shared") for value in values}
    return sa.or_(*[POOL.c.id.in_(ids) if on else POOL.c.id.not_in(ids) for on in wanted])


POOL: Noun = resource(
    "subnetpool",
    "/subnetpools",
    dict(
        prefixes=Field(kind=ListOf(Prefix(loose=True), least=1), create="required", update=True),
        ip_version=whole(4, 6, filter=True),
        default_prefixlen=_length("default_prefixlen"),
        min_prefixlen=_length("min_prefixlen"),
        max_prefixlen=_length("max_prefixlen"),
        default_quota=whole(0, create="optional", update=True, null=True, filter=True),
        address_scope_id=text(64),
        is_default=flag(
            create="optional", update=True, default=False, policy="admin", filter=True, extension="default-subnetpools"
        ),
        shared=Field(
            kind=Flag(),
            stored=False,
            create="optional",
            default=False,
            policy="admin",
            show=lambda row, ctx: row["shared"],
            filter=_shared_filter,
        ),
    ),
    quota=Quota("subnetpool", -1),
    scope=lambda ctx: rbac_policies.visible(ctx, POOL, "subnetpool"),
    expand=lambda ctx, rows: rbac_policies.fill_shared(ctx.tx, "subnetpool", rows, ctx.who.project_id),
    wakes=lambda row: (),
    type_name="SubnetPool",
    extension="subnet_allocation",
)
rbac_policies.NOUNS["subnetpool"] = POOL


def _users(tx: Tx, row: Row, action: str) -> set[str]:
    from trilith.network.subnets import SUBNET

    return {subnet["project_id"] for subnet in tx.rows(SUBNET, subnetpool_id=row["id"])}


rbac_policies.USERS["subnetpool"] = _users


@POOL.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    shared = new.pop("shared", False)
    row = ctx.tx.insert(POOL, new | _checked(new))
    _only_default(ctx.tx, row)
    if shared:
        rbac_policies.share(ctx.tx, ctx.new_id, "subnetpool", row, SHARED, True)
    return row


@POOL.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    new = row | changes
    checked = _checked(new)
    if "prefixes" in changes:
        old = [ipaddress.ip_network(prefix) for prefix in row["prefixes"]]
        kept = [ipaddress.ip_network(prefix) for prefix in checked["prefixes"]]
        if not all(any(_inside(one, two) for two in kept) for one in old):
            raise Fault(
                "invalid",
                "Illegal subnetpool update : Existing prefixes must be a subset of the new prefixes.",
                "IllegalSubnetPoolPrefixUpdate",
            )
    row = ctx.tx.update(POOL, row, **(changes | checked))
    _only_default(ctx.tx, row)
    return row


@POOL.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.network.subnets import SUBNET

    if ctx.tx.one(SUBNET, subnetpool_id=row["id"]) is not None:
        raise Fault(
            "invalid",
            "Unable to delete subnet pool: Subnet pool has existing allocations.",
            "SubnetPoolDeleteError",
        )
    rbac_policies.forget(ctx.tx, row["id"])
    ctx.tx.delete(POOL, row)


def _checked(row: Row) -> Row:
    """Prefixes joined where they touch, and lengths that fit together."""
    nets = [ipaddress.ip_network(prefix) for prefix in row["prefixes"]]
    versions = {net.version for net in nets}
    if len(versions) > 1:
        raise Fault("invalid", "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.", "PrefixVersionMismatch")
    version = versions.pop()
    low = row["min_prefixlen"] if row["min_prefixlen"] is not None else LEAST[version]
    high = row["max_prefixlen"] if row["max_prefixlen"] is not None else nets[0].max_prefixlen
    default = row["default_prefixlen"] if row["default_prefixlen"] is not None else low
    if high > nets[0].max_prefixlen or low > high or not low <= default <= high:
        message = f"Illegal prefix bounds: min_prefixlen={low}, default_prefixlen={default}, max_prefixlen={high}."
        raise Fault("invalid", message, "IllegalSubnetPoolPrefixBounds")
    joined = [str(net) for net in ipaddress.collapse_addresses(nets)]  # type: ignore[type-var]
    return {
        "prefixes": joined,
        "ip_version": version,
        "min_prefixlen": low,
        "max_prefixlen": high,
        "default_prefixlen": default,
    }


def _only_default(tx: Tx, row: Row) -> None:
    if row["is_default"] and tx.count(POOL, is_default=True, ip_version=row["ip_version"]) > 1:
        message = f"A default subnetpool for IPv{row['ip_version']} has already been set. Only one default may exist."
        raise Fault("invalid", f"Invalid input for operation: {message}", "InvalidInput")


def _inside(one: Net, two: Net) -> bool:
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(two, ipaddress.IPv4Network) and one.subnet_of(two)
    return isinstance(two, ipaddress.IPv6Network) and one.subnet_of(two)


def default_pool(tx: Tx, ip_version: int) -> Row:
    row = tx.one(POOL, is_default=True, ip_version=ip_version)
    if row is None:
        raise Fault("invalid", f"No default IPv{ip_version} subnet pool is set.", "BadRequest")
    return row


def take(tx: Tx, pool: Row, cidr: str | None, prefix_length: int | None, ip_version: int, project_id: str) -> str:
    """A CIDR of the pool for a new subnet: the one asked for, or the first free one of that length."""
    from trilith.network.subnets import SUBNET

    if ip_version != pool["ip_version"]:
        message = f"Cannot allocate requested subnet: IPv{ip_version} of an IPv{pool['ip_version']} pool."
        raise Fault("invalid", message, "BadRequest")
    if cidr is not None and prefix_length is not None:
        raise Fault("invalid", "Bad subnets request: cidr and prefixlen must not be supplied together.", "BadRequest")
    taken = tx.rows(SUBNET, subnetpool_id=pool["id"])
    nets = [ipaddress.ip_network(row["cidr"]) for row in taken]
    length = ipaddress.ip_network(cidr).prefixlen if cidr else prefix_length
    length = pool["default_prefixlen"] if length is None else length
    _check_length(pool, length)
    _check_quota(pool, [row for row in taken if row["project_id"] == project_id], length)
    if cidr is not None:
        asked = ipaddress.ip_network(cidr)
        inside = any(_inside(asked, ipaddress.ip_network(prefix)) for prefix in pool["prefixes"])
        if not inside or any(asked.overlaps(net) for net in nets):
            raise _none_left("Cannot allocate requested subnet from the available set of prefixes")
        return str(asked)
    for prefix in pool["prefixes"]:
        if (found := _first_free(ipaddress.ip_network(prefix), length, nets)) is not None:
            return str(found)
    raise _none_left(f"Insufficient prefix space to allocate subnet size /{length}")


def _check_length(pool: Row, length: int) -> None:
    if length < pool["min_prefixlen"]:
        message = (
            f"Unable to allocate subnet with prefix length {length}, minimum allowed prefix is {pool['min_prefixlen']}."
        )
        raise Fault("invalid", message, "MinPrefixSubnetAllocationError")
    if length > pool["max_prefixlen"]:
        message = (
            f"Unable to allocate subnet with prefix length {length}, maximum allowed prefix is {pool['max_prefixlen']}."
        )
        raise Fault("invalid", message, "MaxPrefixSubnetAllocationError")


def _check_quota(pool: Row, mine: list[Row], length: int) -> None:
    """The pool's own quota: in addresses for IPv4, in /64 for IPv6."""
    if pool["default_quota"] is None:
        return
    whole_ = 32 if pool["ip_version"] == 4 else 64
    used = sum(2 ** max(0, whole_ - ipaddress.ip_network(row["cidr"]).prefixlen) for row in mine)
    if used + 2 ** max(0, whole_ - length) > pool["default_quota"]:
        raise Fault("over_quota", "Per-project subnet pool prefix quota exceeded.", "SubnetPoolQuotaExceeded")


def _none_left(message: str) -> Fault:
    return Fault("no_capacity", f"Failed to allocate subnet: {message}.", "SubnetAllocationError")


def _first_free(prefix: Net, length: int, nets: list[Net]) -> Net | None:
    """Steps over what is taken, so that a big pool costs no more than the number of its subnets."""
    if length < prefix.prefixlen:
        return None
    size = 1 << (prefix.max_prefixlen - length)
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in nets if net.overlaps(prefix))
    at, end = int(prefix.network_address), int(prefix.broadcast_address)
    for first, last in spans:
        if at + size - 1 < first:
            break
        if last >= at:
            at = -(-(last + 1) // size) * size
    if at + size - 1 > end:
        return None
    return type(prefix)((at, length))
