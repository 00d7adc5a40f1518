"""The hub over real sockets: wake-up streams, and consoles from a user's websocket to a machine's unix socket."""

import asyncio
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.conftest import eventually, free_port
from trilith.agent.console import Consoles
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.hub import Hub, Place
from trilith.cluster.state import Settings, State
from trilith.kernel.hints import Hints, Wake


class Api(BaseHTTPRequestHandler):
    """Says which machine a console token is for, and whose a credential is."""

    asked_with: list[str] = []
    hosts: dict[str, str] = {}

    def do_GET(self) -> None:
        name = Api.hosts.get(self.headers["Authorization"].removeprefix("Bearer "))
        content = json.dumps({"name": name}).encode()
        self.send_response(200 if name else 401)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Api.asked_with.append(self.headers["Authorization"])
        content = b'{"host": "host1", "server_id": "s1", "kind": "serial"}'
        self.send_response(200 if b'"good"' in body else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


class Wire:
    """A bus of hubs in one process, each in a thread of its own."""

    def __init__(self) -> None:
        self.ends: list[WireEnd] = []

    def end(self, on_topics: Callable[[set[str] | None], None]) -> Any:
        self.ends.append(WireEnd(self, on_topics))
        return self.ends[-1]


class WireEnd:
    def __init__(self, wire: Wire, on_topics: Callable[[set[str] | None], None]) -> None:
        self.wire, self.on_topics = wire, on_topics
        self.connected_to: str | None = "wire"

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        await asyncio.sleep(3600)

    def say(self, topics: set[str] | None) -> None:
        self.loop.call_soon_threadsafe(self.on_topics, topics)

    def publish(self, topics: set[str]) -> None:
        for end in self.wire.ends:
            if end is not self:
                end.say(topics)


class Served:
    """A hub in a thread. `peers`: addresses of other hubs, which have the same secrets."""

    def __init__(self, directory: Path, name: str = "host1", peers: tuple[str, ...] = (), wire: Any = None) -> None:
        self.name, self.peers, self.wire = name, peers, wire
        self.state = State(directory)
        self.state.make_directories()
        self.state.make_secrets(Settings(cloud_id="x", host="host1", cluster=all_in_one("host1")))
        Api.hosts[self.state.secret("host-host1")] = "host-host1"
        self.api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def up() -> None:
            hub = Hub(
                self.state,
                Place(self.name, f"http://127.0.0.1:{self.api.server_port}", self.peers),
                self.wire.end if self.wire else None,
            )
            self.runner = web.AppRunner(
                hub.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
            )
            await self.runner.setup()
            await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
            ready.set()

        def serve() -> None:
            self.loop.run_until_complete(up())
            self.loop.run_forever()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(5)

    def close(self) -> None:
        self.stop()
        self.api.shutdown()
        self.api.server_close()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    def get(self, path: str, credential: str = "") -> int:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {credential}"})
        try:
            with urllib.request.urlopen(request, timeout=3) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture
def hub(short_dir: Path) -> Iterator[Served]:
    served = Served(short_dir)
    yield served
    served.close()


@pytest.fixture
def second(hub: Served, short_dir: Path) -> Iterator[Served]:
    """Another controller's hub of the same cloud, which knows the first as its peer."""
    (short_dir / "second").mkdir()
    shutil.copytree(hub.state.secrets, short_dir / "second" / "secrets")
    served = Served(short_dir / "second", "host2", (hub.url,))
    yield served
    served.close()


@pytest.fixture
def listen(hub: Served) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Start a listener; the list grows with what it hears."""
    started: list[Wake] = []

    def start(name: str, *topics: str) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        wake = Wake(hub.url, hub.state.secret(name), topics, heard.append)
        wake.start()
        started.append(wake)
        eventually(lambda: heard == [{}], "connected")
        return heard

    yield start
    for wake in started:
        wake.stop()
    for wake in started:
        wake.join(5)


def test_hints_reach_who_listens_to_the_topic(hub: Served, listen: Callable[..., list[dict[str, Any]]]) -> None:
    host = listen("host-host1", "host:host1")
    controllers = [listen("controller", "northbound", "images") for _ in range(3)]
    Hints(hub.state.hints_socket).send({"host:host1", "northbound", "nobody"})
    eventually(lambda: host[1:] == [{"wake": ["host:host1"]}], "the host hears")
    for controller in controllers:
        eventually(lambda heard=controller: heard[1:] == [{"wake": ["northbound"]}], "a controller hears")  # type: ignore[misc]


def test_a_hint_is_quick_and_many_are_few_messages(hub: Served, listen: Callable[..., list[dict[str, Any]]]) -> None:
    heard = listen("controller", *(f"t{number}" for number in range(500)))
    hints = Hints(hub.state.hints_socket)
    begun = time.monotonic()
    hints.send({"t1"})
    eventually(lambda: len(heard) == 2, "woken")
    assert time.monotonic() - begun < 0.5
    for _ in range(20):
        hints.send({f"t{number}" for number in range(500)})
    eventually(
        lambda: {t for message in heard[2:] for t in message["wake"]} == {f"t{n}" for n in range(500)}, "all topics"
    )


def test_no_hub_costs_the_sender_nothing(tmp_path: Path) -> None:
    begun = time.monotonic()
    hints = Hints(tmp_path / "nobody")
    for _ in range(100):
        hints.send({"a", "b" * 70000, "c"})
    assert time.monotonic() - begun < 0.5


def test_listeners_come_back_after_the_hub_was_away(hub: Served, listen: Callable[..., list[dict[str, Any]]]) -> None:
    heard = listen("controller", "northbound")
    hub.stop()
    hub.start()
    eventually(lambda: heard == [{}, {}], "connected again, and told so")
    Hints(hub.state.hints_socket).send({"northbound"})
    eventually(lambda: heard[2:] == [{"wake": ["northbound"]}], "hears again")


def test_who_may_listen(hub: Served) -> None:
    assert hub.get("/wake?topic=host:host1") == 401
    assert hub.get("/wake?topic=host:host1", "nonsense") == 401
    assert hub.get("/wake?topic=host:host2", hub.state.secret("host-host1")) == 403
    assert hub.get("/wake?topic=host:host1&topic=northbound", hub.state.secret("host-host1")) == 403
    assert hub.get("/wake", hub.state.secret("host-host1")) == 403
    assert hub.get("/wake?topic=northbound", hub.state.secret("hub")) == 401


def test_a_garbled_hint_does_no_harm(hub: Served, listen: Callable[..., list[dict[str, Any]]]) -> None:
    heard = listen("controller", "northbound")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for words in (b"", b"nonsense", b"7", b'[["a"]]', b'{"a": 1}', b'"x"'):
            sender.sendto(words, str(hub.state.hints_socket))
        sender.sendto(b'["northbound"]', str(hub.state.hints_socket))
    eventually(lambda: heard[1:] == [{"wake": ["northbound"]}], "hears on")


class Machine(threading.Thread):
    """A machine's serial port: answers in capitals, one client at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.hung_up = threading.Event()

    def run(self) -> None:
        client, _ = self.listener.accept()
        with client:
            client.sendall(b"login: ")
            while data := client.recv(4096):
                client.sendall(data.upper())
        self.hung_up.set()


def test_a_console_from_the_user_to_the_machine(hub: Served, short_dir: Path) -> None:
    machine = Machine(short_dir / "serial")
    machine.start()
    credential = hub.state.secret("host-host1")
    asked: list[tuple[str, str]] = []

    def socket_of(server_id: str, kind: str) -> Path:
        asked.append((server_id, kind))
        return short_dir / "serial"

    consoles = Consoles(hub.url, credential, socket_of, lambda server_id, lines: f"log of {server_id}, {lines} lines")
    connected = threading.Event()

    def on_wake(message: dict[str, Any]) -> None:
        connected.set()
        if "console" in message:
            consoles.open(message)

    wake = Wake(hub.url, credential, ["host:host1"], on_wake)
    wake.start()
    assert connected.wait(5)

    async def use() -> bytes:
        received = b""
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{hub.url}/console?token=good", protocols=("binary",)) as user,
        ):
            assert user.protocol == "binary"
            await user.send_bytes(b"root\n")
            while b"ROOT\n" not in received:
                received += await user.receive_bytes(timeout=5)
            await user.send_bytes(b"x" * 300_000)
            size = 0
            while size < 300_000:
                size += len(await user.receive_bytes(timeout=5))
        return received

    assert asyncio.run(use()) == b"login: ROOT\n"
    assert asked == [("s1", "serial")]
    assert Api.asked_with[-1] == f"Bearer {hub.state.secret('hub')}"
    assert machine.hung_up.wait(5), "the machine's side is closed when the user goes"
    path = "/console-log?host=host1&server_id=s1&lines=3"
    request = urllib.request.Request(
        hub.url + path, headers={"Authorization": f"Bearer {hub.state.secret('controller')}"}
    )
    with urllib.request.urlopen(request, timeout=5) as reply:
        assert reply.read() == b"log of s1, 3 lines"
    assert hub.get(path, credential) == 403
    wake.stop()
    wake.join(5)


