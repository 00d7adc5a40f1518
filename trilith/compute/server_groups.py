"""Server groups: servers that shall be together on a host, or apart."""

from typing import Any

import sqlalchemy as sa

from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.declare import Field, Noun, Quota, computed, given, ident, json, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Choice, Flag, ListOf, Member, Object, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.store import METADATA
from trilith.kernel.versions import v

Row = dict[str, Any]
SOFT_SINCE, ONE_POLICY_SINCE = v("2.15"), v("2.64")
POLICIES = ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")


def _scope(ctx: Ctx) -> sa.ColumnElement[bool] | None:
    """Administrators' lists hold all when they ask."""
    if ctx.who.is_admin and ("id" in ctx.path or _asks_for_all(ctx) or not ctx.url_path.endswith("/os-server-groups")):
        return None
    return GROUP.c.project_id == ctx.who.project_id  # type: ignore[no-any-return]


def _asks_for_all(ctx: Ctx) -> bool:
    return "all_projects" in ctx.query and Flag().from_query(ctx.one("all_projects") or "", "all_projects")


def _members(ctx: Ctx, rows: list[Row]) -> None:
    c = METADATA.tables["compute_servers"].c
    query = sa.select(c.id, c.server_group_id).where(
        c.server_group_id.in_([row["id"] for row in rows]), c.deleted_at.is_(None)
    )
    found = ctx.tx.select(query)
    for row in rows:
        row["_members"] = [each["id"] for each in found if each["server_group_id"] == row["id"]]


GROUP = Noun(
    COMPUTE,
    "server_group",
    "/os-server-groups",
    dict(
        id=ident(),
        name=text(255, r"\S(.*\S)?", 1, create="required"),
        policies_shown=computed(lambda row, ctx: [row["policy"]], wire="policies", until=v("2.63")),
        policies=given(ListOf(Choice(POLICIES), 1, 1), until=v("2.63")),
        policy=Field(kind=Choice(POLICIES), create="optional", since=ONE_POLICY_SINCE),
        rules=json(create="optional", default=dict, since=ONE_POLICY_SINCE),
        members=computed(lambda row, ctx: row["_members"]),
        metadata=computed(lambda row, ctx: {}, until=v("2.63")),
        project_id=text(64, since=v("2.13")),
        user_id=text(64, since=v("2.13")),
    ),
    dict(list="reader", show="reader", create="member", delete="member"),
    quota=Quota("server_groups", 10),
    status=dict(delete=204),
    scope=_scope,
    expand=_members,
    filters={"all_projects": lambda ctx, values: None},
    order=[("created_at", "asc"), ("id", "asc")],
    type_name="InstanceGroup",
)
RULES = Object({"max_server_per_host": Member(Whole(1))})


@GROUP.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    policies = new.pop("policies", None) or []
    new["policy"] = new.get("policy") or (policies[0] if policies else None)
    name = "policy" if ctx.at >= ONE_POLICY_SINCE else "policies"
    if new["policy"] is None:
        raise Bad(name, None, f"'{name}' is a required property", "required")
    if new["policy"].startswith("soft-") and ctx.at < SOFT_SINCE:
        raise Bad(name, new["policy"], f"{new['policy']!r} is not one of {list(POLICIES[:2])}")
    new["rules"] = RULES.check(new.get("rules") or {}, "rules", ctx.at)
    if new["rules"] and new["policy"] != "anti-affinity":
        raise Fault("invalid", "Only anti-affinity policy supports rules.")
    return ctx.tx.insert(GROUP, new | {"user_id": ctx.who.user_id})


def find_group(ctx: Ctx, hint: Any) -> Row | None:
    """The group that a scheduler hint names, with room for one more member."""
    if not hint:
        return None
    key = hint[0] if isinstance(hint, list) else hint
    row = ctx.tx.one(GROUP, id=key)
    if row is None or (row["project_id"] != ctx.who.project_id and not ctx.who.is_admin):
        raise Fault("invalid", f"Instance group {key} could not be found.")
    limit = quota.limits(ctx.tx, COMPUTE, row["project_id"])["server_group_members"]
    _members(ctx, [row])
    if 0 <= limit <= len(row["_members"]):
        raise Fault("over_quota", f"Quota exceeded, too many servers in group {key}", "OverQuota")
    return row
