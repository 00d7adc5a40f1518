"""Bodies in chunks that end before their time are told from those that ended.

Granian's WSGI gives an application the end of a body for both: its client may have been killed in the middle of an
upload, and half an image would be one. What tells them apart is the connection: a server that waits for more of a body
sees its client's end of it go first. No connection is named to an application, but this process can ask the kernel
about each that it has: one that got as much as this body, and whose other side has gone, has cut it short. (A body
that is whole, and its client gone, has its connection closed by the server at once.) Of several bodies that end at
once, the largest are taken to be those whose connections are gone.

A client that lives and sends nonsense for a chunk's length is not found out.
"""

import os
import socket
import struct
import time
from typing import Any, ClassVar

from trilith.kernel.errors import Fault

ALIVE = (1, 10)  # of the states of TCP: established, listening
INFO_BYTES, RECEIVED_AT = 256, 128  # of struct tcp_info, and where tcpi_bytes_received stands in it
OTHERS_S = 2.0  # that connections of others, which are about to be closed, are waited for
LOOK_S = 0.02  # between two looks
GOODBYE_S = 0.05  # that TLS may say the end of a stream before TCP does


class ChunkedBody:
    """WSGI's input of a request whose body comes in chunks. `read` raises `Fault` 400 where it was cut short."""

    _ending: ClassVar[list[int]] = []  # sizes of this process's bodies that are looked at just now

    def __init__(self, environ: dict[str, Any]) -> None:
        self._source, self._port = environ["wsgi.input"], int(environ["SERVER_PORT"])
        self._encrypted = environ["wsgi.url_scheme"] == "https"
        self._size_bytes = 0

    def read(self, size: int) -> bytes:
        data: bytes = self._source.read(size)
        self._size_bytes += len(data)
        if len(data) < size and self._is_cut():
            raise Fault("invalid", "The request's body was cut short; send it again.")
        return data

    def _is_cut(self) -> bool:
        if self._encrypted:
            time.sleep(GOODBYE_S)
        size_bytes = max(1, self._size_bytes)
        self._ending.append(size_bytes)
        try:
            ends_s = time.monotonic() + OTHERS_S
            while gone := _ended(self._port, size_bytes) > sum(other > size_bytes for other in self._ending):
                if time.monotonic() > ends_s:
                    break
                time.sleep(LOOK_S)
            return gone
        finally:
            self._ending.remove(size_bytes)


def _ended(port: int, size_bytes: int) -> int:
    """How many clients of this process's `port` that sent `size_bytes` or more send nothing more."""
    return sum(_sent_and_ended(int(name), port, size_bytes) for name in os.listdir("/proc/self/fd"))


def _sent_and_ended(fd: int, port: int, size_bytes: int) -> bool:
    """Looks at what may be anybody's, and never closes it: that would drop SQLite's locks."""
    try:
        connection = socket.socket(fileno=fd)
    except OSError:  # not a socket, or gone meanwhile
        return False
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
        (received,) = struct.unpack_from("=Q", info, RECEIVED_AT)
        return info[0] not in ALIVE and received >= size_bytes and connection.getsockname()[1] == port
    except (OSError, struct.error):  # not of TCP
        return False
    finally:
        connection.detach()
