"""The agent API on a directory: heartbeats are taken, wants are in ``wants.json``, reports go to ``reports.jsonl``."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def app() -> Callable[..., Iterable[bytes]]:
    root = Path(os.environ["TRILITH_STATE"])

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        code, document = _answer(root, environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
        content = json.dumps(document | {"pid": os.getpid()}).encode()
        start(code, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
        return [content]

    return answer


def _answer(root: Path, method: str, path: str, body: bytes) -> tuple[str, dict[str, Any]]:
    if path == "/healthz":
        return "200 OK", {}
    if path.endswith("/heartbeat"):
        return "200 OK", {"epoch": 1, "lease_s": 1}
    if path.endswith("/wants"):
        wants = root / "wants.json"
        return "200 OK", json.loads(wants.read_text()) if wants.exists() else {}
    if path.endswith("/reports"):
        with open(root / "reports.jsonl", "a") as file:
            file.write(body.decode() + "\n")
        return "200 OK", {}
    if path.endswith("/consoles/validate"):
        if json.loads(body)["token"] != "good":
            return "404 Not Found", {}
        return "200 OK", {"host": "host1", "server_id": "s1", "kind": "serial"}
    return "404 Not Found", {}
