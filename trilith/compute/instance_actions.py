"""What was done to a server, by whom, and how it ended. Actions outlive their server."""

import uuid
from typing import Any

import sqlalchemy as sa

from trilith.compute.versions import COMPUTE
from trilith.compute.views import host_id
from trilith.kernel.declare import Noun, text, time
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Time, now
from trilith.kernel.paging import fetch
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
OF_DELETED_SINCE, EVENTS_SINCE, PAGED_SINCE, HOST_SINCE = v("2.21"), v("2.51"), v("2.58"), v("2.62")
BEFORE_SINCE, DETAILS_SINCE = v("2.66"), v("2.84")
# what upstream calls the one event of each action
EVENTS = {
    "create": "compute__do_build_and_run_instance",
    "delete": "compute_terminate_instance",
    "start": "compute_start_instance",
    "stop": "compute_stop_instance",
    "reboot": "compute_reboot_instance",
    "rebuild": "compute_rebuild_instance",
    "resize": "compute_finish_resize",
    "confirmResize": "compute_confirm_resize",
    "revertResize": "compute_finish_revert_resize",
    "migrate": "compute_finish_resize",
    "live-migration": "compute_live_migration",
    "evacuate": "compute_rebuild_instance",
    "createImage": "compute_snapshot_instance",
    "attach_volume": "compute_attach_volume",
    "detach_volume": "compute_detach_volume",
    "extend_volume": "compute_extend_volume",
    "attach_interface": "compute_attach_interface",
    "detach_interface": "compute_detach_interface",
    "problem": "compute_machine_problem",
}
NO_EVENT = ("lock", "unlock")
PROBLEM = "problem"  # nobody's doing: the machine's


def _since(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool] | None:
    if ctx.at < PAGED_SINCE:
        return None
    return ACTION.c.changed_at >= Time().from_query(values[-1], "changes-since")  # type: ignore[no-any-return]


def _before(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool] | None:
    if ctx.at < BEFORE_SINCE:
        return None
    return ACTION.c.changed_at <= Time().from_query(values[-1], "changes-before")  # type: ignore[no-any-return]


ACTION = Noun(
    COMPUTE,
    "instanceAction",
    "/servers/{server_id}/os-instance-actions",
    dict(
        server_id=text(64, wire="instance_uuid", index=True),
        action=text(255),
        request_id=text(64, index=True),
        user_id=text(64),
        project_id=text(64),
        start_time=time(),
        message=text(255),
        changed_at=time(wire="updated_at", since=PAGED_SINCE),
        finished_at=time(hidden=True),
        result=text(64, hidden=True),
        details=text(65535, hidden=True),
        host=text(255, hidden=True),
    ),
    {},
    key="request_id",
    owner=None,
    filters={"changes-since": _since, "changes-before": _before},
    order=[("start_time", "desc"), ("id", "desc")],
    plural="instanceActions",
)


def record(ctx: Ctx, server: Row, action: str, done: bool = False) -> None:
    """Notes that the caller does this to the server; `finish` says later how it ended, unless it is `done` at once."""
    moment = now()
    row = {
        "id": ctx.new_id(),
        "server_id": server["id"],
        "action": action,
        "request_id": ctx.request_id,
        "user_id": ctx.who.user_id,
        "project_id": server["project_id"],
        "start_time": moment,
        "changed_at": moment,
        "host": server.get("host"),
    }
    ctx.tx.insert(ACTION, row | ({"finished_at": moment, "result": "Success"} if done else {}))


def unfinished(tx: Tx, server_id: str) -> list[Row]:
    return tx.rows(ACTION, server_id=server_id, finished_at=None)


def finish(tx: Tx, server_id: str, fault: str | None = None, host: str | None = None) -> None:
    """Ends whatever was going on with the server."""
    moment = now()
    for row in unfinished(tx, server_id):
        result = "Success" if fault is None else "Error"
        changes: Row = {"finished_at": moment, "changed_at": moment, "result": result, "details": fault}
        message = None if fault is None else "Error"
        tx.update(ACTION, row, host=host or row["host"], message=message, **changes)


def note(tx: Tx, server: Row, problem: str) -> None:
    """What keeps a server's host from going on: told with what is being done, else as an action of its own."""
    rows = unfinished(tx, server["id"])
    if not rows:
        newest = max(tx.rows(ACTION, server_id=server["id"]), key=lambda row: str(row["start_time"]), default=None)
        rows = [newest if newest and newest["action"] == PROBLEM else _problem(tx, server)]
    for row in rows:
        tx.update(ACTION, row, details=problem, changed_at=now())


def _problem(tx: Tx, server: Row) -> Row:
    moment = now()
    row = {name: server[name] for name in ("user_id", "project_id", "host")}
    row |= {"id": str(uuid.uuid4()), "request_id": f"req-{uuid.uuid4()}", "server_id": server["id"], "action": PROBLEM}
    row |= {"start_time": moment, "finished_at": moment, "result": "Error", "message": "Error"}
    return tx.insert(ACTION, row)


def _events(ctx: Ctx, row: Row) -> list[Row]:
    if row["action"] in NO_EVENT:
        return []
    event: Row = {
        "event": EVENTS.get(row["action"], f"compute_{row['action']}_instance"),
        "start_time": row["start_time"],
        "finish_time": row["finished_at"],
        "result": row["result"],
    }
    if ctx.who.is_admin:
        event["traceback"] = row["details"] if row["result"] == "Error" else None
    if ctx.at >= HOST_SINCE:
        event["hostId"] = host_id(row["project_id"], row["host"])
        if ctx.who.is_admin:
            event["host"] = row["host"]
    if ctx.at >= DETAILS_SINCE:
        event["details"] = row["details"]
    return [event]


def _check_server(ctx: Ctx) -> None:
    """404 unless the caller may see the server; a deleted one too, at microversions that show those."""
    from trilith.compute.servers import SERVER

    row = ctx.tx.one(SERVER, id=ctx.path["server_id"])
    gone = row is not None and row["deleted_at"] is not None and ctx.at < OF_DELETED_SINCE
    if row is None or gone or (row["project_id"] != ctx.who.project_id and not ctx.who.is_admin):
        raise SERVER.missing(ctx.path["server_id"])


@COMPUTE.route("GET", "/servers/{server_id}/os-instance-actions", "reader")
def list_actions(ctx: Ctx) -> Reply:
    _check_server(ctx)
    listing = ctx.service.wire.listing(ctx, ACTION)
    page = fetch(ctx, ACTION, listing)
    body = ctx.service.wire.wrap_list(ctx, ACTION, [ACTION.view(ctx, row) for row in page.rows], page, listing)
    if "instanceActions_links" in body:
        body["links"] = body.pop("instanceActions_links")
    return Reply(body, 200)


@COMPUTE.route("GET", "/servers/{server_id}/os-instance-actions/{request_id}", "reader")
def show_action(ctx: Ctx) -> Row:
    _check_server(ctx)
    row = ctx.tx.one(ACTION, server_id=ctx.path["server_id"], request_id=ctx.path["request_id"])
    if row is None:
        raise Fault("missing", f"Action for request_id {ctx.path['request_id']} on instance not found")
    view = ACTION.view(ctx, row)
    if ctx.who.is_admin or ctx.at >= EVENTS_SINCE:
        view["events"] = _events(ctx, row)
    return {"instanceAction": view}
