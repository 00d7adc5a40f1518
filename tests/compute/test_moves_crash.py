"""Moves in a world where everything goes wrong: agents that die, look late, tell late and lose what they told, machines
that are killed, requests in between. At no moment does a machine run on two hosts, and in the end it runs on one.

Rows, wants and reports are the product's own; each agent is driven one act at a time, with wants as old as may be.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import Cloud
from tests.compute.test_moves import machines, other, row, running, settle
from trilith.compute.servers import SERVER
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Act, gone
from trilith.placement.hosts import HOSTED

Doc = dict[str, Any]

HOSTS = ("c1", "c2")
LIVE = {"host": None, "block_migration": "auto"}
CHAOS_STEPS = 80
FEW, ALL = range(2), pytest.param(range(2, 20), marks=pytest.mark.long, id="all")
seeds_of_dice = pytest.mark.parametrize("seeds", [pytest.param(FEW, id="few"), ALL])


class Agent:
    """One host's agent for one server: what it was told last, and what it has to tell."""

    def __init__(self, cloud: Cloud, host: str, key: str) -> None:
        self.cloud, self.host, self.key = cloud, host, key
        self.machines: Any = cloud.agents[host][1]
        self.want: Doc | None = None
        self.acts: list[Act] = []  # what is left of its last plan
        self.told: tuple[int, Doc | None] | None = None

    def ways(self) -> tuple[str, ...]:
        """What it may do next, as the runner does: look, act, see and tell, each at some time."""
        if self.told is not None:
            return ("tell",)
        if self.acts:
            return ("act",)
        return ("look",) if self.want is None else ("look", "act", "act", "act", "see")

    def look(self) -> None:
        wants = self.cloud.store.read(lambda tx: HOSTED["server"].wants(tx, self.host))
        self.die()
        self.want = next((want for want in wants if want["id"] == self.key), gone(self.key))

    def act(self, lost: bool = False) -> None:
        """Its next act, done; with `lost` it dies before it knows."""
        if self.want is None or self.told is not None:
            return
        self.acts = self.acts or self.machines.plan(self.want, self.machines.observe(self.key))
        if self.acts:
            try:
                self.machines.perform(self.key, self.acts.pop(0))
            except (Unavailable, Refused):
                self.acts = []
        if lost:
            self.die()

    def see(self) -> None:
        """What it is going to tell; until it has told, it does nothing else."""
        if self.want is not None and self.told is None and not self.acts:
            self.told = (self.want["generation"], self.machines.observe(self.key))

    def tell(self) -> None:
        told = self.told
        if told is not None:
            report = HOSTED["server"].report
            self.cloud.store.run(lambda tx: report(tx, self.host, self.key, *told, None))
            self.die()

    def die(self) -> None:
        self.want, self.told, self.acts = None, None, []

    def kill_machine(self) -> None:
        if self.key in self.machines.known():
            self.machines._driver.kill(self.key)
            self.machines._driver._change(self.key, crashes=[])  # no pauses here: this world's time is real


class World:
    def __init__(self, cloud: Cloud, seed: int, harm: float = 0.1) -> None:
        self.cloud, self.dice = cloud, random.Random(seed)
        for host in HOSTS:
            cloud.beat(host)
        self.key = cloud.server(settled=False)
        settle(cloud)
        self.agents = [Agent(cloud, host, self.key) for host in HOSTS]
        for agent in self.agents:  # QEMU may fail when everything has come to the other host
            agent.machines._driver.fails_at_last = lambda: self.dice.random() < harm
        self.done: list[str] = []

    def steps(self, count: int, harm: float) -> None:
        share = 0.5
        for number in range(count):
            if number % 12 == 0:  # now one of them is slow, now the other
                share = self.dice.choice((0.05, 0.5, 0.95))
            agent = self.agents[self.dice.random() < share]
            what = self.dice.choice(agent.ways())
            if self.dice.random() < harm:
                what = self.dice.choice(("die", "lost", "kill", "drop"))
            self.done.append(f"{agent.host}:{what}")
            if what == "lost":
                agent.act(lost=True)
            elif what == "kill":
                agent.kill_machine()
            elif what == "drop":
                agent.told = None
            else:
                getattr(agent, what)()
            found = running(self.cloud)
            assert len(found) <= 1, (found, self.done, row(self.cloud, self.key)["move"])

    def rest(self) -> None:
        for agent in self.agents:
            agent.die()
        for host in HOSTS:
            self.cloud.beat(host)
        settle(self.cloud, 6)


