"""The outbox reaches the broker: at least once, in order, whatever dies; and never grows without end."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import client
from tests.cluster.conftest import eventually
from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.cluster.notifier import Notifier, Publish, drop_surplus, envelope
from trilith.compute.versions import COMPUTE
from trilith.kernel import notices
from trilith.kernel.errors import Unavailable
from trilith.kernel.kinds import now
from trilith.kernel.leases import Holder, acquire
from trilith.kernel.notices import OUTBOX, tell
from trilith.kernel.store import Store


class FakeBroker:
    """Takes what it is given, unless it is away or refuses every `refuses`-th message."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.away, self.silent = False, False
        self.refuses = 0
        self.connections, self.asked = 0, 0

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Publish]:
        self.connections += 1
        if self.away:
            raise ConnectionRefusedError("nobody listens")
        yield self.publish

    async def publish(self, row: dict[str, Any]) -> None:
        self.asked += 1
        if self.away:
            raise ConnectionResetError("gone")
        if self.silent:
            await asyncio.sleep(60)
        if self.refuses and self.asked % self.refuses == 0:
            raise ConnectionResetError("not this one")
        self.got.append(row["payload"]["n"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = client(tmp_path).app.store
    found.before_commit = notices.record
    return found


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def notifier(store: Store, broker: FakeBroker) -> Iterator[Notifier]:
    found = Notifier(Holder(store, "notifications", "controller:c1"), broker.connect)
    yield found
    found.stop()
    if found.ident is not None:
        found.join(10)
        assert not found.is_alive()


def happen(store: Store, *numbers: int) -> None:
    def work(tx: Any) -> None:
        for n in numbers:
            tell(tx, COMPUTE, "compute.instance.update", {"n": n})

    store.run(work)


def kept(store: Store) -> list[int]:
    rows = store.read(lambda tx: tx.select(OUTBOX.select().order_by(OUTBOX.c.id)))
    return [row["payload"]["n"] for row in rows]


def test_everything_arrives_in_order_and_is_kept_no_longer(
    store: Store, broker: FakeBroker, notifier: Notifier
) -> None:
    happen(store, *range(250))
    notifier.start()
    eventually(lambda: not kept(store), "published")
    assert broker.got == list(range(250))
    happen(store, 250)
    notifier.wake()
    eventually(lambda: broker.got[-1] == 250, "published when woken", 1.5)
    assert broker.connections == 1


def test_with_nothing_to_say_nobody_is_bothered(broker: FakeBroker, notifier: Notifier) -> None:
    notifier.start()
    notifier.wake()
    notifier.join(0.3)
    assert broker.connections == 0


def test_while_the_broker_is_away_notices_wait(
    store: Store, broker: FakeBroker, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    broker.away = True
    happen(store, 1)
    with caplog.at_level(logging.WARNING):
        notifier.start()
        eventually(lambda: broker.connections >= 2, "tried again")
    assert [record.message for record in caplog.records] == ["notifications wait: nobody listens"]
    happen(store, 2)
    assert kept(store) == [1, 2]
    broker.away = False
    eventually(lambda: not kept(store), "published")
    assert broker.got == [1, 2]


def test_what_is_not_confirmed_is_published_again(store: Store, broker: FakeBroker, notifier: Notifier) -> None:
    broker.refuses = 7
    happen(store, *range(20))
    notifier.start()
    eventually(lambda: not kept(store), "published", 20)
    assert sorted(broker.got) == list(range(20))


def test_killed_between_publishing_and_deleting_it_is_published_twice(store: Store, broker: FakeBroker) -> None:
    happen(store, 1, 2)

    class Killed(Holder):
        def run(self, work: Any) -> Any:
            raise Unavailable("the process ends here")

    first = Notifier(Killed(store, "notifications", "controller:c1"), broker.connect)
    first._trim_at_s = float("inf")
    first.start()
    eventually(lambda: broker.got == [1, 2], "published")
    first.stop()
    first.join(10)
    assert kept(store) == [1, 2]
    second = Notifier(Holder(store, "notifications", "controller:c1"), broker.connect)
    second.start()
    eventually(lambda: not kept(store), "published again and deleted")
    second.stop()
    second.join(10)
    assert broker.got[-2:] == [1, 2]


def test_only_one_controller_publishes(store: Store, broker: FakeBroker, notifier: Notifier) -> None:
    assert store.run(lambda tx: acquire(tx, "notifications", "controller:c2", 3.0))
    happen(store, 1)
    notifier.start()
    notifier.join(0.5)
    assert (broker.got, kept(store)) == ([], [1])
    eventually(lambda: broker.got == [1], "taken over")


def test_what_nobody_takes_is_dropped_in_the_end(
    store: Store, broker: FakeBroker, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    happen(store, *range(10))
    assert store.run(lambda tx: drop_surplus(tx, most=10)) == 0
    assert store.run(lambda tx: drop_surplus(tx, most=4)) == 6
    assert kept(store) == [6, 7, 8, 9]
    old = OUTBOX.update().where(OUTBOX.c.id <= 9).values(created_at="2020-01-01T00:00:00.000000")
    store.run(lambda tx: tx.execute(old))
    broker.away = True
    notifier.start()
    eventually(lambda: kept(store) == [9], "the old ones are gone")
    eventually(lambda: any("3 notifications were dropped" in r.message for r in caplog.records), "said so")


def test_the_envelope_is_that_of_oslo_messaging() -> None:
    row = {
        "message_id": "22222222-2222-4222-8222-222222222222",
        "publisher_id": "compute.c1",
        "event_type": "compute.instance.create.error",
        "payload": {"instance_id": "i"},
        "created_at": now(),
    }
    outer = json.loads(envelope(row))
    assert outer["oslo.version"] == "2.0"
    inner = json.loads(outer["oslo.message"])
    assert inner.pop("timestamp") == row["created_at"].replace("T", " ")
    assert inner == {
        "message_id": row["message_id"],
        "_unique_id": "22222222222242228222222222222222",
        "publisher_id": "compute.c1",
        "event_type": "compute.instance.create.error",
        "priority": "ERROR",
        "payload": {"instance_id": "i"},
    }
    assert (
        json.loads(json.loads(envelope(row | {"event_type": "volume.create.end"}))["oslo.message"])["priority"]
        == "INFO"
    )
