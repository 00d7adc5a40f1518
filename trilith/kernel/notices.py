"""Notices: what billing and audit tools are told of each change that was committed.

A store with ``before_commit=record`` asks each service, at the end of a transaction, what it has to tell of the rows
that the transaction changed, and keeps that in the outbox, in the same transaction. So the outbox holds exactly what
was committed, and a request never waits for a broker: `cluster.notifier` publishes from there.
"""

import platform
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Noun, Service
from trilith.kernel.kinds import now
from trilith.kernel.store import METADATA, Row, Tx

TOPIC = "notifications"
Event = tuple[str, Row]  # its type, such as ``volume.create.end``, and the payload

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),  # grows: the order
    sa.Column("message_id", sa.String(36), nullable=False),
    sa.Column("exchange", sa.String(32), nullable=False),
    sa.Column("event_type", sa.String(128), nullable=False),
    sa.Column("publisher_id", sa.String(255), nullable=False),
    sa.Column("payload", sa.JSON(), nullable=False),
    sa.Column("created_at", sa.String(26), nullable=False),
)


@dataclass(frozen=True)
class Notices:
    """A service's. `events(tx, noun, old, new)`: what there is to tell of a row that was `old` when the transaction
    began and is `new` at its end; None: it was not, is not there. At least one of them is a row.

    Payloads go to whoever reads the bus: never anything secret.
    """

    exchange: str  # as upstream's service names its own: ``nova``
    publisher: str  # what stands before the host in ``publisher_id``
    events: Callable[[Tx, Noun, Row | None, Row | None], Iterable[Event]]


def picked(row: Row, names: str) -> Row:
    """Part of a row as part of a payload: ``"id display_name=name"``."""
    pairs = (name.partition("=") for name in names.split())
    return {told: row.get(column or told) for told, _, column in pairs}


def record(tx: Tx) -> None:
    """For `Store`'s `before_commit`."""
    rows: list[dict[str, Any]] = []
    for noun, old, new in tx.changes.values():
        notices = noun.service.notices
        if notices is not None and not (old is None and new is None):
            rows += [_row(notices, event) for event in notices.events(tx, noun, old, new)]
    _keep(tx, rows)


def tell(tx: Tx, service: Service, event_type: str, payload: Row) -> None:
    """Of what no noun's row is about. Nothing happens where the store does not record."""
    if tx.store.before_commit is not None and service.notices is not None:
        _keep(tx, [_row(service.notices, (event_type, payload))])


def _row(notices: Notices, event: Event) -> dict[str, Any]:
    return {
        "message_id": str(uuid.uuid4()),
        "exchange": notices.exchange,
        "event_type": event[0],
        "publisher_id": f"{notices.publisher}.{event[1].get('host') or platform.node()}",
        "payload": event[1],
        "created_at": now(),
    }


def _keep(tx: Tx, rows: list[dict[str, Any]]) -> None:
    if rows:
        tx.connection.execute(OUTBOX.insert(), rows)
        tx.hint(TOPIC)
