"""Roles, those of a domain too, and which role implies which."""

from typing import Any

import sqlalchemy as sa

from trilith.identity import relations, rules
from trilith.identity.domains import existing_domain
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import computed, json, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Json
from trilith.kernel.policy import rule
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]
GLOBAL = ""  # the domain_id of roles of no domain; not NULL, so that names stay unique


def _in_domain(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool]:
    return ROLE.c.domain_id == values[-1]  # type: ignore[no-any-return]


ROLE: IdentityNoun = IdentityNoun(
    IDENTITY,
    "role",
    "/roles",
    dict(
        id=text(64),
        name=text(255, least=1, create="required", update=True, filter=True, sort=True),
        domain_id=text(
            64,
            create="optional",
            update=True,
            null=True,
            default=GLOBAL,
            show=lambda row, ctx: row["domain_id"] or None,
        ),
        description=text(65535, create="optional", update=True, null=True),
        options=json(create="optional", update=True, default=dict),
        links=computed(lambda row, ctx: ROLE.links(row, ctx)),
    ),
    dict(
        list="admin|system_reader|manager_of_domain",
        show="admin|system_reader|manager_of_role",
        create="admin",
        update="admin",
        delete="admin",
    ),
    owner=None,
    unique=[("domain_id", "name")],
    extra=Json(),
    filters={"domain_id": _in_domain},
)


@rule("manager_of_domain")
def is_manager_of_domain(who: Any, row: Any) -> bool:
    return who.domain_id is not None and "manager" in who.roles


@rule("manager_of_role")
def is_manager_of_role(who: Any, row: Any) -> bool:
    return "manager" in who.roles and (row is None or row["name"] in rules.DOMAIN_MANAGED_ROLES)


@ROLE.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    new["domain_id"] = existing_domain(ctx.tx, new["domain_id"])["id"] if new["domain_id"] else GLOBAL
    return ctx.tx.insert(ROLE, new)


@ROLE.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if (changes.pop("domain_id", row["domain_id"]) or GLOBAL) != row["domain_id"]:
        raise Fault("invalid", "Update of `domain_id` is not allowed.")
    return ctx.tx.update(ROLE, row, **changes)


@ROLE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    drop_role(ctx.tx, row)


def drop_role(tx: Tx, row: Row) -> None:
    """The role and every mention of it."""
    relations.forget(tx, relations.ASSIGNMENT, role_id=row["id"])
    relations.forget(tx, relations.IMPLICATION, prior_role_id=row["id"])
    relations.forget(tx, relations.IMPLICATION, implied_role_id=row["id"])
    tx.delete(ROLE, row)


# implications
def _brief(ctx: Ctx, row: Row) -> Row:
    return {"id": row["id"], "name": row["name"], "links": ROLE.links(row, ctx)}


def _implied(ctx: Ctx, row: Row) -> Row:
    implied = ctx.tx.get(ROLE, ctx.path["implied_role_id"])
    if not relations.found(ctx.tx, relations.IMPLICATION, prior_role_id=row["id"], implied_role_id=implied["id"]):
        raise Fault("missing", f"{row['id']} does not imply {implied['id']}.")
    return implied


def _inference(ctx: Ctx, row: Row, implied: Row) -> Row:
    inference = {"prior_role": _brief(ctx, row), "implies": _brief(ctx, implied)}
    return {"role_inference": inference, "links": {"self": f"{ctx.base_url}{ctx.url_path}"}}


def _inferences(ctx: Ctx, **equals: Any) -> list[tuple[Row, Row]]:
    """Pairs of a role and one that it implies."""
    pairs = relations.found(ctx.tx, relations.IMPLICATION, **equals)
    ids = {name for pair in pairs for name in pair.values()}
    roles = {row["id"]: row for row in ctx.tx.rows(ROLE, id=ids)} if ids else {}
    return [(roles[pair["prior_role_id"]], roles[pair["implied_role_id"]]) for pair in pairs]


@ROLE.route("GET", "/{id}/implies", rules.READ_ALL)
def list_implied(ctx: Ctx, row: Row) -> Row:
    implied = [_brief(ctx, one) for _, one in _inferences(ctx, prior_role_id=row["id"])]
    inference = {"prior_role": _brief(ctx, row), "implies": implied}
    return {"role_inference": inference, "links": {"self": f"{ctx.base_url}{ctx.url_path}"}}


@ROLE.route("PUT", "/{id}/implies/{implied_role_id}", "admin", status=201)
def imply(ctx: Ctx, row: Row) -> Row:
    implied = ctx.tx.get(ROLE, ctx.path["implied_role_id"])
    if implied["name"] == "admin" and implied["domain_id"] == GLOBAL:
        raise Fault("forbidden", f"{implied['id']} may not be implied: it is the role admin.")
    if implied["id"] == row["id"] or row["id"] in all_implied(ctx.tx, implied["id"]):
        raise Fault("forbidden", f"Role {row['id']} may not imply {implied['id']}: they would imply each other.")
    relations.add(ctx.tx, relations.IMPLICATION, prior_role_id=row["id"], implied_role_id=implied["id"])
    return _inference(ctx, row, implied)


def all_implied(tx: Tx, role_id: str) -> set[str]:
    """The ids of every role that this one implies, directly or through others."""
    found: set[str] = set()
    left = [role_id]
    while left:
        for pair in relations.found(tx, relations.IMPLICATION, prior_role_id=left.pop()):
            if pair["implied_role_id"] not in found:
                found.add(pair["implied_role_id"])
                left.append(pair["implied_role_id"])
    return found


@ROLE.route("GET", "/{id}/implies/{implied_role_id}", rules.READ_ALL)
def show_implied(ctx: Ctx, row: Row) -> Row:
    return _inference(ctx, row, _implied(ctx, row))


@ROLE.route("HEAD", "/{id}/implies/{implied_role_id}", rules.READ_ALL, status=204)
def check_implied(ctx: Ctx, row: Row) -> None:
    _implied(ctx, row)


@ROLE.route("DELETE", "/{id}/implies/{implied_role_id}", "admin", status=204)
def imply_no_more(ctx: Ctx, row: Row) -> None:
    implied = _implied(ctx, row)
    relations.forget(ctx.tx, relations.IMPLICATION, prior_role_id=row["id"], implied_role_id=implied["id"])


@IDENTITY.route("GET", "/role_inferences", rules.READ_ALL)
def list_inferences(ctx: Ctx) -> Row:
    found: dict[str, Row] = {}
    for prior, implied in _inferences(ctx):
        entry = found.setdefault(prior["id"], {"prior_role": _brief(ctx, prior), "implies": []})
        entry["implies"].append(_brief(ctx, implied))
    return {"role_inferences": list(found.values()), "links": {"self": f"{ctx.base_url}{ctx.url_path}"}}
