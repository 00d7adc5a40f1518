"""Chooses a host for a server and claims it, in the transaction that makes the server.

A host's use is the sum over its servers' claims, kept beside them (`placement.loads`). Filters are functions of a host;
the hosts that pass all are weighed: soft rules of server groups first, then where the server's volumes are, then free
memory. Hosts are looked at in the order of their free memory, so that one of ten thousand is found as fast as one of
ten; only when none fits all are asked, to say why.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa

from trilith.compute.aggregates import AGGREGATE, zone_of
from trilith.compute.takeovers import reserve_hosts
from trilith.kernel.errors import Fault
from trilith.kernel.statements import kept
from trilith.kernel.store import METADATA, Condition, Stale, Tx
from trilith.placement import loads
from trilith.placement.hosts import HOST, heard, is_up
from trilith.placement.loads import LOADS

log = logging.getLogger(__name__)
Row = dict[str, Any]

OVERCOMMIT = {"vcpus": 4.0, "ram": 1.0, "disk": 1.0}  # of a host that does not say
NO_HOST = "No valid host was found. "
FIRST_LOOKED_AT = 8  # hosts; then four times as many
RECOUNTED_AT_ONCE = 10


@dataclass(frozen=True)
class Ask:
    """What a server needs of a host. `near`: hosts of volumes that it is to have, which open them without a network;
    `makes_volumes`: others are made for it, where it runs if that is a storage host. `takeover`: its host is lost, and
    those in reserve are there for it."""

    flavor: Row
    project_id: str
    zone: str | None = None
    host: str | None = None
    group: Row | None = None
    hints: Row = field(default_factory=dict)
    near: frozenset[str] = frozenset()
    image_properties: Row = field(default_factory=dict)
    server_id: str | None = None  # when it moves: its own claim does not count
    local_disk: bool = True
    makes_volumes: bool = False
    takeover: bool = False
    not_on: str | None = None
    runs_like: Row | None = None  # the host that a running machine comes from

    def amounts(self) -> Row:
        swap_gib = -(-self.flavor["swap_mib"] // 1024)
        disk = self.flavor["ephemeral_gib"] + swap_gib + (self.flavor["disk_gib"] if self.local_disk else 0)
        return {"vcpus": self.flavor["vcpus"], "ram_mib": self.flavor["ram_mib"], "disk_gib": disk}

    def zone_of(self, tx: Tx, host: Row) -> str:
        return zone_of(host, tx.rows(AGGREGATE))


@dataclass
class World:
    """What the filters look at: read once for one decision."""

    used: dict[str, Row]  # of the hosts that are looked at
    aggregates: list[Row]
    where: dict[str, str]  # server id -> host, of servers that hints name
    members: dict[str, int]  # host -> servers of the group
    now_s: float
    reserved: frozenset[str] = frozenset()  # hosts that are kept empty

    def aggregates_of(self, host: Row) -> list[Row]:
        return [a for a in self.aggregates if host["name"] in a["hosts"]]


def servers_table() -> sa.Table:
    return METADATA.tables["compute_servers"]


def claims_of(row: Row) -> list[tuple[str, loads.Sums]]:
    """What a server's row claims, by host: a server that moves counts on both of its hosts."""
    if row["deleted_at"] is not None or row["host"] is None:
        return []
    found = [(row["host"], row["claim"], 1)]
    if row["peer"] is not None:
        found.append((row["peer"], row["peer_claim"], 0))
    return [
        (host, {name: (claimed or {}).get(name, 0) for name in loads.AMOUNTS} | {"servers": servers, "claims": 1})
        for host, claimed, servers in found
    ]


def usage(tx: Tx, server_id: str | None = None, hosts: Iterable[str] | None = None) -> dict[str, Row]:
    """Claimed amounts by host, of all or of these; `server_id` is not counted."""
    found = loads.loads(tx, hosts)
    for host, amounts in _own_claims(tx, server_id):
        if host in found:
            found[host] = {name: found[host][name] - amounts[name] for name in loads.COUNTED}
    return {host: sums for host, sums in found.items() if sums["claims"] > 0}


def _claims(tx: Tx, *where: Condition) -> list[tuple[str, loads.Sums]]:
    c = servers_table().c
    query = sa.select(c.host, c.claim, c.peer, c.peer_claim, c.deleted_at).where(c.deleted_at.is_(None), *where)
    return [claim for row in tx.select(query) for claim in claims_of(row)]


