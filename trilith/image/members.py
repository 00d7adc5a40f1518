"""Members of an image: projects that it is shared with, and what they say to that."""

from typing import Any

import sqlalchemy as sa

from trilith.image.images import IMAGE, MEMBERS
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Member, Object, Text, now
from trilith.kernel.request import Ctx

Row = dict[str, Any]


def _view(row: Row) -> Row:
    return {
        "image_id": row["image_id"],
        "member_id": row["member_id"],
        "status": row["status"],
        "created_at": f"{row['created_at'][:19]}Z",
        "updated_at": f"{row['updated_at'][:19]}Z",
        "schema": "/v2/schemas/member",
    }


def _rows(ctx: Ctx, image: Row, member_id: str | None = None) -> list[Row]:
    """Owners see all members, a member itself only."""
    query = sa.select(MEMBERS).where(MEMBERS.c.image_id == image["id"]).order_by(MEMBERS.c.created_at)
    if not ctx.who.is_admin and image["project_id"] != ctx.who.project_id:
        query = query.where(MEMBERS.c.member_id == ctx.who.project_id)
    if member_id is not None:
        query = query.where(MEMBERS.c.member_id == member_id)
    return ctx.tx.select(query)


def _one(ctx: Ctx, image: Row) -> Row:
    rows = _rows(ctx, image, ctx.path["member_id"])
    if not rows:
        raise Fault("missing", f"{ctx.path['member_id']} not found in the member list of the image {image['id']}.")
    return rows[0]


def _shared(image: Row) -> None:
    if image["visibility"] != "shared":
        raise Fault("forbidden", "Only shared images have members.")


@IMAGE.route("GET", "/{id}/members", "anyone")
def list_members(ctx: Ctx, row: Row) -> Row:
    _shared(row)
    return {"members": [_view(member) for member in _rows(ctx, row)], "schema": "/v2/schemas/members"}


@IMAGE.route("GET", "/{id}/members/{member_id}", "anyone")
def show_member(ctx: Ctx, row: Row) -> Row:
    return _view(_one(ctx, row))


@IMAGE.route("POST", "/{id}/members", "anyone", body=Object({"member": Member(Text(255, 1), required=True)}))
def add_member(ctx: Ctx, row: Row) -> Row:
    _shared(row)
    ctx.require("image_owner", "image:members:create", row)
    if _rows(ctx, row, ctx.body["member"]):
        raise Fault("conflict", f"Image member {ctx.body['member']} already exists.")
    member = {"image_id": row["id"], "member_id": ctx.body["member"], "status": "pending"}
    member |= {"created_at": now(), "updated_at": now()}
    ctx.tx.execute(MEMBERS.insert().values(member))
    return _view(member)


STATUS = Object({"status": Member(Choice(("pending", "accepted", "rejected")), required=True)})


@IMAGE.route("PUT", "/{id}/members/{member_id}", "anyone", body=STATUS)
def answer(ctx: Ctx, row: Row) -> Row:
    """Only the member itself says what it thinks of the image."""
    member = _one(ctx, row)
    if not ctx.who.is_admin and member["member_id"] != ctx.who.project_id:
        raise Fault("forbidden", "Only the member may change its status.")
    member |= {"status": ctx.body["status"], "updated_at": now()}
    where = (MEMBERS.c.image_id == row["id"], MEMBERS.c.member_id == member["member_id"])
    ctx.tx.execute(MEMBERS.update().where(*where).values(status=member["status"], updated_at=member["updated_at"]))
    return _view(member)


@IMAGE.route("DELETE", "/{id}/members/{member_id}", "anyone", status=204)
def remove_member(ctx: Ctx, row: Row) -> None:
    ctx.require("image_owner", "image:members:delete", row)
    member = _one(ctx, row)
    ctx.tx.execute(MEMBERS.delete().where(MEMBERS.c.image_id == row["id"], MEMBERS.c.member_id == member["member_id"]))
