"""Security groups: named sets of rules that ports are in. Each project has one called ``default``, made when first
needed."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from trilith.kernel import quota
from trilith.kernel.declare import Noun, Quota, computed, flag, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Stale, Tx
from trilith.network import rbac_policies
from trilith.network.resource import has_item, resource
from trilith.network.versions import NETWORKING

Row = dict[str, Any]
DEFAULT = "default"


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    from trilith.network.security_group_rules import RULE

    rbac_policies.fill_shared(ctx.tx, "security_group", rows, ctx.who.project_id)
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        row["rules"] = []
    for rule in ctx.tx.rows(RULE, security_group_id=list(by_id)):
        group = by_id[rule["security_group_id"]]
        rule["in_default"] = group["name"] == DEFAULT
        group["rules"].append(RULE.view(ctx, rule))


def _shared_filter(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool]:
    ids = rbac_policies.granted("security_group", ctx.who.project_id, rbac_policies.SHARED)
    wanted = {Flag().from_query(value, "shared") for value in values}
    return sa.or_(*[SECURITY_GROUP.c.id.in_(ids) if on else SECURITY_GROUP.c.id.not_in(ids) for on in wanted])


SECURITY_GROUP: Noun = resource(
    "security_group",
    "/security-groups",
    dict(
        stateful=flag(create="optional", update=True, default=True, filter=True, extension="stateful-security-group"),
        default_of=text(64, hidden=True),  # the project whose default group it is
        security_group_rules=computed(lambda row, ctx: row["rules"]),
        shared=computed(
            lambda row, ctx: row["shared"], filter=_shared_filter, extension="security-groups-shared-filtering"
        ),
    ),
    quota=Quota("security_group", 10),
    scope=lambda ctx: rbac_policies.visible(ctx, SECURITY_GROUP, "security_group"),
    expand=_expand,
    unique=[("default_of",)],
    type_name="SecurityGroup",
    extension="security-group",
)
rbac_policies.NOUNS["security_group"] = SECURITY_GROUP


def _users(tx: Tx, row: Row, action: str) -> set[str]:
    from trilith.network.ports import PORT

    return {port["project_id"] for port in tx.rows(PORT, has_item(PORT.c.security_groups, row["id"]))}


rbac_policies.USERS["security_group"] = _users


@SECURITY_GROUP.on("list")
def list_(ctx: Ctx) -> Reply | list[Row]:
    """A list is where people look for their default group: from then on it is there. An admin may look for any."""
    from trilith.kernel.paging import fetch

    project_id = ctx.one("project_id") or ctx.one("tenant_id") or ctx.who.project_id
    if project_id and (project_id == ctx.who.project_id or ctx.who.is_admin):
        _have_default(ctx, project_id)
    listing = ctx.service.wire.listing(ctx, SECURITY_GROUP)
    page = fetch(ctx, SECURITY_GROUP, listing)
    views = ctx.show_all(SECURITY_GROUP, page.rows)
    return Reply(ctx.service.wire.wrap_list(ctx, SECURITY_GROUP, views, page, listing), 200)


def _have_default(ctx: Ctx, project_id: str) -> None:
    """Made in a transaction of its own, before which this one began to read: it begins again."""
    if ctx.tx.one(SECURITY_GROUP, default_of=project_id) is None:
        ctx.store.run(lambda tx: default_group(tx, ctx.new_id, project_id))
        raise Stale("the default group was not there when the list began")


@SECURITY_GROUP.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    if new["name"].lower() == DEFAULT:
        raise Fault("conflict", "Default security group already exists.", "SecurityGroupDefaultAlreadyExists")
    default_group(ctx.tx, ctx.new_id, new["project_id"])
    return make_group(ctx.tx, ctx.new_id, **new)


def make_group(tx: Tx, new_id: Callable[[], str], *, id: str, **fields: Any) -> Row:
    """A group with the two rules that let everything out."""
    from trilith.network.security_group_rules import make_rule

    quota.check(tx, NETWORKING, fields["project_id"], security_group_rule=2)
    row = tx.insert(SECURITY_GROUP, SECURITY_GROUP.blank() | {"id": id} | fields)
    for ethertype in ("IPv4", "IPv6"):
        make_rule(tx, new_id, row, direction="egress", ethertype=ethertype)
    return tx.get(SECURITY_GROUP, id)


def default_group(tx: Tx, new_id: Callable[[], str], project_id: str) -> Row:
    """The project's default group; made with its four rules when it is not there: everything out, each other in."""
    from trilith.network.security_group_rules import make_rule

    found = tx.one(SECURITY_GROUP, default_of=project_id)
    if found is not None:
        return found
    wanted = {"name": DEFAULT, "description": "Default security group", "default_of": project_id}
    try:
        row = make_group(tx, new_id, id=new_id(), project_id=project_id, **wanted)
    except Fault as fault:
        if fault.type_name == "SecurityGroupDuplicate":
            raise Stale("the default group was made by another at the same time") from fault
        raise
    for ethertype in ("IPv4", "IPv6"):
        make_rule(tx, new_id, row, direction="ingress", ethertype=ethertype, remote_group_id=row["id"])
    return tx.get(SECURITY_GROUP, row["id"])


