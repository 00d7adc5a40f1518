"""The hub: the one process where thousands of connections wait. It wakes agents and controllers, and joins consoles.

* ``GET /wake?topic=...``: lines of JSON for as long as the caller listens; an empty object at least every 10 s.
* ``GET /console?token=...``: a user's websocket. The API says which machine the token is for; that machine's agent is
  told to dial back to ``/agent-console/SESSION``, and the two are joined.
* ``GET /console-log?host=...&server_id=...&lines=...``: what a machine wrote to its serial port, for the API.
* ``/novnc/``: the noVNC client's files.

In a cluster there is one on each controller. Hints go from hub to hub over the bus (`bus.py`). A console needs no bus:
a hub whose own listeners do not have the host's agent asks the others (``POST /peer/tell``); the agent dials back to
the hub that stands before the dot in the session's name.

Nothing is kept: a restarted hub knows nobody, everybody reconnects, and until then they poll.
"""

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from trilith.cluster import tls
from trilith.cluster.state import State
from trilith.kernel.hints import HEARTBEAT_S

if TYPE_CHECKING:
    from trilith.cluster.bus import Bus

log = logging.getLogger(__name__)

NOVNC = Path("/usr/share/novnc")
DIAL_BACK_S = 10.0
CONSOLE_IDLE_S = 30.0  # between pings of a console's two ends
PEER_S = 2.0  # that another hub is waited for
KNOWN_S = 10.0  # that an answer about a credential counts
MAX_KNOWN = 20_000
Tell = Callable[[dict[str, str]], None]


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


@dataclass(frozen=True)
class Place:
    """Where a hub stands. `api_url`: who knows consoles' tokens and hosts' credentials. `peers`: the other hubs."""

    name: str
    api_url: str
    peers: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    "For asking the API and the peers."


