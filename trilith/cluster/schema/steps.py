"""What revisions are made of. Each step may be repeated: MariaDB commits every one of them by itself, so a revision
that was cut short begins anew with some of its steps done."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable

LONG_TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")


class Index(NamedTuple):
    """Of a table that is made."""

    name: str
    columns: list[str]
    unique: bool = False


class CreateWhole(CreateTable):
    """A table with its indexes in one statement, as MariaDB knows it: each statement brings several files to disk."""

    def __init__(self, table: sa.Table, indexes: list[Index]) -> None:
        super().__init__(table, if_not_exists=True)
        self.indexes = indexes


@compiles(CreateWhole, "mysql", "mariadb")
def _create_whole(made: CreateWhole, compiler: Any, **options: Any) -> str:
    head, _, tail = compiler.visit_create_table(made, **options).rpartition("\n)")
    quote = compiler.preparer.quote
    for name, columns, unique in made.indexes:
        head += f",\n\t{'UNIQUE ' if unique else ''}INDEX {quote(name)} ({', '.join(map(quote, columns))})"
    return f"{head}\n){tail}"


def create_table(name: str, *items: sa.schema.SchemaItem | Index) -> None:
    """A table with its indexes. Where it is there already, columns and indexes that it lacks are added."""
    indexes = [item for item in items if isinstance(item, Index)]
    parts = [item for item in items if not isinstance(item, Index)]
    columns = {found["name"] for found in _inspect().get_columns(name)} if _inspect().has_table(name) else None
    if columns is None and _knows_if():
        _op().execute(CreateWhole(sa.Table(name, sa.MetaData(), *parts), indexes))
        return
    if columns is None:
        _op().create_table(name, *parts, if_not_exists=True)
    for item in parts:
        if columns is not None and isinstance(item, sa.Column) and item.name not in columns:
            add_column(name, item)
    for index in indexes:
        create_index(index.name, name, index.columns, index.unique)


def drop_table(name: str) -> None:
    _op().drop_table(name, if_exists=True)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """A column that may be NULL or has a default of the server's: programs that do not know it write rows too."""
    if column.name not in {found["name"] for found in _inspect().get_columns(table)}:
        _op().add_column(table, column, if_not_exists=_knows_if())


def drop_column(table: str, column: str) -> None:
    """A column and its indexes. It was one that may be NULL, so programs that do not know it any more wrote rows."""
    if column not in {found["name"] for found in _inspect().get_columns(table)}:
        return
    for index in _inspect().get_indexes(table):
        if index["name"] and column in index["column_names"]:
            drop_index(index["name"], table)
    _op().drop_column(table, column, if_exists=_knows_if())


def create_index(name: str, table: str, columns: list[str], unique: bool = False) -> None:
    _op().create_index(name, table, columns, unique=unique, if_not_exists=True)


def drop_index(name: str, table_name: str) -> None:
    if name in {found["name"] for found in _inspect().get_indexes(table_name)}:
        _op().drop_index(name, table_name, if_exists=_knows_if() or None)


def _op() -> Any:
    from alembic import op  # here, because most starts find nothing to do: it costs a process 0.08 s and 10 MiB

    return op


def _inspect() -> sa.Inspector:
    inspector: sa.Inspector = sa.inspect(_op().get_bind())
    return inspector


def _knows_if() -> bool:
    """Whether ALTER TABLE takes IF (NOT) EXISTS. SQLite does not, and need not: there a revision is one transaction."""
    return bool(_op().get_bind().dialect.name != "sqlite")
