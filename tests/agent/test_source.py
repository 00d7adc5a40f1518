"""The agent's client over real HTTP."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trilith.agent.source import HttpSource
from trilith.kernel.errors import Refused, Unavailable

IMAGE = bytes(range(256)) * 10_000


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str, Any]]
    connections: int
    broken: str

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1

    def do_GET(self) -> None:
        type(self).requests.append(("GET", self.path, None))
        if self.path.endswith("/wants"):
            return self._say(200, {"server": [{"id": "s", "generation": 1}], "volume": [{"id": "v", "generation": 1}]})
        if "gone" in self.path:
            return self._say(404, {})
        self.send_response(200)
        self.send_header("Content-Length", str(len(IMAGE)))
        self.send_header("X-Trilith-Sha512", hashlib.sha512(IMAGE).hexdigest())
        self.end_headers()
        self.wfile.write(IMAGE[: len(IMAGE) // 2] if "short" in self.path else IMAGE)
        self.close_connection = "short" in self.path

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).requests.append((self.headers["Authorization"], self.path, body))
        if self.path.endswith("/heartbeat"):
            if type(self).broken == "standing still":
                type(self).broken = ""
                time.sleep(3.0)
            return self._say(200, {"epoch": 7, "lease_s": 10})
        if type(self).broken:
            self.close_connection = True
            return self._say(int(type(self).broken), {})
        self.send_response(204)
        self.end_headers()

    def do_PUT(self) -> None:
        if "gone" in self.path:  # answered without reading what is sent
            self.close_connection = True
            return self._say(404, {})
        type(self).requests.append(("PUT", self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(0.6 if "slow" in self.path else 0.0)
        self._say(409 if "late" in self.path else 200, {})

    def _say(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[type[Api]]:
    kind = type("ThisApi", (Api,), {"requests": [], "connections": 0, "broken": ""})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.port = server.server_port  # type: ignore[attr-defined]
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(api: type[Api]) -> HttpSource:
    return HttpSource(f"http://127.0.0.1:{api.port}", "host1", "secret")  # type: ignore[attr-defined]


def test_wants_are_fetched_once_a_round_over_one_connection(api: type[Api], source: HttpSource) -> None:
    for _ in range(3):
        assert source.wants("server") == {"s": {"id": "s", "generation": 1}}
        assert source.wants("volume") == {"v": {"id": "v", "generation": 1}}
        assert source.wants("other") == {}
    assert [path for _, path, _ in api.requests] == ["/agent/v1/hosts/host1/wants"] * 3
    assert api.connections == 1


def test_heartbeat_and_report_carry_the_epoch(api: type[Api], source: HttpSource) -> None:
    assert not source.begun.is_set()
    assert source.heartbeat("boot", {"vcpus": 2}, {}) == 10
    assert source.begun.is_set()
    source.report("server", "s", 4, {"power": "running"}, None)
    first, second = (body for _, _, body in api.requests)
    assert (first["epoch"], second["epoch"]) == (0, 7)
    assert (second["kind"], second["id"], second["generation"], second["seen"]) == (
        "server",
        "s",
        4,
        {"power": "running"},
    )
    assert all(word == "Bearer secret" for word, _, _ in api.requests)


@pytest.mark.parametrize("status", ["500", "503", "409", "400", "404"])
def test_a_report_that_is_not_taken_is_tried_again(api: type[Api], source: HttpSource, status: str) -> None:
    api.broken = status
    with pytest.raises(Unavailable, match=status):
        source.report("server", "s", 1, None, None)
    api.broken = ""
    source.report("server", "s", 1, None, None)  # also after the API has closed the kept connection


def test_no_api() -> None:
    source = HttpSource("http://127.0.0.1:1", "host1", "secret")
    for call in (lambda: source.wants("server"), lambda: source.report("server", "s", 1, None, None)):
        with pytest.raises(Unavailable, match="the API is away"):
            call()


def test_image_bytes_both_ways(api: type[Api], source: HttpSource, tmp_path: Path) -> None:
    assert source.fetch_image("i", tmp_path / "i") == hashlib.sha512(IMAGE).hexdigest()
    assert (tmp_path / "i").read_bytes() == IMAGE
    source.send_image("j", tmp_path / "i")
    assert api.requests[-1] == ("PUT", "/agent/v1/images/j/data", IMAGE)


def test_images_that_cannot_be_had(source: HttpSource, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        source.fetch_image("short", tmp_path / "i")
    with pytest.raises(Refused, match="404"):
        source.fetch_image("gone", tmp_path / "i")
    (tmp_path / "j").write_bytes(b"x")
    with pytest.raises(Unavailable, match="409"):
        source.send_image("late", tmp_path / "j")


def test_a_refusal_is_heard_while_the_bytes_are_still_on_their_way(source: HttpSource, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(64 << 20)
    with pytest.raises(Refused, match="404"):
        source.send_image("gone", tmp_path / "large")


def test_an_image_that_takes_long_to_be_stored_is_waited_for(
    source: HttpSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving up and sending it again would make it take longer still, and so for ever."""
    monkeypatch.setattr("trilith.agent.source.TIMEOUT_S", 0.2)
    (tmp_path / "i").write_bytes(IMAGE)
    source.send_image("slow", tmp_path / "i")


def test_a_heartbeat_does_not_wait_for_a_controller_that_stands_still(
    api: type[Api], source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was paused answers nothing, and takes everything: the next connection leads to another."""
    monkeypatch.setattr("trilith.agent.source.HEARTBEAT_S", 0.3)
    source.heartbeat("boot", {}, {})
    api.broken = "standing still"
    begun_s = time.monotonic()
    assert source.heartbeat("boot", {}, {}) == 10
    assert time.monotonic() - begun_s < 2.5
    assert api.connections == 2
