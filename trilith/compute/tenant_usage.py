"""What projects have used in a time: hours of servers, cores, memory and disk."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import now, to_utc
from trilith.kernel.paging import number
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.versions import v

Row = dict[str, Any]
PAGED_SINCE = v("2.40")
HOUR_S = 3600.0


def _span(ctx: Ctx) -> tuple[datetime, datetime]:
    """The asked time; by default the last four weeks."""
    try:
        end = datetime.fromisoformat(to_utc(ctx.one("end") or now()))
        start = datetime.fromisoformat(to_utc(ctx.one("start") or (end - timedelta(days=28)).isoformat()))
    except ValueError:
        raise Fault("invalid", "Invalid datetime string: start and end must be ISO 8601 times.") from None
    if end < start:
        raise Fault("invalid", "Invalid start time. The start time cannot occur after the end time.")
    return start, end


def _servers(ctx: Ctx, start: datetime, end: datetime, project_id: str | None) -> list[Row]:
    where = [
        SERVER.c.launched_at.is_not(None),
        SERVER.c.launched_at < end.isoformat(timespec="microseconds"),
        sa.or_(SERVER.c.terminated_at.is_(None), SERVER.c.terminated_at > start.isoformat(timespec="microseconds")),
    ]
    if project_id is not None:
        where.append(SERVER.c.project_id == project_id)
    return sorted(ctx.tx.rows(SERVER, *where), key=lambda row: (row["launched_at"], row["id"]))


def _server_usage(row: Row, start: datetime, end: datetime) -> Row:
    began = datetime.fromisoformat(row["launched_at"])
    ended = datetime.fromisoformat(row["terminated_at"]) if row["terminated_at"] else None
    used_s = (min(ended or end, end) - max(began, start)).total_seconds()
    uptime_s = ((ended or datetime.fromisoformat(now())) - began).total_seconds()
    return {
        "instance_id": row["id"],
        "name": row["name"],
        "hours": max(0.0, used_s) / HOUR_S,
        "flavor": row["flavor"]["name"],
        "vcpus": row["vcpus"],
        "memory_mb": row["ram_mib"],
        "local_gb": row["disk_gib"],
        "tenant_id": row["project_id"],
        "started_at": row["launched_at"],
        "ended_at": row["terminated_at"],
        "state": "terminated" if ended else row["vm_state"],
        "uptime": int(uptime_s),
    }


def _project_usage(project_id: str, usages: list[Row], start: datetime, end: datetime, detailed: bool) -> Row:
    found = {
        "tenant_id": project_id,
        "start": start.isoformat(timespec="microseconds"),
        "stop": end.isoformat(timespec="microseconds"),
        "total_hours": sum(u["hours"] for u in usages),
        "total_vcpus_usage": sum(u["hours"] * u["vcpus"] for u in usages),
        "total_memory_mb_usage": sum(u["hours"] * u["memory_mb"] for u in usages),
        "total_local_gb_usage": sum(u["hours"] * u["local_gb"] for u in usages),
    }
    return found | ({"server_usages": usages} if detailed else {})


def _paged(ctx: Ctx, usages: list[Row]) -> tuple[list[Row], list[Row]]:
    """One page of servers' usages, and the link to the next."""
    if ctx.at < PAGED_SINCE:
        return usages, []
    if (marker := ctx.one("marker")) is not None:
        keys = [u["instance_id"] for u in usages]
        if marker not in keys:
            raise Fault("invalid", f"marker [{marker}] not found")
        usages = usages[keys.index(marker) + 1 :]
    limit = number(ctx.one("limit"), "limit")
    if limit is None or len(usages) <= limit or not limit:
        return usages, []
    href = ctx.service.wire.page_url(ctx, marker=usages[limit - 1]["instance_id"])
    return usages[:limit], [{"rel": "next", "href": href}]


@COMPUTE.route("GET", "/os-simple-tenant-usage", "admin")
def list_usage(ctx: Ctx) -> Row:
    start, end = _span(ctx)
    usages, next_link = _paged(ctx, [_server_usage(row, start, end) for row in _servers(ctx, start, end, None)])
    projects = list(dict.fromkeys(u["tenant_id"] for u in usages))
    detailed = ctx.one("detailed", "0") == "1"
    body: Row = {
        "tenant_usages": [
            _project_usage(p, [u for u in usages if u["tenant_id"] == p], start, end, detailed) for p in projects
        ]
    }
    return body | ({"tenant_usages_links": next_link} if next_link else {})


@COMPUTE.route("GET", "/os-simple-tenant-usage/{project_id}", "reader")
def show_usage(ctx: Ctx) -> Row:
    project_id = ctx.path["project_id"]
    if project_id != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("os_compute_api:os-simple-tenant-usage:show")
    start, end = _span(ctx)
    usages, next_link = _paged(ctx, [_server_usage(row, start, end) for row in _servers(ctx, start, end, project_id)])
    body: Row = {"tenant_usage": _project_usage(project_id, usages, start, end, True) if usages else {}}
    return body | ({"tenant_usage_links": next_link} if next_link else {})