def find_group(tx: Tx, project_id: str, name_or_id: str) -> Row:
    """A group that the project may put on a port, by id or by name. `Fault`: none, or several of that name."""
    ids = rbac_policies.granted("security_group", project_id, rbac_policies.SHARED)
    mine = sa.or_(SECURITY_GROUP.c.project_id == project_id, SECURITY_GROUP.c.id.in_(ids))
    if (row := tx.one(SECURITY_GROUP, mine, SECURITY_GROUP.c.id == name_or_id)) is not None:
        return row
    named = tx.rows(SECURITY_GROUP, SECURITY_GROUP.c.project_id == project_id, SECURITY_GROUP.c.name == name_or_id)
    if not named:
        raise SECURITY_GROUP.missing(name_or_id)
    if len(named) > 1:
        raise Fault(
            "conflict", f"Multiple security groups found matching '{name_or_id}'. Use an ID to be more specific."
        )
    return named[0]


@SECURITY_GROUP.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if row["name"] == DEFAULT and changes.get("name", DEFAULT) != DEFAULT:
        raise Fault("conflict", "Updating default security group not allowed.", "SecurityGroupCannotUpdateDefault")
    if changes.get("name", "").lower() == DEFAULT and row["name"] != DEFAULT:
        raise Fault("conflict", "Default security group already exists.", "SecurityGroupDefaultAlreadyExists")
    if changes.get("stateful", row["stateful"]) != row["stateful"]:
        _not_in_use(ctx.tx, row)
    return ctx.tx.update(SECURITY_GROUP, row, **changes)


@SECURITY_GROUP.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.network.security_group_rules import RULE

    _not_in_use(ctx.tx, row)
    if row["name"] == DEFAULT and not ctx.who.is_admin:
        raise Fault(
            "conflict", "Insufficient rights for removing default security group.", "SecurityGroupCannotRemoveDefault"
        )
    ctx.tx.delete_where(RULE, security_group_id=row["id"])
    ctx.tx.delete_where(RULE, remote_group_id=row["id"])
    rbac_policies.forget(ctx.tx, row["id"])
    ctx.tx.delete(SECURITY_GROUP, row)


def _not_in_use(tx: Tx, row: Row) -> None:
    from trilith.network.ports import PORT

    if tx.one(PORT, has_item(PORT.c.security_groups, row["id"])) is not None:
        raise Fault("conflict", f"Security Group {row['id']} in use.", "SecurityGroupInUse")


def checked_groups(tx: Tx, project_id: str, is_admin: bool, ids: list[str]) -> list[str]:
    """The ids, when the project may use these groups together. `Fault` missing names the first that it may not."""
    shared = rbac_policies.granted("security_group", project_id, rbac_policies.SHARED)
    mine = None if is_admin else sa.or_(SECURITY_GROUP.c.project_id == project_id, SECURITY_GROUP.c.id.in_(shared))
    rows = tx.rows(SECURITY_GROUP, mine, SECURITY_GROUP.c.id.in_(ids))
    known = {row["id"] for row in rows}
    for group_id in ids:
        if group_id not in known:
            raise SECURITY_GROUP.missing(group_id)
    if len({row["stateful"] for row in rows}) > 1:
        raise Fault("conflict", "A port cannot be in stateful and stateless groups at once.", "SecurityGroupConflict")
    return ids
