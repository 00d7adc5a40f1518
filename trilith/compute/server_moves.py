"""How a server gets from one host to another: the rows of one move, changed by what both hosts report.

While a server moves, `peer` is the other of its two hosts and `move` says how far it is: ``migration_id kind phase
until`` and what has to be put back when it is undone. Both hosts get a want. `host` changes in one transaction, with
the ports' and the volumes' places, and never before the machine cannot run on the host that it had:

    copying     it is stopped; the target copies its local disks (`kind` migration, resize)
    kept        it runs on the target; the source keeps the disks until this is confirmed
    returning   it shall go back: it is ended on the host that it came to, and starts from what was kept
    preparing   the target's QEMU gets ready for a running machine (`kind` live-migration)
    moving      the source mirrors disks and sends memory, and stops before the last step
    switching   the last step was allowed: the machine is where its source says; what has come to the target stands
                still until the row says that it landed there

When one of both hosts is known to be off (`takeovers.is_off`), `without` ends or undoes the move.
An undone move leaves nothing but the record: what the target has, nobody wants any more.
"""

import time
import uuid
from datetime import datetime, timedelta
from typing import Any

from trilith.compute import migrations
from trilith.compute.aggregates import AGGREGATE, zone_of
from trilith.compute.instance_actions import finish
from trilith.compute.server_disks import format_of
from trilith.compute.servers import SERVER, fault_of, wish
from trilith.compute.takeovers import is_off
from trilith.compute.versions import COMPUTE
from trilith.identity.tokens import keys
from trilith.image.images import IMAGE
from trilith.kernel.kinds import now
from trilith.kernel.notices import tell
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, is_up

Row = dict[str, Any]

LIVE = ("preparing", "moving", "switching")
NO_MOVE: Row = {"move": None, "peer": None, "peer_claim": {}, "peer_seen": None}
PHASE_S = {"copying": 7200, "returning": 600, "preparing": 300, "moving": 7200, "switching": 120}
LOST_MEMORY = ("paused", "suspended")
SILENT_S = 60  # a host that is not heard for so long takes no part in a move


def begin(tx: Tx, row: Row, target: str, phase: str, peer_claim: Row, migration: Row, **more: Any) -> Row:
    """The server shall go to `target`. `more`: what undoing it needs, and further columns."""
    move = {"migration_id": migration["id"], "kind": migration["migration_type"], "phase": phase}
    move |= {"root_gib": more.pop("root_gib", None)}
    if phase in LIVE:
        _bind_peer(tx, row, target)
    return wish(
        tx, row, move=move | {"until": _until(phase)}, peer=target, peer_claim=peer_claim, peer_seen=None, **more
    )


def phase_of(row: Row, phase: str) -> Row:
    """The server's `move`, in another phase."""
    return row["move"] | {"phase": phase, "until": _until(phase)}  # type: ignore[no-any-return]


def _until(phase: str) -> str:
    return (datetime.fromisoformat(now()) + timedelta(seconds=PHASE_S[phase])).isoformat(timespec="microseconds")


def document(row: Row, host: str) -> Row | None:
    """What the want of one of both hosts says of the move; None for a host that only has to run the machine."""
    move = row["move"]
    if move is None:
        return None
    phase, is_owner = move["phase"], host == row["host"]
    if phase == "kept":
        return None if is_owner else {"role": "source", "phase": "kept"}
    if phase == "returning":
        return {"role": "source", "phase": "returning" if is_owner else "kept"}
    found = {"role": "source" if is_owner else "target", "phase": phase, "id": move["migration_id"]}
    found |= {"key": keys().derived("move", move["migration_id"])}
    seen, peer_seen = row["seen"] or {}, row["peer_seen"] or {}
    if phase == "copying":
        return found if is_owner else found | {"from": _of_this_move(seen.get("export"), move)}
    if is_owner:
        return found | {"to": _of_this_move(peer_seen.get("incoming"), move), "force": bool(move.get("force"))}
    return found | {"layout": seen.get("layout")}


def _of_this_move(place: Row | None, move: Row) -> Row | None:
    return place if place is not None and place["move"] == move["migration_id"] else None


# what the hosts report


def reported(tx: Tx, row: Row, host: str, seen: Row | None, fault: str | None, current: bool) -> bool:
    """Takes what one of both hosts saw; False where there is no move, or only `kept` disks on another host."""
    move, is_owner = row["move"], host == row["host"]
    if move is None or (move["phase"] == "kept" and is_owner):
        return False
    if not is_owner or move["phase"] != "kept":
        column: Row = {"seen" if is_owner else "peer_seen": seen}
        row = tx.update(SERVER, row, **column)
    if not current:
        return True
    if fault is not None and move["phase"] in ("copying", "preparing", "moving"):
        undo(tx, row, fault)
    elif move["phase"] in STEPS:
        STEPS[move["phase"]](tx, row, is_owner, seen or {})
    return True


