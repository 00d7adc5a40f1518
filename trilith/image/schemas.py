"""``/v2/schemas/...``: JSON schemas, derived from the declaration."""

from collections.abc import Callable, Mapping
from typing import Any

from trilith.image.images import IMAGE
from trilith.image.versions import IMAGES
from trilith.kernel.declare import Field
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Flag, Kind, ListOf, Text, Time, Whole
from trilith.kernel.request import Ctx

Row = dict[str, Any]


def _property(kind: Kind, item: Field) -> Row:
    found: Row = {"type": "string"}
    if isinstance(kind, Whole):
        found = {"type": "integer"}
    elif isinstance(kind, Flag):
        found = {"type": "boolean"}
    elif isinstance(kind, ListOf):
        found = {"type": "array", "items": {"type": "string", "maxLength": 255}}
    elif isinstance(kind, Choice):
        found = {"type": "string", "enum": list(kind.options)}
    elif isinstance(kind, Text) and kind.limit <= 65535:
        found["maxLength"] = kind.limit
    elif isinstance(kind, Time):
        found["format"] = "date-time"
    if item.null or item.create == "no":
        found["type"] = ["null", found["type"]]
        if "enum" in found:
            found["enum"] = [None, *found["enum"]]
    if item.create == "no":
        found["readOnly"] = True
    return found


def image() -> Row:
    shown = {item.wire or name: _property(item.kind, item) for name, item in IMAGE.fields.items() if not item.hidden}
    links = [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ]
    return {"name": "image", "properties": shown, "additionalProperties": {"type": "string"}, "links": links}


def member() -> Row:
    names = ("image_id", "member_id", "created_at", "updated_at", "schema")
    shown: Row = {name: {"type": "string"} for name in names}
    shown["status"] = {"type": "string", "enum": ["pending", "accepted", "rejected"]}
    return {"name": "member", "properties": shown}


def collection(name: str, of: Row) -> Row:
    items: Row = {"type": "array", "items": of}
    shown = {name: items, "schema": {"type": "string"}, "first": {"type": "string"}, "next": {"type": "string"}}
    links = [
        {"rel": "first", "href": "{first}"},
        {"rel": "next", "href": "{next}"},
        {"rel": "describedby", "href": "{schema}"},
    ]
    return {"name": name, "properties": shown, "links": links}


SCHEMAS: Mapping[str, Callable[[], Row]] = {
    "image": image,
    "images": lambda: collection("images", image()),
    "member": member,
    "members": lambda: collection("members", member()),
}


@IMAGES.route("GET", "/schemas/{name}", "anyone")
def schema(ctx: Ctx) -> Row:
    if ctx.path["name"] not in SCHEMAS:
        raise Fault("missing", "The resource could not be found.")
    return SCHEMAS[ctx.path["name"]]()
