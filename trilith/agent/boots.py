"""How many machines boot at once on a host that emulates processors.

A boot costs seconds of a processor there, and more the longer it takes: the guest's clock ticks meanwhile. Ten at once
on two processors took 9.5 s of them each, one alone 6 s (ARCHITECTURE.md says how that was measured). Whoever boots is
busy all the time: a machine that has little to do has booted, or waits for something that no processor gives it. But
one that has done hardly anything yet only waits for its disks, or for a processor.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

BOOT_CPU_S = 8.0  # of a processor: then it has booted, or nearly
BOOT_S = 60.0  # and so it has after this, whatever it does
START_S = 10.0  # until there is a process
LOOK_S, IDLE_CPU_S = 1.0, 0.25  # who uses less in that time is idle: what a booted guest does now and then, too
BEGUN_CPU_S = 1.5  # who is idle and has used less has hardly begun, unless it stays so
BEGINS_S = 10.0
WAITS_S = 30.0  # who has not asked for so long does not wait any more


@dataclass
class Boot:
    """When it began, what had been used at the last look, and since when it is idle."""

    begun_s: float
    looked_s: float
    used_s: float = 0.0
    idle_from_s: float | None = None


class Boots:
    """`cpu_s(server_id)`: what its process has used; None where there is none. Of any thread."""

    def __init__(
        self, at_once: int, cpu_s: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._cpu_s, self._clock = at_once, cpu_s, clock
        self._boots: dict[str, Boot] = {}
        self._waiting: dict[str, float] = {}  # when each asked last
        self._lock = threading.Lock()

    def may_begin(self, server_id: str) -> bool:
        """Whether it may start now, for which its place is kept; else it has to ask again."""
        with self._lock:
            now_s = self._clock()
            others = {
                key: boot for key, boot in self._boots.items() if key != server_id and self._goes_on(key, boot, now_s)
            }
            self._boots = others
            if len(others) >= self._at_once:
                self._waits(server_id, now_s)
                return False
            others[server_id] = Boot(now_s, now_s)
            self._waiting.pop(server_id, None)
            return True

    def _waits(self, server_id: str, now_s: float) -> None:
        """Told once, when it begins."""
        self._waiting = {key: asked_s for key, asked_s in self._waiting.items() if now_s - asked_s < WAITS_S}
        if server_id not in self._waiting:
            log.info("waits to boot", extra={"kind": "server", "key": server_id, "boots": self._at_once})
        self._waiting[server_id] = now_s

    def _goes_on(self, server_id: str, boot: Boot, now_s: float) -> bool:
        used_s, age_s = self._cpu_s(server_id), now_s - boot.begun_s
        if used_s is None:
            return age_s < START_S
        if boot.used_s == 0.0:
            boot.looked_s, boot.used_s = now_s, used_s  # its process is new
        elif now_s - boot.looked_s >= LOOK_S:
            is_idle = used_s - boot.used_s < IDLE_CPU_S
            boot.idle_from_s = (boot.idle_from_s or boot.looked_s) if is_idle else None
            boot.looked_s, boot.used_s = now_s, used_s
        return age_s < BOOT_S and used_s < BOOT_CPU_S and not self._has_ended(boot, now_s)

    def _has_ended(self, boot: Boot, now_s: float) -> bool:
        if boot.idle_from_s is None:
            return False
        return boot.used_s >= BEGUN_CPU_S or now_s - boot.idle_from_s >= BEGINS_S