def _copying(tx: Tx, row: Row, is_owner: bool, seen: Row) -> None:
    fetched = _of_this_move(seen.get("fetched"), row["move"])
    if not is_owner and fetched is not None and set(local_keys(row)) <= set(fetched["keys"]):
        migrations.set_status(tx, row["id"], "post-migrating")
        _change_hosts(tx, row, "kept", claim=row["peer_claim"], peer_claim=row["claim"])


def _returning(tx: Tx, row: Row, is_owner: bool, seen: Row) -> None:
    """What was kept runs again once the machine cannot run any more where it went."""
    if is_owner and not seen.get("process") and not seen.get("taps"):
        _go_back(tx, row)


def _go_back(tx: Tx, row: Row) -> Row:
    row = _change_hosts(tx, row, "kept", claim=row["peer_claim"], boot_epoch=_next_boot(row))
    return tx.update(SERVER, row, **NO_MOVE)


def _preparing(tx: Tx, row: Row, is_owner: bool, seen: Row) -> None:
    if is_owner:
        _watch_source(tx, row, seen)
    elif _of_this_move(seen.get("incoming"), row["move"]) is not None:
        migrations.set_status(tx, row["id"], "running")
        _go_on(tx, row, "moving")


def _watch_source(tx: Tx, row: Row, seen: Row) -> bool:
    if seen.get("process") and seen["power"] in ("running", "paused"):
        return True
    undo(tx, row, "The machine stopped while it moved.")
    return False


def _moving(tx: Tx, row: Row, is_owner: bool, seen: Row) -> None:
    if not is_owner:
        if _of_this_move(seen.get("incoming"), row["move"]) is None:
            undo(tx, row, f"The machine's new process on host {row['peer']} ended. {seen.get('waiting') or ''}")
        return
    out = _of_this_move(seen.get("outgoing"), row["move"]) or {"status": "none"}
    if out["status"] in ("failed", "cancelled"):
        undo(tx, row, out.get("error") or "QEMU gave the migration up.")
    elif _watch_source(tx, row, seen) and out["status"] == "pre-switchover":
        if all(out.get("mirrors", {}).get(key) for key in local_keys(row)):
            _go_on(tx, row, "switching")
        else:
            undo(tx, row, "A disk was not copied to its end.")


def _switching(tx: Tx, row: Row, is_owner: bool, seen: Row) -> None:
    """Only what the source says of QEMU's last step decides; where its process is gone, what has come does."""
    source = row["seen"] or {}
    out = _of_this_move(source.get("outgoing"), row["move"]) or {"status": "none"}
    if not source.get("process"):
        _land_without_source(tx, row)
    elif out["status"] in ("failed", "cancelled"):
        undo(tx, row, out.get("error") or "QEMU gave the migration up.")
    elif out["status"] == "completed":
        _land(tx, row)


def _land_without_source(tx: Tx, row: Row, wait: bool = True) -> Row:
    """The machine goes on where its memory has come, or boots there: the mirrored disks are there, as new as the
    source's. `wait`: while the target may still get what was sent, it is not decided."""
    incoming = _of_this_move((row["peer_seen"] or {}).get("incoming"), row["move"])
    if incoming is not None and incoming["arrived"]:
        return _land(tx, row)
    if incoming is None or not wait:
        return _land(tx, row, boot_epoch=_next_boot(row))
    return row


def _land(tx: Tx, row: Row, **changes: Any) -> Row:
    migrations.set_status(tx, row["id"], "completed")
    old = row["host"]
    row = _change_hosts(tx, row, "kept", claim=row["peer_claim"], by_network=True, **changes)
    row = tx.update(SERVER, row, **NO_MOVE)
    tx.hint(f"host:{old}")
    return row


STEPS = {
    "copying": _copying,
    "returning": _returning,
    "preparing": _preparing,
    "moving": _moving,
    "switching": _switching,
}


def _go_on(tx: Tx, row: Row, phase: str) -> Row:
    return wish(tx, row, move=phase_of(row, phase))


# places


def local_keys(row: Row) -> list[str]:
    """The disks that lie on the server's host only."""
    return ["root" if disk["kind"] == "image" else disk["label"] for disk in row["disks"] if is_local(disk)]


