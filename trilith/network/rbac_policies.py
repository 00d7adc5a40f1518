"""RBAC policies: which projects besides its own see a network, a security group or a subnet pool.

The flag ``shared`` of these is not stored: it is an `access_as_shared` policy for all projects (``*``).
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Noun, Quota, choice, computed, text
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx
from trilith.network.resource import resource

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
SHARED, EXTERNAL = "access_as_shared", "access_as_external"
ALL = "*"
GUARDS: dict[str, Callable[[Tx, Row, str], None]] = {}  # of an object type: raises when taking a policy away breaks use
NOUNS: dict[str, Noun] = {}  # the nouns that policies are about

POLICY = resource(
    "rbac_policy",
    "/rbac-policies",
    dict(
        object_type=text(32, create="required", filter=True),
        object_id=text(64, create="required", filter=True, index=True),
        action=choice(SHARED, EXTERNAL, create="required", filter=True),
        target_project=text(64, create="required", update=True, filter=True, wire="target_tenant"),
        target_project_id=computed(lambda row, ctx: row["target_project"]),
    ),
    quota=Quota("rbac_policy", 10),
    unique=[("object_id", "action", "target_project")],
    type_name="RbacPolicy",
    extension="rbac-policies",
    without=("name", "description"),
)


def visible(ctx: Ctx, noun: Noun, object_type: str) -> Condition | None:
    """The caller's own rows and those that policies let it see; everything for administrators."""
    if ctx.who.is_admin:
        return None
    return sa.or_(noun.c.project_id == ctx.who.project_id, noun.c.id.in_(granted(object_type, ctx.who.project_id)))


def granted(object_type: str, project_id: str | None, *actions: str) -> sa.Select[Any]:
    """The ids of what policies open to a project."""
    where = [POLICY.c.object_type == object_type, POLICY.c.target_project.in_([ALL, project_id or ""])]
    if actions:
        where.append(POLICY.c.action.in_(actions))
    return sa.select(POLICY.c.object_id).where(*where)


def fill_shared(tx: Tx, object_type: str, rows: list[Row], project_id: str | None) -> None:
    """Sets ``shared`` of each row: whether it is open to all, or to this project."""
    query = granted(object_type, project_id, SHARED).where(POLICY.c.object_id.in_([row["id"] for row in rows]))
    open_ids = {row["object_id"] for row in tx.select(query)}
    for row in rows:
        row["shared"] = row["id"] in open_ids


def share(tx: Tx, new_id: Callable[[], str], object_type: str, row: Row, action: str, on: bool) -> None:
    """Makes or takes away the policy that opens a row to all projects."""
    found = tx.one(POLICY, object_id=row["id"], action=action, target_project=ALL)
    if on and found is None:
        new = {"object_type": object_type, "object_id": row["id"], "action": action, "target_project": ALL}
        tx.insert(POLICY, {"id": new_id(), "project_id": row["project_id"], **new})
    elif not on and found is not None:
        GUARDS.get(object_type, _no_guard)(tx, row, action)
        tx.delete(POLICY, found)


def forget(tx: Tx, object_id: str) -> None:
    """The row is deleted: nobody needs its policies any more."""
    tx.delete_where(POLICY, object_id=object_id)


def _no_guard(tx: Tx, row: Row, action: str) -> None:
    """Nothing that uses it stands in the way."""


@POLICY.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    noun = NOUNS.get(new["object_type"])
    if noun is None or (new["action"] == EXTERNAL and new["object_type"] != "network"):
        raise Fault("invalid", f"There are no such policies for objects of type {new['object_type']}", "HTTPBadRequest")
    row = ctx.find(noun, new["object_id"])
    if row["project_id"] != ctx.who.project_id and not ctx.who.is_admin:
        raise Fault("invalid", f"{new['object_id']} is not yours to share.", "InvalidInput")
    if not ctx.who.is_admin and (new["target_project"] == ALL or new["action"] == EXTERNAL):
        raise forbidden("create_rbac_policy:target_tenant")
    made = ctx.tx.insert(POLICY, new)
    if new["action"] == EXTERNAL:
        ctx.tx.update(noun, row, external=True)
    return made


@POLICY.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if changes.get("target_project") == ALL and not ctx.who.is_admin:
        raise forbidden("update_rbac_policy:target_tenant")
    return ctx.tx.update(POLICY, row, **changes)


@POLICY.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    noun = NOUNS[row["object_type"]]
    thing = ctx.tx.get(noun, row["object_id"])
    GUARDS.get(row["object_type"], _no_guard)(ctx.tx, thing, row["action"])
    ctx.tx.delete(POLICY, row)
