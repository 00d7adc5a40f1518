"""Servers in the middle of a move when one of their hosts is lost: the move is ended or undone first, then the machine
is taken over where that can be. At no moment does it run twice, and in the end it runs once."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import Cloud
from tests.compute.test_moves import LIVE, late, make, migration, row, running
from trilith.compute import takeover, takeovers
from trilith.compute.server_moves import without
from trilith.compute.servers import SERVER
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, HOSTED
from trilith.volume import shared_storage

Doc = dict[str, Any]
HOSTS = ("c1", "c2", "c3")
LIVE_PHASES = ["preparing", "moving", "switching", "come"]
PHASES = ["copying", "kept", "returning", *LIVE_PHASES]


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    cloud.add_host(tmp_path, "c2", ["compute"])
    return cloud


def in_ceph(cloud: Cloud) -> None:
    pools = ("images", "volumes", "machines")
    cloud.store.run(lambda tx: shared_storage.declare(tx, "44444444-4444-4444-8444-444444444444", pools))


def third(cloud: Cloud, tmp_path: Path) -> None:
    cloud.add_host(tmp_path, "c3", ["compute"])


def settle(cloud: Cloud, *hosts: str) -> None:
    for _ in range(6):
        for host in hosts:
            cloud.beat(host)
            cloud.settle(1, host)
            assert len(running(cloud)) <= 1


def bring(cloud: Cloud, key: str, phase: str, source: str, target: str) -> None:
    """The server's move, up to that phase; ``come``: all its memory is on the target, and nobody has told."""
    if phase in ("copying", "kept", "returning"):
        cloud.act(key, "migrate", who=ADMIN)
        if phase != "copying":
            settle(cloud, source, target)
        if phase == "returning":
            cloud.act(key, "revertResize")
        assert row(cloud, key)["move"]["phase"] == phase
        return
    assert cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
    if phase != "preparing":
        cloud.settle(1, target)
    while phase in ("switching", "come") and row(cloud, key)["move"]["phase"] != "switching":
        cloud.settle(1, source)
    if phase == "come":
        driver(cloud, source).switch(key, row(cloud, key)["move"]["migration_id"])
        entry = shared_wants(cloud, target, key)
        seen = cloud.agents[target][1].observe(key)
        cloud.store.run(lambda tx: HOSTED["server"].report(tx, target, key, entry["generation"], seen, None))
        assert row(cloud, key)["move"]["phase"] == "switching", "what has come does not decide while its source lives"
    else:
        assert row(cloud, key)["move"]["phase"] == phase


def shared_wants(cloud: Cloud, host: str, key: str) -> Doc:
    wants = cloud.store.read(lambda tx: HOSTED["server"].wants(tx, host))
    return next(doc for doc in wants if doc["id"] == key)


def driver(cloud: Cloud, host: str) -> Any:
    return cloud.agents[host][1]._driver  # type: ignore[attr-defined]


def lose(cloud: Cloud, host: str, state: str = "fenced") -> None:
    """The host loses its power; its takeover is that far."""
    for key in driver(cloud, host).known():
        driver(cloud, host)._change(key, process=False, power="running")  # whoever waits for it hears no end

    def begin(tx: Tx) -> None:
        new = tx.insert(TAKEOVER, {"id": takeover.new_id(), "host": host, "forced": True})
        takeovers.advance(tx, new, state)
        tx.update(HOST, tx.get(HOST, host), forced_down=True, barred="x")

    cloud.beat_was(30, host)
    cloud.store.run(begin)


def take(cloud: Cloud, host: str) -> None:
    """What the controller does about the machines of a fenced host."""

    def work(tx: Tx) -> None:
        found = takeovers.under_way(tx)[host]
        for server in takeover.machines(tx, found, 50):
            takeover.move(tx, tx.get(TAKEOVER, found["id"]), server["id"], 50)

    cloud.store.run(work)


def comes_back(cloud: Cloud, host: str) -> None:
    def work(tx: Tx) -> None:
        takeovers.advance(tx, takeovers.under_way(tx)[host], "returned")
        tx.update(HOST, tx.get(HOST, host), forced_down=False, barred=None)

    cloud.store.run(work)


def runs_once(cloud: Cloud, key: str) -> None:
    found = row(cloud, key)
    assert found["status"] in ("ACTIVE", "VERIFY_RESIZE"), found
    assert running(cloud) == [found["host"]]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("loses", ["source", "target"])
def test_with_disks_in_ceph_it_runs_elsewhere(cloud: Cloud, tmp_path: Path, phase: str, loses: str) -> None:
    in_ceph(cloud)
    key, source, target = make(cloud)
    bring(cloud, key, phase, source, target)
    third(cloud, tmp_path)
    lost = source if loses == "source" else target
    lose(cloud, lost)
    take(cloud, lost)
    cloud.sweep()
    alive = [host for host in HOSTS if host != lost]
    settle(cloud, *alive)
    take(cloud, lost)  # of what had to be told first
    settle(cloud, *alive)
    if phase == "switching" and loses == "source":  # the target waits for memory that nobody sends any more
        late(cloud, key)
        settle(cloud, *alive)
    runs_once(cloud, key)
    assert row(cloud, key)["host"] in alive
    assert row(cloud, key)["resize"] == ("resized" if phase == "kept" else None)
    if phase == "come" and loses == "source":
        assert (row(cloud, key)["host"], row(cloud, key)["boot_epoch"]) == (target, 0), "its memory was not lost"
    comes_back(cloud, lost)
    settle(cloud, *HOSTS)
    runs_once(cloud, key)
    if phase == "kept":
        assert cloud.act(key, "revertResize").status == 202
        settle(cloud, *HOSTS)
    runs_once(cloud, key)
    assert (row(cloud, key)["move"], row(cloud, key)["peer"], row(cloud, key)["status"]) == (None, None, "ACTIVE")
    assert [host for host in HOSTS if key in driver(cloud, host).known()] == [row(cloud, key)["host"]]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("loses", ["source", "target"])
