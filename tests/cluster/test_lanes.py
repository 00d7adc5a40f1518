"""What says that somebody lives does not wait behind what an API worker works on."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from trilith.cluster.lanes import Lanes

BEAT = "/agent/v1/hosts/c1/heartbeat"


class Slow:
    """An application that works on everything until it is told to end; but for what says who lives."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = threading.Semaphore(0)
        self.changed = threading.Condition()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        with self.changed:
            self.begun.append(path)
            self.changed.notify_all()
        if path not in (BEAT, "/healthz"):
            assert self.may_end.acquire(timeout=30)
        if path == "/breaks":
            raise ZeroDivisionError
        return [path.encode()]

    def wait(self, *paths: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.begun == [*paths], 30), self.begun


def test_a_full_house_hears_who_lives() -> None:
    slow = Slow()
    lanes = Lanes(slow, at_once=2)

    def ask(path: str) -> Any:
        return lanes({"PATH_INFO": path}, None)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(ask, "/1")
        slow.wait("/1")
        broken = pool.submit(ask, "/breaks")
        slow.wait("/1", "/breaks")
        others = [pool.submit(ask, "/agent/v1/hosts/c1/wants"), pool.submit(ask, "/heartbeat")]
        assert ask(BEAT) == [BEAT.encode()]
        assert ask("/healthz") == [b"/healthz"]
        assert len(slow.begun) == 4
        slow.may_end.release(4)
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert [other.result() for other in others] == [[b"/agent/v1/hosts/c1/wants"], [b"/heartbeat"]]
