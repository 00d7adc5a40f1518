"""Security groups as compute showed them until clients learned to ask the network service (2.36): rules of
incoming traffic only, and no conflicts: what the network service calls one is a bad request here."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Member, Object, Text, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.network import security_group_rules, security_groups
from trilith.network.security_group_rules import RULE, RemotePrefix
from trilith.network.security_groups import SECURITY_GROUP
from trilith.network.versions import NETWORKING

Row = dict[str, Any]
UNTIL = v("2.35")
GROUP_BODY = Object(
    {"name": Member(Text(255), required=True), "description": Member(Text(255), null=True, default="")},
)
GROUP = Object({"security_group": Member(GROUP_BODY, required=True)})
RULE_BODY = Object(
    {
        "parent_group_id": Member(Text(255), required=True),
        "ip_protocol": Member(Text(40), null=True),
        "from_port": Member(Whole(-1, 65535), null=True),
        "to_port": Member(Whole(-1, 65535), null=True),
        "cidr": Member(RemotePrefix(), null=True),
        "group_id": Member(Text(255), null=True),
    }
)


@contextmanager
def _conflicts_are_invalid() -> Iterator[None]:
    try:
        yield
    except Fault as fault:
        raise Fault("invalid", fault.message) if fault.kind == "conflict" else fault from None


def _groups(ctx: Ctx, rows: list[Row]) -> list[Row]:
    """The views of some groups, with their rules."""
    rules = ctx.tx.rows(RULE, security_group_id=[row["id"] for row in rows], direction="ingress") if rows else []
    shown = [_rule(ctx, rule) for rule in rules]
    return [
        {
            "id": row["id"],
            "name": row["name"],
            "description": row["description"] or "",
            "tenant_id": row["project_id"],
            "rules": [rule for rule in shown if rule["parent_group_id"] == row["id"]],
        }
        for row in rows
    ]


def _rule(ctx: Ctx, row: Row) -> Row:
    low, high = row["port_range_min"], row["port_range_max"]
    if row["protocol"] and low is None and high is None:
        low, high = (1, 65535) if row["protocol"] in ("tcp", "udp") else (-1, -1)
    view: Row = {
        "id": row["id"],
        "parent_group_id": row["security_group_id"],
        "ip_protocol": row["protocol"],
        "from_port": low,
        "to_port": high,
        "group": {},
        "ip_range": {},
    }
    if row["remote_group_id"]:
        other = ctx.tx.one(SECURITY_GROUP, id=row["remote_group_id"])
        view["group"] = {"name": other["name"], "tenant_id": other["project_id"]} if other else {}
    else:
        everything = "::/0" if row["ethertype"] == "IPv6" else "0.0.0.0/0"
        view["ip_range"] = {"cidr": row["remote_ip_prefix"] or everything}
    return view


def _one(ctx: Ctx, row: Row) -> Row:
    return {"security_group": _groups(ctx, [row])[0]}


@COMPUTE.route("GET", "/os-security-groups", "reader", until=UNTIL, write=True)
def list_groups(ctx: Ctx) -> Row:
    """A list is where people look for their default group: it is made then."""
    security_groups.default_group(ctx.tx, ctx.new_id, str(ctx.who.project_id))
    everybody = ctx.who.is_admin and Flag().from_query(ctx.one("all_tenants", "0") or "", "all_tenants")
    mine = None if everybody else SECURITY_GROUP.c.project_id == ctx.who.project_id
    return {"security_groups": _groups(ctx, ctx.tx.rows(SECURITY_GROUP, mine))}


@COMPUTE.route("GET", "/os-security-groups/{group_id}", "reader", until=UNTIL)
def show_group(ctx: Ctx) -> Row:
    return _one(ctx, ctx.find(SECURITY_GROUP, ctx.path["group_id"]))


@COMPUTE.route("POST", "/os-security-groups", "member", until=UNTIL, body=GROUP)
def create_group(ctx: Ctx) -> Row:
    asked = ctx.body["security_group"]
    project_id = str(ctx.who.project_id)
    new = SECURITY_GROUP.blank() | {"id": ctx.new_id(), "project_id": project_id, "name": asked["name"]}
    quota.check(ctx.tx, NETWORKING, project_id, security_group=1)
    with _conflicts_are_invalid():
        return _one(ctx, security_groups.create(ctx, new | {"description": asked["description"] or ""}))


@COMPUTE.route("PUT", "/os-security-groups/{group_id}", "member", until=UNTIL, body=GROUP)
def update_group(ctx: Ctx) -> Row:
    row, asked = ctx.find(SECURITY_GROUP, ctx.path["group_id"]), ctx.body["security_group"]
    with _conflicts_are_invalid():
        changes = {"name": asked["name"], "description": asked["description"] or ""}
        return _one(ctx, security_groups.update(ctx, row, changes))


@COMPUTE.route("DELETE", "/os-security-groups/{group_id}", "member", until=UNTIL, status=202)
def delete_group(ctx: Ctx) -> None:
    with _conflicts_are_invalid():
        security_groups.delete(ctx, ctx.find(SECURITY_GROUP, ctx.path["group_id"]))


BODY = Object({"security_group_rule": Member(RULE_BODY, required=True)})


@COMPUTE.route("POST", "/os-security-group-rules", "member", until=UNTIL, body=BODY)
def create_rule(ctx: Ctx) -> Row:
    asked = ctx.body["security_group_rule"]
    if len(asked["parent_group_id"]) != 36:
        raise Fault("invalid", "Security group id should be uuid")
    group = ctx.find(SECURITY_GROUP, asked["parent_group_id"])
    prefix = asked.get("cidr") or (None if asked.get("group_id") else "0.0.0.0/0")
    version = ipaddress.ip_network(prefix, strict=False).version if prefix else 4
    ports = {name: None if asked.get(name) == -1 else asked.get(name) for name in ("from_port", "to_port")}
    new = {
        "direction": "ingress",
        "ethertype": f"IPv{version}",
        "protocol": RULE.fields["protocol"].kind.check(asked.get("ip_protocol"), "ip_protocol", ctx.at),
        "port_range_min": ports["from_port"],
        "port_range_max": ports["to_port"],
        "remote_ip_prefix": prefix,
        "remote_group_id": asked.get("group_id"),
        "security_group_id": group["id"],
    }
    quota.check(ctx.tx, NETWORKING, group["project_id"], security_group_rule=1)
    with _conflicts_are_invalid():
        return {"security_group_rule": _rule(ctx, security_group_rules.create(ctx, new))}


@COMPUTE.route("DELETE", "/os-security-group-rules/{rule_id}", "member", until=UNTIL, status=202)
def delete_rule(ctx: Ctx) -> None:
    security_group_rules.delete(ctx, ctx.find(RULE, ctx.path["rule_id"]))