def test_a_console_through_another_controllers_hub(hub: Served, second: Served, short_dir: Path) -> None:
    """The agent listens at the first, the user comes to the second."""
    machine = Machine(short_dir / "serial")
    machine.start()
    credential = hub.state.secret("host-host1")
    sessions: list[str] = []
    consoles = Consoles(second.url, credential, lambda *_: short_dir / "serial", lambda *_: "the log")
    connected = threading.Event()

    def on_wake(message: dict[str, Any]) -> None:
        connected.set()
        if "console" in message:
            sessions.append(message["console"])
            consoles.open(message)

    wake = Wake(hub.url, credential, ["host:host1"], on_wake)
    wake.start()
    assert connected.wait(5)

    async def use() -> bytes:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"{second.url}/console?token=good", protocols=("binary",)) as user,
        ):
            return await user.receive_bytes(timeout=5)

    assert asyncio.run(use()) == b"login: "
    assert sessions[0].startswith("host2."), "the session names the hub to dial back to"
    wake.stop()
    wake.join(5)


def test_only_hubs_tell_hubs(hub: Served) -> None:
    def tell(credential: str, body: bytes) -> int:
        headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{hub.url}/peer/tell", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=3) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert tell("nonsense", b'{"host": "host1"}') == 401
    assert tell(hub.state.secret("host-host1"), b'{"host": "host1"}') == 403
    assert tell(hub.state.secret("controller"), b'{"host": "host1"}') == 404  # its agent does not listen here
    assert [tell(hub.state.secret("controller"), body) for body in (b"", b"7", b"[]", b"{}")] == [400] * 4
    assert tell(hub.state.secret("controller"), b'{"hints": 7}') == 400
    assert tell(hub.state.secret("host-host1"), b'{"hints": ["images"]}') == 403


