"""Who has what: the object store's index in SQLite. Functions on a connection; whoever calls them makes it one step.

A file that no object names any more stands in `garbage` until it was removed for good.
"""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from trilith.kernel.errors import Fault
from trilith.objectstore.listing import Span
from trilith.objectstore.store import Account, Changes, Container, Due, Headers, Object

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, timestamp_us INTEGER NOT NULL, headers BLOB NOT NULL,
    container_count INTEGER NOT NULL DEFAULT 0, object_count INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS containers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account_id INTEGER NOT NULL, name TEXT NOT NULL,
    timestamp_us INTEGER NOT NULL, changed_us INTEGER NOT NULL, headers BLOB NOT NULL,
    object_count INTEGER NOT NULL DEFAULT 0, size_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (account_id, name));
CREATE TABLE IF NOT EXISTS objects (
    container_id INTEGER NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL, etag TEXT NOT NULL,
    content_type TEXT NOT NULL, timestamp_us INTEGER NOT NULL, delete_at_s INTEGER, listed BLOB NOT NULL,
    blob TEXT NOT NULL, headers BLOB NOT NULL, PRIMARY KEY (container_id, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS objects_due ON objects (delete_at_s) WHERE delete_at_s IS NOT NULL;
CREATE TABLE IF NOT EXISTS garbage (id INTEGER PRIMARY KEY, blob TEXT NOT NULL, since_s INTEGER NOT NULL);
PRAGMA user_version = 1;
"""
ACCOUNT = "SELECT name, timestamp_us, headers, container_count, object_count, size_bytes FROM accounts WHERE name = ?"
CONTAINER = """SELECT a.name, c.name, c.timestamp_us, c.changed_us, c.headers, c.object_count, c.size_bytes
    FROM accounts a JOIN containers c ON c.account_id = a.id WHERE a.name = ? AND c.name = ?"""
IDS = """SELECT a.id, c.id FROM accounts a JOIN containers c ON c.account_id = a.id WHERE a.name = ? AND c.name = ?"""
IN_LIST = "name, size_bytes, etag, content_type, timestamp_us, delete_at_s, listed, blob"
OBJECT = f"SELECT {IN_LIST}, headers FROM objects WHERE container_id = ? AND name = ?"
OBJECT_BY_NAMES = (
    f"SELECT {IN_LIST}, headers FROM objects WHERE container_id = ({IDS.replace('a.id, c.id', 'c.id')}) AND name = ?"
)
DUE = """SELECT a.name, c.name, o.name, o.delete_at_s FROM objects o JOIN containers c ON c.id = o.container_id
    JOIN accounts a ON a.id = c.account_id WHERE o.delete_at_s <= ? ORDER BY o.delete_at_s LIMIT ?"""
NO_HEADERS = b"{}"
_as_headers = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode
Db = sqlite3.Connection


class Place(NamedTuple):
    """Where a container's rows are."""

    account_id: int
    container_id: int


def now_us() -> int:
    return time.time_ns() // 10_000 * 10


def merged(headers: Headers, changes: Changes) -> dict[str, str]:
    """Metadata after changes."""
    after = {**headers, **changes}
    return {name: value for name, value in after.items() if value is not None}


# accounts


def account(db: Db, name: str) -> Account | None:
    row = db.execute(ACCOUNT, (name,)).fetchone()
    return Account(row[0], row[1], _as_headers(row[2]), row[3], row[4], row[5]) if row else None


def there_account(db: Db, name: str) -> int:
    """The id of an account, which is made if need be."""
    db.execute(
        "INSERT OR IGNORE INTO accounts (name, timestamp_us, headers) VALUES (?, ?, ?)", (name, now_us(), NO_HEADERS)
    )
    return int(db.execute("SELECT id FROM accounts WHERE name = ?", (name,)).fetchone()[0])


def update_account(db: Db, name: str, changes: Changes) -> Account:
    there_account(db, name)
    found = account(db, name)
    assert found is not None
    found = replace(found, headers=merged(found.headers, changes))
    db.execute("UPDATE accounts SET headers = ? WHERE name = ?", (_encode(found.headers), name))
    return found


def delete_account(db: Db, name: str) -> None:
    found = account(db, name)
    if found is None:
        raise Fault("missing", f"There is no account {name}.")
    if found.container_count:
        raise Fault("conflict", f"The account {name} has containers; delete these first.")
    db.execute("DELETE FROM accounts WHERE name = ?", (name,))


def scan_containers(db: Db, name: str, span: Span, limit: int, reverse: bool) -> Sequence[Container]:
    words, values = _within(span, limit, reverse)
    columns = "name, timestamp_us, changed_us, object_count, size_bytes"
    query = f"SELECT {columns} FROM containers WHERE account_id = (SELECT id FROM accounts WHERE name = ?) {words}"
    return [Container(name, row[0], row[1], row[2], {}, row[3], row[4]) for row in db.execute(query, (name, *values))]


# containers


def container(db: Db, account_name: str, name: str) -> Container | None:
    row = db.execute(CONTAINER, (account_name, name)).fetchone()
    return Container(row[0], row[1], row[2], row[3], _as_headers(row[4]), row[5], row[6]) if row else None


def place(db: Db, account_name: str, name: str) -> Place:
    """`Fault("missing")`."""
    row = db.execute(IDS, (account_name, name)).fetchone()
    if row is None:
        raise Fault("missing", f"There is no container {name}.")
    return Place(*row)


def put_container(db: Db, account_name: str, name: str, changes: Changes) -> bool:
    """Makes or updates it; whether it was made."""
    if db.execute(IDS, (account_name, name)).fetchone():
        update_container(db, account_name, name, changes)
        return False
    account_id, made_us = there_account(db, account_name), now_us()
    db.execute(
        "INSERT INTO containers (account_id, name, timestamp_us, changed_us, headers) VALUES (?, ?, ?, ?, ?)",
        (account_id, name, made_us, made_us, _encode(merged({}, changes))),
    )
    db.execute("UPDATE accounts SET container_count = container_count + 1 WHERE id = ?", (account_id,))
    return True


def set_container_times(db: Db, account_name: str, name: str, timestamp_us: int, changed_us: int) -> None:
    row_id = place(db, account_name, name).container_id
    db.execute(
        "UPDATE containers SET timestamp_us = ?, changed_us = ? WHERE id = ?", (timestamp_us, changed_us, row_id)
    )


def update_container(db: Db, account_name: str, name: str, changes: Changes) -> Container:
    found = container(db, account_name, name)
    if found is None:
        raise Fault("missing", f"There is no container {name}.")
    headers, changed_us = merged(found.headers, changes), max(now_us(), found.changed_us + 10)
    db.execute(
        "UPDATE containers SET headers = ?, changed_us = ? WHERE id = ?",
        (_encode(headers), changed_us, place(db, account_name, name).container_id),
    )
    return Container(account_name, name, found.timestamp_us, changed_us, headers, found.object_count, found.size_bytes)


def delete_container(db: Db, account_name: str, name: str) -> None:
    account_id, container_id = place(db, account_name, name)
    if db.execute("SELECT 1 FROM objects WHERE container_id = ? LIMIT 1", (container_id,)).fetchone():
        raise Fault("conflict", f"The container {name} has objects; delete these first.")
    db.execute("DELETE FROM containers WHERE id = ?", (container_id,))
    db.execute("UPDATE accounts SET container_count = container_count - 1 WHERE id = ?", (account_id,))


def scan_objects(db: Db, container_id: int, span: Span, limit: int, reverse: bool) -> Sequence[Object]:
    words, values = _within(span, limit, reverse)
    query = f"SELECT {IN_LIST} FROM objects WHERE container_id = ? {words}"
    return [_object(row) for row in db.execute(query, (container_id, *values))]


def _within(span: Span, limit: int, reverse: bool) -> tuple[str, list[Any]]:
    words, values = "", []
    if span.lower is not None:
        words += f"AND name {'>=' if span.inclusive else '>'} ? "
        values.append(span.lower)
    if span.upper is not None:
        words += "AND name < ? "
        values.append(span.upper)
    return f"{words} ORDER BY name {'DESC' if reverse else 'ASC'} LIMIT ?", [*values, limit]


# objects


def object_by_names(db: Db, account_name: str, container_name: str, name: str) -> Object | None:
    row = db.execute(OBJECT_BY_NAMES, (account_name, container_name, name)).fetchone()
    return _object(row) if row else None


def object_at(db: Db, at: Place, name: str) -> Object | None:
    row = db.execute(OBJECT, (at.container_id, name)).fetchone()
    return _object(row) if row else None


def put_object(db: Db, at: Place, made: Object, before: Object | None) -> None:
    db.execute(
        "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            at.container_id,
            made.name,
            made.size_bytes,
            made.etag,
            made.content_type,
            made.timestamp_us,
            made.delete_at_s,
            _encode(made.listed) if made.listed else NO_HEADERS,
            made.blob,
            _encode(made.headers),
        ),
    )
    if before is None:
        _count(db, at, 1, made.size_bytes)
    elif before.blob != made.blob:
        _count(db, at, 0, made.size_bytes - before.size_bytes)
        add_garbage(db, before.blob)


def delete_object(db: Db, at: Place, before: Object) -> None:
    db.execute("DELETE FROM objects WHERE container_id = ? AND name = ?", (at.container_id, before.name))
    _count(db, at, -1, -before.size_bytes)
    add_garbage(db, before.blob)


def _count(db: Db, at: Place, objects: int, size_bytes: int) -> None:
    for table, row_id in (("containers", at.container_id), ("accounts", at.account_id)):
        db.execute(
            f"UPDATE {table} SET object_count = object_count + ?, size_bytes = size_bytes + ? WHERE id = ?",
            (objects, size_bytes, row_id),
        )


def _object(row: tuple[Any, ...]) -> Object:
    headers = _as_headers(row[8]) if len(row) > 8 else {}
    listed = {} if row[6] == NO_HEADERS else _as_headers(row[6])
    return Object(row[0], row[1], row[2], row[3], row[4], row[5], headers, listed, row[7])


def due(db: Db, now_s: int, limit: int) -> Sequence[Due]:
    return [Due(*row) for row in db.execute(DUE, (now_s, limit))]


# files that nobody names


def add_garbage(db: Db, blob: str) -> None:
    db.execute("INSERT INTO garbage (blob, since_s) VALUES (?, ?)", (blob, int(time.time())))


def garbage(db: Db, before_s: float, limit: int) -> list[tuple[int, str]]:
    rows = db.execute("SELECT id, blob FROM garbage WHERE since_s <= ? ORDER BY id LIMIT ?", (before_s, limit))
    return rows.fetchall()


def forget_garbage(db: Db, ids: Sequence[int]) -> None:
    db.executemany("DELETE FROM garbage WHERE id = ?", [(each,) for each in ids])
