"""Access rules: the only calls that a token of an application credential may make, where it was given any."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from trilith.identity.rules import READ_ALL
from trilith.identity.users import USER
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import choice, computed, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Member, Object, Text
from trilith.kernel.request import Ctx

Row = dict[str, Any]
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
ASKED = Object(
    {
        "id": Member(Text(64)),
        "service": Member(Text(64)),
        "path": Member(Text(225, 1, r"/.*")),
        "method": Member(Choice(METHODS)),
    }
)

ACCESS_RULE: IdentityNoun = IdentityNoun(
    IDENTITY,
    "access_rule",
    "/users/{user_id}/access_rules",
    dict(
        id=text(64),
        user_id=text(64, hidden=True, index=True),
        service=text(64, filter=True),
        path=text(225, filter=True),
        method=choice(*METHODS, filter=True),
        links=computed(lambda row, ctx: ACCESS_RULE.links(row, ctx)),
    ),
    dict(list="anyone", show="anyone", delete="admin|self"),
    owner=None,
    parent=USER,
    scope=lambda ctx: None if ctx.may(READ_ALL) else ACCESS_RULE.c.user_id == ctx.who.user_id,
)


@ACCESS_RULE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.identity.application_credentials import APPLICATION_CREDENTIAL

    users = ctx.tx.rows(APPLICATION_CREDENTIAL, user_id=row["user_id"])
    if any(rule["id"] == row["id"] for user in users for rule in user["access_rules"]):
        raise Fault("forbidden", f"Access rule {row['id']} is in use by an application credential.")
    ctx.tx.delete(ACCESS_RULE, row)


def kept_rules(ctx: Ctx, user_id: str, asked: Iterable[Row]) -> list[Row]:
    """The rules of a new credential, those that the user has not got yet made."""
    found = []
    for rule in asked:
        if "id" in rule:
            row = ctx.tx.get(ACCESS_RULE, rule["id"], ACCESS_RULE.c.user_id == user_id)
        elif missing := {"service", "path", "method"} - set(rule):
            raise Fault("invalid", f"An access rule must have {', '.join(sorted(missing))}.")
        else:
            same = ctx.tx.one(ACCESS_RULE, user_id=user_id, **rule)
            row = same or ctx.tx.insert(ACCESS_RULE, {"id": ctx.new_hex(), "user_id": user_id, **rule})
        found.append({name: row[name] for name in ("id", "service", "path", "method")})
    return found


def limit(rules: list[Row]) -> Callable[[str, str, str], bool]:
    """Whether a call is one of the allowed: of a service's type, with a method, at a path as the client sees it or
    below the service's first path segment."""

    def may_call(service: str, method: str, path: str) -> bool:
        inner = "/" + path.lstrip("/").partition("/")[2]
        return any(
            rule["service"] == service
            and rule["method"] == method
            and (_pattern(rule["path"]).fullmatch(path) or _pattern(rule["path"]).fullmatch(inner))
            for rule in rules
        )

    return may_call


@lru_cache(maxsize=1024)
def _pattern(path: str) -> re.Pattern[str]:
    """``*`` and ``{name}`` stand for one segment, ``**`` for any number."""
    parts = re.split(r"(\*\*|\*|\{[^/}]*\})", path)
    return re.compile("".join(".*" if p == "**" else "[^/]+" if p[:1] in "*{" and p else re.escape(p) for p in parts))
