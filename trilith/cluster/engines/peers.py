"""Asking the keepers of other hosts what they see. Whoever does not answer within a second is away."""

import http.client
import json
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from trilith.cluster.cluster_file import Host
from trilith.cluster.state import KEEPER_PORT, State
from trilith.kernel.reconcile import Doc

LIMIT_S = 1.0
FRESH_S = 0.5


class Peers:
    """Many engines may ask about the same host at the same time: it is asked once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="peer")
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[float, Future[Doc | None]]] = {}
        self._tls: ssl.SSLContext | None = None

    def ask(self, host: Host) -> Doc | None:
        """The state document of that host's keeper; None when it cannot be had."""
        with self._lock:
            at, future = self._asked.get(host.name, (0.0, None))
            if future is None or (future.done() and time.monotonic() - at > FRESH_S):
                try:
                    future = self._pool.submit(self._fetch, host)
                except RuntimeError:  # this process ends
                    return None
                self._asked[host.name] = (time.monotonic(), future)
        try:
            return future.result(2 * LIMIT_S)
        except TimeoutError:
            return None

    def _fetch(self, host: Host) -> Doc | None:
        try:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=str(self._state.secrets / "tls" / "ca.crt"))
            connection = http.client.HTTPSConnection(host.address, KEEPER_PORT, timeout=LIMIT_S, context=self._tls)
            try:
                connection.request("GET", "/state", headers={"authorization": f"Bearer {self._state.secret('keeper')}"})
                reply = connection.getresponse()
                document = json.loads(reply.read())
                return document if reply.status == 200 and isinstance(document, dict) else None
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError):
            return None
