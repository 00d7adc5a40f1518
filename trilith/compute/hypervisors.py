"""Hypervisors: compute hosts with what they have and what is claimed of it."""

import time
from typing import Any

from msgspec.json import encode

from trilith.compute.scheduler import usage
from trilith.compute.servers import servers_on
from trilith.compute.services import compute_hosts
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag
from trilith.kernel.paging import number
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.placement.hosts import is_up

Row = dict[str, Any]
OBJECT_CPU_SINCE, PAGED_SINCE, UUIDS_SINCE = v("2.28"), v("2.33"), v("2.53")
EMPTY_SERVERS_SINCE, NO_STATISTICS_SINCE = v("2.75"), v("2.88")


def _brief(ctx: Ctx, host: Row) -> Row:
    return {
        "id": host["id"] if ctx.at >= UUIDS_SINCE else host["number"],
        "hypervisor_hostname": host["name"],
        "state": "up" if is_up(host) else "down",
        "status": "disabled" if host["disabled"] else "enabled",
    }


def _amounts(host: Row, used: Row) -> Row:
    has = host["inventory"]
    vcpus, ram_mib, disk_gib = has.get("vcpus", 0), has.get("ram_mib", 0), has.get("disk_gib", 0)
    return {
        "vcpus": vcpus,
        "vcpus_used": used.get("vcpus", 0),
        "memory_mb": ram_mib,
        "memory_mb_used": used.get("ram_mib", 0),
        "free_ram_mb": ram_mib - used.get("ram_mib", 0),
        "local_gb": disk_gib,
        "local_gb_used": used.get("disk_gib", 0),
        "free_disk_gb": disk_gib - used.get("disk_gib", 0),
        "disk_available_least": has.get("disk_free_gib", disk_gib - used.get("disk_gib", 0)),
        "running_vms": used.get("servers", 0),
        "current_workload": 0,
    }


def _detailed(ctx: Ctx, host: Row, used: Row) -> Row:
    view = _brief(ctx, host) | {
        "hypervisor_type": "QEMU",
        "hypervisor_version": _version(host["versions"].get("qemu", "")),
        "host_ip": host["inventory"].get("host_ip", "127.0.0.1"),
        "service": {
            "id": host["id"] if ctx.at >= UUIDS_SINCE else host["number"],
            "host": host["name"],
            "disabled_reason": host["disabled_reason"] if host["disabled"] else None,
        },
    }
    if ctx.at >= NO_STATISTICS_SINCE:
        return view | {"uptime": _uptime(host)}
    cpu: Any = host["inventory"].get("cpu_info", {})
    return view | _amounts(host, used) | {"cpu_info": cpu if ctx.at >= OBJECT_CPU_SINCE else encode(cpu).decode()}


def _version(text: str) -> int:
    """``"7.2.1"`` as 7002001."""
    parts = [int(part) if part.isdigit() else 0 for part in [*text.split("."), "0", "0", "0"][:3]]
    return parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]


def _uptime(host: Row) -> str | None:
    """As ``uptime`` prints it, as far as the host tells."""
    booted_s = host["inventory"].get("booted_at_s")
    if booted_s is None or not is_up(host):
        return None
    up_s = max(0, int(time.time() - booted_s))
    return f" {time.strftime('%H:%M:%S')} up {up_s // 86400} days, {up_s // 3600 % 24:2d}:{up_s // 60 % 60:02d}"


def _with_servers(ctx: Ctx, views: list[Row]) -> list[Row]:
    rows = servers_on(ctx.tx, [view["hypervisor_hostname"] for view in views])
    for view in views:
        here = [
            {"name": f"instance-{r['number']:08x}", "uuid": r["id"]}
            for r in rows
            if r["host"] == view["hypervisor_hostname"]
        ]
        if here or ctx.at >= EMPTY_SERVERS_SINCE:
            view["servers"] = here
    return views


