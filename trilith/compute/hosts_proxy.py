"""Hosts as operators saw them until 2.43: who runs what, how much of each is used, out of service and back."""

from typing import Any, NoReturn

import sqlalchemy as sa

from trilith.compute.scheduler import usage
from trilith.compute.servers import SERVER
from trilith.compute.services import all_services, compute_hosts
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Member, Object
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.placement.hosts import HOST

Row = dict[str, Any]
UNTIL = v("2.42")


@COMPUTE.route("GET", "/os-hosts", "admin", until=UNTIL)
def list_hosts(ctx: Ctx) -> Row:
    zone = ctx.one("zone") or None
    found = [
        {"host_name": each["row"]["name"], "service": each["binary"].removeprefix("nova-"), "zone": each["zone"]}
        for each in all_services(ctx)
        if zone in (None, each["zone"])
    ]
    return {"hosts": found}


def _host(ctx: Ctx) -> Row:
    found = next((host for host in compute_hosts(ctx.tx) if host["name"] == ctx.path["host_name"]), None)
    if found is None:
        raise Fault("missing", f"Compute host {ctx.path['host_name']} could not be found.")
    return found


@COMPUTE.route("GET", "/os-hosts/{host_name}", "admin", until=UNTIL)
def show_host(ctx: Ctx) -> Row:
    """What it has, what is used, and by which project."""
    host = _host(ctx)
    has = host["inventory"]
    used = usage(ctx.tx, hosts=[host["name"]]).get(host["name"], {})
    amounts = [("(total)", has), ("(used_now)", used), ("(used_max)", used)]
    query = sa.select(SERVER.c.project_id, SERVER.c.claim).where(
        SERVER.c.host == host["name"], SERVER.c.deleted_at.is_(None)
    )
    projects: dict[str, Row] = {}
    for row in ctx.tx.select(query):
        own = projects.setdefault(row["project_id"], {})
        for name, amount in (row["claim"] or {}).items():
            own[name] = own.get(name, 0) + amount
    resources = [
        {
            "host": host["name"],
            "project": project,
            "cpu": amount.get("vcpus", 0),
            "memory_mb": amount.get("ram_mib", 0),
            "disk_gb": amount.get("disk_gib", 0),
        }
        for project, amount in [*amounts, *projects.items()]
    ]
    return {"host": [{"resource": resource} for resource in resources]}


ON = Choice(("enable", "disable"), lower=True)
CHANGE = Object({"status": Member(ON, null=True), "maintenance_mode": Member(ON, null=True)})


@COMPUTE.route("PUT", "/os-hosts/{host_name}", "admin", until=UNTIL, body=CHANGE)
def change_host(ctx: Ctx) -> Row:
    status = ctx.body.get("status")
    if status is None and ctx.body.get("maintenance_mode") is None:
        raise Fault("invalid", "Invalid update: give status or maintenance_mode.")
    host = _host(ctx)
    if ctx.body.get("maintenance_mode") is not None:
        raise Fault("invalid", "Hosts have no maintenance mode here: disable the host and move its servers away.")
    ctx.tx.update(HOST, host, disabled=status == "disable", disabled_reason=None)
    return {"host": host["name"], "status": f"{status}d"}


POWER_ACTIONS = ("startup", "shutdown", "reboot")


@COMPUTE.route("GET", "/os-hosts/{host_name}/{power_action}", "admin", until=UNTIL)
def power(ctx: Ctx) -> NoReturn:
    """The hosts' power is not compute's to switch."""
    if ctx.path["power_action"] not in POWER_ACTIONS:
        raise Fault("missing", "The resource could not be found.")
    host = _host(ctx)
    raise Fault("invalid", f"Host {host['name']} cannot be switched on or off through this API.")
