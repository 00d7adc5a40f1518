"""What a controller does about its RabbitMQ: a table, and three controllers in a small world with every disaster."""

import itertools
import random
from dataclasses import dataclass, field, replace

import pytest

from trilith.cluster.engines.rabbitmq_plan import REBUILD_S, REJOIN_S, Node, Sight, plan, waiting_for

ALL = ("c1", "c2", "c3")
FRESH = Node()
WELL = Node(True, 7, "c1", True, True, ALL)
DOWN = replace(WELL, running=False, members=())
OFF = replace(DOWN, unit_active=False)


def acts(me: str, node: Node, **peers: Node | None) -> list[str]:
    return [act.do for act in plan(Sight(me, ALL, node, dict(peers)))]


@pytest.mark.parametrize(
    ("me", "node", "peers", "wanted"),
    [
        ("c1", FRESH, {"c2": FRESH, "c3": FRESH}, ["found"]),
        ("c2", FRESH, {"c1": FRESH, "c3": FRESH}, []),
        ("c1", FRESH, {"c2": FRESH, "c3": None}, []),  # c3 may have a cluster
        ("c2", FRESH, {"c1": replace(WELL, members=("c1",)), "c3": FRESH}, ["join"]),
        ("c2", FRESH, {"c1": WELL, "c3": WELL}, []),  # its disk was lost: c1 must forget it first
        ("c1", WELL, {"c2": FRESH, "c3": WELL}, ["forget"]),
        ("c3", WELL, {"c2": FRESH, "c1": WELL}, []),  # one forgets, the first
        ("c3", WELL, {"c2": FRESH, "c1": None}, ["forget"]),
        ("c2", FRESH, {"c1": DOWN, "c3": FRESH}, []),  # c1 may come up
        ("c1", WELL, {"c2": WELL, "c3": WELL}, []),
        ("c1", replace(WELL, members=(*ALL, "c9")), {"c2": WELL, "c3": WELL}, ["forget"]),  # not in the file any more
        ("c1", OFF, {"c2": WELL, "c3": WELL}, ["start_node"]),
        ("c1", DOWN, {"c2": WELL, "c3": WELL}, []),
        ("c1", replace(DOWN, stuck_s=REJOIN_S + 1), {"c2": WELL, "c3": WELL}, ["wipe"]),
        ("c1", replace(DOWN, stuck_s=REBUILD_S + 1), {"c2": DOWN, "c3": None}, ["wipe", "found"]),
        ("c2", replace(DOWN, stuck_s=REBUILD_S + 1), {"c1": DOWN, "c3": None}, []),  # c1 does it
        ("c2", replace(DOWN, stuck_s=REBUILD_S + 1), {"c1": None, "c3": DOWN}, ["wipe", "found"]),
        ("c1", replace(DOWN, stuck_s=REBUILD_S + 1), {"c2": None, "c3": None}, []),  # a minority does nothing
        ("c2", WELL, {"c1": replace(WELL, incarnation=9, members=("c1",)), "c3": WELL}, ["wipe"]),  # rebuilt without us
        ("c2", WELL, {"c1": replace(WELL, incarnation=9, members=()), "c3": WELL}, []),  # not told yet
        ("c2", WELL, {"c1": replace(DOWN, incarnation=9), "c3": WELL}, []),  # it serves until there is a newer one
        ("c2", WELL, {"c1": replace(WELL, incarnation=9), "c3": WELL}, ["adopt"]),  # the founder joined us
        ("c2", DOWN, {"c1": replace(DOWN, incarnation=9), "c3": None}, ["wipe"]),
        ("c1", replace(FRESH, has_data=True), {"c2": FRESH, "c3": FRESH}, ["wipe"]),  # somebody else's data
        ("c2", replace(WELL, members=("c2",)), {"c1": replace(WELL, members=("c1", "c3")), "c3": None}, ["wipe"]),
    ],
)
def test_table(me: str, node: Node, peers: dict[str, Node | None], wanted: list[str]) -> None:
    assert acts(me, node, **peers) == wanted
    sight = Sight(me, ALL, node, peers)
    if not wanted and not node.running:
        assert waiting_for(sight), "who waits says for whom"


