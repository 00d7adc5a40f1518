"""Where a controller's reconcilers get their wants from and report to: SQL."""

from collections.abc import Callable

from trilith.kernel.reconcile import Doc
from trilith.kernel.store import Store, Tx

Wants = Callable[[Tx], dict[str, Doc]]
Report = Callable[[Tx, str, int, Doc | None, str | None], None]


class SqlSource:
    """A `kernel.reconcile.Source`: for each kind a function that reads the wants and one that writes a report."""

    def __init__(self, store: Store, kinds: dict[str, tuple[Wants, Report]]) -> None:
        self.store, self.kinds = store, kinds

    def wants(self, kind: str) -> dict[str, Doc]:
        return self.store.read(self.kinds[kind][0])

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        self.store.run(lambda tx: self.kinds[kind][1](tx, key, generation, seen, fault))
