"""What has to be done next so that a server on its host becomes what is wanted. Pure.

Both documents are plain JSON: `want` is what the API wrote, `seen` what the host has. One-shot wishes are counters: a
hard reboot is a greater ``boot_epoch``, a soft one a greater ``soft_reboot_epoch``, a rebuild a greater ``root_epoch``;
starting the machine brings the seen ones up to the wanted ones.

A machine that is wanted running and is seen ``stopped`` at the wanted ``boot_epoch`` was shut down by its guest: it is
left so. Seen ``crashed`` (its process ended without us: killed, or the host rebooted; or its guest's kernel panicked)
it is started again, unless its ``on_crash`` is ``stop``; the host says when (``crash``: see `drivers.crashes`).

Acts (see `agent.machines`): ``define start resume cont pause suspend powerdown end kill destroy note_crash``,
``attach_disk detach_disk resize_volume``, ``add_nic drop_nic``, ``snapshot upload_snapshot drop_snapshot``, and those
of a move (`move_plan`): ``export end_export fetch``, ``receive settle``, ``mirror send switch stop_sending``.
"""

from typing import Any

from trilith.compute import move_plan
from trilith.kernel.errors import Refused
from trilith.kernel.reconcile import Act

Doc = dict[str, Any]

NEVER = -1
ABSENT: Doc = {
    "power": "stopped",
    "process": False,
    "boot_epoch": NEVER,
    "soft_reboot_epoch": NEVER,
    "root_epoch": NEVER,
    "rescue_image_id": None,
    "vcpus": 0,
    "ram_mib": 0,
    "root_gib": 0,
    "disk_keys": [],
    "volume_sizes_gib": {},
    "nics": [],
    "taps": [],
    "snapshots_made": [],
    "snapshots_done": [],
    "shutdown": None,
    "export": None,
    "fetched": None,
    "incoming": None,
    "outgoing": None,
}
CONFIG = ("metadata", "user_data", "network_data", "vendor_data", "admin_password", "hostname")


def plan(want: Doc, seen: Doc | None) -> list[Act]:
    """The next acts; [] when nothing is left to do, or when a guest or a volume has to get ready first."""
    if not want["present"]:
        return [] if seen is None else _remove(seen)
    target, seen = machine(want), ABSENT | (seen or {})
    if want.get("move") is not None:
        return move_plan.plan(want, target, seen, _shut_down(seen, [Act("end")]), _volumes_ready(target))
    left = _after_move(want, seen)
    if left is not None:
        return left
    acts = _steer(want, target, seen)
    if acts is not None:
        return acts
    snapshots = _snapshots(want, seen)
    if seen["process"]:
        # unplugging comes last: a guest may never let go
        return _plug(target, seen) + snapshots + _unplug(target, seen)
    return snapshots


def _after_move(want: Doc, seen: Doc) -> list[Act] | None:
    """What a move that is over, done or undone, has left here; None: nothing. What has come from the other host stood
    still until now, and goes on before anything is tidied."""
    acts = [Act("end_export")] if seen["export"] else []
    acts += [Act("stop_sending")] if seen["outgoing"] else []
    incoming = seen["incoming"]
    if not incoming:
        return acts or None
    if not incoming["arrived"] and want["power"] != "stopped" and not _boot_is_due(want, seen):
        return acts  # the last of it is on its way
    goes_on = seen["power"] == "incoming" and want["power"] == "running" and not _boot_is_due(want, seen)
    return [*([Act("cont")] if goes_on else []), *acts, Act("settle")]


def shut_down_by_guest(want: Doc, seen: Doc) -> bool:
    """Whether the guest ended by itself what is wanted to go on: to be wanted stopped from now on."""
    if not want["present"] or want["power"] == "stopped" or seen["power"] != "stopped" or want.get("move"):
        return False
    return not _boot_is_due(want, seen) and not _restart_is_due(want, machine(want), seen)


def machine(want: Doc) -> Doc:
    """What the machine shall be made of, as `drivers.qemu.Qemu.define` takes it."""
    disks = [{**disk, "key": _key(disk)} for disk in want["disks"]]
    rescue = want.get("rescue_image_id")
    if rescue is not None:
        image = {"kind": "image", "image_id": rescue, "image_format": want.get("rescue_image_format") or "qcow2"}
        first = {**image, "key": "rescue", "device": "vda", "boot_index": 0, "size_gib": 0}
        disks = [first] + [{**disk, "device": _next_device(disk["device"]), "boot_index": None} for disk in disks]
    document = {
        "name": want["name"],
        "vcpus": want["vcpus"],
        "ram_mib": want["ram_mib"],
        "root_epoch": want["root_epoch"],
        "root_gib": next((disk["size_gib"] for disk in disks if disk["key"] == "root"), 0),
        "rescue_image_id": rescue,
        "config_drive": want["config_drive"],
        "watchdog_action": want.get("watchdog_action") or "disabled",
        "kernel": want.get("kernel") if rescue is None else None,
        "disks": disks,
        "nics": [{name: nic[name] for name in ("port_id", "mac", "mtu")} for nic in want["nics"]],
    }
    if want["config_drive"]:
        document["config"] = {name: want.get(name) for name in CONFIG}
    return document


def _key(disk: Doc) -> str:
    """What a disk is called for as long as it lives; device names may move."""
    if disk["kind"] == "volume":
        return str(disk["volume_id"])
    return "root" if disk["kind"] == "image" else str(disk["label"])


def _next_device(device: str) -> str:
    return device[:-1] + chr(ord(device[-1]) + 1)


