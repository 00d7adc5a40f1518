"""The bytes of images on several controllers: what is received here is on a second controller too before it counts,
and what is not here is read from another.

A peer that goes away in the middle is left behind, and the whole is sent to another afterwards. Without any other
controller nothing is taken: `Unavailable`.
"""

import contextlib
import http.client
import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from trilith.cluster.state import Settings, State
from trilith.drivers.image_files import CHUNK_BYTES, ImageFiles, Stored
from trilith.kernel.errors import Unavailable
from trilith.kernel.tls import connect

log = logging.getLogger(__name__)

CONNECT_S = 2.0
STREAM_S = 10.0  # that a peer may take no bytes
SYNC_S = 60.0  # that a peer may take to make them durable


@dataclass(frozen=True)
class Peer:
    """Another controller's API."""

    url: str
    credential: str
    ca_file: Path | None = None

    def open(self, method: str, path: str, *headers: tuple[str, str]) -> http.client.HTTPConnection:
        """A request's head, sent. OSError where there is nobody."""
        connection = connect(self.url, CONNECT_S, self.ca_file)
        connection.sock.settimeout(STREAM_S)
        connection.putrequest(method, f"/agent/v1/copies/{path}")
        for name, value in (("Authorization", f"Bearer {self.credential}"), *headers):
            connection.putheader(name, value)
        connection.endheaders()
        return connection


class Sending:
    """Bytes on their way to one peer, as they come. It never fails who gives them."""

    def __init__(self, peer: Peer, image_id: str, place: str) -> None:
        self.peer = peer
        self._connection: http.client.HTTPConnection | None = None
        with self._leaving_behind():
            media = ("Content-Type", "application/octet-stream")
            self._connection = peer.open("PUT", f"{image_id}/{place}", media, ("Transfer-Encoding", "chunked"))

    @property
    def alive(self) -> bool:
        return self._connection is not None

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, each sent before it is given."""
        for chunk in chunks:
            if chunk and self._connection is not None:
                with self._leaving_behind():
                    self._connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            yield chunk

    def finish(self) -> str | None:
        """The SHA-512 of what the peer has made durable; None where it has not."""
        found = None
        if self._connection is not None:
            with self._leaving_behind():
                self._connection.send(b"0\r\n\r\n")
                self._connection.sock.settimeout(SYNC_S)
                reply = self._connection.getresponse()
                content = reply.read()
                found = json.loads(content)["sha512"] if reply.status == 200 else None
                if found is None:
                    log.warning("no copy on %s: %s %s", self.peer.url, reply.status, content[:300])
        self.close()
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _leaving_behind(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.warning("no copy on %s: %s", self.peer.url, error)
            self.close()


class SharedImages:
    """`ImageFiles` for several controllers: `own` is this one's, `peers` are the others."""

    def __init__(self, own: ImageFiles, peers: list[Peer]) -> None:
        self.own, self.peers = own, peers

    def receive(
        self,
        image_id: str,
        chunks: Iterable[bytes],
        disk_format: str,
        max_bytes: int,
        expected_size_bytes: int | None = None,
        container_format: str = "bare",
    ) -> Stored:
        """As `ImageFiles.receive`; when it returns, a second controller has the bytes in their place."""
        return self._twice(
            image_id,
            "data",
            chunks,
            lambda passed: self.own.receive(
                image_id, passed, disk_format, max_bytes, expected_size_bytes, container_format
            ),
        )

    def stage(
        self, image_id: str, chunks: Iterable[bytes], max_bytes: int, expected_size_bytes: int | None = None
    ) -> Stored:
        stored = self._twice(
            image_id,
            "staging",
            chunks,
            lambda passed: self.own.keep(image_id, passed, max_bytes, expected_size_bytes),
        )
        self.own.publish(stored, "staging")
        return stored

    def publish(self, stored: Stored) -> None:
        self.own.publish(stored)

    def discard(self, stored: Stored) -> None:
        self.own.discard(stored)

    def open(self, image_id: str, sha512: str, place: str = "data") -> BinaryIO:
        """From this controller's disk, else from another. `Unavailable` when nobody has it now."""
        if self.own.size_bytes(image_id, sha512, place) is not None:
            return self.own.open(image_id, sha512, place)
        for peer in self._some_order():
            try:
                connection = peer.open("GET", f"{image_id}/{place}/{sha512}")
                reply = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                log.warning("%s cannot be asked for image %s: %s", peer.url, image_id, error)
                continue
            if reply.status == 200:
                return cast(BinaryIO, reply)
            connection.close()
        raise Unavailable(f"No controller that is up has the bytes of image {image_id}.")

    def fetch(self, image_id: str, sha512: str, max_bytes: int) -> None:
        """Bring the bytes here. `Unavailable` when nobody has them, or they arrive damaged."""
        try:
            with self.open(image_id, sha512) as file:
                stored = self.own.keep(image_id, iter(lambda: file.read(CHUNK_BYTES), b""), max_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"The copy of image {image_id} broke off: {error}") from error
        if stored.os_hash_value != sha512:
            self.own.discard(stored)
            raise Unavailable(f"The copy of image {image_id} arrived damaged.")
        self.own.publish(stored)

    def _twice(
        self, image_id: str, place: str, chunks: Iterable[bytes], receive: Callable[[Iterator[bytes]], Stored]
    ) -> Stored:
        sending = self._begin(image_id, place)
        try:
            stored = receive(sending.passing(chunks))
            if sending.finish() != stored.os_hash_value:
                self._send_again(stored, place, sending.peer)
        finally:
            sending.close()
        return stored

    def _begin(self, image_id: str, place: str) -> Sending:
        """To the first peer that answers: who finds nobody says so before the client has sent everything."""
        for peer in self._some_order():
            sending = Sending(peer, image_id, place)
            if sending.alive:
                return sending
        raise Unavailable("No other controller can keep a copy now; try again in a moment.")

    def _send_again(self, stored: Stored, place: str, last: Peer) -> None:
        """The whole, to another peer than `last`, and to that if there is no other."""
        for peer in sorted(self._some_order(), key=lambda peer: peer == last):
            sending = Sending(peer, stored.image_id, place)
            with open(stored.part, "rb") as file:
                for _ in sending.passing(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    if not sending.alive:
                        break
            if sending.finish() == stored.os_hash_value:
                return
        self.own.discard(stored)
        raise Unavailable("No other controller can keep a copy now; try again in a moment.")

    def _some_order(self) -> list[Peer]:
        return random.sample(self.peers, len(self.peers))


def image_files(state: State, settings: Settings) -> ImageFiles | SharedImages:
    """The store of this controller: alone, or with the others of the cluster file."""
    own = ImageFiles(state.images)
    if not settings.clustered or len(settings.controllers) < 2:
        return own
    others = [host for host in settings.controllers if host.name != settings.host]
    credential, ca_file = state.secret("controller"), state.ca_file(settings)
    return SharedImages(own, [Peer(settings.url_of(host), credential, ca_file) for host in others])
