"""Attachments: who uses a volume, where, as what device.

``reserved`` (nobody connects yet) -> ``attaching`` (a machine shall have it) -> ``attached`` (its agent says that it
has) -> ``detaching``.
"""

from collections.abc import Callable
from typing import Any

from trilith.kernel.declare import Noun, computed, flag, given, ident, json, text, time
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Choice, Json, now
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx
from trilith.kernel.versions import v
from trilith.volume.versions import VOLUMES
from trilith.volume.volumes import VOLUME

Row = dict[str, Any]
ORDER = ("detaching", "attaching", "attached", "reserved")
PHASES = {"attached": "in-use"}

ATTACHMENT = Noun(
    VOLUMES,
    "attachment",
    "/attachments",
    dict(
        id=ident(brief=True, sort=True),
        volume_id=ident(brief=True, filter=True, index=True),
        server_id=ident(wire="instance", brief=True, index=True),
        status=text(16, brief=True, filter=True),
        mode=text(4, default="rw", wire="attach_mode", show=lambda row, ctx: row["mode"]),
        attached_at=time(show=lambda row, ctx: row["attached_at"] or ""),
        detached_at=computed(lambda row, ctx: ""),
        connection_info=json(default=dict, show=lambda row, ctx: row["connection_info"] or {}),
        host=text(255, hidden=True),
        device=text(255, hidden=True),
        # its running machine came from another host, and so has it by network though it is on its own
        by_network=flag(default=False, hidden=True),
        asked_volume=given(ident().kind, wire="volume_uuid", create="required"),
        asked_server=given(ident().kind, wire="instance_uuid"),
        connector=given(Json(), null=True, update=True),
        asked_mode=given(Choice(("rw", "ro")), wire="mode", since=v("3.54")),
    ),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
    status=dict(create=200, delete=200),
    detail=True,
    since=v("3.27"),
    filters={"all_tenants": lambda ctx, values: None, "instance_id": lambda ctx, values: _server(values)},
)


def _server(values: list[str]) -> Any:
    return ATTACHMENT.c.server_id == values[-1]


def sum_up(tx: Tx, volume: Row) -> Row:
    """Writes into the volume what its attachments amount to."""
    statuses = {a["status"] for a in tx.rows(ATTACHMENT, volume_id=volume["id"])}
    first = next((status for status in ORDER if status in statuses), "")
    return tx.update(VOLUME, tx.get(VOLUME, volume["id"]), attach_phase=PHASES.get(first, first), forced_status=None)


def reserve(
    tx: Tx, new_id: Callable[[], str], volume: Row, *, server_id: str | None, mode: str = "rw", made_for: bool = False
) -> Row:
    """The volume is promised to a server; `Fault` when it cannot be given. `made_for`: it is being made for it."""
    free = (
        made_for
        or volume["status"] == "available"
        or (volume["multiattach"] and volume["status"] in ("in-use", "reserved"))
    )
    if not free:
        message = f"Invalid volume: Volume {volume['id']} status must be available or downloading to reserve, "
        raise Fault("invalid", f"{message}but the current status is {volume['status']}.")
    if server_id and tx.count(ATTACHMENT, volume_id=volume["id"], server_id=server_id):
        raise Fault("invalid", f"Volume {volume['id']} is already attached to server {server_id}.")
    new = {"id": new_id(), "volume_id": volume["id"], "server_id": server_id, "status": "reserved", "mode": mode}
    row = tx.insert(ATTACHMENT, new | {"project_id": volume["project_id"]})
    sum_up(tx, volume)
    return row


def attach(
    tx: Tx,
    new_id: Callable[[], str],
    volume: Row,
    *,
    server_id: str,
    host: str | None,
    device: str,
    mode: str = "rw",
    made_for: bool = False,
) -> Row:
    """A server shall have the volume: reserve (unless it did) and begin to attach."""
    row = tx.one(ATTACHMENT, volume_id=volume["id"], server_id=server_id)
    row = row or reserve(tx, new_id, volume, server_id=server_id, mode=mode, made_for=made_for)
    row = tx.update(ATTACHMENT, row, status="attaching", host=host, device=device)
    sum_up(tx, volume)
    return row


