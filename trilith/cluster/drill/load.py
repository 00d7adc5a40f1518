"""Users at work: threads that make, attach, detach and delete without pause, and write down what they were promised.

A request whose fate is unknown (a broken connection, a 5xx) is tried again, after looking for what it may have made.
"""

import http.client
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trilith.cluster.audit import STEADY
from trilith.cluster.drill.api import Answer, Api
from trilith.cluster.state import Problem

Doc = dict[str, Any]
COMPUTE, VOLUME, NETWORK = "/compute/v2.1", "/volume/v3", "/networking/v2.0"
AT = "compute 2.90,volume 3.70"
PATIENCE_S = 180.0
IMAGES = 0.3  # of all lives are those of images
IMAGE_BYTES = 300_000
PATHS = {
    "server": f"{COMPUTE}/servers",
    "volume": f"{VOLUME}/volumes",
    "port": f"{NETWORK}/ports",
    "network": f"{NETWORK}/networks",
    "subnet": f"{NETWORK}/subnets",
    "image": "/image/v2/images",
    "snapshot": f"{VOLUME}/snapshots",
}


class Broken(Problem):
    """A promise was broken, or a refusal that nobody expected."""


@dataclass
class Promises:
    """What was acknowledged: id -> kind."""

    made: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)  # server id -> the start that it ran with
    requests: int = 0
    retries: int = 0
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Things:
    """What a user needs: a token, and the ids of what servers are made of."""

    token: str
    network: str
    image: str
    flavor: str


