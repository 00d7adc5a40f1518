"""Servers to other hosts: cold and live migration, evacuation, and the live migrations under way."""

from typing import Any

from trilith.compute import migrations
from trilith.compute.instance_actions import finish, record
from trilith.compute.migrations import MIGRATION
from trilith.compute.scheduler import claim, place
from trilith.compute.server_actions import must
from trilith.compute.server_changes import ask_of, begin_cold
from trilith.compute.server_moves import LIVE, begin, local_keys, take_over, undo
from trilith.compute.server_requests import FQDN
from trilith.compute.servers import SERVER, find_server, wish
from trilith.compute.takeovers import is_off
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Either, Flag, Kind, Member, Null, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx
from trilith.kernel.versions import Version, v
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]
HOST_NAME = Text(255, 1, FQDN)
ASYNC_SINCE = v("2.34")  # what a live migration finds out later than its request is told by its record
NO_BODY_SINCE, STOPPED_SINCE = v("2.14"), v("2.95")
EARLY_ABORT_SINCE = v("2.65")

TARGET_SINCE, TARGET = v("2.56"), Object({"host": Member(HOST_NAME, null=True)})


class ColdMigration(Kind):
    """Null, or where to; before 2.56 whatever comes is taken, and means nothing."""

    def check(self, value: Any, path: str, at: Version) -> Row | None:
        return None if value is None or at < TARGET_SINCE else TARGET.check(value, path, at)


@SERVER.verb("migrate", "admin", body=ColdMigration())
def migrate(ctx: Ctx, row: Row, body: Row | None) -> None:
    must(ctx, row, "migrate", "active", "stopped")
    host = (body or {}).get("host")
    _check_target(ctx.tx, row, host)
    record(ctx, row, "migrate")
    begin_cold(ctx, row, row["flavor"], "migration", host)


def _check_target(tx: Tx, row: Row, host: str | None) -> None:
    if host is None:
        return
    if host == row["host"]:
        raise Fault("invalid", f"Cannot migrate to the host {host} where the server exists.")
    found = tx.one(HOST, name=host)
    if found is None or "compute" not in found["roles"]:
        raise Fault("invalid", f"Compute host {host} could not be found.")


# live

LIVE_MIGRATE = Object(
    {
        "host": Member(HOST_NAME, required=True, null=True),
        "block_migration": Member(Either((Flag(), Choice(("auto",)))), required=True),
        "disk_over_commit": Member(Flag(), required=True, until=v("2.24")),
        "force": Member(Flag(), since=v("2.30"), until=v("2.67")),
    }
)


@SERVER.verb("os-migrateLive", "admin", body=LIVE_MIGRATE)
def migrate_live(ctx: Ctx, row: Row, body: Row) -> None:
    must(ctx, row, "os-migrateLive", "active", "paused")
    if body["block_migration"] == "auto" and ctx.at < v("2.25"):
        raise Fault("invalid", "Invalid input for field/attribute block_migration. Value: auto. It is a boolean.")
    host = body["host"]
    _check_target(ctx.tx, row, host)
    record(ctx, row, "live-migration")
    try:
        _check_disks(ctx.tx, row, body["block_migration"])
        target = place(ctx.tx, ask_of(ctx.tx, row, row["flavor"], host, runs_like=ctx.tx.get(HOST, row["host"])))
    except Fault as fault:
        if fault.kind == "unavailable":
            raise
        if ctx.at < ASYNC_SINCE:
            raise Fault("invalid", fault.message) from None
        migrations.begin(ctx, row, host or "", "live-migration", "error")
        finish(ctx.tx, row["id"], fault.message)
        return
    claim(ctx.tx, target)
    migration = migrations.begin(ctx, row, target["name"], "live-migration", "preparing")
    begin(ctx.tx, row, target["name"], "preparing", row["claim"], migration)


def _check_disks(tx: Tx, row: Row, block: bool | str) -> None:
    from trilith.volume.volumes import VOLUME

    if block is False and local_keys(row):
        raise Fault("invalid", f"{row['host']} is not on shared storage: the server has local disks. Use 'auto'.")
    for disk in row["disks"]:
        if disk["kind"] != "volume":
            continue
        volume = tx.get(VOLUME, disk["volume_id"])
        if volume["host"] == row["host"] and not volume["multiattach"] and not disk.get("by_network"):
            message = (
                f"Volume {volume['id']} is a file of host {row['host']}, which the running machine has open there."
            )
            raise Fault("invalid", f"{message} Stop the server and migrate it.")
        if disk["leaving"] or not disk["attached"]:
            raise Fault("invalid", f"Volume {volume['id']} is being attached or detached.")


# evacuation

EVACUATE = Object(
    {
        "host": Member(HOST_NAME),
        "onSharedStorage": Member(Flag(), required=True, until=v("2.13")),
        "adminPass": Member(Text(255)),
        "force": Member(Flag(), since=v("2.29"), until=v("2.67")),
    }
)


