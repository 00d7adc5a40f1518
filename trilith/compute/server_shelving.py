"""Shelving: a server without a host. Its root disk becomes an image, its volumes stay its own, and it can be made
again on any host.

`shelve` holds ``phase image_id power``: ``saving`` (the machine ends, its disk becomes the image), ``offloading`` (its
host takes it apart), ``offloaded``, ``unshelving`` (a host makes it anew of the image, which goes afterwards).
"""

from typing import Any

from trilith.compute.instance_actions import finish, record
from trilith.compute.scheduler import claim, place
from trilith.compute.server_actions import must
from trilith.compute.server_changes import ask_of
from trilith.compute.server_images import make_snapshot
from trilith.compute.server_moves import settle_on
from trilith.compute.server_requests import FQDN
from trilith.compute.servers import SERVER, wish
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Either, Member, Null, Object, Text
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
PINS_SINCE = v("2.91")


@SERVER.verb("shelve", "member")
def shelve(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "shelve", "active", "stopped", "paused", "suspended")
    image_id = None
    record(ctx, row, "shelve")
    if row["image_id"] is not None:
        image_id = make_snapshot(ctx, row, f"{row['name']}-shelved", {"image_type": "snapshot"})["id"]
    state = {"phase": "saving", "image_id": image_id, "power": row["power"]}
    wish(ctx.tx, ctx.tx.get(SERVER, row["id"]), shelve=state, power="stopped")


@SERVER.verb("shelveOffload", "admin")
def shelve_offload(ctx: Ctx, row: Row, body: Any) -> None:
    """What is shelved leaves its host by itself, at once."""
    if row["vm_state"] != "shelved":
        message = f"Cannot 'shelveOffload' instance {row['id']} while it is in vm_state {row['vm_state']}"
        raise Fault("conflict", message)


UNSHELVE = Either(
    (
        Null(),
        Object(
            {
                "availability_zone": Member(Text(255, 1), null=True, since=v("2.77")),
                "host": Member(Text(255, 1, FQDN), since=PINS_SINCE),
            }
        ),
    )
)


@SERVER.verb("unshelve", "member", body=UNSHELVE)
def unshelve(ctx: Ctx, row: Row, body: Row | None) -> None:
    must_be_offloaded(ctx, row, "unshelve")
    asked = body or {}
    if "host" in asked and not ctx.who.is_admin:
        raise forbidden("os_compute_api:os-shelve:unshelve_to_host")
    if "availability_zone" in asked and (asked["availability_zone"] is not None or ctx.at >= PINS_SINCE):
        row = ctx.tx.update(SERVER, row, pinned_zone=asked["availability_zone"])
    elif body and ctx.at < PINS_SINCE:
        raise Fault("invalid", "Invalid input for field/attribute availability_zone: it has to be a text.")
    ask = ask_of(ctx.tx, row, row["flavor"], asked.get("host"), not_on=None)
    try:
        target = place(ctx.tx, ask)
    except Fault as fault:
        if fault.kind == "unavailable":
            raise
        raise Fault("invalid", fault.message) from None
    claim(ctx.tx, target)
    record(ctx, row, "unshelve")
    changes = {"shelve": row["shelve"] | {"phase": "unshelving"}, "claim": ask.amounts(), "power": "running"}
    changes |= {"boot_epoch": row["boot_epoch"] + 1, "root_epoch": row["root_epoch"] + 1}
    _promise_volumes(ctx.tx, row)
    changes["disks"] = [_of_shelved(disk, row["shelve"]["image_id"]) for disk in row["disks"]]
    settle_on(ctx.tx, row, target["name"], **changes)


