"""In which order an API worker does what it is asked.

A few requests are worked on at a time; the others wait, each in a thread of its own that does nothing. When many
things are made at once, all that are worked on wait for the database. What says that somebody lives must not wait
behind them: hosts that are not heard get no machines, and are taken for lost; a worker that does not answer the load
balancer gets no requests.
"""

from collections.abc import Callable
from typing import Any

from trilith.kernel.turns import Turns

AT_ONCE = 8
Wsgi = Callable[..., Any]


class Lanes:
    """WSGI: the application behind its queue."""

    def __init__(self, application: Wsgi, at_once: int = AT_ONCE) -> None:
        self._application, self._turns = application, Turns(at_once)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if says_who_lives(environ["PATH_INFO"]):
            return self._application(environ, start_response)
        self._turns.take()
        try:
            return self._application(environ, start_response)
        finally:
            self._turns.give()


def says_who_lives(path: str) -> bool:
    return path == "/healthz" or (path.startswith("/agent/v1/hosts/") and path.endswith("/heartbeat"))
