"""Statements that are kept: the same rows as those that are built anew, and the same errors."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tests.database import url_for
from trilith.kernel import statements
from trilith.kernel.declare import Noun, Service, flag, json, text, whole
from trilith.kernel.statements import fixed, kept
from trilith.kernel.store import Store, Tx
from trilith.kernel.wire import PlainWire

SERVICE = Service("kept", "kept", "/kept", PlainWire(), listed=False)
THING = Noun(
    SERVICE,
    "thing",
    "/things",
    dict(name=text(64), size=whole(), good=flag(), extra_json=json()),
    dict(list="anyone"),
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "name": "x", "size": 1, "good": True, "extra_json": {"k": [1, None, "é"]}, "project_id": "p1"},
    {"id": "b", "name": "y", "size": 2, "good": False, "extra_json": 0.5, "project_id": "p2"},
    {"id": "c", "name": None, "size": None, "good": None, "extra_json": None, "project_id": "p1"},
]
OWN = fixed(THING.c.project_id == sa.bindparam("who_project_id"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(url_for(tmp_path))
    found.create()
    found.run(lambda tx: [tx.insert(THING, row) for row in ROWS])
    return found


def ids(rows: list[dict[str, Any]]) -> str:
    return "".join(sorted(row["id"] for row in rows))


def test_kept_ones_read_what_built_ones_read(store: Store) -> None:
    def both(tx: Tx, equals: dict[str, Any], *where: Any) -> tuple[Any, Any]:
        query, values = statements.select(THING, where, equals, "rows")
        assert statements.prepared(query, tx.connection.dialect) is not None
        built = THING.table.select().where(*where)
        for name, value in equals.items():
            column = THING.c[name]
            several = isinstance(value, list | set)
            built = built.where(
                column.is_(None) if value is None else column.in_(value) if several else column == value
            )
        return tx.select(query, **values), tx.select(built)

    def work(tx: Tx) -> None:
        tx.who = {"who_project_id": "p1", "who_user_id": None}
        for equals, expected in (
            ({}, "abc"),
            ({"id": "b"}, "b"),
            ({"name": None}, "c"),
            ({"good": False}, "b"),
            ({"good": [True, False]}, "ab"),
            ({"size": {1, 7}}, "a"),
            ({"size": []}, ""),
            ({"name": "y", "size": 2}, "b"),
        ):
            for where in ((), (OWN,)):
                kept_rows, built_rows = both(tx, equals, *where)
                assert kept_rows == built_rows
                assert ids(kept_rows) == "".join(c for c in expected if not where or c in "ac")
        assert tx.count(THING, OWN) == 2
        assert tx.one(THING, OWN, id="b") is None

    store.read(work)
    store.close()


def test_nobody_is_not_everybody(store: Store) -> None:
    """Without a caller nothing is asked at all."""
    with pytest.raises(KeyError, match="who_project_id"):
        store.read(lambda tx: tx.rows(THING, OWN))
    store.close()


def test_what_the_database_refuses_is_said_as_always(store: Store) -> None:
    missing = kept(sa.select(sa.table("no_such_table", sa.column("x", sa.String())).c.x))
    with pytest.raises(DBAPIError, match="no_such_table"):
        store.read(lambda tx: tx.select(missing))
    store.close()


def test_other_orders_are_not_kept_without_end(store: Store) -> None:
    before = len(THING.statements)
    for n in range(30):
        store.read(lambda tx: tx.rows(THING, THING.c.size > n))  # noqa: B023
    assert len(THING.statements) == before
    store.close()
