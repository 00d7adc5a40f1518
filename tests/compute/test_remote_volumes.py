"""Volumes on one host, servers on another: attached, grown, copied and given back through the network."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import IMAGE_ID, VOLUME, Cloud
from trilith.placement.hosts import HOSTED
from trilith.volume.volumes import VOLUME as VOLUME_NOUN

Doc = dict[str, Any]


@pytest.fixture
def cloud(cloud: Cloud, tmp_path: Path) -> Cloud:
    """Also ``s1``, which keeps all volumes, and ``c2``, where servers run: c1 takes none of either."""
    cloud.add_host(tmp_path, "s1", ["storage"])
    cloud.add_host(tmp_path, "c2", ["compute"])
    cloud.beat("c1", disabled=True, storage_disabled=True)
    return cloud


def settle(cloud: Cloud, rounds: int = 3) -> None:
    for _ in range(rounds):
        for host in cloud.agents:
            cloud.settle(1, host)


def want(cloud: Cloud, kind: str, host: str, key: str) -> Doc:
    return next(doc for doc in cloud.store.read(lambda tx: HOSTED[kind].wants(tx, host)) if doc["id"] == key)


def row(cloud: Cloud, volume: str) -> Doc:
    return cloud.store.read(lambda tx: tx.get(VOLUME_NOUN, volume))


def make(cloud: Cloud) -> tuple[str, str]:
    """A server on c2 and a volume on s1."""
    server, volume = cloud.server(), cloud.volume()
    settle(cloud)
    assert (cloud.show(server, ADMIN)["OS-EXT-SRV-ATTR:host"], row(cloud, volume)["host"]) == ("c2", "s1")
    return server, volume


def attach(cloud: Cloud, server: str, volume: str) -> None:
    answer = cloud.post(f"/servers/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    assert answer.status == 200, answer.content


def detach(cloud: Cloud, server: str, volume: str) -> None:
    assert cloud.delete(f"/servers/{server}/os-volume_attachments/{volume}").status == 202


def test_a_volume_of_another_host_is_attached_and_given_back(cloud: Cloud) -> None:
    server, volume = make(cloud)
    attach(cloud, server, volume)
    assert cloud.volume_status(volume) == "attaching"
    (disk,) = [d for d in want(cloud, "server", "c2", server)["disks"] if d["kind"] == "volume"]
    assert (disk["path"], disk["nbd"]) == (None, None)  # the machine waits
    ((attachment, key),) = want(cloud, "volume", "s1", volume)["export"]["keys"].items()
    cloud.settle(1, "s1")
    (disk,) = [d for d in want(cloud, "server", "c2", server)["disks"] if d["kind"] == "volume"]
    export = row(cloud, volume)["export"]
    place = {"address": export["address"], "port": export["port"], "name": volume}
    assert (disk["path"], disk["nbd"]) == (None, place | {"user": attachment, "key": key})
    settle(cloud)
    assert cloud.volume_status(volume) == "in-use"
    # it stays busy until its host has closed it
    detach(cloud, server, volume)
    cloud.settle(2, "c2")
    assert want(cloud, "volume", "s1", volume)["export"] is None
    assert cloud.volume_status(volume) == "detaching"
    cloud.settle(1, "s1")
    assert cloud.volume_status(volume) == "available"
    assert row(cloud, volume)["export"] is None
    attach(cloud, server, volume)
    (again,) = want(cloud, "volume", "s1", volume)["export"]["keys"].values()
    assert again != key
    settle(cloud)
    assert cloud.volume_status(volume) == "in-use"


def test_no_key_is_in_sql_or_with_other_hosts(cloud: Cloud) -> None:
    server, volume = make(cloud)
    attach(cloud, server, volume)
    (key,) = want(cloud, "volume", "s1", volume)["export"]["keys"].values()
    settle(cloud)
    for table in (VOLUME_NOUN.table, *(noun.table for noun in (_server(), _attachment()))):
        assert key not in str(cloud.store.read(lambda tx: tx.select(table.select())))  # noqa: B023
    for host in ("c1", "s1", "c2"):
        wants = str(cloud.store.read(lambda tx: {kind: it.wants(tx, host) for kind, it in HOSTED.items()}))  # noqa: B023
        assert (key in wants) == (host != "c1")


def _server() -> Any:
    from trilith.compute.servers import SERVER

    return SERVER


def _attachment() -> Any:
    from trilith.volume.attachments import ATTACHMENT

    return ATTACHMENT


def test_a_server_boots_from_a_volume_of_another_host(cloud: Cloud) -> None:
    root = {"source_type": "image", "destination_type": "volume", "uuid": IMAGE_ID, "boot_index": 0, "volume_size": 2}
    root["delete_on_termination"] = True
    server = cloud.server(imageRef="", block_device_mapping_v2=[root])
    settle(cloud)
    shown = cloud.show(server, ADMIN)
    (attached,) = shown["os-extended-volumes:volumes_attached"]
    assert (shown["status"], shown["OS-EXT-SRV-ATTR:host"], row(cloud, attached["id"])["host"]) == (
        "ACTIVE",
        "c2",
        "s1",
    )
    cloud.act(server, "reboot", {"type": "HARD"})
    settle(cloud)
    assert cloud.show(server)["status"] == "ACTIVE"
    # the volume goes with the server
    cloud.delete(f"/servers/{server}")
    settle(cloud)
    assert cloud.volume_status(attached["id"]) == "gone"


def test_it_grows_in_order(cloud: Cloud) -> None:
    """First on its host, then the machine is told."""
    server, volume = make(cloud)
    attach(cloud, server, volume)
    settle(cloud)
    body = {"os-extend": {"new_size": 3}}
    assert cloud.api.post(f"{VOLUME}/volumes/{volume}/action", body, at="volume 3.42").status == 202
    assert [d["size_gib"] for d in want(cloud, "server", "c2", server)["disks"] if d["kind"] == "volume"] == [1]
    cloud.settle(1, "s1")
    assert [d["size_gib"] for d in want(cloud, "server", "c2", server)["disks"] if d["kind"] == "volume"] == [3]
    cloud.settle(1, "s1")
    assert _newest_action(cloud, server)["events"][0]["result"] is None  # the machine does not know yet
    settle(cloud)
    assert cloud.volume_status(volume) == "in-use"
    action = _newest_action(cloud, server)
    event = action["events"][0]
    assert (action["action"], event["event"], event["result"]) == (
        "extend_volume",
        "compute_extend_volume",
        "Success",
    )


def _newest_action(cloud: Cloud, server: str) -> Doc:
    path = f"/servers/{server}/os-instance-actions"
    newest = cloud.get(path).json["instanceActions"][0]
    return dict(cloud.get(f"{path}/{newest['request_id']}", at="2.51").json["instanceAction"])


def test_several_servers_have_one_volume_by_network_only(cloud: Cloud) -> None:
    """A server of the volume's own host too: one program alone can have the file open."""
    cloud.beat("c1", disabled=False, storage_disabled=False)
    cloud.beat("s1", storage_disabled=True)
    volume = cloud.volume(multiattach=True)
    first, second = (
        cloud.server(ADMIN, availability_zone=f"nova:{host}", networks="none", at="2.60") for host in ("c1", "c2")
    )
    settle(cloud)
    assert row(cloud, volume)["host"] == "c1"
    for server in (first, second):
        body = {"volumeAttachment": {"volumeId": volume}}
        cloud.store.run(lambda tx: tx.update(VOLUME_NOUN, tx.get(VOLUME_NOUN, volume), project_id="pa"))
        answer = cloud.post(f"/servers/{server}/os-volume_attachments", body, ADMIN, at="2.60")
        assert answer.status == 200, answer.content
        settle(cloud)
    assert len(row(cloud, volume)["export"]["clients"]) == 2
    for host, server in (("c1", first), ("c2", second)):
        (disk,) = [d for d in want(cloud, "server", host, server)["disks"] if d["kind"] == "volume"]
        assert disk["path"] is None
        assert disk["nbd"]["user"] in row(cloud, volume)["export"]["clients"]


def test_servers_are_put_beside_their_volumes(cloud: Cloud, tmp_path: Path) -> None:
    cloud.beat("c1", disabled=False, storage_disabled=False)
    cloud.beat("s1", storage_disabled=True)
    volume = cloud.volume()
    cloud.server(ADMIN, availability_zone="nova:c1", networks="none", at="2.60")  # so that c2 has more memory left
    device = {"source_type": "volume", "destination_type": "volume", "uuid": volume, "boot_index": -1}
    near = cloud.server(block_device_mapping_v2=[device])
    assert cloud.show(near, ADMIN)["OS-EXT-SRV-ATTR:host"] == "c1"
    cloud.beat("c1", disabled=True)  # preferred, not required
    volume = cloud.volume()
    far = cloud.server(block_device_mapping_v2=[device | {"uuid": volume}])
    settle(cloud)
    shown = cloud.show(far, ADMIN)
    assert (shown["OS-EXT-SRV-ATTR:host"], shown["status"], cloud.volume_status(volume)) == ("c2", "ACTIVE", "in-use")
