"""How a host gets its credential: it makes a secret, keeps it, and has it registered with a token that is good once.

Killed at any moment, the next agent says the same again, which the API takes as often as it is said. A host has joined
when its credential is there and its token is not.
"""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import secrets
import threading
from pathlib import Path

from trilith.agent.settings import AgentSettings
from trilith.drivers.durable import publish
from trilith.kernel.tls import connect

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
AGAIN_S = 1.0
REFUSED_AGAIN_S = 10.0  # until a deployment may have left another token


def credential(settings: AgentSettings, ended: threading.Event) -> str | None:
    """This host's, joining first where there is a token. Waits for the API; None when `ended` is set meanwhile."""
    token_file = settings.credential_file.with_name("join-token")
    while token_file.exists():
        if not settings.credential_file.exists():
            _write(settings.credential_file, secrets.token_urlsafe(32))
        secret = settings.credential_file.read_text().strip()
        status = _ask(settings, token_file.read_text().strip(), secret)
        if status == 200:
            token_file.unlink(missing_ok=True)
            log.info("this host has joined")
        elif ended.wait(REFUSED_AGAIN_S if status in (400, 401, 403, 404) else AGAIN_S):
            return None
    return settings.credential_file.read_text().strip()


def _ask(settings: AgentSettings, token: str, secret: str) -> int:
    """The answer's status; 503 where there is none."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    body = json.dumps({"host": settings.host, "token": token, "digest": digest})
    try:
        with contextlib.closing(connect(settings.api_url, TIMEOUT_S, settings.ca_file)) as connection:
            connection.request("POST", "/agent/v1/join", body, {"Content-Type": "application/json"})
            status, text = (reply := connection.getresponse()).status, reply.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        log.warning("the API cannot be asked to let this host join: %s", error)
        return 503
    if status != 200:
        log.error("this host may not join: %s %s", status, text)
    return status


def _write(path: Path, secret: str) -> None:
    part = path.with_name(f".{path.name}.new")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
    publish(part, path)
