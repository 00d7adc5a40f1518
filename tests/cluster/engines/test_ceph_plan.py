"""What a host does about its part of Ceph: a table, and three hosts in a small world with every disaster."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from trilith.cluster.engines.ceph_plan import cluster_acts, monitor_step, osd_step

Doc = dict[str, Any]
ALL = ("c1", "c2", "c3")
EMPTY: Doc = {"store": False, "running": False, "quorum": [], "known": [], "stale": False}
OFF = EMPTY | {"store": True, "known": list(ALL)}
OUT = OFF | {"running": True}
WELL = OUT | {"quorum": list(ALL)}
STALE = WELL | {"stale": True}
NO_OSD: Doc = {"data": "none", "running": False, "serves": False, "stale": False, "id": None, "obstacle": None}
MADE = NO_OSD | {"data": "made", "id": 0}
SERVES = MADE | {"running": True, "serves": True}


def without(*names: str) -> Doc:
    return WELL | {"quorum": [name for name in ALL if name not in names]}


@pytest.mark.parametrize(
    ("me", "monitors", "osds", "wanted"),
    [
        ("c1", (EMPTY, EMPTY, EMPTY), (NO_OSD, NO_OSD, NO_OSD), "found"),
        ("c2", (EMPTY, EMPTY, EMPTY), (NO_OSD, NO_OSD, NO_OSD), None),  # c1 does it
        ("c1", (EMPTY, EMPTY, None), (NO_OSD, NO_OSD, None), None),  # c3 may have a cluster
        ("c1", (EMPTY, EMPTY, EMPTY), (NO_OSD, NO_OSD, None), None),  # there may be data on c3
        ("c1", (EMPTY, EMPTY, EMPTY), (NO_OSD, MADE, NO_OSD), None),  # there are data that a new one could not read
        ("c1", (EMPTY, EMPTY, OFF), (NO_OSD, NO_OSD, NO_OSD), None),  # c3 has one: it has to come up
        ("c1", (EMPTY, OUT, OUT), (MADE, MADE, MADE), None),
        ("c2", (WELL | {"quorum": ["c1"], "known": ["c1"]}, EMPTY, EMPTY), (NO_OSD,) * 3, "join"),
        ("c3", (WELL | {"quorum": ["c1"], "known": ["c1"]}, EMPTY, EMPTY), (NO_OSD,) * 3, None),  # after c2
        ("c3", (without("c2", "c3"), OUT, EMPTY), (NO_OSD,) * 3, None),  # c2 is about to be in
        ("c2", (without("c2"), EMPTY, without("c2")), (MADE,) * 3, "join"),  # its disk was lost
        ("c1", (OFF, None, None), (), "start_monitor"),  # always right: they decide by majority
        ("c1", (OUT, None, None), (), None),
        ("c1", (OUT | {"stale": True}, None, None), (), "restart_monitor"),
        ("c1", (WELL, WELL, WELL), (), None),
        ("c1", (STALE, STALE, STALE), (), "restart_monitor"),
        ("c2", (STALE, STALE, STALE), (), None),  # one after another
        ("c2", (WELL, STALE, STALE), (), "restart_monitor"),
        ("c2", (OUT, STALE, WELL), (), None),  # they could not do without it
        ("c1", (WELL | {"known": [*ALL, "c9"]}, WELL, WELL), (), "forget_monitor"),
        ("c2", (WELL, WELL | {"known": [*ALL, "c9"]}, WELL), (), None),  # the first does it
    ],
)
def test_monitors(me: str, monitors: tuple[Doc | None, ...], osds: tuple[Doc | None, ...], wanted: str | None) -> None:
    seen = {"monitors": dict(zip(ALL, monitors, strict=True)), "osds": dict(zip(ALL, osds, strict=False))}
    step = monitor_step({"me": me, "order": list(ALL)}, seen)
    assert (step.act and step.act.do) == wanted
    own = seen["monitors"][me]
    assert own is not None
    assert step.act or step.why or own["quorum"] == list(ALL), "who waits says for whom"


@pytest.mark.parametrize(
    ("me", "others", "quorum", "wanted"),
    [
        (NO_OSD, (NO_OSD, NO_OSD), False, None),
        (NO_OSD, (NO_OSD, NO_OSD), True, "make_osd"),
        (NO_OSD | {"data": "unfinished"}, (None, None), True, "make_osd"),
        (NO_OSD | {"obstacle": "/dev/vdb is not blank."}, (SERVES, SERVES), True, None),
        (NO_OSD | {"data": "foreign"}, (SERVES, SERVES), True, None),  # nothing is taken that is not ours
        (MADE, (None, None), False, "start_osd"),
        (SERVES, (SERVES, SERVES), True, None),
        (SERVES | {"stale": True}, (SERVES, SERVES), True, "restart_osd"),
        (SERVES | {"stale": True}, (SERVES, MADE), True, None),
        (SERVES | {"stale": True}, (SERVES, None), True, None),
    ],
)
def test_osds(me: Doc, others: tuple[Doc | None, ...], quorum: bool, wanted: str | None) -> None:
    seen = {"osds": dict(zip(ALL, (me, *others), strict=True)), "quorum": quorum}
    step = osd_step({"me": "c1", "order": list(ALL)}, seen)
    assert (step.act and step.act.do) == wanted


def test_pools_and_users() -> None:
    want = {"pools": {"v": {"size": 3, "min_size": 2, "use": "rbd"}}, "users": {"client.a": "1"}}
    right = {
        "pools": {"v": {"size": 3, "min_size": 2, "uses": ["other", "rbd"]}, "other": {}},
        "users": {"client.a": "1", "osd.0": "x"},
    }
    assert cluster_acts(want, right) == []
    assert [act.do for act in cluster_acts(want, {"pools": {}, "users": {}})] == ["create_pool", "grant"]
    half = {
        "pools": {"v": {"size": 3, "min_size": 1, "uses": []}},
        "users": {"client.a": "2", "client.trilith-x": "1"},
    }
    assert [act.do for act in cluster_acts(want, half)] == ["set_pool", "use_pool", "grant", "revoke"]
    assert cluster_acts(want, half)[1].args == {"pool": "v", "use": "rbd"}


@dataclass
class World:
    """Monitors whose cluster is a set of names; a quorum is most of them, running and connected. `founded` counts."""

    monitors: dict[str, Doc] = field(default_factory=lambda: {name: dict(EMPTY) for name in ALL})
    osds: dict[str, Doc] = field(default_factory=lambda: {name: dict(NO_OSD) for name in ALL})
    members: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    founded: int = 0

    def tick(self) -> None:
        up = {name for name, node in self.monitors.items() if node["running"] and name not in self.away}
        if self.members and len(up & self.members) > len(self.members) / 2:
            self.members |= up  # who starts with the cluster's map adds itself
        quorum = sorted(up) if self.members and len(up & self.members) > len(self.members) / 2 else []
        for name, node in self.monitors.items():
            node["quorum"] = quorum if name in quorum else []
            node["known"] = sorted(self.members) if node["running"] else []
        for name, osd in self.osds.items():
            osd["serves"] = bool(osd["running"] and quorum and name not in self.away)

    def act(self, me: str) -> None:
        if me in self.away:
            return
        want = {"me": me, "order": list(ALL)}
        monitors = {name: None if name in self.away else node for name, node in self.monitors.items()}
        osds = {name: None if name in self.away else node for name, node in self.osds.items()}
        quorum = any(node and node["quorum"] for node in monitors.values())
        for step in (
            monitor_step(want, {"monitors": monitors, "osds": osds}),
            osd_step(want, {"osds": osds, "quorum": quorum}),
        ):
            match step.act and step.act.do:
                case "found":
                    self.founded += 1
                    self.members = {me}
                    self.monitors[me]["store"] = True
                case "join":
                    self.monitors[me]["store"] = True
                case "start_monitor":
                    self.monitors[me]["running"] = True
                case "restart_monitor":
                    self.monitors[me]["stale"] = False
                case "make_osd":
                    self.osds[me]["data"] = "made"
                case "start_osd":
                    self.osds[me]["running"] = True
                case "restart_osd":
                    self.osds[me]["stale"] = False

    def whole(self) -> bool:
        return all(node["quorum"] == list(ALL) and not node["stale"] for node in self.monitors.values()) and all(
            osd["serves"] and not osd["stale"] for osd in self.osds.values()
        )


def settle(world: World, order: random.Random) -> None:
    for _ in range(300):
        world.tick()
        for name in order.sample(ALL, 3):
            if order.random() < 0.7:  # a keeper may be slow
                world.act(name)
        world.tick()
        if world.whole():
            return
    raise AssertionError(f"never whole: {world}")


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_to_one_host_at_a_time_nothing_is_founded_twice(seed: int) -> None:
    order = random.Random(seed)
    world = World()
    settle(world, order)
    for _ in range(12):
        name = order.choice(ALL)
        match order.choice(["crash", "away", "disk", "config", "all off", "osd disk"]):
            case "crash":
                world.monitors[name]["running"] = world.osds[name]["running"] = False
            case "away":
                world.away = {name}
                for _ in range(order.randrange(8)):
                    world.tick()
                    for other in ALL:
                        world.act(other)
                world.away = set()
            case "disk":
                world.monitors[name] = dict(EMPTY)
            case "osd disk":
                world.osds[name] = dict(NO_OSD)
            case "config":
                for other in ALL:
                    world.monitors[other]["stale"] = world.osds[other]["stale"] = True
            case "all off":
                for other in ALL:
                    world.monitors[other]["running"] = world.osds[other]["running"] = False
        settle(world, order)
    assert world.founded == 1


@pytest.mark.parametrize("seed", range(20))
def test_without_most_monitors_data_nothing_is_founded_over_the_osds(seed: int) -> None:
    order = random.Random(seed)
    world = World()
    settle(world, order)
    for name in ALL:
        world.monitors[name] = dict(EMPTY)
    for _ in range(50):
        world.tick()
        for name in order.sample(ALL, 3):
            world.act(name)
    assert world.founded == 1
    step = monitor_step({"me": "c1", "order": list(ALL)}, {"monitors": world.monitors, "osds": world.osds})
    assert step.problem
    assert "data of a Ceph whose monitors are gone" in step.why
