"""Between servers' rows and their hosts: what a host shall have, what it reports, what is overdue."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from trilith.compute import direct_boot
from trilith.compute import server_moves as moves
from trilith.compute.instance_actions import ACTION, finish, note, unfinished
from trilith.compute.migrations import MIGRATION, set_status
from trilith.compute.server_documents import meta_data
from trilith.compute.server_networks import leave_port
from trilith.compute.server_shelving import drop_shelved_image, give_up_shelving, shelving_reported
from trilith.compute.server_status import MOVING
from trilith.compute.servers import SERVER, fault_of, wish
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import now
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, hosted, is_up

Row = dict[str, Any]

SNAPSHOT_TASKS = ("image_snapshot", "image_uploading", "shelving_image_uploading")
ACTION_S = 600  # no act on a server may take longer
ON_CRASH = "trilith:on_crash"  # of metadata and flavors: ``restart`` or ``stop``
REMOVAL_S = 60  # how long a server's removal waits for a host that is down


def wants(tx: Tx, host: str) -> list[Row]:
    """The want documents of a host's servers, those that it shares with another host in a move too."""
    from trilith.network.ports import networks_of, ports_of
    from trilith.volume.volumes import VOLUME

    rows = tx.rows(SERVER, sa.or_(SERVER.c.host == host, SERVER.c.peer == host), deleted_at=None)
    ports: dict[str, list[Row]] = {}
    for port in ports_of(tx, [row["id"] for row in rows]) if rows else []:
        ports.setdefault(port["machine_id"], []).append(port)
    ids = {disk["volume_id"] for row in rows for disk in row["disks"] if disk["kind"] == "volume"}
    volumes = {volume["id"]: volume for volume in tx.rows(VOLUME, id=ids)} if ids else {}
    every = [port for found in ports.values() for port in found]
    outer, networks = _floating(tx, [port["id"] for port in every]), networks_of(tx, every)
    asked = _requests(tx, [row["id"] for row in rows])
    return [
        want(tx, row, host, ports.get(row["id"], []), networks, volumes, outer) | {"request_id": asked.get(row["id"])}
        for row in rows
    ]


def _requests(tx: Tx, server_ids: list[str]) -> dict[str, str]:
    """The last request whose work on the server has not ended: the host's log names it."""
    actions = tx.rows(ACTION, server_id=server_ids, finished_at=None) if server_ids else []
    ordered = sorted(actions, key=lambda action: str(action["start_time"]))
    return {action["server_id"]: action["request_id"] for action in ordered}


def _snapshots(tx: Tx, row: Row) -> list[Row]:
    """Those that are still to be made: an image that was deleted meanwhile is wanted by nobody."""
    from trilith.image.images import IMAGE

    ids = [each["image_id"] for each in row["snapshots"]]
    there = {image["id"] for image in tx.rows(IMAGE, id=ids)} if ids else set()
    return [each for each in row["snapshots"] if each["image_id"] in there]


def _floating(tx: Tx, port_ids: list[str]) -> dict[str, str]:
    """Ports' floating addresses, which no guest can see on its cards: the metadata service tells them."""
    from trilith.network.floatingips import FLOATING_IP

    return {row["port_id"]: row["floating_ip_address"] for row in tx.rows(FLOATING_IP, port_id=port_ids)}


def want(
    tx: Tx,
    row: Row,
    host: str,
    ports: list[Row],
    networks: dict[str, Row],
    volumes: dict[str, Row],
    floating: dict[str, str],
) -> Row:
    """One server's want; its shape stands in ARCHITECTURE.md, the host's documents."""
    from trilith.network.ports import network_data, nic_document

    specs = row["flavor"].get("extra_specs") or {}
    order = {nic["port_id"]: n for n, nic in enumerate(row["nics"])}
    ports = sorted((port for port in ports if port["id"] in order), key=lambda port: order[port["id"]])
    return {
        "id": row["id"],
        "generation": row["wanted"],
        "present": not row["deleting"] and (row["shelve"] or {}).get("phase") != "offloading",
        "name": row["name"],
        **{name: row[name] for name in ("power", "boot_epoch", "soft_reboot_epoch", "root_epoch")},
        **{name: row[name] for name in ("vcpus", "ram_mib", "config_drive", "rescue_image_id", "rescue_image_format")},
        "move": moves.document(row, host),
        "disks": [_disk(row, disk, volumes, host) for disk in row["disks"] if _wanted(disk, volumes)],
        "nics": [nic_document(port, networks[port["network_id"]]) for port in ports],
        "admin_password": row["admin_password"],
        "hostname": row["hostname"],
        "image_id": row["image_id"],
        "flavor_name": row["flavor"]["name"],
        "public_ipv4": next((floating[port["id"]] for port in ports if port["id"] in floating), None),
        "metadata": meta_data(row, ports),
        "user_data": row["user_data"],
        "on_crash": (row["metadata"] or {}).get(ON_CRASH) or specs.get(ON_CRASH) or "restart",
        "watchdog_action": (row["image_properties"] or {}).get("hw_watchdog_action") or specs.get("hw:watchdog_action"),
        "kernel": direct_boot.document(row),
        "network_data": network_data(ports, networks),
        "vendor_data": {},
        "snapshots": _snapshots(tx, row),
    }


