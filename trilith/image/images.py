"""Images: what machines and volumes start from.

An image's life: ``queued`` -> (``saving``, or ``uploading`` and ``importing``) -> ``active``. Who streams bytes owns
the transient state, renews
`busy_until` while it streams, and past it `sweep` puts the image back to ``queued``. The bytes lie in the store that
the cloud gives as
``settings["image_files"]``; the row says which content is the image's.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa

from trilith.image.versions import IMAGES
from trilith.kernel.declare import Field, Noun, choice, computed, flag, ident, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Id, ListOf, Text, now
from trilith.kernel.policy import Row as PolicyRow
from trilith.kernel.policy import rule
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.statements import fixed
from trilith.kernel.store import METADATA, Condition, Tx
from trilith.kernel.versions import OLDEST

Row = dict[str, Any]
DISK_FORMATS = ("raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso", "ploop", "ami", "ari", "aki", "gpt")
CONTAINER_FORMATS = ("bare", "ovf", "ova", "ami", "ari", "aki", "docker", "compressed")
ANSWERS = ("accepted", "pending", "rejected")  # of a project that an image is shared with
BUSY_S = 60.0  # a stream that shows no sign of life for so long is dead

MEMBERS = sa.Table(
    "image_members",
    METADATA,
    sa.Column("image_id", sa.String(64), primary_key=True),
    sa.Column("member_id", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(26), nullable=False),
    sa.Column("updated_at", sa.String(26), nullable=False),
)


@rule("image_owner")
def _image_owner(who: Any, row: PolicyRow | None) -> bool:
    return who.is_admin or ("member" in who.roles and (row is None or row["project_id"] == who.project_id))


def _open_to(project_id: Any, visibilities: tuple[str, ...], statuses: tuple[str, ...]) -> Condition:
    """A project's own images, those of these visibilities, and those shared with it that it said so of."""
    answered = sa.or_(*(MEMBERS.c.status == status for status in statuses))  # IN would be spelled out each time
    shared = sa.select(MEMBERS.c.image_id).where(MEMBERS.c.member_id == project_id, answered)
    mine = IMAGE.c.project_id == project_id
    member = sa.and_(IMAGE.c.visibility == "shared", IMAGE.c.id.in_(shared))
    return sa.or_(mine, *(IMAGE.c.visibility == visibility for visibility in visibilities), member)


@cache
def _fixed_open(visibilities: tuple[str, ...], statuses: tuple[str, ...]) -> Condition:
    return fixed(_open_to(sa.bindparam("who_project_id"), visibilities, statuses))


def _open(ctx: Ctx, visibilities: tuple[str, ...], statuses: tuple[str, ...] = ANSWERS) -> Condition:
    if ctx.who.project_id is None:
        return _open_to(None, visibilities, statuses)
    return _fixed_open(visibilities, statuses)


@cache
def _hidden(hidden: bool) -> Condition:
    return fixed(IMAGE.c.os_hidden == hidden)


def visible(ctx: Ctx) -> Condition | None:
    """What a caller may open by id: its own, public, community, and shared with its project."""
    if ctx.who.is_admin:
        return None
    return _open(ctx, ("public", "community"))


def stamp(column: str) -> Callable[[Row, Ctx], str]:
    return lambda row, ctx: f"{(row[column] or row['created_at'])[:19]}Z"


def _tag_filter(ctx: Ctx, values: list[str]) -> Condition:
    return sa.and_(*(sa.cast(IMAGE.c.tags, sa.Text).contains(quoted(tag), autoescape=True) for tag in values))


def quoted(value: str) -> str:
    """A string as it stands inside a JSON column."""
    return msgspec.json.encode(value).decode()


def _visibility_filter(ctx: Ctx, values: list[str]) -> Condition | None:
    if values[-1] == "all":
        return None
    if values[-1] not in ("public", "private", "shared", "community"):
        raise Fault("invalid", f"Invalid visibility value: {values[-1]}")
    return IMAGE.c.visibility == values[-1]  # type: ignore[no-any-return]


