"""A server's metadata and tags, one by one."""

from typing import Any

from trilith.compute.server_requests import METADATA, TAG
from trilith.compute.servers import SERVER, wish
from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import ListOf, Member, Object
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v

Row = dict[str, Any]
ALL = Object({"metadata": Member(METADATA, required=True)})
ONE = Object({"meta": Member(METADATA, required=True)})
TAGS_SINCE = v("2.26")
MAX_TAGS = 50


def _write(ctx: Ctx, row: Row, metadata: Row) -> None:
    if row["locked"] and not ctx.who.is_admin:
        raise Fault("conflict", f"Instance {row['id']} is locked")
    limit = quota.limits(ctx.tx, COMPUTE, row["project_id"])["metadata_items"]
    if 0 <= limit < len(metadata):
        raise Fault("over_quota", f"Quota exceeded for metadata_items: asked {len(metadata)}, allowed {limit}.")
    wish(ctx.tx, row, metadata=metadata)


def _item(row: Row, key: str) -> Row:
    if key not in row["metadata"]:
        raise Fault("missing", "Metadata item was not found")
    return {key: row["metadata"][key]}


@SERVER.route("GET", "/{id}/metadata", "reader")
def list_metadata(ctx: Ctx, row: Row) -> Row:
    return {"metadata": row["metadata"]}


@SERVER.route("POST", "/{id}/metadata", "member", body=ALL)
def add_metadata(ctx: Ctx, row: Row) -> Row:
    metadata = row["metadata"] | ctx.body["metadata"]
    _write(ctx, row, metadata)
    return {"metadata": metadata}


@SERVER.route("PUT", "/{id}/metadata", "member", body=ALL)
def replace_metadata(ctx: Ctx, row: Row) -> Row:
    _write(ctx, row, ctx.body["metadata"])
    return {"metadata": ctx.body["metadata"]}


@SERVER.route("GET", "/{id}/metadata/{key}", "reader")
def show_item(ctx: Ctx, row: Row) -> Row:
    return {"meta": _item(row, ctx.path["key"])}


@SERVER.route("PUT", "/{id}/metadata/{key}", "member", body=ONE)
def set_item(ctx: Ctx, row: Row) -> Row:
    if set(ctx.body["meta"]) != {ctx.path["key"]}:
        raise Fault("invalid", "Request body and URI mismatch")
    _write(ctx, row, row["metadata"] | ctx.body["meta"])
    return {"meta": ctx.body["meta"]}


@SERVER.route("DELETE", "/{id}/metadata/{key}", "member", status=204)
def drop_item(ctx: Ctx, row: Row) -> None:
    _item(row, ctx.path["key"])
    _write(ctx, row, {key: value for key, value in row["metadata"].items() if key != ctx.path["key"]})


# tags


def _set_tags(ctx: Ctx, row: Row, tags: list[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise Fault("invalid", f"The number of tags exceeded the per-server limit {MAX_TAGS}")
    ctx.tx.update(SERVER, row, tags=tags)


def _has(row: Row, tag: str) -> None:
    if tag not in row["tags"]:
        raise Fault("missing", f"Server {row['id']} has no tag '{tag}'")


@SERVER.route("GET", "/{id}/tags", "reader", since=TAGS_SINCE)
def list_tags(ctx: Ctx, row: Row) -> Row:
    return {"tags": row["tags"]}


@SERVER.route(
    "PUT", "/{id}/tags", "member", since=TAGS_SINCE, body=Object({"tags": Member(ListOf(TAG, MAX_TAGS), required=True)})
)
def replace_tags(ctx: Ctx, row: Row) -> Row:
    tags = sorted(set(ctx.body["tags"]))
    _set_tags(ctx, row, tags)
    return {"tags": tags}


@SERVER.route("DELETE", "/{id}/tags", "member", since=TAGS_SINCE, status=204)
def drop_tags(ctx: Ctx, row: Row) -> None:
    _set_tags(ctx, row, [])


@SERVER.route("GET", "/{id}/tags/{tag}", "reader", since=TAGS_SINCE, status=204)
def show_tag(ctx: Ctx, row: Row) -> None:
    _has(row, ctx.path["tag"])


@SERVER.route("PUT", "/{id}/tags/{tag}", "member", since=TAGS_SINCE)
def add_tag(ctx: Ctx, row: Row) -> Reply:
    tag = TAG.check(ctx.path["tag"], "tag", ctx.at)
    if tag in row["tags"]:
        return Reply(None, 204)
    _set_tags(ctx, row, sorted([*row["tags"], tag]))
    return Reply(None, 201, [("Location", ctx.url(f"/servers/{row['id']}/tags/{tag}"))])


@SERVER.route("DELETE", "/{id}/tags/{tag}", "member", since=TAGS_SINCE, status=204)
def drop_tag(ctx: Ctx, row: Row) -> None:
    _has(row, ctx.path["tag"])
    _set_tags(ctx, row, [tag for tag in row["tags"] if tag != ctx.path["tag"]])
