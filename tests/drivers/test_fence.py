"""One suite for every power switch: pretended, Redfish over TLS against a rehearsal's own switches, IPMI against
OpenIPMI's simulator. Then what only real switches do."""

import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trilith.cluster.certificates import keep_certificate, make_ca
from trilith.cluster.rehearsal_power import USER, Service
from trilith.drivers.fence_fake import FakeSwitch
from trilith.drivers.fence_ipmi import IpmiSwitch
from trilith.drivers.fence_redfish import RedfishSwitch
from trilith.kernel.errors import Refused, Unavailable

PASSWORD = "a pass word"


@dataclass
class Lab:
    """`switch` of one host; `is_on` asks past it; `cannot()` makes it useless."""

    switch: Any
    is_on: Callable[[], bool]
    cannot: Callable[[], None]


class Machine:
    def __init__(self) -> None:
        self.condition = "running"

    def power_off(self) -> None:
        self.condition = "off"

    def power_on(self, wait: bool = True) -> None:
        self.condition = "booting"


def contexts(directory: Path) -> tuple[ssl.SSLContext, Callable[[], ssl.SSLContext]]:
    """The server's, and how clients make theirs."""
    authority = make_ca(directory)
    keep_certificate(authority, directory, "switch", ["127.0.0.1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "switch.crt", directory / "switch.key")
    return server, lambda: ssl.create_default_context(cafile=str(directory / "ca.crt"))


def fake_lab(directory: Path) -> Iterator[Lab]:
    switch = FakeSwitch()
    yield Lab(switch, lambda: switch.on, lambda: setattr(switch, "problem", "it is broken"))


def redfish_lab(directory: Path) -> Iterator[Lab]:
    server_tls, client_tls = contexts(directory)
    machines = {"c1": Machine(), "other host": Machine()}
    with Service(("127.0.0.1", 0), server_tls, PASSWORD, lambda: machines) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{service.server_address[1]}"
        switch = RedfishSwitch(address, USER, lambda: PASSWORD, client_tls, "other host", off_within_s=1.0)
        yield Lab(switch, lambda: machines["other host"].condition != "off", machines.clear)
        service.shutdown()


SIMULATOR = """\
name "host"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_operator straight
    allowed_auths_admin straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{directory}/chassis"
  user 1 true "" "nobody" user 10 none
  user 2 true "trilith" "{password}" admin 10 straight
"""
CHASSIS = """\
#!/bin/sh
if [ "$1" = get ]; then echo "power:$(cat {directory}/power)"; else echo "$3" > {directory}/power; fi
"""
CONTROLLER = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"


def ipmi_lab(directory: Path) -> Iterator[Lab]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "lan.conf").write_text(SIMULATOR.format(port=port, directory=directory, password="pass"))
    (directory / "emulator").write_text(CONTROLLER)
    (directory / "chassis").write_text(CHASSIS.format(directory=directory))
    (directory / "chassis").chmod(0o755)
    (directory / "power").write_text("1")
    (directory / "state").mkdir()
    words = ["ipmi_sim", "-c", str(directory / "lan.conf"), "-f", str(directory / "emulator")]
    simulator = subprocess.Popen([*words, "-s", str(directory / "state"), "-n"], stdin=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        switch = IpmiSwitch(f"127.0.0.1:{port}", "trilith", lambda: "pass", 3, answer_s=60.0)
        on = directory / "power"
        yield Lab(switch, lambda: on.read_text().strip() == "1", simulator.kill)
    finally:
        simulator.send_signal(signal.SIGKILL)
        simulator.wait()


LABS = {"fake": fake_lab, "redfish": redfish_lab, "ipmi": ipmi_lab}


@pytest.fixture(params=LABS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    yield from LABS[request.param](tmp_path)


def test_the_power_goes_and_comes(lab: Lab) -> None:
    assert lab.switch.is_on()
    lab.switch.power_off()
    assert not lab.is_on()
    assert not lab.switch.is_on()
    lab.switch.power_off()  # again does no harm
    lab.switch.power_on()
    assert lab.is_on()
    assert lab.switch.is_on()


def test_a_switch_that_cannot_never_says_off(lab: Lab) -> None:
    lab.cannot()
    for ask in (lab.switch.is_on, lab.switch.power_off):
        with pytest.raises((Unavailable, Refused)):
            ask()


# Redfish as others speak it


class Board(BaseHTTPRequestHandler):
    """A management controller with one system, the way `server.does` says: path -> what it answers."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        status, document = self.server.does(self.command, self.path)
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[Any, RedfishSwitch]]:
    server_tls, client_tls = contexts(tmp_path)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Board)
    server.socket = server_tls.wrap_socket(server.socket, server_side=True)
    server.asked, server.power = [], ["On"]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"https://127.0.0.1:{server.server_address[1]}"
    yield server, RedfishSwitch(address, "root", lambda: PASSWORD, client_tls, answer_s=2.0, off_within_s=2.0)
    server.shutdown()
    server.server_close()


SYSTEM = "/redfish/v1/Systems/System.Embedded.1"


def usual(server: Any, method: str, path: str) -> tuple[int, Any]:
    if path == "/redfish/v1/Systems":
        return 200, {"Members": [{"@odata.id": SYSTEM}]}
    if method == "POST":
        return 204, b""
    power = server.power.pop(0) if len(server.power) > 1 else server.power[0]
    return 200, {"PowerState": power, "Actions": {"#ComputerSystem.Reset": {"target": f"{SYSTEM}/Actions/Oem.Reset"}}}


def test_the_only_system_and_its_own_target(board: tuple[Any, RedfishSwitch]) -> None:
    server, switch = board
    server.does = lambda method, path: usual(server, method, path)
    server.power = ["On", "PoweringOff", "Off"]
    switch.power_off()
    assert [(method, path) for method, path, _ in server.asked if method == "POST"] == [
        ("POST", f"{SYSTEM}/Actions/Oem.Reset")
    ]
    assert all(given and given.startswith("Basic ") for _, _, given in server.asked)


def test_told_but_not_done_is_not_off(board: tuple[Any, RedfishSwitch]) -> None:
    server, switch = board
    server.does = lambda method, path: usual(server, method, path)
    server.power = ["On", "PoweringOff"]
    with pytest.raises(Unavailable, match="was told ForceOff"):
        switch.power_off()


def test_a_conflict_may_be_that_it_is_off(board: tuple[Any, RedfishSwitch]) -> None:
    server, switch = board
    server.does = lambda method, path: (409, {"error": {}}) if method == "POST" else usual(server, method, path)
    server.power = ["On", "Off"]
    switch.power_off()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {"Members": [{"@odata.id": SYSTEM}, {"@odata.id": f"{SYSTEM}2"}]}), "name one"),
        ((200, {"Members": []}), "0 systems"),
        ((401, {}), "password_file"),
        ((503, {}), "503"),
        ((404, {}), "has no"),
        ((200, b"<html>"), "no JSON"),
        ((200, [1]), "0 systems"),
    ],
)
def test_answers_of_no_use(board: tuple[Any, RedfishSwitch], answer: Any, words: str) -> None:
    server, switch = board
    server.does = lambda method, path: answer
    with pytest.raises((Unavailable, Refused), match=words):
        switch.power_off()


def test_a_system_that_says_nothing_of_its_power(board: tuple[Any, RedfishSwitch]) -> None:
    server, switch = board
    server.does = lambda method, path: usual(server, method, path) if path.endswith("Systems") else (200, {})
    with pytest.raises(Unavailable, match="does not say"):
        switch.power_off()


def test_only_who_it_should_be(board: tuple[Any, RedfishSwitch], tmp_path: Path) -> None:
    """Another authority's certificate: no password is told to it."""
    server, _ = board
    (tmp_path / "other").mkdir()
    make_ca(tmp_path / "other")
    address = f"https://127.0.0.1:{server.server_address[1]}"
    other = tmp_path / "other" / "ca.crt"
    stranger = RedfishSwitch(
        address, "root", lambda: PASSWORD, lambda: ssl.create_default_context(cafile=str(other)), answer_s=2.0
    )
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        stranger.power_off()
    assert not server.asked


def test_nobody_there() -> None:
    switch = RedfishSwitch("https://127.0.0.1:1", "root", lambda: PASSWORD, ssl.create_default_context, answer_s=1.0)
    with pytest.raises(Unavailable, match="does not answer"):
        switch.power_off()


def test_the_password_is_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ipmitool, whose arguments everybody on the host can read."""
    tool = tmp_path / "ipmitool"
    lines = (f'echo "$@" > {tmp_path}/words', f'echo "$IPMI_PASSWORD" > {tmp_path}/secret', "echo Chassis Power is off")
    tool.write_text("\n".join(("#!/bin/sh", *lines)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert not IpmiSwitch("10.0.0.1", "root", lambda: PASSWORD).is_on()
    assert PASSWORD not in (tmp_path / "words").read_text()
    assert (tmp_path / "secret").read_text().strip() == PASSWORD
