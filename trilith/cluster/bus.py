"""Hints between controllers, through RabbitMQ: what one hub is told, all hubs hear.

The bus only wakes. While it is away, each hub goes on with what its own controller tells it, and listeners poll;
whenever it is back, everybody is woken once, because something may have been missed.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPException, ChannelInvalidStateError

log = logging.getLogger(__name__)

PORT = 5671
EXCHANGE = "trilith.hints"
CONNECT_S = 2.0
PUBLISH_S = 3.0  # a broker that does not confirm for so long has vanished
HEARTBEAT_S = 5
PAUSE_S = (0.1, 0.5, 1.0, 2.0)
AWAY = (AMQPException, ChannelInvalidStateError, OSError, TimeoutError, asyncio.CancelledError)
_closing: set[asyncio.Task[None]] = set()


@contextlib.asynccontextmanager
async def connected(
    broker: str, port: int, password: str, tls: ssl.SSLContext | None
) -> AsyncIterator[AbstractConnection]:
    """A connection to one broker, for as long as the block lasts. Raises what `AWAY` holds."""
    async with asyncio.timeout(CONNECT_S):
        connection = await aio_pika.connect(
            host=broker,
            port=port,
            login="trilith",
            password=password,
            ssl=tls is not None,
            ssl_context=tls,
            heartbeat=HEARTBEAT_S,
        )
    try:
        yield connection
    finally:
        # not waited for: to take leave of a broker that has vanished takes half a minute
        task = asyncio.create_task(_close(connection))
        _closing.add(task)
        task.add_done_callback(_closing.discard)


class Bus:
    """One hub's end. `brokers`: addresses, its own controller's first. `on_topics(topics)` is called with what other
    hubs were told, and with None when everybody shall look."""

    def __init__(
        self,
        name: str,
        brokers: Sequence[str],
        port: int,
        password: str,
        tls: ssl.SSLContext | None,
        on_topics: Callable[[set[str] | None], None],
    ) -> None:
        self._name, self._brokers, self._port = name, list(brokers), port
        self._password, self._tls = password, tls
        self._on_topics = on_topics
        self._pending: set[str] = set()  # bounded: topics are hosts and a few words
        self._something = asyncio.Event()
        self.connected_to: str | None = None

    def publish(self, topics: set[str]) -> None:
        """Never blocks, never fails."""
        self._pending |= topics
        self._something.set()

    async def run(self) -> None:
        """For ever, from one broker to the next."""
        failures = 0
        for broker in itertools.cycle(self._brokers):
            try:
                await self._session(broker)
                failures = 0
            except (AMQPException, ChannelInvalidStateError, OSError, TimeoutError) as error:
                was_up, self.connected_to = self.connected_to, None
                failures = 0 if was_up else failures + 1
                log.log(logging.INFO if was_up else logging.DEBUG, "bus away: %s", error, extra={"broker": broker})
            rounds = failures // len(self._brokers)
            await asyncio.sleep(PAUSE_S[min(rounds, len(PAUSE_S) - 1)] * random.uniform(0.8, 1.2))

    async def _session(self, broker: str) -> None:
        async with connected(broker, self._port, self._password, self._tls) as connection:
            async with asyncio.timeout(PUBLISH_S):
                channel = await connection.channel(publisher_confirms=True)
                exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.FANOUT)
                queue = await channel.declare_queue(exclusive=True, auto_delete=True)
                await queue.bind(exchange)
                await queue.consume(self._received, no_ack=True)
            log.info("bus connected", extra={"broker": broker})
            self.connected_to = broker
            self._on_topics(None)
            while True:
                await self._published(exchange, connection)

    async def _published(self, exchange: aio_pika.abc.AbstractExchange, connection: AbstractConnection) -> None:
        """Wait for something to say, and say it; now and then only look whether the connection still stands."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._something.wait()
        if connection.is_closed:
            raise ConnectionError("the connection was closed")
        if not self._pending:
            return
        self._something.clear()
        topics, self._pending = self._pending, set()
        message = aio_pika.Message(json.dumps(sorted(topics)).encode(), app_id=self._name)
        try:
            async with asyncio.timeout(PUBLISH_S):
                await exchange.publish(message, routing_key="")
        except AWAY:
            self.publish(topics)  # with the next connection
            raise

    async def _received(self, message: AbstractIncomingMessage) -> None:
        if message.app_id == self._name:
            return
        try:
            topics = {str(topic) for topic in json.loads(message.body)}
        except (ValueError, TypeError):
            log.warning("a hint that cannot be read", extra={"sender": message.app_id})
            return
        self._on_topics(topics)


async def _close(connection: AbstractConnection) -> None:
    with contextlib.suppress(*AWAY):
        await connection.close()
