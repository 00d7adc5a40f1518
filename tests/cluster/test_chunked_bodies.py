"""Bodies in chunks behind a real server: those that end, and those whose client goes in the middle."""

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import free_port
from trilith.cluster.certificates import keep_certificate, make_ca

ROOT = Path(__file__).resolve().parents[2]
HEAD = b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"186a0\r\n" + b"a" * 100_000 + b"\r\n"
LAST = b"0\r\n\r\n"
WAIT_S = 30.0


class Served:
    def __init__(self, directory: Path, port: int, encrypted: bool) -> None:
        self.directory, self.port = directory, port
        words = [sys.executable, "-m", "tests.cluster.chunked_server", str(directory), str(port)]
        self.tls: ssl.SSLContext | None = None
        if encrypted:
            keep_certificate(make_ca(directory / "ca"), directory, "host", ["127.0.0.1"])
            words += [str(directory / "host.crt"), str(directory / "host.key")]
            self.tls = ssl.create_default_context(cafile=directory / "ca" / "ca.crt")
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.process = subprocess.Popen(words, cwd=ROOT, start_new_session=True)

    def connect(self) -> socket.socket:
        ends_s = time.monotonic() + WAIT_S
        while True:
            try:
                plain = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
                return self.tls.wrap_socket(plain) if self.tls else plain
            except OSError:
                assert time.monotonic() < ends_s
                time.sleep(0.05)

    def begin(self, chunks: int) -> socket.socket:
        connection = self.connect()
        connection.sendall(HEAD)
        for _ in range(chunks):
            connection.sendall(CHUNK)
        return connection

    def ends(self, count: int) -> list[str]:
        """How the bodies ended, once there are so many."""
        ends_s, path = time.monotonic() + WAIT_S, self.directory / "ends"
        while True:
            found = path.read_text().split() if path.exists() else []
            if len(found) >= count:
                return found
            assert time.monotonic() < ends_s, found
            time.sleep(0.02)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path, free_port(), request.param)
    try:
        yield found
    finally:
        found.process.terminate()
        found.process.wait(10)


def whole(served: Served, chunks: int) -> None:
    with served.begin(chunks) as connection:
        connection.sendall(LAST)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def say_goodbye(connection: socket.socket) -> None:
    """As clients of TLS may that are not killed: the end of the stream is said, and the connection closed."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(0.0)
        with contextlib.suppress(OSError):
            connection.unwrap()
    connection.close()


def test_one_that_ends_is_whole(served: Served) -> None:
    for chunks in (0, 1, 20):
        whole(served, chunks)
    assert served.ends(3) == ["0", "100000", "2000000"]


@pytest.mark.parametrize("leave", [socket.socket.close, reset, say_goodbye], ids=["killed", "reset", "goodbye"])
@pytest.mark.parametrize("chunks", [0, 20])
def test_one_whose_client_goes_is_cut(served: Served, chunks: int, leave: Callable[[socket.socket], None]) -> None:
    connection = served.begin(chunks)
    time.sleep(0.2)
    leave(connection)
    assert served.ends(1) == ["cut"]


def test_one_that_stops_within_a_chunk_is_cut(served: Served) -> None:
    connection = served.begin(3)
    connection.sendall(CHUNK[:500])
    connection.close()
    assert served.ends(1) == ["cut"]


def test_the_end_of_another_cuts_nothing(served: Served) -> None:
    mine, other = served.begin(5), served.begin(50)
    other.close()
    mine.sendall(LAST)
    assert mine.recv(1000).startswith(b"HTTP/1.1 200")
    mine.close()
    assert sorted(served.ends(2)) == ["500000", "cut"]
