"""What can be done to a server: power, locks, rescue, security groups, states. Each verb changes what is wanted."""

import secrets
from typing import Any, NoReturn

from trilith.compute.instance_actions import record
from trilith.compute.server_disks import check_ram
from trilith.compute.servers import SERVER, fault_of, remove, wish
from trilith.image.images import usable_image
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Either, Id, Json, Member, Null, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v

Row = dict[str, Any]
IDLE = (None,)
REBOOTING = ("rebooting", "rebooting_hard", "pausing", "resuming", "unpausing", "suspending", "powering-off")


def must(ctx: Ctx, row: Row, verb: str, *vm_states: str, tasks: tuple[str | None, ...] = IDLE) -> None:
    """409 unless the server is in one of these states, has nothing else going on, and is not locked to the caller."""
    if row["locked"] and not ctx.who.is_admin:
        raise Fault("conflict", f"Instance {row['id']} is locked")
    for name, allowed in (("vm_state", vm_states), ("task_state", (*tasks, None))):
        if row[name] not in allowed:
            message = f"Cannot '{verb}' instance {row['id']} while it is in {name} {row[name]}"
            raise Fault("conflict", message)
    if row["host"] is None:
        raise Fault("conflict", f"Instance {row['id']} is not ready")


@SERVER.verb("os-start", "member")
def start(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "start", "stopped")
    record(ctx, row, "start")
    wish(ctx.tx, row, power="running", boot_epoch=row["boot_epoch"] + 1)


@SERVER.verb("os-stop", "member")
def stop(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "stop", "active", "rescued", "error")
    record(ctx, row, "stop")
    wish(ctx.tx, row, power="stopped", failed=False)


REBOOT = Object({"type": Member(Choice(("HARD", "Hard", "hard", "SOFT", "Soft", "soft")), required=True)})


@SERVER.verb("reboot", "member", body=REBOOT)
def reboot(ctx: Ctx, row: Row, body: Row) -> None:
    if body["type"].upper() == "SOFT":
        must(ctx, row, "reboot", "active")
        record(ctx, row, "reboot")
        wish(ctx.tx, row, soft_reboot_epoch=row["soft_reboot_epoch"] + 1)
        return
    must(ctx, row, "reboot", "active", "stopped", "paused", "suspended", "error", tasks=REBOOTING)
    record(ctx, row, "reboot")
    wish(ctx.tx, row, power="running", boot_epoch=row["boot_epoch"] + 1, failed=False)


@SERVER.verb("pause", "member")
def pause(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "pause", "active", "rescued")
    record(ctx, row, "pause")
    wish(ctx.tx, row, power="paused")


@SERVER.verb("unpause", "member")
def unpause(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "unpause", "paused")
    record(ctx, row, "unpause")
    wish(ctx.tx, row, power="running")


@SERVER.verb("suspend", "member")
def suspend(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "suspend", "active", "rescued")
    record(ctx, row, "suspend")
    wish(ctx.tx, row, power="suspended")


@SERVER.verb("resume", "member")
def resume(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "resume", "suspended")
    record(ctx, row, "resume")
    wish(ctx.tx, row, power="running")


# locks


REASON = Object({"locked_reason": Member(Text(255, 1), since=v("2.73"))})


@SERVER.verb("lock", "member", body=Either((Null(), REASON)))
def lock(ctx: Ctx, row: Row, body: Row | None) -> None:
    ctx.tx.update(SERVER, row, locked=True, locked_reason=(body or {}).get("locked_reason"))
    record(ctx, row, "lock", done=True)


@SERVER.verb("unlock", "member")
def unlock(ctx: Ctx, row: Row, body: Any) -> None:
    ctx.tx.update(SERVER, row, locked=False, locked_reason=None)
    record(ctx, row, "unlock", done=True)


# rescue


RESCUE = Object({"adminPass": Member(Text(255)), "rescue_image_ref": Member(Id())})


