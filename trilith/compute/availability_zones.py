"""Availability zones: derived from hosts and aggregates."""

from typing import Any

from trilith.compute.aggregates import AGGREGATE, zone_of
from trilith.compute.versions import COMPUTE
from trilith.kernel.request import Ctx
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]


def _zones(ctx: Ctx) -> dict[str, list[Row]]:
    aggregates = ctx.tx.rows(AGGREGATE)
    found: dict[str, list[Row]] = {}
    for host in ctx.tx.rows(HOST):
        if "compute" in host["roles"]:
            found.setdefault(zone_of(host, aggregates), []).append(host)
    return found


@COMPUTE.route("GET", "/os-availability-zone", "reader")
def list_zones(ctx: Ctx) -> Row:
    zones = [
        {"zoneName": name, "zoneState": {"available": any(not h["disabled"] for h in hosts)}, "hosts": None}
        for name, hosts in sorted(_zones(ctx).items())
    ]
    return {"availabilityZoneInfo": zones}


@COMPUTE.route("GET", "/os-availability-zone/detail", "admin")
def list_zones_with_hosts(ctx: Ctx) -> Row:
    zones = []
    for name, hosts in sorted(_zones(ctx).items()):
        services = {h["name"]: {"nova-compute": _state(h)} for h in hosts}
        available = any(not h["disabled"] for h in hosts)
        zones.append({"zoneName": name, "zoneState": {"available": available}, "hosts": services})
    control = [h for h in ctx.tx.rows(HOST) if "control" in h["roles"]]
    if control:
        services = {h["name"]: {"nova-conductor": _state(h), "nova-scheduler": _state(h)} for h in control}
        zones.insert(0, {"zoneName": "internal", "zoneState": {"available": True}, "hosts": services})
    return {"availabilityZoneInfo": zones}


def _state(host: Row) -> Row:
    return {"active": not host["disabled"], "available": is_up(host), "updated_at": host["updated_at"]}