def must_be_offloaded(ctx: Ctx, row: Row, verb: str) -> None:
    """409 unless the server is shelved, has nothing else going on, and is not locked to the caller."""
    if row["locked"] and not ctx.who.is_admin:
        raise Fault("conflict", f"Instance {row['id']} is locked")
    for name, wanted in (("vm_state", "shelved_offloaded"), ("task_state", None)):
        if row[name] != wanted:
            message = f"Cannot '{verb}' instance {row['id']} while it is in {name} {row[name]}"
            raise Fault("conflict", message)


def _of_shelved(disk: Row, image_id: str | None) -> Row:
    if disk["kind"] != "image" or image_id is None:
        return disk
    return disk | {"image_id": image_id, "image_format": "qcow2"}


def _promise_volumes(tx: Tx, row: Row) -> None:
    from trilith.volume.attachments import ATTACHMENT, sum_up
    from trilith.volume.volumes import VOLUME

    for disk in row["disks"]:
        attachment = tx.one(ATTACHMENT, id=disk["attachment_id"]) if disk["kind"] == "volume" else None
        if attachment is not None:
            tx.update(ATTACHMENT, attachment, status="attaching")
            sum_up(tx, tx.get(VOLUME, disk["volume_id"]))


# what follows from what the host sees


def shelving_reported(tx: Tx, row: Row, seen: Row | None, current: bool) -> bool:
    """Takes the next step of a server that is being shelved; True where that was all there is to do."""
    state = row["shelve"]
    if state is None or not current:
        return False
    if state["phase"] == "offloading" and seen is None:
        _offloaded(tx, row)
        return True
    if state["phase"] == "saving" and seen is not None and not row["snapshots"]:
        if seen["power"] == "stopped" and not seen["process"]:
            _saved(tx, row)
            return True
    elif state["phase"] == "unshelving" and row["task_state"] is None:
        drop_shelved_image(tx, row)
        row = tx.update(SERVER, row, shelve=None)
        finish(tx, row["id"], host=row["host"])
    return False


def _saved(tx: Tx, row: Row) -> None:
    from trilith.image.images import IMAGE

    image_id = row["shelve"]["image_id"]
    image = tx.one(IMAGE, id=image_id) if image_id else None
    if image_id is not None and (image is None or image["phase"] != "active"):
        give_up_shelving(tx, row, f"Image {image_id}, which was to hold the server's disk, is gone.")
        return
    wish(tx, row, shelve=row["shelve"] | {"phase": "offloading"})


def give_up_shelving(tx: Tx, row: Row, why: str) -> Row:
    """The server stays as it was."""
    power = row["shelve"]["power"]
    boot = row["boot_epoch"] + (power == "running")
    finish(tx, row["id"], why)
    return wish(tx, row, shelve=None, power=power if power == "running" else "stopped", boot_epoch=boot, snapshots=[])


def _offloaded(tx: Tx, row: Row) -> None:
    from trilith.network.ports import PORT, ports_of
    from trilith.volume.attachments import ATTACHMENT, sum_up
    from trilith.volume.volumes import VOLUME

    for port in ports_of(tx, [row["id"]]):
        tx.update(PORT, port, binding_host="", seen_up=False)
    disks = []
    for disk in row["disks"]:
        if disk["kind"] == "volume":
            disk = disk | {"attached": False, "by_network": False}
            attachment = tx.one(ATTACHMENT, id=disk["attachment_id"])
            if attachment is not None:
                tx.update(ATTACHMENT, attachment, status="reserved", host=None, by_network=False)
                sum_up(tx, tx.get(VOLUME, disk["volume_id"]))
        disks.append(disk)
    state = row["shelve"] | {"phase": "offloaded"}
    finish(tx, row["id"], host=row["host"])
    tx.update(SERVER, row, shelve=state, host=None, zone="", claim={}, seen=None, disks=disks)


def drop_shelved_image(tx: Tx, row: Row) -> None:
    from trilith.image.images import IMAGE

    image = tx.one(IMAGE, id=row["shelve"]["image_id"]) if row["shelve"]["image_id"] else None
    if image is not None:
        tx.delete(IMAGE, image)
