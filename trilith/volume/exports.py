"""Volumes that machines of other hosts have: who may connect, with which key, and where.

A key is made of the cluster's own and of the attachment, whenever it is told; it is stored nowhere in SQL. Only the two
hosts of the attachment get it, and it opens nothing when the attachment is over. A volume that several servers may have
is reached so on its own host too: only one program can have a volume's file open.
"""

from typing import Any

from trilith.identity.tokens import keys
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST

Row = dict[str, Any]
ATTACHED = ("attaching", "attached", "detaching")


def is_remote(volume: Row, host: str | None) -> bool:
    """Whether a server of that host has the volume by network, not as a file."""
    return volume["pool"] is None and bool(volume["multiattach"] or volume["host"] != host)


def is_shared(volume: Row, host: str | None) -> bool:
    """Whether the volume outlives the host that a server with it runs on."""
    return bool(volume.get("shared") or volume["host"] != host)


def export_wants(tx: Tx, volumes: list[Row], attachments: list[Row]) -> dict[str, Row]:
    """By volume, who may connect to it: the ``export`` of its want. Hosts that are not ours get no key."""
    remote, by_id = [], {volume["id"]: volume for volume in volumes}
    for attachment in attachments:
        volume = by_id.get(attachment["volume_id"])
        if volume is not None and attachment["host"]:
            if not (attachment["by_network"] or is_remote(volume, attachment["host"])):
                continue
            remote.append(attachment)
    names = {host["name"] for host in tx.rows(HOST)} if remote else set()
    found: dict[str, Row] = {}
    for attachment in remote:
        if attachment["host"] in names and attachment["server_id"]:
            export = found.setdefault(attachment["volume_id"], {"keys": {}})
            export["keys"][attachment["id"]] = _key(attachment["volume_id"], attachment["id"])
    return found


def nbd_document(volume: Row, attachment_id: str) -> Row | None:
    """Where a server finds the volume, and with which key; None until its host serves it to this attachment."""
    export = volume["export"]
    if export is None or not export["running"] or attachment_id not in export["clients"]:
        return None
    place = {"address": export["address"], "port": export["port"], "name": volume["id"], "user": attachment_id}
    return place | {"key": _key(volume["id"], attachment_id)}


def _key(volume_id: str, attachment_id: str) -> str:
    return keys().derived("nbd", volume_id, attachment_id)
