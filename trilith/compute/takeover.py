"""The machines of a fenced host: which of them start elsewhere, in which order, and the rows that make it so.

A machine can go when every disk of it is shared: a disk says so (``shared``), or is a volume on another host that is
up. Each goes in one transaction with its ports and attachments: before it the machine is wholly the lost host's, after
it wholly the other's, whose agent finds it among its wants. The attachments are new ones, so that a volume's host lets
the old keys open nothing any more.
"""

import uuid
from typing import Any

import sqlalchemy as sa

from trilith.compute.instance_actions import ACTION
from trilith.compute.migrations import MIGRATION
from trilith.compute.scheduler import Ask, claim, place
from trilith.compute.server_groups import GROUP
from trilith.compute.servers import SERVER, wish
from trilith.compute.takeovers import TAKEOVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import now
from trilith.kernel.notices import tell
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]
PRIORITY = "trilith:ha_priority"
MOST = 100
LOST_MEMORY = ("paused", "suspended")


def priority(row: Row, default: int) -> int:
    """0 (stays) to 100 (first): of the server's metadata, at most what its flavor says; else the flavor's, else the
    default."""
    of_flavor = _number(row["flavor"].get("extra_specs", {}).get(PRIORITY))
    own = _number((row["metadata"] or {}).get(PRIORITY))
    if own is None:
        return default if of_flavor is None else of_flavor
    return min(own, MOST if of_flavor is None else of_flavor)


def _number(text: Any) -> int | None:
    return min(int(text), MOST) if str(text).isdigit() else None


def machines(tx: Tx, takeover: Row, default: int) -> list[Row]:
    """What is still to be done: rows of servers, the most important and then the oldest first."""
    done = {move["server_id"] for move in takeover["moves"] if not move["again"]}
    rows = [row for row in tx.rows(SERVER, host=takeover["host"], deleted_at=None) if not row["deleting"]]
    rows = [row for row in rows if row["id"] not in done]
    return sorted(rows, key=lambda row: (-priority(row, default), row["number"]))


def stays(tx: Tx, row: Row, default: int) -> str | None:
    """Why the machine cannot or shall not start on another host; None when it can."""
    if row["failed"]:
        return "It is in ERROR."
    if priority(row, default) == 0:
        return f"Its {PRIORITY} is 0."
    if row["resize"] in ("resizing", "reverting"):
        return "It is being resized."
    if row["rescue_image_id"] or (row["seen"] or {}).get("rescue_image_id"):
        return "It is in rescue: that disk lies on the host."
    return next(filter(None, (_local(tx, row, disk) for disk in row["disks"])), None)


def _local(tx: Tx, row: Row, disk: Row) -> str | None:
    from trilith.volume.exports import is_shared
    from trilith.volume.volumes import VOLUME

    if disk.get("shared"):
        return None
    if disk["kind"] != "volume":
        return f"Its disk {disk['device']} lies on the host."
    volume = tx.one(VOLUME, id=disk["volume_id"])
    if volume is None or is_shared(volume, row["host"]):
        return None  # one that leaves counts too: its host may still have it
    return f"Its volume {volume['id']} lies on the host."


def _absent(tx: Tx, row: Row) -> str | None:
    """Which storage host has to come back first."""
    from trilith.volume.volumes import VOLUME

    ids = [disk["volume_id"] for disk in row["disks"] if disk["kind"] == "volume" and not disk.get("shared")]
    names = {volume["host"] for volume in tx.rows(VOLUME, id=ids) if not volume.get("shared")} if ids else set()
    down = sorted(host["name"] for host in tx.rows(HOST, name=names) if not is_up(host, tx.now_s())) if names else []
    return f"Its volumes lie on {', '.join(down)}, which is down." if down else None


