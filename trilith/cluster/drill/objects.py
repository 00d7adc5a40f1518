"""Users who write objects, and whether what was acknowledged is there in the end.

Each has a container of its own: new objects, others over them, some deleted again. What a request did whose answer was
lost, nobody knows: it is sent again until it is answered, and that name is then left alone, because the lost one may
still come. In the end every acknowledged object is read back, and the container's list and counts must be exact.
"""

import hashlib
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trilith.cluster.drill.api import Answer, Api
from trilith.cluster.drill.load import Broken, Promises, Things, User

Doc = dict[str, Any]
TYPE = "object-store"
SIZES_BYTES = (0, 100, 4096, 4096, 4096, 70_000, 300_000)
NEW, OVER, GONE = 0.7, 0.1, 0.1  # of all acts; the rest reads
PAGE = 1000
MOST_NAMED = 5  # in one sentence


@dataclass(frozen=True)
class Place:
    """Where a project's objects are: the address of the store, which may have a port of its own, and the account's
    path."""

    api: Api
    path: str


@dataclass(frozen=True)
class Stored:
    etag: str
    size_bytes: int


def place_in(catalog: list[Doc], api: Api) -> Place | None:
    """Of a token's catalogue; None where the cloud offers no object store."""
    for service in catalog:
        for endpoint in service["endpoints"] if service["type"] == TYPE else ():
            if endpoint["interface"] == "public":
                parts = urlsplit(endpoint["url"])
                return Place(api.at(f"{parts.scheme}://{parts.netloc}"), parts.path)
    return None


class ObjectWriter(User):
    """`begin` before `start`. `there`: what must be there; `deleted`: what must not; `unsure`: names of which nobody
    knows, because a request about them was never answered. `puts`: acknowledged ones; `waited_s`: the longest until a
    request was answered, with all its tries."""

    def __init__(
        self, number: int, place: Place, promises: Promises, ended: threading.Event, things: Things, rest_s: float = 0.0
    ) -> None:
        super().__init__(number, place.api, promises, ended, things, rest_s=rest_s)
        self.name = f"writer-{number}"
        self.path = f"{place.path}/drill-{uuid.uuid4()}"
        self.there: dict[str, Stored] = {}
        self.deleted: set[str] = set()
        self.unsure: set[str] = set()
        self.puts, self.waited_s = 0, 0.0
        self._free: list[str] = []  # names that may be written again: no request about them was sent twice
        self._count = 0

    def begin(self) -> None:
        """Makes the container."""
        answer = self.ask("PUT", self.path, data=b"")
        if answer.status not in (201, 202):
            raise Broken(f"making a container: {answer.status} {answer.content[:200]!r}")

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.act()
            except Broken as error:
                self.promises.broken.append(f"{self.name}: {error}")
                return

    def act(self) -> None:
        """One of the things that a user does with objects."""
        dice = self.random.random()
        if not self._free or dice < NEW:
            self._count += 1
            self.put(f"o{self._count:06}")
        elif dice < NEW + OVER:
            self.put(self._one())
        elif dice < NEW + OVER + GONE:
            self.delete_object(self._one())
        else:
            self._read(self.random.choice(self._free))

    def put(self, name: str) -> None:
        content = self.random.randbytes(self.random.choice(SIZES_BYTES))
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        answer = self._sent("PUT", name, content)
        told = answer.headers.get("etag")
        if (answer.status, told) != (201, etag):
            raise Broken(f"object {name} of ETag {etag}: answered {answer.status}, {told} {answer.content[:200]!r}")
        self.puts += 1
        self.there[name] = Stored(etag, len(content))
        self._settled(name, is_free=True)

    def delete_object(self, name: str) -> None:
        answer = self._sent("DELETE", name)
        if answer.status != 204 and not (answer.status == 404 and self.repeated):
            raise Broken(f"deleting object {name}: {answer.status} {answer.content[:200]!r}")
        self.there.pop(name, None)
        self.deleted.add(name)
        self._settled(name, is_free=False)

    def wrong(self) -> list[str]:
        """Sentences about what is not as it was acknowledged. Raises `Broken` where the store does not answer."""
        self.rest_s = 0.0
        listed, sure = self._listed(), self.there.keys() - self.unsure
        found = [
            _about("acknowledged, and not listed", sure - listed.keys()),
            _about("listed, and deleted or never written", listed.keys() - self.there.keys() - self.unsure),
            _about("listed as another", {key for key in sure & listed.keys() if listed[key] != self.there[key]}),
            _about("acknowledged, and not there as it was written", {key for key in sure if not self._is_there(key)}),
            _about("deleted, and there", {key for key in self.deleted - self.unsure if self._get(key).status != 404}),
            self._miscounted(listed),
        ]
        return [f"{self.name}: {words}" for words in found if words]

    def take_away(self) -> None:
        """The container and all that is in it."""
        self.rest_s = 0.0
        for name in [*self._listed(), *self.unsure]:
            self.ask("DELETE", f"{self.path}/{name}")
        answer = self.ask("DELETE", self.path)
        if answer.status not in (204, 404):
            raise Broken(f"deleting container {self.path}: {answer.status} {answer.content[:200]!r}")

    def _one(self) -> str:
        """A name to change; it comes back when that has been acknowledged at the first try."""
        return self._free.pop(self.random.randrange(len(self._free)))

    def _sent(self, method: str, name: str, data: bytes | None = None) -> Answer:
        self.unsure.add(name)
        begun_s = time.monotonic()
        answer = self.ask(method, f"{self.path}/{name}", data=data)
        self.waited_s = max(self.waited_s, time.monotonic() - begun_s)
        return answer

    def _settled(self, name: str, is_free: bool) -> None:
        self.unsure.discard(name)
        if is_free and not self.repeated:
            self._free.append(name)

    def _read(self, name: str) -> None:
        if not self._is_there(name):
            raise Broken(f"object {name} was acknowledged, and is not there as it was written")

    def _is_there(self, name: str) -> bool:
        """Its bytes and ETag are the acknowledged ones."""
        answer, stored = self._get(name), self.there[name]
        found = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        return (answer.status, answer.headers.get("etag"), found) == (200, stored.etag, stored.etag)

    def _get(self, name: str) -> Answer:
        return self.ask("GET", f"{self.path}/{name}")

    def _listed(self) -> dict[str, Stored]:
        """All pages of the container's list."""
        found: dict[str, Stored] = {}
        while True:
            marker = max(found, default="")
            answer = self.ask("GET", f"{self.path}?format=json&limit={PAGE}&marker={marker}")
            if answer.status != 200:
                raise Broken(f"listing {self.path}: {answer.status} {answer.content[:200]!r}")
            page = answer.json
            found |= {row["name"]: Stored(row["hash"], row["bytes"]) for row in page}
            if len(page) < PAGE:
                return found

    def _miscounted(self, listed: dict[str, Stored]) -> str:
        headers = self.ask("HEAD", self.path).headers
        counted = headers.get("x-container-object-count"), headers.get("x-container-bytes-used")
        really = str(len(listed)), str(sum(each.size_bytes for each in listed.values()))
        return "" if counted == really else f"the container counts {counted}, and {really} are listed"


def _about(what: str, names: set[str]) -> str:
    """A sentence of these; "" for none."""
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"objects {', '.join(sorted(names)[:MOST_NAMED])}{more} are {what}"
