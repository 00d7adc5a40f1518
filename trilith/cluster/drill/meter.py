"""The measuring client: so many requests a second from outside, whatever becomes of the ones before, and pings.

A process of its own, because nothing else may make it late; how late it was all the same, it says. Reads one JSON
object from stdin (`Target`) and ends when that closes; writes one JSON object a line for each request and ping:

    {"op", "at_s", "took_s", "tries": [[at_s, took_s, problem or null], ...], "problem", "lag_s"}

A request that fails is tried once more, `RETRY_S` later: `problem` is null when one of the two tries went well.
Times are seconds of this machine's monotonic clock, which all of its processes share. Wrong answers (4xx) are
failures too.
"""

import asyncio
import contextlib
import itertools
import json
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from trilith.cluster.drill import pings, streams
from trilith.cluster.drill.api import TOKENS, password_request

RETRY_S = 0.5
TIMEOUT_S = 10.0
PINGS = 20.0  # a second, of all addresses together: an emulated machine needs a millisecond or more for each answer
WORK_S = 60.0  # until a volume has become available
# What every 20 requests are; `password` costs the cloud a quarter of a second of work on purpose, so it is rare.
CYCLE = (
    *("token", "servers", "image", "create", "delete"),
    *("servers", "token", "bytes", "create", "delete"),
    *("image", "servers", "volumes", "create", "delete"),
    *("token", "servers", "ports", "work", "servers"),
)
PASSWORD_EACH = 80
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2dhRJZKUhtDwFkxJ1uhvbKWxBZF1Q2ZLDkfNxW0PmU drill"  # a public key of nobody
WELL = {200, 201, 202, 204}
Doc = dict[str, Any]
Try = Callable[[bool], Awaitable[str | None]]


@dataclass(frozen=True)
class Target:
    """What is measured, by `rate` requests a second. `addresses` are pinged; `streams` are addresses that get a TCP
    connection."""

    url: str
    ca: str | None
    user: str
    password: str
    project: str
    image: str
    rate: float
    addresses: list[str]
    streams: list[str] = field(default_factory=list)