def _own_claims(tx: Tx, server_id: str | None) -> list[tuple[str, loads.Sums]]:
    return [] if server_id is None else _claims(tx, servers_table().c.id == server_id)


def recount(tx: Tx, host: Row) -> bool:
    """Makes the sums of a host anew from its servers; whether they were wrong."""
    c, name = servers_table().c, host["name"]
    claims = _claims(tx, sa.or_(c.host == name, c.peer == name))
    return loads.recount(tx, host, [amounts for of, amounts in claims if of == name])


_recounted = ""  # the last host whose sums this process has looked at


def sweep(tx: Tx) -> None:
    """Looks whether the sums of a few hosts are right; at each call the next ones."""
    global _recounted
    query = HOST.table.select().where(HOST.c.name > _recounted).order_by(HOST.c.name).limit(RECOUNTED_AT_ONCE)
    hosts = tx.select(query)
    for host in hosts:
        if recount(tx, host):
            log.warning("the sums of host %s were not those of its servers: counted anew", host["name"])
    _recounted = hosts[-1]["name"] if len(hosts) == RECOUNTED_AT_ONCE else ""


def place(tx: Tx, ask: Ask) -> Row:
    """The host to use. Raises no_capacity when none fits, invalid when the asked zone or host does not exist,
    unavailable just after an outage (see `heard`)."""
    found = _best(tx, ask)
    return found if found is not None else _among_all(tx, ask)


def _best(tx: Tx, ask: Ask) -> Row | None:
    """The host that weighs most of those that fit; None where none does.

    Hosts that something sets apart (members of the group, volumes, a claim of the server's own) are weighed each. Of
    all others the first that fits, in the order of free memory, weighs most.
    """
    world = _world(tx, ask)
    reserve = 0 if ask.takeover else reserve_hosts(tx)
    if reserve:
        if ask.server_id is not None:  # whether its host is empty without it, the sums do not tell
            return None
        world.reserved = _emptiest(tx, world, reserve)
    apart = set(ask.near) | world.members.keys() | {host for host, _ in _own_claims(tx, ask.server_id)}
    only = _only(ask, world)
    fit = _fitting(tx, _named(tx, apart if only is None else only), ask, world)
    if only is None:
        others = [HOST.c.name.not_in(apart)] if apart else []
        storage = sa.cast(HOST.c.roles, sa.Text).contains('"storage"')
        first = _first(tx, ask, world, *others, storage) if ask.makes_volumes and not ask.near else None
        fit += [host for host in (first or _first(tx, ask, world, *others),) if host is not None]
    return _heaviest(fit, ask, world) if fit else None


def _only(ask: Ask, world: World) -> set[str] | None:
    """The hosts that a request leaves to choose from, where it names them."""
    if ask.host is not None:
        return {ask.host}
    if wanted := _listed(ask.hints.get("same_host")):
        return {world.where[server] for server in wanted if server in world.where}
    if ask.group and ask.group["policy"] == "affinity" and world.members:
        return set(world.members)
    return None


def _named(tx: Tx, names: set[str]) -> list[Row]:
    return tx.rows(HOST, name=names) if names else []


@cache
def _ordered() -> sa.Select[Any]:
    query = HOST.table.select().join(LOADS, LOADS.c.host == HOST.c.name)
    query = query.order_by(LOADS.c.free_ram_mib.desc(), LOADS.c.host.desc())
    return kept(query.limit(sa.bindparam("size")).offset(sa.bindparam("begin")))


def _in_order(tx: Tx, *where: Condition) -> Iterator[list[Row]]:
    """Hosts with most free memory first, a few at a time."""
    query = _ordered().where(*where) if where else _ordered()
    size, begin = FIRST_LOOKED_AT, 0
    while rows := tx.select(query, size=size, begin=begin):
        yield rows
        begin, size = begin + size, size * 4


def _first(tx: Tx, ask: Ask, world: World, *where: Condition) -> Row | None:
    for hosts in _in_order(tx, *where):
        if fit := _fitting(tx, hosts, ask, world):
            return fit[0]
    return None


