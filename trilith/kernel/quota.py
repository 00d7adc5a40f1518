"""Quotas: limits are stored, usage is counted, never stored. -1 means no limit.

A limit is a project's own, else the default that an operator set for all (project ``default``), else the declared
one.
"""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.statements import kept
from trilith.kernel.store import METADATA, Tx

if TYPE_CHECKING:
    from trilith.kernel.declare import Service

LIMITS = sa.Table(
    "quota_limits",
    METADATA,
    sa.Column("project_id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(32), primary_key=True),
    sa.Column("resource", sa.String(64), primary_key=True),
    sa.Column("hard_limit", sa.BigInteger(), nullable=False),
)
DEFAULT = "default"
OF_PROJECT = kept(
    sa.select(LIMITS).where(
        LIMITS.c.service == sa.bindparam("service"), LIMITS.c.project_id.in_(sa.bindparam("projects", expanding=True))
    )
)


def limits(tx: Tx, service: "Service", project_id: str) -> dict[str, int]:
    """Every limit of a project in this service."""
    found = tx.select(OF_PROJECT, service=service.name, projects=[project_id, DEFAULT])
    stored = {(row["project_id"], row["resource"]): row["hard_limit"] for row in found}
    return {
        name: stored.get((project_id, name), stored.get((DEFAULT, name), quota.default))
        for name, quota in service.quotas.items()
    }


def used(tx: Tx, service: "Service", project_id: str, name: str) -> int:
    quota = service.quotas[name]
    if quota.count:
        return quota.count(tx, project_id)
    noun = next(noun for noun in service.nouns if noun.quota is quota)
    return tx.count(noun, **{noun.owner or "project_id": project_id})


def usage(tx: Tx, service: "Service", project_id: str) -> dict[str, int]:
    return {name: used(tx, service, project_id, name) for name in service.quotas}


def check(tx: Tx, service: "Service", project_id: str, **asked: int) -> None:
    """403/409/413 (as the service says) when any of the asked amounts does not fit any more."""
    have = limits(tx, service, project_id)
    for name, amount in asked.items():
        limit = have[name]
        if limit < 0 or amount <= 0:
            continue
        now_used = used(tx, service, project_id, name)
        if now_used + amount > limit:
            raise Fault(
                "over_quota",
                f"Quota exceeded for {name}: asked {amount}, used {now_used} of {limit}.",
                "OverQuota",
                resource=name,
            )


def set_limit(tx: Tx, service: "Service", project_id: str, name: str, limit: int) -> None:
    where = (LIMITS.c.project_id == project_id, LIMITS.c.service == service.name, LIMITS.c.resource == name)
    if tx.execute(LIMITS.update().where(*where).values(hard_limit=limit)).rowcount == 0:
        tx.execute(LIMITS.insert().values(project_id=project_id, service=service.name, resource=name, hard_limit=limit))


def reset(tx: Tx, service: "Service", project_id: str) -> None:
    """The project has the defaults again."""
    tx.execute(LIMITS.delete().where(LIMITS.c.project_id == project_id, LIMITS.c.service == service.name))