@SERVER.verb("evacuate", "admin", body=EVACUATE, status=200)
def evacuate(ctx: Ctx, row: Row, body: Row) -> Reply:
    """A server of a host that is off goes to another: a local root disk is made anew from its image."""
    must(ctx, row, "evacuate", "active", "stopped", "error")
    host, own = body.get("host"), ctx.tx.one(HOST, name=row["host"])
    if host is not None and ctx.tx.one(HOST, name=host) is None:
        raise Fault("missing", f"Compute host {host} not found.")
    if host == row["host"]:
        raise Fault("invalid", "The target host can't be the same one.")
    _require_off(ctx.tx, own, row["host"])
    if row["move"] is not None and row["move"]["phase"] != "kept":  # it ends by itself: see `without`
        state = f"it is moving between {row['host']} and {row['peer']}"
        raise Fault("conflict", f"Cannot 'evacuate' instance {row['id']} while {state}")
    try:
        target = place(ctx.tx, ask_of(ctx.tx, row, row["flavor"], host))
    except Fault as fault:
        if fault.kind == "unavailable":
            raise
        raise Fault("invalid", fault.message) from None
    claim(ctx.tx, target)
    record(ctx, row, "evacuate")
    password = body.get("adminPass")
    power = "stopped" if ctx.at >= STOPPED_SINCE else None
    take_over(ctx.tx, row, target["name"], power, admin_password=password)
    migrations.begin(ctx, row, target["name"], "evacuation", "done")
    return Reply({"adminPass": password} if ctx.at < NO_BODY_SINCE else None, 200)


def _require_off(tx: Tx, host: Row | None, name: str) -> None:
    """Two hosts must never run one machine: it is not enough that one is silent."""
    if host is None or is_off(tx, name):
        return
    if is_up(host):
        raise Fault("invalid", f"Compute service of {name} is still in use.")
    message = f"Host {name} is silent, but it is not known to be off. Switch it off, then force its service down."
    raise Fault("invalid", message)


# those under way


def _of_server(ctx: Ctx) -> tuple[Row, Row | None]:
    """The server, and its live migration."""
    row = find_server(ctx.tx, ctx.path["server_id"])
    move = row["move"]
    if move is None or move["phase"] not in LIVE:
        return row, None
    return row, ctx.tx.get(MIGRATION, move["migration_id"])


def _named(ctx: Ctx) -> tuple[Row, Row]:
    row, migration = _of_server(ctx)
    key = ctx.path["migration_id"]
    known = ctx.tx.one(MIGRATION, MIGRATION.c.number == int(key)) if key.isdigit() else None
    if known is None or known["server_id"] != row["id"]:
        raise Fault("missing", f"Migration {key} is not found for server {row['id']}.")
    if migration is None or migration["id"] != known["id"]:
        raise Fault("missing", f"In-progress live migration {key} is not found for server {row['id']}.")
    return row, migration


SHOWN = (
    *("id", "uuid", "status", "source_compute", "source_node", "dest_compute", "dest_node", "dest_host"),
    *("created_at", "updated_at", "user_id", "project_id"),
)


def _view(ctx: Ctx, row: Row, migration: Row) -> Row:
    out = (row["seen"] or {}).get("outgoing") or {}
    done: Row = {}
    for name in ("memory", "disk"):
        amounts = out.get(name) or {}
        done |= {f"{name}_{what}_bytes": amounts.get(what, 0) for what in ("total", "processed", "remaining")}
    view = MIGRATION.view(ctx, migration)
    return {name: view[name] for name in SHOWN if name in view} | {"server_uuid": row["id"]} | done


@COMPUTE.route("GET", "/servers/{server_id}/migrations", "admin", since=v("2.23"))
def list_live(ctx: Ctx) -> Row:
    row, migration = _of_server(ctx)
    return {"migrations": [] if migration is None else [_view(ctx, row, migration)]}


@COMPUTE.route("GET", "/servers/{server_id}/migrations/{migration_id}", "admin", since=v("2.23"))
def show_live(ctx: Ctx) -> Row:
    return {"migration": _view(ctx, *_named(ctx))}


@COMPUTE.route("DELETE", "/servers/{server_id}/migrations/{migration_id}", "admin", since=v("2.24"), status=202)
def abort(ctx: Ctx) -> None:
    row, migration = _named(ctx)
    allowed = ("queued", "preparing", "running") if ctx.at >= EARLY_ABORT_SINCE else ("running",)
    if migration["status"] not in allowed or row["move"]["phase"] == "switching":
        state = migration["status"]
        raise Fault("invalid", f"Migration {migration['number']} state of instance {row['id']} is {state}.")
    undo(ctx.tx, row, "The live migration was cancelled.", "cancelled")


FORCE = Object({"force_complete": Member(Null(), null=True, required=True)})


@COMPUTE.route(
    "POST", "/servers/{server_id}/migrations/{migration_id}/action", "admin", since=v("2.22"), body=FORCE, status=202
)
def force_complete(ctx: Ctx) -> None:
    """The machine stands still for the rest of its way, so that it gets there."""
    row, migration = _named(ctx)
    if migration["status"] != "running":
        state = migration["status"]
        raise Fault("invalid", f"Migration {migration['number']} state of instance {row['id']} is {state}.")
    record(ctx, row, "live_migration_force_complete", done=True)
    wish(ctx.tx, row, move=row["move"] | {"force": True})
