"""Transfers: a volume changes its project by a key that the one says and the other knows."""

import hashlib
import hmac
import secrets
from typing import Any

import sqlalchemy as sa

from trilith.kernel import quota
from trilith.kernel.declare import Noun, flag, given, ident, text, time
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Member, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Condition
from trilith.kernel.versions import NEWEST, OLDEST, Version, v
from trilith.volume import type_quotas
from trilith.volume.snapshots import SNAPSHOT
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME, links

Row = dict[str, Any]
NEVER = NEWEST


def _scope(ctx: Ctx) -> Condition | None:
    """Who has the key must find it: reading by id is for all, the list for its owner. An accepted one is history."""
    return TRANSFER.c.accepted.is_(False)  # type: ignore[no-any-return]


def _mine(ctx: Ctx) -> list[Condition]:
    if ctx.who.is_admin and str(ctx.one("all_tenants", "0")).lower() in ("1", "true"):
        return []
    return [TRANSFER.c.project_id == ctx.who.project_id]


def _noun(path: str, since: Version, table: str | sa.Table, more_since: tuple[Version, Version]) -> Noun:
    """`more_since`: where the newer attributes begin; the older path never shows them."""
    snapshots_since, projects_since = more_since
    return Noun(
        VOLUMES,
        "transfer",
        path,
        dict(
            id=ident(brief=True),
            name=text(255, create="optional", null=True, brief=True),
            volume_id=ident(create="required", brief=True),
            links=links(path),
            created_at=time(),
            source_project_id=text(64, since=projects_since),
            destination_project_id=text(64, since=projects_since),
            accepted=flag(default=False, since=projects_since),
            no_snapshots=flag(create="optional", default=False, since=snapshots_since),
            salt=text(64, hidden=True),
            key_hash=text(128, hidden=True),
            all_snapshots=given(Flag()),
        ),
        dict(list="reader", show="reader", create="member", delete="member"),
        plural="transfers",
        detail=True,
        scope=_scope,
        since=since,
        table=table,
    )


TRANSFER = _noun("/os-volume-transfer", OLDEST, "volume_transfers", (NEVER, NEVER))
RENAMED = _noun("/volume-transfers", v("3.55"), TRANSFER.table, (v("3.55"), v("3.57")))


def _asked(ctx: Ctx) -> Noun:
    """As which of the two the request speaks of it."""
    return RENAMED if "/volume-transfers" in ctx.url_path else TRANSFER


def _hash(salt: str, key: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", key.encode(), salt.encode(), 100_000).hex()


@RENAMED.on("list")
@TRANSFER.on("list")
def list_transfers(ctx: Ctx) -> list[Row]:
    return ctx.tx.rows(TRANSFER, *_mine(ctx), TRANSFER.c.accepted.is_(False))


@RENAMED.on("create")
@TRANSFER.on("create")
def create(ctx: Ctx, new: Row) -> Reply:
    volume = ctx.find(VOLUME, new["volume_id"])
    if volume["status"] != "available":
        raise Fault("invalid", "Invalid volume: status must be available")
    key, salt = secrets.token_hex(8), secrets.token_hex(8)
    new |= {"salt": salt, "key_hash": _hash(salt, key), "source_project_id": volume["project_id"]}
    ctx.tx.update(VOLUME, volume, transferring=True)
    row = ctx.tx.insert(TRANSFER, new)
    return Reply({"transfer": ctx.show(_asked(ctx), row) | {"auth_key": key}}, 202)


@RENAMED.on("delete")
@TRANSFER.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    volume = ctx.tx.one(VOLUME, id=row["volume_id"])
    if volume is not None:
        ctx.tx.update(VOLUME, volume, transferring=False)
    ctx.tx.delete(TRANSFER, row)


ACCEPT = Object({"accept": Member(Object({"auth_key": Member(Text(255), required=True)}), required=True)})


@RENAMED.route("POST", "/{id}/accept", "anyone", body=ACCEPT, status=202)
@TRANSFER.route("POST", "/{id}/accept", "anyone", body=ACCEPT, status=202)
def accept(ctx: Ctx, row: Row) -> Row:
    ctx.require("member", "volume:transfers:accept")
    if not hmac.compare_digest(_hash(row["salt"], ctx.body["accept"]["auth_key"]), row["key_hash"]):
        raise Fault("invalid", f"Attempt to transfer {row['id']} with invalid auth key.")
    volume, project_id = ctx.tx.get(VOLUME, row["volume_id"]), str(ctx.who.project_id)
    snapshots = [] if row["no_snapshots"] else ctx.tx.rows(SNAPSHOT, volume_id=volume["id"])
    gib = volume["size_gib"] * (1 + len(snapshots))
    asked = dict(volumes=1, gigabytes=gib, snapshots=len(snapshots))
    quota.check(ctx.tx, VOLUMES, project_id, **asked)
    type_quotas.check(ctx.tx, project_id, volume["type_id"], **asked)
    ctx.tx.update(VOLUME, volume, project_id=project_id, user_id=ctx.who.user_id, transferring=False)
    for snapshot in snapshots:
        ctx.tx.update(SNAPSHOT, snapshot, project_id=project_id, user_id=ctx.who.user_id)
    row = ctx.tx.update(TRANSFER, row, accepted=True, destination_project_id=project_id)
    return {
        "transfer": {k: x for k, x in ctx.show(_asked(ctx), row).items() if k in ("id", "name", "links", "volume_id")}
    }
