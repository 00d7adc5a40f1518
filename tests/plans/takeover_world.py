"""A small world in which hosts are lost: real controllers over real SQL and the real API of agents; hosts, links, power
switches, storage and time are pretended. After each half second it is counted who runs what."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import trilith.cluster.services  # noqa: F401 - every noun of every service
from tests.client import client, token
from trilith.agent.lease import HostLease, SelfFence
from trilith.cluster.takeover_controller import KEY, LEADS_S, Policy, Switch, TakeoverController
from trilith.compute import takeovers
from trilith.compute.servers import SERVER
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.errors import Unavailable
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Act, Doc, converge
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, register

STEP_S = 0.5
BEAT_S, WANTS_S = 10 / 3, 2.0
SHARED = {
    "device": "vda",
    "kind": "image",
    "boot_index": 0,
    "image_id": "i",
    "image_format": "qcow2",
    "size_gib": 1,
    "tag": None,
}
LOCAL = dict(SHARED)
SHARED["rbd"] = {"pool": "machines", "images_pool": "images"}
FLAVOR = {"id": "1", "name": "f", "vcpus": 1, "ram_mib": 512, "disk_gib": 1, "swap_mib": 0, "ephemeral_gib": 0}


class Frozen(BaseException):
    """The process stands still."""


class AtOnce(Executor):
    """Work beside is done before `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Unavailable as error:
            future.set_exception(error)
        return future


class SimHost:
    """A compute host with its agent, which counts its lease with the real code."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.on, self.paused, self.linked, self.switch_works = True, False, True, True
        self.boot, self.epoch = 0, 0
        self.running: dict[str, bool] = {}  # machine -> whether all its disks are shared
        self.cut = False  # off from the shared storage
        self.agent = False
        self.switch_on()

    def switch_on(self) -> None:
        self.on, self.boot = True, self.boot + 1
        self.start_agent()

    def start_agent(self) -> None:
        """Also after it was killed."""
        file = self.world.directory / f"{self.name}.lease"
        self.lease = HostLease(file, f"boot {self.boot}", self.world.stop_after_s, self.world.clock)
        self.fence = SelfFence(self.lease, self._stop_shared)
        self.agent, self.epoch, self._beat_at_s, self._wants_at_s = True, 0, 0.0, 0.0

    def power_on(self, wait: bool = True) -> None:
        if not self.on:
            self.switch_on()

    def power_off(self) -> None:
        if not self.switch_works:
            raise Unavailable("it does not answer")
        self.on, self.agent, self.paused = False, False, False
        self.running.clear()

    @property
    def answers(self) -> bool:
        """Its keeper, over the management network."""
        return self.on and not self.paused and self.linked

    def step(self) -> None:
        if not (self.on and self.agent) or self.paused:
            return
        sound = self.fence.look()
        now_s = self.world.clock()
        if sound and now_s >= self._beat_at_s:
            self._beat_at_s = now_s + (BEAT_S if self._beat(now_s) else 1.0)
        if self.epoch and now_s >= self._wants_at_s:
            self._wants_at_s = now_s + WANTS_S
            self._follow()

    def _stop_shared(self) -> set[str]:
        for server in [server for server, shared in self.running.items() if shared]:
            del self.running[server]
        return set()

    def _beat(self, asked_at_s: float) -> bool:
        body = {"boot_id": f"{self.boot}", "epoch": self.epoch, "versions": {}}
        body["inventory"] = {"vcpus": 16, "ram_mib": 16384, "disk_gib": 100} | self.lease.told()
        answer = self.world.ask(self, "POST", "heartbeat", body)
        if answer is None:
            return False
        self.epoch = answer["epoch"]
        self.lease.renewed(asked_at_s)
        return True

    def _follow(self) -> None:
        answer = self.world.ask(self, "GET", "wants")
        if answer is None:
            return
        wanted = {doc["id"]: doc for doc in answer["server"]}
        for server in self.running.keys() - wanted.keys():
            del self.running[server]
        for server, doc in wanted.items():
            if doc["power"] == "running" and not self.lease.ended:
                self.running[server] = all(disk.get("shared") for disk in doc["disks"])


class SimController:
    """A controller's process on a host of its own. `freeze_at`: the number of the act before which it stands still."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.linked = True
        self.asleep_until_s = 0.0
        self.dies_at: tuple[int, str] | None = None
        self.freezes_at: tuple[int, float] | None = None
        self.dead = False
        self._acts, self._left = 0, None
        holder = Holder(world.store, KEY, name, LEADS_S, clock=world.clock)
        fences = {host.name: Switch(world.driver, host, world.power_on) for host in world.hosts}
        fences = fences if world.driver == "redfish" else {}
        inner = TakeoverController(holder, world.policy, self, fences, world, world.clock, AtOnce())
        self.inner, self.kind = inner, inner.kind
        self.plan, self.observe, self.known = inner.plan, inner.observe, inner.known
        self._left: tuple[str, Act] | None

    def step(self) -> None:
        if self.dead or not self.linked or self.world.clock() < self.asleep_until_s:
            return
        try:
            if self._left is not None:  # in the middle of where it fell asleep
                (key, act), self._left = self._left, None
                self.inner.perform(key, act)
            wants = self.inner.wants(KEY)
            if wants:
                converge(self, KEY, wants[KEY])
        except Unavailable:
            pass
        except Frozen:
            pass

    def perform(self, key: str, act: Act) -> None:
        number, self._acts = self._acts, self._acts + 1
        self.world.acts.append(f"{self.name} {act.do} {act.args.get('host', '')}")
        if self.freezes_at is not None and self.freezes_at[0] == number:
            self.asleep_until_s = self.world.clock() + self.freezes_at[1]
            self._left = (key, act)
            raise Frozen
        if self.dies_at == (number, "before"):
            self.dead = True
            raise Frozen
        self.inner.perform(key, act)
        if self.dies_at == (number, "after"):
            self.dead = True
            raise Frozen

    def ask(self, suspect: str) -> Doc:
        """As a witness's keeper: each other host and controller."""
        others = [host for host in self.world.hosts if host.name != suspect]
        found: Doc = {host.name: self._sees(host.answers, suspect) for host in others}
        peers = [each for each in self.world.controllers if each is not self]
        return found | {each.name: self._sees(each.linked, suspect) for each in peers}

    def _sees(self, witness_answers: bool, suspect: str) -> Doc | None:
        if not (self.linked and witness_answers):
            return None
        return {"management": self.world.host(suspect).answers, "tunnel": None}


class World:
    """`self_stops`: agents stop their machines by themselves, and are trusted to."""

    def __init__(
        self,
        directory: Path,
        hosts: int = 4,
        driver: str = "redfish",
        self_stops: bool = False,
        power_on: bool = False,
        gateway: bool = False,
        **policy: Any,
    ) -> None:
        self.power_on, self.served = power_on, True
        self.directory, self.driver, self.policy = directory, driver, Policy(**policy)
        self.stop_after_s = 20.0 if self_stops else None
        self._now_s = time.time()
        self.api = client(directory)
        self.store = self.api.app.store
        self.store.database.now_s = lambda connection: self._now_s  # type: ignore[method-assign]
        self.jump_s = 0.0
        self.acts: list[str] = []
        self.twice: list[str] = []
        names = [f"h{number}" for number in range(1, hosts + 1)]
        self.store.run(lambda tx: [register(tx, name, f"id-{name}", ["compute"], "nova") for name in names])
        self.hosts = [SimHost(self, name) for name in names]
        self.gateways: list[SimHost] = []
        if gateway:
            self.store.run(lambda tx: register(tx, "g1", "id-g1", ["network"], "nova"))
            self.gateways = [SimHost(self, "g1")]
        self.controllers: list[SimController] = []
        self.controllers = [SimController(self, f"c{number}") for number in (1, 2, 3)]

    def clock(self) -> float:
        return self._now_s - self.jump_s

    def host(self, name: str) -> SimHost:
        return next(host for host in self.hosts if host.name == name)

    def server(self, key: str, host: str, shared: bool = True, **columns: Any) -> str:
        row: Doc = {"id": key, "name": key, "project_id": "p", "user_id": "u", "host": host, "number": 1, "disks": []}
        row |= {"flavor": FLAVOR | {"extra_specs": columns.pop("specs", {})}, "flavor_id": "1", "vcpus": 1}
        row |= {"ram_mib": 512, "metadata": {}, "image_properties": {}, "zone": "nova", "launched_at": "2026-01-01"}
        row |= {"claim": {"vcpus": 1, "ram_mib": 512, "disk_gib": 0}, "disks": [SHARED if shared else LOCAL]}
        self.store.run(lambda tx: tx.insert(SERVER, row | {"number": tx.count(SERVER) + 1} | columns))
        return key

    # what hosts, fences and storage do

    def ask(self, host: SimHost, method: str, what: str, body: Doc | None = None) -> Doc | None:
        if not (host.linked and self.served):
            return None
        answer = self.api(method, f"/agent/v1/hosts/{host.name}/{what}", token("host", host=host.name), body)
        return answer.json if answer.status == 200 else None

    def watches(self, host: str) -> bool | None:
        return None

    def cut_off(self, host: str) -> None:
        self.host(host).cut = True

    def let_in(self, host: str) -> None:
        found = self.host(host)
        found.cut = False
        self._count()

    # time

    def run(self, for_s: float) -> None:
        until_s = self._now_s + for_s
        while self._now_s < until_s:
            self._now_s += STEP_S
            for host in self.hosts + self.gateways:
                host.step()
            if self.served and self._now_s % 1.0 < STEP_S:
                for controller in self.controllers:
                    controller.step()
            self._count()

    def _count(self) -> None:
        """A machine writes to its disks where it runs and is not cut off from them. Behind a power switch it does not
        even exist twice."""
        for server in {server for host in self.hosts for server in host.running}:
            there = [host for host in self.hosts if server in host.running]
            writing = [host for host in there if not host.paused and not host.cut]
            strict = self.driver == "redfish" and self.stop_after_s is None
            if len(writing) > 1 or (strict and len(there) > 1):
                self.twice.append(f"{server} runs on {', '.join(host.name for host in there)}")

    # asking

    def state(self, host: str) -> str:
        """Of what is under way."""
        row = self.store.read(takeovers.under_way).get(host)
        return row["state"] if row else "up"

    def last(self, host: str) -> Doc:
        rows = [row for row in self.store.read(takeovers.history) if row["host"] == host]
        return rows[0] if rows else {}

    def where(self) -> dict[str, str]:
        return {row["id"]: row["host"] for row in self.store.read(lambda tx: tx.rows(SERVER))}

    def runs(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for host in self.hosts:
            for server in host.running:
                found.setdefault(server, []).append(host.name)
        return found

    def brake(self) -> Doc | None:
        return self.store.read(takeovers.control)["brake"]  # type: ignore[no-any-return]

    def say_off(self, host: str) -> None:
        """``trilith host fenced``"""
        self.store.run(lambda tx: tx.update(TAKEOVER, takeovers.under_way(tx)[host], word_given=True))

    def host_row(self, name: str) -> Doc:
        return self.store.read(lambda tx: tx.get(HOST, name))

    def write(self, work: Callable[[Tx], Any]) -> None:
        self.store.run(work)