def _bound(column: str, low: bool) -> Callable[[Ctx, list[str]], Condition]:
    def condition(ctx: Ctx, values: list[str]) -> Condition:
        if not values[-1].isdigit():
            raise Fault("invalid", f"Invalid filter value {values[-1]}: it must be a whole number.")
        found = IMAGE.c[column]
        return found >= int(values[-1]) if low else found <= int(values[-1])  # type: ignore[no-any-return]

    return condition


def _time_filter(column: str) -> Callable[[Ctx, list[str]], Condition]:
    """``created_at=gte:2026-01-01T00:00:00Z``."""
    ways = {"eq": "__eq__", "neq": "__ne__", "gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}

    def condition(ctx: Ctx, values: list[str]) -> Condition:
        way, colon, rest = values[-1].partition(":")
        way, rest = (way, rest) if colon and way in ways else ("eq", values[-1])
        moment = Field(kind=IMAGE.fields["created_at"].kind).kind.from_query(rest, column)
        stored = sa.func.substr(sa.func.coalesce(IMAGE.c[column], IMAGE.c.created_at), 1, 19)
        return getattr(stored, ways[way])(moment[:19])  # type: ignore[no-any-return]

    return condition


def _any_of(column: str) -> Callable[[Ctx, list[str]], Condition]:
    """``name=in:a,"b,c"``; plain values are compared."""

    def condition(ctx: Ctx, values: list[str]) -> Condition:
        value = values[-1]
        if value.startswith("in:"):
            return IMAGE.c[column].in_(split_quoted(value[3:]))  # type: ignore[no-any-return]
        return IMAGE.c[column] == value  # type: ignore[no-any-return]

    return condition


def split_quoted(value: str) -> list[str]:
    """Comma-separated values, those with commas in double quotes."""
    found, current, inside = [], "", False
    for letter in value:
        if letter == '"':
            inside = not inside
        elif letter == "," and not inside:
            found.append(current)
            current = ""
        else:
            current += letter
    if inside:
        raise Fault("invalid", f"Invalid filter value {value}. The quote is not closed.")
    return [*found, current]


def _self(row: Row, ctx: Ctx) -> str:
    return f"/v2/images/{row['id']}"


IMAGE = Noun(
    IMAGES,
    "image",
    "/images",
    dict(
        id=ident(create="optional", filter=_any_of("id"), sort=True),
        name=text(255, create="optional", update=True, null=True, filter=_any_of("name"), sort=True),
        phase=text(16, default="queued", hidden=True),
        deactivated=flag(default=False, hidden=True),
        status=text(30, filter=_any_of("status"), sort=True),
        visibility=choice(
            "public",
            "private",
            "shared",
            "community",
            create="optional",
            update=True,
            default="shared",
            filter=_visibility_filter,
        ),
        protected=flag(create="optional", update=True, default=False, filter=True),
        os_hidden=flag(create="optional", update=True, default=False),
        project_id=text(255, wire="owner", create="optional", update=True, null=True, filter=True),
        disk_format=choice(
            *DISK_FORMATS, create="optional", update=True, null=True, filter=_any_of("disk_format"), sort=True
        ),
        container_format=choice(
            *CONTAINER_FORMATS, create="optional", update=True, null=True, filter=_any_of("container_format"), sort=True
        ),
        min_disk_gib=whole(wire="min_disk", create="optional", update=True, default=0, filter=True, sort=True),
        min_ram_mib=whole(wire="min_ram", create="optional", update=True, default=0, filter=True, sort=True),
        size_bytes=whole(0, 2**62, wire="size", sort=True, filter=True),
        virtual_size_bytes=whole(0, 2**62, wire="virtual_size", filter=True),
        checksum=text(32, filter=True),
        os_hash_algo=text(16, filter=True),
        os_hash_value=text(128, filter=True),
        tags=Field(kind=ListOf(Text(255), 128), create="optional", update=True, default=list),
        created_at=time(show=stamp("created_at"), sort=True, filter=_time_filter("created_at")),
        updated_at=time(show=stamp("updated_at"), sort=True, filter=_time_filter("updated_at")),
        self=computed(_self),
        file=computed(lambda row, ctx: f"/v2/images/{row['id']}/file"),
        schema=computed(lambda row, ctx: "/v2/schemas/image"),
        busy_until=time(hidden=True),
        busy_token=text(64, hidden=True),
        method=Field(hidden=True, stored=True, kind=Text(4096)),  # JSON of the import that is wanted
    ),
    dict(list="reader", show="anyone", create="member", delete="image_owner"),
    hidden_in_lists=("phase", "deactivated", "busy_until", "busy_token", "method", "generation"),
    extra=Text(65535),
    scope=visible,
    derive=lambda row: {"status": "deactivated" if row["deactivated"] and row["phase"] == "active" else row["phase"]},
    wakes=lambda row: ("images",) if row["phase"] in ("importing", "active") else (),
    filters={
        "tag": _tag_filter,
        "size_min": _bound("size_bytes", True),
        "size_max": _bound("size_bytes", False),
        "member_status": lambda ctx, values: None,
        "os_hidden": lambda ctx, values: None,
    },
    envelope=None,
)
OWN_NAMES = frozenset(item.wire or name for name, item in IMAGE.fields.items()) | {"locations", "direct_url", "stores"}


# lists
def _listed(ctx: Ctx) -> list[Condition]:
    """What a list holds when nobody asks for more: own, public, accepted; not hidden."""
    found: list[Condition] = []
    asked = ctx.one("visibility")
    status = ctx.one("member_status", "accepted")
    if status not in (*ANSWERS, "all"):
        raise Fault("invalid", f"Invalid status: {status}")
    if not ctx.who.is_admin:
        open_ = ("public", "community") if asked in ("community", "all") else ("public",)
        found.append(_open(ctx, open_, ANSWERS if status == "all" else (str(status),)))
    hidden = ctx.one("os_hidden", "false")
    if str(hidden).lower() not in ("true", "false"):
        raise Fault("invalid", f"Invalid value '{hidden}' for 'os_hidden': it must be true or false.")
    found.append(_hidden(str(hidden).lower() == "true"))
    return found


@IMAGE.on("list")
def list_images(ctx: Ctx) -> Reply:
    from trilith.kernel.paging import fetch

    wire = ctx.service.wire
    known = {k: v for k, v in ctx.query.items() if k in OWN_NAMES or k in wire.reserved or k in IMAGE.filters}
    properties = {k: v for k, v in ctx.query.items() if k not in known}
    asked, ctx.query = ctx.query, known
    listing = wire.listing(ctx, IMAGE)
    ctx.query = asked
    listing.where += _listed(ctx)
    listing.where += [IMAGE.c.extra[name].as_string() == values[-1] for name, values in properties.items()]
    page = fetch(ctx, IMAGE, listing)
    return Reply(wire.wrap_list(ctx, IMAGE, ctx.show_all(IMAGE, page.rows), page, listing), 200)


@IMAGE.on("create")
def create(ctx: Ctx, new: Row) -> Reply:
    if new["visibility"] == "public" and not ctx.who.is_admin:
        raise Fault("forbidden", "You are not authorized to complete publicize_image action.")
    reserved = [name for name in new.get("extra", {}) if name.startswith("os_glance_") or name in OWN_NAMES]
    if reserved:
        raise Fault("forbidden", f"Attribute '{reserved[0]}' is reserved.")
    if ctx.tx.one(IMAGE, id=new["id"]):
        raise Fault("conflict", f"Image ID {new['id']} already exists!")
    new["tags"] = list(dict.fromkeys(new["tags"]))
    row = ctx.tx.insert(IMAGE, new)
    headers = [
        ("Location", f"{ctx.base_url}/image/v2/images/{row['id']}"),
        ("OpenStack-image-import-methods", "glance-direct,web-download"),
    ]
    return Reply(ctx.show(IMAGE, row), 201, headers)


@IMAGE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    """The row goes now; its bytes go when the controller finds them without a row."""
    if row["protected"]:
        raise Fault("forbidden", f"Image {row['id']} is protected and cannot be deleted.")
    ctx.tx.execute(MEMBERS.delete().where(MEMBERS.c.image_id == row["id"]))
    ctx.tx.delete(IMAGE, row)
    ctx.tx.hint("images")


# PATCH: JSON patch in the service's own media types
PATCHES = ("application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch")
READ_ONLY = frozenset(
    {"id", "status", "size", "checksum", "created_at", "updated_at", "self", "file", "schema", "virtual_size",
     "os_hash_algo", "os_hash_value", "direct_url"}
)  # fmt: skip


@IMAGE.route("PATCH", "/{id}", "anyone", media=PATCHES)
def update(ctx: Ctx, row: Row) -> Row:
    """``[{"op": "add"|"replace"|"remove", "path": "/name", "value": ...}]``; the whole patch or nothing."""
    if not isinstance(ctx.body, list):
        raise Fault("invalid", "Request body must be a JSON array of operation objects.")
    ctx.require("image_owner", "image:images:update", row)
    changes: Row = {}
    extra, tags = dict(row["extra"]), list(row["tags"])
    for step in ctx.body:
        op, name, value = _step(step)
        if name.startswith("os_glance_") or name in READ_ONLY:
            raise Fault("forbidden", f"Attribute '{name}' is read-only.")
        if name == "tags" or name.startswith("tags/"):
            tags = _patched_tags(tags, op, name, value)
            changes["tags"] = tags
        elif name in OWN_NAMES:
            column, item = IMAGE.by_wire().get(name, ("", None))
            if item is None or not item.update:
                raise Fault("forbidden", f"Attribute '{name}' is reserved.")
            if op == "remove":
                raise Fault("forbidden", f"Property {name} may not be removed.")
            changes[column] = None if value is None and item.null else item.kind.check(value, name, OLDEST)
        else:
            if op != "add" and name not in extra:
                raise Fault("conflict", f"Property {name} does not exist.")
            if op == "remove":
                del extra[name]
            else:
                extra[name] = Text(65535).check(value, name, OLDEST)
            changes["extra"] = extra
    _may_change(ctx, row, changes)
    return ctx.show(IMAGE, ctx.tx.update(IMAGE, row, **changes))


def _step(step: Any) -> tuple[str, str, Any]:
    if not isinstance(step, dict):
        raise Fault("invalid", "Operations must be JSON objects.")
    op = step.get("op") or next((o for o in ("add", "replace", "remove") if o in step), None)
    path = step.get("path") or (step.get(op) if op else None)
    if op not in ("add", "replace", "remove"):
        raise Fault("invalid", "Operations must be one of add, replace, remove.")
    if not isinstance(path, str) or not path.startswith("/") or path.endswith("/"):
        raise Fault("invalid", f'Pointer `{path}` does not start with "/" or is not complete.')
    if op != "remove" and "value" not in step:
        raise Fault("invalid", f'Operation "{op}" requires a member named "value".')
    name = path[1:].replace("~1", "/").replace("~0", "~")
    if "/" in name and not name.startswith("tags/"):
        raise Fault("invalid", f"Invalid JSON pointer for this resource: '{path}'")
    return op, name, step.get("value")


def _patched_tags(tags: list[str], op: str, name: str, value: Any) -> list[str]:
    if name != "tags":
        if op == "add":
            return list(dict.fromkeys([*tags, Text(255).check(value, "tags", OLDEST)]))
        return [tag for tag in tags if tag != value]
    if op == "remove":
        raise Fault("forbidden", "Property tags may not be removed.")
    return list(dict.fromkeys(ListOf(Text(255), 128).check(value, "tags", OLDEST)))


def _may_change(ctx: Ctx, row: Row, changes: Row) -> None:
    if changes.get("visibility", row["visibility"]) == "public" != row["visibility"] and not ctx.who.is_admin:
        raise Fault("forbidden", "You are not authorized to complete publicize_image action.")
    if "project_id" in changes and changes["project_id"] != row["project_id"] and not ctx.who.is_admin:
        raise Fault("forbidden", "You are not permitted to change the owner of this image.")
    for name in ("disk_format", "container_format"):
        if name in changes and row["phase"] != "queued" and changes[name] != row[name]:
            raise Fault("forbidden", f"Attribute {name} can be only replaced for a queued image.")


# tags and activation
@IMAGE.route("PUT", "/{id}/tags/{tag}", "anyone", status=204)
def add_tag(ctx: Ctx, row: Row) -> None:
    ctx.require("image_owner", "image:images:update", row)
    tag = Text(255).check(ctx.path["tag"], "tag", OLDEST)
    tags = list(dict.fromkeys([*row["tags"], tag]))
    if len(tags) > 128:
        raise Fault("too_large", "The limit has been exceeded on the number of allowed image tags: at most 128.")
    ctx.tx.update(IMAGE, row, tags=tags)


@IMAGE.route("DELETE", "/{id}/tags/{tag}", "anyone", status=204)
def remove_tag(ctx: Ctx, row: Row) -> None:
    ctx.require("image_owner", "image:images:update", row)
    if ctx.path["tag"] not in row["tags"]:
        raise Fault("missing", f"Image {row['id']} has no tag {ctx.path['tag']}.")
    ctx.tx.update(IMAGE, row, tags=[tag for tag in row["tags"] if tag != ctx.path["tag"]])


@IMAGE.route("POST", "/{id}/actions/deactivate", "anyone", status=204)
def deactivate(ctx: Ctx, row: Row) -> None:
    ctx.require("image_owner", "image:images:deactivate", row)
    _only(row, ("active", "deactivated"), "deactivated")
    ctx.tx.update(IMAGE, row, deactivated=True)


@IMAGE.route("POST", "/{id}/actions/reactivate", "anyone", status=204)
def reactivate(ctx: Ctx, row: Row) -> None:
    ctx.require("image_owner", "image:images:reactivate", row)
    _only(row, ("active", "deactivated"), "reactivated")
    ctx.tx.update(IMAGE, row, deactivated=False)


def _only(row: Row, statuses: tuple[str, ...], what: str) -> None:
    if row["status"] not in statuses:
        raise Fault("forbidden", f"Image {row['id']} is {row['status']}: only active images can be {what}.")


# for other services
def usable_image(tx: Tx, project_id: str | None, is_admin: bool, image_id: str) -> Row:
    """An image that a machine or a volume of this project may start from."""
    try:
        Id().check(image_id, "imageRef", OLDEST)
    except Bad:
        raise Fault("invalid", "Invalid imageRef provided.") from None
    row = tx.one(IMAGE, id=image_id)
    shared = row is not None and (
        is_admin
        or row["project_id"] == project_id
        or row["visibility"] in ("public", "community")
        or tx.scalar(
            sa.select(MEMBERS.c.status).where(MEMBERS.c.image_id == image_id, MEMBERS.c.member_id == project_id)
        )
    )
    if row is None or not shared:
        raise Fault("missing", f"Image {image_id} could not be found.", "ImageNotFound")
    if row["status"] != "active":
        raise Fault("invalid", f"Image {image_id} is not active.", "ImageNotActive")
    return row


def make_image(
    tx: Tx,
    new_id: Callable[[], str],
    *,
    project_id: str,
    name: str,
    disk_format: str | None,
    container_format: str | None = "bare",
    properties: dict[str, str] | None = None,
    visibility: str = "private",
    **columns: Any,
) -> Row:
    """A queued image whose bytes will come: a server's snapshot, a volume's upload."""
    new: Row = {"id": new_id(), "project_id": project_id, "name": name, "disk_format": disk_format}
    new |= {"container_format": container_format, "extra": properties or {}, "visibility": visibility, "tags": []}
    return tx.insert(IMAGE, new | columns)


def busy_until() -> str:
    moment = datetime.now(UTC) + timedelta(seconds=BUSY_S)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def sweep(tx: Tx) -> None:
    """Streams that died leave their image as it was before them."""
    for row in tx.rows(IMAGE, IMAGE.c.busy_until < now()):
        back: Row = {"phase": "queued", "method": None} if row["phase"] in ("saving", "uploading") else {}
        tx.update(IMAGE, row, **back, busy_until=None, busy_token=None)
