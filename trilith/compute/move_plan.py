"""What a host does for a server that moves, as its source or as its target. Pure; part of `server_plan`.

The two hosts never speak of who runs the machine: a source hands the last of it over only in phase ``switching``, and
what has come to a target stands still until the row says that the machine is its own. Neither starts, nor continues,
anything here.
"""

from typing import Any

from trilith.kernel.reconcile import Act

Doc = dict[str, Any]


def local_keys(target: Doc) -> list[str]:
    """The machine's disks that lie on one host only."""
    return [disk["key"] for disk in target["disks"] if disk["kind"] != "volume" and not disk.get("shared")]


def plan(want: Doc, target: Doc, seen: Doc, shut_down: list[Act], ready: bool) -> list[Act]:
    """`target`: the machine; `shut_down`: how its guest is asked to end; `ready`: every volume can be opened."""
    move = want["move"]
    phase = move["phase"]
    if move["role"] == "source":
        if phase in ("kept", "returning"):
            return _let_go(seen)
        return _offer(move, target, seen, shut_down) if phase == "copying" else _send(move, target, seen)
    return _fetch(move, target, seen) if phase == "copying" else _receive(want, target, seen, ready)


def _let_go(seen: Doc) -> list[Act]:
    """Nothing of it runs here, nor has a place on the switch; its disks stay."""
    acts = [Act("end")] if seen["process"] or seen["power"] in ("crashed", "suspended") else []
    acts += [Act("end_export")] if seen["export"] else []
    return acts + [Act("drop_nic", {"port_id": port_id}) for port_id in seen["taps"]]


# disks of a stopped machine


def _offer(move: Doc, target: Doc, seen: Doc, shut_down: list[Act]) -> list[Act]:
    if seen["process"]:
        return shut_down if seen["power"] == "running" else [Act("end")]
    export = seen["export"]
    if export and export["move"] == move["id"] and export["running"]:
        return []
    return [Act("export", {"move_id": move["id"], "secret": move["key"], "keys": local_keys(target)})]


def _fetch(move: Doc, target: Doc, seen: Doc) -> list[Act]:
    if seen["process"]:
        return [Act("kill")]
    if move["from"] is None:
        return []
    fetched = seen["fetched"]
    done = fetched["keys"] if fetched and fetched["move"] == move["id"] else None
    place = {"move_id": move["id"], "secret": move["key"], "place": move["from"], "root_epoch": target["root_epoch"]}
    missing = [key for key in local_keys(target) if key not in (done or [])]
    if done is None and not missing:
        return [Act("fetch", {**place, "disk": None})]
    return [Act("fetch", {**place, "disk": key}) for key in missing]


# a running machine


def _receive(want: Doc, target: Doc, seen: Doc, ready: bool) -> list[Act]:
    move, incoming = want["move"], seen["incoming"]
    if (incoming and incoming["move"] == move["id"]) or move["phase"] != "preparing":
        return []
    if not ready or move["layout"] is None:
        return []
    epochs = {"boot_epoch": want["boot_epoch"], "soft_reboot_epoch": want["soft_reboot_epoch"]}
    who = {"move_id": move["id"], "secret": move["key"], "layout": move["layout"], "local": local_keys(target)}
    return [Act("receive", {**who, "machine": target, **epochs})]


def _send(move: Doc, target: Doc, seen: Doc) -> list[Act]:
    who, out = {"move_id": move["id"]}, seen["outgoing"]
    if not seen["process"] or seen["power"] not in ("running", "paused"):
        return []
    if move["phase"] == "switching":  # with nobody there any more it fails, and that decides
        return [Act("switch", who)] if out and out["status"] == "pre-switchover" else []
    if move["to"] is None:
        return []
    keys = local_keys(target)
    if out is None or out["move"] != move["id"] or (out["status"] == "none" and set(keys) - out["mirrors"].keys()):
        return [Act("mirror", {**who, "secret": move["key"], "to": move["to"], "keys": keys})]
    if out["status"] == "none":
        return [Act("send", {**who, "to": move["to"]})] if all(out["mirrors"].values()) else []
    force = move["force"] and seen["power"] == "running" and out["status"] == "active"
    return [Act("pause")] if force else []