def _fitting(tx: Tx, hosts: list[Row], ask: Ask, world: World) -> list[Row]:
    able = [host for host in hosts if "compute" in host["roles"] and _alive(host, ask, world)]
    if able:
        world.used |= usage(tx, ask.server_id, [host["name"] for host in able])
    return [host for host in able if all(fits(host, ask, world) for fits in FILTERS.values())]


def _emptiest(tx: Tx, world: World, amount: int) -> frozenset[str]:
    """As `in_reserve`, for a server that has no host yet."""
    query = HOST.table.select().join(LOADS, LOADS.c.host == HOST.c.name).where(LOADS.c.claims == 0)
    hosts = tx.select(query.order_by(LOADS.c.free_ram_mib.desc(), LOADS.c.host))
    return in_reserve([host for host in hosts if "compute" in host["roles"]], world, amount)


def _heaviest(hosts: list[Row], ask: Ask, world: World) -> Row:
    return max(hosts, key=lambda host: (*(weigh(host, ask, world) for weigh in WEIGHTS), host["name"]))


def _among_all(tx: Tx, ask: Ask) -> Row:
    """The same, one filter after the other over every host, so that the last one tells why none is left."""
    hosts = heard(tx, "compute")
    counted = {row["host"] for row in tx.select(sa.select(LOADS.c.host))}
    for host in hosts:
        if host["name"] not in counted:
            recount(tx, host)
    world = _world(tx, ask)
    world.used = usage(tx, ask.server_id)
    if not ask.takeover:
        world.reserved = in_reserve(hosts, world, reserve_hosts(tx))
    if ask.host is not None and not any(host["name"] == ask.host for host in hosts):
        raise Fault("invalid", f"Compute host {ask.host} could not be found.")
    if ask.zone is not None and not any(zone_of(host, world.aggregates) == ask.zone for host in hosts):
        raise Fault("invalid", "The requested availability zone is not available")
    for name, fits in FILTERS.items():
        hosts = [host for host in hosts if fits(host, ask, world)]
        if not hosts:
            raise Fault("no_capacity", f"{NO_HOST}There are not enough hosts available (left out by: {name}).")
    return _heaviest(hosts, ask, world)


def claim(tx: Tx, host: Row) -> None:
    """Makes sure that nobody else places anything on this host in the meantime: one of both transactions runs again."""
    query = HOST.table.update().where(HOST.c.id == host["id"], HOST.c.generation == host["generation"])
    if tx.execute(query.values(generation=host["generation"] + 1)).rowcount != 1:
        raise Stale(f"host {host['name']} was changed by another")


def in_reserve(hosts: list[Row], world: World, amount: int) -> frozenset[str]:
    """So many empty hosts, the largest, that get machines of lost hosts only."""
    able = [host for host in hosts if is_up(host, world.now_s) and not host["disabled"]]
    empty = [host for host in able if host["name"] not in world.used]
    empty.sort(key=lambda host: (-host["inventory"].get("ram_mib", 0), host["name"]))
    return frozenset(host["name"] for host in empty[:amount])


def _world(tx: Tx, ask: Ask) -> World:
    c = servers_table().c
    named = _listed(ask.hints.get("same_host")) + _listed(ask.hints.get("different_host"))
    where = {}
    if named:
        query = sa.select(c.id, c.host).where(c.id.in_(named), c.deleted_at.is_(None), c.host.is_not(None))
        where = {row["id"]: row["host"] for row in tx.select(query)}
    members: dict[str, int] = {}
    if ask.group:
        query = sa.select(c.host, sa.func.count().label("n")).where(
            c.server_group_id == ask.group["id"], c.deleted_at.is_(None), c.host.is_not(None)
        )
        if ask.server_id is not None:
            query = query.where(c.id != ask.server_id)
        members = {row["host"]: row["n"] for row in tx.select(query.group_by(c.host))}
    return World({}, tx.rows(AGGREGATE), where, members, tx.now_s())


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


# filters


def _alive(host: Row, ask: Ask, world: World) -> bool:
    return is_up(host, world.now_s) and not host["disabled"]


def _reserve(host: Row, ask: Ask, world: World) -> bool:
    return host["name"] not in world.reserved


def _asked_host(host: Row, ask: Ask, world: World) -> bool:
    return ask.host in (None, host["name"])


def _another_host(host: Row, ask: Ask, world: World) -> bool:
    return bool(host["name"] != ask.not_on)


