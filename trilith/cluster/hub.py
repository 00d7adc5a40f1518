"""The hub: the one process where thousands of connections wait. It wakes agents and controllers, and joins consoles.

* ``GET /wake?topic=...``: lines of JSON for as long as the caller listens; an empty object at least every 10 s.
* ``GET /console?token=...``: a user's websocket. The API says which machine the token is for; that machine's agent is
  told to dial back to ``/agent-console/SESSION``, and the two are joined.
* ``GET /console-log?host=...&server_id=...&lines=...``: what a machine wrote to its serial port, for the API.
* ``/novnc/``: the noVNC client's files.

Nothing is kept: a restarted hub knows nobody, everybody reconnects, and until then they poll.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from trilith.cluster.state import State
from trilith.kernel.hints import HEARTBEAT_S

log = logging.getLogger(__name__)

NOVNC = Path("/usr/share/novnc")
DIAL_BACK_S = 10.0
CONSOLE_IDLE_S = 30.0  # between pings of a console's two ends


class Listener:
    """One open wake-up stream. What piles up while it is slow is a set of topics: bounded, and nothing is lost."""

    def __init__(self, topics: set[str]) -> None:
        self.topics = topics
        self._woken: set[str] = set()
        self._consoles: list[dict[str, str]] = []
        self._something = asyncio.Event()

    def wake(self, topics: set[str]) -> None:
        if mine := self.topics & topics:
            self._woken |= mine
            self._something.set()

    def tell(self, console: dict[str, str]) -> None:
        self._consoles.append(console)
        self._something.set()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """For ever; ``{}`` when there was nothing to say for a while."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._something.wait()
            except TimeoutError:
                yield {}
                continue
            self._something.clear()
            consoles, self._consoles = self._consoles, []
            woken, self._woken = self._woken, set()
            for console in consoles:
                yield console
            if woken:
                yield {"wake": sorted(woken)}


