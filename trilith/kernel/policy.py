"""Who may do what. A rule is a name; declarations name rules, joined by ``|`` where any of several is enough.

Roles are the new-style ones: ``admin`` implies ``manager`` implies ``member`` implies ``reader``; ``service`` stands
apart. Identity expands them
when it makes a token, so a rule looks for one role only. A rule about a row is asked after the row was found in the
caller's scope: what
the caller may not see is missing, not forbidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Principal:
    """Who asks: made from a valid token, or from a host's credential."""

    user_id: str
    project_id: str | None = None
    domain_id: str | None = None
    system: bool = False
    roles: frozenset[str] = frozenset()
    user_domain_id: str = "default"
    project_domain_id: str | None = None
    token: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None  # set for a host's agent
    may_call: Callable[[str, str, str], bool] | None = None  # (service type, method, path): a limited token

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles


NOBODY = Principal(user_id="")
Rule = Callable[[Principal, Row | None], bool]


def _owns(who: Principal, row: Row | None) -> bool:
    if row is None:
        return True
    owner = row.get("project_id", row.get("tenant_id"))
    return owner is None or owner == who.project_id


def _role(name: str) -> Rule:
    return lambda who, row: who.is_admin or (name in who.roles and _owns(who, row))


RULES: dict[str, Rule] = {
    "public": lambda who, row: True,
    "anyone": lambda who, row: True,
    "reader": _role("reader"),
    "member": _role("member"),
    "manager": _role("manager"),
    "admin": lambda who, row: who.is_admin,
    "service": lambda who, row: who.is_admin or "service" in who.roles,
    "owner": lambda who, row: who.is_admin or row is None or row.get("user_id") == who.user_id,
    "host": lambda who, row: who.host is not None,
    "nobody": lambda who, row: False,
}


WITHOUT_ROW = frozenset({"public", "anyone", "admin", "service", "host", "nobody"})  # rules that ask about the caller


def rule(name: str) -> Callable[[Rule], Rule]:
    """Adds a service's own rule: ``@rule("owner_of_image")``."""

    def add(found: Rule) -> Rule:
        if name in RULES:
            raise ValueError(f"rule {name} exists")
        RULES[name] = found
        return found

    return add


def allowed(rules: str, who: Principal, row: Row | None = None) -> bool:
    return any(RULES[name](who, row) for name in rules.split("|"))


def settled(rules: str, who: Principal) -> bool | None:
    """What the rules say whatever the row is; None: it depends on the row."""
    found = [RULES[name](who, None) if name in WITHOUT_ROW else None for name in rules.split("|")]
    return True if True in found else None if None in found else False
