"""Images as compute showed them until clients learned to ask the image service (2.36; their metadata until 2.39)."""

from typing import Any

import sqlalchemy as sa

from trilith.compute.server_requests import METADATA
from trilith.compute.versions import COMPUTE
from trilith.compute.views import links, seconds
from trilith.image.images import IMAGE
from trilith.image.images import delete as delete_image
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Member, Object, Time, Whole
from trilith.kernel.paging import Listing, fetch, number
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v

Row = dict[str, Any]
UNTIL, METADATA_UNTIL = v("2.35"), v("2.38")
STATUSES = {
    "active": ("ACTIVE", 100),
    "queued": ("SAVING", 25),
    "saving": ("SAVING", 50),
    "uploading": ("SAVING", 50),
    "importing": ("SAVING", 50),
    "deleted": ("DELETED", 0),
    "killed": ("ERROR", 0),
}


def _brief(ctx: Ctx, row: Row) -> Row:
    alternate = {
        "rel": "alternate",
        "type": "application/vnd.openstack.image",
        "href": f"{ctx.base_url}/image/images/{row['id']}",
    }
    return {"id": row["id"], "name": row["name"], "links": [*links(ctx, "images", row["id"]), alternate]}


def _view(ctx: Ctx, row: Row) -> Row:
    status, progress = STATUSES.get(row["status"], ("UNKNOWN", 0))
    properties = row["extra"] or {}
    view = _brief(ctx, row) | {
        "status": status,
        "progress": progress,
        "minDisk": row["min_disk_gib"] or 0,
        "minRam": row["min_ram_mib"] or 0,
        "metadata": properties,
        "created": seconds(row["created_at"]),
        "updated": seconds(row["updated_at"] or row["created_at"]),
        "OS-EXT-IMG-SIZE:size": row["size_bytes"],
    }
    if "instance_uuid" in properties:
        server = properties["instance_uuid"]
        view["server"] = {"id": server, "links": links(ctx, "servers", server)}
    return view


def _where(ctx: Ctx) -> list[sa.ColumnElement[bool]]:
    found = [IMAGE.c.phase != "deleted"]
    if (status := ctx.one("status")) is not None:
        found.append(IMAGE.c.status.in_([ours for ours, (theirs, _) in STATUSES.items() if theirs == status.upper()]))
    if (name := ctx.one("name")) is not None:
        found.append(IMAGE.c.name == name)
    if (server := ctx.one("server")) is not None:
        key = server.rstrip("/").rsplit("/", 1)[-1]
        found.append(IMAGE.c.extra["instance_uuid"].as_string() == key)
    if (kind := ctx.one("type")) is not None:
        snapshot = IMAGE.c.extra["image_type"].as_string()
        found.append(snapshot == "snapshot" if kind == "snapshot" else sa.func.coalesce(snapshot, "base") == kind)
    if (since := ctx.one("changes-since")) is not None:
        last = sa.func.coalesce(IMAGE.c.updated_at, IMAGE.c.created_at)
        found.append(last >= Time().from_query(since, "changes-since"))
    for query, column in (("minRam", IMAGE.c.min_ram_mib), ("minDisk", IMAGE.c.min_disk_gib)):
        if (least := ctx.one(query)) is not None:
            found.append(column >= Whole(0).from_query(least, query))
    return found


def _page(ctx: Ctx, detailed: bool) -> Row:
    limit = number(ctx.one("limit"), "limit")
    page = fetch(ctx, IMAGE, Listing(where=_where(ctx), limit=limit or 1000, marker=ctx.one("marker") or None))
    body: Row = {"images": [_view(ctx, row) if detailed else _brief(ctx, row) for row in page.rows]}
    if page.more and limit:
        href = ctx.service.wire.page_url(ctx, marker=page.rows[-1]["id"])
        body["images_links"] = [{"rel": "next", "href": href}]
    return body


