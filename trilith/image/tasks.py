"""Tasks of an image: what became of its imports."""

from typing import Any

from trilith.image.images import IMAGE
from trilith.image.versions import IMAGES
from trilith.kernel.declare import Noun, choice, computed, ident, text, time
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]

TASK = Noun(
    IMAGES,
    "task",
    "/images/{image_id}/tasks",
    dict(
        id=ident(),
        image_id=ident(index=True),
        type=text(64, default="api_image_import"),
        status=choice("pending", "processing", "success", "failure", default="pending"),
        project_id=text(64, wire="owner"),
        user_id=text(64),
        request_id=text(64),
        message=text(65535, default=""),
        expires_at=computed(lambda row, ctx: None),
        created_at=time(show=lambda row, ctx: f"{row['created_at'][:19]}Z"),
        updated_at=time(show=lambda row, ctx: f"{(row['updated_at'] or row['created_at'])[:19]}Z"),
        self=computed(lambda row, ctx: f"/v2/tasks/{row['id']}"),
        schema=computed(lambda row, ctx: "/v2/schemas/task"),
    ),
    {"list": "anyone"},
    parent=IMAGE,
    owner=None,
    table="image_tasks",
)


@TASK.on("list")
def list_tasks(ctx: Ctx) -> list[Row]:
    return ctx.tx.rows(TASK, image_id=ctx.path["image_id"])


def begin(tx: Tx, image: Row, task_id: str, user_id: str, request_id: str) -> None:
    new = {"id": task_id, "image_id": image["id"], "project_id": image["project_id"]}
    tx.insert(TASK, new | {"user_id": user_id, "request_id": request_id, "status": "pending"})


def end(tx: Tx, task_id: str, status: str, message: str = "") -> None:
    row = tx.one(TASK, id=task_id)
    if row is not None:
        tx.update(TASK, row, status=status, message=message)