def is_local(disk: Row) -> bool:
    """Whether a disk of the machine's own lies on its host, and not in storage that every host reaches."""
    return disk["kind"] != "volume" and not disk.get("rbd")


def _change_hosts(tx: Tx, row: Row, phase: str, by_network: bool = False, **changes: Any) -> Row:
    """The server's two hosts change their parts, and with them what each had seen."""
    target = row["peer"]
    move = row["move"] | {"phase": phase}
    changes |= {"failed": False, "fault": None, "peer": row["host"], "seen": row["peer_seen"], "peer_seen": row["seen"]}
    return settle_on(tx, row, target, by_network=by_network, move=move, **changes)


def settle_on(tx: Tx, row: Row, target: str, by_network: bool = False, **changes: Any) -> Row:
    """The server belongs to that host from now on, with its ports and volumes. `by_network`: its running QEMU reaches
    every volume through the network, also one that is on the target."""
    from trilith.network.ports import PORT, bind_port, ports_of
    from trilith.volume.attachments import ATTACHMENT
    from trilith.volume.volumes import VOLUME

    zone = zone_of(tx.get(HOST, target), tx.rows(AGGREGATE))
    for port in ports_of(tx, [row["id"]]):
        place = {"device_id": row["id"], "device_owner": f"compute:{zone}", "host": target}
        tx.update(PORT, bind_port(tx, port, **place), binding_peer="")
    disks = []
    for disk in changes.pop("disks", row["disks"]):
        if disk["kind"] == "volume":
            attachment = tx.one(ATTACHMENT, id=disk["attachment_id"])
            volume = tx.one(VOLUME, id=disk["volume_id"])
            over_network = by_network and volume is not None and volume["host"] == target
            disk = disk | {"by_network": over_network}
            if attachment is not None:
                tx.update(ATTACHMENT, attachment, host=target, by_network=over_network)
        disks.append(disk)
    return wish(tx, row, host=target, zone=zone, disks=disks, **changes)


def _bind_peer(tx: Tx, row: Row, target: str) -> None:
    """Both hosts may plug the ports in: traffic goes on where the machine is, from the moment that it is there."""
    from trilith.network.ports import PORT, ports_of

    for port in ports_of(tx, [row["id"]]):
        tx.update(PORT, port, binding_peer=target)


# the end


def _next_boot(row: Row) -> int:
    """What was stopped for the move starts again, if it is wanted so."""
    return int(row["boot_epoch"] + (row["power"] == "running"))


def undo(tx: Tx, row: Row, why: str, status: str = "error") -> Row:
    """The server stays where it is."""
    row = forget_move(tx, row, status)
    finish(tx, row["id"], why, row["host"])
    return row


def forget_move(tx: Tx, row: Row, status: str) -> Row:
    """Nobody moves any more; a machine that was stopped for it starts again."""
    from trilith.network.ports import PORT, ports_of

    move = row["move"]
    changes: Row = dict(NO_MOVE)
    if move["phase"] in LIVE:
        for port in ports_of(tx, [row["id"]]):
            tx.update(PORT, port, binding_peer="")
    if move["phase"] == "copying":
        changes |= {"resize": None, "old_flavor": None, "boot_epoch": _next_boot(row)}
        changes |= sized(row, row["old_flavor"], move["root_gib"])
    if move["phase"] != "kept":
        changes |= {"failed": False, "fault": None}  # nobody has to tell any more how it ended
        migrations.set_status(tx, row["id"], status)
    return wish(tx, row, **changes)


def sized(row: Row, flavor: Row, root_gib: int | None = None) -> Row:
    """The columns that follow from a flavor. A root disk only grows, but to go back to one of `root_gib`."""
    disks = []
    for disk in row["disks"]:
        if disk["kind"] == "image":
            disk = disk | {"size_gib": root_gib if root_gib is not None else max(disk["size_gib"], flavor["disk_gib"])}
        disks.append(disk)
    return {
        "flavor": flavor,
        "flavor_id": flavor["id"],
        "vcpus": flavor["vcpus"],
        "ram_mib": flavor["ram_mib"],
        "disk_gib": flavor["disk_gib"] + flavor["ephemeral_gib"],
        "disks": disks,
    }


def root_gib(row: Row) -> int | None:
    return next((disk["size_gib"] for disk in row["disks"] if disk["kind"] == "image"), None)


