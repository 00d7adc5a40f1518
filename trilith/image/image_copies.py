"""Bytes of images between controllers: each keeps a whole copy, and an upload counts when two have it.

A copy is named by its content, so that one which broke off is no danger: no row means it.
"""

from typing import Any

from trilith.image.image_data import MAX_IMAGE_BYTES, pieces
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, Reply
from trilith.placement.hosts import AGENTS


def _place(ctx: Ctx) -> tuple[Any, str, str]:
    """(this controller's own files, image id, place). 404 where there is but one controller."""
    own = ctx.settings.get("own_image_files")
    if own is None or ctx.path["place"] not in ("data", "staging"):
        raise Fault("missing", "There are no copies here.")
    return own, ctx.path["id"], ctx.path["place"]


@AGENTS.route("PUT", "/copies/{id}/{place}", "service", stream=True)
def keep(ctx: Ctx) -> dict[str, Any]:
    """Another controller sends what it is receiving. Durable when answered; says what has arrived."""
    own, image_id, place = _place(ctx)
    stored = own.keep(image_id, ctx.chunks(), MAX_IMAGE_BYTES)
    own.publish(stored, place)
    return {"sha512": stored.os_hash_value, "size_bytes": stored.size_bytes}


@AGENTS.route("GET", "/copies/{id}/{place}/{sha512}", "service", stream=True)
def give(ctx: Ctx) -> Reply:
    own, image_id, place = _place(ctx)
    size_bytes = own.size_bytes(image_id, ctx.path["sha512"], place)
    if size_bytes is None:
        raise Fault("missing", "This controller has no such copy.")
    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(size_bytes))]
    return Reply(pieces(own.open(image_id, ctx.path["sha512"], place)), 200, headers)
