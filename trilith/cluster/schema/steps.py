"""What revisions are made of. Each step may be repeated: MariaDB commits every one of them by itself, so a revision
that was cut short begins anew with some of its steps done."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

LONG_TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")


def create_table(name: str, *items: sa.schema.SchemaItem) -> None:
    """A table. Where it is there already, columns that it lacks are added."""
    columns = {found["name"] for found in _inspect().get_columns(name)} if _inspect().has_table(name) else None
    if columns is None:
        op.create_table(name, *items, if_not_exists=True)
        return
    for item in items:
        if isinstance(item, sa.Column) and item.name not in columns:
            add_column(name, item)


def drop_table(name: str) -> None:
    op.drop_table(name, if_exists=True)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """A column that may be NULL or has a default of the server's: programs that do not know it write rows too."""
    if column.name not in {found["name"] for found in _inspect().get_columns(table)}:
        op.add_column(table, column, if_not_exists=_knows_if())


def drop_column(table: str, column: str) -> None:
    """A column and its indexes. It was one that may be NULL, so programs that do not know it any more wrote rows."""
    if column not in {found["name"] for found in _inspect().get_columns(table)}:
        return
    for index in _inspect().get_indexes(table):
        if index["name"] and column in index["column_names"]:
            drop_index(index["name"], table)
    op.drop_column(table, column, if_exists=_knows_if())


def create_index(name: str, table: str, columns: list[str], unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, if_not_exists=True)


def drop_index(name: str, table_name: str) -> None:
    if name in {found["name"] for found in _inspect().get_indexes(table_name)}:
        op.drop_index(name, table_name, if_exists=_knows_if() or None)


def _inspect() -> sa.Inspector:
    return sa.inspect(op.get_bind())


def _knows_if() -> bool:
    """Whether ALTER TABLE takes IF (NOT) EXISTS. SQLite does not, and need not: there a revision is one transaction."""
    return bool(op.get_bind().dialect.name != "sqlite")
