"""HTTP by hand, for requests that no client library makes."""

import contextlib
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from trilith.cluster.drill.api import Answer


@dataclass
class Sent:
    """The answer (None where the connection just ended), and how many bytes of the body went out before it."""

    answer: Answer | None
    body_bytes: int


def send(
    port: int, head: bytes, parts: Iterable[bytes] = (), timeout_s: float = 10.0, half_close: bool = False
) -> Sent:
    """Sends a request's head and then its body in parts, until all is sent or the server has answered or hung up."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                if _readable(connection):
                    break
                connection.sendall(part)
                sent += len(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return Sent(_answer(connection, timeout_s), sent)


def _readable(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(10)


def _answer(connection: socket.socket, timeout_s: float) -> Answer | None:
    data, deadline = b"", time.monotonic() + timeout_s
    with contextlib.suppress(ConnectionError):
        while not _complete(data) and time.monotonic() < deadline and (part := connection.recv(65536)):
            data += part
    head, _, content = data.partition(b"\r\n\r\n")
    if not head:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    return Answer(int(first.split()[1]), headers, content)


def _complete(data: bytes) -> bool:
    head, found, content = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(found) and len(content) >= int(line.split(b":")[1])
    return False
