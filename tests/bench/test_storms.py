"""A storm's clients come back where the cloud is busy, and nothing is passed over in silence."""

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.bench.api import Api
from tests.bench.fill import Filled
from tests.bench.results import Machine, Results
from tests.bench.sessions import Failed
from tests.bench.storms import storm


class Cloud(BaseHTTPRequestHandler):
    """Every third request for a server finds it busy."""

    protocol_version = "HTTP/1.1"
    asked = itertools.count()
    servers: dict[str, str] = {}
    status = "ACTIVE"

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["server"]["name"]
        if next(self.asked) % 3 == 0:
            return self._send(503, {})
        self.servers[f"id-{name}"] = name
        return self._send(202, {})

    def do_GET(self) -> None:
        found = [] if "BUILD" in self.path else [{"id": key, "status": self.status} for key in self.servers]
        self._send(200, {"servers": found})

    def do_DELETE(self) -> None:
        self.servers.pop(self.path.rpartition("/")[2], None)
        self._send(204, {})

    def _send(self, status: int, body: object) -> None:
        content = b"" if status == 204 else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Nothing."""


class Side:
    name, is_cloud, schema_s, start_s = "fake", True, 0.0, 0.0

    def __init__(self, url: str) -> None:
        self.api = Api(url, "u", "p")
        self.api.endpoints["compute"] = url

    def make(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def leaders(self) -> dict[str, int]:
        return {}

    def copy_servers(self, server_id: str, count: int) -> None: ...


@pytest.fixture
def side() -> Iterator[Side]:
    Cloud.asked, Cloud.servers, Cloud.status = itertools.count(), {}, "ACTIVE"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found = Side(f"http://127.0.0.1:{server.server_port}")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def _storm(side: Side, count: int) -> dict[str, float]:
    results = Results(Machine("", 1, "", 1, "", "", "", {}))
    storm(side, Filled("i", "f", "n", "s", side.api), count, 1, results)
    return {fact.name: fact.value for fact in results.facts}


def test_all_are_made_and_taken_away(side: Side) -> None:
    facts = _storm(side, 4)
    assert facts["4 servers at once: told to come back"] == 2
    assert Cloud.servers == {}


def test_one_that_fails_is_no_result(side: Side) -> None:
    Cloud.status = "ERROR"
    with pytest.raises(Failed, match="4 were made, 0 are ACTIVE"):
        _storm(side, 4)
