"""Domains: the top of every name. Deleting one takes all that is in it."""

from typing import Any

from trilith.identity import rules
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, computed, json, listing, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Json, Text
from trilith.kernel.policy import rule
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]

DOMAIN: IdentityNoun = IdentityNoun(
    IDENTITY,
    "domain",
    "/domains",
    dict(
        id=text(64),
        name=text(64, least=1, create="required", update=True, filter=True, sort=True),
        description=text(65535, create="optional", update=True, default="", null=True),
        enabled=Field(kind=Flag(strict=True), create="optional", update=True, default=True, filter=True),
        tags=listing(Text(255), create="optional", update=True),
        options=json(create="optional", update=True, default=dict),
        token_epoch=whole(default=0, hidden=True),  # grows when it is disabled: its tokens end for good
        links=computed(lambda row, ctx: DOMAIN.links(row, ctx)),
    ),
    dict(
        list=rules.READ,
        show="admin|system_reader|domain_reader|own_domain",
        create="admin",
        update="admin",
        delete="admin",
    ),
    owner=None,
    unique=[("name",)],
    extra=Json(),
)


@rule("own_domain")
def is_own_domain(who: Any, row: Any) -> bool:
    """The domain of the caller's scope."""
    return row is not None and row["id"] in (who.domain_id, who.project_domain_id)


@DOMAIN.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if row["enabled"] and changes.get("enabled") is False:
        changes["token_epoch"] = row["token_epoch"] + 1
    return ctx.tx.update(DOMAIN, row, **changes)


@DOMAIN.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.identity import groups, projects, relations, roles, users  # they know domains

    if row["enabled"]:
        raise Fault("forbidden", "Cannot delete a domain that is enabled, please disable it first.")
    for user in ctx.tx.rows(users.USER, domain_id=row["id"]):
        users.drop_user(ctx.tx, user)
    for group in ctx.tx.rows(groups.GROUP, domain_id=row["id"]):
        groups.drop_group(ctx.tx, group)
    for project in ctx.tx.rows(projects.PROJECT, domain_id=row["id"]):
        projects.drop_project(ctx.tx, project)
    for role in ctx.tx.rows(roles.ROLE, domain_id=row["id"]):
        roles.drop_role(ctx.tx, role)
    relations.forget(ctx.tx, relations.ASSIGNMENT, target_id=row["id"])
    ctx.tx.delete(DOMAIN, row)


def existing_domain(tx: Tx, domain_id: str | None) -> Row:
    """404 where there is no such domain."""
    return tx.get(DOMAIN, domain_id)


def chosen_domain(ctx: Ctx, asked: str | None) -> str:
    """The domain of a new thing: as asked, else that of the caller's scope."""
    domain_id = asked or ctx.who.domain_id or ctx.who.project_domain_id
    if domain_id is None:
        raise Fault("invalid", "You have tried to create a resource using the system token: give its domain_id.")
    return str(existing_domain(ctx.tx, domain_id)["id"])
