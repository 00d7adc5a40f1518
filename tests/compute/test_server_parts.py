"""What belongs to a server: volumes, interfaces, metadata, tags, consoles, the record of what was done."""

from typing import Any

import pytest

from tests.client import ADMIN, MEMBER, SERVICE
from tests.compute.conftest import IMAGE_ID, NETWORK, VOLUME, Cloud
from trilith.compute.server_wants import report
from trilith.compute.servers import SERVER
from trilith.network.ports import PORT


def test_volumes(cloud: Cloud) -> None:
    key, volume = cloud.server(), cloud.volume()
    path = f"/servers/{key}/os-volume_attachments"
    answer = cloud.post(path, {"volumeAttachment": {"volumeId": volume}})
    expected = {"id": volume, "volumeId": volume, "serverId": key, "device": "/dev/vdb"}
    assert (answer.status, answer.json["volumeAttachment"]) == (200, expected)
    assert cloud.volume_status(volume) == "attaching"
    cloud.settle()
    assert cloud.volume_status(volume) == "in-use"
    assert cloud.post(path, {"volumeAttachment": {"volumeId": volume}}).status == 400
    (newest,) = cloud.get(path, at="2.89").json["volumeAttachments"]
    assert newest.keys() == {
        "volumeId", "serverId", "device", "attachment_id", "bdm_uuid", "tag", "delete_on_termination",
    }  # fmt: skip
    assert cloud.show(key)["os-extended-volumes:volumes_attached"] == [{"id": volume}]
    assert cloud.api.delete(f"{VOLUME}/volumes/{volume}").status == 400
    assert cloud.delete(f"{path}/{volume}").status == 202
    assert cloud.volume_status(volume) == "detaching"
    cloud.settle()
    assert (cloud.volume_status(volume), cloud.get(path).json) == ("available", {"volumeAttachments": []})
    assert cloud.delete(f"{path}/{volume}").status == 404
    empty = cloud.post(path, {"volumeAttachment": {"volumeId": volume}}, at="2.101")
    assert (empty.status, empty.content) == (202, b"")


def test_volumes_go_with_their_server_or_stay(cloud: Cloud) -> None:
    stays, goes = cloud.volume(), cloud.volume()
    key = cloud.server()
    path = f"/servers/{key}/os-volume_attachments"
    for volume, flag in ((stays, False), (goes, True)):
        body = {"volumeAttachment": {"volumeId": volume, "delete_on_termination": flag}}
        assert cloud.post(path, body, at="2.79").status == 200
        cloud.settle()
    assert cloud.delete(f"/servers/{key}").status == 204
    cloud.settle()
    assert (cloud.volume_status(stays), cloud.volume_status(goes)) == ("available", "gone")


def test_boot_from_a_volume(cloud: Cloud) -> None:
    device: dict[str, Any] = {"source_type": "image", "destination_type": "volume", "uuid": IMAGE_ID, "boot_index": 0}
    assert cloud.try_server(imageRef="", block_device_mapping_v2=[device]).status == 400
    device |= {"volume_size": 2, "delete_on_termination": True}
    key = cloud.server(imageRef="", block_device_mapping_v2=[device])
    shown = cloud.show(key)
    assert (shown["status"], shown["image"]) == ("ACTIVE", "")
    (attached,) = shown["os-extended-volumes:volumes_attached"]
    assert cloud.volume_status(attached["id"]) == "in-use"
    assert cloud.delete(f"/servers/{key}/os-volume_attachments/{attached['id']}").status == 403
    cloud.delete(f"/servers/{key}")
    cloud.settle()
    assert cloud.volume_status(attached["id"]) == "gone"
    for devices in (
        [],
        [device | {"boot_index": 1}],
        [device, device],
        [{"source_type": "volume", "boot_index": 0, "uuid": "44444444-4444-4444-8444-444444444444"}],
        [{"source_type": "blank", "destination_type": "local", "boot_index": -1, "volume_size": 1}],
    ):
        assert cloud.try_server(imageRef="", block_device_mapping_v2=devices).status == 400, devices


def test_interfaces(cloud: Cloud) -> None:
    key = cloud.server()
    path = f"/servers/{key}/os-interface"
    made = cloud.post(path, {"interfaceAttachment": {"net_id": cloud.network_id}})
    assert made.status == 200
    port = made.json["interfaceAttachment"]["port_id"]
    cloud.settle()
    assert len(cloud.taps.plugged()) == 2
    assert len(cloud.get(f"/servers/{key}/ips").json["addresses"]["net"]) == 2
    assert cloud.get(f"/servers/{key}/ips/none").status == 404
    assert len(cloud.get(path).json["interfaceAttachments"]) == 2
    assert "tag" in cloud.get(f"{path}/{port}", at="2.70").json["interfaceAttachment"]
    assert cloud.delete(f"{path}/{port}").status == 202
    cloud.settle()
    assert cloud.get(f"{path}/{port}").status == 404
    assert len(cloud.taps.plugged()) == 1
    assert cloud.post(path, {"interfaceAttachment": {"port_id": port, "net_id": port}}).status == 400


