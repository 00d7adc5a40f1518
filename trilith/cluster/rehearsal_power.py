"""The power switches of a rehearsal's hosts: one Redfish service on this machine's side of the management network.

To the hosts it is what a server's management controller is: a box of its own, with an address, a certificate and a
password, that cuts the power of a host whatever the host is doing. So takeovers are rehearsed with the same driver and
the same cluster file as real ones. It is a process of its own, which the rehearsal starts and ends.
"""

import base64
import hmac
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import msgspec

from trilith.cluster import certificates
from trilith.cluster.cluster_file import ClusterFile, Fencing, Host
from trilith.cluster.state import Problem, locked, write_file

Doc = dict[str, Any]
PORT = 9443
USER = "rehearsal"
SYSTEMS = "/redfish/v1/Systems"
RESET = "Actions/ComputerSystem.Reset"
BODY_BYTES = 4096
START_S, END_S = 20.0, 20.0


class Machine(Protocol):
    """A simulated host."""

    @property
    def condition(self) -> str:
        """``off`` when nothing of it lives."""

    def power_off(self) -> None: ...

    def power_on(self, wait: bool = True) -> None: ...


class Service(ThreadingHTTPServer):
    """`machines`: name -> the host, as it is now."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], tls: ssl.SSLContext, password: str, machines: Callable[[], dict[str, Machine]]
    ) -> None:
        self.tls, self.machines = tls, machines
        self.secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
        super().__init__(address, Request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: one that never shakes hands holds nobody up."""
        request.settimeout(10.0)
        with self.tls.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        print(f"{client_address}: {sys.exc_info()[1]}", flush=True)


class Request(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        try:
            body = json.loads(self.rfile.read(min(length, BODY_BYTES)) or b"{}")
        except ValueError:
            body = None
        self._answer(body if isinstance(body, dict) else {})

    def _answer(self, body: Doc | None) -> None:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Basic {self.server.secret}".encode()):
            return self._say(401, _error("the user or the password is wrong"))
        path = urllib.parse.unquote(self.path.rstrip("/"))
        machines = self.server.machines()
        if path == SYSTEMS and body is None:
            members = [{"@odata.id": f"{SYSTEMS}/{urllib.parse.quote(name)}"} for name in machines]
            return self._say(200, {"@odata.id": SYSTEMS, "Members@odata.count": len(members), "Members": members})
        name, _, rest = path.removeprefix(f"{SYSTEMS}/").partition("/")
        if not path.startswith(f"{SYSTEMS}/") or name not in machines or rest not in ("", RESET):
            return self._say(404, _error(f"there is no {path}"))
        if rest == "" and body is None:
            return self._say(200, _system(name, machines[name]))
        if rest == RESET and body is not None:
            return self._reset(machines[name], body.get("ResetType"))
        return self._say(405, _error(f"{self.command} is not for {path}"))

    def _reset(self, machine: Machine, how: object) -> None:
        if how == "ForceOff":
            machine.power_off()
        elif how == "On":
            machine.power_on(wait=False)
        else:
            return self._say(400, _error(f"ResetType {how} is not On or ForceOff"))
        return self._say(204, None)

    def _say(self, status: int, document: Doc | None) -> None:
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("OData-Version", "4.0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _system(name: str, machine: Machine) -> Doc:
    path = f"{SYSTEMS}/{urllib.parse.quote(name)}"
    action = {"target": f"{path}/{RESET}", "ResetType@Redfish.AllowableValues": ["On", "ForceOff"]}
    return {
        "@odata.id": path,
        "@odata.type": "#ComputerSystem.v1_5_0.ComputerSystem",
        "Id": name,
        "Name": name,
        "PowerState": "Off" if machine.condition == "off" else "On",
        "Actions": {"#ComputerSystem.Reset": action},
    }


def _error(sentence: str) -> Doc:
    return {"error": {"code": "Base.1.0.GeneralError", "message": sentence}}


# around it: what the rehearsal does with it


def directory(root: Path) -> Path:
    return root / "power"


def with_switches(cluster: ClusterFile, root: Path, address: str) -> ClusterFile:
    """The cluster file, with a switch here for each compute host that names none. `address`: of this machine on the
    management network."""

    def switched(host: Host) -> Host:
        if "compute" not in host.roles or cluster.fencing_of(host).driver != "none":
            return host
        file = str(directory(root) / "password")
        own = Fencing(driver="redfish", address=f"https://{address}:{PORT}", user=USER, password_file=file)
        return msgspec.structs.replace(host, fencing=msgspec.structs.replace(own, system=host.name))

    return msgspec.structs.replace(cluster, hosts=[switched(host) for host in cluster.hosts])


def make_password(root: Path) -> None:
    file = directory(root) / "password"
    if not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(file, f"{secrets.token_urlsafe(18)}\n".encode())


def start(root: Path, authority: Path, address: str, port: int = PORT) -> None:
    """Returns when it serves, anew: one of a version before may not read what this one writes. `authority`: of the
    cloud, which hosts trust."""
    place = directory(root)
    certificates.keep_certificate(certificates.read_ca(authority), place, "switch", [address])
    stop(root)
    with open(place / "log", "ab") as log:
        words = [sys.executable, "-m", "trilith.cluster.rehearsal_power", str(root), address, str(port)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_S
    while not (place / "serves").exists() or (place / "serves").read_text() != str(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (place / "log").read_text(errors="replace").strip()[-300:]
            raise Problem(f"The rehearsal's power switches do not start: {said}")
        time.sleep(0.05)


def stop(root: Path) -> None:
    """Missing is fine."""
    lock = directory(root) / "lock"
    if not lock.exists():
        return
    with locked(lock) as free:
        if free:
            return
    os.kill(int(lock.read_text()), signal.SIGTERM)
    with locked(lock, wait_s=END_S) as free:
        if not free:
            raise Problem(f"The rehearsal's power switches (process {lock.read_text().strip()}) do not end.")


def serve(root: Path, address: str, port: int) -> None:
    """The process; until it is told to end."""
    from trilith.cluster.rehearse import Rehearsal

    place = directory(root)
    with locked(place / "lock") as mine:
        if not mine:
            return
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(place / "switch.crt", place / "switch.key")
        password = (place / "password").read_text().strip()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with Service((address, port), tls, password, lambda: {h.name: h for h in Rehearsal(root).hosts}) as service:
            write_file(place / "serves", str(os.getpid()).encode())
            service.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
