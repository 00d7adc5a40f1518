"""Quota sets, quota classes and limits."""

from typing import Any

from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Member, Object, Whole
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.versions import NEWEST, Version, v

Row = dict[str, Any]
NETWORK_UNTIL, FILES_UNTIL, META_UNTIL, GROUPS_SINCE = v("2.35"), v("2.56"), v("2.38"), v("2.50")
# what compute still shows at old versions and others count
OLD: dict[str, tuple[int, Version]] = {
    "fixed_ips": (-1, NETWORK_UNTIL),
    "floating_ips": (-1, NETWORK_UNTIL),
    "security_groups": (-1, NETWORK_UNTIL),
    "security_group_rules": (-1, NETWORK_UNTIL),
    "injected_files": (5, FILES_UNTIL),
    "injected_file_content_bytes": (10240, FILES_UNTIL),
    "injected_file_path_bytes": (255, FILES_UNTIL),
}
for _name, (_default, _) in OLD.items():
    COMPUTE.quota(_name, _default, lambda tx, project_id: 0)


def _names(at: Version) -> list[str]:
    """What a version knows, compute's own first."""
    return [name for name in COMPUTE.quotas if at <= OLD.get(name, (0, NEWEST))[1]]


OWN = ("instances", "cores", "ram", "key_pairs", "metadata_items", "server_groups", "server_group_members")


def _body(key: str, more: Row | None = None) -> Object:
    members = {name: Member(Whole(-1), until=OLD.get(name, (0, NEWEST))[1]) for name in (*OWN, *OLD)}
    return Object({key: Member(Object(members | (more or {})), required=True)})


def _readable(ctx: Ctx, project_id: str) -> str:
    if project_id != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("os_compute_api:os-quota-sets:show")
    return project_id


@COMPUTE.route("GET", "/os-quota-sets/{project_id}", "reader")
def show(ctx: Ctx) -> Row:
    project_id = _readable(ctx, ctx.path["project_id"])
    limits = quota.limits(ctx.tx, COMPUTE, project_id)
    return {"quota_set": {"id": project_id} | {name: limits[name] for name in _names(ctx.at)}}


@COMPUTE.route("GET", "/os-quota-sets/{project_id}/defaults", "anyone")
def defaults(ctx: Ctx) -> Row:
    limits = quota.limits(ctx.tx, COMPUTE, quota.DEFAULT)
    return {"quota_set": {"id": ctx.path["project_id"]} | {name: limits[name] for name in _names(ctx.at)}}


@COMPUTE.route("GET", "/os-quota-sets/{project_id}/detail", "reader")
def detail(ctx: Ctx) -> Row:
    project_id = _readable(ctx, ctx.path["project_id"])
    limits, used = quota.limits(ctx.tx, COMPUTE, project_id), quota.usage(ctx.tx, COMPUTE, project_id)
    shown: Row = {name: {"limit": limits[name], "in_use": used[name], "reserved": 0} for name in _names(ctx.at)}
    return {"quota_set": {"id": project_id} | shown}


@COMPUTE.route("PUT", "/os-quota-sets/{project_id}", "admin", body=_body("quota_set", {"force": Member(Flag())}))
def update(ctx: Ctx) -> Row:
    project_id, asked = ctx.path["project_id"], dict(ctx.body["quota_set"])
    force = asked.pop("force", False)
    used = quota.usage(ctx.tx, COMPUTE, project_id)
    for name, limit in asked.items():
        if not force and 0 <= limit < used[name]:
            message = f"Quota limit {limit} for {name} must be greater than or equal to already used and reserved "
            raise Fault("invalid", f"{message}{used[name]}.")
        quota.set_limit(ctx.tx, COMPUTE, project_id, name, limit)
    limits = quota.limits(ctx.tx, COMPUTE, project_id)
    return {"quota_set": {name: limits[name] for name in _names(ctx.at)}}


@COMPUTE.route("DELETE", "/os-quota-sets/{project_id}", "admin", status=202)
def reset(ctx: Ctx) -> None:
    quota.reset(ctx.tx, COMPUTE, ctx.path["project_id"])


# the one class that means anything is "default"


def _class_view(ctx: Ctx, more: Row) -> Row:
    limits = quota.limits(ctx.tx, COMPUTE, quota.DEFAULT)
    old = ctx.at < GROUPS_SINCE
    hidden = {"server_groups", "server_group_members"} if old else {n for n, (_, last) in OLD.items() if ctx.at > last}
    return {"quota_class_set": more | {name: limits[name] for name in COMPUTE.quotas if name not in hidden}}


@COMPUTE.route("GET", "/os-quota-class-sets/{class_name}", "admin")
def show_class(ctx: Ctx) -> Row:
    return _class_view(ctx, {"id": ctx.path["class_name"]})


@COMPUTE.route("PUT", "/os-quota-class-sets/{class_name}", "admin", body=_body("quota_class_set"))
def update_class(ctx: Ctx) -> Row:
    if ctx.path["class_name"] == quota.DEFAULT:
        for name, limit in ctx.body["quota_class_set"].items():
            quota.set_limit(ctx.tx, COMPUTE, quota.DEFAULT, name, limit)
    return _class_view(ctx, {})


# limits: the same as seen by a client

# (limits' name, quota, until)
SHOWN = (
    ("maxTotalInstances", "instances", NEWEST),
    ("maxTotalCores", "cores", NEWEST),
    ("maxTotalRAMSize", "ram", NEWEST),
    ("maxServerMeta", "metadata_items", NEWEST),
    ("maxImageMeta", "metadata_items", META_UNTIL),
    ("maxTotalKeypairs", "key_pairs", NEWEST),
    ("maxServerGroups", "server_groups", NEWEST),
    ("maxServerGroupMembers", "server_group_members", NEWEST),
    ("maxPersonality", "injected_files", FILES_UNTIL),
    ("maxPersonalitySize", "injected_file_content_bytes", FILES_UNTIL),
    ("maxTotalFloatingIps", "floating_ips", NETWORK_UNTIL),
    ("maxSecurityGroups", "security_groups", NETWORK_UNTIL),
    ("maxSecurityGroupRules", "security_group_rules", NETWORK_UNTIL),
)
USED = (
    ("totalInstancesUsed", "instances", NEWEST),
    ("totalCoresUsed", "cores", NEWEST),
    ("totalRAMUsed", "ram", NEWEST),
    ("totalServerGroupsUsed", "server_groups", NEWEST),
    ("totalFloatingIpsUsed", "floating_ips", NETWORK_UNTIL),
    ("totalSecurityGroupsUsed", "security_groups", NETWORK_UNTIL),
)


@COMPUTE.route("GET", "/limits", "reader")
def limits(ctx: Ctx) -> Row:
    project_id = ctx.one("tenant_id") or ctx.who.project_id or ""
    if project_id != ctx.who.project_id and not ctx.who.is_admin:
        raise forbidden("os_compute_api:limits:other_project")
    most, used = quota.limits(ctx.tx, COMPUTE, project_id), quota.usage(ctx.tx, COMPUTE, project_id)
    absolute = {name: most[resource] for name, resource, until in SHOWN if ctx.at <= until}
    absolute |= {name: used[resource] for name, resource, until in USED if ctx.at <= until}
    return {"limits": {"rate": [], "absolute": absolute}}
