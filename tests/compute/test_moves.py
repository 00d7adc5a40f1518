"""Servers that move between two hosts, whose agents are stepped by hand over pretended machines."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import INVENTORY, Cloud
from trilith.compute.servers import SERVER
from trilith.placement.hosts import HOST

Doc = dict[str, Any]


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    """Also ``c2``, a second compute host; its volumes are on c1."""
    cloud.add_host(tmp_path, "c2", ["compute"])
    return cloud


def settle(cloud: Cloud, rounds: int = 4) -> None:
    for _ in range(rounds):
        for host in ("c1", "c2"):
            cloud.settle(1, host)
            assert len(where(cloud)) == len({key for key, _ in where(cloud)})


def running(cloud: Cloud) -> list[str]:
    """Hosts on which a machine can do anything."""
    return [host for _, host in where(cloud)]


def where(cloud: Cloud) -> list[tuple[str, str]]:
    """Each machine that can do anything, and its host."""
    found = []
    for host, agents in cloud.agents.items():
        driver = agents[1]._driver  # type: ignore[attr-defined]
        for key in driver.known():
            seen = driver.seen(key) or {}
            if seen["process"] and seen["power"] in ("running", "paused") and not waits(seen):
                found.append((key, host))
    return found


def waits(seen: Doc) -> bool:
    return (seen["outgoing"] or {}).get("status") == "pre-switchover"


def host_of(cloud: Cloud, key: str) -> str:
    return str(cloud.show(key, ADMIN)["OS-EXT-SRV-ATTR:host"])


def row(cloud: Cloud, key: str) -> Doc:
    return cloud.store.read(lambda tx: tx.get(SERVER, key))


def other(host: str) -> str:
    return {"c1": "c2", "c2": "c1"}[host]


def claims(cloud: Cloud) -> dict[str, int]:
    found = cloud.get("/os-hypervisors/detail", ADMIN, at="2.87").json["hypervisors"]
    return {each["hypervisor_hostname"]: each["memory_mb_used"] for each in found}


def machines(cloud: Cloud, host: str) -> set[str]:
    return cloud.agents[host][1].known()


def migration(cloud: Cloud, key: str) -> Doc:
    found = cloud.get(f"/os-migrations?instance_uuid={key}", ADMIN, at="2.59").json["migrations"]
    newest: Doc = max(found, key=lambda each: int(each["id"]))
    return newest


def make(cloud: Cloud, **fields: Any) -> tuple[str, str, str]:
    key = cloud.server(settled=False, **fields)
    settle(cloud)
    assert cloud.status(key) == "ACTIVE"
    return key, host_of(cloud, key), other(host_of(cloud, key))


# cold


def test_cold_migration_and_confirm(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    assert cloud.act(key, "migrate", who=ADMIN).status == 202
    assert cloud.status(key) == "RESIZE"
    assert claims(cloud) == {"c1": 512, "c2": 512}
    assert cloud.act(key, "migrate", who=ADMIN).status == 409
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("VERIFY_RESIZE", target, [target])
    assert claims(cloud) == {"c1": 512, "c2": 512}
    assert {port["binding:host_id"] for port in cloud.ports()} == {target}
    assert migration(cloud, key) | {"status": "finished", "migration_type": "migration"} == migration(cloud, key)
    assert machines(cloud, source) == {key}
    assert cloud.act(key, "confirmResize").status == 204
    settle(cloud)
    assert (cloud.status(key), machines(cloud, source), running(cloud)) == ("ACTIVE", set(), [target])
    assert claims(cloud) == {source: 0, target: 512}
    assert migration(cloud, key)["status"] == "confirmed"
    assert row(cloud, key)["peer"] is None


def test_where_to_means_nothing_before_2_56(cloud: Cloud) -> None:
    """As in Nova, whose first versions never looked at the body; Tempest sends the host to all of them."""
    key, _, target = make(cloud)
    assert cloud.act(key, "migrate", {"host": "nowhere"}, ADMIN).status == 202
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key)) == ("VERIFY_RESIZE", target)


def test_cold_migration_and_revert(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "migrate", {"host": target}, ADMIN, at="2.56")
    settle(cloud)
    assert cloud.status(key) == "VERIFY_RESIZE"
    assert cloud.act(key, "revertResize").status == 202
    assert cloud.status(key) == "REVERT_RESIZE"
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert (machines(cloud, target), claims(cloud)) == (set(), {source: 512, target: 0})
    assert migration(cloud, key)["status"] == "reverted"


def test_a_resize_goes_to_another_host_and_back(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "resize", {"flavorRef": "2"})
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key)) == ("VERIFY_RESIZE", target)
    assert claims(cloud) == {source: 512, target: 1024}
    cloud.act(key, "revertResize")
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), cloud.show(key)["flavor"]["id"]) == ("ACTIVE", source, "1")
    assert claims(cloud) == {source: 512, target: 0}
    assert [disk["size_gib"] for disk in row(cloud, key)["disks"]] == [1]


def test_a_stopped_server_stays_stopped(cloud: Cloud) -> None:
    key, _, target = make(cloud)
    cloud.act(key, "os-stop")
    settle(cloud)
    cloud.act(key, "migrate", who=ADMIN)
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("VERIFY_RESIZE", target, [])
    cloud.act(key, "confirmResize")
    assert cloud.status(key) == "SHUTOFF"


def test_what_is_refused(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    before = row(cloud, key)
    for host in (source, "nowhere"):
        assert cloud.act(key, "migrate", {"host": host}, ADMIN, at="2.56").status == 400
        body = {"host": host, "block_migration": "auto"}
        assert cloud.act(key, "os-migrateLive", body, ADMIN, at="2.30").status == 400
    assert cloud.act(key, "migrate").status == 403
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.68").status == 400
    assert cloud.act(key, "evacuate", {"host": "nowhere"}, ADMIN, at="2.68").status == 404
    cloud.beat(target, disabled=True)
    assert cloud.act(key, "migrate", {"host": target}, ADMIN, at="2.56").status == 400
    cloud.beat(target, disabled=False)
    cloud.act(key, "os-stop")
    settle(cloud)
    body = {"host": None, "block_migration": "auto"}
    assert cloud.act(key, "os-migrateLive", body, ADMIN, at="2.30").status == 409
    assert (row(cloud, key)["host"], row(cloud, key)["move"]) == (before["host"], None)


@pytest.mark.parametrize("why", ["down", "full", "another zone"])
@pytest.mark.parametrize("verb", ["migrate", "os-migrateLive"])
def test_a_host_that_cannot_have_it_is_refused(cloud: Cloud, verb: str, why: str) -> None:
    """Whether it was asked for or is the only other one; and nothing has changed."""
    if why == "another zone":
        made = cloud.post("/os-aggregates", {"aggregate": {"name": "west", "availability_zone": "west"}}, ADMIN)
        added = {"add_host": {"host": "c2"}}
        assert cloud.post(f"/os-aggregates/{made.json['aggregate']['id']}/action", added, ADMIN).status == 200
        key, _, target = make(cloud, availability_zone="nova")
        assert target == "c2"
    else:
        key, _, target = make(cloud)
    if why == "down":
        cloud.beat_was(100, target)
    if why == "full":
        cloud.store.run(lambda tx: tx.update(HOST, tx.get(HOST, target), inventory={**INVENTORY, "ram_mib": 64}))
    before, used = row(cloud, key), claims(cloud)
    for host in (target, None):
        cloud.beat(other(target))
        body = {"host": host} if verb == "migrate" else {"host": host, "block_migration": "auto"}
        answer = cloud.act(key, verb, body, ADMIN, at="2.56" if verb == "migrate" else "2.30")
        assert (answer.status, row(cloud, key), claims(cloud)) == (400, before, used), (host, answer.content)
        if verb == "os-migrateLive":  # later versions tell it by the migration's record
            assert cloud.act(key, verb, body, ADMIN, at="2.34").status == 202
            assert migration(cloud, key)["status"] == "error"
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), machines(cloud, target)) == ("ACTIVE", other(target), set())
    assert claims(cloud) == used


def test_a_target_that_dies_undoes_the_move(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "migrate", who=ADMIN)
    cloud.settle(2, source)
    assert running(cloud) == []
    cloud.beat_was(100, target)
    cloud.sweep()
    assert migration(cloud, key)["status"] == "error"
    cloud.settle(2, source)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert claims(cloud) == {source: 512, target: 0}
    cloud.beat(target)
    settle(cloud)
    assert machines(cloud, target) == set()


@pytest.mark.parametrize("moment", range(5))
def test_a_server_is_deleted_while_it_moves(cloud: Cloud, moment: int) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "migrate", who=ADMIN)
    for step in range(moment):
        cloud.settle(1, (source, target)[step % 2])
    assert cloud.delete(f"/servers/{key}").status == 204
    settle(cloud)
    assert cloud.get(f"/servers/{key}").status == 404
    assert (machines(cloud, source), machines(cloud, target), claims(cloud)) == (set(), set(), {"c1": 0, "c2": 0})


def test_volumes_come_along(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    volume = cloud.volume()
    settle(cloud)
    cloud.post(f"/servers/{key}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    settle(cloud)
    assert cloud.volume_status(volume) == "in-use"
    cloud.act(key, "migrate", who=ADMIN)
    settle(cloud, 6)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("VERIFY_RESIZE", target, [target])
    assert cloud.volume_status(volume) == "in-use"
    cloud.act(key, "revertResize")
    settle(cloud, 6)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert cloud.volume_status(volume) == "in-use"


# evacuation


def fence(cloud: Cloud, host: str) -> None:
    cloud.store.run(lambda tx: tx.update(HOST, tx.get(HOST, host), forced_down=True))


def test_evacuation(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.68").status == 400
    cloud.beat_was(100, source)
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.68").status == 400  # silent is not off
    fence(cloud, source)
    assert cloud.act(key, "evacuate", {"host": source}, ADMIN, at="2.68").status == 400
    answer = cloud.act(key, "evacuate", {"onSharedStorage": False, "adminPass": "x"}, ADMIN)
    assert (answer.status, answer.json) == (200, {"adminPass": "x"})
    assert (cloud.status(key), host_of(cloud, key)) == ("REBUILD", target)
    cloud.agents[source][1]._driver.kill(key)  # type: ignore[attr-defined]
    cloud.settle(3, target)
    assert (cloud.status(key), running(cloud)) == ("ACTIVE", [target])
    assert (migration(cloud, key)["migration_type"], machines(cloud, source)) == ("evacuation", {key})
    # the host comes back: what it had is not its own any more
    cloud.beat(source, forced_down=False)
    settle(cloud)
    assert (machines(cloud, source), running(cloud)) == (set(), [target])


def test_an_evacuated_server_is_stopped_since_2_95(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.agents[source][1]._driver.kill(key)  # type: ignore[attr-defined]
    fence(cloud, source)
    assert cloud.act(key, "evacuate", {}, ADMIN, at="2.95").status == 200
    cloud.settle(3, target)
    assert (cloud.status(key), running(cloud)) == ("SHUTOFF", [])


# live


LIVE = {"host": None, "block_migration": "auto"}


def test_live_migration(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    assert cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30").status == 202
    assert (cloud.status(key), cloud.show(key)["OS-EXT-STS:task_state"]) == ("MIGRATING", "migrating")
    assert claims(cloud) == {"c1": 512, "c2": 512}
    (shown,) = cloud.get(f"/servers/{key}/migrations", ADMIN, at="2.23").json["migrations"]
    assert (shown["status"], shown["server_uuid"], shown["dest_compute"]) == ("preparing", key, target)
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", target, [target])
    assert {port["binding:host_id"] for port in cloud.ports()} == {target}
    assert (migration(cloud, key)["status"], machines(cloud, source)) == ("completed", set())
    assert cloud.get(f"/servers/{key}/migrations", ADMIN, at="2.23").json == {"migrations": []}
    assert claims(cloud) == {source: 0, target: 512}
    assert row(cloud, key)["seen"]["incoming"] is None


def test_a_paused_one_arrives_paused(cloud: Cloud) -> None:
    key, _, target = make(cloud)
    cloud.act(key, "pause")
    settle(cloud)
    body = {"host": None, "block_migration": True, "disk_over_commit": False}
    assert cloud.act(key, "os-migrateLive", body, ADMIN).status == 202
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key)) == ("PAUSED", target)


@pytest.mark.parametrize("moment", range(4))
def test_a_live_migration_is_cancelled(cloud: Cloud, moment: int) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30")
    for step in range(moment):
        cloud.settle(1, (target, source)[step % 2])
    number = migration(cloud, key)["id"]
    answer = cloud.delete(f"/servers/{key}/migrations/{number}", ADMIN, at="2.65")
    settle(cloud)
    assert running(cloud) == [host_of(cloud, key)]
    if moment < 2:
        assert (answer.status, cloud.status(key), host_of(cloud, key)) == (202, "ACTIVE", source)
        assert (migration(cloud, key)["status"], machines(cloud, target)) == ("cancelled", set())
    assert cloud.delete(f"/servers/{key}/migrations/{number}", ADMIN, at="2.65").status == 404


def test_block_migration_false_needs_shared_disks(cloud: Cloud) -> None:
    key, _, _ = make(cloud)
    body = {"host": None, "block_migration": False}
    assert cloud.act(key, "os-migrateLive", body, ADMIN, at="2.25").status == 400
    assert cloud.act(key, "os-migrateLive", body, ADMIN, at="2.34").status == 202
    assert (migration(cloud, key)["status"], cloud.status(key)) == ("error", "ACTIVE")


def test_force_complete(cloud: Cloud) -> None:
    key, _, target = make(cloud)
    cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30")
    number = migration(cloud, key)["id"]
    path = f"/servers/{key}/migrations/{number}/action"
    assert cloud.post(path, {"force_complete": None}, ADMIN, at="2.22").status == 400
    cloud.settle(1, target)
    assert cloud.post(path, {"force_complete": None}, ADMIN, at="2.22").status == 202
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key)) == ("ACTIVE", target)


def late(cloud: Cloud, key: str) -> None:
    """The phase's time is over."""

    def work(tx: Any) -> None:
        found = tx.get(SERVER, key)
        tx.update(SERVER, found, move=found["move"] | {"until": "2020-01-01T00:00:00.000000"})

    cloud.store.run(work)
    cloud.sweep()