def _remove(seen: Doc) -> list[Act]:
    return [Act("kill"), *(Act("drop_nic", {"port_id": port_id}) for port_id in seen["taps"]), Act("destroy")]


def _steer(want: Doc, target: Doc, seen: Doc) -> list[Act] | None:
    """Acts towards the wanted power and shape; [] to wait; None when both are as they should be."""
    power = seen["power"]
    if want["power"] == "stopped":
        if power == "stopped":
            return [Act("end")] if seen["process"] else _at_rest(target, seen)
        return _shut_down(seen, [Act("end")]) if power == "running" else [Act("end")]
    boot = _boot(want, target, seen)
    if _boot_is_due(want, seen):
        return boot
    if power == "crashed":
        return _after_crash(want, seen, boot)
    if _restart_is_due(want, target, seen):
        return _shut_down(seen, boot) if power == "running" else boot
    if power == "stopped":
        return [Act("end")] if seen["process"] else _at_rest(target, seen)
    if power == want["power"] and not seen.get("by_watchdog"):
        return None
    if power == "paused" and seen.get("by_watchdog"):
        return [] if want["power"] == "running" else [Act("pause")]  # it is to be wanted paused from now on
    if power == "suspended":
        return [Act("resume")]
    return [Act({"running": "cont", "paused": "pause", "suspended": "suspend"}[want["power"]])]


def _after_crash(want: Doc, seen: Doc, boot: list[Act]) -> list[Act]:
    if want.get("on_crash") == "stop":
        return [Act("end")]
    match seen.get("crash"):
        case "new":
            return [Act("note_crash")]
        case "wait":
            return []
        case "too often":
            raise Refused("The machine ended by itself again and again. To start it once more: reboot it, hard.")
    return boot


def _boot_is_due(want: Doc, seen: Doc) -> bool:
    """At once: what runs now is not worth a word."""
    return bool(want["boot_epoch"] > seen["boot_epoch"] or want["root_epoch"] != seen["root_epoch"])


def _restart_is_due(want: Doc, target: Doc, seen: Doc) -> bool:
    """After the guest has shut down."""
    return bool(want["soft_reboot_epoch"] > seen["soft_reboot_epoch"] or _shape(target) != _shape(seen))


def _shape(document: Doc) -> Doc:
    """What cannot change while the machine runs."""
    return {name: document[name] for name in ("vcpus", "ram_mib", "root_gib", "rescue_image_id")}


def _boot(want: Doc, target: Doc, seen: Doc) -> list[Act]:
    if not _volumes_ready(target):
        return []
    epochs = {"boot_epoch": want["boot_epoch"], "soft_reboot_epoch": want["soft_reboot_epoch"]}
    kill = [Act("kill")] if seen["process"] else []
    return [*kill, Act("define", {"machine": target}), Act("start", {"nics": target["nics"], **epochs})]


def _shut_down(seen: Doc, after: list[Act]) -> list[Act]:
    """Let the guest end by itself; `after` when it has had its time."""
    if seen["shutdown"] == "overdue":
        return after
    return [] if seen["shutdown"] == "asked" else [Act("powerdown")]


def _at_rest(target: Doc, seen: Doc) -> list[Act] | None:
    """A stopped machine's record and disks follow the want too."""
    wanted = {nic["port_id"] for nic in target["nics"]}
    keys = {disk["key"] for disk in target["disks"]}
    drops = [Act("drop_nic", {"port_id": port_id}) for port_id in seen["taps"] if port_id not in wanted]
    same = _shape(target) == _shape(seen) and target["root_epoch"] == seen["root_epoch"]
    if same and keys == set(seen["disk_keys"]) and wanted <= set(seen["taps"]):
        return drops or None
    return [*drops, Act("define", {"machine": target})] if _volumes_ready(target) else []


def _volumes_ready(target: Doc) -> bool:
    return all(_ready(disk) for disk in target["disks"])


def _ready(disk: Doc) -> bool:
    return disk["kind"] != "volume" or bool(disk["path"] or disk.get("nbd") or disk.get("rbd"))


def _plug(target: Doc, seen: Doc) -> list[Act]:
    acts = []
    for disk in target["disks"]:
        if disk["key"] not in seen["disk_keys"]:
            acts += [Act("attach_disk", {"disk": disk})] if _ready(disk) else []
        elif disk["kind"] == "volume" and disk["size_gib"] > seen["volume_sizes_gib"].get(disk["key"], 0):
            acts.append(Act("resize_volume", {"volume_id": disk["key"], "size_gib": disk["size_gib"]}))
    return acts + [Act("add_nic", {"nic": nic}) for nic in target["nics"] if nic["port_id"] not in seen["nics"]]


def _unplug(target: Doc, seen: Doc) -> list[Act]:
    keys = {disk["key"] for disk in target["disks"]}
    ports = {nic["port_id"] for nic in target["nics"]}
    acts = [Act("drop_nic", {"port_id": port_id}) for port_id in seen["taps"] if port_id not in ports]
    return acts + [Act("detach_disk", {"key": key}) for key in seen["disk_keys"] if key not in keys]


def _snapshots(want: Doc, seen: Doc) -> list[Act]:
    asked = [snapshot["image_id"] for snapshot in want["snapshots"]]
    acts = [
        Act("drop_snapshot", {"image_id": image_id}) for image_id in seen["snapshots_made"] if image_id not in asked
    ]
    for image_id in asked:
        if image_id not in seen["snapshots_done"]:
            made = image_id in seen["snapshots_made"]
            acts += [] if made else [Act("snapshot", {"image_id": image_id})]
            acts.append(Act("upload_snapshot", {"image_id": image_id, "keep": asked}))
    return acts