def test_hints_reach_listeners_of_other_hubs(short_dir: Path) -> None:
    wire = Wire()
    hubs = []
    for name in ("one", "two"):
        (short_dir / name).mkdir()
        hubs.append(Served(short_dir / name, name, wire=wire))
    heard: list[dict[str, Any]] = []
    wake = Wake(hubs[1].url, hubs[1].state.secret("controller"), ["northbound"], heard.append)
    wake.start()
    eventually(lambda: heard == [{}], "connected")
    Hints(hubs[0].state.hints_socket).send({"northbound", "images"})
    eventually(lambda: heard[1:] == [{"wake": ["northbound"]}], "heard from the other hub, once")
    wire.ends[1].say(None)
    eventually(lambda: len(heard) == 3, "and everybody is woken when the bus is back")
    wake.stop()
    wake.join(5)
    for hub in hubs:
        hub.close()


class NoBus(Wire):
    """No broker answers."""

    def end(self, on_topics: Callable[[set[str] | None], None]) -> Any:
        made = super().end(on_topics)
        made.connected_to = None
        return made


def test_while_the_bus_is_away_hubs_tell_each_other(
    hub: Served, listen: Callable[..., list[dict[str, Any]]], short_dir: Path
) -> None:
    (short_dir / "lonely").mkdir()
    shutil.copytree(hub.state.secrets, short_dir / "lonely" / "secrets")
    nobody = f"http://127.0.0.1:{free_port()}"
    lonely = Served(short_dir / "lonely", "host2", (nobody, hub.url), wire=NoBus())
    try:
        heard = listen("controller", "northbound")
        for _ in range(2):
            heard.clear()
            Hints(lonely.state.hints_socket).send({"northbound", "images"})
            eventually(lambda: heard == [{"wake": ["northbound"]}], "heard, though one peer is away")
    finally:
        lonely.close()


def test_consoles_that_are_refused(hub: Served) -> None:
    assert hub.get("/console?token=bad") == 401
    assert hub.get("/console") == 401
    assert hub.get("/console?token=good") == 503  # the host is not connected
    assert hub.get("/agent-console/nosuch", hub.state.secret("host-host1")) == 404
    assert hub.get("/agent-console/nosuch") == 401


def test_the_browser_client_is_served(hub: Served) -> None:
    assert hub.get("/novnc/vnc_lite.html?path=console%3Ftoken%3Dgood") == 200
    assert hub.get("/novnc/../../etc/passwd") in (403, 404)
