"""Hosts: what there is to place things on, and the API of their agents.

A host's agent knows one URL and one credential. It says that it lives (a lease with a fencing epoch), asks for the
wanted rows of its
own host, and reports what it sees. Services say with `hosted()` which of their rows belong to hosts.
"""

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.json import encode

from trilith.kernel.declare import Noun, Service, flag, ident, json, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Json, MapOf, Member, Object, Text, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.kernel.wire import PlainWire

Doc = dict[str, Any]
Row = dict[str, Any]

AGENTS = Service("agent", "agent", "/agent/v1", PlainWire())
LEASE_S = 10.0
CLOCKS_S = 2.0  # that the clocks of controllers differ at most, and a beat's way back takes
OUTAGE_S = 60.0  # that hosts which were all silent are waited for

HOST = Noun(
    AGENTS,
    "host",
    "/hosts",
    dict(
        id=ident(),
        name=text(255),
        number=whole(),  # its id below compute microversion 2.53
        roles=json(default=list),
        availability_zone=text(255, default="nova"),
        disabled=flag(default=False),
        disabled_reason=text(255),
        storage_disabled=flag(default=False),
        storage_disabled_reason=text(255),
        forced_down=flag(default=False),
        maintenance=flag(default=False),
        barred=text(255),  # why it gets no lease: it is being fenced
        knocked_at_s=json(default=0.0),  # when it last asked for one all the same
        inventory=json(default=dict),  # vcpus, ram_mib, disk_gib, hypervisor_version, cpu_info ...
        versions=json(default=dict),
        boot_id=text(64),
        epoch=whole(default=0),  # grows whenever another agent or another boot speaks for the host
        seen_at_s=json(default=0.0),
    ),
    {},
    key="name",
    owner=None,
    unique=[("name",)],
    table="placement_hosts",
    wakes=lambda row: ("hosts",),
)


@dataclass(frozen=True)
class Hosted:
    """A kind of row that a host's agent looks after. `wants(tx, host)` are its documents (id, generation, ...);
    `report(tx, host, key, generation, seen, fault)` takes what the agent saw; seen None: nothing is there any
    more. `counted`: the generations of its wants are numbers that it gave itself, and its reports get them back."""

    kind: str
    wants: Callable[[Tx, str], list[Doc]]
    report: Callable[[Tx, str, str, int, Doc | None, str | None], None]
    counted: bool = False


HOSTED: dict[str, Hosted] = {}


def hosted(
    kind: str,
    wants: Callable[[Tx, str], list[Doc]],
    report: Callable[[Tx, str, str, int, Doc | None, str | None], None],
    counted: bool = False,
) -> None:
    HOSTED[kind] = Hosted(kind, wants, report, counted)


def lapsed_s(row: Mapping[str, Any], now_s: float) -> float:
    """For how long the host has not been heard."""
    return now_s - float(row["seen_at_s"] or 0.0)


def topic(host: str) -> str:
    """The hint topic of a host."""
    return f"host:{host}"


def is_up(row: Mapping[str, Any], now_s: float | None = None) -> bool:
    """Whether the host's lease is running."""
    age_s = (time.time() if now_s is None else now_s) - (row["seen_at_s"] or 0.0)
    return age_s < LEASE_S and not row["forced_down"]


def heard(tx: Tx, role: str) -> list[Row]:
    """The hosts of a role, for who places something. Raises unavailable when none of them is up and one was a minute
    ago: after an outage of the API, hosts are heard again within seconds, and nothing fails for good until then."""
    rows = [row for row in tx.rows(HOST) if role in row["roles"]]
    now_s = tx.now_s()
    silent_s = min((now_s - (row["seen_at_s"] or 0.0) for row in rows if not row["forced_down"]), default=0.0)
    if LEASE_S <= silent_s < OUTAGE_S:
        raise Fault("unavailable", f"No {role} host has been heard for {silent_s:.0f} s; try again in a moment.")
    return rows


def register(tx: Tx, name: str, host_id: str, roles: list[str], availability_zone: str) -> Row:
    """The host of a cluster file; its row is made when it is not there."""
    row = tx.one(HOST, name=name)
    if row is None:
        number = tx.count(HOST) + 1
        new = {"id": host_id, "name": name, "number": number, "roles": roles, "availability_zone": availability_zone}
        return tx.insert(HOST, new)
    return tx.update(HOST, row, roles=roles)


def _own_host(ctx: Ctx, name: str) -> Row:
    """A host's credential opens that host's rows only."""
    if ctx.who.host != name:
        raise Fault("forbidden", f"This credential is not host {name}'s.")
    return ctx.tx.get(HOST, name)


