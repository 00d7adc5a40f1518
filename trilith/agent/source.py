"""The agent's side of the API: what this host shall have, what it has, and the bytes of images.

Everything raises `Unavailable` while the API is away, so that whoever asked tries again; `Refused` where the API says
that it will never give what was asked.
"""

import contextlib
import http.client
import json
import logging
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Doc
from trilith.kernel.tls import connect

log = logging.getLogger(__name__)

TIMEOUT_S = 20.0
HEARTBEAT_S = 4.0  # who has been heard by a controller that stands still asks another before the lease has run out
ASKED_AFTER_S, ASKED_EACH_S = 2, 1  # silent connections: who has the API's address now says that he does not know them
STORED_S = 600.0  # the API may take so long to judge an image and to bring it to disk, after its last byte
CHUNK_BYTES = 1024 * 1024


class HttpSource:
    """A `kernel.reconcile.Source` over HTTP. One kept connection for each thread that uses it.

    `epoch` is this agent's fence: it comes with each heartbeat's answer and goes with each report. `on_wants` is given
    all wants whenever they were fetched. `ca_file` is what an ``https`` URL is verified against.
    """

    def __init__(
        self,
        url: str,
        host: str,
        credential: str,
        on_wants: Callable[[dict[str, list[Doc]]], None] = lambda wants: None,
        ca_file: Path | None = None,
    ) -> None:
        self._url, self._ca_file = url, ca_file
        self._address = urllib.parse.urlsplit(url)
        self._host_path = f"/agent/v1/hosts/{urllib.parse.quote(host)}"
        self._headers = {"Authorization": f"Bearer {credential}"}
        self._on_wants = on_wants
        self._kept = threading.local()
        self._lock = threading.Lock()
        self._wants: dict[str, list[Doc]] = {}
        self._served: set[str] | None = None
        self.epoch = 0
        self.begun = threading.Event()
        "Set with the first heartbeat that was taken: no report counts before it."

    # --- the reconcilers' source

    def wants(self, kind: str) -> dict[str, Doc]:
        """Documents by id. All kinds are fetched at once: a kind that is asked for a second time begins a new round."""
        with self._lock:
            if self._served is None or kind in self._served:
                self._served = None
                self._wants = self._json("GET", f"{self._host_path}/wants")
                self._served = set()
                self._on_wants(self._wants)
            self._served.add(kind)
            return {doc["id"]: doc for doc in self._wants.get(kind, [])}

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        document = {
            "epoch": self.epoch,
            "kind": kind,
            "id": key,
            "generation": generation,
            "seen": seen,
            "fault": fault,
        }
        self._json("POST", f"{self._host_path}/reports", document)

    def heartbeat(self, boot_id: str, inventory: Doc, versions: Doc) -> float:
        """Say that this host lives; returns for how many seconds that counts."""
        document = {"boot_id": boot_id, "inventory": inventory, "versions": versions, "epoch": self.epoch}
        answer = self._json("POST", f"{self._host_path}/heartbeat", document, HEARTBEAT_S)
        self.epoch = answer["epoch"]
        self.begun.set()
        return float(answer["lease_s"])

    # --- bytes of images

    def fetch_image(self, image_id: str, target: Path) -> str | None:
        """Write the image's bytes to `target`, whole when this returns; returns the SHA-512 that the API announces."""
        with self._fresh() as connection, open(target, "wb") as file:
            response = self._exchange(connection, "GET", _image_path(image_id), None, {})
            _check(response, response.status, b"" if response.status == 200 else response.read(2000))
            left = int(response.headers.get("Content-Length", -1))
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                left -= len(chunk)
            if left > 0:
                raise Unavailable(f"image {image_id}: the transfer broke off")
            announced: str | None = response.headers.get("X-Trilith-Sha512") or None
            return announced

    def send_image(self, image_id: str, path: Path) -> None:
        """Upload a file as the image's bytes."""
        with self._fresh() as connection, open(path, "rb") as file:
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
            response = self._exchange(connection, "PUT", _image_path(image_id), file, headers, STORED_S)
            _check(response, response.status, response.read(2000))

    # --- the wire

    def _json(self, method: str, path: str, document: Doc | None = None, timeout_s: float = TIMEOUT_S) -> Any:
        """`timeout_s` counts from when this thread connects; its connection is kept."""
        body = None if document is None else json.dumps(document).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        while True:
            kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
            connection = kept or self._connect(timeout_s)
            try:
                response = self._exchange(connection, method, path, body, headers)
                content = response.read()
                break
            except (Unavailable, OSError, http.client.HTTPException) as error:
                connection.close()
                self._kept.connection = None
                if kept is None:  # a kept connection may have been closed by the other side since; a new one was not
                    raise Unavailable(f"the API is away: {error}") from error
        self._kept.connection = connection
        try:
            _check(response, response.status, content)
        except Refused as refused:
            raise Unavailable(str(refused)) from refused
        return json.loads(content) if content else {}

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
        answer_s: float = 0.0,
    ) -> http.client.HTTPResponse:
        """`answer_s`: how long the answer may take, where that is longer than usual."""
        try:
            try:
                connection.request(method, self._address.path + path, body, {**self._headers, **headers})
            except OSError:
                if connection.sock is None:
                    raise
                # who refuses a body hangs up without reading all of it: the refusal is there to be read
            if answer_s:
                _be_patient(connection.sock, answer_s)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the API is away: {error}") from error

    def _connect(self, timeout_s: float = TIMEOUT_S) -> http.client.HTTPConnection:
        try:
            connection = connect(self._url, timeout_s, self._ca_file)
        except OSError as error:
            raise Unavailable(f"the API is away: {error}") from error
        _keep_asking(connection.sock, ASKED_AFTER_S, ASKED_EACH_S)
        return connection

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[http.client.HTTPConnection]:
        """A connection for one long transfer."""
        connection = self._connect()
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the transfer broke off: {error}") from error
        finally:
            connection.close()


def _be_patient(connection: socket.socket, answer_s: float) -> None:
    """Silence may last so long, unless the other machine is gone: the kernel asks it each 5 s, for a minute."""
    connection.settimeout(answer_s)
    _keep_asking(connection, 5, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)


def _keep_asking(connection: socket.socket, after_s: int, each_s: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, after_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, each_s)


def _image_path(image_id: str) -> str:
    return f"/agent/v1/images/{urllib.parse.quote(image_id)}/data"


def _check(response: http.client.HTTPResponse, status: int, content: bytes) -> None:
    if status < 300:
        return
    words = f"the API answered {status} {response.reason}: {content[:300].decode(errors='replace').strip()}"
    raise Unavailable(words) if status >= 500 or status in (401, 408, 409, 429) else Refused(words)
