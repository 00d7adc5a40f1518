"""The volume service's parts as operators see them: one ``cinder-volume`` for each storage host."""

from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.placement.hosts import HOST, is_up
from trilith.volume.backends import BACKEND, seen_at, storage_hosts
from trilith.volume.versions import VOLUMES

Row = dict[str, Any]
BINARY = "cinder-volume"


@VOLUMES.route("GET", "/os-services", "admin")
def list_services(ctx: Ctx) -> Row:
    found = []
    for host in storage_hosts(ctx) if ctx.one("binary", BINARY) == BINARY else []:
        name = f"{host['name']}@{BACKEND}"
        if ctx.one("host", name) in (name, host["name"]):
            found.append(
                {
                    "binary": BINARY,
                    "host": name,
                    "zone": host["availability_zone"],
                    "status": "disabled" if host["storage_disabled"] else "enabled",
                    "state": "up" if is_up(host) else "down",
                    "disabled_reason": host["storage_disabled_reason"],
                    "updated_at": seen_at(host),
                }
            )
    return {"services": found}


ACTIONS = ("enable", "disable", "disable-log-reason")
CHANGE = Object(
    {
        "host": Member(Text(255, 1), required=True),
        "binary": Member(Text(255, 1)),
        "service": Member(Text(255, 1)),  # its older name
        "disabled_reason": Member(Text(255, 1, strip=True)),
    }
)


@VOLUMES.route("PUT", "/os-services/{action}", "admin", body=CHANGE)
def change(ctx: Ctx) -> Row:
    """A disabled host gets no new volumes; those that it has stay as they are."""
    action, body = ctx.path["action"], ctx.body
    if action not in ACTIONS:
        raise Fault("missing", f"Unknown action: {action}")
    reason = body.get("disabled_reason")
    if action == "disable-log-reason" and not reason:
        raise Fault("invalid", "Invalid input received: 'disabled_reason' is a required property")
    binary = body.get("binary") or body.get("service")
    host = next((h for h in storage_hosts(ctx) if body["host"] in (h["name"], f"{h['name']}@{BACKEND}")), None)
    if host is None or binary != BINARY:
        raise Fault("missing", f"Service {binary} on host {body['host']} could not be found.")
    disabled = action != "enable"
    why = reason if action == "disable-log-reason" else None
    ctx.tx.update(HOST, host, storage_disabled=disabled, storage_disabled_reason=why)
    view = {"host": body["host"], "service": binary, "binary": binary, "disabled": disabled}
    view["status"] = "disabled" if disabled else "enabled"
    return view | ({"disabled_reason": why} if why else {})
