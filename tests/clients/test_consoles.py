"""Consoles as browsers open them: the page, the machine's screen, and its serial port; and who is turned away."""

import asyncio
import sqlite3
import urllib.request
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp
import pytest

from tests.clients.cloud import Cloud
from tests.clients.stage import Machine, Stage, nothing_is_left
from trilith.compute.consoles import TOKEN

Talk = Callable[[aiohttp.ClientWebSocketResponse], Awaitable[bytes]]


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    return Stage(cloud)


@pytest.fixture(scope="module")
def machine(stage: Stage) -> Machine:
    return stage.machine("shown").ready()


def console(machine: Machine, protocol: str, kind: str) -> str:
    asked = {"protocol": protocol, "type": kind}
    made = machine.stage.make(f"{machine.path}/remote-consoles", remote_console=asked)
    assert (made["protocol"], made["type"]) == (protocol, kind)
    return str(made["url"])


def websocket_of(page: str) -> str:
    """Where noVNC's page connects to: its own host, and the path that its address names."""
    parts = urlsplit(page)
    return f"ws://{parts.netloc}/{parse_qs(parts.query)['path'][0]}"


def opened(url: str, talk: Talk) -> bytes:
    async def run() -> bytes:
        async with (
            asyncio.timeout(60),
            aiohttp.ClientSession() as client,
            client.ws_connect(url, protocols=("binary",)) as stream,
        ):
            return await talk(stream)

    return asyncio.run(run())


def refused(url: str) -> int:
    """The status that a websocket's handshake is answered with."""

    async def run() -> int:
        async with aiohttp.ClientSession() as client:
            try:
                async with client.ws_connect(url):
                    return 101
            except aiohttp.WSServerHandshakeError as error:
                return error.status

    return asyncio.run(run())


async def until_it_says(stream: aiohttp.ClientWebSocketResponse, words: bytes) -> bytes:
    heard = b""
    while words not in heard:
        message = await stream.receive()
        assert message.type == aiohttp.WSMsgType.BINARY, (message, heard)
        heard += message.data
    return heard


def test_novnc_page_and_all_that_it_loads(machine: Machine) -> None:
    url = console(machine, "vnc", "novnc")
    with urllib.request.urlopen(url) as page:
        text = page.read().decode()
    assert "noVNC" in text
    with urllib.request.urlopen(urljoin(url, "core/rfb.js")) as module:
        assert "javascript" in module.headers["Content-Type"]


def test_screen_speaks_rfb(machine: Machine) -> None:
    async def handshake(stream: aiohttp.ClientWebSocketResponse) -> bytes:
        greeting = await until_it_says(stream, b"RFB 003.008\n")
        await stream.send_bytes(greeting)
        kinds = await until_it_says(stream, b"\x01")  # one kind of authentication, or a list in which "none" stands
        await stream.send_bytes(b"\x01")
        return greeting + kinds + await until_it_says(stream, b"\0\0\0\0")

    assert opened(websocket_of(console(machine, "vnc", "novnc")), handshake).startswith(b"RFB 003.008\n")


def test_screen_is_opened_twice_by_one_address(machine: Machine) -> None:
    """A page is loaded anew now and then."""
    url = websocket_of(console(machine, "vnc", "novnc"))
    for _ in range(2):
        assert opened(url, lambda stream: until_it_says(stream, b"RFB 003.008\n"))


def test_serial_console_is_a_shell(machine: Machine) -> None:
    async def type_a_command(stream: aiohttp.ClientWebSocketResponse) -> bytes:
        for _ in range(60):  # the prompt comes when the guest has booted; before, nobody listens
            await stream.send_bytes(b"\n")
            try:
                async with asyncio.timeout(1):
                    await until_it_says(stream, b"login: ")
                    break
            except TimeoutError:
                continue
        await stream.send_bytes(b"root\n")
        await until_it_says(stream, b"# ")
        await stream.send_bytes(b"echo answer=$((6 * 7))\n")
        return await until_it_says(stream, b"answer=42")

    assert opened(console(machine, "serial", "serial"), type_a_command)
    assert "answer=42" in machine.console()


def test_wrong_token_is_refused(machine: Machine) -> None:
    url = websocket_of(console(machine, "vnc", "novnc"))
    assert refused(url[:-4] + "AAAA") == 401
    assert refused(url.partition("?")[0]) == 401
    assert refused(url.replace("token=", "token=x")) == 401


def test_expired_token_is_refused(cloud: Cloud, machine: Machine) -> None:
    url = websocket_of(console(machine, "vnc", "novnc"))
    # ten minutes pass
    with sqlite3.connect(cloud.state / "cloud/db.sqlite", timeout=10) as database:
        database.execute(f"update {TOKEN.table.name} set expires_at_s = '1.0'")
    assert refused(url) == 401


def test_kinds_that_are_not_offered(machine: Machine) -> None:
    for protocol, kind in (("spice", "spice-html5"), ("rdp", "rdp-html5"), ("vnc", "serial")):
        asked = {"remote_console": {"protocol": protocol, "type": kind}}
        machine.stage.refused("POST", f"{machine.path}/remote-consoles", asked, 400)


def test_no_console_of_a_stopped_machine(cloud: Cloud, machine: Machine) -> None:
    url = websocket_of(console(machine, "vnc", "novnc"))
    machine.act("os-stop", then="SHUTOFF")
    asked = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    machine.stage.refused("POST", f"{machine.path}/remote-consoles", asked, 409)
    machine.delete()
    assert refused(url) == 401


def test_nothing_is_left(cloud: Cloud, stage: Stage) -> None:
    stage.clear()
    nothing_is_left(cloud)
