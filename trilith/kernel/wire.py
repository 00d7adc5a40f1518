"""How each service speaks: envelopes, error bodies, list parameters. Nothing else knows HTTP codes.

One small class a dialect. A dialect decides form only; what exists and who may do it is declared with the nouns.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import sqlalchemy as sa

from trilith.kernel.errors import Fault, Kind
from trilith.kernel.kinds import Bad, Flag
from trilith.kernel.paging import Condition, Listing, Page, number
from trilith.kernel.statements import mine
from trilith.kernel.versions import NEWEST, Stepped, Version

if TYPE_CHECKING:
    from trilith.kernel.declare import Field, Noun
    from trilith.kernel.request import Ctx

Row = dict[str, Any]
STATUS: Mapping[Kind, int] = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "missing": 404,
    "method": 405,
    "not_acceptable": 406,
    "conflict": 409,
    "gone": 410,
    "precondition": 412,
    "too_large": 413,
    "bad_media": 415,
    "over_quota": 403,
    "no_capacity": 409,
    "unavailable": 503,
    "bug": 500,
}
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Wire:
    """What most services do, compute and volume above all; the others say where they differ."""

    update_method = "PUT"
    statuses: Mapping[str, Stepped] = {"list": 200, "show": 200, "create": 200, "update": 200, "delete": 202}
    over_quota = 403
    max_limit: int | None = 1000
    strict_query_since: Version = NEWEST  # from here on an unknown query parameter is an error
    bulk = False  # a creation may hold a list
    empty_id_is_missing = False  # "/images/" is an image without an id, not the list
    fault_names: Mapping[int, str] = {
        400: "badRequest",
        401: "unauthorized",
        403: "forbidden",
        404: "itemNotFound",
        405: "badMethod",
        409: "conflictingRequest",
        413: "overLimit",
        415: "badMediaType",
        503: "serviceUnavailable",
    }
    reserved = frozenset({"limit", "marker", "offset", "sort_key", "sort_dir", "sort", "all_tenants"})

    # errors
    def status(self, fault: Fault) -> int:
        return self.over_quota if fault.kind == "over_quota" else STATUS[fault.kind]

    def error(self, fault: Fault, ctx: "Ctx") -> Any:
        code = self.status(fault)
        return {self.fault_names.get(code, "computeFault"): {"code": code, "message": fault.message}}

    def bad(self, bad: Bad) -> Fault:
        """The sentence for a value that its kind does not take."""
        if bad.why in ("unknown", "readonly"):
            name = bad.path.rpartition(".")[2]
            return Fault("invalid", f"Additional properties are not allowed ('{name}' was unexpected)")
        if bad.why == "required":
            return Fault("invalid", f"Invalid input received: {bad.reason}")
        name = bad.path.rpartition(".")[2]
        return Fault(
            "invalid", f"Invalid input for field/attribute {name}. Value: {str(bad.value)[:200]}. {bad.reason}"
        )

    def unknown_marker(self, noun: "Noun", marker: str) -> Fault:
        return Fault("invalid", f"marker [{marker}] not found")

    def foreign_owner(self, noun: "Noun") -> Fault:
        """Somebody who is no administrator makes something for another project."""
        what = f"{noun.service.name}:{noun.plural}:create:{noun.owner}"
        return Fault("forbidden", f"Policy doesn't allow {what} to be performed.", "PolicyNotAuthorized")

    def headers(self, ctx: "Ctx") -> list[tuple[str, str]]:
        """What every reply of the service carries."""
        return []

    def precondition(self, ctx: "Ctx", noun: "Noun", row: Row) -> None:
        """Whether a change of this row may go on: ``If-Match``."""

    def new_id(self, ctx: "Ctx") -> str:
        """The id of a new row."""
        return ctx.new_id()

    # bodies
    def unwrap(self, noun: "Noun", body: Any, operation: str) -> Any:
        """The object inside a request's envelope (a list of them where `bulk`)."""
        if noun.envelope is None:
            return body
        if not isinstance(body, dict) or noun.envelope not in body:
            raise Bad(noun.envelope, body, f"'{noun.envelope}' is a required property", "required")
        if len(body) > 1 and not self.extra_envelope_keys(noun, body):
            name = next(k for k in body if k != noun.envelope and k not in noun.beside)
            raise Bad(name, body[name], f"'{name}' was unexpected", "unknown")
        return body[noun.envelope]

    def extra_envelope_keys(self, noun: "Noun", body: Row) -> bool:
        return body.keys() - {noun.envelope} <= noun.beside

    def wrap(self, noun: "Noun", view: Row) -> Any:
        return view if noun.envelope is None else {noun.envelope: view}

    def chosen(self, ctx: "Ctx", view: Row) -> Row:
        """What of a single view the caller asked for."""
        return view

    def wrap_list(self, ctx: "Ctx", noun: "Noun", views: list[Row], page: Page, listing: Listing) -> Any:
        body: Row = {noun.plural: views}
        if page.rows and len(page.rows) == listing.limit:  # also where the full page happens to be the last one
            body[f"{noun.plural}_links"] = [{"rel": "next", "href": self.page_url(ctx, marker=page.rows[-1][noun.key])}]
        return body

    def page_url(self, ctx: "Ctx", **changes: Any) -> str:
        query = [(k, value) for k, values in ctx.query.items() if k not in changes for value in values]
        query += [(k, v) for k, v in changes.items() if v is not None]
        return f"{ctx.base_url}{quote(ctx.url_path)}?{urlencode(query)}"

    # lists
    def listing(self, ctx: "Ctx", noun: "Noun") -> Listing:
        """A list request's query in no dialect."""
        found = Listing(where=self.narrowed(ctx, noun))
        for name, values in ctx.query.items():
            if (condition := self.filtered(ctx, noun, name, values)) is not None:
                found.where.append(condition)
        found.limit = self.limit(ctx)
        found.marker = ctx.one("marker") or None
        found.offset = number(ctx.one("offset"), "offset") or 0
        found.sort = self.sort(ctx, noun)
        return found

    def narrowed(self, ctx: "Ctx", noun: "Noun") -> list[Condition]:
        """Administrators see their own project's rows unless they ask for all."""
        if noun.owner != "project_id" or not ctx.who.is_admin or noun.custom_scope is not None:
            return []
        asked = ctx.one("all_tenants")
        if asked is not None and Flag().from_query(asked, "all_tenants"):
            return []
        return [mine(noun.c.project_id, "project_id", ctx.who)]

    def limit(self, ctx: "Ctx") -> int | None:
        asked = number(ctx.one("limit"), "limit")
        if self.max_limit is None:
            return asked
        return self.max_limit if asked is None else min(asked, self.max_limit)

    def filtered(self, ctx: "Ctx", noun: "Noun", name: str, values: list[str]) -> Condition | None:
        """The condition of one query parameter; None where it is none of ours (or means nothing)."""
        if name in noun.filters:
            return noun.filters[name](ctx, values)
        if name in self.reserved:
            return None
        column, item = noun.by_wire().get(name, ("", None))
        if item is None or not item.filter or not item.visible(ctx.at) or (item.see and not ctx.may(item.see)):
            return self.unknown_filter(ctx, noun, name)
        return self.condition(ctx, noun, column, item, values)

    def unknown_filter(self, ctx: "Ctx", noun: "Noun", name: str) -> Condition | None:
        if ctx.at >= self.strict_query_since:
            raise Fault("invalid", f"Additional properties are not allowed ('{name}' was unexpected)", "InvalidInput")
        return None

    def condition(self, ctx: "Ctx", noun: "Noun", column: str, item: "Field", values: list[str]) -> Condition | None:
        if callable(item.filter):
            return item.filter(ctx, values)
        clean = [item.kind.from_query(value, item.wire or column) for value in values]
        found: Condition = noun.c[column].in_(clean) if len(clean) > 1 else noun.c[column] == clean[0]
        return found

    def sort(self, ctx: "Ctx", noun: "Noun") -> list[tuple[str, str]]:
        """``sort_key=a&sort_dir=asc`` pairs, or ``sort=a:asc,b``."""
        found = []
        if (both := ctx.one("sort")) is not None:
            for part in both.split(","):
                key, _, direction = part.strip().partition(":")
                found.append((key, direction or "desc"))
        else:
            directions = ctx.query.get("sort_dir", [])
            for n, key in enumerate(ctx.query.get("sort_key", [])):
                found.append(
                    (
                        key,
                        directions[n] if n < len(directions) else (directions[-1] if directions else self.default_dir),
                    )
                )
        return [self._sort_column(noun, key, direction) for key, direction in found]

    default_dir = "desc"

    def _sort_column(self, noun: "Noun", key: str, direction: str) -> tuple[str, str]:
        if direction not in ("asc", "desc"):
            raise Fault("invalid", f"Unknown sort direction '{direction}', must be asc or desc", "InvalidInput")
        column, item = noun.by_wire().get(key, (key, None))
        if (item is None or not item.sort) and key not in ("id", "created_at", "updated_at"):
            raise Fault(
                "invalid", f"Sort key '{key}' is not valid: use one of {', '.join(sortable(noun))}", "InvalidInput"
            )
        return (column if column in noun.table.c else key), direction