def _wanted(disk: Row, volumes: dict[str, Row]) -> bool:
    return disk["kind"] != "volume" or (not disk["leaving"] and disk["volume_id"] in volumes)


def _disk(row: Row, disk: Row, volumes: dict[str, Row], host: str) -> Row:
    from trilith.volume.exports import is_shared
    from trilith.volume.shared_storage import own_disk
    from trilith.volume.volumes import disk_document

    names = (
        "device",
        "kind",
        "boot_index",
        "image_id",
        "image_format",
        "size_gib",
        "label",
        "size_mib",
        "tag",
    )
    document = {name: disk[name] for name in names if name in disk}
    if disk["kind"] == "volume":
        live = (row["move"] or {}).get("phase") in moves.LIVE
        reached = None if disk.get("by_network") else row["host"] if live else host
        volume = volumes[disk["volume_id"]]
        document |= disk_document(volume, disk["attachment_id"], reached)
        document["shared"] = is_shared(volume, row["host"])
    elif disk.get("rbd"):
        document |= own_disk(row, disk)
    return document


def report(tx: Tx, host: str, key: str, generation: int, seen: Row | None, fault: str | None) -> None:
    """What a host saw of a server; `generation` is that of the want that it was working on."""
    row = tx.one(SERVER, id=key, deleted_at=None)
    if row is None or host not in (row["host"], row["peer"]):
        return
    current = generation == row["wanted"]
    if not row["deleting"] and moves.reported(tx, row, host, seen, fault, current):
        return
    if not row["deleting"] and seen is None and fault is None and shelving_reported(tx, row, seen, current):
        return
    if row["deleting"]:
        if seen is None and fault is None and current:
            finish_removal(tx, row)
        elif fault is not None and current:
            tx.update(SERVER, row, failed=True, fault=fault_of(fault))
            finish(tx, key, fault, host)
        return
    changes: Row = {"seen": seen}
    if fault is not None and current and row["task_state"] in SNAPSHOT_TASKS:
        _give_up_snapshots(tx, row, fault)
        return
    if fault is not None and current:
        changes |= {"failed": True, "fault": fault_of(fault)}
    elif seen is not None:
        changes |= _settled(tx, row, seen, current)
    had = row
    row = tx.update(SERVER, row, **changes)
    if row["shelve"] is not None and shelving_reported(tx, row, seen, current and fault is None):
        return
    if row["failed"] and not had["failed"]:
        finish(tx, key, fault or "", host)
    elif row["task_state"] is None and not any(_moving(disk) for disk in row["disks"]) and not _growing(tx, row, seen):
        finish(tx, key, host=host)
    problem = _problem(seen)
    if problem is not None and problem != _problem(had["seen"]):
        note(tx, row, problem)


def _problem(seen: Row | None) -> str | None:
    """Why the host cannot go on, or the machine cannot; it may pass by itself."""
    return (seen or {}).get("error") or (seen or {}).get("waiting")


def _give_up_snapshots(tx: Tx, row: Row, fault: str) -> None:
    """What went wrong is the image's: the server is as well as before."""
    from trilith.image.images import IMAGE

    for image in tx.rows(IMAGE, id=[each["image_id"] for each in row["snapshots"]], phase=["queued", "saving"]):
        tx.delete(IMAGE, image)
    finish(tx, row["id"], fault)
    if row["shelve"] is not None:
        give_up_shelving(tx, row, fault)
    else:
        wish(tx, row, snapshots=[])


def _moving(disk: Row) -> bool:
    return disk["kind"] == "volume" and (disk["leaving"] or not disk["attached"])


def _growing(tx: Tx, row: Row, seen: Row | None) -> bool:
    """Somebody waits for the machine to have a volume at its new size."""
    from trilith.volume.volumes import VOLUME

    keys = [disk["volume_id"] for disk in row["disks"] if disk["kind"] == "volume"]
    if not keys or not any(action["action"] == "extend_volume" for action in unfinished(tx, row["id"])):
        return False
    sizes = (seen or {}).get("volume_sizes_gib", {})
    return any(volume["size_gib"] > sizes.get(volume["id"], 0) for volume in tx.rows(VOLUME, id=keys))


