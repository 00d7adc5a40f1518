"""Every disaster of hosts, links, controllers, agents and power switches in a small world: no machine runs twice, and
what is lost runs again where that is sure."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.plans.takeover_world import World
from trilith.compute import takeovers

SETTLE_S = 12.0  # from nothing until every machine runs


def some(values: Iterable[int], *always: int) -> list[Any]:
    """As parameters: the others take part when all storms are asked for, with ``-m long``."""
    return [each if each in always else pytest.param(each, marks=pytest.mark.long) for each in values]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return settled(World(tmp_path))


def settled(world: World, machines: int = 2) -> World:
    """`machines` on the first host and one on each other."""
    for number in range(machines):
        world.server(f"m{number + 1}", "h1")
    for host in world.hosts[1:]:
        world.server(f"of-{host.name}", host.name)
    world.run(SETTLE_S)
    assert world.runs() == {server: [host] for server, host in world.where().items()}
    return world


def all_run_once(world: World) -> None:
    assert not world.twice
    assert world.runs() == {server: [host] for server, host in world.where().items()}


def test_power_cut(world: World) -> None:
    world.host("h1").power_off()
    world.run(40)
    assert world.state("h1") == "taken-over"
    all_run_once(world)
    assert "h1" not in world.where().values()
    times = world.last("h1")["times"]
    assert times["suspect"] <= times["barred"] <= times["fenced"] <= times["storage"] <= times["taken-over"]
    assert world.last("h1")["fenced_by"] == "redfish"
    assert world.host_row("h1")["forced_down"]
    world.host("h1").switch_on()
    world.run(20)
    assert world.state("h1") == "up"
    assert world.last("h1")["state"] == "returned"
    assert not world.host_row("h1")["forced_down"]
    assert not world.host("h1").cut
    all_run_once(world)


def test_within_sixty_seconds(world: World) -> None:
    world.host("h1").power_off()
    world.run(30)
    all_run_once(world)


@pytest.mark.parametrize("heals_s", some([6, 11, 13, 15, 17, 30, 90], 13, 30))
@pytest.mark.parametrize(("driver", "self_stops"), [("redfish", False), ("self", True), ("redfish", True)])
def test_link_cut_and_healed(tmp_path: Path, heals_s: float, driver: str, self_stops: bool) -> None:
    world = settled(World(tmp_path, driver=driver, self_stops=self_stops))
    world.host("h1").linked = False
    world.run(heals_s)
    world.host("h1").linked = True
    if not world.host("h1").on:
        world.host("h1").switch_on()
    world.run(60)
    all_run_once(world)
    assert world.state("h1") == "up"


@pytest.mark.parametrize("wakes_s", some([12, 25, 32, 34, 90], 25, 32))
@pytest.mark.parametrize(("driver", "self_stops"), [("redfish", False), ("self", True)])
def test_host_stands_still_and_wakes(tmp_path: Path, wakes_s: float, driver: str, self_stops: bool) -> None:
    world = settled(World(tmp_path, driver=driver, self_stops=self_stops))
    world.host("h1").paused = True
    world.run(wakes_s)
    world.host("h1").paused = False
    if not world.host("h1").on:
        world.host("h1").switch_on()
    world.run(60)
    all_run_once(world)


@pytest.mark.parametrize("driver", ["redfish", "self"])
def test_agent_dies_and_the_link_too(tmp_path: Path, driver: str) -> None:
    """Its successor counts on from where it was."""
    world = settled(World(tmp_path, driver=driver, self_stops=driver == "self"))
    host = world.host("h1")
    host.linked = False
    for _ in range(12):
        host.agent = False
        world.run(2)
        if host.on:
            host.start_agent()
        world.run(1)
    host.linked = True
    if not host.on:
        host.switch_on()
    world.run(60)
    all_run_once(world)


def test_a_silent_agent_is_no_lost_host(world: World) -> None:
    world.host("h1").agent = False
    world.run(60)
    assert world.state("h1") == "suspect"
    assert world.host("h1").on
    assert "it answers" in world.last("h1")["why"]
    assert "trilith host fenced h1" in world.last("h1")["why"]
    assert world.where()["m1"] == "h1"
    world.host("h1").start_agent()
    world.run(10)
    assert world.last("h1")["state"] == "false-alarm"
    all_run_once(world)


def test_no_fence_no_takeover_until_the_operator_says_so(tmp_path: Path) -> None:
    world = settled(World(tmp_path, driver="none"))
    world.host("h1").power_off()
    world.run(60)
    assert world.state("h1") == "down-unfenced"
    assert "trilith host fenced h1" in world.last("h1")["why"]
    assert world.where()["m1"] == "h1"
    world.say_off("h1")
    world.run(20)
    assert world.state("h1") == "taken-over"
    assert world.last("h1")["fenced_by"] == "operator"
    all_run_once(world)


def test_a_host_with_nothing_to_move_is_left_alone(tmp_path: Path) -> None:
    """Its machines may run on, behind a link that is cut."""
    world = World(tmp_path)
    world.server("local", "h1", shared=False)
    world.run(SETTLE_S)
    world.host("h1").linked = False
    world.run(60)
    assert world.state("h1") == "down-unfenced"
    assert world.runs() == {"local": ["h1"]}
    assert "left alone" in world.last("h1")["why"]
    world.host("h1").linked = True
    world.run(10)
    assert world.last("h1")["state"] == "returned"


def test_a_switch_that_does_not_answer(world: World) -> None:
    host = world.host("h1")
    host.linked, host.switch_works = False, False
    world.run(60)
    assert world.state("h1") == "down-unfenced"
    assert "does not answer" in world.last("h1")["why"]
    assert world.where()["m1"] == "h1"
    assert host.running
    host.linked = True  # it asks for a lease again, so it lives
    world.run(20)
    assert world.last("h1")["state"] == "false-alarm"
    assert not world.host_row("h1")["forced_down"]
    all_run_once(world)


def test_a_dead_switch_and_an_agent_that_is_trusted(tmp_path: Path) -> None:
    world = settled(World(tmp_path, self_stops=True))
    host = world.host("h1")
    host.linked, host.switch_works = False, False
    world.run(60)
    assert world.state("h1") == "taken-over"
    assert world.last("h1")["fenced_by"] == "self"
    assert not host.running
    host.linked = True
    world.run(20)
    all_run_once(world)


@pytest.mark.parametrize("gone", [("h1", "h2"), ("h1", "h2", "h3"), ("h1", "h2", "h3", "h4")])
@pytest.mark.parametrize("apart_s", some([0, 8, 60], 8))
def test_the_brake(world: World, gone: tuple[str, ...], apart_s: float) -> None:
    """Hosts that vanish one after the other too."""
    for name in gone:
        world.host(name).linked = False
        world.run(apart_s)
    world.run(90)
    brake = world.brake()
    assert brake is not None
    assert set(gone) >= set(brake["hosts"]) - {"h1"}
    fenced = [name for name in gone if not world.host(name).on]
    assert len(fenced) <= (1 if apart_s else 0)  # the first is given up before the second is missed
    for name in gone:
        world.host(name).linked = True
        if not world.host(name).on:
            world.host(name).switch_on()
    world.run(30)
    all_run_once(world)
    assert all(world.state(name) == "up" for name in gone)
    world.run(10)
    assert world.brake() is None


def test_the_operator_releases_the_brake(world: World) -> None:
    for name in ("h1", "h2"):
        world.host(name).power_off()
    world.run(60)
    assert world.where()["m1"] == "h1"
    assert "release-brake" in world.last("h1")["why"]
    brake = world.brake()
    assert brake is not None
    world.write(lambda tx: takeovers.set_control(tx, brake={**brake, "released_s": 1.0}))
    world.run(30)
    assert world.state("h1") == world.state("h2") == "taken-over"
    all_run_once(world)


def test_a_controller_that_is_cut_off_with_a_host(world: World) -> None:
    """It has no database; the others decide."""
    world.controllers[0].linked = world.host("h1").linked = False
    world.run(60)
    assert world.state("h1") == "taken-over"
    world.controllers[0].linked = True
    world.host("h1").linked = True
    world.host("h1").switch_on()
    world.run(60)
    all_run_once(world)
    assert all(host.on for host in world.hosts)


def test_nobody_was_asked_nothing_is_done(world: World) -> None:
    """The database is there, and no other keeper is: it may be us."""
    for controller in world.controllers:
        controller.ask = lambda suspect: {"h2": None, "c2": None}  # type: ignore[method-assign]
    world.host("h1").linked = False
    world.run(60)
    assert world.state("h1") == "suspect"
    assert world.host("h1").on
    assert "cut off" in world.last("h1")["why"]


def test_the_databases_clock_jumps(tmp_path: Path) -> None:
    """All look silent for a moment; one alone where there is only one."""
    world = settled(World(tmp_path, hosts=2))
    for _ in range(3):
        world._now_s += 60.0
        world.jump_s += 60.0
        world.run(20)
    assert all(host.on for host in world.hosts)
    assert set(world.where().values()) == {"h1", "h2"}
    all_run_once(world)


@pytest.mark.parametrize("late_s", some([5, 30, 50], 30))
def test_after_an_outage_of_everything_hosts_are_waited_for(tmp_path: Path, late_s: float) -> None:
    """Also the only compute host, which no brake is for, and which boots more slowly than the controllers."""
    world = World(tmp_path, hosts=1, gateway=True)
    world.server("m1", "h1")
    world.run(SETTLE_S)
    world.served = False
    world.host("h1").power_off()
    world.run(120)
    world.served = True
    world.run(late_s)
    assert "fence h1" not in " ".join(world.acts)
    world.host("h1").switch_on()
    world.run(60)
    assert world.last("h1")["state"] == "false-alarm"
    all_run_once(world)


def test_a_host_is_switched_on_again_where_that_is_asked_for(tmp_path: Path) -> None:
    world = settled(World(tmp_path, power_on=True))
    world.host("h1").linked = False
    world.run(30)
    assert world.where()["m1"] != "h1"
    assert world.host("h1").on
    assert world.host("h1").boot == 2
    world.run(30)
    world.host("h1").linked = True
    world.run(30)
    assert world.last("h1")["state"] == "returned"
    all_run_once(world)


def count_of_acts(tmp_path: Path) -> int:
    world = settled(World(tmp_path / "count"))
    world.controllers = world.controllers[:1]
    world.host("h1").power_off()
    world.run(40)
    return len(world.acts)


STATES = 9  # acts until a host with two machines is taken over: see `test_every_act_is_counted`


def test_every_act_is_counted(tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    assert count_of_acts(tmp_path) == STATES


@pytest.mark.parametrize("fate", ["before", "after"])
@pytest.mark.parametrize("number", some(range(STATES), 1, 4, 7))
def test_the_controller_dies_at_each_act(world: World, number: int, fate: str) -> None:
    world.controllers[0].dies_at = (number, fate)
    world.host("h1").power_off()
    world.run(60)
    assert world.state("h1") == "taken-over"
    all_run_once(world)


@pytest.mark.parametrize("number", some(range(STATES), 1, 4, 7))
@pytest.mark.parametrize(("driver", "self_stops"), [("redfish", False), ("self", True)])
def test_the_controller_sleeps_at_each_act(tmp_path: Path, number: int, driver: str, self_stops: bool) -> None:
    """Others go on, the host comes back, and then it wakes in the middle of what it was about to do."""
    world = settled(World(tmp_path, driver=driver, self_stops=self_stops))
    world.controllers[0].freezes_at = (number, 90.0)
    host = world.host("h1")
    host.linked = False
    world.run(60)
    host.linked = True
    if not host.on:
        host.switch_on()
    world.run(80)
    all_run_once(world)
    assert host.on
    assert world.state("h1") == "up"


def test_order_priorities_and_who_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.server("low", "h1", metadata={"trilith:ha_priority": "10"})
    world.server("high", "h1", specs={"trilith:ha_priority": "90"})
    world.server("vain", "h1", metadata={"trilith:ha_priority": "100"}, specs={"trilith:ha_priority": "20"})
    world.server("never", "h1", metadata={"trilith:ha_priority": "0"})
    world.server("usual", "h1")
    world.server("local", "h1", shared=False)
    world.server("paused", "h1", power="paused")
    world.run(SETTLE_S)
    world.host("h1").power_off()
    world.run(40)
    moves = world.last("h1")["moves"]
    assert [m["name"] for m in moves] == ["high", "usual", "local", "paused", "vain", "low", "never"]
    stay = {move["name"]: move["why"] for move in moves if move["to"] is None}
    assert set(stay) == {"never", "local"}
    assert "lies on the host" in stay["local"]
    rows = {row["id"]: row for row in world.store.read(lambda tx: tx.rows(takeover_rows()))}
    assert rows["paused"]["power"] == "stopped"
    assert rows["local"]["host"] == "h1"
    world.host("h1").switch_on()
    world.run(30)
    assert world.runs()["local"] == ["h1"]
    assert not world.twice


def takeover_rows() -> object:
    from trilith.compute.servers import SERVER

    return SERVER


def test_no_room_now_and_room_later(tmp_path: Path) -> None:
    """What finds no room waits for it, and for its own host."""
    world = World(tmp_path, hosts=3)
    big = {"claim": {"vcpus": 1, "ram_mib": 16384, "disk_gib": 0}}
    for number, host in enumerate(("h2", "h3")):
        world.server(f"big{number}", host, shared=False, **big)
    world.server("m1", "h1")
    world.run(SETTLE_S)
    world.host("h1").power_off()
    world.run(40)
    assert world.state("h1") == "fenced"
    assert "No valid host" in world.last("h1")["moves"][0]["why"]
    from trilith.compute.servers import SERVER

    world.write(lambda tx: tx.update(SERVER, tx.one(SERVER, id="big0") or {}, claim={}))
    world.run(20)
    assert world.where()["m1"] == "h2"
    assert world.state("h1") == "taken-over"
    world.host("h2").power_off()  # and now without any room, until the host is back
    world.run(20)
    assert not world.twice


@pytest.mark.parametrize("begin", [lambda world: None])
def test_maintenance_is_no_loss(world: World, begin: Callable[[World], None]) -> None:
    from trilith.placement.hosts import HOST

    world.write(lambda tx: tx.update(HOST, tx.get(HOST, "h1"), maintenance=True, disabled=True))
    world.host("h1").power_off()
    world.run(60)
    assert world.state("h1") == "up"
    assert world.where()["m1"] == "h1"


@pytest.mark.parametrize("seed", some(range(4), 0))
@pytest.mark.parametrize(("driver", "self_stops"), [("redfish", False), ("redfish", True), ("self", True)])
def test_anything_at_any_time(tmp_path: Path, seed: int, driver: str, self_stops: bool) -> None:
    """Until it is over; then everything comes back, and all machines run, once each."""
    dice = random.Random(seed)
    world = settled(
        World(tmp_path, hosts=5, driver=driver, self_stops=self_stops, window_s=30.0, power_on=seed % 2 == 1)
    )
    for _ in range(25):
        happens(world, dice)
        world.run(dice.choice((1, 2, 4, 9, 15)))
        assert not world.twice
    for controller in world.controllers:
        controller.linked, controller.asleep_until_s = True, 0.0
    for host in world.hosts:
        host.linked, host.paused, host.switch_works = True, False, True
        if not host.on:
            host.switch_on()
        elif not host.agent:
            host.start_agent()
    world.run(120)
    all_run_once(world)
    assert {world.state(host.name) for host in world.hosts} == {"up"}
    assert world.brake() is None


def happens(world: World, dice: random.Random) -> None:
    host, controller = dice.choice(world.hosts), dice.choice(world.controllers)
    match dice.randrange(10):
        case 0 | 1:
            host.linked = False
        case 2 | 3:
            host.linked = True
        case 4:
            host.paused = host.on and not host.paused
        case 5:
            if host.on and host.agent:
                host.agent = False
            elif host.on:
                host.start_agent()
        case 6:
            host.on, host.agent, host.paused = False, False, False
            host.running.clear()
        case 7:
            if not host.on:
                host.switch_on()
        case 8:
            host.switch_works = not host.switch_works
        case 9:
            controller.asleep_until_s = world.clock() + dice.choice((3, 12, 40))
            controller.linked = dice.random() < 0.7
