"""What is claimed on each host: sums over servers, kept beside them in the same transactions, so that a host can be
chosen among ten thousand by an index.

The servers' rows stay the truth: sums follow every change of them (`follow`), and `recount` makes those of a host anew.
The controller recounts hosts in turn, so that what an older program left out, or an operator changed in SQL, is found.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from trilith.kernel.statements import kept
from trilith.kernel.store import METADATA, Tx
from trilith.placement.hosts import HOST

Row = dict[str, Any]
AMOUNTS = ("vcpus", "ram_mib", "disk_gib")
COUNTED = (*AMOUNTS, "servers", "claims")  # a server that moves has a claim on both hosts, and is a server of one
Sums = dict[str, int]
ClaimsOf = Callable[[Row], Iterable[tuple[str, Sums]]]  # (host, its amounts), each a claim of a server's row

LOADS = sa.Table(
    "placement_loads",
    METADATA,
    sa.Column("host", sa.String(255), primary_key=True),
    *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTED),
    sa.Column("free_ram_mib", sa.BigInteger(), nullable=False),
    sa.Index("ix_placement_loads_free_ram_mib_host", "free_ram_mib", "host"),
)
_AT = LOADS.c.host == sa.bindparam("at_host")
_ADD = (
    LOADS.update()
    .where(_AT)
    .values(
        **{name: LOADS.c[name] + sa.bindparam(f"add_{name}") for name in COUNTED},
        free_ram_mib=LOADS.c.free_ram_mib - sa.bindparam("add_ram_mib"),
    )
)
_FREE = LOADS.update().where(_AT).values(free_ram_mib=sa.bindparam("has_mib") - LOADS.c.ram_mib)
_SET = LOADS.update().where(_AT)
_OF_ALL = kept(LOADS.select().where(LOADS.c.claims > 0))
_OF_THESE = kept(_OF_ALL.where(LOADS.c.host.in_(sa.bindparam("hosts", expanding=True))))


def none() -> Sums:
    return dict.fromkeys(COUNTED, 0)


def loads(tx: Tx, hosts: Iterable[str] | None = None) -> dict[str, Row]:
    """The sums of all hosts, or of these, where anything is claimed."""
    rows = tx.select(_OF_ALL) if hosts is None else tx.select(_OF_THESE, hosts=list(hosts))
    return {row["host"]: row for row in rows}


def follow(claims_of: ClaimsOf) -> Callable[[Tx, Row | None, Row | None], None]:
    """For `Noun.follows` of what has claims."""

    def changed(tx: Tx, old: Row | None, new: Row | None) -> None:
        sums: dict[str, Sums] = {}
        for row, sign in ((old, -1), (new, 1)):
            for host, amounts in claims_of(row) if row is not None else ():
                own = sums.setdefault(host, none())
                for name in COUNTED:
                    own[name] += sign * amounts[name]
        for host, own in sums.items():
            if any(own.values()):
                tx.execute(_ADD, {"at_host": host, **{f"add_{name}": own[name] for name in COUNTED}})

    return changed


def _host_changed(tx: Tx, old: Row | None, new: Row | None) -> None:
    if new is None and old is not None:
        tx.execute(LOADS.delete().where(LOADS.c.host == old["name"]))
    elif new is not None and (old is None or _ram_mib(old) != _ram_mib(new)):
        has_mib = _ram_mib(new)
        if tx.execute(_FREE, {"at_host": new["name"], "has_mib": has_mib}).rowcount == 0:
            tx.execute(LOADS.insert(), {"host": new["name"], **none(), "free_ram_mib": has_mib})


def _ram_mib(host: Mapping[str, Any]) -> int:
    return int((host["inventory"] or {}).get("ram_mib", 0))


HOST.follows.append(_host_changed)


def recount(tx: Tx, host: Mapping[str, Any], claims: Iterable[Sums]) -> bool:
    """The sums of a host from all of its claims; whether they were wrong."""
    sums = none()
    for amounts in claims:
        for name in COUNTED:
            sums[name] += amounts[name]
    right = {"host": host["name"], **sums, "free_ram_mib": _ram_mib(host) - sums["ram_mib"]}
    found = tx.select(LOADS.select().where(LOADS.c.host == host["name"]))
    if found == [right]:
        return False
    if found:
        tx.execute(_SET.values(right), {"at_host": host["name"]})
    else:
        tx.execute(LOADS.insert(), right)
    return True
