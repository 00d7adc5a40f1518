"""Who waits gets a turn in the order in which it came."""

import threading
from collections import deque
from collections.abc import Callable

LOOK_S = 1.0


class Turns:
    """So many of this process's threads at a time."""

    def __init__(self, at_once: int) -> None:
        self._free, self._waiting, self._lock = at_once, deque[threading.Event](), threading.Lock()

    def take(self, in_vain: Callable[[], bool] = lambda: False) -> bool:
        """Waits for a turn, which `give` ends. False without one, when `in_vain()` says so; asked now and then."""
        mine = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(mine)
        while not mine.wait(LOOK_S):
            with self._lock:
                if not mine.is_set() and in_vain():
                    self._waiting.remove(mine)
                    return False
        return True

    def give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
