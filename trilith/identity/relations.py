"""What joins the nouns: who is in a group, who has a role where, which role implies which. Rows without a life of
their own: they are there or not, adding twice is adding once."""

from typing import Any

import sqlalchemy as sa

from trilith.identity.remembered import STAMPED
from trilith.kernel.store import METADATA, Tx

SYSTEM = "system"  # the target of a role on the whole system


def _id(name: str, index: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), primary_key=True, index=index)


MEMBERSHIP = sa.Table("identity_memberships", METADATA, _id("user_id"), _id("group_id", index=True), info=STAMPED)

ASSIGNMENT = sa.Table(
    "identity_role_assignments",
    METADATA,
    _id("actor_id"),
    _id("target_id", index=True),
    _id("role_id", index=True),
    sa.Column("inherited", sa.Boolean(), primary_key=True),  # meant for the projects below the target
    sa.Column("actor", sa.String(8), nullable=False),  # user | group
    sa.Column("target", sa.String(8), nullable=False),  # project | domain | system
    info=STAMPED,
)

IMPLICATION = sa.Table(
    "identity_role_implications", METADATA, _id("prior_role_id"), _id("implied_role_id"), info=STAMPED
)


REVOKED = sa.Table(
    "identity_revoked_tokens",
    METADATA,
    _id("audit_id"),
    sa.Column("expires_us", sa.BigInteger(), index=True),
    info=STAMPED,
)


def where(table: sa.Table, equals: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in equals.items()]


def found(tx: Tx, table: sa.Table, **equals: Any) -> list[dict[str, Any]]:
    return tx.select(table.select().where(*where(table, equals)))


def forget(tx: Tx, table: sa.Table, **equals: Any) -> int:
    """Returns how many there were."""
    return tx.execute(table.delete().where(*where(table, equals))).rowcount


def add(tx: Tx, table: sa.Table, **row: Any) -> bool:
    """Returns whether it is new."""
    key = {column.name: row[column.name] for column in table.primary_key}
    if found(tx, table, **key):
        return False
    forget(tx, table, **key)  # locks the gap, so that two writers of the same row meet here and one runs again
    tx.execute(table.insert().values(row))
    return True
