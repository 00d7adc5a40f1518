"""What other hosts see of a host that is not heard: their keepers are asked whether they reach it.

A witness asks the suspect's own keeper, on the management network: what is frozen still has a kernel that takes
connections, but says nothing. On the tunnel network it tries a connection; being refused is an answer too.
"""

import asyncio
import contextlib
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.state import KEEPER_PORT, State
from trilith.kernel.reconcile import Doc

TRY_S = 1.0
ANSWER_S = 3.0
MOST_WITNESSES = 7
PATH = "/reach/"


async def reach(suspect: Host, ask_peer: Callable[[Host], Doc | None], port: int = KEEPER_PORT) -> Doc:
    """``management tunnel``: whether this host reaches it there; tunnel None: it has no such network."""
    asked = asyncio.to_thread(ask_peer, suspect)
    state, tunnel = await asyncio.gather(asked, _answers(suspect.tunnel_address, port))
    return {"management": state is not None, "tunnel": tunnel}


async def _answers(address: str | None, port: int) -> bool | None:
    if address is None:
        return None
    try:
        async with asyncio.timeout(TRY_S):
            _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


class Witnesses:
    """Asks keepers of hosts other than `own`: a second opinion is somebody else's. Controllers are asked first."""

    def __init__(self, state: State, cluster: ClusterFile, own: str, port: int = KEEPER_PORT) -> None:
        self._state, self._port = state, port
        others = [host for host in cluster.hosts if host.name != own]
        self._hosts = sorted(others, key=lambda host: "control" not in host.roles)

    def ask(self, suspect: str) -> Doc:
        """Name of a witness -> what `reach` says there; None: it does not answer."""
        chosen = [host for host in self._hosts if host.name != suspect][:MOST_WITNESSES]
        if not chosen:
            return {}
        with ThreadPoolExecutor(len(chosen)) as pool:
            return dict(
                zip(
                    [host.name for host in chosen], pool.map(lambda host: self._one(host, suspect), chosen), strict=True
                )
            )

    def _one(self, witness: Host, suspect: str) -> Doc | None:
        try:
            tls = ssl.create_default_context(cafile=str(self._state.tls / "ca.crt"))
            connection = http.client.HTTPSConnection(witness.address, self._port, timeout=ANSWER_S, context=tls)
            with contextlib.closing(connection):
                headers = {"authorization": f"Bearer {self._state.secret('keeper')}"}
                connection.request("GET", PATH + urllib.parse.quote(suspect), headers=headers)
                reply = connection.getresponse()
                document = json.loads(reply.read())
                return document if reply.status == 200 and isinstance(document, dict) else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