class User(threading.Thread):
    """Lives one life after the other until `ended`, with `rest_s` before each request. `starts` tells for each server
    that runs which start of it that is; None: nobody looks."""

    def __init__(
        self,
        number: int,
        api: Api,
        promises: Promises,
        ended: threading.Event,
        things: Things,
        starts: Callable[[], dict[str, str]] | None = None,
        rest_s: float = 0.0,
    ) -> None:
        super().__init__(name=f"user-{number}", daemon=True)
        self.api, self.promises, self.ended, self.things = api, promises, ended, things
        self.starts, self.rest_s = starts, rest_s
        self.token = things.token
        self.random = random.Random(number)
        self.images, self.image_bytes, self.detaches = IMAGES, IMAGE_BYTES, True
        self.machines = True  # whether he makes any
        self.repeated = False  # the last request took more than one try

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                if self.random.random() < self.images:
                    self.upload()
                elif not self.machines:
                    self.keep()
                else:
                    self.live()
            except Broken as error:
                self.promises.broken.append(f"{self.name}: {error}")
                return

    # one life
    def live(self) -> None:
        """A server with a port, and a volume that it has for a while; then most of it goes, in any order."""
        port = self.create("port", {"network_id": self.things.network})
        volume = self.create("volume", {"size": 1})
        nics = [{"port": port}] if self.random.random() < 0.7 else [{"uuid": self.things.network}]
        flavor, image = self.things.flavor, self.things.image
        server = self.create("server", {"flavorRef": flavor, "imageRef": image, "networks": nics})
        if self.random.random() < 0.8:
            self.wait("server", server, "ACTIVE")
            self.wait("volume", volume, "available")
            self.note_start(server)
            if self.random.random() < 0.2:
                self.copy(server, volume)
            self.attach(server, volume)
            if self.detaches and self.random.random() < 0.5:
                self.wait("volume", volume, "in-use")
                self.detach(server, volume)
                self.wait("volume", volume, "available")
            self.still_runs(server)
        if self.random.random() < 0.1 and not self.ended.is_set():
            self.promises.starts.pop(server, None)
        self.delete("server", server)
        self.gone("server", server)
        for kind, key in self.random.sample([("volume", volume), ("port", port)], 2):
            if kind == "volume":
                self.wait("volume", volume, "available")
            if kind == "port" and nics[0].get("port") != port:
                self.delete(kind, key)
            elif kind == "volume" or self.random.random() < 0.9:
                self.delete(kind, key, absent_ok=True)

    def keep(self) -> None:
        """A life without a server, whose boot would take the processors of those that are looked at."""
        port = self.create("port", {"network_id": self.things.network})
        volume = self.create("volume", {"size": 1})
        self.wait("volume", volume, "available")
        snapshot = self.create("snapshot", {"volume_id": volume})
        self.wait("snapshot", snapshot, "available")
        self.delete("snapshot", snapshot)
        self.gone("snapshot", snapshot)
        self.delete("volume", volume)
        if self.random.random() < 0.9:
            self.delete("port", port)

    def copy(self, server: str, volume: str) -> None:
        """An image of the server and a snapshot of the volume, which go again."""
        snapshot = self.create("snapshot", {"volume_id": volume})
        name = f"image-{uuid.uuid4()}"
        images: list[str] = []

        def there() -> bool:
            rows = self.ask("GET", f"{PATHS['image']}?name={name}").json["images"]
            images.extend(row["id"] for row in rows)
            return bool(rows)

        path = f"{PATHS['server']}/{server}/action"
        answer = self.ask("POST", path, {"createImage": {"name": name}}, there)
        if answer.status not in (200, 202):
            raise Broken(f"copying server {server}: {answer.status} {answer.content[:300]!r}")
        image = images[0] if images else str(answer.json["image_id"])
        self.promises.made[image] = "image"
        self.wait("image", image, "active")
        self.delete("image", image)
        self.idle(server)  # before that, nothing else can be asked of it
        self.wait("snapshot", snapshot, "available")
        self.delete("snapshot", snapshot)
        self.gone("snapshot", snapshot)

    def upload(self) -> None:
        """An image with its bytes. Where the upload broke off, it may be deleted at once or sent again later."""
        image = self.create("image", {"disk_format": "raw", "container_format": "bare"})
        for _ in range(2):
            sent = self.ask("PUT", f"{PATHS['image']}/{image}/file", data=bytes(self.image_bytes))
            if sent.status not in (204, 409) or (sent.status == 409 and not self.repeated):
                raise Broken(f"sending image {image}: {sent.status} {sent.content[:300]!r}")
            if self.status("image", image) == "active" or self.random.random() < 0.7:
                break
            self._until("image", image, lambda status: status in ("queued", "active"), "free again")
        if self.status("image", image) == "active":
            got = self.ask("GET", f"{PATHS['image']}/{image}/file")
            if got.status != 200 or len(got.content) != self.image_bytes:
                raise Broken(f"image {image}: {got.status}, {len(got.content)} bytes: {got.content[:200]!r}")
        if self.random.random() < 0.7 or self.status("image", image) != "active":
            self.delete("image", image)

    def stay(self) -> None:
        """One more life, of which everything stays."""
        volume = self.create("volume", {"size": 1})
        nics = [{"uuid": self.things.network}]
        flavor, image = self.things.flavor, self.things.image
        server = self.create("server", {"flavorRef": flavor, "imageRef": image, "networks": nics})
        self.wait("server", server, "ACTIVE")
        self.wait("volume", volume, "available")
        self.note_start(server)
        self.attach(server, volume)
        self.wait("volume", volume, "in-use")

    def note_start(self, server: str) -> None:
        if self.starts is not None:
            self.promises.starts[server] = self.starts().get(server, "")

    def still_runs(self, server: str) -> None:
        if self.starts is None:
            return
        before, after = self.promises.starts[server], self.starts().get(server)
        if before != after:
            raise Broken(f"server {server} was started again: {before} became {after}")

    # requests
    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        again: Callable[[], bool] = lambda: False,
        data: bytes | None = None,
    ) -> Answer:
        """Until there is an answer that is no 5xx. `again` is asked before each repeat: true ends it as a success."""
        deadline = time.monotonic() + PATIENCE_S
        what, self.repeated = "", False
        octets = {"Content-Type": "application/octet-stream"} if data is not None else None
        while time.monotonic() < deadline:
            self.promises.requests += 1
            time.sleep(self.rest_s)
            try:
                answer = self.api.call(method, path, self.token, body, AT, octets, data)
            except (OSError, http.client.HTTPException) as error:
                what = repr(error)
            else:
                if answer.status < 500:
                    return answer
                what = f"{answer.status} {answer.content[:200]!r}"
                if answer.status not in (502, 503, 504):
                    self.promises.broken.append(f"{method} {path}: {what}")
            self.promises.retries += 1
            self.repeated = True
            time.sleep(0.1)
            if again():
                return Answer(200, {}, b"{}")
        raise Broken(f"{method} {path}: no answer within {PATIENCE_S} s: {what}")

    def create(self, kind: str, content: Doc) -> str:
        """Its id. The name is unique: a repeat finds what an earlier try has made."""
        name, found = f"{kind}-{uuid.uuid4()}", ""

        def there() -> bool:
            nonlocal found
            answer = self.ask("GET", f"{PATHS[kind]}?name={name}")
            rows = answer.json[f"{kind}s"]
            if len(rows) > 1:
                raise Broken(f"{kind} {name} was made {len(rows)} times")
            found = rows[0]["id"] if rows else ""
            return bool(rows)

        body = {"name": name, **content}
        answer = self.ask("POST", PATHS[kind], body if kind == "image" else {kind: body}, there)
        if answer.status not in (200, 201, 202):
            raise Broken(f"creating {kind} {content}: {answer.status} {answer.content[:300]!r}")
        found = found or (answer.json if kind == "image" else answer.json[kind])["id"]
        self.promises.made[found] = kind
        return found

    def delete(self, kind: str, key: str, absent_ok: bool = False) -> None:
        answer = self.ask("DELETE", f"{PATHS[kind]}/{key}")
        # An earlier try was heard though its answer was lost: the thing is gone, or on its way.
        heard = self.repeated and (
            answer.status == 404 or (answer.status == 400 and b"it is deleting" in answer.content)
        )
        if answer.status not in (202, 204) and not heard and not (answer.status == 404 and absent_ok):
            raise Broken(f"deleting {kind} {key}: {answer.status} {answer.content[:300]!r}")
        self.promises.made.pop(key, None)
        self.promises.deleted[key] = kind
        self.promises.starts.pop(key, None)

    def attach(self, server: str, volume: str) -> None:
        path = f"{COMPUTE}/servers/{server}/os-volume_attachments"
        answer = self.ask("POST", path, {"volumeAttachment": {"volumeId": volume}})
        done_before = self.repeated and b"already attached" in answer.content
        if answer.status not in (200, 202) and not done_before:
            raise Broken(f"attaching {volume} to {server}: {answer.status} {answer.content[:300]!r}")

    def detach(self, server: str, volume: str) -> None:
        answer = self.ask("DELETE", f"{COMPUTE}/servers/{server}/os-volume_attachments/{volume}")
        done_before = self.repeated and (answer.status == 404 or b"being detached already" in answer.content)
        if answer.status != 202 and not done_before:
            raise Broken(f"detaching {volume} from {server}: {answer.status} {answer.content[:300]!r}")

    def status(self, kind: str, key: str) -> str | None:
        answer = self.ask("GET", f"{PATHS[kind]}/{key}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Broken(f"showing {kind} {key}: {answer.status} {answer.content[:300]!r}")
        return str((answer.json if kind == "image" else answer.json[kind])["status"])

    def idle(self, server: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while task := self.ask("GET", f"{PATHS['server']}/{server}").json["server"]["OS-EXT-STS:task_state"]:
            if time.monotonic() > deadline:
                raise Broken(f"server {server} stays in {task}")
            time.sleep(0.1)

    def wait(self, kind: str, key: str, wanted: str) -> None:
        self._until(kind, key, lambda status: status == wanted, wanted)

    def gone(self, kind: str, key: str) -> None:
        self._until(kind, key, lambda status: status is None, "gone")

    def _until(self, kind: str, key: str, holds: Callable[[str | None], bool], wanted: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds(status := self.status(kind, key)):
            if str(status).lower().startswith("error") or time.monotonic() > deadline:
                raise Broken(f"{kind} {key} is {status}, not {wanted}")
            time.sleep(0.1)


def broken_promises(user: User, starts: dict[str, str]) -> list[str]:
    """Through the API: what was made is there, what was deleted is not, what ran runs on. Sentences of what is not."""
    promises, found = user.promises, list(user.promises.broken)
    for key, kind in promises.made.items():
        status = user.status(kind, key)
        if status not in STEADY[kind]:
            found.append(f"{kind} {key} was made, and is {status or 'lost'}")
    for key, kind in promises.deleted.items():
        if (status := user.status(kind, key)) is not None:
            found.append(f"{kind} {key} was deleted, and is {status}")
    for server, start in promises.starts.items():
        if starts.get(server) != start:
            found.append(f"server {server} was started again: {start} became {starts.get(server)}")
    return found


def take_away(user: User) -> None:
    """Everything that the promises say is there. Raises `Broken` where something does not go."""
    made = user.promises.made
    for wanted in ("server", "snapshot", "volume", "port", "image"):
        keys = [key for key, kind in made.items() if kind == wanted]
        for key in keys:
            if wanted == "volume":
                user.wait("volume", key, "available")
            user.delete(wanted, key, absent_ok=True)
        for key in keys if wanted in ("server", "snapshot") else ():
            user.gone(wanted, key)


def prepare(api: Api, token: str) -> Things:
    """A network with a subnet, the smallest flavor, an image."""
    user = User(0, api, Promises(), threading.Event(), Things(token, "", "", ""))
    network = user.create("network", {})
    user.create("subnet", {"network_id": network, "ip_version": 4, "cidr": "10.7.0.0/16"})
    images = user.ask("GET", "/image/v2/images?status=active&sort=created_at:asc").json["images"]
    flavors = user.ask("GET", f"{COMPUTE}/flavors/detail").json["flavors"]
    if not images or not flavors:
        raise Broken("there is no active image or no flavor to make servers of")
    return Things(token, network, images[0]["id"], min(flavors, key=lambda flavor: flavor["ram"])["id"])
