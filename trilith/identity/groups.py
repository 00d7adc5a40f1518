"""Groups of users, and who is in them."""

from typing import Any

from trilith.identity import relations, rules
from trilith.identity.domains import chosen_domain
from trilith.identity.users import USER
from trilith.identity.versions import IDENTITY, IdentityNoun, list_links
from trilith.kernel.declare import computed, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Json
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]

GROUP: IdentityNoun = IdentityNoun(
    IDENTITY,
    "group",
    "/groups",
    dict(
        id=text(64),
        name=text(64, least=1, create="required", update=True, filter=True, sort=True),
        domain_id=text(64, create="optional", update=True, null=True, filter=True),
        description=text(65535, create="optional", update=True, default="", null=True),
        links=computed(lambda row, ctx: GROUP.links(row, ctx)),
    ),
    rules.POLICY,
    owner=None,
    unique=[("domain_id", "name")],
    extra=Json(),
)


@GROUP.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    new["domain_id"] = chosen_domain(ctx, new["domain_id"])
    ctx.require(rules.MANAGE, "identity:create_group", new)
    return ctx.tx.insert(GROUP, new)


@GROUP.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if changes.get("domain_id", row["domain_id"]) != row["domain_id"]:
        raise Fault("invalid", "Update of `domain_id` is not allowed.")
    return ctx.tx.update(GROUP, row, **changes)


@GROUP.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    drop_group(ctx.tx, row)


def drop_group(tx: Tx, row: Row) -> None:
    """The group and every mention of it."""
    relations.forget(tx, relations.ASSIGNMENT, actor_id=row["id"])
    relations.forget(tx, relations.MEMBERSHIP, group_id=row["id"])
    tx.delete(GROUP, row)


# membership
@GROUP.route("GET", "/{id}/users", rules.READ)
def list_members(ctx: Ctx, row: Row) -> Any:
    members = [r["user_id"] for r in relations.found(ctx.tx, relations.MEMBERSHIP, group_id=row["id"])]
    return listed(ctx, USER, USER.c.id.in_(members))


@USER.route("GET", "/{id}/groups", f"{rules.READ}|self")
def list_groups_of_user(ctx: Ctx, row: Row) -> Any:
    groups = [r["group_id"] for r in relations.found(ctx.tx, relations.MEMBERSHIP, user_id=row["id"])]
    return listed(ctx, GROUP, GROUP.c.id.in_(groups))


def listed(ctx: Ctx, noun: Any, *where: Any) -> Row:
    """A list of rows under a condition and the request's own filters."""
    filters = [ctx.service.wire.filtered(ctx, noun, name, values) for name, values in ctx.query.items()]
    rows = sorted(ctx.tx.rows(noun, *where, *filters), key=lambda row: (row["name"], row["id"]))
    return {noun.plural: ctx.show_all(noun, rows), "links": list_links(ctx)}


def _member(ctx: Ctx, rule: str) -> str:
    user = ctx.tx.get(USER, ctx.path["user_id"])
    ctx.require(rule, "identity:group_membership", user)
    return str(user["id"])


@GROUP.route("PUT", "/{id}/users/{user_id}", rules.MANAGE, status=204)
def add_member(ctx: Ctx, row: Row) -> None:
    relations.add(ctx.tx, relations.MEMBERSHIP, group_id=row["id"], user_id=_member(ctx, rules.MANAGE))


@GROUP.route("GET", "/{id}/users/{user_id}", rules.READ, status=204)
def check_member(ctx: Ctx, row: Row) -> None:
    user_id = _member(ctx, rules.READ)
    if not relations.found(ctx.tx, relations.MEMBERSHIP, group_id=row["id"], user_id=user_id):
        raise Fault("missing", f"User '{user_id}' not found in group '{row['id']}'.")


@GROUP.route("DELETE", "/{id}/users/{user_id}", rules.MANAGE, status=204)
def remove_member(ctx: Ctx, row: Row) -> None:
    user_id = _member(ctx, rules.MANAGE)
    if not relations.forget(ctx.tx, relations.MEMBERSHIP, group_id=row["id"], user_id=user_id):
        raise Fault("missing", f"User '{user_id}' not found in group '{row['id']}'.")
