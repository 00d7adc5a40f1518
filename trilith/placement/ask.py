"""Questions to a host's agent that rows cannot answer. They go through the hub, never inside a transaction."""

import contextlib
import http.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from trilith.kernel.errors import Unavailable
from trilith.kernel.tls import connect

TIMEOUT_S = 5.0


def console_log(settings: Mapping[str, Any], host: str, server_id: str, lines: int | None) -> str:
    """The last `lines` (None: all that is kept) that a machine wrote to its serial port. `Unavailable`: no answer."""
    if "hub_url" not in settings:
        raise Unavailable("hosts cannot be asked here")
    query = urlencode({"host": host, "server_id": server_id, "lines": "" if lines is None else lines})
    headers = {"Authorization": f"Bearer {settings['controller_credential']}"}
    try:
        with contextlib.closing(connect(settings["hub_url"], TIMEOUT_S, settings.get("ca_file"))) as connection:
            connection.request("GET", f"/console-log?{query}", headers=headers)
            reply = connection.getresponse()
            content = reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"host {host} cannot be asked: {error}") from error
    if reply.status != 200:
        raise Unavailable(f"host {host} did not answer: {content.strip()}")
    return content
