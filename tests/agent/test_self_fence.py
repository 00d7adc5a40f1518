"""A real agent process whose API goes away: it ends the machines that other hosts may start, though it is killed
meanwhile, and starts them again only when it is heard."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import eventually
from trilith.drivers.qemu_fake import FakeQemu

Doc = dict[str, Any]
STOP_AFTER_S = 15.0
SHARED, LOCAL = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11", "9b0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"
AGENT = """
from pathlib import Path
from trilith.agent.main import run
from trilith.agent.settings import AgentSettings
root = Path({root!r})
run(AgentSettings("h1", {url!r}, "http://127.0.0.1:1", root / "credential", root, root / "beat", fake=True,
    stop_after_s={stop_after_s}))
"""


def server(key: str, shared: bool) -> Doc:
    disk = {"device": "vda", "boot_index": 0, "kind": "volume", "volume_id": key, "path": "/v", "format": "qcow2"}
    document: Doc = {"id": key, "generation": 1, "present": True, "name": "web", "power": "running", "vcpus": 1}
    document |= {"ram_mib": 128, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0, "config_drive": False}
    document |= {
        "rescue_image_id": None,
        "snapshots": [],
        "nics": [],
        "disks": [disk | {"size_gib": 1, "shared": shared}],
    }
    return document


class Api(BaseHTTPRequestHandler):
    """Takes everything of host h1 while `server.there`."""

    server: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/heartbeat"):
            self.server.told.append(body["inventory"])
            return self._say({"epoch": 1, "lease_s": 10.0})
        return self._say({})

    def do_GET(self) -> None:
        self._say({"server": [server(SHARED, True), server(LOCAL, False)], "volume": []})

    def _say(self, document: Doc) -> None:
        content = json.dumps(document).encode()
        self.send_response(200 if self.server.there else 503)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def api() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.there, server.told = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def agent(root: Path, api: Any) -> "subprocess.Popen[bytes]":
    url = f"http://127.0.0.1:{api.server_address[1]}"
    code = AGENT.format(root=str(root), url=url, stop_after_s=STOP_AFTER_S)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_machines_on_shared_disks_end_with_the_lease(tmp_path: Path, api: Any) -> None:
    (tmp_path / "credential").write_text("secret\n")
    machines = FakeQemu(tmp_path)

    def running() -> set[str]:
        return {key for key in (SHARED, LOCAL) if (machines.seen(key) or {}).get("process")}

    process = agent(tmp_path, api)
    try:
        eventually(lambda: running() == {SHARED, LOCAL}, "both run", 60.0)
        assert api.told[-1]["self_fence"] == {"stopped_after_s": STOP_AFTER_S + 10}
        api.there = False
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert running() == {SHARED, LOCAL}  # whoever is killed ends nothing
        process = agent(tmp_path, api)
        eventually(lambda: running() == {LOCAL}, "the shared one has ended", STOP_AFTER_S + 10)
        api.there = True
        eventually(lambda: running() == {SHARED, LOCAL}, "it runs again, now that the host is heard", 30.0)
    finally:
        process.kill()
        process.wait()
