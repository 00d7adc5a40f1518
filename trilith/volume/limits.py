"""What a project may have and has: limits, quota sets and classes; what there is: zones, extensions."""

from typing import Any

from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Member, Object, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.placement.hosts import HOST
from trilith.volume import type_quotas
from trilith.volume.versions import VOLUMES

Row = dict[str, Any]


@VOLUMES.route("GET", "/limits", "reader|anyone")
def limits(ctx: Ctx) -> Row:
    project_id = str(ctx.who.project_id)
    if ctx.at >= v("3.39") and ctx.who.is_admin and ctx.one("project_id"):
        project_id = str(ctx.one("project_id"))
    have, used = quota.limits(ctx.tx, VOLUMES, project_id), quota.usage(ctx.tx, VOLUMES, project_id)
    absolute = {
        "maxTotalVolumes": have["volumes"],
        "maxTotalSnapshots": have["snapshots"],
        "maxTotalVolumeGigabytes": have["gigabytes"],
        "maxTotalBackups": have["backups"],
        "maxTotalBackupGigabytes": have["backup_gigabytes"],
        "totalVolumesUsed": used["volumes"],
        "totalSnapshotsUsed": used["snapshots"],
        "totalGigabytesUsed": used["gigabytes"],
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }
    return {"limits": {"rate": [], "absolute": absolute}}


def _own(ctx: Ctx) -> str:
    if not ctx.who.is_admin and ctx.path["target"] != ctx.who.project_id:
        raise Fault("forbidden", "Policy doesn't allow volume_extension:quotas:show to be performed.")
    return ctx.path["target"]


@VOLUMES.route("GET", "/os-quota-sets/{target}", "reader|anyone")
def show_quota(ctx: Ctx) -> Row:
    project_id = _own(ctx)
    have = type_quotas.limits(ctx.tx, project_id)
    if Flag().from_query(str(ctx.one("usage", "false")), "usage"):
        used = type_quotas.usage(ctx.tx, project_id)
        shown: Row = {name: {"limit": have[name], "in_use": used[name], "reserved": 0} for name in have}
        return {"quota_set": {"id": project_id} | shown}
    return {"quota_set": {"id": project_id} | have}


@VOLUMES.route("GET", "/os-quota-sets/{target}/defaults", "reader|anyone")
def show_defaults(ctx: Ctx) -> Row:
    return {"quota_set": {"id": _own(ctx)} | type_quotas.limits(ctx.tx, quota.DEFAULT)}


def _set(ctx: Ctx, project_id: str, given: Row) -> Row:
    given = {name: value for name, value in given.items() if name not in ("tenant_id", "id", "class_name")}
    resources = {name: type_quotas.resource(ctx.tx, name) for name in given}
    if unknown := sorted(name for name, resource in resources.items() if resource is None):
        raise Fault("invalid", f"Invalid input received: Bad key(s) in quota set: {', '.join(unknown)}")
    if not given:
        raise Fault("invalid", "Invalid input received: the quota set is empty")
    for name, value in given.items():
        limit = Whole(-1, 2**31 - 1).check(value, name, ctx.at)
        quota.set_limit(ctx.tx, VOLUMES, project_id, str(resources[name]), limit)
    return type_quotas.limits(ctx.tx, project_id)


OPEN = Object({}, open_ended=True)


@VOLUMES.route("PUT", "/os-quota-sets/{target}", "admin", body=Object({"quota_set": Member(OPEN, required=True)}))
def set_quota(ctx: Ctx) -> Row:
    return {"quota_set": _set(ctx, ctx.path["target"], ctx.body["quota_set"])}


@VOLUMES.route("DELETE", "/os-quota-sets/{target}", "admin", status=200)
def reset_quota(ctx: Ctx) -> None:
    quota.reset(ctx.tx, VOLUMES, ctx.path["target"])


@VOLUMES.route("GET", "/os-quota-class-sets/{name}", "admin")
def show_class(ctx: Ctx) -> Row:
    return {"quota_class_set": {"id": ctx.path["name"]} | type_quotas.limits(ctx.tx, quota.DEFAULT)}


@VOLUMES.route(
    "PUT", "/os-quota-class-sets/{name}", "admin", body=Object({"quota_class_set": Member(OPEN, required=True)})
)
def set_class(ctx: Ctx) -> Row:
    return {"quota_class_set": _set(ctx, quota.DEFAULT, ctx.body["quota_class_set"])}


@VOLUMES.route("GET", "/os-availability-zone", "anyone")
def zones(ctx: Ctx) -> Row:
    names = sorted({h["availability_zone"] for h in ctx.tx.rows(HOST) if "storage" in h["roles"]}) or ["nova"]
    return {"availabilityZoneInfo": [{"zoneName": name, "zoneState": {"available": True}} for name in names]}


@VOLUMES.route("GET", "/extensions", "anyone")
def extensions(ctx: Ctx) -> Row:
    """Those whose operations stand here."""
    known = (
        ("os-volume-transfer", "VolumeTransfer", "Volume transfer management support."),
        ("os-quota-sets", "Quotas", "Quota management support."),
        ("os-volume-type-access", "VolumeTypeAccess", "Volume type access support."),
        ("os-types-extra-specs", "TypesExtraSpecs", "Type extra specs support."),
        ("os-availability-zone", "AvailabilityZones", "Describe Availability Zones."),
        ("os-volume-actions", "VolumeActions", "Enable volume actions."),
        ("os-admin-actions", "AdminActions", "Enable admin actions."),
        ("os-extended-snapshot-attributes", "ExtendedSnapshotAttributes", "Extended SnapshotAttributes support."),
        ("os-vol-image-meta", "VolumeImageMetadata", "Show image metadata associated with the volume."),
        ("os-hosts", "Hosts", "Admin-only host administration."),
        ("scheduler-stats", "SchedulerStats", "Scheduler stats support."),
        ("capabilities", "Capabilities", "Capabilities support."),
        ("os-services", "Services", "Services support."),
    )
    found = [
        {"alias": alias, "name": name, "description": text, "links": [], "updated": "2026-01-01T00:00:00+00:00"}
        for alias, name, text in known
    ]
    return {"extensions": found}
