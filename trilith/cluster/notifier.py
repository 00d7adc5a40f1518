"""Publishes the outbox on RabbitMQ, in the format of oslo.messaging: the controllers' part of `kernel.notices`.

Whoever holds the lease publishes the oldest notices, waits until the broker has confirmed them, and then deletes them.
Who is killed between the two publishes again: readers get each notice at least once, and a repeated one under the same
``message_id``. While no broker is there notices wait, for `KEPT_FOR` and up to `MOST_KEPT`.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

import aio_pika
import sqlalchemy as sa

from trilith.cluster.bus import AWAY, PORT, PUBLISH_S, connected
from trilith.kernel.declare import SERVICES
from trilith.kernel.errors import Unavailable
from trilith.kernel.kinds import now
from trilith.kernel.leases import Holder
from trilith.kernel.notices import OUTBOX, TOPIC
from trilith.kernel.store import Row, Tx

log = logging.getLogger(__name__)
Publish = Callable[[Row], Awaitable[object]]  # of one row of the outbox; returns when the broker has confirmed it
Connect = Callable[[], AbstractAsyncContextManager[Publish]]

LOOK_S, AGAIN_S, TRIM_S = 2.0, 1.0, 60.0
AT_ONCE, DROPPED_AT_ONCE = 200, 1000
MOST_KEPT, KEPT_FOR = 100_000, timedelta(days=1)
PRIORITIES = ("info", "error")


class Notifier(threading.Thread):
    """One controller's publisher; it works while `lease` is this controller's. `connect`: to the next broker."""

    def __init__(self, lease: Holder, connect: Connect) -> None:
        super().__init__(name="notifier", daemon=True)
        self._lease, self._connect = lease, connect
        self._something, self._ended = threading.Event(), threading.Event()
        self._trim_at_s = 0.0
        self._away = False

    def wake(self) -> None:
        self._something.set()

    def stop(self) -> None:
        self._ended.set()
        self._something.set()

    def run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        while not self._ended.is_set():
            try:
                await self._session()
            except (*AWAY, Unavailable) as error:
                level = logging.DEBUG if self._away else logging.WARNING
                log.log(level, "notifications wait: %s", str(error) or type(error).__name__)
                self._away = True
                await asyncio.to_thread(self._ended.wait, AGAIN_S)

    async def _session(self) -> None:
        """With one broker, from when there is something to publish."""
        while not (rows := await asyncio.to_thread(self._oldest)):
            if self._ended.is_set():
                return
            await self._pause()
        async with self._connect() as publish:
            while not self._ended.is_set():
                await (self._published(publish, rows) if rows else self._pause())
                rows = await asyncio.to_thread(self._oldest)

    async def _pause(self) -> None:
        await asyncio.to_thread(self._something.wait, LOOK_S)
        self._something.clear()

    def _oldest(self) -> list[Row]:
        if self._lease.held() is None:
            return []
        if time.monotonic() > self._trim_at_s:
            self._trim_at_s = time.monotonic() + TRIM_S
            if dropped := sum(iter(lambda: self._lease.run(drop_surplus), 0)):
                log.error("%d notifications were dropped: no broker took them in time", dropped)
        return self._lease.store.read(lambda tx: tx.select(OUTBOX.select().order_by(OUTBOX.c.id).limit(AT_ONCE)))

    async def _published(self, publish: Publish, rows: list[Row]) -> None:
        async with asyncio.timeout(PUBLISH_S):
            outcomes = await asyncio.gather(*(publish(row) for row in rows), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        done = [row["id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome not in failures]
        if done:
            delete = OUTBOX.delete().where(OUTBOX.c.id.in_(done))
            await asyncio.to_thread(self._lease.run, lambda tx: tx.execute(delete).rowcount)
        if failures:
            raise failures[0]
        self._away = False


def drop_surplus(tx: Tx, most: int = MOST_KEPT) -> int:
    """Drops a bite of what is too old or too much; returns how many."""
    c = OUTBOX.c
    limit = (datetime.fromisoformat(now()) - KEPT_FOR).isoformat(timespec="microseconds")
    beyond = tx.scalar(sa.select(c.id).order_by(c.id.desc()).offset(most).limit(1)) or 0
    late = tx.scalar(sa.select(sa.func.max(c.id)).where(c.created_at < limit)) or 0
    query = sa.select(c.id).where(c.id <= max(beyond, late)).order_by(c.id).limit(DROPPED_AT_ONCE)
    ids = [row["id"] for row in tx.select(query)]
    return tx.execute(OUTBOX.delete().where(c.id.in_(ids))).rowcount if ids else 0


def priority(row: Row) -> str:
    return "error" if row["event_type"].endswith(".error") else "info"


def envelope(row: Row) -> bytes:
    """A notice as oslo.messaging 2.0 puts it on the wire: the message is JSON inside JSON."""
    message = {name: row[name] for name in ("message_id", "publisher_id", "event_type", "payload")}
    message |= {"priority": priority(row).upper(), "timestamp": row["created_at"].replace("T", " ")}
    message["_unique_id"] = row["message_id"].replace("-", "")
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


class Brokers:
    """The brokers of all controllers, tried in turn; `addresses`: this controller's own first."""

    def __init__(self, addresses: Sequence[str], password: str, tls: ssl.SSLContext | None, port: int = PORT) -> None:
        self._addresses = itertools.cycle(addresses)
        self._password, self._tls, self._port = password, tls, port

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Publish]:
        """Declares each service's exchange, and a durable queue for each priority: it keeps what nobody reads yet."""
        broker = next(self._addresses)
        async with connected(broker, self._port, self._password, self._tls) as connection:
            async with asyncio.timeout(PUBLISH_S):
                channel = await connection.channel(publisher_confirms=True)
                names = sorted({service.notices.exchange for service in SERVICES if service.notices})
                kind = aio_pika.ExchangeType.TOPIC
                exchanges = {name: await channel.declare_exchange(name, kind, durable=True) for name in names}
                for key in (f"{TOPIC}.{each}" for each in PRIORITIES):
                    queue = await channel.declare_queue(key, durable=True, arguments={"x-queue-type": "quorum"})
                    for exchange in names:
                        await queue.bind(exchange, key)
            log.info("notifications are published", extra={"broker": broker})

            async def publish(row: Row) -> object:
                message = aio_pika.Message(
                    envelope(row),
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    message_id=row["message_id"],
                )
                return await exchanges[row["exchange"]].publish(message, f"{TOPIC}.{priority(row)}")

            yield publish