def _takes_running(host: Row, ask: Ask, world: World) -> bool:
    """A machine that runs on goes to a processor that can do as much, and to a QEMU that is not older."""
    if ask.runs_like is None:
        return True
    here, there = (set[str](h["inventory"].get("cpu_info", {}).get("features", [])) for h in (ask.runs_like, host))
    return bool(here <= there and _qemu(ask.runs_like) <= _qemu(host))


def _qemu(host: Row) -> list[int]:
    return [int(part) for part in (host["versions"] or {}).get("qemu", "").split(".") if part.isdigit()]


def _zone(host: Row, ask: Ask, world: World) -> bool:
    return ask.zone is None or zone_of(host, world.aggregates) == ask.zone


def _room(name: str, resource: str) -> Callable[[Row, Ask, World], bool]:
    def fits(host: Row, ask: Ask, world: World) -> bool:
        used = world.used.get(host["name"], {}).get(name, 0)
        needed = ask.amounts()[name]
        factor = host["inventory"].get("overcommit", {}).get(resource, OVERCOMMIT[resource])
        return bool(needed == 0 or used + needed <= host["inventory"].get(name, 0) * factor)

    return fits


def _same_host(host: Row, ask: Ask, world: World) -> bool:
    wanted = _listed(ask.hints.get("same_host"))
    return not wanted or host["name"] in {world.where.get(server) for server in wanted}


def _different_host(host: Row, ask: Ask, world: World) -> bool:
    return host["name"] not in {world.where.get(server) for server in _listed(ask.hints.get("different_host"))}


def _group(host: Row, ask: Ask, world: World) -> bool:
    policy = ask.group["policy"] if ask.group else ""
    if policy == "affinity":
        return not world.members or host["name"] in world.members
    if policy == "anti-affinity":
        most = (ask.group or {})["rules"].get("max_server_per_host", 1)
        return bool(world.members.get(host["name"], 0) < most)
    return True


def _aggregate_specs(host: Row, ask: Ask, world: World) -> bool:
    """``aggregate_instance_extra_specs:KEY`` in the flavor has to be among the host's aggregates' metadata."""
    scope = "aggregate_instance_extra_specs:"
    for key, value in ask.flavor["extra_specs"].items():
        if key.startswith(scope):
            offered = {a["metadata"].get(key.removeprefix(scope)) for a in world.aggregates_of(host)}
            if value not in offered:
                return False
    return True


def _aggregate_projects(host: Row, ask: Ask, world: World) -> bool:
    """An aggregate with ``filter_tenant_id`` takes servers of those projects only."""
    allowed = [
        a["metadata"][key]
        for a in world.aggregates_of(host)
        for key in a["metadata"]
        if key.startswith("filter_tenant_id")
    ]
    return not allowed or any(ask.project_id in value.replace(" ", "").split(",") for value in allowed)


FILTERS: dict[str, Callable[[Row, Ask, World], bool]] = {
    "up and enabled": _alive,
    "held in reserve": _reserve,
    "asked host": _asked_host,
    "another host": _another_host,
    "processor and QEMU": _takes_running,
    "zone": _zone,
    "vcpus": _room("vcpus", "vcpus"),
    "ram": _room("ram_mib", "ram"),
    "disk": _room("disk_gib", "disk"),
    "same_host": _same_host,
    "different_host": _different_host,
    "server group": _group,
    "aggregate extra specs": _aggregate_specs,
    "aggregate projects": _aggregate_projects,
}


# weights


def _free_ram_mib(host: Row, ask: Ask, world: World) -> int:
    return int(host["inventory"].get("ram_mib", 0) - world.used.get(host["name"], {}).get("ram_mib", 0))


def _group_weight(host: Row, ask: Ask, world: World) -> int:
    here = world.members.get(host["name"], 0)
    policy = ask.group["policy"] if ask.group else ""
    return {"soft-affinity": here, "soft-anti-affinity": -here}.get(policy, 0)


def _near_volumes(host: Row, ask: Ask, world: World) -> int:
    return int(host["name"] in ask.near or (not ask.near and ask.makes_volumes and "storage" in host["roles"]))


WEIGHTS: tuple[Callable[[Row, Ask, World], int], ...] = (_group_weight, _near_volumes, _free_ram_mib)