@COMPUTE.route("GET", "/images", "reader", until=UNTIL)
def list_images(ctx: Ctx) -> Row:
    return _page(ctx, detailed=False)


@COMPUTE.route("GET", "/images/detail", "reader", until=UNTIL)
def list_detailed(ctx: Ctx) -> Row:
    return _page(ctx, detailed=True)


def _image(ctx: Ctx) -> Row:
    row = ctx.tx.one(IMAGE, IMAGE.c.id == ctx.path["image_id"], IMAGE.c.phase != "deleted", IMAGE.scope(ctx))
    if row is None:
        raise Fault("missing", "Image not found.")
    return row


def _own(ctx: Ctx) -> Row:
    row = _image(ctx)
    if row["project_id"] != ctx.who.project_id and not ctx.who.is_admin:
        raise Fault("forbidden", "You are not the owner of this image.")
    return row


@COMPUTE.route("GET", "/images/{image_id}", "reader", until=UNTIL)
def show_image(ctx: Ctx) -> Row:
    return {"image": _view(ctx, _image(ctx))}


@COMPUTE.route("DELETE", "/images/{image_id}", "member", until=UNTIL, status=204)
def drop_image(ctx: Ctx) -> None:
    delete_image(ctx, _own(ctx))


# metadata: an image's properties


def _set(ctx: Ctx, row: Row, metadata: Row) -> None:
    limit = quota.limits(ctx.tx, COMPUTE, ctx.who.project_id or "")["metadata_items"]
    if 0 <= limit < len(metadata):
        raise Fault("over_quota", f"Quota exceeded for metadata_items: asked {len(metadata)}, allowed {limit}.")
    ctx.tx.update(IMAGE, row, extra=metadata)


def _item(row: Row, key: str) -> Row:
    if key not in (row["extra"] or {}):
        raise Fault("missing", f"Metadata item {key} was not found")
    return {key: row["extra"][key]}


ALL = Object({"metadata": Member(METADATA, required=True)})
ONE = Object({"meta": Member(METADATA, required=True)})


@COMPUTE.route("GET", "/images/{image_id}/metadata", "reader", until=METADATA_UNTIL)
def list_metadata(ctx: Ctx) -> Row:
    return {"metadata": _image(ctx)["extra"] or {}}


@COMPUTE.route("POST", "/images/{image_id}/metadata", "member", until=METADATA_UNTIL, body=ALL)
def add_metadata(ctx: Ctx) -> Row:
    row = _own(ctx)
    metadata = (row["extra"] or {}) | ctx.body["metadata"]
    _set(ctx, row, metadata)
    return {"metadata": metadata}


@COMPUTE.route("PUT", "/images/{image_id}/metadata", "member", until=METADATA_UNTIL, body=ALL)
def replace_metadata(ctx: Ctx) -> Row:
    _set(ctx, _own(ctx), ctx.body["metadata"])
    return {"metadata": ctx.body["metadata"]}


@COMPUTE.route("GET", "/images/{image_id}/metadata/{key}", "reader", until=METADATA_UNTIL)
def show_item(ctx: Ctx) -> Row:
    return {"meta": _item(_image(ctx), ctx.path["key"])}


@COMPUTE.route("PUT", "/images/{image_id}/metadata/{key}", "member", until=METADATA_UNTIL, body=ONE)
def set_item(ctx: Ctx) -> Row:
    if set(ctx.body["meta"]) != {ctx.path["key"]}:
        raise Fault("invalid", "Request body and URI mismatch")
    row = _own(ctx)
    _set(ctx, row, (row["extra"] or {}) | ctx.body["meta"])
    return {"meta": ctx.body["meta"]}


@COMPUTE.route("DELETE", "/images/{image_id}/metadata/{key}", "member", until=METADATA_UNTIL, status=204)
def drop_item(ctx: Ctx) -> None:
    row = _own(ctx)
    _item(row, ctx.path["key"])
    _set(ctx, row, {key: value for key, value in row["extra"].items() if key != ctx.path["key"]})
