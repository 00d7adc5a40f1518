"""Quotas of each volume type: ``volumes_TYPE``, ``snapshots_TYPE``, ``gigabytes_TYPE``; no limit unless one is set.

A limit is kept under the type's id, so that it stays when the type is renamed.
"""

import sqlalchemy as sa

from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.store import Tx
from trilith.volume.types import TYPE
from trilith.volume.versions import VOLUMES

KINDS = ("volumes", "snapshots", "gigabytes")


def limits(tx: Tx, project_id: str) -> dict[str, int]:
    """Every limit of a project, the service's own first."""
    stored, found = _stored(tx, project_id), quota.limits(tx, VOLUMES, project_id)
    for row in tx.rows(TYPE):
        found |= {f"{kind}_{row['name']}": stored.get(f"{kind}_{row['id']}", -1) for kind in KINDS}
    return found


def usage(tx: Tx, project_id: str) -> dict[str, int]:
    """What a project has, under the names that `limits` has."""
    found = quota.usage(tx, VOLUMES, project_id)
    for row in tx.rows(TYPE):
        found |= {f"{kind}_{row['name']}": amount for kind, amount in _used(tx, project_id, row["id"]).items()}
    return found


def check(tx: Tx, project_id: str, type_id: str, **asked: int) -> None:
    """413 when any of the asked amounts, by kind, does not fit into the type's limits any more."""
    stored = _stored(tx, project_id)
    limited = {kind: stored[f"{kind}_{type_id}"] for kind in asked if stored.get(f"{kind}_{type_id}", -1) >= 0}
    used = _used(tx, project_id, type_id) if limited else {}
    for kind, limit in limited.items():
        if asked[kind] > 0 and used[kind] + asked[kind] > limit:
            name = f"{kind}_{tx.get(TYPE, type_id)['name']}"
            message = f"Quota exceeded for {name}: asked {asked[kind]}, used {used[kind]} of {limit}."
            raise Fault("over_quota", message, "OverQuota", resource=name)


def resource(tx: Tx, name: str) -> str | None:
    """What a limit of that name is kept as; None where there is no such quota."""
    if name in VOLUMES.quotas:
        return name
    kind, _, type_name = name.partition("_")
    row = tx.one(TYPE, name=type_name) if kind in KINDS else None
    return None if row is None else f"{kind}_{row['id']}"


def forget(tx: Tx, type_id: str) -> None:
    """The type is gone."""
    names = [f"{kind}_{type_id}" for kind in KINDS]
    tx.execute(quota.LIMITS.delete().where(quota.LIMITS.c.service == VOLUMES.name, quota.LIMITS.c.resource.in_(names)))


def _stored(tx: Tx, project_id: str) -> dict[str, int]:
    """Limits that were set: a project's own, else those for all."""
    rows = tx.select(quota.OF_PROJECT, service=VOLUMES.name, projects=[project_id, quota.DEFAULT])
    rows = sorted(rows, key=lambda row: row["project_id"] == project_id)
    return {row["resource"]: row["hard_limit"] for row in rows}


def _used(tx: Tx, project_id: str, type_id: str) -> dict[str, int]:
    from trilith.volume.snapshots import SNAPSHOT
    from trilith.volume.volumes import VOLUME

    of_type = VOLUME.c.type_id == type_id
    volumes = _sums(VOLUME.c.size_gib).where(of_type, VOLUME.c.project_id == project_id)
    snapshots = _sums(SNAPSHOT.c.volume_size_gib).where(
        of_type, SNAPSHOT.c.volume_id == VOLUME.c.id, SNAPSHOT.c.project_id == project_id
    )
    (count, gib), (copies, copies_gib) = (tuple(tx.execute(each).one()) for each in (volumes, snapshots))
    return {"volumes": count, "snapshots": copies, "gigabytes": int(gib) + int(copies_gib)}


def _sums(size_gib: sa.ColumnElement[int]) -> sa.Select[int, int]:
    return sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(size_gib), 0))
