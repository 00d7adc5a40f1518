"""Imports as the controller sees them: which are wanted, and what is written when one ended."""

from typing import Any

import msgspec

from trilith.image import tasks
from trilith.image.image_data import activate
from trilith.image.images import IMAGE, busy_until
from trilith.kernel.reconcile import Doc
from trilith.kernel.store import Tx

Row = dict[str, Any]


def wants(tx: Tx) -> dict[str, Doc]:
    """Every image whose bytes the controller looks after: id, generation, present, status, import."""
    rows = tx.select(
        IMAGE.table.select().with_only_columns(IMAGE.c.id, IMAGE.c.generation, IMAGE.c.phase, IMAGE.c.method)
    )
    return {
        row["id"]: {
            "id": row["id"],
            "generation": row["generation"],
            "present": True,
            "status": row["phase"],
            "import": msgspec.json.decode(row["method"]) if row["method"] and row["phase"] == "importing" else None,
        }
        for row in rows
    }


def begin(tx: Tx, image_id: str, token: str) -> Row | None:
    """Take an importing image; None when there is nothing to do any more."""
    row = tx.one(IMAGE, id=image_id, phase="importing")
    if row is None:
        return None
    tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "processing")
    return tx.update(IMAGE, row, touch=False, busy_until=busy_until(), busy_token=token)


def succeed(tx: Tx, image_id: str, token: str, stored: Any) -> None:
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    activate(tx, image_id, token, stored)
    if row is not None and row["method"]:
        tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "success")


def fail(tx: Tx, image_id: str, reason: str) -> None:
    """The image is queued again; its task says why."""
    row = tx.one(IMAGE, id=image_id, phase="importing")
    if row is not None:
        tasks.end(tx, msgspec.json.decode(row["method"])["task_id"], "failure", reason)
        tx.update(IMAGE, row, phase="queued", method=None, busy_until=None, busy_token=None)