def test_neither_host_tells_of_the_last_step(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30")
    cloud.settle(1, target)
    while row(cloud, key)["move"]["phase"] != "switching":
        cloud.settle(1, source)
    late(cloud, key)
    assert cloud.status(key) == "ERROR"
    assert "neither host tells" in cloud.show(key)["fault"]["message"]
    settle(cloud)  # one of them does
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", target, [target])


def test_the_target_went_down_within_the_last_step(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30")
    cloud.settle(1, target)
    while row(cloud, key)["move"]["phase"] != "switching":
        cloud.settle(1, source)
    cloud.agents[target][1]._driver.kill(key)  # type: ignore[attr-defined]
    fence(cloud, target)
    late(cloud, key)
    cloud.settle(3, source)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert migration(cloud, key)["status"] == "error"


@pytest.mark.parametrize("phase", ["copying", "preparing"])
def test_a_phase_that_is_overdue_is_undone(cloud: Cloud, phase: str) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "migrate" if phase == "copying" else "os-migrateLive", LIVE if phase == "preparing" else None, ADMIN)
    if phase == "preparing":
        cloud.act(key, "os-migrateLive", LIVE, ADMIN, at="2.30")
    assert row(cloud, key)["move"]["phase"] == phase
    late(cloud, key)
    settle(cloud)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
    assert (migration(cloud, key)["status"], machines(cloud, target)) == ("error", set())


def test_a_revert_from_a_host_that_died(cloud: Cloud) -> None:
    key, source, target = make(cloud)
    cloud.act(key, "migrate", who=ADMIN)
    settle(cloud)
    cloud.act(key, "revertResize")
    cloud.agents[target][1]._driver.kill(key)  # type: ignore[attr-defined]
    cloud.beat_was(100, target)
    late(cloud, key)
    assert cloud.status(key) == "ERROR"  # silent is not off
    fence(cloud, target)
    cloud.sweep()
    cloud.settle(3, source)
    assert (cloud.status(key), host_of(cloud, key), running(cloud)) == ("ACTIVE", source, [source])
