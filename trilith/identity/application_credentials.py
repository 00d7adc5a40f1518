"""Application credentials: a name and a secret that stand for a user in one project, with some of its roles."""

import secrets
from dataclasses import dataclass
from typing import Any

from trilith.identity.access_rules import ASKED, kept_rules
from trilith.identity.passwords import Password
from trilith.identity.roles import GLOBAL, ROLE
from trilith.identity.rules import READ_ALL
from trilith.identity.users import USER
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, computed, given, json, text, time
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, ListOf, Member, Object, Text, now
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.versions import Version

Row = dict[str, Any]


@dataclass(frozen=True)
class Secret(Password):
    """A secret in a request; null makes one. Becomes itself and its hash: it is shown once."""

    def check(self, value: object, path: str, at: Version) -> Any:
        if value is None:
            value = secrets.token_urlsafe(64)
        return value, super().check(value, path, at)


def _new_secret(ctx: Ctx) -> Any:
    return Secret().check(None, "secret", ctx.at)


def _roles(row: Row, ctx: Ctx) -> list[Row]:
    return [{"id": r["id"], "name": r["name"], "domain_id": None} for r in row["role_rows"]]


def _shown_secret(row: Row, ctx: Ctx) -> str | None:
    return row.get("shown_secret")


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    ids = {name for row in rows for name in row["roles"]}
    roles = {row["id"]: row for row in ctx.tx.rows(ROLE, id=ids)} if ids else {}
    for row in rows:
        row["role_rows"] = [roles[name] for name in row["roles"] if name in roles]


NAMED = Object({"id": Member(Text(64)), "name": Member(Text(255))}, open_ended=True)

APPLICATION_CREDENTIAL: IdentityNoun = IdentityNoun(
    IDENTITY,
    "application_credential",
    "/users/{user_id}/application_credentials",
    dict(
        id=text(64),
        name=text(255, least=1, create="required", filter=True, sort=True),
        description=text(65535, create="optional", null=True),
        user_id=text(64, index=True),
        project_id=text(64, index=True),
        roles=json(create="optional", default=list, null=True, show=_roles).but(kind=ListOf(NAMED)),
        expires_at=time(create="optional", null=True),
        unrestricted=Field(kind=Flag(strict=True), create="optional", default=False, null=True),
        secret=given(Secret(), default=_new_secret).but(hidden=False, show=_shown_secret, optional_in_view=True),
        secret_hash=text(255, hidden=True),
        system=computed(lambda row, ctx: None),
        access_rules=json(create="optional", default=list, null=True).but(kind=ListOf(ASKED)),
        links=computed(lambda row, ctx: APPLICATION_CREDENTIAL.links(row, ctx)),
    ),
    dict(list="anyone", show="anyone", create="anyone", delete="admin|self"),
    owner=None,
    parent=USER,
    unique=[("user_id", "name")],
    expand=_expand,
    scope=lambda ctx: None if ctx.may(READ_ALL) else APPLICATION_CREDENTIAL.c.user_id == ctx.who.user_id,
)


@APPLICATION_CREDENTIAL.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    """For oneself only, in the project of the token, of roles that the token has."""
    _unrestricted(ctx)
    if new["user_id"] != ctx.who.user_id:
        raise forbidden("identity:create_application_credential")
    if ctx.who.project_id is None:
        raise Fault("invalid", "An application credential is made with a token of the project that it is for.")
    if new["expires_at"] and new["expires_at"] <= now():
        raise Fault("invalid", "The expires_at of an application credential must lie in the future.")
    secret, new["secret_hash"] = new.pop("secret")
    new["project_id"] = ctx.who.project_id
    new["roles"] = _lent(ctx, new["roles"] or [])
    new["access_rules"] = kept_rules(ctx, new["user_id"], new["access_rules"] or [])
    new["unrestricted"] = bool(new["unrestricted"])
    return ctx.tx.insert(APPLICATION_CREDENTIAL, new) | {"shown_secret": secret}


def _lent(ctx: Ctx, asked: list[Row]) -> list[str]:
    """Role ids: those asked for, by id or name, or all of the token's."""
    held = set(ctx.who.token["role_ids"])
    if not asked:
        return sorted(held)
    rows = [
        ctx.tx.one(ROLE, id=role["id"]) if "id" in role else ctx.tx.one(ROLE, name=role.get("name"), domain_id=GLOBAL)
        for role in asked
    ]
    for role, row in zip(asked, rows, strict=True):
        if row is None:
            raise ROLE.missing(str(role.get("id") or role.get("name")))
        if row["id"] not in held:
            raise Fault("invalid", f"Invalid application credential: the role {row['id']} is not the user's.")
    return sorted({row["id"] for row in rows if row})


@APPLICATION_CREDENTIAL.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    _unrestricted(ctx)
    ctx.tx.delete(APPLICATION_CREDENTIAL, row)


def _unrestricted(ctx: Ctx) -> None:
    if ctx.who.token.get("restricted"):
        raise forbidden("identity:manage_application_credentials: the token's application credential is restricted")


def is_expired(row: Row) -> bool:
    return row["expires_at"] is not None and row["expires_at"] <= now()
