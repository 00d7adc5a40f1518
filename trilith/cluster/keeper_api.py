"""What a keeper tells over HTTPS: its state to whoever has the secret, and pages of engines to load balancers.

Everything is answered from memory, because a load balancer counts a slow answer as a dead engine. Each page is a
function that returns a status and a text at once. Only whether this host reaches another is found out when it is asked,
beside all else.
"""

import asyncio
import hmac
import json
import logging
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus

from trilith.cluster import second_opinion
from trilith.cluster.engines.engine import HostView
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Doc

log = logging.getLogger(__name__)

Page = Callable[[], tuple[int, str]]
REQUEST_BYTES = 8192
REQUEST_S = 3.0
BIND_AGAIN_S = 0.5


class KeeperApi:
    """One thread with an event loop."""

    def __init__(self, view: HostView, state: Callable[[], Doc], pages: dict[str, Page]) -> None:
        self._view = view
        self._state = state
        self._pages = pages

    def start(self, address: str, port: int) -> None:
        """Returns at once. Address or certificate may come later: it is tried until it works."""
        threading.Thread(target=lambda: asyncio.run(self._serve(address, port)), name="api", daemon=True).start()

    async def _serve(self, address: str, port: int) -> None:
        while True:
            try:
                tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                tls.load_cert_chain(self._view.tls("host.crt"), self._view.tls("host.key"))
                server = await asyncio.start_server(self._answer, address, port, ssl=tls, limit=REQUEST_BYTES)
                await server.serve_forever()
            except OSError as error:
                log.warning("cannot serve yet: %s", error)
                await asyncio.sleep(BIND_AGAIN_S)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
            code, text = await self._reply(head.decode("latin-1"))
            phrase = HTTPStatus(code).phrase
            writer.write(
                f"HTTP/1.1 {code} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n"
                f"connection: close\r\n\r\n{text}".encode()
            )
            await asyncio.wait_for(writer.drain(), REQUEST_S)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # a check that went away
        finally:
            writer.close()

    async def _reply(self, head: str) -> tuple[int, str]:
        line, *headers = head.split("\r\n")
        words = line.split(" ")
        path = words[1] if len(words) > 1 else ""
        if path in self._pages:
            return self._pages[path]()
        if path != "/state" and not path.startswith(second_opinion.PATH):
            return 404, ""
        given = next((text[14:].strip() for text in headers if text.lower().startswith("authorization:")), "")
        try:
            allowed = hmac.compare_digest(given.encode(), f"Bearer {self._view.secret('keeper')}".encode())
        except Unavailable:
            allowed = False
        if not allowed:
            return 401, ""
        if path == "/state":
            return 200, json.dumps(self._state())
        name = urllib.parse.unquote(path.removeprefix(second_opinion.PATH))
        host = next((host for host in self._view.settings.cluster.hosts if host.name == name), None)
        if host is None:
            return 404, ""
        return 200, json.dumps(await second_opinion.reach(host, self._view.ask_peer))