HEARTBEAT = Object(
    {
        "boot_id": Member(Text(64), required=True),
        "inventory": Member(MapOf(Json()), required=True),
        "versions": Member(MapOf(Json()), required=True),
        "epoch": Member(Whole(0, 2**62)),
    },
    open_ended=True,
)


@AGENTS.route("POST", "/hosts/{name}/heartbeat", "host", body=HEARTBEAT, write=False)
def heartbeat(ctx: Ctx) -> Doc:
    """The host lives. An agent without the present epoch begins a new one; the old one's reports are refused."""
    row, body = _own_host(ctx, ctx.path["name"]), ctx.body
    if row["barred"]:
        ctx.store.run(lambda tx: _knock(tx, row["name"]))
        raise _barred(row)
    if not row["forced_down"] and not _begins(row, body) and all(row[name] == body[name] for name in TOLD):
        # the usual one waits for no other writer, so that a host does not look dead because many things are made;
        # a late one neither, else it would look so until all are
        seen = HOST.table.update().where(HOST.c.id == row["id"], HOST.c.epoch == row["epoch"], HOST.c.barred.is_(None))
        beat = ctx.store.run(lambda tx: tx.execute(seen.values(seen_at_s=tx.now_s())).rowcount, queue=False)
        if beat:  # else it was barred in this very moment
            return {"epoch": row["epoch"], "lease_s": LEASE_S}
    return {"epoch": ctx.store.run(lambda tx: _told(tx, row["name"], body)), "lease_s": LEASE_S}


TOLD = ("inventory", "versions", "boot_id")


def _begins(row: Row, body: Doc) -> bool:
    return bool(body.get("epoch") != row["epoch"] or body["boot_id"] != row["boot_id"] or row["epoch"] == 0)


def _told(tx: Tx, host: str, body: Doc) -> int:
    """Writes what a host says of itself; its epoch from now on."""
    row = tx.get(HOST, host)
    if row["barred"]:
        raise _barred(row)
    epoch: int = row["epoch"] + _begins(row, body)
    tx.update(HOST, row, epoch=epoch, seen_at_s=tx.now_s(), **{name: body[name] for name in TOLD})
    return epoch


def _knock(tx: Tx, host: str) -> None:
    row = tx.get(HOST, host)
    if row["barred"]:
        tx.update(HOST, row, touch=False, knocked_at_s=tx.now_s())


def _barred(row: Row) -> Fault:
    return Fault("conflict", f"Host {row['name']} gets no lease now: {row['barred']}")


@AGENTS.route("GET", "/hosts/{name}/wants", "host")
def wants(ctx: Ctx) -> Doc:
    """Everything that this host shall have, by kind."""
    row = _own_host(ctx, ctx.path["name"])
    if row["barred"]:
        raise _barred(row)
    name = row["name"]
    return {kind: [numbered(doc, it.counted) for doc in it.wants(ctx.tx, name)] for kind, it in HOSTED.items()}


COUNT_BITS = 30  # of a generation are the service's own number, where it counts


def numbered(doc: Doc, counted: bool = False) -> Doc:
    """A want's generation is a digest of the want: a report changes rows too, and must not look like a new want."""
    count = doc["generation"] % (1 << COUNT_BITS) if counted else 0
    doc = {name: value for name, value in doc.items() if name != "generation"}
    return doc | {"generation": (zlib.crc32(encode(doc)) | 1) << COUNT_BITS | count}


REPORT = Object(
    {
        "epoch": Member(Whole(0, 2**62), required=True),
        "kind": Member(Text(64), required=True),
        "id": Member(Text(64), required=True),
        "generation": Member(Whole(0, 2**62), required=True),
        "seen": Member(Json(), null=True),
        "fault": Member(Text(65535), null=True),
    }
)


@AGENTS.route("POST", "/hosts/{name}/reports", "host", body=REPORT, status=204)
def report(ctx: Ctx) -> None:
    row = _own_host(ctx, ctx.path["name"])
    body = ctx.body
    if row["barred"]:
        raise _barred(row)
    if body["epoch"] != row["epoch"]:
        raise Fault("conflict", f"Host {row['name']} speaks with epoch {row['epoch']} now, not {body['epoch']}.")
    entry = HOSTED.get(body["kind"])
    if entry is None:
        raise Fault("invalid", f"No such kind: {body['kind']}")
    generation = body["generation"] % (1 << COUNT_BITS) if entry.counted else body["generation"]
    entry.report(ctx.tx, row["name"], body["id"], generation, body.get("seen"), body.get("fault"))