def test_with_local_disks_it_runs_where_they_are(cloud: Cloud, phase: str, loses: str) -> None:
    key, source, target = make(cloud)
    bring(cloud, key, phase, source, target)
    lost = source if loses == "source" else target
    lose(cloud, lost)
    take(cloud, lost)
    cloud.sweep()
    alive = source if lost == target else target
    settle(cloud, alive)
    if phase == "switching" and loses == "source":
        late(cloud, key)
        settle(cloud, alive)
    comes_back(cloud, lost)
    settle(cloud, "c1", "c2")
    if phase == "kept":
        cloud.act(key, "confirmResize")
        settle(cloud, "c1", "c2")
    runs_once(cloud, key)
    at_target = phase == "kept" or (loses == "source" and phase in ("switching", "come"))
    assert row(cloud, key)["host"] == (target if at_target else source)
    assert (row(cloud, key)["move"], row(cloud, key)["peer"]) == (None, None)


@pytest.mark.parametrize("phase", ["switching", "come"])
def test_both_hosts_are_lost_within_the_last_step(cloud: Cloud, tmp_path: Path, phase: str) -> None:
    in_ceph(cloud)
    key, source, target = make(cloud)
    bring(cloud, key, phase, source, target)
    third(cloud, tmp_path)
    for host in (source, target):
        lose(cloud, host)
    take(cloud, target)
    take(cloud, source)
    settle(cloud, "c3")
    assert (row(cloud, key)["host"], running(cloud)) == ("c3", ["c3"])


def test_a_host_that_is_only_barred_is_not_off(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    bring(cloud, key, "come", source, target)
    lose(cloud, source, "down-unfenced")
    assert not cloud.store.read(lambda tx: takeovers.is_off(tx, source))
    late(cloud, key)
    assert (row(cloud, key)["host"], running(cloud)) == (source, [])
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.68").status == 400
    cloud.store.run(lambda tx: takeovers.advance(tx, takeovers.under_way(tx)[source], "fenced"))
    cloud.sweep()
    settle(cloud, target)
    assert (cloud.status(key), running(cloud)) == ("ACTIVE", [target])
    cloud.store.run(lambda tx: takeovers.advance(tx, takeovers.under_way(tx)[source], "taken-over"))
    assert cloud.store.read(lambda tx: takeovers.is_off(tx, source))
    cloud.beat(source)
    assert not cloud.store.read(lambda tx: takeovers.is_off(tx, source)), "it is back, before anybody let it in"


def test_a_server_of_a_host_that_is_being_fenced_is_not_evacuated(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    lose(cloud, source, "down-unfenced")
    answer = cloud.act(key, "evacuate", {}, ADMIN, at="2.68")
    assert answer.status == 400
    assert row(cloud, key)["host"] == source
    cloud.store.run(lambda tx: takeovers.advance(tx, takeovers.under_way(tx)[source], "fenced"))
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.68").status == 200
    settle(cloud, target)
    assert running(cloud) == [target]


def test_its_source_says_failed_when_all_has_come(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    driver(cloud, source).fails_at_last = lambda: True
    bring(cloud, key, "come", source, target)
    settle(cloud, target, source)
    assert (cloud.status(key), row(cloud, key)["host"], running(cloud)) == ("ACTIVE", source, [source])
    assert (migration(cloud, key)["status"], driver(cloud, target).known()) == ("error", set())
    assert row(cloud, key)["boot_epoch"] == 0


def test_reverted_when_the_host_that_kept_nothing_is_off(cloud: Cloud, tmp_path: Path) -> None:
    in_ceph(cloud)
    key, source, target = make(cloud)
    bring(cloud, key, "kept", source, target)
    lose(cloud, source)
    assert cloud.act(key, "revertResize").status == 202
    settle(cloud, target)
    assert (cloud.status(key), row(cloud, key)["host"], running(cloud)) == ("ACTIVE", target, [target])


def test_nothing_is_decided_twice(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    bring(cloud, key, "switching", source, target)
    lose(cloud, source)
    before = row(cloud, key)
    cloud.store.run(lambda tx: without(tx, tx.get(SERVER, key), source))
    assert row(cloud, key)["move"] == before["move"], "the target tells first"
    take(cloud, source)
    (entry,) = cloud.store.read(lambda tx: takeovers.under_way(tx)[source]["moves"])
    assert (entry["to"], entry["again"]) == (None, True)
    late(cloud, key)
    take(cloud, source)
    assert (row(cloud, key)["host"], row(cloud, key)["boot_epoch"]) == (target, 1)
    settle(cloud, target)
    runs_once(cloud, key)