def test_a_new_founding_is_newer_than_any_that_is_known() -> None:
    sight = Sight("c1", ALL, replace(DOWN, stuck_s=REBUILD_S + 1), {"c2": replace(DOWN, incarnation=3), "c3": None})
    assert plan(sight)[-1].args == {"after": 7}


@dataclass
class World:
    """Three nodes. Clusters are sets of members by incarnation; a node runs when most of its cluster's members are up
    and reach each other."""

    nodes: dict[str, Node] = field(default_factory=lambda: dict.fromkeys(ALL, FRESH))
    clusters: dict[int, set[str]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    broken: bool = False  # nodes do not find together by themselves

    def see(self, me: str) -> Sight:
        reach = {name: self.nodes[name] if not {name, me} & self.cut else None for name in ALL if name != me}
        return Sight(me, ALL, self.nodes[me], reach)

    def tick(self, moment_s: float) -> None:
        """Time passes: nodes come up, or stand still."""
        for name, node in self.nodes.items():
            members = self.clusters.get(node.incarnation, set())
            there = [m for m in members if self.nodes[m].unit_active and self.nodes[m].incarnation == node.incarnation]
            with_me = [m for m in there if m == name or not {m, name} & self.cut]
            up = node.unit_active and name in members and len(with_me) > len(members) // 2 and not self.broken
            told = tuple(sorted(members)) if up else ()
            stuck = 0.0 if up or node.running else node.stuck_s + moment_s
            self.nodes[name] = replace(node, running=up, members=told, stuck_s=stuck)

    def perform(self, me: str, sight: Sight) -> None:
        for act in plan(sight):
            node = self.nodes[me]
            if act.do == "wipe":
                self.nodes[me] = FRESH
            elif act.do == "found":
                number = max([act.args["after"], *self.clusters]) + 1
                self.clusters[number] = {me}
                self.broken = False
                self.nodes[me] = Node(True, number, me, True)
            elif act.do == "join":
                self.clusters[act.args["incarnation"]].add(me)
                self.nodes[me] = Node(True, act.args["incarnation"], act.args["founder"], True)
            elif act.do == "adopt":
                self.nodes[me] = replace(node, **act.args)
            elif act.do == "forget":
                self.clusters[node.incarnation].discard(act.args["node"])
            else:
                self.nodes[me] = replace(node, unit_active=True)

    def whole(self) -> bool:
        marks = {node.incarnation for node in self.nodes.values()}
        return len(marks) == 1 and all(n.running and set(n.members) == set(ALL) for n in self.nodes.values())


def settle(world: World, order: random.Random) -> None:
    for _ in range(400):
        world.tick(5.0)
        for name in order.sample(ALL, 3):
            if order.random() < 0.8:  # a keeper may be slow
                world.perform(name, world.see(name))
        if world.whole():
            return
    raise AssertionError(f"never whole: {world}")


def test_three_fresh_controllers_become_one_cluster() -> None:
    for seed in range(50):
        world = World()
        settle(world, random.Random(seed))
        assert len(world.clusters) == 1, "founded once"


@pytest.mark.parametrize("lost", [names for n in (1, 2, 3) for names in itertools.combinations(ALL, n)])
def test_lost_disks(lost: tuple[str, ...]) -> None:
    for seed in range(20):
        world, order = World(), random.Random(seed)
        settle(world, order)
        for name in lost:
            world.nodes[name] = FRESH
        settle(world, order)


def test_every_disaster_in_a_row() -> None:
    for seed in range(60):
        world, order = World(), random.Random(seed)
        settle(world, order)
        for _ in range(8):
            name = order.choice(ALL)
            disaster = order.choice(("off", "disk", "cut", "broken"))
            if disaster == "off":
                world.nodes[name] = replace(world.nodes[name], unit_active=False, running=False)
            elif disaster == "disk":
                world.nodes[name] = FRESH
            elif disaster == "cut":
                world.cut = {name}
            else:
                world.broken = True
            for _ in range(order.randrange(40)):
                world.tick(5.0)
                for each in ALL:
                    world.perform(each, world.see(each))
        world.cut = set()
        settle(world, order)
