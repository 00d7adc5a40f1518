"""Many hosts lost at once: the controller's own takeover over pretended switches, from the lapse of their leases until
all of their machines are other hosts'."""

import threading
import time
from dataclasses import dataclass
from typing import Any

from tests.bench.region import Row
from trilith.cluster.takeover_controller import KEY, LEADS_S, Policy, Switch, TakeoverController
from trilith.compute.scheduler import usage
from trilith.compute.takeovers import history
from trilith.drivers.fence_fake import FakeSwitch
from trilith.kernel.leases import Holder
from trilith.kernel.store import Store
from trilith.placement.hosts import HOST, LEASE_S

LONGEST_S = 1200.0


class Unreachable:
    """All others answer, and none of them reaches the lost ones."""

    def __init__(self, others: list[str]) -> None:
        self._others = others

    def ask(self, suspect: str) -> Row:
        return {name: {"management": False, "tunnel": False} for name in self._others}


@dataclass
class Lost:
    """`moved` are fewer than `machines` when time was up. `look_ms`: CPU time of one look at all hosts while nothing is
    wrong."""

    machines: int
    moved: int
    wall_s: float
    cpu_s: float
    look_ms: float


def lose_rack(store: Store, hosts: list[str]) -> Lost:
    """All other hosts stay alive. Returns when the lost ones are taken over."""
    others = [row["name"] for row in store.read(lambda tx: tx.rows(HOST)) if row["name"] not in hosts][:3]
    lease = Holder(store, KEY, "controller:bench", LEADS_S)
    switches = {name: Switch("redfish", FakeSwitch()) for name in hosts}
    controller = TakeoverController(lease, Policy(), Unreachable(others), switches)
    lease.held()
    look_ms = _look_ms(controller)
    had = _machines(store, hosts)
    thread = threading.Thread(target=controller.run, daemon=True)
    begun, used_s = time.monotonic(), time.process_time()
    silent = HOST.table.update().where(HOST.c.name.in_(hosts))
    store.run(lambda tx: tx.execute(silent.values(seen_at_s=time.time() - LEASE_S)))
    thread.start()
    try:
        while _taken_over(store, hosts) < len(hosts) and time.monotonic() - begun < LONGEST_S:
            assert thread.is_alive()
            time.sleep(1.0)
        wall_s, cpu_s = time.monotonic() - begun, time.process_time() - used_s
    finally:
        controller.stop()
        thread.join()
    return Lost(had, had - _machines(store, hosts), wall_s, cpu_s, look_ms)


def _look_ms(controller: TakeoverController) -> float:
    begun = time.process_time()
    for _ in range(3):
        controller.plan(controller.want(), controller.observe(KEY))
    return 1000 * (time.process_time() - begun) / 3


def _machines(store: Store, hosts: list[str]) -> int:
    used: dict[str, Any] = store.read(usage)
    return sum(used.get(name, {}).get("servers", 0) for name in hosts)


def _taken_over(store: Store, hosts: list[str]) -> int:
    return sum(row["host"] in hosts and row["state"] == "taken-over" for row in store.read(history))
