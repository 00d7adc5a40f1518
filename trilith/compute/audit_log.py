"""The instance usage audit log: which hosts have told how much was used in a month. Usage is counted from rows here, so
every host's part is always done."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa

from trilith.compute.servers import SERVER
from trilith.compute.services import compute_hosts
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import now, to_utc
from trilith.kernel.request import Ctx

Row = dict[str, Any]


def _log(ctx: Ctx, before: datetime) -> Row:
    """Of the last whole month before a moment."""
    end = before.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = (end - timedelta(days=1)).replace(day=1)
    first, last = (moment.isoformat(timespec="microseconds") for moment in (begin, end))
    alive = sa.or_(SERVER.c.terminated_at.is_(None), SERVER.c.terminated_at > first)
    servers = ctx.tx.rows(SERVER, SERVER.c.launched_at < last, alive)
    log = {}
    for host in compute_hosts(ctx.tx):
        count = sum(row["host"] == host["name"] for row in servers)
        done = {"state": "DONE", "instances": count, "errors": 0}
        log[host["name"]] = done | {"message": f"Instance usage audit ran for host {host['name']}, {count} instances."}
    return {
        "hosts_not_run": [],
        "log": log,
        "num_hosts": len(log),
        "num_hosts_done": len(log),
        "num_hosts_not_run": 0,
        "num_hosts_running": 0,
        "overall_status": "ALL hosts done. 0 errors.",
        "period_beginning": str(begin),
        "period_ending": str(end),
        "total_errors": 0,
        "total_instances": sum(entry["instances"] for entry in log.values()),
    }


@COMPUTE.route("GET", "/os-instance_usage_audit_log", "admin")
def list_log(ctx: Ctx) -> Row:
    return {"instance_usage_audit_logs": _log(ctx, datetime.fromisoformat(now()))}


@COMPUTE.route("GET", "/os-instance_usage_audit_log/{before}", "admin")
def show_log(ctx: Ctx) -> Row:
    text = unquote(ctx.path["before"])
    try:
        before = datetime.fromisoformat(to_utc(text))
    except ValueError:
        raise Fault("invalid", f"Invalid timestamp for date {text}") from None
    return {"instance_usage_audit_log": _log(ctx, before)}