def _settled(tx: Tx, row: Row, seen: Row, current: bool) -> Row:
    """What follows from what was seen, besides the status."""
    changes: Row = _volumes(tx, row, seen)
    done = set(seen.get("snapshots_done", []))
    changes["snapshots"] = [each for each in _snapshots(tx, row) if each["image_id"] not in done]
    booted = seen["boot_epoch"] >= row["boot_epoch"] and seen["root_epoch"] >= row["root_epoch"]
    if row["launched_at"] is None and booted:
        changes |= {"launched_at": now(), "admin_password": None}
    same_shape = seen["vcpus"] == row["vcpus"] and seen["ram_mib"] == row["ram_mib"]
    same_shape = same_shape and seen.get("rescue_image_id") == row["rescue_image_id"]
    if not current or not same_shape or (row["resize"] is not None and not booted and row["power"] != "stopped"):
        return changes
    if row["resize"] == "resizing":
        set_status(tx, row["id"], "finished")
        changes["resize"] = "resized"
    elif row["resize"] == "reverting":
        set_status(tx, row["id"], "reverted")
        changes |= {"resize": None, "old_flavor": None}
    if row["power"] == "running" and seen.get("by_watchdog"):
        changes["power"] = "paused"
    off = row["power"] == "running" and seen["power"] == "stopped"
    if off and booted and seen["soft_reboot_epoch"] >= row["soft_reboot_epoch"]:
        changes["power"] = "stopped"  # the guest switched itself off
    return changes


def _volumes(tx: Tx, row: Row, seen: Row) -> Row:
    from trilith.volume.attachments import ATTACHMENT, attached, detached

    there = set(seen.get("volumes", []))
    disks = []
    for disk in row["disks"]:
        if disk["kind"] == "volume" and disk["leaving"] and disk["volume_id"] not in there:
            detached(tx, disk["volume_id"], row["id"])
            continue
        if disk["kind"] == "volume" and not disk["leaving"] and not disk["attached"] and disk["volume_id"] in there:
            attachment = tx.one(ATTACHMENT, id=disk["attachment_id"])
            if attachment is not None:
                attached(tx, attachment)
            disk = disk | {"attached": True}
        disks.append(disk)
    return {} if disks == row["disks"] else {"disks": disks}


def finish_removal(tx: Tx, row: Row) -> None:
    """The server is gone: its ports and volumes go or become free, its row stays for those who ask what was."""
    for nic in row["nics"]:
        leave_port(tx, nic["port_id"], nic["preserve"])
    for disk in row["disks"]:
        if disk["kind"] == "volume":
            _release_volume(tx, row, disk)
    if row["shelve"] is not None:
        drop_shelved_image(tx, row)
    moment = now()
    finish(tx, row["id"])
    tx.update(SERVER, row, deleted_at=moment, terminated_at=moment, failed=False, snapshots=[], admin_password=None)


def _release_volume(tx: Tx, row: Row, disk: Row) -> None:
    from trilith.volume.attachments import detached
    from trilith.volume.volumes import VOLUME, drop_volume

    detached(tx, disk["volume_id"], row["id"])
    volume = tx.one(VOLUME, id=disk["volume_id"])
    if volume is None or not disk["delete_on_termination"]:
        return
    try:
        drop_volume(tx, volume)
    except Fault:  # it has snapshots: it stays, and its owner sees it
        return


def sweep(tx: Tx) -> None:
    """Ends what has been going on for too long."""
    moves.sweep_moves(tx)
    moment = now()
    for action in tx.rows(ACTION, ACTION.c.start_time < _before(moment, REMOVAL_S), finished_at=None):
        row = tx.one(SERVER, id=action["server_id"], deleted_at=None)
        if row is None:
            finish(tx, action["server_id"])
        elif row["deleting"]:
            _remove_without_host(tx, row)
        elif action["start_time"] < _before(moment, ACTION_S) and (row["move"] or {}).get("phase") not in MOVING:
            _give_up(tx, row, action)


def _remove_without_host(tx: Tx, row: Row) -> None:
    """What a dead host has of the server, its agent removes when it is back: nobody wants it any more."""
    host = tx.one(HOST, name=row["host"])
    if host is None or not is_up(host):
        finish_removal(tx, row)


def _give_up(tx: Tx, row: Row, action: Row) -> None:
    message = f"{action['action']} did not finish within {ACTION_S} s on host {row['host']}."
    if action["details"]:
        message += f" {action['details']}"
    if row["task_state"] in SNAPSHOT_TASKS:
        _give_up_snapshots(tx, row, message)
        return
    if row["task_state"] is None:
        finish(tx, row["id"], message)
        return
    finish(tx, row["id"], message)
    for migration in tx.rows(MIGRATION, server_id=row["id"], status=["migrating", "reverting"]):
        tx.update(MIGRATION, migration, status="error")
    tx.update(SERVER, row, failed=True, fault=fault_of(message), resize=None)


def _before(moment: str, age_s: int) -> str:
    return (datetime.fromisoformat(moment) - timedelta(seconds=age_s)).isoformat(timespec="microseconds")


hosted("server", wants, report, counted=True)
