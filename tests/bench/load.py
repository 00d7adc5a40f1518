"""Clients that send requests one after the other as fast as they are answered, all in one thread that does little else.

It is written for this, over plain sockets, because an HTTP library would use more of the machine than the faster side
does. It counts content and looks at nothing but status and length.
"""

import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 20
BROKE_OFF = 599  # stands for the status, where the server went away within its answer
COUNTER = b"%N%"  # in a body: replaced by another number each time


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or 80

    def wire(self, number: int) -> bytes:
        parts = urlsplit(self.url)
        body = self.body.replace(COUNTER, str(number).encode())
        headers = {"Host": parts.netloc, **self.headers}
        if body or self.method not in ("GET", "HEAD"):
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{self.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + body


Operation = Sequence[Request]
"""What is timed as one: usually one request; the pages of a long list are several."""


@dataclass
class Outcome:
    """`latencies_s` of the operations that ended, in order of length; `statuses` counts those of requests; `sizes`:
    bytes of content of the last operation."""

    wall_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bytes_each: int = 0

    @property
    def count(self) -> int:
        return len(self.latencies_s)

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 400)

    def within_s(self, share: float) -> float:
        """How long the slowest of this share of operations took."""
        return self.latencies_s[min(self.count - 1, int(self.count * share))]


class _Client:
    """One connection, made anew where the server closes it."""

    def __init__(self, selector: selectors.BaseSelector, outcome: Outcome) -> None:
        self._selector, self._outcome = selector, outcome
        self._socket: socket.socket | None = None
        self._left: list[Request] = []
        self.number = 0

    def begin(self, operation: Operation, number: int) -> None:
        self._left, self.number = list(operation), number
        self._begun, self._bytes = time.perf_counter(), 0
        self._send()

    def _send(self) -> None:
        request = self._left.pop(0)
        if self._socket is None or self._address != request.address:
            self.close()
            self._address = request.address
            self._socket = socket.create_connection(request.address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(self._socket, selectors.EVENT_READ, self)
        self._head, self._status, self._length, self._got, self._tail = b"", 0, -1, 0, b""
        self._chunked = self._closes = False
        self._socket.sendall(request.wire(self.number))

    def close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def readable(self) -> bool:
        """Takes what has come; True when that was the operation's end."""
        assert self._socket is not None
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            if not (self._closes and self._length < 0 and self._status):
                self._status = BROKE_OFF
            return self._answered()
        if not self._status:
            self._head += data
            if (at := self._head.find(b"\r\n\r\n")) < 0:
                return False
            data = self._head[at + 4 :]
            self._read_head(self._head[:at])
        self._got += len(data)
        if self._chunked:
            self._tail = (self._tail + data)[-7:]
        ended = self._tail.endswith(b"0\r\n\r\n") if self._chunked else self._got >= self._length >= 0
        if not ended:
            return False
        if self._closes:
            self.close()
        return self._answered()

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        self._status = int(first.split(b" ", 2)[1])
        fields = {name.strip().lower(): value.strip().lower() for name, _, value in (x.partition(b":") for x in lines)}
        self._closes = fields.get(b"connection") == b"close"
        self._chunked = fields.get(b"transfer-encoding") == b"chunked"
        if b"content-length" in fields:
            self._length = int(fields[b"content-length"])
        elif self._status == 204 or not (self._closes or self._chunked):
            self._length = 0

    def _answered(self) -> bool:
        self._outcome.statuses[self._status] += 1
        self._bytes += self._got
        if self._left:
            self._send()
            return False
        self._outcome.latencies_s.append(time.perf_counter() - self._begun)
        self._outcome.bytes_each = self._bytes
        return True


def load(operations: Iterator[Operation], clients: int, for_s: float, first_number: int = 0) -> Outcome:
    """Begins operations for so long, or until there are no more, and waits for those that were begun."""
    outcome, begun = Outcome(), time.perf_counter()
    number = first_number
    with selectors.DefaultSelector() as selector:
        idle, busy = [_Client(selector, outcome) for _ in range(clients)], 0
        more = True
        while True:
            while idle and more and time.perf_counter() - begun < for_s:
                operation = next(operations, None)
                if operation is None:
                    more = False
                    break
                number += 1
                client = idle.pop()
                client.begin(operation, number)
                busy += 1
            if not busy:
                break
            for key, _ in selector.select():
                if key.data.readable():
                    idle.append(key.data)
                    busy -= 1
        for client in idle:
            client.close()
    outcome.wall_s = time.perf_counter() - begun
    outcome.latencies_s.sort()
    return outcome
