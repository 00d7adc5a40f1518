"""A host's first start: from a token to its own credential, whatever is lost in between."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trilith.agent import join
from trilith.agent.settings import AgentSettings


class Api(BaseHTTPRequestHandler):
    """`lost`: how many answers do not arrive."""

    asked: list[Any]
    lost: int

    def do_POST(self) -> None:
        kind = type(self)
        kind.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if kind.lost:
            kind.lost -= 1
            self.connection.close()
            return
        self.send_response(200 if kind.asked[-1]["token"] == "good" else 401)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[type[Api]]:
    kind = type("ThisApi", (Api,), {"asked": [], "lost": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.port = server.server_port  # type: ignore[attr-defined]
    yield kind
    server.shutdown()
    server.server_close()


def settings(api: type[Api], directory: Path) -> AgentSettings:
    return AgentSettings(
        host="c1",
        api_url=f"http://127.0.0.1:{api.port}",  # type: ignore[attr-defined]
        hub_url="",
        credential_file=directory / "host-c1",
        directory=directory,
        heartbeat_file=directory / "heartbeat",
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "AGAIN_S", 0.01)
    monkeypatch.setattr(join, "REFUSED_AGAIN_S", 0.05)


def test_the_secret_that_is_kept_is_the_one_that_was_registered(api: type[Api], tmp_path: Path) -> None:
    (tmp_path / "join-token").write_text("good\n")
    api.lost = 2
    secret = join.credential(settings(api, tmp_path), threading.Event())
    assert secret == (tmp_path / "host-c1").read_text().strip()
    assert len(api.asked) == 3
    for asked in api.asked:
        digest = hashlib.sha256(str(secret).encode()).hexdigest()
        assert asked == {"host": "c1", "token": "good", "digest": digest}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host-c1"]
    assert (tmp_path / "host-c1").stat().st_mode & 0o777 == 0o600
    assert join.credential(settings(api, tmp_path), threading.Event()) == secret
    assert len(api.asked) == 3


def test_a_refused_host_waits_for_another_token(api: type[Api], tmp_path: Path) -> None:
    (tmp_path / "join-token").write_text("old")
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(join.credential(settings(api, tmp_path), threading.Event())))
    thread.start()
    while not api.asked:
        time.sleep(0.01)
    (tmp_path / "join-token").write_text("good")
    thread.join(5)
    assert found == [(tmp_path / "host-c1").read_text().strip()]


def test_it_ends_when_the_agent_ends(api: type[Api], tmp_path: Path) -> None:
    (tmp_path / "join-token").write_text("old")
    ended = threading.Event()
    ended.set()
    assert join.credential(settings(api, tmp_path), ended) is None
    assert (tmp_path / "join-token").exists()
