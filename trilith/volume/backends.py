"""Where volumes lie, as operators see it: pools with their capacity, storage hosts, what a backend can do."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag
from trilith.kernel.request import Ctx
from trilith.placement.hosts import HOST, is_up
from trilith.volume.shared_storage import BACKEND as CEPH
from trilith.volume.shared_storage import shared_storage
from trilith.volume.snapshots import SNAPSHOT
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME

Row = dict[str, Any]
VENDOR = "Open Source"
BACKEND = "files"
DRIVER = {"vendor_name": VENDOR, "volume_backend_name": BACKEND, "storage_protocol": "file", "driver_version": "1.0"}


def storage_hosts(ctx: Ctx) -> list[Row]:
    return [host for host in ctx.tx.rows(HOST) if "storage" in host["roles"]]


def seen_at(host: Row) -> str:
    moment = datetime.fromtimestamp(host["seen_at_s"] or 0, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds")


def _host(ctx: Ctx, name: str) -> Row:
    """The storage host of a name, a backend's name (host@backend) or a pool's (host@backend#pool)."""
    found = [host for host in storage_hosts(ctx) if host["name"] == name.partition("@")[0]]
    if not found:
        raise Fault("missing", f"Host {name} could not be found.")
    return found[0]


@VOLUMES.route("GET", "/scheduler-stats/get_pools", "admin")
def pools(ctx: Ctx) -> Row:
    detail = Flag().from_query(str(ctx.one("detail", "false")), "detail")
    if (shared := shared_storage(ctx.tx)) is not None:
        return {"pools": [_shared_pool(ctx, shared, detail)]}
    found = []
    for host in storage_hosts(ctx):
        pool: Row = {"name": f"{host['name']}@{BACKEND}#{BACKEND}"}
        if detail:
            disk = host["inventory"]
            pool["capabilities"] = DRIVER | {
                "total_capacity_gb": disk.get("disk_gib", "unknown"),
                "free_capacity_gb": disk.get("disk_free_gib", "unknown"),
                "allocated_capacity_gb": _sum(ctx, VOLUME.c.size_gib, VOLUME.c.host == host["name"]),
                "reserved_percentage": 0,
                "QoS_support": False,
                "multiattach": False,
                "thin_provisioning_support": True,
                "timestamp": seen_at(host),
            }
        found.append(pool)
    return {"pools": found}


def _shared_pool(ctx: Ctx, shared: Row, detail: bool) -> Row:
    pool: Row = {"name": f"{CEPH}@{CEPH}#{shared['volumes_pool']}"}
    if detail:
        pool["capabilities"] = DRIVER | {
            "volume_backend_name": CEPH,
            "storage_protocol": "ceph",
            "total_capacity_gb": shared["total_gib"],
            "free_capacity_gb": shared["free_gib"],
            "allocated_capacity_gb": _sum(ctx, VOLUME.c.size_gib, VOLUME.c.pool == shared["volumes_pool"]),
            "reserved_percentage": 0,
            "QoS_support": False,
            "multiattach": True,
            "thin_provisioning_support": True,
            "timestamp": seen_at(shared),
        }
    return pool


@VOLUMES.route("GET", "/capabilities/{host}", "admin")
def capabilities(ctx: Ctx) -> Row:
    host = _host(ctx, ctx.path["host"])
    return DRIVER | {
        "namespace": f"OS::Storage::Capabilities::{host['name']}@{BACKEND}",
        "pool_name": BACKEND,
        "description": None,
        "display_name": None,
        "visibility": None,
        "properties": {},
        "replication_targets": [],
    }


@VOLUMES.route("GET", "/os-hosts", "admin")
def hosts(ctx: Ctx) -> Row:
    """Each host by the parts of the volume service that run on it."""
    found = []
    for host in ctx.tx.rows(HOST):
        parts = {
            "control": ("cinder-scheduler", host["name"]),
            "storage": ("cinder-volume", f"{host['name']}@{BACKEND}"),
        }
        for role, (service, name) in parts.items():
            if role not in host["roles"]:
                continue
            shown = {
                "host_name": name,
                "service": service,
                "zone": host["availability_zone"],
                "service-status": "available" if is_up(host) else "unavailable",
                "service-state": "disabled" if role == "storage" and host["storage_disabled"] else "enabled",
                "last-update": seen_at(host),
            }
            found.append(shown)
    return {"hosts": found}


@VOLUMES.route("GET", "/os-hosts/{host}", "admin")
def usage(ctx: Ctx) -> Row:
    """How much of it which project uses."""
    host = _host(ctx, ctx.path["host"])
    mine = VOLUME.c.host == host["name"]
    projects = ctx.tx.select(sa.select(VOLUME.c.project_id).where(mine).distinct())
    shown = [_usage(ctx, host, "(total)", mine)]
    shown += [_usage(ctx, host, p["project_id"], mine & (VOLUME.c.project_id == p["project_id"])) for p in projects]
    return {"host": [{"resource": each} for each in shown]}


def _usage(ctx: Ctx, host: Row, project: str, where: sa.ColumnElement[bool]) -> Row:
    snapshots = SNAPSHOT.c.volume_id.in_(sa.select(VOLUME.c.id).where(where))
    return {
        "host": f"{host['name']}@{BACKEND}",
        "project": project,
        "volume_count": str(ctx.tx.scalar(sa.select(sa.func.count()).select_from(VOLUME.table).where(where))),
        "total_volume_gb": str(_sum(ctx, VOLUME.c.size_gib, where)),
        "snapshot_count": str(ctx.tx.scalar(sa.select(sa.func.count()).select_from(SNAPSHOT.table).where(snapshots))),
        "total_snapshot_gb": str(_sum(ctx, SNAPSHOT.c.volume_size_gib, snapshots)),
    }


def _sum(ctx: Ctx, column: Any, where: sa.ColumnElement[bool]) -> int:
    return int(ctx.tx.scalar(sa.select(sa.func.coalesce(sa.func.sum(column), 0)).where(where)))
