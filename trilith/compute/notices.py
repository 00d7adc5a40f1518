"""What nova's listeners are told of servers: ``compute.instance.*``, unversioned, as billing tools read them."""

from collections.abc import Iterator
from typing import Any

from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.declare import Noun
from trilith.kernel.notices import Event, Notices, picked
from trilith.kernel.store import Tx

Row = dict[str, Any]
TASKS = {
    "powering-on": "power_on",
    "powering-off": "power_off",
    "rebooting": "reboot",
    "rebooting_hard": "reboot",
    "rebuilding": "rebuild",
    "resize_migrating": "resize",
    "resize_finish": "resize",
    "migrating": "live_migration",
    "shelving_image_uploading": "shelve",
    "shelving_offloading": "shelve_offload",
    "resize_reverting": "resize.revert",
    "pausing": "pause",
    "unpausing": "unpause",
    "suspending": "suspend",
    "resuming": "resume",
    "rescuing": "rescue",
    "unrescuing": "unrescue",
    "image_snapshot": "snapshot",
    "image_uploading": "snapshot",
}
UPDATES = ("vm_state", "task_state", "name", "metadata", "host")
USAGE = (
    "tenant_id=project_id user_id instance_id=id display_name=name reservation_id hostname memory_mb=ram_mib vcpus "
    "host node=host availability_zone=zone created_at launched_at terminated_at deleted_at image_ref_url=image_id "
    "state=vm_state state_description=task_state access_ip_v4=access_ipv4 access_ip_v6=access_ipv6 metadata"
)
OF_FLAVOR = "instance_type=name instance_type_id=id instance_flavor_id=id root_gb=disk_gib ephemeral_gb=ephemeral_gib"
NEVER_NULL = ("launched_at", "terminated_at", "deleted_at", "image_ref_url", "state_description")


def events(tx: Tx, noun: Noun, old: Row | None, new: Row | None) -> Iterator[Event]:
    if noun is not SERVER or new is None:
        return
    usage, was = _usage(new), old or {}
    if any(was.get(name) != new[name] for name in UPDATES):
        states = {"old_state": was.get("vm_state"), "old_task_state": was.get("task_state")}
        yield "compute.instance.update", usage | states | {"new_task_state": new["task_state"]}
    for name in _names(was, new):
        more: Row = {}
        if name == "create.end":
            more = {"fixed_ips": _fixed_ips(tx, new["id"]), "message": "Success"}
        elif name.endswith(".error"):
            more = {"message": (new["fault"] or {}).get("message", "")}
        yield f"compute.instance.{name}", usage | more


def _names(was: Row, new: Row) -> Iterator[str]:
    if not was:
        yield "create.start"
    if new["launched_at"] and not was.get("launched_at"):
        yield "create.end"
    if new["failed"] and not was.get("failed") and not new["launched_at"]:
        yield "create.error"
    ended, begun = TASKS.get(was.get("task_state") or ""), TASKS.get(new["task_state"] or "")
    if ended and ended != begun and not new["deleting"]:
        yield f"{ended}.{'error' if new['failed'] else 'end'}"
    if begun and begun != ended:
        yield f"{begun}.start"
    if was.get("resize") == "resized" and new["resize"] is None:
        yield "resize.confirm.end"
    if new["deleting"] and not was.get("deleting"):
        yield "delete.start"
    if new["deleted_at"] and not was.get("deleted_at"):
        yield "delete.end"


def _usage(row: Row) -> Row:
    usage = picked(row, USAGE) | picked(row["flavor"], OF_FLAVOR)
    usage |= {name: usage[name] or "" for name in NEVER_NULL}
    usage["disk_gb"] = usage["root_gb"] + usage["ephemeral_gb"]
    usage["image_meta"] = (row["image_properties"] or {}) | {"base_image_ref": row["image_id"] or ""}
    return usage


def _fixed_ips(tx: Tx, server_id: str) -> list[Row]:
    from trilith.network.addresses import addresses

    names = "address=addr version vif_mac=OS-EXT-IPS-MAC:mac_addr type=OS-EXT-IPS:type"
    found = addresses(tx, [server_id])[server_id].items()
    every = [picked(one, names) | {"label": network} for network, several in found for one in several]
    return [one for one in every if one["type"] == "fixed"]


COMPUTE.notices = Notices("nova", "compute", events)
