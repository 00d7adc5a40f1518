"""What several threads want at the same time is done in one go: whoever comes first does it for all who wait, who comes
meanwhile waits for the next."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from trilith.kernel.errors import Fault, Unavailable

Step = TypeVar("Step")
MOST_STEPS = 256  # at once


class Waiting(Generic[Step]):
    """Whoever does it says `result` or `error` of each."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.is_done = False
        self.result: Any = None
        self.error: Fault | Unavailable | None = Unavailable("The object store's index was not written.")


class Together(Generic[Step]):
    """`act` does what some wait for. `turn` is entered before it is decided who comes along."""

    def __init__(
        self,
        act: Callable[[list[Waiting[Step]]], None],
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._act, self._turn = act, turn
        self._change = threading.Condition()
        self._waiting: list[Waiting[Step]] = []
        self._is_acting = False

    def run(self, step: Step) -> Any:
        """The result of `step`. Raises its error."""
        mine = Waiting(step)
        with self._change:
            self._waiting.append(mine)
            while not mine.is_done:
                if self._is_acting:
                    self._change.wait()
                else:
                    self._act_for_all()
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _act_for_all(self) -> None:
        """With the condition held; lets go of it meanwhile."""
        self._is_acting = True
        self._change.release()
        group: list[Waiting[Step]] = []
        try:
            with self._turn():
                with self._change:
                    group, self._waiting = self._waiting[:MOST_STEPS], self._waiting[MOST_STEPS:]
                self._act(group)
        finally:
            self._change.acquire()
            for each in group:
                each.is_done = True
            self._is_acting = False
            self._change.notify_all()
