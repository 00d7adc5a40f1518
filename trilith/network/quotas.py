"""Quotas of this service: limits are set, usage is counted."""

from typing import Any

import sqlalchemy as sa

from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Either, Flag, MapOf, Member, Object, Whole
from trilith.kernel.request import Ctx, forbidden
from trilith.network.versions import NETWORKING

Row = dict[str, Any]

LIMIT = Whole(-1, 2**31 - 1)
BODY = Object({"quota": Member(MapOf(Either((Flag(strict=True), LIMIT))), required=True)})
OPTIONS = ("force", "check_limit")  # of a request, beside the limits


def _project(ctx: Ctx) -> str:
    """The project of the path: one's own, or any for administrators."""
    project_id = ctx.path["project_id"]
    if project_id != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("get_quota")
    return project_id


@NETWORKING.route("GET", "/quotas", "admin")
def list_(ctx: Ctx) -> Row:
    """Projects that have limits of their own."""
    table = quota.LIMITS
    query = sa.select(table.c.project_id).where(table.c.service == NETWORKING.name, table.c.project_id != quota.DEFAULT)
    projects = sorted({row["project_id"] for row in ctx.tx.select(query)})
    return {
        "quotas": [
            quota.limits(ctx.tx, NETWORKING, project_id) | {"project_id": project_id, "tenant_id": project_id}
            for project_id in projects
        ]
    }


@NETWORKING.route("GET", "/quotas/tenant", "reader")
@NETWORKING.route("GET", "/quotas/project", "reader")
def whose(ctx: Ctx) -> Row:
    return {"tenant": {"tenant_id": ctx.who.project_id, "project_id": ctx.who.project_id}}


@NETWORKING.route("GET", "/quotas/{project_id}", "reader")
def show(ctx: Ctx) -> Row:
    return {"quota": quota.limits(ctx.tx, NETWORKING, _project(ctx))}


@NETWORKING.route("GET", "/quotas/{project_id}/default", "reader")
def default(ctx: Ctx) -> Row:
    _project(ctx)
    return {"quota": quota.limits(ctx.tx, NETWORKING, quota.DEFAULT)}


@NETWORKING.route("GET", "/quotas/{project_id}/details", "reader")
@NETWORKING.route("GET", "/quotas/{project_id}/details.json", "reader")
def details(ctx: Ctx) -> Row:
    project_id = _project(ctx)
    used = quota.usage(ctx.tx, NETWORKING, project_id)
    limits = quota.limits(ctx.tx, NETWORKING, project_id)
    return {"quota": {name: {"limit": limits[name], "used": used[name], "reserved": 0} for name in limits}}


@NETWORKING.route("PUT", "/quotas/{project_id}", "admin", body=BODY)
def update(ctx: Ctx) -> Row:
    """With ``check_limit``, a limit below what is in use is refused."""
    body, project_id = ctx.body["quota"], ctx.path["project_id"]
    asked = {k: v for k, v in body.items() if k not in OPTIONS}
    for name, limit in asked.items():
        if name not in NETWORKING.quotas:
            raise Fault("invalid", f"Unrecognized attribute(s) '{name}'", "HTTPBadRequest")
        LIMIT.check(limit, name, ctx.at)
        in_use = quota.used(ctx.tx, NETWORKING, project_id, name) if body.get("check_limit") else 0
        if 0 <= limit < in_use:
            message = f"Quota limit {limit} for {name} is below what is in use: {in_use}."
            raise Fault("invalid", message, "InvalidQuotaValue")
        quota.set_limit(ctx.tx, NETWORKING, project_id, name, limit)
    return {"quota": quota.limits(ctx.tx, NETWORKING, project_id)}


@NETWORKING.route("DELETE", "/quotas/{project_id}", "admin", status=204)
def reset(ctx: Ctx) -> None:
    quota.reset(ctx.tx, NETWORKING, ctx.path["project_id"])
