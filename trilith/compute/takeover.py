"""The machines of a fenced host: which of them start elsewhere, in which order, and the rows that make it so.

A machine can go when every disk of it is shared: it lies in Ceph, or is a volume on another host that is up. It goes in
one transaction with its ports and attachments: before it the machine is wholly the lost host's, after it wholly the
other's, whose agent finds it among its wants (`server_moves.take_over`). One that was on its way to another host when
its own was lost goes on there, or its move is undone first (`server_moves.without`).
"""

import uuid
from typing import Any

import sqlalchemy as sa

from trilith.compute.instance_actions import ACTION
from trilith.compute.migrations import MIGRATION
from trilith.compute.scheduler import claim, place
from trilith.compute.server_changes import ask_of
from trilith.compute.server_moves import is_local, take_over, without
from trilith.compute.servers import SERVER
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import now
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]
PRIORITY = "trilith:ha_priority"
MOST = 100


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
    if _is_decided_elsewhere(row):
        return None
    if row["failed"]:
        return "It is in ERROR."
    if priority(row, default) == 0:
        return f"Its {PRIORITY} is 0."
    if row["rescue_image_id"] or (row["seen"] or {}).get("rescue_image_id"):
        return "It is in rescue: that disk lies on the host."
    return next(filter(None, (_local(tx, row, disk) for disk in row["disks"])), None)


def _is_decided_elsewhere(row: Row) -> bool:
    """Whether the machine is on its way to another host: that its own is off lets it go on there."""
    return (row["move"] or {}).get("phase") in ("switching", "returning")


def _local(tx: Tx, row: Row, disk: Row) -> str | None:
    from trilith.volume.exports import is_shared
    from trilith.volume.volumes import VOLUME

    if disk["kind"] != "volume":
        return f"Its disk {disk['device']} lies on the host." if is_local(disk) else None
    volume = tx.one(VOLUME, id=disk["volume_id"])
    if volume is None or is_shared(volume, row["host"]):
        return None  # one that leaves counts too: its host may still have it
    return f"Its volume {volume['id']} lies on the host."


def _absent(tx: Tx, row: Row) -> str | None:
    """Which storage host has to come back first."""
    from trilith.volume.volumes import VOLUME

    ids = [disk["volume_id"] for disk in row["disks"] if disk["kind"] == "volume"]
    names = {volume["host"] for volume in tx.rows(VOLUME, id=ids) if volume["host"]} if ids else set()
    down = sorted(host["name"] for host in tx.rows(HOST, name=names) if not is_up(host, tx.now_s())) if names else []
    return f"Its volumes lie on {', '.join(down)}, which is down." if down else None


def move(tx: Tx, takeover: Row, server_id: str, default: int) -> None:
    """The machine is another host's from now on, or it is written down why it is not. Nothing happens where it was
    moved already, by whoever was here before."""
    row = tx.one(SERVER, id=server_id, host=takeover["host"], deleted_at=None)
    if row is None or row["deleting"]:
        return
    if row["move"] is not None:
        row = without(tx, row, takeover["host"])
    why: str | None = None
    target, again = None, False
    if row["host"] != takeover["host"]:
        target = row["host"]
    elif _is_decided_elsewhere(row):
        why, again = f"Host {row['peer']} has to tell first what has come there.", True
    elif (why := stays(tx, row, default)) is None and (why := _absent(tx, row)) is not None:
        again = True
    elif why is None:
        try:
            chosen = place(tx, ask_of(tx, row, row["flavor"], takeover=True))
        except Fault as fault:  # no room now
            why, again = fault.message, True
        else:
            target = chosen["name"]
            claim(tx, chosen)
            _record(tx, take_over(tx, row, target), takeover["host"])
    entry = {
        "server_id": server_id,
        "name": row["name"],
        "priority": priority(row, default),
        "to": target,
        "why": why,
        "again": again,
        "at_s": tx.now_s(),
    }
    others = [other for other in takeover["moves"] if other["server_id"] != server_id]
    tx.update(TAKEOVER, takeover, moves=[*others, entry])


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
