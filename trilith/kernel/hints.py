"""Hints: they say *that* something changed under a topic, never what. Losing one costs a second, never a change.

`Hints.send` puts a datagram on the hub's unix socket; the hub passes it to whoever listens; `Wake` is the listener.
Topics are ``host:NAME`` for the agent of a host, and free words such as ``northbound`` for controllers.
"""

import contextlib
import http.client
import json
import logging
import random
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trilith.kernel.tls import connect

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0  # the hub writes a line at least this often
DATAGRAM_BYTES = 60_000


class Hints:
    """The sender. Never blocks and never fails its caller: with no hub, listeners poll."""

    def __init__(self, socket_path: Path | str) -> None:
        self._path = str(socket_path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def send(self, topics: Iterable[str]) -> None:
        left = sorted(set(topics))
        while left:
            part, size = [], 2
            while left and size + len(left[0]) + 4 <= DATAGRAM_BYTES:
                size += len(left[0]) + 4
                part.append(left.pop(0))
            with contextlib.suppress(OSError):
                self._socket.sendto(json.dumps(part).encode(), self._path)
            if not part:
                return  # one topic longer than a datagram: nobody listens to that


class Wake(threading.Thread):
    """Listens to topics. Calls `on_wake(message)` for each message of the hub, and with ``{}`` after each connection
    made,
    because something may have been missed. Reconnects for ever; while the stream is away the owner polls.

    Messages: ``{"wake": [topic, ...]}``, and to agents ``{"console": session, "server_id": ..., "kind": ...}``.
    """

    def __init__(
        self,
        url: str,
        credential: str,
        topics: Iterable[str],
        on_wake: Callable[[dict[str, Any]], None],
        ca_file: Path | None = None,
    ) -> None:
        super().__init__(name="wake", daemon=True)
        self._url, self._ca_file = url, ca_file
        query = urllib.parse.urlencode([("topic", topic) for topic in topics])
        self._path = f"{urllib.parse.urlsplit(url).path}/wake?{query}"
        self._headers = {"Authorization": f"Bearer {credential}"}
        self._on_wake = on_wake
        self._ended = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        pause_s = 0.1
        while not self._ended.is_set():
            try:
                for message in self._stream():
                    pause_s = 0.1
                    self._on_wake(message)
            except (OSError, http.client.HTTPException, ValueError) as error:
                log.debug("wake stream away: %s", error)
            self._ended.wait(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(pause_s * 2, 2.0)

    def stop(self) -> None:
        self._ended.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _stream(self) -> Iterable[dict[str, Any]]:
        connection = connect(self._url, 2.5 * HEARTBEAT_S, self._ca_file)
        self._connection = connection
        with contextlib.closing(connection):
            connection.request("GET", self._path, headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                log.warning("the hub does not take us", extra={"status": response.status})
                return
            yield {}
            while line := response.readline():
                message = json.loads(line)
                if message:
                    yield message