def sortable(noun: "Noun") -> list[str]:
    return sorted({f.wire or n for n, f in noun.fields.items() if f.sort} | {"id", "created_at", "updated_at"})


class ComputeWire(Wire):
    empty_id_is_missing = True
    strict_query_since = (2, 75)

    def headers(self, ctx: "Ctx") -> list[tuple[str, str]]:
        return [("X-Compute-Request-Id", ctx.request_id)]


class NetworkWire(Wire):
    """Repeated keys mean OR, different keys AND; an unknown filter is an error; creations may hold a list."""

    statuses = {"list": 200, "show": 200, "create": 201, "update": 200, "delete": 204}
    over_quota = 409
    max_limit = None
    bulk = True
    default_dir = "asc"
    reserved = frozenset({"limit", "marker", "page_reverse", "sort_key", "sort_dir", "fields"})

    def error(self, fault: Fault, ctx: "Ctx") -> Any:
        kind = fault.type_name or {
            "invalid": "InvalidInput",
            "missing": "HTTPNotFound",
            "over_quota": "OverQuota",
            "conflict": "Conflict",
            "forbidden": "PolicyNotAuthorized",
        }.get(fault.kind, "HTTPInternalServerError" if fault.kind == "bug" else "HTTPBadRequest")
        return {"NeutronError": {"type": kind, "message": fault.message, "detail": ""}}

    def bad(self, bad: Bad) -> Fault:
        if bad.why == "unknown":
            return Fault("invalid", f"Unrecognized attribute(s) '{bad.path}'", "HTTPBadRequest")
        if bad.why == "readonly":
            return Fault("invalid", f"Attribute '{bad.path}' not allowed in POST or PUT", "HTTPBadRequest")
        if bad.why == "required":
            return Fault(
                "invalid", f"Failed to parse request. Required attribute '{bad.path}' not specified", "HTTPBadRequest"
            )
        return Fault("invalid", f"Invalid input for {bad.path.split('.')[0]}. Reason: {bad.reason}.", "HTTPBadRequest")

    def unknown_marker(self, noun: "Noun", marker: str) -> Fault:
        return noun.missing(marker)

    def foreign_owner(self, noun: "Noun") -> Fault:
        return Fault("invalid", "To make something for another project, one must be an administrator", "HTTPBadRequest")

    def precondition(self, ctx: "Ctx", noun: "Noun", row: Row) -> None:
        asked = ctx.headers.get("if-match", "")
        if not asked:
            return
        name, _, number_ = asked.partition("=")
        if name != "revision_number" or not number_.removeprefix("-").isdigit():
            raise Fault("invalid", "Constraint on field is not supported: use revision_number=N", "HTTPBadRequest")
        if int(number_) != row["generation"] - 1:
            message = f"Constrained to {number_}, but current revision is {row['generation'] - 1}"
            raise Fault("precondition", message, "RevisionNumberConstraintFailed")

    def unwrap(self, noun: "Noun", body: Any, operation: str) -> Any:
        if operation == "create" and isinstance(body, dict) and noun.plural in body and noun.envelope not in body:
            items = body[noun.plural]
            if not isinstance(items, list) or not items:
                raise Fault("invalid", "Resources required", "HTTPBadRequest")
            items = [item[noun.name] if isinstance(item, dict) and set(item) == {noun.name} else item for item in items]
            return [self.with_project(item) for item in items]
        if not isinstance(body, dict) or noun.envelope not in body:
            raise Fault("invalid", f"Unable to find '{noun.envelope}' in request body", "HTTPBadRequest")
        if not isinstance(body[noun.envelope], dict):
            raise Fault("invalid", f"'{noun.envelope}' must be an object", "HTTPBadRequest")
        return self.with_project(body[noun.envelope])

    def with_project(self, item: Any) -> Any:
        """``tenant_id`` is the older name of ``project_id``; where both are given they must agree."""
        if not isinstance(item, dict) or "tenant_id" not in item:
            return item
        old = item["tenant_id"]
        if item.get("project_id", old) != old:
            raise Fault("invalid", "'project_id' and 'tenant_id' do not match", "HTTPBadRequest")
        return {k: v for k, v in item.items() if k != "tenant_id"} | {"project_id": old}

    def filtered(self, ctx: "Ctx", noun: "Noun", name: str, values: list[str]) -> Condition | None:
        return super().filtered(ctx, noun, "project_id" if name == "tenant_id" else name, values)

    def chosen(self, ctx: "Ctx", view: Row) -> Row:
        names = [name for value in ctx.query.get("fields", []) for name in value.split(",") if name]
        return {k: v for k, v in view.items() if k in names} if names and ctx.method in ("GET", "HEAD") else view

    def listing(self, ctx: "Ctx", noun: "Noun") -> Listing:
        found = super().listing(ctx, noun)
        found.reverse = (ctx.one("page_reverse") or "").lower() == "true"
        found.fields = [name for value in ctx.query.get("fields", []) for name in value.split(",") if name] or None
        if found.limit == 0:
            found.limit = None
        return found

    def narrowed(self, ctx: "Ctx", noun: "Noun") -> list[Condition]:
        return []

    def unknown_filter(self, ctx: "Ctx", noun: "Noun", name: str) -> Condition | None:
        raise Fault("invalid", f"['{name}'] is invalid attribute for filtering", "HTTPBadRequest")

    def wrap_list(self, ctx: "Ctx", noun: "Noun", views: list[Row], page: Page, listing: Listing) -> Any:
        if listing.fields:
            views = [{k: v for k, v in view.items() if k in listing.fields} for view in views]
        body: Row = {noun.plural: views}
        if links := self._links(ctx, noun, page, listing):
            body[f"{noun.plural}_links"] = links
        return body

    def _links(self, ctx: "Ctx", noun: "Noun", page: Page, listing: Listing) -> list[Row]:
        """A full page may be the last: the next is empty then, and leads back."""
        full = len(page.rows) == listing.limit
        first, last = (page.rows[0][noun.key], page.rows[-1][noun.key]) if page.rows else (None, None)
        links = []
        if listing.limit and (full or listing.reverse):
            href = self.page_url(ctx, marker=last, page_reverse=None)
            links.append({"rel": "next", "href": href})
        if listing.limit and (full if listing.reverse else listing.marker is not None):
            href = self.page_url(ctx, marker=first, page_reverse="True")
            links.append({"rel": "previous", "href": href})
        return links