def test_nobody_takes_a_machines_port_by_writing_a_device_id(cloud: Cloud) -> None:
    from trilith.compute.server_wants import wants

    key, other = cloud.server(), cloud.server(name="s2")
    (mine,) = cloud.get(f"/servers/{key}/os-interface").json["interfaceAttachments"]
    path = f"{NETWORK}/ports/{mine['port_id']}"
    for who in (MEMBER, ADMIN):
        for change in ({"device_id": other}, {"device_id": ""}, {"device_owner": "compute:elsewhere"}):
            assert cloud.api.put(path, {"port": change}, who).status == 409, change
    pretended = {"network_id": cloud.network_id, "device_id": key, "device_owner": "compute:nova"}
    assert cloud.api.post(f"{NETWORK}/ports", {"port": pretended}, ADMIN).status == 201
    cloud.store.run(lambda tx: tx.update(PORT, tx.get(PORT, mine["port_id"]), device_id=other))  # and if it were
    nics = {
        want["id"]: [nic["port_id"] for nic in want["nics"]] for want in cloud.store.read(lambda tx: wants(tx, "c1"))
    }
    assert nics[key] == [mine["port_id"]]
    assert len(nics[other]) == 1
    assert len(cloud.show(key)["addresses"]["net"]) == 1
    assert [s["id"] for s in cloud.get(f"/servers?ip={mine['fixed_ips'][0]['ip_address']}$").json["servers"]] == [key]


def test_metadata_and_tags(cloud: Cloud) -> None:
    key = cloud.server(metadata={"a": "1"})
    path = f"/servers/{key}/metadata"
    assert cloud.post(path, {"metadata": {"b": "2"}}).json == {"metadata": {"a": "1", "b": "2"}}
    assert cloud.put(path, {"metadata": {"c": "3"}}).json == {"metadata": {"c": "3"}}
    assert cloud.put(f"{path}/d", {"meta": {"d": "4"}}).json == {"meta": {"d": "4"}}
    assert cloud.put(f"{path}/d", {"meta": {"e": "4"}}).status == 400
    assert cloud.get(f"{path}/x").status == 404
    assert cloud.delete(f"{path}/c").status == 204
    assert cloud.get(path).json == {"metadata": {"d": "4"}}
    assert cloud.post(path, {"metadata": {f"k{n}": "v" for n in range(128)}}).status == 403
    tags = f"/servers/{key}/tags"
    assert cloud.get(tags).status == 404
    assert cloud.put(f"{tags}/web", None, at="2.26").status == 201
    assert cloud.put(f"{tags}/web", None, at="2.26").status == 204
    assert cloud.put(tags, {"tags": ["x", "y"]}, at="2.26").json == {"tags": ["x", "y"]}
    assert cloud.put(tags, {"tags": ["x/y"]}, at="2.26").status == 400
    assert [s["id"] for s in cloud.get("/servers?tags=x,y", at="2.26").json["servers"]] == [key]
    assert cloud.get("/servers?not-tags-any=x", at="2.26").json["servers"] == []
    assert cloud.delete(f"{tags}/z", at="2.26").status == 404
    assert cloud.delete(tags, at="2.26").status == 204


def test_the_record_of_what_was_done(cloud: Cloud) -> None:
    key = cloud.server()
    cloud.do(key, "os-stop")
    path = f"/servers/{key}/os-instance-actions"
    actions = cloud.get(path).json["instanceActions"]
    assert [a["action"] for a in actions] == ["stop", "create"]
    assert "updated_at" not in actions[0]
    one = cloud.get(f"{path}/{actions[1]['request_id']}", ADMIN).json["instanceAction"]
    assert one["events"][0]["event"] == "compute__do_build_and_run_instance"
    assert (one["events"][0]["result"], "hostId" in one["events"][0]) == ("Success", False)
    assert "events" not in cloud.get(f"{path}/{actions[1]['request_id']}").json["instanceAction"]
    assert "hostId" in cloud.get(f"{path}/{actions[1]['request_id']}", at="2.62").json["instanceAction"]["events"][0]
    cloud.delete(f"/servers/{key}")
    cloud.settle()
    assert cloud.get(path).status == 404
    actions = cloud.get(path, at="2.21").json["instanceActions"]
    assert [a["action"] for a in actions] == ["delete", "stop", "create"]


