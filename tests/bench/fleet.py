"""Crowds: many clients that want servers, and the agents of all hosts, in as many processes as there are cores. Each
process has the application of an API worker; agents ask and report as real ones do, and pretend the machines.
"""

import logging
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench.meter import CORES
from tests.bench.region import AT, COMPUTE, INVENTORY, Region
from tests.client import Client
from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.identity import tokens
from trilith.kernel.http import App
from trilith.kernel.logs import start_log
from trilith.kernel.store import Store

Row = dict[str, Any]
LONGEST_S = 1200.0  # of one crowd
CLUSTER_KEY = "bench-cluster-key"  # of `region.make`


def secret_of(host: str) -> str:
    """The host's credential."""
    return f"bench-credential-of-{host}"


@dataclass
class Spent:
    """By all processes together."""

    count: int
    wall_s: float
    cpu_s: float


class Fleet:
    """A context, because its processes have to end."""

    def __init__(self, url: str, region: Region, directory: Path) -> None:
        """Logs go below `directory`."""
        self._server, self._member = region.server_body("storm"), region.member
        self._pool = multiprocessing.get_context("spawn").Pool(CORES, _begin, (url, str(directory)))

    def __enter__(self) -> "Fleet":
        self._pool.map(_ready, range(CORES), chunksize=1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.terminate()
        self._pool.join()

    def create(self, count: int) -> Spent:
        """So many servers, asked for by one client in each process; fewer when that takes longer than `LONGEST_S`."""
        return self._spend(_create, [(self._server, self._member)] * count)

    def settle(self, hosts: list[str]) -> Spent:
        """The hosts' agents hear what they shall have, and report new machines as running."""
        return self._spend(_settle, [(host,) for host in hosts])

    def resync(self, hosts: list[str]) -> Spent:
        """Every agent beats and asks for all that its host shall have, as it does when controllers come back."""
        return self._spend(_resync, [(host,) for host in hosts])

    def _spend(self, work: Any, arguments: list[tuple[Any, ...]]) -> Spent:
        """Each process takes the next of the arguments when it is done with one."""
        begun, spent = time.monotonic(), Spent(0, 0.0, 0.0)
        left, under_way = iter(arguments), [self._pool.apply_async(work, some) for some in arguments[: 2 * CORES]]
        for _ in under_way[:]:
            next(left)
        while under_way:  # twice as many as processes, so that none waits for us
            spent.cpu_s += under_way.pop(0).get()
            spent.count += 1
            if time.monotonic() - begun < LONGEST_S and (some := next(left, None)) is not None:
                under_way.append(self._pool.apply_async(work, some))
        spent.wall_s = time.monotonic() - begun
        return spent


# --- in the processes

_client: Client


def _begin(url: str, directory: str) -> None:
    global _client
    start_log(f"worker-{os.getpid()}", Path(directory), logging.INFO)
    tokens.use_keys(CLUSTER_KEY)
    _client = Client(App(Store(url), tokens.authenticate, {}))


def _ready(number: int) -> int:
    return _client.get("/identity/v3", None).status


def _create(body: Row, who: str) -> float:
    begun = time.process_time()
    answer = _client.post(f"{COMPUTE}/servers", body, who, at=AT)
    assert answer.status == 202, answer.content
    return time.process_time() - begun


def _settle(host: str) -> float:
    begun = time.process_time()
    wants = _asked("GET", host, "wants")["server"]
    for want in wants:
        if want["request_id"] is not None:  # it is not done yet
            seen = {name: want[name] for name in ("vcpus", "ram_mib", "boot_epoch", "soft_reboot_epoch", "root_epoch")}
            seen |= {"power": "running", "volumes": []}
            report = {"epoch": 1, "kind": "server", "id": want["id"], "generation": want["generation"]}
            _asked("POST", host, "reports", report | {"seen": seen, "fault": None})
    return time.process_time() - begun


def _resync(host: str) -> float:
    begun = time.process_time()
    beat = {"boot_id": "b", "inventory": INVENTORY, "versions": {}, "epoch": 1}
    _asked("POST", host, "heartbeat", beat)
    _asked("GET", host, "wants")
    return time.process_time() - begun


def _asked(method: str, host: str, what: str, body: Row | None = None) -> Any:
    headers = {"Authorization": f"Bearer {secret_of(host)}"}
    answer = _client(method, f"/agent/v1/hosts/{host}/{what}", None, body, headers=headers)
    assert answer.status < 300, answer.content
    return answer.json if answer.content else None