@SERVER.verb("rescue", "member", body=Either((Null(), RESCUE)), status=200)
def rescue(ctx: Ctx, row: Row, body: Row | None) -> Row:
    must(ctx, row, "rescue", "active", "stopped", "error")
    if row["image_id"] is None:
        raise Fault("invalid", "Cannot rescue a volume-backed instance")
    image_id = (body or {}).get("rescue_image_ref") or row["image_id"]
    try:
        image = usable_image(ctx.tx, ctx.who.project_id, ctx.who.is_admin, image_id)
    except Fault as fault:
        raise Fault("invalid", fault.message) from None
    check_ram(image, row["flavor"])
    password = (body or {}).get("adminPass") or secrets.token_urlsafe(9)
    record(ctx, row, "rescue")
    wish(
        ctx.tx,
        row,
        power="running",
        boot_epoch=row["boot_epoch"] + 1,
        rescue_image_id=image["id"],
        rescue_image_format=image["disk_format"],
        admin_password=password,
        failed=False,
    )
    return {"adminPass": password}


@SERVER.verb("unrescue", "member")
def unrescue(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "unrescue", "rescued", "error")
    record(ctx, row, "unrescue")
    changes = {"rescue_image_id": None, "rescue_image_format": None, "failed": False}
    wish(ctx.tx, row, power="running", boot_epoch=row["boot_epoch"] + 1, **changes)


@SERVER.verb("changePassword", "member", body=Object({"adminPass": Member(Text(255), required=True)}))
def change_password(ctx: Ctx, row: Row, body: Row) -> NoReturn:
    """Needs an agent inside the guest; there is none."""
    must(ctx, row, "set_admin_password", "active")
    raise Fault("conflict", f"Failed to set admin password on {row['id']} because it has no guest agent.")


# security groups


GROUP_NAME = Object({"name": Member(Text(255, 1), required=True)})


def _group(ctx: Ctx, row: Row, name: str) -> str:
    from trilith.network.security_groups import find_group

    return str(find_group(ctx.tx, row["project_id"], name)["id"])


@SERVER.verb("addSecurityGroup", "member", body=GROUP_NAME)
def add_group(ctx: Ctx, row: Row, body: Row) -> None:
    from trilith.network.ports import PORT, ports_of

    must(ctx, row, "addSecurityGroup", "active", "stopped", "paused", "suspended", "rescued", "resized")
    group = _group(ctx, row, body["name"])
    for port in ports_of(ctx.tx, [row["id"]]):
        if port["port_security_enabled"] and group not in port["security_groups"]:
            ctx.tx.update(PORT, port, security_groups=[*port["security_groups"], group])
    record(ctx, row, "addSecurityGroup", done=True)


@SERVER.verb("removeSecurityGroup", "member", body=GROUP_NAME)
def remove_group(ctx: Ctx, row: Row, body: Row) -> None:
    from trilith.network.ports import PORT, ports_of

    must(ctx, row, "removeSecurityGroup", "active", "stopped", "paused", "suspended", "rescued", "resized")
    group = _group(ctx, row, body["name"])
    having = [port for port in ports_of(ctx.tx, [row["id"]]) if group in port["security_groups"]]
    if not having:
        raise Fault("missing", f"Security group {body['name']} not associated with the instance {row['id']}")
    for port in having:
        ctx.tx.update(PORT, port, security_groups=[each for each in port["security_groups"] if each != group])
    record(ctx, row, "removeSecurityGroup", done=True)


# administrators


@SERVER.verb("os-resetState", "admin", body=Object({"state": Member(Choice(("active", "error")), required=True)}))
def reset_state(ctx: Ctx, row: Row, body: Row) -> None:
    failed = body["state"] == "error"
    fault = fault_of("The state was set by an administrator.") if failed else None
    ctx.tx.update(SERVER, row, failed=failed, fault=fault)
    record(ctx, row, "os-resetState", done=True)


@SERVER.verb("forceDelete", "member")
def force_delete(ctx: Ctx, row: Row, body: Any) -> None:
    if row["locked"] and not ctx.who.is_admin:
        raise Fault("conflict", f"Instance {row['id']} is locked")
    remove(ctx, row)


@SERVER.verb("restore", "member")
def restore(ctx: Ctx, row: Row, body: Any) -> NoReturn:
    """Deleted servers are gone: none is kept to be restored."""
    message = f"Cannot 'restore' instance {row['id']} while it is in vm_state {row['vm_state']}"
    raise Fault("conflict", message)


@SERVER.verb("injectNetworkInfo", "admin", body=Json())
def inject_network_info(ctx: Ctx, row: Row, body: Any) -> Reply:
    """Addresses come by DHCP and from the config drive, always up to date."""
    return Reply(None, 202)