def sweep_moves(tx: Tx) -> None:
    """Ends the moves that are overdue, or that have lost a host."""
    moment = now()
    for row in tx.rows(SERVER, SERVER.c.peer > "", deleted_at=None):  # by the index, which IS NOT NULL is not
        phase = row["move"]["phase"]
        if phase == "kept":
            continue
        off = next((host for host in (row["host"], row["peer"]) if is_off(tx, host)), None)
        if off is not None:
            without(tx, row, off)
            continue
        late = row["move"]["until"] < moment
        gone = next((host for host in (row["host"], row["peer"]) if _silent(tx, host)), None)
        if phase in ("copying", "preparing", "moving") and (late or gone is not None):
            undo(tx, row, f"Host {gone} is down." if gone else f"{phase} did not end within {PHASE_S[phase]} s.")
        elif phase == "switching" and late:
            both = f"{row['host']} and {row['peer']}"
            _wait_in_error(tx, row, f"It is not known on which of {both} the machine is: neither host tells.")
        elif phase == "returning" and late:
            _wait_in_error(tx, row, f"Host {row['host']} does not tell that the machine has ended there.")


def _wait_in_error(tx: Tx, row: Row, why: str) -> None:
    """Nothing can be decided before a host is heard again, or known to be off; then the move goes on by itself."""
    if not row["failed"]:
        finish(tx, row["id"], why)
        tx.update(SERVER, row, failed=True, fault=fault_of(why))


def _silent(tx: Tx, name: str) -> bool:
    host = tx.one(HOST, name=name)
    return host is None or (not is_up(host) and time.time() - (host["seen_at_s"] or 0.0) > SILENT_S)


# hosts that are off


def without(tx: Tx, row: Row, off: str) -> Row:
    """What becomes of a move when one of its hosts is known to run nothing any more. The row is left as it is where
    nothing has to be decided (``kept``), where the other host goes on by itself, or has to tell first."""
    phase, of_owner = row["move"]["phase"], off == row["host"]
    both = is_off(tx, row["peer"] if of_owner else row["host"])
    if phase == "kept":
        return row
    if phase == "returning":
        if not local_keys(row) and off == row["peer"]:
            return return_in_place(tx, row)
        return _go_back(tx, row) if of_owner else row
    if phase == "switching" and of_owner and not both:
        return _land_without_source(tx, row, wait=row["move"]["until"] >= now())
    return undo(tx, row, f"Host {off} is off.")


def return_in_place(tx: Tx, row: Row) -> Row:
    """The server shall go back to a host that is off, and nothing of it lies there: it becomes what it was here."""
    claims = (row["claim"], row["peer_claim"])
    changes: Row = {**NO_MOVE, "failed": False, "fault": None, "boot_epoch": _next_boot(row)}
    return wish(tx, row, claim=_larger(*claims), **changes)


def _larger(claim: Row, other: Row) -> Row:
    return {name: max(claim.get(name, 0), other.get(name, 0)) for name in {*claim, *other}}


def take_over(tx: Tx, row: Row, target: str, power: str | None = None, **changes: Any) -> Row:
    """The server of a host that is known to be off, and that does not move (but disks may be ``kept`` elsewhere),
    belongs to another one, which is claimed. What it had on local disks
    is made anew under another epoch: a host that had it before must not boot from what it kept. What lay in memory
    alone is gone: a machine that stood still is stopped. Its volumes get new keys: the old ones open nothing more."""
    source = row["host"]
    if row["move"] is not None:  # what was kept on the other host goes
        changes |= {**NO_MOVE, "claim": _larger(row["claim"], row["peer_claim"])}
    tell(
        tx, COMPUTE, "compute.instance.rebuild.scheduled", {"instance_id": row["id"], "host": target, "source": source}
    )
    if local_keys(row):
        changes |= {"root_epoch": row["root_epoch"] + 1, "snapshots": []}
    image = tx.one(IMAGE, id=row["image_id"]) if row["image_id"] else None
    disks = []
    for disk in row["disks"]:
        if disk["kind"] == "image" and is_local(disk) and image is not None:  # a shelved server's image is gone since
            disk = disk | {"image_id": row["image_id"], "image_format": format_of(image)}
        disks.append(_reattached(tx, row, disk, target))
    changes |= {"seen": None, "failed": False, "fault": None, "boot_epoch": row["boot_epoch"] + 1, "disks": disks}
    changes["power"] = power or ("stopped" if row["power"] in LOST_MEMORY else row["power"])
    return settle_on(tx, row, target, **changes)


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
    new = attach(tx, lambda: str(uuid.uuid4()), tx.get(VOLUME, volume["id"]), **place, made_for=True)
    return disk | {"attachment_id": new["id"], "attached": False}