def attached(tx: Tx, row: Row) -> Row:
    """The server's agent has it."""
    if row["status"] == "attached":
        return row
    row = tx.update(ATTACHMENT, row, status="attached", attached_at=now())
    sum_up(tx, tx.get(VOLUME, row["volume_id"]))
    return row


def begin_detach(tx: Tx, volume_id: str, server_id: str) -> None:
    row = tx.one(ATTACHMENT, volume_id=volume_id, server_id=server_id)
    if row is not None and row["status"] != "detaching":
        tx.update(ATTACHMENT, row, status="detaching")
        sum_up(tx, tx.get(VOLUME, volume_id))


def detached(tx: Tx, volume_id: str, server_id: str) -> None:
    """The server has it no more."""
    row = tx.one(ATTACHMENT, volume_id=volume_id, server_id=server_id)
    if row is not None:
        tx.delete(ATTACHMENT, row)
        sum_up(tx, tx.get(VOLUME, volume_id))


def attachments_of(tx: Tx, server_ids: list[str]) -> list[Row]:
    return tx.rows(ATTACHMENT, server_id=server_ids) if server_ids else []


def attachments_of_volumes(tx: Tx, volume_ids: list[str]) -> list[Row]:
    return tx.rows(ATTACHMENT, volume_id=volume_ids) if volume_ids else []


# the attachments API: for those who connect volumes by themselves
@ATTACHMENT.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    volume = ctx.find(VOLUME, new["asked_volume"])
    mode = new.get("asked_mode") or ("ro" if volume["readonly"] else "rw")
    row = reserve(ctx.tx, lambda: new["id"], volume, server_id=new.get("asked_server"), mode=mode)
    return _connected(ctx, row, new["connector"]) if new.get("connector") else row


def _connected(ctx: Ctx, row: Row, connector: Any) -> Row:
    if not isinstance(connector, dict):
        raise Bad("connector", connector, f"{connector!r} is not of type 'object'")
    volume = ctx.tx.get(VOLUME, row["volume_id"])
    host, device = connector.get("host"), connector.get("mountpoint")
    info = {"driver_volume_type": "file", "path": volume["path"], "format": "qcow2", "access_mode": row["mode"]}
    if volume["pool"]:
        info |= {"driver_volume_type": "rbd", "name": volume["path"], "format": "raw"}
    info |= {"volume_id": volume["id"], "attachment_id": row["id"]}
    row = ctx.tx.update(ATTACHMENT, row, status="attaching", host=host, device=device, connection_info=info)
    sum_up(ctx.tx, volume)
    return row


@ATTACHMENT.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if not changes.get("connector"):
        raise Fault("invalid", "Invalid input received: 'connector' is a required property")
    return _connected(ctx, row, changes["connector"])


@ATTACHMENT.verb("os-complete", "member", since=v("3.44"), status=204)
def complete(ctx: Ctx, row: Row, body: Any) -> None:
    attached(ctx.tx, row)


@ATTACHMENT.on("delete")
def delete(ctx: Ctx, row: Row) -> Reply:
    """A server's own attachment is taken away through its server, so that no machine keeps a disk that others get."""
    from trilith.compute.servers import SERVER

    in_use = row["server_id"] and ctx.tx.one(SERVER, id=row["server_id"]) is not None and row["status"] != "reserved"
    if in_use and "service" not in ctx.who.roles:
        raise Fault("conflict", f"Detach the volume from server {row['server_id']} through the compute API.")
    ctx.tx.delete(ATTACHMENT, row)
    sum_up(ctx.tx, ctx.tx.get(VOLUME, row["volume_id"]))
    left = ctx.tx.rows(ATTACHMENT, volume_id=row["volume_id"])
    return Reply({"attachments": ctx.show_all(ATTACHMENT, left, brief=True)}, 200)
