"""What every resource of the network service has: project, description, revision, times, tags, and filters on them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from trilith.kernel.declare import Field, Filter, Noun, Route, computed, ident, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import ListOf, Member, Object, Text, Time, now
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.network.versions import NETWORKING

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]

TAG = Text(255, 1, r"[^,/]+")
TAGS = ListOf(TAG, limit=50, unique=True)
POLICY = {"list": "reader", "show": "sees", "create": "member", "update": "member", "delete": "member"}
REGULAR = POLICY | {"list": "sees"}


def shown_time(moment: str | None) -> str | None:
    """``2026-11-21T08:00:00.000000`` -> ``2026-11-21T08:00:00Z``."""
    return moment[:19] + "Z" if moment else None


def resource(
    name: str,
    path: str,
    fields: Mapping[str, Field],
    *,
    policy: Mapping[str, str] = REGULAR,
    wakes: Callable[[Row], Iterable[str]] = lambda row: ("northbound",),
    filters: Mapping[str, Filter] | None = None,
    without: tuple[str, ...] = (),
    **more: Any,
) -> Noun:
    """A noun of this service: `fields` between the attributes that all have (but for those in `without`), with tags
    and their operations."""
    around = [{k: v for k, v in half.items() if k not in without} for half in (_first(), _last())]
    noun = Noun(
        NETWORKING,
        name,
        path,
        around[0] | dict(fields) | around[1],
        policy,
        wakes=wakes,
        filters=filters,
        order=(("id", "asc"),),
        **more,
    )
    if "tags" in noun.fields:
        noun.filters |= _tag_filters(noun)
    noun.filters |= {
        "changed_since": lambda ctx, values: (
            sa.func.coalesce(noun.c.updated_at, noun.c.created_at) >= Time().from_query(values[-1], "changed_since")
        ),
        "revision_number": lambda ctx, values: noun.c.generation.in_([_revision(value) + 1 for value in values]),
    }
    if "tags" in noun.fields:
        _tag_routes(noun)
    return noun


def _tag_filters(noun: Noun) -> dict[str, Filter]:
    def holds(values: list[str]) -> list[Condition]:
        return [has_item(noun.c.tags, tag) for tag in _names(values)]

    return {
        "tags": lambda ctx, values: sa.and_(*holds(values)),
        "tags-any": lambda ctx, values: sa.or_(*holds(values)),
        "not-tags": lambda ctx, values: sa.not_(sa.and_(*holds(values))),
        "not-tags-any": lambda ctx, values: sa.not_(sa.or_(*holds(values))),
    }


def bump(tx: Tx, noun: Noun, row_id: str) -> None:
    """A row's revision grows because something that belongs to it changed."""
    c = noun.c
    tx.execute(noun.table.update().where(c.id == row_id).values(generation=c.generation + 1, updated_at=now()))


def _first() -> dict[str, Field]:
    return dict(
        id=ident(filter=True, sort=True),
        name=text(255, create="optional", update=True, default="", filter=True, sort=True),
        description=text(
            255, create="optional", update=True, default="", filter=True, extension="standard-attr-description"
        ),
        project_id=text(255, create="optional", filter=True, sort=True, extension="project-id"),
        tenant_id=computed(lambda row, ctx: row["project_id"]),
    )


def _last() -> dict[str, Field]:
    return dict(
        revision_number=computed(lambda row, ctx: row["generation"] - 1, extension="standard-attr-revisions"),
        created_at=Field(kind=Time(), show=lambda row, ctx: shown_time(row["created_at"]), filter=True, sort=True),
        updated_at=Field(
            kind=Time(),
            show=lambda row, ctx: shown_time(row["updated_at"] or row["created_at"]),
            filter=True,
            sort=True,
            extension="standard-attr-timestamp",
        ),
        tags=Field(kind=TAGS, create="optional", default=list, extension="standard-attr-tag"),
    )


def has_item(column: Any, item: str) -> Condition:
    """Whether a JSON list of strings holds this one. Exact for items without a comma."""
    return sa.func.instr(sa.cast(column, sa.Text), msgspec.json.encode(item).decode()) > 0


def _names(values: list[str]) -> list[str]:
    return [name for value in values for name in value.split(",")]


def _revision(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise Fault("invalid", f"revision_number must be a whole number, not {value!r}", "HTTPBadRequest")
    return int(value)


# tags of any resource: /{plural}/{id}/tags[/{tag}]
BODY = Object({"tags": Member(TAGS, required=True)}, open_ended=True)


def _tag_routes(noun: Noun) -> None:
    def show(ctx: Ctx, row: Row) -> Row:
        return {"tags": row["tags"]}

    def replace(ctx: Ctx, row: Row) -> Row:
        return {"tags": ctx.tx.update(noun, row, tags=ctx.body["tags"])["tags"]}

    def clear(ctx: Ctx, row: Row) -> None:
        ctx.tx.update(noun, row, tags=[])

    def extend(ctx: Ctx, row: Row) -> Row:
        tags = TAGS.check(row["tags"] + [t for t in ctx.body["tags"] if t not in row["tags"]], "tags", ctx.at)
        return {"tags": ctx.tx.update(noun, row, tags=tags)["tags"]}

    def has(ctx: Ctx, row: Row) -> None:
        if ctx.path["tag"] not in row["tags"]:
            raise Fault("missing", f"Tag {ctx.path['tag']} could not be found.", "TagNotFound")

    def add(ctx: Ctx, row: Row) -> None:
        tag = TAG.check(ctx.path["tag"], "tag", ctx.at)
        if tag not in row["tags"]:
            ctx.tx.update(noun, row, tags=TAGS.check([*row["tags"], tag], "tags", ctx.at))

    def remove(ctx: Ctx, row: Row) -> None:
        has(ctx, row)
        ctx.tx.update(noun, row, tags=[tag for tag in row["tags"] if tag != ctx.path["tag"]])

    for method, path, run, policy, status, body in (
        ("GET", "/tags", show, "sees", 200, None),
        ("PUT", "/tags", replace, "member", 200, BODY),
        ("POST", "/tags", extend, "member", 200, BODY),
        ("DELETE", "/tags", clear, "member", 204, None),
        ("GET", "/tags/{tag}", has, "sees", 204, None),
        ("PUT", "/tags/{tag}", add, "member", 201, None),
        ("DELETE", "/tags/{tag}", remove, "member", 204, None),
    ):
        noun.routes.append(Route(method, f"/{{id}}{path}", run, policy, status, body, noun=noun, member=True))