class Meter:
    """Writes what happens by `write(document)`."""

    def __init__(self, target: Target, session: aiohttp.ClientSession, write: Callable[[Doc], None]) -> None:
        self.target, self.session, self.write = target, session, write
        self.token = ""
        self.keys: list[str] = []  # keypairs that were promised and not given back
        self.names = itertools.count()
        self.working = False

    async def run(self, ended: asyncio.Event) -> None:
        """Sends until `ended`, then waits for what is still on its way."""
        while problem := await self._well(self._password, False):
            if ended.is_set():
                raise aiohttp.ClientError(problem)
            await asyncio.sleep(RETRY_S)
        running: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        for number in itertools.count():
            due_s = begun + number / self.target.rate
            if (early_s := due_s - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), early_s)
            if ended.is_set():
                break
            op = "password" if number % PASSWORD_EACH == 0 else CYCLE[number % len(CYCLE)]
            task = asyncio.create_task(self._measure(op, time.monotonic() - due_s))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        self.write({"kept": self.keys})

    async def _measure(self, op: str, lag_s: float) -> None:
        if op == "work" and self.working:
            op = "volumes"
        makers: dict[str, Callable[[], Try]] = {"create": self._create, "delete": self._delete, "work": self._work}
        plain: dict[str, Try] = {"password": self._password, "token": self._token, "bytes": self._bytes}
        attempt = makers[op]() if op in makers else plain.get(op) or self._get(op)
        at_s, tries = time.monotonic(), []
        for again in (False, True):
            began_s = time.monotonic()
            problem = await self._well(attempt, again)
            tries.append([began_s, time.monotonic() - began_s, problem])
            if problem is None:
                break
            if not again:
                await asyncio.sleep(RETRY_S)
        took_s = time.monotonic() - at_s
        self.write({"op": op, "at_s": at_s, "took_s": took_s, "tries": tries, "problem": problem, "lag_s": lag_s})

    async def _well(self, attempt: Try, again: bool) -> str | None:
        try:
            return await attempt(again)
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
            return type(error).__name__ + (f": {error}"[:100] if str(error) else "")

    # the operations; each takes whether this is the second try, and returns what is wrong or None
    async def _call(self, method: str, path: str, body: Any = None, well: set[int] = WELL) -> tuple[int, bytes]:
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": "compute 2.90,volume 3.70"}
        async with self.session.request(method, self.target.url + path, json=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status not in well:
                raise aiohttp.ClientError(f"{method} {path.partition('?')[0]} answered {answer.status}")
            return answer.status, content

    def _get(self, op: str) -> Try:
        paths = {
            "servers": "/compute/v2.1/servers/detail",
            "volumes": "/volume/v3/volumes",
            "ports": "/networking/v2.0/ports",
            "image": f"/image/v2/images/{self.target.image}",
        }

        async def attempt(again: bool) -> str | None:
            await self._call("GET", paths[op])
            return None

        return attempt

    async def _bytes(self, again: bool) -> str | None:
        """The beginning of an image's bytes: a stream, closed early."""
        path = f"{self.target.url}/image/v2/images/{self.target.image}/file"
        async with self.session.get(path, headers={"X-Auth-Token": self.token}) as answer:
            if answer.status not in WELL:
                return f"GET image bytes answered {answer.status}"
            await answer.content.read(65536)
            return None

    async def _password(self, again: bool) -> str | None:
        target = self.target
        body = password_request(target.user, target.password, target.project)
        return await self._new_token(body)

    async def _token(self, again: bool) -> str | None:
        return await self._new_token({"auth": {"identity": {"methods": ["token"], "token": {"id": self.token}}}})

    async def _new_token(self, body: Doc) -> str | None:
        async with self.session.post(self.target.url + TOKENS, json=body) as answer:
            await answer.read()
            if answer.status != 201:
                return f"POST token answered {answer.status}"
            self.token = self.token or answer.headers["X-Subject-Token"]
            return None

    def _create(self) -> Try:
        """A keypair; a second try may find that the first had made it."""
        name = f"drill-{os.getpid()}-{next(self.names)}"
        path = "/compute/v2.1/os-keypairs"

        async def attempt(again: bool) -> str | None:
            body = {"keypair": {"name": name, "public_key": KEY}}
            await self._call("POST", path, body, WELL | ({409} if again else set()))
            self.keys.append(name)
            return None

        return attempt

    def _delete(self) -> Try:
        """The oldest keypair but a few, which stay until the end as promises to be kept."""
        name = self.keys.pop(0) if len(self.keys) > 5 else ""

        async def attempt(again: bool) -> str | None:
            if not name:
                return await self._get("servers")(again)
            await self._call("DELETE", f"/compute/v2.1/os-keypairs/{name}", None, WELL | ({404} if again else set()))
            return None

        return attempt

    def _work(self) -> Try:
        """A volume, from the request until a host has made it: what a lost hint would delay. One at a time."""
        name = f"drill-{os.getpid()}-{next(self.names)}"
        path = "/volume/v3/volumes"
        deleting: set[str] = set()

        async def attempt(again: bool) -> str | None:
            self.working = True
            try:
                _, listed = await self._call("GET", f"{path}?name={name}") if again else (200, b'{"volumes": []}')
                made = json.loads(listed)["volumes"]
                if not made and deleting:
                    return None  # the first try had come to its end, but for the answer
                if not made:
                    _, content = await self._call("POST", path, {"volume": {"name": name, "size": 1}})
                    made = [json.loads(content)["volume"]]
                return await self._until_available(f"{path}/{made[0]['id']}", deleting)
            finally:
                self.working = False

        return attempt

    async def _until_available(self, path: str, deleting: set[str]) -> str | None:
        """`deleting`: of those volumes it was asked that they go; this adds to them."""
        deadline = time.monotonic() + WORK_S
        while time.monotonic() < deadline:
            try:
                status, content = await self._call("GET", path, None, WELL | ({404} if path in deleting else set()))
            except (aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.sleep(0.2)
                continue
            if status == 404:
                return None
            state = json.loads(content)["volume"]["status"]
            if state == "available":
                deleting.add(path)
                await self._call("DELETE", path, None, WELL | {404})
                return None
            if state.startswith("error"):
                return f"a volume became {state}"
            await asyncio.sleep(0.1)
        return f"a volume was not available within {WORK_S:.0f} s"


async def measure(target: Target, ended: asyncio.Event, write: Callable[[Doc], None]) -> None:
    tls = ssl.create_default_context(cafile=target.ca) if target.url.startswith("https") else True
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        each_s = max(1.0, len(target.addresses)) / PINGS
        beside = [asyncio.create_task(pings.ping(address, each_s, write)) for address in target.addresses]
        beside += [asyncio.create_task(streams.stream(address, write)) for address in target.streams]
        try:
            await Meter(target, session, write).run(ended)
        finally:
            for task in beside:
                task.cancel()


async def _main() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    target = Target(**json.loads(sys.stdin.readline()))

    def rest_of_stdin() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    reader = loop.run_in_executor(None, rest_of_stdin)
    await measure(target, ended, lambda document: print(json.dumps(document), flush=True))
    await reader


if __name__ == "__main__":
    asyncio.run(_main())
