"""Compute services as clients know them: one ``nova-compute`` for each compute host, the control plane's two for each
controller. All are views of hosts."""

import uuid
from typing import Any

from trilith.compute.aggregates import AGGREGATE, zone_of
from trilith.compute.servers import SERVER, servers_on
from trilith.compute.takeovers import change_host, forget
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Flag, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.kernel.versions import v
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]
FORCED_SINCE, UUIDS_SINCE = v("2.11"), v("2.53")
OLD_UNTIL = v("2.52")
CONTROL = {"nova-conductor": 10_000, "nova-scheduler": 20_000}  # what tells their numbers from hosts'
ACTIONS = ("enable", "disable", "disable-log-reason", "force-down")


def compute_hosts(tx: Tx) -> list[Row]:
    return sorted((h for h in tx.rows(HOST) if "compute" in h["roles"]), key=lambda h: h["number"])


def all_services(ctx: Ctx) -> list[Row]:
    aggregates = ctx.tx.rows(AGGREGATE)
    found = []
    for host in sorted(ctx.tx.rows(HOST), key=lambda h: h["number"]):
        if "control" in host["roles"]:
            for binary, offset in CONTROL.items():
                key = str(uuid.uuid5(uuid.UUID(host["id"]), binary))
                own = {"id": key, "number": offset + host["number"], "binary": binary, "zone": "internal"}
                found.append(own | {"row": host | {"disabled": False, "forced_down": False}})
        if "compute" in host["roles"]:
            zone = zone_of(host, aggregates)
            own = {"id": host["id"], "number": host["number"], "binary": "nova-compute", "zone": zone}
            found.append(own | {"row": host})
    return found


def _view(ctx: Ctx, service: Row) -> Row:
    host = service["row"]
    view = {
        "id": service["id"] if ctx.at >= UUIDS_SINCE else service["number"],
        "binary": service["binary"],
        "host": host["name"],
        "zone": service["zone"],
        "status": "disabled" if host["disabled"] else "enabled",
        "state": "up" if is_up(host) else "down",
        "updated_at": host["updated_at"] or host["created_at"],
        "disabled_reason": host["disabled_reason"] if host["disabled"] else None,
    }
    return view | ({"forced_down": host["forced_down"]} if ctx.at >= FORCED_SINCE else {})


@COMPUTE.route("GET", "/os-services", "admin")
def list_services(ctx: Ctx) -> Row:
    unknown = ctx.query.keys() - {"host", "binary"}
    if unknown and ctx.at >= ctx.service.wire.strict_query_since:
        raise Fault("invalid", f"Additional properties are not allowed ('{sorted(unknown)[0]}' was unexpected)")
    views = [_view(ctx, service) for service in all_services(ctx)]
    for name in ("host", "binary"):
        if (wanted := ctx.one(name)) is not None:
            views = [view for view in views if view[name] == wanted]
    return {"services": views}


BY_NAME = Object(
    {
        "host": Member(Text(255, 1, r"[a-zA-Z0-9\-._]*"), required=True),
        "binary": Member(Text(255, 1), required=True),
        "disabled_reason": Member(Text(255, 1, r"\S(.*\S)?")),
        "forced_down": Member(Flag(), since=FORCED_SINCE),
    }
)


@COMPUTE.route("PUT", "/os-services/{action}", "admin", until=OLD_UNTIL, body=BY_NAME)
def change_by_name(ctx: Ctx) -> Row:
    action, body = ctx.path["action"], ctx.body
    if action not in ACTIONS or (action == "force-down" and ctx.at < FORCED_SINCE):
        raise Fault("missing", f"Unknown action: {action}")
    host = ctx.tx.one(HOST, name=body["host"])
    if host is None or body["binary"] != "nova-compute" or "compute" not in host["roles"]:
        raise Fault("missing", f"Could not find binary {body['binary']} on host {body['host']}.")
    view: Row = {"binary": body["binary"], "host": host["name"]}
    if action == "force-down":
        if "forced_down" not in body:
            raise Fault("invalid", "Missing forced_down field")
        change_host(ctx.tx, host, forced_down=body["forced_down"])
        return {"service": view | {"forced_down": body["forced_down"]}}
    reason = body.get("disabled_reason")
    if action == "disable-log-reason" and reason is None:
        raise Fault("invalid", "Missing disabled reason field")
    disabled = action != "enable"
    change_host(ctx.tx, host, disabled=disabled, disabled_reason=reason if action == "disable-log-reason" else None)
    view["status"] = "disabled" if disabled else "enabled"
    return {"service": view | ({"disabled_reason": reason} if action == "disable-log-reason" else {})}


BY_ID = Object(
    {
        "status": Member(Choice(("enabled", "disabled"))),
        "disabled_reason": Member(Text(255, 1, r"\S(.*\S)?")),
        "forced_down": Member(Flag()),
    }
)


@COMPUTE.route("PUT", "/os-services/{service_id}", "admin", since=UUIDS_SINCE, body=BY_ID)
def change(ctx: Ctx) -> Row:
    body = ctx.body
    if not body:
        raise Fault("invalid", "No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    if "disabled_reason" in body and body.get("status") != "disabled":
        raise Fault("invalid", "Specifying disabled_reason requires the status to be disabled.")
    service = _compute_service(ctx)
    changes: Row = {}
    if "status" in body:
        disabled = body["status"] == "disabled"
        changes = {"disabled": disabled, "disabled_reason": body.get("disabled_reason") if disabled else None}
    if "forced_down" in body:
        changes["forced_down"] = body["forced_down"]
    service["row"] = change_host(ctx.tx, service["row"], **changes)
    return {"service": _view(ctx, service)}


def _compute_service(ctx: Ctx) -> Row:
    key = ctx.path["service_id"]
    name = "id" if ctx.at >= UUIDS_SINCE else "number"
    service = next((each for each in all_services(ctx) if str(each[name]) == key), None)
    if service is None:
        raise Fault("missing", f"Service {key} could not be found.")
    if service["binary"] != "nova-compute":
        raise Fault("invalid", f"Updating a {service['binary']} service is not supported. Only nova-compute is.")
    return service


@COMPUTE.route("DELETE", "/os-services/{service_id}", "admin", status=204)
def delete(ctx: Ctx) -> None:
    """Forgets a host that is down and holds nothing."""
    host = _compute_service(ctx)["row"]
    if servers_on(ctx.tx, [host["name"]]) or ctx.tx.count(SERVER, peer=host["name"], deleted_at=None):
        raise Fault(
            "conflict", "Unable to delete compute service that is hosting instances. Move or delete them first."
        )
    if is_up(host):
        raise Fault("conflict", f"Host {host['name']} is up: stop its agent first.")
    for aggregate in ctx.tx.rows(AGGREGATE):
        if host["name"] in aggregate["hosts"]:
            ctx.tx.update(AGGREGATE, aggregate, hosts=[name for name in aggregate["hosts"] if name != host["name"]])
    forget(ctx.tx, host["name"])
    ctx.tx.delete(HOST, host)
