"""Consoles: when the hub says that a user waits, dial back and join the machine's socket to the user's websocket;
or send what the machine has written to its serial port.

Runs in a thread of its own for each console, and imports its client only when the first one is opened.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.tls import client_context

log = logging.getLogger(__name__)

CHUNK_BYTES = 65536
MACHINE_S = 5.0  # to connect to the machine's socket


class Consoles:
    """`socket_of(server_id, kind)` is the path of the machine's socket for a console: kind serial or vnc.
    `log_of(server_id, lines)` is the end of its serial output; lines None: all that is kept."""

    def __init__(
        self,
        hub_url: str,
        credential: str,
        socket_of: Callable[[str, str], Path],
        log_of: Callable[[str, int | None], str],
        ca_file: Path | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._url = hub_url
        self._headers = {"Authorization": f"Bearer {credential}"}
        self._socket_of = socket_of
        self._log_of = log_of

    def open(self, message: dict[str, str]) -> None:
        """Answer the hub's ``{"console": session, "server_id", "kind", "lines"}``. Returns at once."""
        threading.Thread(target=self._run, args=(message,), name="console", daemon=True).start()

    def _run(self, message: dict[str, str]) -> None:
        import asyncio

        session, server_id, kind = message["console"], message["server_id"], message["kind"]
        try:
            if kind == "log":
                lines = message.get("lines", "")
                asyncio.run(self._send(session, self._log_of(server_id, int(lines) if lines.isdigit() else None)))
            else:
                asyncio.run(self._pipe(session, self._socket_of(server_id, kind)))
        except (OSError, TimeoutError, Unavailable, Refused) as error:
            log.warning("console ended: %s", error, extra={"server_id": server_id, "kind": kind})

    def _tls(self) -> ssl.SSLContext | bool:
        return client_context(self._ca_file) if self._ca_file else True

    async def _send(self, session: str, text: str) -> None:
        import aiohttp

        url = f"{self._url}/agent-console/{session}"
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers) as client,
                client.ws_connect(url, compress=0, ssl=self._tls()) as hub,
            ):
                await hub.send_bytes(text.encode())
        except aiohttp.ClientError as error:
            raise Unavailable(f"the hub does not take the log: {error}") from error

    async def _pipe(self, session: str, path: Path) -> None:
        import asyncio

        import aiohttp

        loop = asyncio.get_running_loop()
        machine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(MACHINE_S):
                await loop.sock_connect(machine, str(path))
            url = f"{self._url}/agent-console/{session}"
            async with (
                aiohttp.ClientSession(headers=self._headers) as client,
                client.ws_connect(url, compress=0, heartbeat=30, ssl=self._tls()) as user,
            ):

                async def to_user() -> None:
                    while data := await loop.sock_recv(machine, CHUNK_BYTES):
                        await user.send_bytes(data)

                async def to_machine() -> None:
                    async for message in user:
                        if message.type == aiohttp.WSMsgType.BINARY:
                            await loop.sock_sendall(machine, message.data)

                tasks = [asyncio.create_task(to_user()), asyncio.create_task(to_machine())]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except aiohttp.ClientError as error:
            raise Unavailable(f"the hub does not take the console: {error}") from error
        finally:
            machine.close()
