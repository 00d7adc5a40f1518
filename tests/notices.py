"""What a store has put into its outbox, for tests of services."""

from typing import Any

from trilith.kernel import notices
from trilith.kernel.notices import OUTBOX
from trilith.kernel.store import Store


class Told:
    """``told()`` gives the new events since the last time: (type, payload), in order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        store.before_commit = notices.record
        self.seen = 0

    def __call__(self) -> list[tuple[str, dict[str, Any]]]:
        rows = self.store.read(lambda tx: tx.select(OUTBOX.select().where(OUTBOX.c.id > self.seen).order_by("id")))
        self.seen = max((row["id"] for row in rows), default=self.seen)
        return [(row["event_type"], row["payload"]) for row in rows]

    def types(self) -> list[str]:
        return [event_type for event_type, _ in self()]
