"""What a server is called to be doing: computed from what is wanted and what was last seen, never set by hand. Pure."""

from typing import Any

Row = dict[str, Any]

POWER_STATES = {"running": 1, "paused": 3, "stopped": 4, "crashed": 6, "suspended": 7}
VM_STATES = {"running": "active", "paused": "paused", "stopped": "stopped", "suspended": "suspended"}
STATUSES = {
    "active": "ACTIVE",
    "building": "BUILD",
    "paused": "PAUSED",
    "stopped": "SHUTOFF",
    "suspended": "SUSPENDED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "error": "ERROR",
    "deleted": "DELETED",
}
BUSY_STATUSES = {
    ("active", "rebooting"): "REBOOT",
    ("active", "rebooting_hard"): "HARD_REBOOT",
    ("active", "rebuilding"): "REBUILD",
    ("stopped", "rebuilding"): "REBUILD",
    ("error", "rebuilding"): "REBUILD",
    **{(vm, f"resize_{task}"): "RESIZE" for vm in ("active", "stopped") for task in ("prep", "migrating", "finish")},
    ("active", "migrating"): "MIGRATING",
    ("paused", "migrating"): "MIGRATING",
    ("resized", "resize_reverting"): "REVERT_RESIZE",
}
ALL_STATUSES = {*STATUSES.values(), *BUSY_STATUSES.values(), "MIGRATING", "PASSWORD", "SOFT_DELETED", "UNKNOWN"}
# phases of a move in which the machine is on its way -> what is being done
MOVING = {
    "copying": "resize_migrating",
    "returning": "resize_reverting",
    "preparing": "migrating",
    "moving": "migrating",
    "switching": "migrating",
}
# phases of shelving -> vm_state (None: what it was), task_state
SHELVING = {
    "saving": (None, "shelving_image_uploading"),
    "offloading": ("shelved", "shelving_offloading"),
    "offloaded": ("shelved_offloaded", None),
    "unshelving": ("shelved_offloaded", "spawning"),
}
TURNING = {
    ("stopped", "running"): "powering-off",
    ("stopped", "paused"): "powering-off",
    ("stopped", "suspended"): "powering-off",
    ("stopped", "crashed"): "powering-off",
    ("paused", "running"): "pausing",
    ("suspended", "running"): "suspending",
    ("suspended", "paused"): "suspending",
    ("running", "paused"): "unpausing",
    ("running", "suspended"): "resuming",
    ("running", "crashed"): "powering-on",
}


def server_status(row: Row) -> Row:
    """The columns ``status vm_state task_state power_state`` of a server's row."""
    seen = row["seen"] or {}
    vm_state, task_state = _vm_state(row, seen), _task_state(row, seen)
    return {
        "vm_state": vm_state,
        "task_state": task_state,
        "power_state": 0 if row["deleted_at"] else POWER_STATES.get(seen.get("power", ""), 0),
        "status": BUSY_STATUSES.get((vm_state, task_state or ""), STATUSES[vm_state]),
    }


def _vm_state(row: Row, seen: Row) -> str:
    if row["deleted_at"]:
        return "deleted"
    if row["failed"]:
        return "error"
    if row["launched_at"] is None:
        return "building"
    if row["resize"] in ("resized", "reverting"):
        return "resized"
    if row["shelve"] is not None:
        phase = row["shelve"]["phase"]
        return SHELVING[phase][0] or VM_STATES[row["shelve"]["power"]]
    if seen.get("rescue_image_id"):
        return "rescued"
    power = seen.get("power")
    if power not in VM_STATES or (row["move"] or {}).get("phase") in MOVING:
        return VM_STATES[row["power"]]  # crashed, on its way, or not looked at yet
    return VM_STATES[power]


def _task_state(row: Row, seen: Row) -> str | None:
    if row["deleted_at"]:
        return None
    if row["deleting"]:
        return "deleting"
    if row["failed"]:
        return None
    if row["launched_at"] is None:
        return "scheduling" if row["host"] is None else "spawning"
    phase = (row["move"] or {}).get("phase")
    if phase in MOVING:
        return MOVING[phase]
    if row["shelve"] is not None and row["shelve"]["phase"] != "unshelving":
        return SHELVING[row["shelve"]["phase"]][1]
    if row["root_epoch"] > seen.get("root_epoch", -1) and row["resize"] is None:
        return "rebuilding" if row["shelve"] is None else "spawning"
    if row["resize"] in ("resizing", "reverting"):
        return {"resizing": "resize_finish", "reverting": "resize_reverting"}[row["resize"]]
    if row["rescue_image_id"] != seen.get("rescue_image_id"):
        return "rescuing" if row["rescue_image_id"] else "unrescuing"
    return _power_task(row, seen) or _snapshot_task(row, seen)


def _power_task(row: Row, seen: Row) -> str | None:
    power = seen.get("power", "stopped")
    if row["power"] == "running" and row["boot_epoch"] > seen.get("boot_epoch", -1):
        return "powering-on" if power in ("stopped", "crashed") else "rebooting_hard"
    if row["power"] == "running" and row["soft_reboot_epoch"] > seen.get("soft_reboot_epoch", -1):
        return "rebooting"
    return TURNING.get((row["power"], power))


def _snapshot_task(row: Row, seen: Row) -> str | None:
    waiting = [each["image_id"] for each in row["snapshots"]]
    if not waiting:
        return None
    return "image_uploading" if waiting[0] in seen.get("snapshots_made", []) else "image_snapshot"