def end_of(world: World, verbs: tuple[str, ...]) -> None:
    """Undisturbed, all comes to an end, and nothing is left over."""
    cloud, key = world.cloud, world.key
    world.rest()
    for verb in verbs:
        if row(cloud, key)["resize"] == "resized":
            cloud.act(key, verb)
        world.rest()
    found = row(cloud, key)
    assert (found["move"], found["peer"], found["status"]) == (None, None, "ACTIVE"), (found, world.done)
    assert running(cloud) == [found["host"]], world.done
    assert machines(cloud, other(found["host"])) == set(), world.done
    assert cloud.store.read(lambda tx: tx.count(SERVER, peer=found["host"])) == 0
    cloud.delete(f"/servers/{key}")
    world.rest()
    assert not any(machines(cloud, host) for host in HOSTS)


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    cloud.add_host(tmp_path, "c2", ["compute"])
    return cloud


@seeds_of_dice
@pytest.mark.parametrize("harm", [0.0, 0.15, 0.4])
def test_a_live_migration(cloud: Cloud, harm: float, seeds: range) -> None:
    phases = set()
    for seed in seeds:
        world = World(cloud, seed, harm)
        cloud.act(world.key, "os-migrateLive", LIVE, ADMIN, at="2.30")
        world.steps(CHAOS_STEPS, harm)
        phases.add((row(cloud, world.key)["move"] or {"phase": "over"})["phase"])
        end_of(world, ())
    assert harm or len(seeds) < 10 or "over" in phases  # it gets there in such a world, too


@seeds_of_dice
def test_a_live_migration_that_is_cancelled(cloud: Cloud, seeds: range) -> None:
    for seed in seeds:
        world = World(cloud, seed)
        cloud.act(world.key, "os-migrateLive", LIVE, ADMIN, at="2.30")
        world.steps(20 + 4 * seed, 0.05)
        number = cloud.get("/os-migrations", ADMIN, at="2.23").json["migrations"][0]["id"]
        cloud.delete(f"/servers/{world.key}/migrations/{number}", ADMIN, at="2.65")
        world.steps(CHAOS_STEPS // 2, 0.05)
        end_of(world, ())


@seeds_of_dice
@pytest.mark.parametrize("verb", ["confirmResize", "revertResize"])
@pytest.mark.parametrize("harm", [0.0, 0.3])
def test_a_cold_migration(cloud: Cloud, verb: str, harm: float, seeds: range) -> None:
    for seed in seeds:
        world = World(cloud, seed, harm)
        cloud.act(world.key, "migrate", who=ADMIN)
        world.steps(CHAOS_STEPS, harm)
        world.rest()
        if row(cloud, world.key)["resize"] == "resized":
            cloud.act(world.key, verb)
            world.steps(CHAOS_STEPS, harm)
        end_of(world, (verb,))


@seeds_of_dice
@pytest.mark.parametrize("verb", ["migrate", "os-migrateLive"])
def test_deleted_in_between(cloud: Cloud, verb: str, seeds: range) -> None:
    for seed in seeds:
        world = World(cloud, seed)
        cloud.act(world.key, verb, LIVE if verb == "os-migrateLive" else None, ADMIN, at="2.30")
        world.steps(6 * seed, 0.05)
        assert cloud.delete(f"/servers/{world.key}").status == 204
        world.steps(CHAOS_STEPS // 2, 0.1)
        world.rest()
        assert cloud.get(f"/servers/{world.key}").status == 404
        assert not any(machines(cloud, host) for host in HOSTS)
