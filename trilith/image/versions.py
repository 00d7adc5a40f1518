"""The image service and its version documents (``GET /image`` 300, ``GET /image/versions`` 200)."""

from typing import Any

from trilith.kernel.declare import Service
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.wire import ImageWire

ROOT = Service("image-root", "image", "/image", ImageWire())
IMAGES = Service("image", "image", "/image/v2", ImageWire())
MINORS = tuple(range(17, -1, -1))


def _versions(ctx: Ctx) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{ctx.base_url}/image/v2/"}]
    found = [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == MINORS[0] else "SUPPORTED", "links": links}
        for minor in MINORS
        if minor not in (8, 10, 11, 12, 14)  # numbers that upstream gave to what needs several stores
    ]
    return {"versions": found}


@ROOT.route("GET", "", "public")
@ROOT.route("GET", "/v2", "public")
def choices(ctx: Ctx) -> Reply:
    return Reply(_versions(ctx), 300)


@ROOT.route("GET", "/versions", "public")
def versions(ctx: Ctx) -> dict[str, Any]:
    return _versions(ctx)