def move(tx: Tx, takeover: Row, server_id: str, default: int) -> None:
    """The machine is another host's from now on, or it is written down why it is not. Nothing happens where it was
    moved already, by whoever was here before."""
    row = tx.one(SERVER, id=server_id, host=takeover["host"], deleted_at=None)
    if row is None or row["deleting"]:
        return
    why, again, target = stays(tx, row, default), False, None
    if why is None and (why := _absent(tx, row)) is not None:
        again = True
    if why is None:
        try:
            target = place(tx, _ask(tx, row))
        except Fault as fault:  # no room now
            why, again = fault.message, True
    if target is not None:
        claim(tx, target)
        give(tx, row, target)
    entry = {
        "server_id": server_id,
        "name": row["name"],
        "priority": priority(row, default),
        "to": target["name"] if target else None,
        "why": why,
        "again": again,
        "at_s": tx.now_s(),
    }
    others = [other for other in takeover["moves"] if other["server_id"] != server_id]
    tx.update(TAKEOVER, takeover, moves=[*others, entry])


def _ask(tx: Tx, row: Row) -> Ask:
    group = tx.one(GROUP, id=row["server_group_id"]) if row["server_group_id"] else None
    return Ask(
        row["flavor"],
        row["project_id"],
        zone=row["pinned_zone"],
        group=group,
        hints=row["scheduler_hints"] or {},
        image_properties=row["image_properties"] or {},
        server_id=row["id"],
        local_disk=row["image_id"] is not None,
        takeover=True,
    )


def give(tx: Tx, row: Row, target: Row) -> None:
    """The rows become those of the target, which is claimed. The old host must be known to run nothing of it any more.
    What lay in that one's memory alone is gone: such a machine is stopped."""
    ask = _ask(tx, row)
    source, host, zone = row["host"], target["name"], ask.zone_of(tx, target)
    tell(tx, COMPUTE, "compute.instance.rebuild.scheduled", {"instance_id": row["id"], "host": host, "source": source})
    disks = [_reattached(tx, row, disk, host) for disk in row["disks"]]
    changes: Row = {"host": host, "zone": zone, "claim": ask.amounts(), "disks": disks, "seen": None}
    changes["power"] = "stopped" if row["power"] in LOST_MEMORY else row["power"]
    row = wish(tx, row, boot_epoch=row["boot_epoch"] + 1, **changes)
    _bind_ports(tx, row, zone)
    _record(tx, row, source)


def _reattached(tx: Tx, row: Row, disk: Row, host: str) -> Row:
    from trilith.volume.attachments import ATTACHMENT, attach, detached
    from trilith.volume.volumes import VOLUME

    if disk["kind"] != "volume":
        return disk
    volume, old = tx.one(VOLUME, id=disk["volume_id"]), tx.one(ATTACHMENT, id=disk["attachment_id"])
    if volume is None or old is None:
        return disk
    detached(tx, volume["id"], row["id"])
    place: Row = {"server_id": row["id"], "host": host, "device": old["device"], "mode": old["mode"]}
    new = attach(tx, new_id, tx.get(VOLUME, volume["id"]), **place, made_for=True)
    return disk | {"attachment_id": new["id"], "attached": False}


def _bind_ports(tx: Tx, row: Row, zone: str) -> None:
    from trilith.network.ports import bind_port, ports_of

    for port in ports_of(tx, [row["id"]]):
        bind_port(tx, port, device_id=row["id"], device_owner=f"compute:{zone}", host=row["host"])


def _record(tx: Tx, row: Row, source: str) -> None:
    """As what an administrator's evacuation leaves: an action and a migration."""
    moment = now()
    owner = {"server_id": row["id"], "user_id": row["user_id"], "project_id": row["project_id"]}
    action: Row = {"id": new_id(), "action": "evacuate", "request_id": f"req-{new_id()}", "host": row["host"]}
    tx.insert(ACTION, owner | action | {"start_time": moment, "changed_at": moment})
    last = tx.scalar(sa.select(sa.func.max(MIGRATION.c.number))) or 0
    flavor = row["flavor"]["id"]
    number = int(flavor) if flavor.isdigit() else 0
    kind = {"migration_type": "evacuation", "status": "done", "source": source, "target": row["host"]}
    numbers = {"number": last + 1, "old_flavor_number": number, "new_flavor_number": number}
    tx.insert(MIGRATION, owner | kind | numbers | {"id": new_id()})


def new_id() -> str:
    return str(uuid.uuid4())
