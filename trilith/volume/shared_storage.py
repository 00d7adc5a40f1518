"""Storage that every host reaches: the Ceph of the cluster file. Without it there is no row, and volumes are files.

A volume in it has a `pool` and no `host`: a controller works on it, by lease. A machine's disk in it says so in its
want, under ``rbd``; ``shared`` says that any host may open it.
"""

from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Noun, ident, json, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, topic
from trilith.volume.versions import VOLUMES

Row = dict[str, Any]
BACKEND = "ceph"
WHOLE = "whole"  # of an image in Ceph: the snapshot that volumes and machines' disks are cloned from

STORAGE = Noun(
    VOLUMES,
    "shared_storage",
    "/shared-storage",
    dict(
        id=ident(),
        images_pool=text(64),
        volumes_pool=text(64),
        machines_pool=text(64),
        # seen
        health=text(32),
        problems=json(default=list),
        total_gib=whole(default=0),
        free_gib=whole(default=0),
        seen_at_s=json(default=0.0),
    ),
    {},
    owner=None,
)


def shared_storage(tx: Tx) -> Row | None:
    """Where new volumes, images and machines' disks go; None where they are files of hosts."""
    return tx.one(STORAGE)


def declare(tx: Tx, storage_id: str, pools: tuple[str, str, str] | None) -> None:
    """What the cluster file says: the pools of images, volumes and machines. What lies in Ceph already stays there."""
    row = tx.one(STORAGE)
    if pools is None:
        if row is not None:
            tx.delete(STORAGE, row)
        return
    named: Row = dict(zip(("images_pool", "volumes_pool", "machines_pool"), pools, strict=True))
    if row is None:
        tx.insert(STORAGE, {"id": storage_id, **named})
    elif any(row[name] != pool for name, pool in named.items()):
        tx.update(STORAGE, row, **named)


def check_zone(tx: Tx, availability_zone: str) -> None:
    if not any(host["availability_zone"] == availability_zone for host in tx.rows(HOST)):
        raise Fault("invalid", f"Availability zone '{availability_zone}' is invalid.")


def wake(tx: Tx, volume: Row) -> None:
    """Whoever works on the volume has something to do."""
    tx.hint(topic(volume["host"]) if volume["host"] else "volumes")


def place(volume: Row) -> str | None:
    """Host, backend and pool as operators know them."""
    if volume["pool"]:
        return f"{BACKEND}@{BACKEND}#{volume['pool']}"
    return f"{volume['host']}@files#files" if volume["host"] else None


def is_elsewhere(volume: Row) -> bool:
    """Whether nobody works on the volume: it never got a place."""
    return volume["host"] is None and volume["pool"] is None


def disk_document(volume: Row) -> Row:
    """What the want of a machine on any host says of a volume in Ceph."""
    ready = volume["path"] is not None and not volume["seen_error"]
    return {
        "volume_id": volume["id"],
        "path": None,
        "nbd": None,
        "rbd": {"pool": volume["pool"], "image": volume["id"]} if ready else None,
        "shared": True,
        "format": "raw",
        # a machine's host follows what a controller has made
        "size_gib": min(volume["size_gib"], volume["seen_size_gib"] or 0),
        "serial": volume["id"][:20],
        "readonly": volume["readonly"],
    }


def place_of_disks(tx: Tx) -> Row:
    """What the row of a new server remembers of each of its own disks; {} where they are files of its host."""
    row = shared_storage(tx)
    return {} if row is None else {"rbd": {"pool": row["machines_pool"], "images_pool": row["images_pool"]}}


def own_disk(server: Row, disk: Row) -> Row:
    """What the want says of a server's own disk in Ceph, which is named by the server and how often it was rebuilt."""
    label = "root" if disk["kind"] == "image" else disk["label"]
    rbd = {"pool": disk["rbd"]["pool"], "image": f"{server['id']}_{label}-{server['root_epoch']}"}
    if disk["kind"] == "image":
        rbd["parent"] = [disk["rbd"]["images_pool"], disk["image_id"], WHOLE]
    return {"rbd": rbd, "shared": True}


def wake_machines(tx: Tx, volume: Row, seen: Row) -> None:
    """Hosts whose machines wait for a volume in Ceph to be there, or for its new size."""
    from trilith.volume.attachments import ATTACHMENT

    if (volume["path"], volume["seen_size_gib"]) != (seen["path"], seen["size_gib"]):
        for attachment in tx.rows(ATTACHMENT, volume_id=volume["id"]):
            if attachment["host"]:
                tx.hint(topic(attachment["host"]))


# a controller's work
def volume_wants(tx: Tx, pool: str) -> list[Row]:
    """Every volume in the pool."""
    from trilith.volume.volumes import VOLUME, documents

    return [document | {"format": "raw"} for _, document in documents(tx, tx.rows(VOLUME, pool=pool))]


def volume_report(tx: Tx, key: str, seen: Row | None, fault: str | None) -> None:
    from trilith.volume.volumes import VOLUME, note

    row = tx.one(VOLUME, VOLUME.c.pool.is_not(None), id=key)
    if row is not None:
        note(tx, row, seen, fault)


def disk_wants(tx: Tx) -> dict[str, set[str]]:
    """Images that live servers' own disks are, by pool."""
    from trilith.compute.servers import SERVER

    found: dict[str, set[str]] = {}
    for row in tx.rows(SERVER, deleted_at=None):
        for disk in row["disks"]:
            if disk.get("rbd"):
                document = own_disk(row, disk)["rbd"]
                found.setdefault(document["pool"], set()).add(document["image"])
    return found


def disks_of_host(tx: Tx, host: str) -> set[tuple[str, str]]:
    """Pool and image of everything in Ceph that machines of that host may have open, also those that move."""
    from trilith.compute.servers import SERVER
    from trilith.volume.volumes import VOLUME

    found, volumes = set(), set()
    for row in tx.rows(SERVER, sa.or_(SERVER.c.host == host, SERVER.c.peer == host), deleted_at=None):
        for disk in row["disks"]:
            if disk["kind"] == "volume":
                volumes.add(disk["volume_id"])
            elif disk.get("rbd"):
                document = own_disk(row, disk)["rbd"]
                found.add((document["pool"], document["image"]))
    rows = tx.rows(VOLUME, VOLUME.c.pool.is_not(None), id=volumes) if volumes else []
    return found | {(row["pool"], row["id"]) for row in rows}


def was_deleted(tx: Tx, server_id: str) -> bool:
    """Whether there was a server of that id: one that no row knows is of another database."""
    from trilith.compute.servers import SERVER

    return tx.one(SERVER, id=server_id) is not None


def image_wants(tx: Tx) -> list[Row]:
    """Every active image: ``id``, ``sha512``, ``disk_format``."""
    from trilith.image.images import IMAGE

    columns = (IMAGE.c.id, IMAGE.c.os_hash_value, IMAGE.c.disk_format, IMAGE.c.size_bytes)
    query = sa.select(*columns).where(IMAGE.c.phase == "active", IMAGE.c.size_bytes > 0)
    return [
        {"id": row["id"], "sha512": row["os_hash_value"], "disk_format": row["disk_format"]} for row in tx.select(query)
    ]
