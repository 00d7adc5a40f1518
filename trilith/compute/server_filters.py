"""What lists of servers can be narrowed and sorted by. Who is no administrator may use some of it, since a version."""

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

from trilith.compute.server_status import ALL_STATUSES
from trilith.kernel.declare import Filter
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Flag, Time
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import METADATA, Condition
from trilith.kernel.versions import NEWEST, OLDEST, Version, v

ADMINS = NEWEST  # for administrators at every version, for nobody else
STRICT_STATUS, BEFORE_SINCE = v("2.38"), v("2.66")
# names of upstream's columns that differ from ours
SORT_NAMES = {
    "display_name": "name",
    "display_description": "description",
    "uuid": "id",
    "image_ref": "image_id",
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
    "auto_disk_config": "disk_config",
    "availability_zone": "zone",
    "node": "host",
    "root_device_name": "id",
    "instance_type_id": "flavor_id",
    "progress": "id",
    "kernel_id": "id",
    "ramdisk_id": "id",
    "launch_index": "id",
    "locked_by": "locked",
}
SORT_ALIKE = (
    "created_at updated_at host hostname key_name launched_at locked power_state project_id task_state "
    "terminated_at user_id vm_state config_drive"
)
SORT_IGNORED = (
    "architecture cell_name cleaned default_ephemeral_device default_swap_device deleted deleted_at "
    "disable_terminate ephemeral_gb ephemeral_key_uuid id key_data launched_on memory_mb os_type "
    "reservation_id root_gb shutdown_terminate user_data vcpus vm_mode"
)


def columns() -> Any:
    return METADATA.tables["compute_servers"].c


def _for(since: Version, make: Callable[[Ctx, list[str]], Condition | None]) -> Filter:
    return lambda ctx, values: make(ctx, values) if ctx.who.is_admin or since <= ctx.at else None


def _same(column: str, since: Version = ADMINS) -> Filter:
    return _for(since, lambda ctx, values: columns()[column].in_(values))


def _like(column: str, since: Version = ADMINS) -> Filter:
    """A regular expression, as upstream's database takes it."""
    return _for(since, lambda ctx, values: columns()[column].regexp_match(values[-1], flags="i"))


def _flag(column: str, since: Version = ADMINS) -> Filter:
    return _for(since, lambda ctx, values: columns()[column].is_(Flag().from_query(values[-1], column)))


def _number(column: str, since: Version = ADMINS) -> Filter:
    def make(ctx: Ctx, values: list[str]) -> Condition | None:
        numbers = [int(value) for value in values if value.isdigit()]
        return columns()[column].in_(numbers)  # type: ignore[no-any-return]

    return _for(since, make)


def _status(ctx: Ctx, values: list[str]) -> Condition | None:
    wanted = [value.upper() for value in values]
    known = [status for status in wanted if status in ALL_STATUSES]
    if not known and ctx.at >= STRICT_STATUS:
        raise Fault("invalid", "Invalid status value")
    if "DELETED" in known and not ctx.who.is_admin:
        raise Fault("forbidden", "Only administrators may list deleted instances")
    return columns().status.in_(known)  # type: ignore[no-any-return]


def _all_tenants(ctx: Ctx, values: list[str]) -> Condition | None:
    if shows_all(ctx) and not ctx.who.is_admin:
        raise forbidden("os_compute_api:servers:index:get_all_tenants")
    return None


def shows_all(ctx: Ctx) -> bool:
    asked = ctx.one("all_tenants")
    try:
        return asked is not None and Flag().from_query(asked, "all_tenants")
    except Bad:
        raise Fault("invalid", f"Invalid value for all_tenants: {asked}") from None


def _changed(name: str, since: Version) -> Filter:
    def make(ctx: Ctx, values: list[str]) -> Condition | None:
        moment = Time().from_query(values[-1], name)
        last = sa.func.coalesce(columns().updated_at, columns().created_at)
        if name == "changes-since":
            return last >= moment
        if (start := ctx.one("changes-since")) and moment < Time().from_query(start, "changes-since"):
            raise Fault("invalid", "The value of changes-since must be less than or equal to changes-before.")
        return last <= moment

    return lambda ctx, values: make(ctx, values) if since <= ctx.at else None


def shows_deleted(ctx: Ctx) -> bool:
    """Whether a list holds servers that are no more."""
    if "changes-since" in ctx.query or (ctx.at >= BEFORE_SINCE and "changes-before" in ctx.query):
        return True
    asked = (ctx.one("deleted") or "").lower()
    return ctx.who.is_admin and (asked in ("true", "1", "yes") or (ctx.one("status") or "").upper() == "DELETED")


