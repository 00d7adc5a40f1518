"""Questions to a host's agent that rows cannot answer. They go through the hub, never inside a transaction."""

import http.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from trilith.kernel.errors import Unavailable

TIMEOUT_S = 5.0


def console_log(settings: Mapping[str, Any], host: str, server_id: str, lines: int | None) -> str:
    """The last `lines` (None: all that is kept) that a machine wrote to its serial port. `Unavailable`: no answer."""
    if "hub_url" not in settings:
        raise Unavailable("hosts cannot be asked here")
    address = urlsplit(settings["hub_url"])
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=TIMEOUT_S)
    query = urlencode({"host": host, "server_id": server_id, "lines": "" if lines is None else lines})
    headers = {"Authorization": f"Bearer {settings['controller_credential']}"}
    try:
        connection.request("GET", f"/console-log?{query}", headers=headers)
        reply = connection.getresponse()
        content = reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"host {host} cannot be asked: {error}") from error
    finally:
        connection.close()
    if reply.status != 200:
        raise Unavailable(f"host {host} did not answer: {content.strip()}")
    return content
