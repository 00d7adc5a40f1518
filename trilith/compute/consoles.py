"""Consoles: what a machine printed, and expiring addresses under which a browser reaches its screen or serial port."""

import hashlib
import secrets
import time
from typing import Any
from urllib.parse import quote, urlsplit

from trilith.compute.server_actions import must
from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.declare import Noun, json, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Either, Member, Null, Object, Text, Whole
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v
from trilith.placement.ask import console_log
from trilith.placement.hosts import AGENTS

Row = dict[str, Any]
TOKEN_S = 600
RUNNING = ("active", "paused", "rescued", "resized")

TOKEN = Noun(
    COMPUTE,
    "console_token",
    "/os-console-auth-tokens",
    dict(
        digest=text(64, index=True),  # of the token; the token itself is nowhere
        server_id=text(64),
        host=text(255),
        console=text(16),  # vnc | serial
        expires_at_s=json(default=0.0),
    ),
    {},
    owner=None,
)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _address(ctx: Ctx, row: Row, console: str) -> str:
    must(ctx, row | {"locked": False}, "get_console", *RUNNING, tasks=(row["task_state"],))
    token, moment = secrets.token_urlsafe(32), time.time()
    for old in ctx.tx.rows(TOKEN, server_id=row["id"]):
        if old["expires_at_s"] < moment:
            ctx.tx.delete(TOKEN, old)
    new = {"id": ctx.new_id(), "digest": _digest(token), "server_id": row["id"], "host": row["host"]}
    ctx.tx.insert(TOKEN, new | {"console": console, "expires_at_s": moment + TOKEN_S})
    base = urlsplit(ctx.base_url)
    host = f"[{base.hostname}]" if ":" in (base.hostname or "") else base.hostname
    port = ctx.settings.get("hub_port", 8775)
    place = f"{host}:{port}" if port else base.netloc  # None: hub and API share one address
    if console == "serial":
        return f"{'wss' if base.scheme == 'https' else 'ws'}://{place}/console?token={token}"
    path = quote(f"console?token={token}", safe="")
    return f"{base.scheme}://{place}/novnc/vnc_lite.html?path={path}"


@AGENTS.route("POST", "/consoles/validate", "service", body=Object({"token": Member(Text(255), required=True)}))
def validate(ctx: Ctx) -> Row:
    """Where a console's token leads; 404 when it has expired or its server has moved on."""
    row = ctx.tx.one(TOKEN, digest=_digest(ctx.body["token"]))
    server = ctx.tx.one(SERVER, id=row["server_id"], deleted_at=None) if row else None
    if row is None or server is None or row["expires_at_s"] < time.time() or server["host"] != row["host"]:
        raise Fault("missing", "The token is not valid (any more).")
    return {"host": row["host"], "server_id": row["server_id"], "kind": row["console"]}


OFFERED = {("novnc", "vnc"): "vnc", ("serial", "serial"): "serial"}
REMOTE = Object(
    {
        "remote_console": Member(
            Object(
                {
                    "protocol": Member(Choice(("vnc", "spice", "rdp", "serial", "mks")), required=True),
                    "type": Member(
                        Choice(("novnc", "xvpvnc", "spice-html5", "rdp-html5", "serial", "webmks", "spice-direct")),
                        required=True,
                    ),
                }
            ),
            required=True,
        )
    }
)


@SERVER.route("POST", "/{id}/remote-consoles", "member", since=v("2.6"), body=REMOTE)
def remote_console(ctx: Ctx, row: Row) -> Row:
    asked = ctx.body["remote_console"]
    console = OFFERED.get((asked["type"], asked["protocol"]))
    if console is None:
        raise Fault("invalid", f"Unavailable console type {asked['type']}.")
    return {"remote_console": asked | {"url": _address(ctx, row, console)}}


def _old_body(*types: str) -> Object:
    return Object({"type": Member(Choice(types), required=True)})


@SERVER.verb("os-getVNCConsole", "member", status=200, until=v("2.5"), body=_old_body("novnc", "xvpvnc"))
def vnc_console(ctx: Ctx, row: Row, body: Row) -> Row:
    if body["type"] != "novnc":
        raise Fault("invalid", f"Unavailable console type {body['type']}.")
    return {"console": {"type": "novnc", "url": _address(ctx, row, "vnc")}}


@SERVER.verb("os-getSerialConsole", "member", status=200, until=v("2.5"), body=_old_body("serial"))
def serial_console(ctx: Ctx, row: Row, body: Row) -> Row:
    return {"console": {"type": "serial", "url": _address(ctx, row, "serial")}}


LENGTH = Object({"length": Member(Whole(-1), null=True)})


@SERVER.verb("os-getConsoleOutput", "member", status=200, body=Either((Null(), LENGTH)))
def console_output(ctx: Ctx, row: Row, body: Row | None) -> Reply:
    """The end of what the machine wrote to its serial port; asked of its host after the transaction."""
    lines = (body or {}).get("length")
    host = row["host"]
    if host is None or row["launched_at"] is None:
        raise Fault("conflict", f"Instance {row['id']} is not ready")
    settings, server_id = ctx.settings, row["id"]
    asked = None if lines in (None, -1) else lines
    return Reply(lambda: {"output": _clean(console_log(settings, host, server_id, asked), asked)}, 200)


def _clean(output: str, lines: int | None) -> str:
    """The last lines (what follows the last line end is one), without the control characters that readers of JSON
    stumble over."""
    plain = "".join(c for c in output if c >= " " or c in "\t\r\n")
    return plain if lines is None else "\n".join(plain.split("\n")[-lines:] if lines else [])