def test_what_keeps_a_host_from_going_on_is_told(cloud: Cloud) -> None:
    cloud.images.away = "The image store does not answer."
    key = cloud.server()
    path = f"/servers/{key}/os-instance-actions"

    def event() -> dict[str, Any]:
        newest = cloud.get(path).json["instanceActions"][0]["request_id"]
        found: dict[str, Any] = cloud.get(f"{path}/{newest}", at="2.84").json["instanceAction"]["events"][0]
        return found

    assert cloud.status(key) == "BUILD"
    assert (event()["result"], event()["details"]) == (None, "The image store does not answer.")
    cloud.images.away = ""
    cloud.settle()
    assert cloud.status(key) == "ACTIVE"
    assert (event()["result"], event()["details"]) == ("Success", None)
    full = "The machine waits: its disk has no room or does not answer."
    for error in (full, "else", None, full):
        row = cloud.store.read(lambda tx: tx.get(SERVER, key))
        seen = row["seen"] | {"error": error}
        cloud.store.run(lambda tx: report(tx, "c1", key, row["wanted"], seen, None))  # noqa: B023
    assert cloud.status(key) == "ACTIVE"
    assert [a["action"] for a in cloud.get(path).json["instanceActions"]] == ["problem", "create"]
    assert (event()["event"], event()["result"], event()["details"]) == ("compute_machine_problem", "Error", full)


def test_consoles(cloud: Cloud) -> None:
    key = cloud.server()
    body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    assert cloud.post(f"/servers/{key}/remote-consoles", body).status == 404
    url = cloud.post(f"/servers/{key}/remote-consoles", body, at="2.6").json["remote_console"]["url"]
    assert cloud.act(key, "os-getVNCConsole", {"type": "novnc"}).status == 200
    assert cloud.act(key, "os-getVNCConsole", {"type": "novnc"}, at="2.6").status == 400
    token = url.rsplit("token%3D", 1)[1]
    validate = "/agent/v1/consoles/validate"
    where = cloud.api.post(validate, {"token": token}, SERVICE)
    assert where.json == {"host": "c1", "server_id": key, "kind": "vnc"}
    assert cloud.api.post(validate, {"token": token}).status == 403
    assert cloud.api.post(validate, {"token": "x"}, SERVICE).status == 404
    cloud.do(key, "os-stop")
    assert cloud.post(f"/servers/{key}/remote-consoles", body, at="2.6").status == 409
    assert cloud.act(key, "os-getConsoleOutput", {"length": 5}).status == 503


def test_what_a_guest_reads(cloud: Cloud) -> None:
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh19lQV4wXDtX/wx4MuWocFC0c+JWCuqF9rn4F/1Vxy"
    assert cloud.post("/os-keypairs", {"keypair": {"name": "k", "public_key": public}}).status == 200
    from trilith.compute.server_wants import wants

    cloud.server(key_name="k", metadata={"a": "b"}, user_data="aGVsbG8=", config_drive=True, settled=False)
    (want,) = cloud.store.read(lambda tx: wants(tx, "c1"))
    assert want["metadata"]["public_keys"] == {"k": public}
    assert (want["metadata"]["meta"], want["metadata"]["hostname"]) == ({"a": "b"}, "s1")
    assert (want["user_data"], want["config_drive"]) == ("aGVsbG8=", True)
    assert want["network_data"]["links"][0]["vif_id"] == want["nics"][0]["port_id"]
    assert want["admin_password"]
    cloud.settle()
    (want,) = cloud.store.read(lambda tx: wants(tx, "c1"))
    assert want["admin_password"] is None


@pytest.mark.parametrize("path", ["/os-server-password", "/topology"])
def test_small_views(cloud: Cloud, path: str) -> None:
    assert cloud.get(f"/servers/{cloud.server()}{path}", at="2.78").status == 200


def test_what_stays_undone_ends(cloud: Cloud) -> None:
    key = cloud.server(settled=False)
    from trilith.compute.instance_actions import ACTION

    cloud.sweep()
    assert cloud.status(key) == "BUILD"
    long_ago = "2020-01-01T00:00:00.000000"
    cloud.store.run(lambda tx: tx.execute(ACTION.table.update().values(start_time=long_ago)))
    cloud.sweep()
    shown = cloud.show(key)
    assert (shown["status"], shown["fault"]["message"]) == ("ERROR", "create did not finish within 600 s on host c1.")
    cloud.delete(f"/servers/{key}")
    cloud.beat(forced_down=True)
    cloud.store.run(lambda tx: tx.execute(ACTION.table.update().values(start_time=long_ago)))
    cloud.sweep()
    assert cloud.get(f"/servers/{key}").status == 404
