"""Level-triggered reconciliation: wanted rows in, acts out, until what is seen is what is wanted.

A reconciler is woken by key and never told what changed. It reads `want` and `seen` afresh, asks its pure plan
for the *next* acts only, performs them, and observes again. Backoff belongs to the runner. Whoever crashes, anyone
can go on:
nothing is remembered here that the rows and the world do not tell.

Outcomes of a round: done; `Unavailable` (again later, with backoff; the report says why, as ``waiting`` in what was
seen); `Refused` (terminal: reported as a fault, not tried again until the want's generation changes).
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.logs import REQUEST_ID

log = logging.getLogger(__name__)

Doc = dict[str, Any]


@dataclass(frozen=True)
class Act:
    """One idempotent step: the name of a thing to do, and its arguments. `quiet`: who performs it tells what is new."""

    do: str
    args: Doc = field(default_factory=dict)
    quiet: bool = False


class Reconciler(Protocol):
    """What a kind of row needs to be reconciled. `want` and `seen` are plain JSON documents.

    A want has at least ``id`` and ``generation`` (an int that grows with every change of the want).
    """

    kind: str

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        """Pure: no clock, no I/O. The next acts only; [] when nothing is left to do or somebody else must act first."""

    def observe(self, key: str) -> Doc | None:
        """What the world has under this key; None when nothing at all is there."""

    def perform(self, key: str, act: Act) -> None:
        """Do it. Idempotent. Raises `Unavailable` (again later) or `Refused` (never)."""

    def known(self) -> set[str]:
        """Every key of which the world has anything, so that what nobody wants any more is found."""


class Source(Protocol):
    """Where wants come from and where reports go: SQL in a controller, HTTPS in an agent."""

    def wants(self, kind: str) -> dict[str, Doc]: ...

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None: ...


MAX_ROUNDS = 50  # acts asked for in one go before other keys get their turn
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def gone(key: str) -> Doc:
    """The want for a key that the world has and nobody asked for: it shall go."""
    return {"id": key, "generation": 0, "present": False}


@dataclass
class Outcome:
    seen: Doc | None
    fault: str | None = None
    retry: bool = False
    again_s: float | None = None


def converge(reconciler: Reconciler, key: str, want: Doc, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Plan, perform and observe until the plan has no more acts."""
    seen = reconciler.observe(key)
    try:
        for _ in range(MAX_ROUNDS):
            acts = reconciler.plan(want, seen)
            if not acts or stop():
                return Outcome(seen)
            for act in acts:
                if not act.quiet:
                    log.info("act", extra={"kind": reconciler.kind, "key": key, "act": act.do})
                reconciler.perform(key, act)
            seen = reconciler.observe(key)
        return Outcome(seen, retry=True)
    except Unavailable as error:
        if error.again_s is None:
            log.warning("again later: %s", error, extra={"kind": reconciler.kind, "key": key})
        seen = reconciler.observe(key)
        return Outcome(None if seen is None else {**seen, "waiting": str(error)}, None, True, error.again_s)
    except Refused as error:
        log.error("refused: %s", error, extra={"kind": reconciler.kind, "key": key})
        return Outcome(reconciler.observe(key), fault=str(error))


class Runner:
    """Keeps the rows of several kinds converged: woken by `wake()` and by the clock, one worker a key.

    `resync_s` is the clock: with the whole bus dead, a change is acted on this much later.
    """

    def __init__(
        self,
        source: Source,
        reconcilers: Sequence[Reconciler],
        resync_s: float = 1.0,
        workers: int = 8,
        backoff_s: tuple[float, ...] = BACKOFF_S,
    ) -> None:
        self.source = source
        self.backoff_s = backoff_s
        self.reconcilers = reconcilers
        self.resync_s = resync_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reconcile")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._busy: set[tuple[str, str]] = set()
        self._asked_while_busy: set[tuple[str, str]] = set()
        self._tries: dict[tuple[str, str], int] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._reported: dict[tuple[str, str], tuple[int, Doc | None, str | None]] = {}
        self.last_round: float = 0.0

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.round()
                self.last_round = time.monotonic()
            except Unavailable as error:
                log.warning("source away: %s", error)
                self._forget_pauses()
            except Exception:  # one of the two places where everything is caught: the clock tries again
                log.exception("round failed")
            self._wake.wait(self.resync_s)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def round(self) -> None:
        """Start the work of every key that is due; returns without waiting for it."""
        for reconciler in self.reconcilers:
            wants = self.source.wants(reconciler.kind)
            for key in reconciler.known() - wants.keys():
                wants[key] = gone(key)
            self._forget_missing(reconciler.kind, wants)
            for key, want in wants.items():
                self._start(reconciler, key, want)

    def _forget_missing(self, kind: str, wants: dict[str, Doc]) -> None:
        with self._lock:
            for memory in (self._tries, self._not_before, self._refused, self._reported):
                for slot in [s for s in memory if s[0] == kind and s[1] not in wants]:
                    memory.pop(slot, None)

    def _forget_pauses(self) -> None:
        """What failed while the source was away may have needed it: it is tried as soon as that is back."""
        with self._lock:
            self._tries.clear()
            self._not_before.clear()

    def _start(self, reconciler: Reconciler, key: str, want: Doc) -> None:
        slot = (reconciler.kind, key)
        with self._lock:
            if slot in self._busy:
                self._asked_while_busy.add(slot)
                return
            if time.monotonic() < self._not_before.get(slot, 0.0):
                return
            if self._refused.get(slot) == want["generation"]:
                return
            self._busy.add(slot)
        self._pool.submit(self._work, reconciler, key, want)

    def _work(self, reconciler: Reconciler, key: str, want: Doc) -> None:
        slot = (reconciler.kind, key)
        REQUEST_ID.set(want.get("request_id"))  # the lines of this work belong to who asked for it
        try:
            outcome = converge(reconciler, key, want, self._stop.is_set)
            self._remember(slot, want, outcome)
            told = (want["generation"], outcome.seen, outcome.fault)
            if self._reported.get(slot) != told:
                self.source.report(reconciler.kind, key, *told)
                self._reported[slot] = told
        except Unavailable as error:
            log.warning("report not taken: %s", error, extra={"kind": reconciler.kind, "key": key})
        except Exception:  # the same place: one bad row must not stop the others, and nothing is known of it
            log.exception("reconciler failed", extra={"kind": reconciler.kind, "key": key})
            self._remember(slot, want, Outcome(None, retry=True))
        finally:
            with self._lock:
                self._busy.discard(slot)
                asked = slot in self._asked_while_busy
                self._asked_while_busy.discard(slot)
            if asked:
                self.wake()

    def _remember(self, slot: tuple[str, str], want: Doc, outcome: Outcome) -> None:
        with self._lock:
            if outcome.fault is not None:
                self._refused[slot] = want["generation"]
            if outcome.again_s is not None:
                self._not_before[slot] = time.monotonic() + outcome.again_s
            elif outcome.retry:
                tries = self._tries.get(slot, 0)
                self._tries[slot] = tries + 1
                pause_s = self.backoff_s[min(tries, len(self.backoff_s) - 1)]
                self._not_before[slot] = time.monotonic() + pause_s * random.uniform(0.8, 1.2)
            else:
                self._tries.pop(slot, None)
                self._not_before.pop(slot, None)
