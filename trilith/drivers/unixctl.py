"""The control socket that every daemon of Open vSwitch and OVN has: one command in, one text out."""

import json
import socket
from pathlib import Path
from typing import Any

from trilith.kernel.errors import Refused, Unavailable

TIMEOUT_S = 1.0


def ask(control: Path, method: str, *words: str, timeout_s: float = TIMEOUT_S) -> str:
    """The answer to one command. Raises `Unavailable` (nobody there, no answer) or `Refused` (the daemon says no)."""
    request = {"id": 0, "method": method, "params": words}
    received = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(control))
            client.sendall(json.dumps(request).encode())
            while piece := client.recv(65536):
                received += piece
                if (answer := _decoded(received)) is not None:
                    return _result(control, method, answer)
        except OSError as error:
            raise Unavailable(f"{control.name} does not answer: {error}.") from error
    raise Unavailable(f"{control.name} ended in the middle of its answer.")


def _decoded(received: bytes) -> dict[str, Any] | None:
    """The answer, once all of it has come."""
    try:
        answer: dict[str, Any] = json.loads(received)
    except ValueError:
        return None
    return answer


def _result(control: Path, method: str, answer: dict[str, Any]) -> str:
    if answer.get("error"):
        raise Refused(f"{control.name} refuses {method}: {str(answer['error']).strip()}")
    return str(answer.get("result") or "")
