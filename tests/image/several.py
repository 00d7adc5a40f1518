"""Several controllers' APIs as processes: one database, a directory of images each, TLS between them.

python -m tests.image.several ROOT NAME     runs one of them until it is killed
"""

import http.client
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests import client as fake_tokens
from tests.client import MEMBER, Answer
from trilith.cluster.certificates import keep_certificate, make_ca
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.image_store import ImageBytes, kinds
from trilith.cluster.shared_images import SharedImages, image_files
from trilith.cluster.sql_source import SqlSource
from trilith.cluster.state import Settings, State, write_file
from trilith.drivers.image_files import ImageFiles
from trilith.identity import tokens
from trilith.identity.credentials import register
from trilith.kernel.http import App
from trilith.kernel.policy import Principal
from trilith.kernel.reconcile import converge, gone
from trilith.kernel.store import Store, Tx
from trilith.kernel.tls import client_context

ROOT = Path(__file__).parents[2]
ADDRESSES = {"c1": "127.0.0.2", "c2": "127.0.0.3", "c3": "127.0.0.4"}
OCTETS = "application/octet-stream"


def settings_of(name: str, port: int) -> Settings:
    hosts = [Host(name=host, address=address) for host, address in ADDRESSES.items()]
    return Settings(cloud_id="c", host=name, cluster=ClusterFile(hosts=hosts), listen=ADDRESSES[name], port=port)


def authenticate(tx: Tx, headers: Mapping[str, str]) -> Principal:
    """Processes by their credentials, people by what they say."""
    return tokens.authenticate(tx, headers) if "authorization" in headers else fake_tokens.authenticate(tx, headers)


def images_of(root: Path, name: str) -> SharedImages:
    state = State(root / name)
    found = image_files(state, state.settings())
    assert isinstance(found, SharedImages)
    return found


def serve(root: Path, name: str) -> None:
    from granian.constants import Interfaces, SSLProtocols
    from granian.log import LogLevels
    from granian.server import Server

    from trilith.cluster import services  # noqa: F401 - declares everything

    state = State(root / name)
    settings = state.settings()

    def load() -> App:
        images = images_of(root, name)
        given = {"image_files": images, "own_image_files": images.own}
        return App(Store(f"sqlite:///{root}/db.sqlite"), authenticate, given)

    Server(
        "app", address=settings.listen, port=settings.port, interface=Interfaces.WSGI, blocking_threads=4,
        log_level=LogLevels.error, ssl_cert=state.tls / "host.crt", ssl_key=state.tls / "host.key",
        ssl_protocol_min=SSLProtocols.tls12,
    ).serve(target_loader=load, wrap_loader=False)  # fmt: skip


class Controllers:
    """Three, of which `start` runs some."""

    def __init__(self, root: Path, port: int) -> None:
        from trilith.cluster import services  # noqa: F401 - their tables

        self.root, self.port = root, port
        self.store = Store(f"sqlite:///{root}/db.sqlite")
        self.store.create()
        self.store.run(lambda tx: register(tx, {"controller": "secret"}))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ca = make_ca(root / "ca")
        for name, address in ADDRESSES.items():
            state = State(root / name)
            state.make_directories()
            state.write_settings(settings_of(name, port))
            keep_certificate(ca, state.tls, "host", [name, address])
            for path, content in ((state.tls / "ca.crt", ca.pem), (state.secrets / "controller", b"secret")):
                write_file(path, content)

    def start(self, *names: str) -> None:
        for name in names:
            argv = [sys.executable, "-m", "tests.image.several", str(self.root), name]
            self.processes[name] = subprocess.Popen(argv, cwd=ROOT, start_new_session=True)
        deadline = time.monotonic() + 20
        for name in names:
            while not self._answers(name):
                assert time.monotonic() < deadline, f"{name} does not start"
                time.sleep(0.05)

    def power_off(self, name: str) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.power_off(name)
        self.store.close()

    def _answers(self, name: str) -> bool:
        try:
            return self.ask(name, "GET", "/image").status == 300
        except OSError:
            return False

    # what clients do
    def ask(
        self, name: str, method: str, path: str, body: Any = None, data: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        connection = http.client.HTTPSConnection(
            ADDRESSES[name], self.port, timeout=30, context=client_context(self.root / "ca" / "ca.crt")
        )
        sent = {"X-Auth-Token": MEMBER, **(headers or {})}
        try:
            if data is not None:
                sent["Content-Type"] = OCTETS
                connection.request(method, path, data, sent, encode_chunked=True)
            else:
                content = msgspec.json.encode(body) if body is not None else None
                connection.request(method, path, content, sent | {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        except (http.client.HTTPException, ssl.SSLError) as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    # what each controller does
    def round(self, name: str) -> None:
        """One round of its reconciler over all images, and all copies without an image."""
        images = images_of(self.root, name)
        reconciler = ImageBytes(self.store, images, name)
        wants = SqlSource(self.store, kinds()).wants("image")
        for key in reconciler.known() - wants.keys():
            wants[key] = gone(key)
        for key, want in wants.items():
            converge(reconciler, key, want)

    def files(self, name: str) -> ImageFiles:
        return images_of(self.root, name).own

    def who_has(self, image_id: str, place: str = "data") -> set[str]:
        return {name for name in ADDRESSES if self.files(name).names(image_id, place)}


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
