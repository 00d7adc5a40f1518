"""The lease of this host, as the host itself counts it, and what follows when it has run out.

Where the cluster file trusts agents to (``fencing``), other hosts start this host's machines some time after it was
last heard. So it ends them before that by itself: those whose disks are all shared, for no others are started
elsewhere. It needs no API and no lock for that. Time is the kernel's since boot, which goes on while the machine
sleeps, and counts from before the heartbeat was sent. It is written down, so that an agent that was killed goes on
counting.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from trilith.kernel.reconcile import Doc

log = logging.getLogger(__name__)

TICK_S = 0.5
WITHIN_S = 10.0  # from the end of the lease until nothing runs any more, with all that may be slow in between


def boot_clock_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HostLease:
    """`stop_after_s`: after how long without a heartbeat that was taken; None: never, because another fence is
    there."""

    def __init__(
        self, file: Path, boot_id: str, stop_after_s: float | None, clock: Callable[[], float] = boot_clock_s
    ) -> None:
        self._file, self._boot_id, self._stop_after_s, self.clock = file, boot_id, stop_after_s, clock
        self._heard_s = self._read()

    def renewed(self, asked_at_s: float) -> None:
        """A heartbeat that was sent at that moment of `clock` was taken."""
        self._heard_s = asked_at_s
        if self._stop_after_s is not None:
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps({"boot_id": self._boot_id, "heard_s": asked_at_s}))
            part.rename(self._file)

    @property
    def ended(self) -> bool:
        """Whether the machines that others may start have to be ended, and none may be started."""
        return self._stop_after_s is not None and self.clock() - self._heard_s >= self._stop_after_s

    def told(self) -> Doc:
        """For the heartbeat: so long after the last one that was taken, nothing runs that others may start."""
        return {} if self._stop_after_s is None else {"self_fence": {"stopped_after_s": self._stop_after_s + WITHIN_S}}

    def _read(self) -> float:
        """A host that has just booted counts from now: nothing runs on it yet."""
        try:
            noted = json.loads(self._file.read_bytes())
            return float(noted["heard_s"]) if noted["boot_id"] == self._boot_id else self.clock()
        except (OSError, ValueError, KeyError, TypeError):
            return self.clock()


class SelfFence(threading.Thread):
    """`stop_shared` ends at once all machines whose disks are all shared, and returns those that still run."""

    def __init__(self, lease: HostLease, stop_shared: Callable[[], set[str]]) -> None:
        super().__init__(name="self-fence", daemon=True)
        self._lease, self._stop_shared = lease, stop_shared
        self._told = False

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(TICK_S)

    def look(self) -> bool:
        """Ends what has to end now; whether nothing of it runs any more. Before a lease that has ended is renewed, this
        has to be true."""
        if not self._lease.ended:
            self._told = False
            return True
        left = self._stop_shared()
        if left or not self._told:
            log.error("this host has not been heard for too long: its machines on shared disks are ended here")
            self._told = True
        return not left
