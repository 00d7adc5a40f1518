"""SQL statements that are made once. To build one, to find out that its like was compiled before, and to run it takes
SQLAlchemy five times as long as the database; one that is kept is compiled once and run by itself.

A condition that is the same object at each request is `fixed`; what it says of the caller stands in it as a name
(``who_project_id``) that `Tx` fills in. Statements of fixed conditions and of ``column=value`` are kept with their
noun, others by `kept`; all the rest is built as it comes.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

if TYPE_CHECKING:
    from trilith.kernel.declare import Noun
    from trilith.kernel.policy import Principal

Condition = sa.ColumnElement[bool]
Values = dict[str, Any]
Row = dict[str, Any]
LENGTHS_KEPT = 100  # of a statement: lists of values differ in theirs
SEVERAL = (list, tuple, set, frozenset)

_FIXED: dict[int, Condition] = {}  # by id(): they live for ever
_KEPT: dict[int, sa.Select[Any]] = {}
_PREPARED: dict[tuple[int, str], "Prepared"] = {}


def fixed(condition: Condition) -> Condition:
    """For conditions that are made once in a process: at import, or in a function with ``@cache``."""
    _FIXED[id(condition)] = condition
    return condition


def kept(query: sa.Select[Any]) -> sa.Select[Any]:
    """The same for whole statements."""
    _KEPT[id(query)] = query
    return query


def shape(conditions: Iterable[Condition]) -> tuple[int, ...] | None:
    """What tells sets of fixed conditions apart; None where one is not."""
    found = tuple(map(id, conditions))
    return found if all(number in _FIXED for number in found) else None


def mine(column: Any, what: Literal["project_id", "user_id"], who: "Principal") -> Condition:
    """Whether the column holds the caller's project or user."""
    return _mine(column, what) if getattr(who, what) is not None else column.is_(None)


@cache
def _mine(column: Any, what: str) -> Condition:
    return fixed(column == sa.bindparam(f"who_{what}"))


def select(
    noun: "Noun", where: Iterable[Condition | None], equals: Mapping[str, Any], what: Literal["rows", "one", "count"]
) -> tuple[sa.Select[Any], Values]:
    """A statement over a noun's table and its values. `equals`: columns with a value, None, or several values."""
    conditions = [condition for condition in where if condition is not None]
    kinds = tuple((n, None if v is None else isinstance(v, SEVERAL)) for n, v in equals.items())
    values = {f"at_{n}": list(v) if isinstance(v, SEVERAL) else v for n, v in equals.items() if v is not None}
    key = (what, kinds, shape(conditions))
    query = noun.statements.get(key) if key[2] is not None else None
    if query is None:
        every = [*conditions, *(_condition(noun.table.c[name], name, several) for name, several in kinds)]
        start = noun.table.select() if what != "count" else sa.select(sa.func.count()).select_from(noun.table)
        query = (start.limit(1) if what == "one" else start).where(*every)
        if key[2] is not None:
            noun.statements[key] = kept(query)
    return query, values


def _condition(column: sa.Column[Any], name: str, several: bool | None) -> Condition:
    if several is None:
        return column.is_(None)
    value: sa.BindParameter[Any] = sa.bindparam(f"at_{name}", expanding=several)
    return column.in_(value) if several else column == value


def prepared(query: sa.Select[Any], dialect: sa.Dialect) -> "Prepared | None":
    """None for a statement that is not kept."""
    found = _PREPARED.get((id(query), dialect.name))
    if found is None and id(query) in _KEPT:
        found = _PREPARED[id(query), dialect.name] = Prepared(query, dialect)
    return found


class Prepared:
    """A select, compiled for one kind of database."""

    def __init__(self, query: sa.Select[Any], dialect: sa.Dialect) -> None:
        self.dialect = dialect
        self.compiled: Any = query.compile(dialect=dialect)
        self.text, self.order = str(self.compiled), self.compiled.positiontup
        self.preset = dict(self.compiled.construct_params(_check=False))
        binds = [(name, bind) for bind, name in self.compiled.bind_names.items()]
        self.several = [name for name, bind in binds if bind.expanding]
        self.expanded: dict[tuple[int, ...], tuple[str, Any]] = {}  # text and order, by how many values there are
        self.required = [name for name, bind in binds if bind.required]
        self.write = self._processors("bind_processor", binds)
        columns = [(str(column.key), column) for column in query.selected_columns]
        self.names = tuple(name for name, _ in columns)
        self.read = self._processors("result_processor", columns, None)

    def _processors(self, what: str, items: Iterable[tuple[str, Any]], *more: Any) -> list[tuple[str, Any]]:
        made = [(name, getattr(it.type.dialect_impl(self.dialect), what)(self.dialect, *more)) for name, it in items]
        return [(name, process) for name, process in made if process is not None]

    def _expanded(self, every: Values) -> tuple[str, Any]:
        counts = tuple(len(every[name]) for name in self.several)
        if (found := self.expanded.get(counts)) is None:
            state = self.compiled.construct_expanded_state(every)
            if len(self.expanded) >= LENGTHS_KEPT:
                self.expanded.clear()
            found = self.expanded[counts] = state.statement, state.positiontup
        return found

    def rows(self, connection: sa.Connection, values: Values) -> list[Row]:
        """Errors are those that SQLAlchemy makes of them."""
        every = self.preset | {name: values[name] for name in self.required}
        for name, process in self.write:
            every[name] = list(map(process, every[name])) if isinstance(every[name], list) else process(every[name])
        text, order = self.text, self.order
        if self.several:
            text, order = self._expanded(every)
            for name in self.several:
                every |= {f"{name}_{n}": value for n, value in enumerate(every.pop(name), 1)}
        given: Any = every if order is None else [every[name] for name in order]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, given)
            found = cursor.fetchall()
        except self.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            connection._handle_dbapi_exception(error, text, given, cursor, None)
        cursor.close()
        rows = [dict(zip(self.names, row, strict=True)) for row in found]
        for name, process in self.read:
            for row in rows:
                row[name] = process(row[name])
        return rows


def dicts(result: sa.CursorResult[Any]) -> list[Row]:
    """A result's rows. (``mappings()`` takes half as long again.)"""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]