def _address(version: int, since: Version) -> Filter:
    def make(ctx: Ctx, values: list[str]) -> Condition | None:
        import re

        from trilith.network.ports import PORT

        try:
            pattern = re.compile(values[-1])
        except re.error:
            raise Fault("invalid", f"Invalid regular expression: {values[-1]}") from None
        mine = None if ctx.who.is_admin else PORT.c.project_id == ctx.who.project_id
        rows = ctx.tx.rows(PORT, PORT.c.device_owner.startswith("compute:"), mine)
        found = {
            row["machine_id"]
            for row in rows
            for ip in row["fixed_ips"] or []
            if (":" in ip["ip_address"]) == (version == 6) and pattern.search(ip["ip_address"])
        }
        return columns().id.in_(found)  # type: ignore[no-any-return]

    return _for(since, make)


def _tags(every: bool, negated: bool) -> Filter:
    def make(ctx: Ctx, values: list[str]) -> Condition | None:
        stored = sa.cast(columns().tags, sa.Text)
        quoted = [msgspec.json.encode(tag).decode() for value in values for tag in value.split(",")]
        has = [stored.contains(tag, autoescape=True) for tag in quoted]
        found = sa.and_(*has) if every else sa.or_(*has)
        return sa.not_(found) if negated else found

    return lambda ctx, values: make(ctx, values) if ctx.at >= v("2.26") else None


IGNORED = "soft_deleted progress launch_index kernel_id ramdisk_id root_device_name locked_by auto_disk_config"
FILTERS: dict[str, Filter] = {
    "all_tenants": _all_tenants,
    "status": _status,
    "name": _like("name", OLDEST),
    "display_name": _like("name"),
    "image": _same("image_id", OLDEST),
    "image_ref": _same("image_id"),
    "flavor": _same("flavor_id", OLDEST),
    "reservation_id": _same("reservation_id", OLDEST),
    "ip": _address(4, OLDEST),
    "ip6": _address(6, v("2.5")),
    "changes-since": _changed("changes-since", OLDEST),
    "changes-before": _changed("changes-before", BEFORE_SINCE),
    "tags": _tags(every=True, negated=False),
    "tags-any": _tags(every=False, negated=False),
    "not-tags": _tags(every=True, negated=True),
    "not-tags-any": _tags(every=False, negated=True),
    "locked": _flag("locked", v("2.73")),
    "availability_zone": _same("zone", v("2.83")),
    "config_drive": _flag("config_drive", v("2.83")),
    "key_name": _like("key_name", v("2.83")),
    "created_at": _like("created_at", v("2.83")),
    "launched_at": _like("launched_at", v("2.83")),
    "terminated_at": _like("terminated_at", v("2.83")),
    "power_state": _number("power_state", v("2.83")),
    "task_state": _same("task_state", v("2.83")),
    "vm_state": _same("vm_state", v("2.83")),
    "user_id": _same("user_id", v("2.83")),
    "hostname": _like("hostname", v("2.90")),
    "project_id": _same("project_id"),
    "tenant_id": _same("project_id"),
    "host": _same("host"),
    "node": _same("host"),
    "uuid": _same("id"),
    "description": _like("description"),
    "display_description": _like("description"),
    "access_ip_v4": _like("access_ipv4"),
    "access_ip_v6": _like("access_ipv6"),
    "deleted": lambda ctx, values: None,
} | {name: (lambda ctx, values: None) for name in IGNORED.split()}


def sorting(ctx: Ctx) -> list[tuple[str, str]]:
    """The asked order as (column, direction). Keys that upstream ignores are dropped."""
    keys, directions = ctx.query.get("sort_key", []), ctx.query.get("sort_dir", [])
    if bad := [each for each in directions if each not in ("asc", "desc")]:
        raise Fault("invalid", f"Unknown sort direction '{bad[0]}', must be asc or desc")
    if not ctx.who.is_admin and any(key in ("host", "node") for key in keys):
        raise Fault("forbidden", "Only administrators can sort servers by host or node")
    strict = ctx.at >= ctx.service.wire.strict_query_since
    found = []
    for n, key in enumerate(keys):
        if key in SORT_NAMES or key in SORT_ALIKE.split():
            direction = (directions[n : n + 1] or directions[-1:] or ["desc"])[0]
            found.append((SORT_NAMES.get(key, key), direction))
        elif key not in SORT_IGNORED.split() or strict:
            raise Fault("invalid", f"Invalid input for query parameters sort_key. Value: {key}.")
    return found
