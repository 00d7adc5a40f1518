"""Lists: filters, sorting and marker paging as SQL (keyset, so that a page costs the same wherever it is)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.statements import kept, shape

if TYPE_CHECKING:
    from trilith.kernel.declare import Noun
    from trilith.kernel.request import Ctx

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]
PAGE_ROWS = sa.bindparam("page_rows", type_=sa.Integer())
MOST_KEPT = 500  # statements of a noun


@dataclass
class Listing:
    """What a list request asks for, in no service's dialect."""

    where: list[Condition] = field(default_factory=list)
    sort: list[tuple[str, str]] = field(default_factory=list)  # (column, asc | desc)
    limit: int | None = None
    marker: str | None = None
    offset: int = 0
    reverse: bool = False  # the page before the marker
    fields: list[str] | None = None


@dataclass
class Page:
    rows: list[Row]
    more: bool = False  # rows follow
    before: bool = False  # rows precede


def fetch(ctx: "Ctx", noun: "Noun", listing: Listing) -> Page:
    """One page of what the caller may see. An unknown marker is what the service's dialect says it is."""
    sort = listing.sort + [(c, d) for c, d in noun.order if c not in [s for s, _ in listing.sort]]
    if "id" not in [c for c, _ in sort]:
        sort.append(("id", sort[-1][1] if sort else "asc"))
    if listing.reverse:
        sort = [(c, "desc" if d == "asc" else "asc") for c, d in sort]
    where = [c for c in (noun.scope(ctx), *listing.where) if c is not None]
    for name in path_columns(noun):
        where.append(noun.c[name] == ctx.path[name])
    query = _query(noun, where, sort, listing.limit is not None)
    if listing.marker is not None:
        row = ctx.tx.one(noun, noun.scope(ctx), **{noun.key: listing.marker})
        if row is None:
            raise ctx.service.wire.unknown_marker(noun, listing.marker)
        query = query.where(after(noun, sort, row))
    if listing.offset:
        query = query.offset(listing.offset)
    rows = ctx.tx.select(query, page_rows=(listing.limit or 0) + 1)
    more = listing.limit is not None and len(rows) > listing.limit
    rows = rows[: listing.limit] if listing.limit is not None else rows
    if listing.reverse:
        return Page(rows[::-1], more=listing.marker is not None, before=more)
    return Page(rows, more=more, before=listing.marker is not None)


def _query(noun: "Noun", where: list[Condition], sort: list[tuple[str, str]], limited: bool) -> sa.Select[Any]:
    """The list in its order; kept where its conditions are fixed."""
    known = shape(where) if len(noun.statements) < MOST_KEPT else None  # callers choose the order
    key = ("page", known, tuple(sort), limited)
    query = noun.statements.get(key) if known is not None else None
    if query is None:
        ordered = [(_filled(noun, column), direction) for column, direction in sort]
        order = [column.asc() if direction == "asc" else column.desc() for column, direction in ordered]
        query = noun.listed.where(*where).order_by(*order)
        query = query.limit(PAGE_ROWS) if limited else query
        if known is not None:
            noun.statements[key] = kept(query)
    return query


def path_columns(noun: "Noun") -> list[str]:
    """The columns that stand in the noun's path: ``/servers/{server_id}/tags`` -> server_id."""
    return [part[1:-1] for part in noun.path.split("/") if part.startswith("{") and part[1:-1] in noun.table.c]


def after(noun: "Noun", sort: Sequence[tuple[str, str]], row: Row) -> Condition:
    """Rows behind this one in this order. What the first column must be is said once more, because no database finds
    the place in an index by a condition with OR."""
    found: Condition = sa.false()
    for depth in range(len(sort), 0, -1):
        *same, (last, direction) = sort[:depth]
        value = _fill(noun, last) if row[last] is None else row[last]
        column = _filled(noun, last)
        behind = column > value if direction == "asc" else column < value
        equal = [_filled(noun, c) == (_fill(noun, c) if row[c] is None else row[c]) for c, _ in same]
        found = sa.or_(found, sa.and_(*equal, behind))
    return sa.and_(column >= value if direction == "asc" else column <= value, found)


def _fill(noun: "Noun", column: str) -> Any:
    return "" if isinstance(noun.c[column].type, sa.String | sa.Text) else -(2**62)


def _filled(noun: "Noun", column: str) -> sa.ColumnElement[Any]:
    found = noun.c[column]
    if column in ("id", "created_at"):
        return found  # type: ignore[no-any-return]
    if isinstance(found.type, sa.Boolean):
        return sa.cast(found, sa.Integer)
    return sa.func.coalesce(found, _fill(noun, column))


def number(value: str | None, name: str) -> int | None:
    """A limit or an offset from a query string: a whole number, 0 or more."""
    if value is None or value == "":
        return None
    if not value.removeprefix("-").isdigit() or not value.isascii():
        raise Fault("invalid", f"{name} param must be an integer", "InvalidInput")
    if (found := int(value[:19])) < 0:
        raise Fault("invalid", f"{name} param must be positive", "InvalidInput")
    return min(found, 2**31 - 1)
