"""The image service, its dialect, and its version documents (``GET /image`` 300, ``GET /image/versions`` 200)."""

from typing import Any
from urllib.parse import urlencode

from trilith.kernel.declare import Noun, Service
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad
from trilith.kernel.paging import Listing, Page, number
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.wire import TITLES, Wire

Row = dict[str, Any]


class ImageWire(Wire):
    empty_id_is_missing = True
    update_method = "PATCH"
    statuses = {"list": 200, "show": 200, "create": 201, "update": 200, "delete": 204}
    over_quota = 413
    reserved = frozenset({"limit", "marker", "sort_key", "sort_dir", "sort"})

    def bad(self, bad: Bad) -> Fault:
        if bad.why == "readonly":
            return Fault("forbidden", f"Attribute '{bad.path}' is read-only.")
        return super().bad(bad)

    def error(self, fault: Fault, ctx: Ctx) -> Any:
        code = self.status(fault)
        title = TITLES.get(code, "Error")
        if "json" in ctx.headers.get("accept", ""):
            return {"message": f"{fault.message}<br /><br />\n\n\n", "code": f"{code} {title}", "title": title}
        page = f"<html>\n <head>\n  <title>{code} {title}</title>\n </head>\n <body>\n  <h1>{code} {title}</h1>\n"
        safe = fault.message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"{page}  {safe}<br /><br />\n\n\n\n </body>\n</html>".encode()

    def extra_envelope_keys(self, noun: Noun, body: Row) -> bool:
        return True

    def limit(self, ctx: Ctx) -> int | None:
        asked = number(ctx.one("limit"), "limit")
        return 25 if asked is None else min(asked, 1000)

    def wrap_list(self, ctx: Ctx, noun: Noun, views: list[Row], page: Page, listing: Listing) -> Any:
        """Pages are paths below the service, without scheme and host."""
        base = ctx.url_path.removeprefix(ctx.service.prefix.rpartition("/")[0])
        query = {k: v for k, v in ctx.query.items() if k != "marker"}
        first = base + (f"?{urlencode(query, doseq=True)}" if query else "")
        body: Row = {noun.plural: views, "first": first, "schema": f"/v2/schemas/{noun.plural}"}
        if page.more and page.rows:
            body["next"] = f"{base}?{urlencode(query | {'marker': page.rows[-1][noun.key]}, doseq=True)}"
        return body


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