class IdentityWire(Wire):
    update_method = "PATCH"
    statuses = {"list": 200, "show": 200, "create": 201, "update": 200, "delete": 204}
    reserved = frozenset({"limit", "marker", "sort_key", "sort_dir", "nocatalog", "page", "per_page"})
    max_limit = None
    matches = ("contains", "icontains", "startswith", "istartswith", "endswith", "iendswith")

    def new_id(self, ctx: "Ctx") -> str:
        return ctx.new_hex()

    def error(self, fault: Fault, ctx: "Ctx") -> Any:
        code = self.status(fault)
        message = fault.message
        if what := fault.detail.get("what"):
            message = f"You are not authorized to perform the requested action: {what}."
        return {"error": {"code": code, "message": message, "title": TITLES.get(code, "Error")}}

    def bad(self, bad: Bad) -> Fault:
        if bad.why == "required":
            return Fault("invalid", bad.reason)
        return Fault("invalid", f"Invalid input for field '{bad.path}': {bad.reason}")

    def extra_envelope_keys(self, noun: "Noun", body: Row) -> bool:
        return True

    def narrowed(self, ctx: "Ctx", noun: "Noun") -> list[Condition]:
        return []

    def filtered(self, ctx: "Ctx", noun: "Noun", name: str, values: list[str]) -> Condition | None:
        base, _, how = name.rpartition("__")
        column, item = noun.by_wire().get(base, ("", None))
        if how in self.matches and item is not None and item.filter is True:
            value = values[-1]
            target: Any = noun.c[column]
            if how.startswith("i"):
                target, value, how = sa.func.lower(target), value.lower(), how[1:]
            found: Condition = getattr(target, how)(value, autoescape=True)
            return found
        return super().filtered(ctx, noun, name, values)

    def wrap_list(self, ctx: "Ctx", noun: "Noun", views: list[Row], page: Page, listing: Listing) -> Any:
        next_url = self.page_url(ctx, marker=page.rows[-1][noun.key]) if page.more and page.rows else None
        query = f"?{urlencode(ctx.query, doseq=True)}" if ctx.query else ""
        self_url = f"{ctx.base_url}{ctx.url_path}{query}"
        return {noun.plural: views, "links": {"next": next_url, "self": self_url, "previous": None}}


class PlainWire(Wire):
    """For our own paths: hosts' agents, health."""

    statuses = {"list": 200, "show": 200, "create": 201, "update": 200, "delete": 204}

    def error(self, fault: Fault, ctx: "Ctx") -> Any:
        return {"error": {"kind": fault.kind, "message": fault.message}}
