"""The crash harness: whatever is killed, whenever, the rows and the world must come together again.

    def test_volumes_survive_every_crash(tmp_path):
        converges(lambda: Volumes(Driver(tmp_path)), [want, grown], leftovers=lambda: list(tmp_path.iterdir()))

The reconciler is driven through the wants, one after the other, and at last to ``present: false``. That is done once
undisturbed, to count the acts, and then again for each act N and each way to die there: before it, after it (its
report is lost), and with its reply lost. From there a NEW reconciler, made over the same world, has to go on. Once
more, every act is done twice. Each time the end must be reached, no fault raised, and nothing left over.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc, Outcome, Reconciler, converge

Fate = Literal["none", "before", "after", "reply lost", "twice"]


class Killed(BaseException):
    """The process is gone. Nothing may catch it, so it is no Exception."""


@dataclass
class Doomed:
    """A reconciler over a real one, which meets `fate` at act number `at` (0 is the first; "twice" is at every act)."""

    inner: Reconciler
    fate: Fate = "none"
    at: int = 0
    acts: list[Act] = field(default_factory=list)
    kind: str = ""

    def __post_init__(self) -> None:
        self.kind = self.inner.kind

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return self.inner.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        return self.inner.observe(key)

    def known(self) -> set[str]:
        return self.inner.known()

    def perform(self, key: str, act: Act) -> None:
        here = len(self.acts) == self.at
        self.acts.append(act)
        if here and self.fate == "before":
            raise Killed(act.do)
        self.inner.perform(key, act)
        if self.fate == "twice":
            self.inner.perform(key, act)
        if here and self.fate == "after":
            raise Killed(act.do)
        if here and self.fate == "reply lost":
            raise Unavailable("the reply was lost")


def converges(
    make_reconciler: Callable[[], Reconciler],
    wants: list[Doc],
    leftovers: Callable[[], object] = lambda: None,
    settled: Callable[[Doc, Doc | None], bool] = lambda want, seen: True,
    patience_s: float = 5.0,
) -> None:
    """Raise AssertionError, which says what was done to it and where it stuck, unless it converges after every crash.

    `wants` are all of one key, and are reached in turn; the last state, gone, is added. `leftovers` is anything false
    when the world is empty. `settled` says what must hold besides an empty plan, for a world that takes its time.
    """
    key = wants[0]["id"]
    gone = {**wants[-1], "generation": wants[-1]["generation"] + 1, "present": False}
    steps = [*wants, gone]

    def run(fate: Fate, at: int) -> int:
        doomed = Doomed(make_reconciler(), fate, at)
        count = 0
        for step, want in enumerate(steps):
            where = f"{fate} at act {at}, want {step + 1} of {len(steps)}"
            try:
                _reach(doomed, key, want, settled, patience_s, where)
            except Killed:
                count += len(doomed.acts)
                doomed = Doomed(make_reconciler())
                _reach(doomed, key, want, settled, patience_s, where)
        left = doomed.observe(key), key in doomed.known(), leftovers()
        assert not any(left), f"{fate} at act {at}: left over: {left}"
        return count + len(doomed.acts)

    for number in range(run("none", 0)):
        run("before", number)
        run("after", number)
        run("reply lost", number)
    run("twice", 0)


def _reach(
    reconciler: Reconciler,
    key: str,
    want: Doc,
    settled: Callable[[Doc, Doc | None], bool],
    patience_s: float,
    where: str,
) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.ExitStack() as stack:
            stack.push(lambda kind, error, trace: error.add_note(where) if error else None)
            outcome: Outcome = converge(reconciler, key, want)
        assert outcome.fault is None, f"{where}: fault: {outcome.fault}"
        acts = reconciler.plan(want, outcome.seen)
        if not outcome.retry and not acts and settled(want, outcome.seen):
            return
        assert time.monotonic() < deadline, f"{where}: stuck at {acts or 'no act'}, seen {outcome.seen}"
        time.sleep(0.01)
