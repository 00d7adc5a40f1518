"""A server of a lost host starts on another: what becomes of its rows, its volumes and its ports, and of what the lost
host still has of it. Where it goes, and what is kept for it."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import IMAGE_ID, NETWORK, Cloud
from tests.compute.test_remote_volumes import row as volume_row
from tests.compute.test_remote_volumes import settle, want
from tests.notices import Told
from trilith.compute import takeover, takeovers
from trilith.compute.takeovers import TAKEOVER
from trilith.drivers.qemu_fake import FakeQemu
from trilith.kernel.store import Tx

Doc = dict[str, Any]
FROM_VOLUME = [{"boot_index": 0, "uuid": IMAGE_ID, "source_type": "image", "destination_type": "volume"}]
FROM_VOLUME[0] |= {"volume_size": 1, "delete_on_termination": True}


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    """``s1`` keeps all volumes; servers run on c2, c3 and c4."""
    cloud.add_host(tmp_path, "s1", ["storage"])
    for name in ("c2", "c3", "c4"):
        cloud.add_host(tmp_path, name, ["compute"])
    cloud.beat("c1", disabled=True, storage_disabled=True)
    return cloud


def alive(cloud: Cloud, *but: str) -> None:
    """However slow this machine is: every host was heard just now."""
    for name in {*cloud.agents} - {*but}:
        cloud.beat(name)


def lose(cloud: Cloud, host: str, *down: str) -> None:
    """The host is fenced, and all that can go goes; hosts that are `down` besides stay so."""

    def begin(tx: Tx) -> None:
        new = takeovers.advance(tx, tx.insert(TAKEOVER, {"id": takeover.new_id(), "host": host}), "fenced")
        for server in takeover.machines(tx, new, 50):
            takeover.move(tx, tx.get(TAKEOVER, new["id"]), server["id"], 50)

    alive(cloud, host, *down)
    cloud.beat_was(30, host)
    cloud.store.run(begin)


def moves(cloud: Cloud) -> list[Doc]:
    found: list[Doc] = cloud.store.read(takeovers.history)[0]["moves"]
    return found


def volume_backed(cloud: Cloud, host: str, **fields: Any) -> str:
    alive(cloud)
    zone = {"availability_zone": f"nova:{host}"}
    server = cloud.server(ADMIN, imageRef=..., block_device_mapping_v2=FROM_VOLUME, **zone, **fields)
    settle(cloud, 5)
    assert host_of(cloud, server) == host
    assert cloud.show(server, ADMIN)["status"] == "ACTIVE"
    return server


def host_of(cloud: Cloud, server: str) -> str:
    return str(cloud.show(server, ADMIN)["OS-EXT-SRV-ATTR:host"])


def qemu(cloud: Cloud, host: str) -> FakeQemu:
    driver = cloud.agents[host][1]._driver  # type: ignore[attr-defined]
    assert isinstance(driver, FakeQemu)
    return driver


def test_rows_volumes_and_ports_go_with_it(cloud: Cloud) -> None:
    server = volume_backed(cloud, "c2")
    ((volume, old),) = ((d["volume_id"], d["nbd"]["user"]) for d in want(cloud, "server", "c2", server)["disks"])
    told = Told(cloud.store)
    lose(cloud, "c2")
    target = host_of(cloud, server)
    assert target in ("c3", "c4")
    assert not any(doc["id"] == server for doc in cloud.store.read(lambda tx: _wants(tx, "c2")))
    # its new attachment opens the volume, the old one's key does not any more; before that, the machine waits
    keys = want(cloud, "volume", "s1", volume)["export"]["keys"]
    assert old not in keys
    assert len(keys) == 1
    assert [disk["nbd"] for disk in want(cloud, "server", target, server)["disks"]] == [None]
    cloud.settle(1, "s1")
    assert [disk["nbd"]["user"] for disk in want(cloud, "server", target, server)["disks"]] == [*keys]
    ports = cloud.api.get(f"{NETWORK}/ports?device_id={server}", ADMIN).json["ports"]
    assert [port["binding:host_id"] for port in ports] == [target]
    settle(cloud)
    assert cloud.show(server, ADMIN)["status"] == "ACTIVE"
    assert qemu(cloud, target)._read(server)["process"]
    # the host that is back has nothing of it, and the volume is untouched
    assert server not in qemu(cloud, "c2").known()
    assert volume_row(cloud, volume)["status"] == "in-use"
    actions = cloud.get(f"/servers/{server}/os-instance-actions", ADMIN).json["instanceActions"]
    assert actions[0]["action"] == "evacuate"
    (migration,) = cloud.get("/os-migrations", ADMIN, at="2.80").json["migrations"]
    found = [migration[name] for name in ("migration_type", "status", "source_compute", "dest_compute")]
    assert found == ["evacuation", "done", "c2", target]
    types = told.types()
    assert "compute.instance.rebuild.scheduled" in types
    assert "host.takeover.fenced" in types
    assert cloud.delete(f"/servers/{server}", ADMIN).status == 204
    settle(cloud, 4)
    assert cloud.volume_status(volume) == "gone"


def _wants(tx: Tx, host: str) -> list[Doc]:
    from trilith.placement.hosts import HOSTED

    return HOSTED["server"].wants(tx, host)


def test_it_is_done_once(cloud: Cloud) -> None:
    server = volume_backed(cloud, "c2")
    lose(cloud, "c2")
    before = cloud.store.read(lambda tx: want(cloud, "server", host_of(cloud, server), server))

    def again(tx: Tx) -> None:
        takeover.move(tx, takeovers.under_way(tx)["c2"], server, 50)

    cloud.store.run(again)
    assert want(cloud, "server", host_of(cloud, server), server) == before


def test_what_lies_on_the_host_stays_there(cloud: Cloud) -> None:
    local = cloud.server(ADMIN, availability_zone="nova:c2", name="local")
    mixed = volume_backed(cloud, "c2", flavorRef="1", name="rescued")
    lose(cloud, "c2")
    assert (host_of(cloud, local), host_of(cloud, mixed) != "c2") == ("c2", True)
    (entry,) = (move for move in moves(cloud) if move["server_id"] == local)
    assert (entry["to"], entry["why"], entry["again"]) == (None, "Its disk vda lies on the host.", False)


def test_volumes_of_a_storage_host_that_is_down_are_waited_for(cloud: Cloud) -> None:
    server = volume_backed(cloud, "c2")
    cloud.beat_was(30, "s1")
    lose(cloud, "c2", "s1")
    assert host_of(cloud, server) == "c2"
    assert moves(cloud)[0]["why"] == "Its volumes lie on s1, which is down."
    assert moves(cloud)[0]["again"]


def test_groups_and_zones_are_kept(cloud: Cloud) -> None:
    body = {"name": "apart", "policy": "anti-affinity"}
    group = cloud.post("/os-server-groups", {"server_group": body}, ADMIN, at="2.64").json["server_group"]["id"]
    hints = {"group": group}
    one, other = volume_backed(cloud, "c2", hints=hints), volume_backed(cloud, "c3", hints=hints)
    lose(cloud, "c2")
    assert (host_of(cloud, one), host_of(cloud, other)) == ("c4", "c3")


def test_hosts_in_reserve_are_for_takeovers(cloud: Cloud) -> None:
    server = volume_backed(cloud, "c2")
    volume_backed(cloud, "c3")
    cloud.store.run(lambda tx: takeovers.set_control(tx, reserve_hosts=1))
    alive(cloud)
    assert host_of(cloud, cloud.server()) in ("c2", "c3")
    asked = cloud.try_server(ADMIN, availability_zone="nova:c4")
    assert cloud.show(asked.json["server"]["id"], ADMIN)["status"] == "ERROR"
    cloud.beat("c3", disabled=True)
    lose(cloud, "c2")
    assert host_of(cloud, server) == "c4"


def test_what_the_api_shows(cloud: Cloud) -> None:
    told = Told(cloud.store)
    answer = cloud.put(
        "/os-services/force-down", {"host": "c2", "binary": "nova-compute", "forced_down": True}, ADMIN, "2.11"
    )
    assert answer.status == 200
    (payload,) = (payload for name, payload in told() if name == "service.update")
    assert (payload["host"], payload["forced_down"]) == ("c2", True)
    services = cloud.get("/os-services?host=c2", ADMIN, at="2.53").json["services"]
    assert [(each["state"], each["forced_down"]) for each in services] == [("down", True)]
    hypervisors = cloud.get("/os-hypervisors", ADMIN, at="2.53").json["hypervisors"]
    assert {each["hypervisor_hostname"]: each["state"] for each in hypervisors}["c2"] == "down"
