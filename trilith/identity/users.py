"""Users. Disabling one or changing the password ends every token of that user at once: its `token_epoch` grows."""

from typing import Any

from trilith.identity import relations, rules
from trilith.identity.domains import chosen_domain
from trilith.identity.passwords import Password, is_password
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, computed, given, json, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Json, ListOf, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]
_FLAG = Member(Flag(strict=True), null=True)
OPTIONS = Object(
    {
        "ignore_change_password_upon_first_use": _FLAG,
        "ignore_password_expiry": _FLAG,
        "ignore_lockout_failure_attempts": _FLAG,
        "ignore_user_inactivity": _FLAG,
        "lock_password": _FLAG,
        "multi_factor_auth_enabled": _FLAG,
        "multi_factor_auth_rules": Member(ListOf(ListOf(Text(64))), null=True),
    }
)

USER: IdentityNoun = IdentityNoun(
    IDENTITY,
    "user",
    "/users",
    dict(
        id=text(64),
        name=text(255, least=1, create="required", update=True, filter=True, sort=True),
        domain_id=text(64, create="optional", update=True, null=True, filter=True),
        default_project_id=text(64, create="optional", update=True, null=True, optional_in_view=True, index=True),
        enabled=Field(kind=Flag(strict=True), create="optional", update=True, default=True, filter=True),
        options=json(create="optional", update=True, default=dict).but(kind=OPTIONS),
        password_expires_at=text(26),
        password=given(Password(), create="optional", update=True, null=True),
        password_hash=text(255, hidden=True),
        token_epoch=whole(default=0, hidden=True),
        links=computed(lambda row, ctx: USER.links(row, ctx)),
    ),
    rules.POLICY | dict(show=f"{rules.READ}|self"),
    owner=None,
    unique=[("domain_id", "name")],
    extra=Json(),
)


@USER.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    new["domain_id"] = chosen_domain(ctx, new["domain_id"])
    ctx.require(rules.MANAGE, "identity:create_user", new)
    new["password_hash"] = new.pop("password", None)
    new["options"] = _set_options({}, new["options"])
    return ctx.tx.insert(USER, new)


@USER.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if changes.get("domain_id", row["domain_id"]) != row["domain_id"]:
        raise Fault("invalid", "Update of `domain_id` is not allowed.")
    if "options" in changes:
        changes["options"] = _set_options(row["options"], changes["options"])
    if "password" in changes:
        changes["password_hash"] = changes.pop("password")
    if "password_hash" in changes or (row["enabled"] and changes.get("enabled") is False):
        changes["token_epoch"] = row["token_epoch"] + 1
    return ctx.tx.update(USER, row, **changes)


def _set_options(have: Row, asked: Row) -> Row:
    """Null takes an option away."""
    return {name: value for name, value in {**have, **asked}.items() if value is not None}


@USER.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    drop_user(ctx.tx, row)


def drop_user(tx: Tx, row: Row) -> None:
    """The user and every mention of it in identity."""
    from trilith.identity.access_rules import ACCESS_RULE
    from trilith.identity.application_credentials import APPLICATION_CREDENTIAL

    relations.forget(tx, relations.ASSIGNMENT, actor_id=row["id"])
    relations.forget(tx, relations.MEMBERSHIP, user_id=row["id"])
    tx.delete_where(ACCESS_RULE, user_id=row["id"])
    tx.delete_where(APPLICATION_CREDENTIAL, user_id=row["id"])
    tx.delete(USER, row)


NEW_PASSWORD = Object(
    {
        "user": Member(
            Object(
                {
                    "original_password": Member(Text(4096), required=True),
                    "password": Member(Password(), required=True),
                }
            ),
            required=True,
        )
    }
)


@IDENTITY.route("POST", "/users/{user_id}/password", "public", body=NEW_PASSWORD, status=204, write=False)
def change_password(ctx: Ctx) -> None:
    """The original password says who asks: no token is needed. It is checked before the writing transaction."""
    user_id, asked = ctx.path["user_id"], ctx.body["user"]
    row = ctx.tx.one(USER, id=user_id)
    known = is_password(asked["original_password"], row["password_hash"] if row else None)
    if row is None or not known or not row["enabled"]:
        raise unauthorized()
    if row["options"].get("lock_password"):
        raise Fault("invalid", f"Changing the password of user {user_id} is locked.")

    def work(tx: Tx) -> None:
        now = tx.one(USER, id=user_id)
        if now is None or now["password_hash"] != row["password_hash"]:
            raise unauthorized()
        tx.update(USER, now, password_hash=asked["password"], token_epoch=now["token_epoch"] + 1)

    ctx.store.run(work)


def unauthorized() -> Fault:
    """Always these words, whatever is wrong."""
    return Fault("unauthenticated", "The request you have made requires authentication.")