class Hub:
    """`api_url` is where console tokens are checked, with the hub's own credential."""

    def __init__(self, state: State, api_url: str) -> None:
        self._state = state
        self._api_url = api_url
        self._listeners: set[Listener] = set()
        self._dialled: dict[str, tuple[str, asyncio.Future[web.WebSocketResponse], asyncio.Event]] = {}
        self._api: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/wake", self._wake)
        app.router.add_get("/console", self._console)
        app.router.add_get("/console-log", self._console_log)
        app.router.add_get("/agent-console/{session}", self._agent_console)
        if NOVNC.is_dir():
            app.router.add_static("/novnc/", NOVNC, follow_symlinks=True)
        app.cleanup_ctx.append(self._resources)
        return app

    async def _resources(self, app: web.Application) -> AsyncIterator[None]:
        path = self._state.hints_socket
        path.unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        receiver.bind(str(path))
        path.chmod(0o600)
        asyncio.get_running_loop().add_reader(receiver, self._receive, receiver)
        self._api = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        yield
        asyncio.get_running_loop().remove_reader(receiver)
        receiver.close()
        await self._api.close()

    def _receive(self, receiver: socket.socket) -> None:
        topics: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                with contextlib.suppress(ValueError, TypeError):
                    topics.update(json.loads(receiver.recv(65536)))
        for listener in self._listeners:
            listener.wake(topics)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "listeners": len(self._listeners)})

    # --- wake-up streams

    def _caller(self, request: web.Request) -> str:
        """``controller`` or ``host-NAME``, by the Bearer credential. Raises 401."""
        _, _, given = request.headers.get("Authorization", "").partition("Bearer ")
        for path in [self._state.secrets / "controller", *self._state.secrets.glob("host-*")]:
            with contextlib.suppress(FileNotFoundError):
                if hmac.compare_digest(path.read_text().strip().encode(), given.encode()):
                    return path.name
        raise web.HTTPUnauthorized(text="Give the credential of a host or of the controller.\n")

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        topics = set(request.query.getall("topic", []))
        if caller != "controller" and topics != {f"host:{caller.removeprefix('host-')}"}:
            raise web.HTTPForbidden(text="A host may only listen to its own topic.\n")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        listener = Listener(topics)
        self._listeners.add(listener)
        try:
            await response.write(b"{}\n")
            async for message in listener.messages():
                await response.write(json.dumps(message).encode() + b"\n")
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._listeners.discard(listener)
        return response

    # --- consoles

    async def _console(self, request: web.Request) -> web.StreamResponse:
        where = await self._validated(request.query.get("token", ""))
        agents = self._agents(where["host"])
        user = web.WebSocketResponse(protocols=("binary",), heartbeat=CONSOLE_IDLE_S, compress=False)
        await user.prepare(request)
        ask = {"server_id": where["server_id"], "kind": where["kind"]}
        try:
            async with self._dialled_back(where["host"], agents, ask) as machine:
                await _join(user, machine)
        except TimeoutError:
            log.warning("no agent dialled back", extra={"host": where["host"], **ask})
            await user.close(code=aiohttp.WSCloseCode.TRY_AGAIN_LATER, message=b"The host did not answer.")
        return user

    async def _console_log(self, request: web.Request) -> web.StreamResponse:
        if self._caller(request) != "controller":
            raise web.HTTPForbidden(text="Only the controller may ask for this.\n")
        host = request.query.get("host", "")
        ask = {"server_id": request.query.get("server_id", ""), "kind": "log", "lines": request.query.get("lines", "")}
        written = b""
        try:
            async with self._dialled_back(host, self._agents(host), ask) as machine:
                async for message in machine:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        written += message.data
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text="The host did not answer.\n") from None
        return web.Response(body=written, content_type="text/plain", charset="utf-8")

    def _agents(self, host: str) -> list[Listener]:
        topic = f"host:{host}"
        if agents := [listener for listener in self._listeners if topic in listener.topics]:
            return agents
        raise web.HTTPServiceUnavailable(text=f"Host {host} is not connected; try again in a moment.\n")

    @contextlib.asynccontextmanager
    async def _dialled_back(
        self, host: str, agents: list[Listener], ask: dict[str, str]
    ) -> AsyncIterator[web.WebSocketResponse]:
        """Ask the host's agent for a connection to a machine. TimeoutError when none comes."""
        session = secrets.token_urlsafe(16)
        dialled: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()
        self._dialled[session] = (host, dialled, over)
        try:
            for agent in agents:
                agent.tell({"console": session, **ask})
            async with asyncio.timeout(DIAL_BACK_S):
                machine = await dialled
            yield machine
        finally:
            over.set()
            del self._dialled[session]

    async def _validated(self, token: str) -> dict[str, str]:
        """``{host, server_id, kind}`` of a console token. Raises 401 for a bad one, 503 when nobody can tell."""
        assert self._api is not None
        try:
            async with self._api.post(
                f"{self._api_url}/agent/v1/consoles/validate",
                json={"token": token},
                headers={"Authorization": f"Bearer {self._state.secret('hub')}"},
            ) as reply:
                if reply.status == 200:
                    where: dict[str, str] = await reply.json()
                    return where
                if reply.status < 500:
                    # nothing after the head: clients that expect frames would take a text for one
                    refusal = web.HTTPUnauthorized(text="")
                    refusal.force_close()
                    raise refusal
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("console tokens cannot be checked: %s", error)
        raise web.HTTPServiceUnavailable(text="The API is away; try again in a moment.\n")

    async def _agent_console(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        host, dialled, over = self._dialled.get(request.match_info["session"], ("", None, None))
        if dialled is None or over is None or caller != f"host-{host}" or dialled.done():
            raise web.HTTPNotFound(text="No such console.\n")
        machine = web.WebSocketResponse(heartbeat=CONSOLE_IDLE_S, compress=False)
        await machine.prepare(request)
        if dialled.done():  # another agent of the same host was faster
            return machine
        dialled.set_result(machine)
        await over.wait()
        return machine


async def _join(left: web.WebSocketResponse, right: web.WebSocketResponse) -> None:
    """Bytes both ways until either end is gone."""

    async def copy(source: web.WebSocketResponse, target: web.WebSocketResponse) -> None:
        async for message in source:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                data = message.data
                await target.send_bytes(data.encode() if isinstance(data, str) else data)

    tasks = [asyncio.create_task(copy(left, right)), asyncio.create_task(copy(right, left))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await left.close()
        await right.close()


def serve(state: State) -> None:
    """Run until SIGTERM."""
    settings = state.settings()
    hub = Hub(state, settings.api_url)
    web.run_app(
        hub.application(),
        host=settings.listen,
        port=settings.hub_port,
        print=None,
        access_log=None,
        reuse_address=True,
        shutdown_timeout=0.5,
        handler_cancellation=True,
    )
