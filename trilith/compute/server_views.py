"""What a server's row alone does not tell: addresses, security groups, volumes, its host. Fetched for many at once."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from trilith.compute.views import links
from trilith.kernel.declare import Field, computed
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]
IN_PROGRESS = ("ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING")


def expand(ctx: Ctx, rows: list[Row]) -> None:
    """Adds ``_addresses _groups _host _single`` to each row."""
    single = "id" in ctx.path
    if not single and not ctx.url_path.endswith("/detail"):
        return
    from trilith.network import addresses

    ids = [row["id"] for row in rows]
    ports = addresses.cards(ctx.tx, ids)
    found, groups = addresses.addresses(ctx.tx, ids, ports), addresses.groups(ctx.tx, ports)
    hosts = _hosts(ctx, rows) if ctx.who.is_admin else {}
    for row in rows:
        row["_single"] = single
        row["_addresses"] = found[row["id"]]
        row["_groups"] = [{"name": name} for name in groups.get(row["id"], ())]
        row["_host"] = hosts.get(row["host"] or "")


def _hosts(ctx: Ctx, rows: list[Row]) -> dict[str, Row]:
    """For administrators, who alone see how hosts are."""
    columns = [HOST.c[name] for name in ("name", "seen_at_s", "forced_down", "disabled")]
    wanted = HOST.c.name.in_({row["host"] for row in rows if row["host"]})
    return {host["name"]: host for host in ctx.tx.select(sa.select(*columns).where(wanted))}


def config_drive(row: Row, ctx: Ctx) -> str:
    return "True" if row["config_drive"] else ""


def group_names(row: Row, ctx: Ctx) -> list[Row] | None:
    return row.get("_groups") or None


def image(row: Row, ctx: Ctx) -> Any:
    if not row["image_id"]:
        return ""
    return {
        "id": row["image_id"],
        "links": [{"rel": "bookmark", "href": f"{ctx.base_url}/compute/images/{row['image_id']}"}],
    }


def image_with_properties(row: Row, ctx: Ctx) -> Any:
    found = image(row, ctx)
    return found | {"properties": row["image_properties"] or {}} if found else found


def flavor_link(row: Row, ctx: Ctx) -> Row:
    return {"id": row["flavor"]["id"], "links": links(ctx, "flavors", row["flavor"]["id"])[1:]}


def flavor(row: Row, ctx: Ctx) -> Row:
    own = row["flavor"]
    return {
        "vcpus": own["vcpus"],
        "ram": own["ram_mib"],
        "disk": own["disk_gib"],
        "ephemeral": own["ephemeral_gib"],
        "swap": own["swap_mib"],
        "original_name": own["name"],
        "extra_specs": own["extra_specs"],
    }


def fault(row: Row, ctx: Ctx) -> Row | None:
    found: Row | None = row["fault"]
    if found is None or row["status"] not in ("ERROR", "DELETED"):
        return None
    names = ("code", "created", "message", "details") if ctx.who.is_admin else ("code", "created", "message")
    return {name: found[name] for name in names if name in found}


def progress(row: Row, ctx: Ctx) -> int | None:
    if row["status"] not in IN_PROGRESS:
        return None
    return 100 if row["task_state"] is None else 0


def volumes(row: Row, ctx: Ctx) -> list[Row]:
    return [{"id": d["volume_id"]} for d in row["disks"] if d["kind"] == "volume"]


def volumes_with_flag(row: Row, ctx: Ctx) -> list[Row]:
    return [
        {"id": d["volume_id"], "delete_on_termination": d["delete_on_termination"]}
        for d in row["disks"]
        if d["kind"] == "volume"
    ]


def host_status(row: Row, ctx: Ctx) -> str:
    host = row.get("_host")
    if host is None:
        return ""
    if not is_up(host):
        return "DOWN" if host["forced_down"] else "UNKNOWN"
    return "MAINTENANCE" if host["disabled"] else "UP"


def root_device(row: Row, ctx: Ctx) -> str | None:
    first = next((d for d in row["disks"] if d["boot_index"] == 0), None)
    return f"/dev/{first['device']}" if first else None


def image_of_boot(name: str) -> Callable[[Row, Ctx], str]:
    """Of the image that it boots in place of its disk, or ""; see `direct_boot`."""
    return lambda row, ctx: str((row["image_properties"] or {}).get(name) or "")


def server_groups(row: Row, ctx: Ctx) -> list[str] | None:
    """In lists this is left out."""
    if not row.get("_single"):
        return None
    return [row["server_group_id"]] if row["server_group_id"] else []


def admin_only(wire: str, column: str, since: str = "2.1") -> Field:
    return computed(lambda row, ctx: row[column], wire=f"OS-EXT-SRV-ATTR:{wire}", see="admin", since=v(since))
