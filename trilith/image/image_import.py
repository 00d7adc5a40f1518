"""Images as a controller sees them: whose bytes it shall have, which imports are wanted, and what is written when one
ended.

An import has one worker at a time: who holds the row's token. A token begins with its controller's name as a worker,
so that a controller that died and came back goes on at once, and all others when `busy_until` has passed.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from trilith.image import tasks
from trilith.image.image_data import activate
from trilith.image.images import IMAGE, busy_until
from trilith.kernel.kinds import now
from trilith.kernel.reconcile import Doc
from trilith.kernel.store import Tx

Row = dict[str, Any]
COLUMNS = ("id", "generation", "phase", "method", "os_hash_value", "busy_token", "busy_until")


def worker(host: str) -> str:
    """A controller's name in tokens."""
    return hashlib.sha256(host.encode()).hexdigest()[:12]


def wants(tx: Tx) -> dict[str, Doc]:
    """Every image, as `image_plan` wants it."""
    rows = tx.select(IMAGE.table.select().with_only_columns(*(IMAGE.c[name] for name in COLUMNS)))
    return {row["id"]: _want(row) for row in rows}


def want(tx: Tx, image_id: str) -> Doc:
    row = tx.one(IMAGE, id=image_id)
    return {"id": image_id, "generation": 0, "present": False} if row is None else _want(row)


def _want(row: Mapping[str, Any]) -> Doc:
    method = msgspec.json.decode(row["method"]) if row["method"] else {}
    return {
        "id": row["id"],
        "generation": row["generation"],
        "present": True,
        "status": row["phase"],
        "sha512": row["os_hash_value"],
        "staged": method.get("staged"),
        "import": method if row["phase"] == "importing" else None,
        "worker": _busy(row),
    }


def _busy(row: Mapping[str, Any]) -> str | None:
    live = row["busy_token"] and row["busy_until"] and row["busy_until"] > now()
    return row["busy_token"].partition(":")[0] if live else None


def begin(tx: Tx, image_id: str, token: str) -> Row | None:
    """Take an importing image; None when there is nothing to do any more, or another is at it."""
    row = tx.one(IMAGE, id=image_id, phase="importing")
    if row is None or _busy(row) not in (None, token.partition(":")[0]):
        return None
    tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "processing")
    return tx.update(IMAGE, row, touch=False, busy_until=busy_until(), busy_token=token)


def succeed(tx: Tx, image_id: str, token: str, stored: Any) -> None:
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    activate(tx, image_id, token, stored)
    if row is not None and row["method"]:
        tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "success")


def fail(tx: Tx, image_id: str, token: str, reason: str) -> None:
    """The image is queued again; its task says why. Says nothing for who is no longer at it."""
    row = tx.one(IMAGE, id=image_id, phase="importing", busy_token=token)
    if row is not None:
        tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "failure", reason)
        tx.update(IMAGE, row, phase="queued", method=None, busy_until=None, busy_token=None)
