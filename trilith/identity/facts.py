"""What SQL says, now, about somebody in a scope: enabled or not, which roles. Two indexed queries a token, and none as
long as nothing in identity has changed (see `remembered`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from trilith.identity.domains import DOMAIN
from trilith.identity.projects import PROJECT
from trilith.identity.relations import ASSIGNMENT, IMPLICATION, MEMBERSHIP, REVOKED, SYSTEM
from trilith.identity.remembered import remembered
from trilith.identity.roles import GLOBAL, ROLE
from trilith.identity.users import USER
from trilith.kernel.store import Tx

Row = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Where a token holds. `kind`: project, domain, system or none; `id` of the project or the domain."""

    kind: str = "none"
    id: str = ""


@dataclass(frozen=True)
class Facts:
    """A user in a scope, both enabled, and their domains too."""

    user: Row
    user_domain: Row
    project: Row | None
    domain: Row | None  # the scope, or the project's
    epochs: tuple[int, ...]
    roles: tuple[Row, ...]  # id and name, implied ones too


def facts(tx: Tx, user_id: str, scope: Scope, audit_id: str = "") -> Facts | None:
    """None where the user, the scope, or a domain of theirs is disabled or does not exist, or the token is revoked."""
    return remembered(tx, (user_id, scope, audit_id), lambda: _facts(tx, user_id, scope, audit_id))


def _facts(tx: Tx, user_id: str, scope: Scope, audit_id: str) -> Facts | None:
    values = {"user": user_id, "scope": scope.id, "audit": audit_id}
    row = tx.connection.execute(_people(scope.kind), values).mappings().first()
    if row is None:
        return None
    parts = {part: _part(row, part) for part in ("user", "user_domain", "project", "domain")}
    epochs = tuple(found["token_epoch"] for found in parts.values() if found is not None)
    roles = roles_of(tx, user_id, scope, parts["project"]) if scope.kind != "none" else []
    user, user_domain = parts["user"], parts["user_domain"]
    assert user is not None
    assert user_domain is not None
    return Facts(user, user_domain, parts["project"], parts["domain"], epochs, tuple(roles))


def _part(row: Any, part: str) -> Row | None:
    start = f"{part}__"
    found = {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
    return found or None


@cache
def _people(kind: str) -> sa.Select[Any]:
    user, own = USER.table, DOMAIN.table.alias("user_domain")
    project, domain = PROJECT.table, DOMAIN.table.alias("scope_domain")
    columns = [
        *_labels("user", user, "id", "name", "default_project_id", "password_expires_at", "options", "token_epoch"),
        *_labels("user_domain", own, "id", "name", "token_epoch"),
    ]
    source: Any = user.join(own, own.c.id == user.c.domain_id)
    revoked = sa.exists().where(REVOKED.c.audit_id == sa.bindparam("audit"))
    where = [user.c.id == sa.bindparam("user"), user.c.enabled, own.c.enabled, ~revoked]
    if kind == "project":
        columns += _labels("project", project, "id", "name", "domain_id", "ancestors", "token_epoch")
        source = source.join(project, project.c.id == sa.bindparam("scope"))
        source = source.join(domain, domain.c.id == project.c.domain_id)
        where.append(project.c.enabled)
    if kind == "domain":
        source = source.join(domain, domain.c.id == sa.bindparam("scope"))
    if kind in ("project", "domain"):
        columns += _labels("domain", domain, "id", "name", "token_epoch")
        where.append(domain.c.enabled)
    return sa.select(*columns).select_from(source).where(*where)


def _labels(part: str, table: sa.FromClause, *names: str) -> list[sa.Label[Any]]:
    return [table.c[name].label(f"{part}__{name}") for name in names]


def roles_of(tx: Tx, user_id: str, scope: Scope, project: Row | None) -> list[Row]:
    """The roles that a user has in a scope: own and by groups, inherited, implied; those of a domain are left out."""
    target = SYSTEM if scope.kind == "system" else scope.id
    above = project["ancestors"] if project else []
    values = {"user": user_id, "target": target, "above": above}
    return [dict(row) for row in tx.connection.execute(_roles(), values).mappings()]


def implied_roles(tx: Tx, role_ids: Iterable[str]) -> list[Row]:
    """These roles and all that they imply."""
    start = sa.select(ROLE.c.id.label("role_id")).where(ROLE.c.id.in_(list(role_ids)))
    return tx.select(_with_implied(start))


@cache
def _roles() -> sa.Select[Any]:
    groups = sa.select(MEMBERSHIP.c.group_id).where(MEMBERSHIP.c.user_id == sa.bindparam("user"))
    mine = sa.or_(ASSIGNMENT.c.actor_id == sa.bindparam("user"), ASSIGNMENT.c.actor_id.in_(groups))
    here = sa.and_(ASSIGNMENT.c.target_id == sa.bindparam("target"), ~ASSIGNMENT.c.inherited)
    from_above = sa.and_(ASSIGNMENT.c.target_id.in_(sa.bindparam("above", expanding=True)), ASSIGNMENT.c.inherited)
    return _with_implied(sa.select(ASSIGNMENT.c.role_id).where(mine, sa.or_(here, from_above)))


def _with_implied(start: sa.Select[Any]) -> sa.Select[Any]:
    held = start.cte("held", recursive=True)
    more = sa.select(IMPLICATION.c.implied_role_id).join(held, held.c.role_id == IMPLICATION.c.prior_role_id)
    held = held.union(more)
    names = sa.select(ROLE.c.id, ROLE.c.name).join(held, held.c.role_id == ROLE.c.id)
    return names.where(ROLE.c.domain_id == GLOBAL).order_by(ROLE.c.name)


# where somebody may go
def projects_of(tx: Tx, user_id: str) -> list[Row]:
    """Every enabled project in which a user has a role, by whatever way."""
    mine = _assignments_of(tx, user_id)
    direct = {row["target_id"] for row in mine if row["target"] == "project" and not row["inherited"]}
    tops = [row["target_id"] for row in mine if row["inherited"]]
    below = sa.select(PROJECT.c.id).where(PROJECT.c.parent_id.in_(tops)).cte("below", recursive=True)
    below = below.union(sa.select(PROJECT.c.id).join(below, PROJECT.c.parent_id == below.c.id))
    mine_too = sa.or_(PROJECT.c.id.in_(direct), PROJECT.c.id.in_(sa.select(below.c.id)))
    enabled = sa.select(DOMAIN.c.id).where(DOMAIN.c.enabled)
    rows = tx.rows(PROJECT, mine_too, PROJECT.c.enabled, PROJECT.c.domain_id.in_(enabled))
    return sorted(rows, key=lambda row: (row["name"], row["id"]))


def domains_of(tx: Tx, user_id: str) -> list[Row]:
    """Every enabled domain on which a user has a role."""
    mine = _assignments_of(tx, user_id)
    ids = {row["target_id"] for row in mine if row["target"] == "domain" and not row["inherited"]}
    return sorted(tx.rows(DOMAIN, DOMAIN.c.enabled, id=ids), key=lambda row: str(row["name"]))


def has_system_role(tx: Tx, user_id: str) -> bool:
    return any(row["target"] == "system" for row in _assignments_of(tx, user_id))


def _assignments_of(tx: Tx, user_id: str) -> list[Row]:
    groups = sa.select(MEMBERSHIP.c.group_id).where(MEMBERSHIP.c.user_id == user_id)
    return tx.select(
        ASSIGNMENT.select().where(sa.or_(ASSIGNMENT.c.actor_id == user_id, ASSIGNMENT.c.actor_id.in_(groups)))
    )