def _listed(ctx: Ctx, detailed: bool) -> Row:
    hosts, pattern = compute_hosts(ctx.tx), None
    if ctx.at >= UUIDS_SINCE and (pattern := ctx.one("hypervisor_hostname_pattern")) is not None:
        if "limit" in ctx.query or "marker" in ctx.query:
            raise Fault("invalid", "Paging over hypervisors with the hypervisor_hostname_pattern is not supported.")
        hosts = [host for host in hosts if pattern in host["name"]]
        if not hosts:
            raise Fault("missing", f"No hypervisor matching '{pattern}' could be found.")
    more, hosts = _page(ctx, hosts)
    used = usage(ctx.tx) if detailed else {}
    views = [_detailed(ctx, h, used.get(h["name"], {})) if detailed else _brief(ctx, h) for h in hosts]
    if ctx.at >= UUIDS_SINCE and Flag().from_query(ctx.one("with_servers") or "false", "with_servers"):
        views = _with_servers(ctx, views)
    body: Row = {"hypervisors": views}
    if more and views:
        href = ctx.service.wire.page_url(ctx, marker=views[-1]["id"])
        body["hypervisors_links"] = [{"rel": "next", "href": href}]
    return body


def _page(ctx: Ctx, hosts: list[Row]) -> tuple[bool, list[Row]]:
    if ctx.at < PAGED_SINCE:
        return False, hosts
    if (marker := ctx.one("marker")) is not None:
        keys = [str(host["id"] if ctx.at >= UUIDS_SINCE else host["number"]) for host in hosts]
        if marker not in keys:
            raise Fault("invalid", f"marker [{marker}] not found")
        hosts = hosts[keys.index(marker) + 1 :]
    limit = number(ctx.one("limit"), "limit")
    return (limit is not None and len(hosts) > limit), hosts[:limit]


@COMPUTE.route("GET", "/os-hypervisors", "admin")
def list_hypervisors(ctx: Ctx) -> Row:
    return _listed(ctx, detailed=False)


@COMPUTE.route("GET", "/os-hypervisors/detail", "admin")
def list_detailed(ctx: Ctx) -> Row:
    return _listed(ctx, detailed=True)


@COMPUTE.route("GET", "/os-hypervisors/statistics", "admin", until=v("2.87"))
def statistics(ctx: Ctx) -> Row:
    hosts, used = [h for h in compute_hosts(ctx.tx) if is_up(h)], usage(ctx.tx)
    total: Row = dict.fromkeys(_amounts({"inventory": {}}, {}), 0)
    for host in hosts:
        for name, amount in _amounts(host, used.get(host["name"], {})).items():
            total[name] += amount
    return {"hypervisor_statistics": {"count": len(hosts)} | total}


def _host(ctx: Ctx) -> Row:
    key = ctx.path["hypervisor_id"]
    name = "id" if ctx.at >= UUIDS_SINCE else "number"
    for host in compute_hosts(ctx.tx):
        if str(host[name]) == key:
            return host
    raise Fault("missing", f"Hypervisor with ID '{key}' could not be found.")


@COMPUTE.route("GET", "/os-hypervisors/{hypervisor_id}", "admin")
def show(ctx: Ctx) -> Row:
    host = _host(ctx)
    view = _detailed(ctx, host, usage(ctx.tx, hosts=[host["name"]]).get(host["name"], {}))
    if ctx.at >= UUIDS_SINCE and Flag().from_query(ctx.one("with_servers") or "false", "with_servers"):
        _with_servers(ctx, [view])
    return {"hypervisor": view}


@COMPUTE.route("GET", "/os-hypervisors/{hypervisor_id}/uptime", "admin", until=v("2.87"))
def uptime(ctx: Ctx) -> Row:
    host = _host(ctx)
    found = _uptime(host)
    if found is None:
        raise Fault("invalid", f"Compute service of {host['name']} is unavailable at this time.")
    return {"hypervisor": _brief(ctx, host) | {"uptime": found}}


def _matching(ctx: Ctx) -> list[Row]:
    pattern = ctx.path["hypervisor_id"]
    hosts = [host for host in compute_hosts(ctx.tx) if pattern in host["name"]]
    if not hosts:
        raise Fault("missing", f"No hypervisor matching '{pattern}' could be found.")
    return [_brief(ctx, host) for host in hosts]


@COMPUTE.route("GET", "/os-hypervisors/{hypervisor_id}/search", "admin", until=v("2.52"))
def search(ctx: Ctx) -> Row:
    return {"hypervisors": _matching(ctx)}


@COMPUTE.route("GET", "/os-hypervisors/{hypervisor_id}/servers", "admin", until=v("2.52"))
def list_servers(ctx: Ctx) -> Row:
    return {"hypervisors": _with_servers(ctx, _matching(ctx))}
