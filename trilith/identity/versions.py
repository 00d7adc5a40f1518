"""The identity service: its place, its dialect, its version documents. It has no microversions."""

from typing import Any, Literal

from trilith.identity.remembered import STAMPED
from trilith.kernel.declare import Noun, Service
from trilith.kernel.errors import Fault
from trilith.kernel.paging import Condition
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.wire import IdentityWire

Row = dict[str, Any]


class KeystoneWire(IdentityWire):
    """Readers of one domain list that domain's rows only."""

    def headers(self, ctx: Ctx) -> list[tuple[str, str]]:
        return [("Vary", "X-Auth-Token")]

    def narrowed(self, ctx: Ctx, noun: Noun) -> list[Condition]:
        if noun.name == "role":  # those of a domain are listed by ?domain_id= only
            return [] if "domain_id" in ctx.query else [noun.c.domain_id == ""]
        if ctx.may("admin|system_reader"):
            return []
        if noun.name == "domain":
            return [noun.c.id == ctx.who.domain_id]
        if "domain_id" not in noun.c:
            return []
        return [noun.c.domain_id == ctx.who.domain_id]


class IdentityNoun(Noun):
    """A noun that fails in identity's words."""

    def __init__(self, *declared: Any, **more: Any) -> None:
        super().__init__(*declared, **more)
        self.table.info.update(STAMPED)

    def missing(self, key: str) -> Fault:
        return Fault("missing", f"Could not find {self.name.replace('_', ' ')}: {key}.")

    def duplicate(self, row: Any) -> Fault:
        where = f" at domain ID {row['domain_id']}" if row.get("domain_id") else ""
        found = f"Duplicate entry found with name {row.get('name') or row['id']}{where}."
        return Fault("conflict", f"Conflict occurred attempting to store {self.name.replace('_', ' ')} - {found}")

    def accept(self, ctx: Ctx, body: Any, operation: Literal["create", "update"]) -> Row:
        """Clients send back what they were shown: what never changes is passed over, the id must be the same."""
        if operation == "update" and isinstance(body, dict):
            if body.get("id", ctx.path["id"]) != ctx.path["id"]:
                raise Fault("invalid", f"Cannot change {self.name.replace('_', ' ')} ID")
            fixed = {name for name, item in self.fields.items() if item.create == "no" and not item.update}
            body = {name: value for name, value in body.items() if name not in fixed | {"id"}}
        return super().accept(ctx, body, operation)

    def links(self, row: Row, ctx: Ctx) -> Row:
        path = self.path
        for name in row:
            path = path.replace(f"{{{name}}}", str(row[name]))
        return {"self": ctx.url(f"{path}/{row['id']}")}


def list_links(ctx: Ctx) -> Row:
    """What stands beside a list that comes in one piece."""
    return {"next": None, "self": f"{ctx.base_url}{ctx.url_path}", "previous": None}


IDENTITY = Service("identity", "identity", "/identity/v3", KeystoneWire())
ROOT = Service("identity_root", "identity", "/identity", KeystoneWire())


def _document(ctx: Ctx) -> Row:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{ctx.base_url}/identity/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


@ROOT.route("GET", "", "public")
def list_versions(ctx: Ctx) -> Reply:
    found = {"versions": {"values": [_document(ctx)]}}
    return Reply(found, 300, [("Location", f"{ctx.base_url}/identity/v3/")])


@IDENTITY.route("GET", "", "public")
def show_version(ctx: Ctx) -> Row:
    return {"version": _document(ctx)}