class Hub:
    """`start_bus(on_topics)` gives the way to the other controllers; None on one machine."""

    def __init__(
        self, state: State, place: Place, start_bus: Callable[[Callable[[set[str] | None], None]], "Bus"] | None = None
    ) -> None:
        self._state = state
        self._place = place
        self._bus = start_bus(self._heard) if start_bus else None
        self._known: dict[bytes, tuple[float, str]] = {}  # digest of a credential: when it was asked for, whose it is
        self._listeners: set[Listener] = set()
        self._dialled: dict[str, tuple[str, asyncio.Future[web.WebSocketResponse], asyncio.Event]] = {}
        self._told: set[asyncio.Task[Any]] = set()
        self._untold: dict[str, set[str]] = {}  # by peer, what it is to be told past the bus; there while that is done
        self._api: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/wake", self._wake)
        app.router.add_get("/console", self._console)
        app.router.add_get("/console-log", self._console_log)
        app.router.add_get("/agent-console/{session}", self._agent_console)
        app.router.add_post("/peer/tell", self._peer_tell)
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
        connector = aiohttp.TCPConnector(ssl=self._place.tls or True)
        self._api = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), connector=connector)
        bus = asyncio.create_task(self._bus.run()) if self._bus else None
        yield
        if bus:
            bus.cancel()
            await asyncio.gather(bus, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(receiver)
        receiver.close()
        await self._api.close()

    def _receive(self, receiver: socket.socket) -> None:
        topics: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                with contextlib.suppress(ValueError, TypeError):
                    topics.update(json.loads(receiver.recv(65536)))
        self._heard(topics)
        if self._bus:
            self._bus.publish(topics)
            if not self._bus.connected_to:
                self._past_the_bus(topics)

    def _past_the_bus(self, topics: set[str]) -> None:
        """Tell the other hubs themselves, one request to each at a time."""
        for peer in self._place.peers:
            if (untold := self._untold.get(peer)) is not None:
                untold |= topics
            else:
                self._untold[peer] = set(topics)
                self._keep(self._tell_hints(peer))

    async def _tell_hints(self, peer: str) -> None:
        while topics := self._untold[peer]:
            self._untold[peer] = set()
            await self._peer_asked(peer, {"hints": sorted(topics)})
        del self._untold[peer]

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    def _heard(self, topics: set[str] | None) -> None:
        """Wake who listens to any of these; None: everybody."""
        for listener in self._listeners:
            listener.wake(listener.topics if topics is None else topics)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "listeners": len(self._listeners)})

    # --- wake-up streams

    async def _caller(self, request: web.Request) -> str:
        """``controller`` or ``host-NAME``, by the Bearer credential. Raises 401; 503 when nobody can tell."""
        _, _, given = request.headers.get("Authorization", "").partition("Bearer ")
        if hmac.compare_digest(self._state.secret("controller").encode(), given.encode()):
            return "controller"
        key, moment = hashlib.sha256(given.encode()).digest(), time.monotonic()
        asked_at, name = self._known.get(key, (-KNOWN_S, ""))
        if moment - asked_at > KNOWN_S:
            name = await self._asked_for(given)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = (moment, name)
        return name

    async def _asked_for(self, credential: str) -> str:
        """Whose it is, by the API."""
        assert self._api is not None
        try:
            async with self._api.get(
                f"{self._place.api_url}/agent/v1/whoami", headers={"Authorization": f"Bearer {credential}"}
            ) as reply:
                if reply.status == 200:
                    return str((await reply.json())["name"])
                if reply.status in (401, 403):
                    raise web.HTTPUnauthorized(text="Give the credential of a host or of the controller.\n")
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("credentials cannot be checked: %s", error)
        raise web.HTTPServiceUnavailable(text="The API is away; try again in a moment.\n")

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        caller = await self._caller(request)
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
        agents = await self._agents(where["host"])
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
        if await self._caller(request) != "controller":
            raise web.HTTPForbidden(text="Only the controller may ask for this.\n")
        host = request.query.get("host", "")
        ask = {"server_id": request.query.get("server_id", ""), "kind": "log", "lines": request.query.get("lines", "")}
        written = b""
        try:
            async with self._dialled_back(host, await self._agents(host), ask) as machine:
                async for message in machine:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        written += message.data
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text="The host did not answer.\n") from None
        return web.Response(body=written, content_type="text/plain", charset="utf-8")

    async def _agents(self, host: str) -> list[Tell]:
        """How to tell something to this host's agent, wherever it listens. Raises 503 when nobody has it."""
        topic = f"host:{host}"
        here: list[Tell] = [listener.tell for listener in self._listeners if topic in listener.topics]
        if here:
            return here
        answers = await asyncio.gather(*(self._peer_asked(peer, {"host": host}) for peer in self._place.peers))
        if there := [peer for peer, has in zip(self._place.peers, answers, strict=True) if has]:
            return [functools.partial(self._tell_peer, peer, host) for peer in there]
        raise web.HTTPServiceUnavailable(text=f"Host {host} is not connected; try again in a moment.\n")

    def _tell_peer(self, peer: str, host: str, console: dict[str, str]) -> None:
        self._keep(self._peer_asked(peer, {"host": host, "console": console}))

    async def _peer_asked(self, peer: str, what: dict[str, Any]) -> bool:
        """Whether that hub has the host's agent (and told it the console, where one is given); or took the hints."""
        assert self._api is not None
        try:
            async with self._api.post(
                f"{peer}/peer/tell",
                json=what,
                headers={"Authorization": f"Bearer {self._state.secret('controller')}"},
                timeout=aiohttp.ClientTimeout(total=PEER_S),
            ) as reply:
                return reply.status == 204
        except (aiohttp.ClientError, TimeoutError) as error:
            level = logging.DEBUG if "hints" in what else logging.WARNING  # of hints there are many, and they are lost
            log.log(level, "a peer does not answer: %s", error, extra={"peer": peer})
            return False

    async def _peer_tell(self, request: web.Request) -> web.Response:
        if await self._caller(request) != "controller":
            raise web.HTTPForbidden(text="Only another hub may ask this.\n")
        try:
            asked = await request.json()
            if "hints" in asked:
                self._heard({str(topic) for topic in asked["hints"]})
                return web.Response(status=204)
            topic, console = f"host:{asked['host']}", asked.get("console")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise web.HTTPBadRequest(text="Give the host, and the console to tell it; or hints.\n") from error
        here = [listener for listener in self._listeners if topic in listener.topics]
        for listener in here if console else []:
            listener.tell(console)
        return web.Response(status=204 if here else 404)

    @contextlib.asynccontextmanager
    async def _dialled_back(
        self, host: str, agents: list[Tell], ask: dict[str, str]
    ) -> AsyncIterator[web.WebSocketResponse]:
        """Ask the host's agent for a connection to a machine. TimeoutError when none comes."""
        session = f"{self._place.name}.{secrets.token_urlsafe(16)}"
        dialled: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()
        self._dialled[session] = (host, dialled, over)
        try:
            for tell in agents:
                tell({"console": session, **ask})
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
                f"{self._place.api_url}/agent/v1/consoles/validate",
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
        caller = await self._caller(request)
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
    server_tls, client_tls = tls.server(state, settings), tls.client(state, settings)
    others = [host for host in settings.controllers if host.name != settings.host] if settings.clustered else []
    place = Place(
        settings.host,
        settings.api_url,
        tuple(f"https://{host.address}:{settings.hub_port}" for host in others),
        client_tls,
    )

    def start_bus(on_topics: Callable[[set[str] | None], None]) -> "Bus":
        from trilith.cluster.bus import PORT, Bus  # here, because only a cluster has one

        brokers = [settings.this_host.address, *(host.address for host in others)]
        return Bus(settings.host, brokers, PORT, state.secret("rabbitmq"), client_tls, on_topics)

    hub = Hub(state, place, start_bus if settings.clustered else None)
    web.run_app(
        hub.application(),
        host=settings.listen,
        port=settings.hub_port,
        ssl_context=server_tls,
        print=None,
        access_log=None,
        reuse_address=True,
        shutdown_timeout=0.5,
        handler_cancellation=True,
    )
