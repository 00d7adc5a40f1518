"""The clients count what they got, however the server ends an answer and whether or not it keeps the connection."""

import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.bench.load import COUNTER, Request, load

CONTENT = b"x" * 70_000


class Answers(BaseHTTPRequestHandler):
    """The path says how."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes] = []
    connections: set[int] = set()

    def do_GET(self) -> None:
        self.connections.add(self.client_address[1])
        if self.path == "/missing":
            return self._send(404, b"no")
        if self.path == "/closes":
            return self._send(200, CONTENT, Connection="close")
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (CONTENT, b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            return None
        if self.path == "/until-closed":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(CONTENT)
            self.close_connection = True
            return None
        if self.path == "/breaks-off":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.close_connection = True
            return None
        return self._send(200, CONTENT)

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Answers.bodies, Answers.connections = [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["/", "/closes", "/chunked", "/until-closed"])
def test_every_answer_counts_once(url: str, path: str) -> None:
    outcome = load(itertools.repeat([Request("GET", url + path)], 20), 4, 60.0)
    assert (outcome.count, dict(outcome.statuses), outcome.failed) == (20, {200: 20}, 0)
    assert outcome.latencies_s == sorted(outcome.latencies_s)
    if path != "/chunked":  # there, the marks of chunks count too
        assert outcome.bytes_each == len(CONTENT)


def test_connections_are_kept_where_the_server_keeps_them(url: str) -> None:
    load(itertools.repeat([Request("GET", url)], 20), 4, 60.0)
    assert len(Answers.connections) <= 4
    load(itertools.repeat([Request("GET", f"{url}/closes")], 20), 4, 60.0)
    assert len(Answers.connections) > 20


@pytest.mark.parametrize("path", ["/missing", "/breaks-off"])
def test_a_failure_is_told(url: str, path: str) -> None:
    assert load(itertools.repeat([Request("GET", url + path)], 3), 1, 60.0).failed == 3


def test_pages_are_one_operation(url: str) -> None:
    pages = [Request("GET", url), Request("GET", f"{url}/closes"), Request("GET", url)]
    outcome = load(itertools.repeat(pages, 2), 1, 60.0)
    assert (outcome.count, dict(outcome.statuses)) == (2, {200: 6})
    assert outcome.bytes_each == 3 * len(CONTENT)


def test_bodies_differ_by_their_number(url: str) -> None:
    body = b'{"name": "p-' + COUNTER + b'"}'
    load(itertools.repeat([Request("POST", url, {}, body)], 3), 2, 60.0, first_number=41)
    assert sorted(Answers.bodies) == [b'{"name": "p-42"}', b'{"name": "p-43"}', b'{"name": "p-44"}']


def test_time_ends_it(url: str) -> None:
    assert load(itertools.repeat([Request("GET", url)]), 2, 0.05).count >= 1
