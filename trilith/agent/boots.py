"""How many machines boot at once on a host that emulates processors.

A boot costs seconds of a processor there, and more the longer it takes: the guest's clock ticks meanwhile. Ten at once
on two processors took 9.5 s of them each, one alone 6 s (ARCHITECTURE.md says how that was measured).
"""

import threading
import time
from collections.abc import Callable

BOOT_CPU_S = 5.0  # of a processor: then it has booted, or nearly
BOOT_S = 60.0  # and so it has after this, whatever it waits for
START_S = 10.0  # until there is a process


class Boots:
    """`cpu_s(server_id)`: what its process has used; None where there is none. Of any thread."""

    def __init__(
        self, at_once: int, cpu_s: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._cpu_s, self._clock = at_once, cpu_s, clock
        self._begun_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def may_begin(self, server_id: str) -> bool:
        """Whether it may start now, for which its place is kept; else it has to ask again."""
        with self._lock:
            others = {key: at_s for key, at_s in self._begun_s.items() if key != server_id and self._boots(key, at_s)}
            self._begun_s = others
            if len(others) >= self._at_once:
                return False
            others[server_id] = self._clock()
            return True

    def _boots(self, server_id: str, begun_s: float) -> bool:
        used_s, age_s = self._cpu_s(server_id), self._clock() - begun_s
        return age_s < START_S if used_s is None else age_s < BOOT_S and used_s < BOOT_CPU_S
