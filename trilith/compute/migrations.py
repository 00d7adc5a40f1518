"""Migrations: the record of each move of a server, and of each resize."""

from typing import Any

import sqlalchemy as sa

from trilith.compute.versions import COMPUTE
from trilith.kernel.declare import Noun, computed, ident, text, time, whole
from trilith.kernel.kinds import Time
from trilith.kernel.paging import fetch
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
PAGED_SINCE, BEFORE_SINCE, OWNER_SINCE = v("2.59"), v("2.66"), v("2.80")


def _same(column: str, since: tuple[int, int] = v("2.1")) -> Any:
    return lambda ctx, values: MIGRATION.c[column].in_(values) if ctx.at >= since else None


def _changed(name: str, since: tuple[int, int]) -> Any:
    def make(ctx: Ctx, values: list[str]) -> Any:
        if ctx.at < since:
            return None
        moment = Time().from_query(values[-1], name)
        last = sa.func.coalesce(MIGRATION.c.updated_at, MIGRATION.c.created_at)
        return last >= moment if name == "changes-since" else last <= moment

    return make


def _host(ctx: Ctx, values: list[str]) -> Any:
    return sa.or_(MIGRATION.c.source.in_(values), MIGRATION.c.target.in_(values))


MIGRATION = Noun(
    COMPUTE,
    "migration",
    "/os-migrations",
    dict(
        id=ident(wire="uuid", since=PAGED_SINCE),
        number=whole(wire="id"),
        status=text(32),
        server_id=text(64, wire="instance_uuid", index=True),
        source=text(255, wire="source_compute"),
        source_node=computed(lambda row, ctx: row["source"]),
        target=text(255, wire="dest_compute"),
        dest_node=computed(lambda row, ctx: row["target"]),
        dest_host=computed(lambda row, ctx: None),
        old_flavor_number=whole(wire="old_instance_type_id"),
        new_flavor_number=whole(wire="new_instance_type_id"),
        migration_type=text(32, default="resize", since=v("2.23")),
        user_id=text(64, since=OWNER_SINCE),
        project_id=text(64, since=OWNER_SINCE),
        created_at=time(),
        updated_at=time(),
    ),
    dict(list="admin"),
    owner=None,
    filters={
        "status": _same("status"),
        "host": _host,
        "source_compute": _same("source"),
        "migration_type": _same("migration_type"),
        "instance_uuid": _same("server_id"),
        "hidden": lambda ctx, values: None,
        "user_id": _same("user_id", OWNER_SINCE),
        "project_id": _same("project_id", OWNER_SINCE),
        "changes-since": _changed("changes-since", PAGED_SINCE),
        "changes-before": _changed("changes-before", BEFORE_SINCE),
    },
)


@MIGRATION.on("list")
def list_migrations(ctx: Ctx) -> Reply:
    wire = ctx.service.wire
    listing = wire.listing(ctx, MIGRATION)
    if ctx.at < PAGED_SINCE:
        listing.limit = None
    page = fetch(ctx, MIGRATION, listing)
    return Reply(wire.wrap_list(ctx, MIGRATION, ctx.show_all(MIGRATION, page.rows), page, listing), 200)


def begin(
    ctx: Ctx, server: Row, target: str, kind: str, status: str, old: Row | None = None, new: Row | None = None
) -> Row:
    """Notes a move that begins, or a resize."""
    last = ctx.tx.scalar(sa.select(sa.func.max(MIGRATION.c.number))) or 0
    row = {
        "id": ctx.new_id(),
        "number": last + 1,
        "status": status,
        "migration_type": kind,
        "server_id": server["id"],
        "source": server["host"],
        "target": target,
        "old_flavor_number": _number(old or server["flavor"]),
        "new_flavor_number": _number(new or server["flavor"]),
        "user_id": ctx.who.user_id,
        "project_id": server["project_id"],
    }
    return ctx.tx.insert(MIGRATION, row)


def _number(flavor: Row) -> int:
    return int(flavor["id"]) if flavor["id"].isdigit() else 0


def set_status(tx: Tx, server_id: str, status: str) -> None:
    """Of the server's newest migration."""
    rows = sorted(tx.rows(MIGRATION, server_id=server_id), key=lambda row: row["number"])
    if rows:
        tx.update(MIGRATION, rows[-1], status=status)
