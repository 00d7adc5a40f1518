"""RBAC policies: which projects besides its own see a network, a security group or a subnet pool.

The flag ``shared`` of these is not stored: it is an `access_as_shared` policy for all projects (``*``).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Noun, Quota, choice, text
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.statements import fixed, kept
from trilith.kernel.store import Tx
from trilith.network.resource import bump, resource

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
SHARED, EXTERNAL = "access_as_shared", "access_as_external"
ALL = "*"
USERS: dict[str, Callable[[Tx, Row, str], set[str]]] = {}  # of an object type: the projects that use it by an action
NOUNS: dict[str, Noun] = {}  # the nouns that policies are about

POLICY = resource(
    "rbac_policy",
    "/rbac-policies",
    dict(
        object_type=text(32, create="required", filter=True),
        object_id=text(64, create="required", filter=True, index=True),
        action=choice(SHARED, EXTERNAL, create="required", filter=True),
        target_project=text(64, create="required", update=True, filter=True, wire="target_tenant"),
    ),
    quota=Quota("rbac_policy", 10),
    unique=[("object_id", "action", "target_project")],
    type_name="RbacPolicy",
    extension="rbac-policies",
    without=("name", "description", "created_at", "updated_at", "revision_number", "tags"),
)
OPEN = kept(
    sa.select(POLICY.c.object_id).where(
        POLICY.c.object_type == sa.bindparam("object_type"),
        POLICY.c.target_project.in_(sa.bindparam("targets", expanding=True)),
        POLICY.c.action == SHARED,
        POLICY.c.object_id.in_(sa.bindparam("ids", expanding=True)),
    )
)


def visible(ctx: Ctx, noun: Noun, object_type: str) -> Condition | None:
    """The caller's own rows and those that policies let it see; everything for administrators."""
    if ctx.who.is_admin:
        return None
    if ctx.who.project_id is None:
        return sa.or_(noun.c.project_id.is_(None), noun.c.id.in_(granted(object_type, None)))
    return _visible(noun, object_type)


@cache
def _visible(noun: Noun, object_type: str) -> Condition:
    me: sa.BindParameter[str] = sa.bindparam("who_project_id")
    where = (POLICY.c.object_type == object_type, POLICY.c.target_project.in_([ALL, me]))
    return fixed(sa.or_(noun.c.project_id == me, noun.c.id.in_(sa.select(POLICY.c.object_id).where(*where))))


def granted(object_type: str, project_id: str | None, *actions: str) -> sa.Select[Any]:
    """The ids of what policies open to a project."""
    where = [POLICY.c.object_type == object_type, POLICY.c.target_project.in_([ALL, project_id or ""])]
    if actions:
        where.append(POLICY.c.action.in_(actions))
    return sa.select(POLICY.c.object_id).where(*where)


def fill_shared(tx: Tx, object_type: str, rows: list[Row], project_id: str | None) -> None:
    """Sets ``shared`` of each row: whether it is open to all, or to this project."""
    values: Row = {"object_type": object_type, "targets": [ALL, project_id or ""], "ids": [row["id"] for row in rows]}
    open_ids = {row["object_id"] for row in tx.select(OPEN, **values)}
    for row in rows:
        row["shared"] = row["id"] in open_ids


def share(tx: Tx, new_id: Callable[[], str], object_type: str, row: Row, action: str, on: bool) -> None:
    """Makes or takes away the policy that opens a row to all projects. `Fault` InvalidSharedSetting: others use it."""
    found = tx.one(POLICY, object_id=row["id"], action=action, target_project=ALL)
    if on and found is None:
        new = {"object_type": object_type, "object_id": row["id"], "action": action, "target_project": ALL}
        tx.insert(POLICY, {"id": new_id(), "project_id": row["project_id"], **new})
    elif not on and found is not None:
        if _shut_out(tx, row, found, None):
            message = f"Unable to reconfigure sharing settings of {row['name']}. Multiple projects are using it."
            raise Fault("conflict", message, "InvalidSharedSetting")
        tx.delete(POLICY, found)


def _shut_out(tx: Tx, thing: Row, policy: Row, new_target: str | None) -> set[str]:
    """The projects that use the thing and would not see it any more, were the policy gone or for another project."""
    others = tx.rows(POLICY, POLICY.c.id != policy["id"], object_id=thing["id"], action=policy["action"])
    left = {other["target_project"] for other in others} | ({new_target} if new_target else set())
    if ALL in left:
        return set()
    users = USERS[policy["object_type"]](tx, thing, policy["action"]) - left - {thing["project_id"], ""}
    return users if policy["target_project"] == ALL else users & {policy["target_project"]}


def _check_use(tx: Tx, thing: Row, policy: Row, new_target: str | None = None) -> None:
    in_the_way = _shut_out(tx, thing, policy, new_target)
    default = policy["action"] == EXTERNAL and policy["target_project"] == ALL and thing.get("is_default")
    if in_the_way or (default and new_target != ALL):
        why = "it is needed by projects that use it" if in_the_way else "a default external network is open to everyone"
        message = f"RBAC policy on object {thing['id']} cannot be removed because {why}."
        raise Fault("conflict", message, "RbacPolicyInUse")


def forget(tx: Tx, object_id: str) -> None:
    """The row is deleted: nobody needs its policies any more."""
    tx.delete_where(POLICY, object_id=object_id)


@POLICY.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    noun = NOUNS.get(new["object_type"])
    if noun is None or (new["action"] == EXTERNAL and new["object_type"] != "network"):
        raise Fault("invalid", f"There are no such policies for objects of type {new['object_type']}", "HTTPBadRequest")
    row = ctx.find(noun, new["object_id"])
    if row["project_id"] != ctx.who.project_id and not ctx.who.is_admin:
        raise Fault("invalid", f"{new['object_id']} is not yours to share.", "InvalidInput")
    if not ctx.who.is_admin and new["target_project"] == ALL:
        raise forbidden("create_rbac_policy:target_tenant")
    made = ctx.tx.insert(POLICY, new)
    bump(ctx.tx, noun, row["id"])
    if new["action"] == EXTERNAL:
        ctx.tx.update(noun, ctx.tx.get(noun, row["id"]), external=True)
    return made


@POLICY.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if changes.get("target_project") == ALL and not ctx.who.is_admin:
        raise forbidden("update_rbac_policy:target_tenant")
    if changes.get("target_project", row["target_project"]) != row["target_project"]:
        thing = ctx.tx.get(NOUNS[row["object_type"]], row["object_id"])
        _check_use(ctx.tx, thing, row, changes["target_project"])
    return ctx.tx.update(POLICY, row, **changes)


@POLICY.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    tx, noun = ctx.tx, NOUNS[row["object_type"]]
    _check_use(tx, tx.get(noun, row["object_id"]), row)
    tx.delete(POLICY, row)
    bump(tx, noun, row["object_id"])
    if row["action"] == EXTERNAL and tx.one(POLICY, object_id=row["object_id"], action=EXTERNAL) is None:
        tx.update(noun, tx.get(noun, row["object_id"]), external=False)
