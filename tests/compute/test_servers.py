"""The life of a server, through HTTP, over the real plan and a pretended hypervisor."""

import pytest

from tests.client import ADMIN, READER, STRANGER
from tests.compute.conftest import IMAGE_ID, Cloud
from trilith.kernel.reconcile import Act


def test_life(cloud: Cloud) -> None:
    answer = cloud.try_server()
    assert answer.status == 202
    assert set(answer.json["server"]) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    key = answer.json["server"]["id"]
    before = cloud.show(key)
    assert (before["status"], before["OS-EXT-STS:task_state"]) == ("BUILD", "spawning")
    cloud.settle()
    shown = cloud.show(key)
    assert shown["status"] == "ACTIVE"
    assert shown["OS-EXT-STS:power_state"] == 1
    assert shown["OS-SRV-USG:launched_at"]
    assert [a["version"] for a in shown["addresses"]["net"]] == [4]
    assert shown["security_groups"] == [{"name": "default"}]
    assert cloud.get(f"/servers/{key}", STRANGER).status == 404
    assert cloud.delete(f"/servers/{key}", READER).status == 403
    assert cloud.delete(f"/servers/{key}").status == 204
    assert cloud.show(key)["OS-EXT-STS:task_state"] == "deleting"
    cloud.settle()
    assert cloud.get(f"/servers/{key}").status == 404
    assert cloud.qemu.known() == set()
    assert not cloud.taps.plugged()
    assert cloud.ports() == []
    deleted = cloud.get("/servers/detail?deleted=True&all_tenants=1", ADMIN).json["servers"]
    assert [(s["id"], s["status"]) for s in deleted] == [(key, "DELETED")]
    assert cloud.get("/servers/detail?deleted=True").json["servers"] == []


def test_power(cloud: Cloud) -> None:
    key = cloud.server()
    for verb, body, status in (
        ("os-stop", None, "SHUTOFF"),
        ("os-start", None, "ACTIVE"),
        ("reboot", {"type": "SOFT"}, "ACTIVE"),
        ("reboot", {"type": "HARD"}, "ACTIVE"),
        ("pause", None, "PAUSED"),
        ("unpause", None, "ACTIVE"),
        ("suspend", None, "SUSPENDED"),
        ("resume", None, "ACTIVE"),
    ):
        cloud.do(key, verb, body)
        assert cloud.status(key) == status, verb
    wrong = cloud.act(key, "os-start")
    assert wrong.status == 409
    message = wrong.json["conflictingRequest"]["message"]
    assert message == f"Cannot 'start' instance {key} while it is in vm_state active"
    assert cloud.act(key, "nothing").status == 400
    assert cloud.act(key, "reboot", {"type": "SOFT"}).status == 202
    assert cloud.status(key) == "REBOOT"
    assert cloud.act(key, "reboot", {"type": "SOFT"}).status == 409


def test_the_guest_switches_itself_off(cloud: Cloud) -> None:
    key = cloud.server()
    cloud.qemu.powerdown(key)
    cloud.settle()
    assert cloud.status(key) == "SHUTOFF"
    cloud.do(key, "os-start")
    assert cloud.status(key) == "ACTIVE"


def test_locks(cloud: Cloud) -> None:
    key = cloud.server()
    assert cloud.act(key, "lock", {"locked_reason": "x"}).status == 400
    assert cloud.act(key, "lock", {"locked_reason": "mine"}, at="2.73").status == 202
    assert cloud.act(key, "os-stop").status == 409
    assert cloud.delete(f"/servers/{key}").status == 409
    shown = cloud.show(key, at="2.73")
    assert (shown["locked"], shown["locked_reason"]) == (True, "mine")
    assert [s["id"] for s in cloud.get("/servers?locked=true", at="2.73").json["servers"]] == [key]
    assert cloud.act(key, "unlock").status == 202
    cloud.do(key, "os-stop")


def test_rebuild(cloud: Cloud) -> None:
    key = cloud.server()
    answer = cloud.act(key, "rebuild", {"imageRef": IMAGE_ID, "name": "new", "metadata": {"a": "b"}})
    assert answer.status == 202
    assert (answer.json["server"]["name"], answer.json["server"]["status"]) == ("new", "REBUILD")
    assert "OS-EXT-STS:vm_state" not in answer.json["server"]
    cloud.settle()
    assert cloud.status(key) == "ACTIVE"
    cloud.do(key, "os-stop")
    full = cloud.act(key, "rebuild", {"imageRef": IMAGE_ID}, at="2.75")
    assert full.json["server"]["OS-EXT-STS:task_state"] == "rebuilding"
    cloud.settle()
    assert cloud.status(key) == "SHUTOFF"


def test_resize(cloud: Cloud) -> None:
    key = cloud.server()
    assert cloud.act(key, "resize", {"flavorRef": "1"}).status == 400
    assert cloud.act(key, "resize", {"flavorRef": "none"}).status == 400
    assert cloud.act(key, "confirmResize").status == 409
    assert cloud.act(key, "resize", {"flavorRef": "2"}).status == 202
    assert cloud.status(key) == "RESIZE"
    cloud.settle()
    assert cloud.status(key) == "VERIFY_RESIZE"
    cloud.do(key, "revertResize")
    assert cloud.status(key) == "ACTIVE"
    assert cloud.show(key)["flavor"]["id"] == "1"
    cloud.do(key, "resize", {"flavorRef": "2"})
    assert cloud.do(key, "confirmResize").status == 204
    assert cloud.status(key) == "ACTIVE"
    assert cloud.show(key, at="2.47")["flavor"]["vcpus"] == 2
    migrations = cloud.get("/os-migrations", ADMIN, at="2.59").json["migrations"]
    assert [m["status"] for m in migrations] == ["confirmed", "reverted"]


def test_images_of_servers(cloud: Cloud) -> None:
    key = cloud.server()
    old = cloud.act(key, "createImage", {"name": "snap", "metadata": {"k": "v"}})
    assert old.status == 202
    image_id = old.headers["location"].rsplit("/", 1)[1]
    assert cloud.show(key)["OS-EXT-STS:task_state"] == "image_snapshot"
    assert cloud.act(key, "createImage", {"name": "again"}).status == 409
    cloud.settle()
    assert cloud.show(key)["OS-EXT-STS:task_state"] is None
    image = cloud.api.get(f"/image/v2/images/{image_id}").json
    assert (image["status"], image["k"], image["image_type"]) == ("active", "v", "snapshot")
    new = cloud.act(key, "createImage", {"name": "snap"}, at="2.45")
    assert set(new.json) == {"image_id"}
    for n in range(3):
        cloud.settle()
        body = {"name": f"b{n}", "backup_type": "daily", "rotation": 2}
        assert cloud.act(key, "createBackup", body).status == 202
    cloud.settle()
    names = [i["name"] for i in cloud.api.get("/image/v2/images?sort=name:asc").json["images"]]
    assert names == ["b1", "b2", "guest", "snap", "snap"]


@pytest.mark.parametrize("copied", [False, True])
def test_an_image_that_is_deleted_while_it_is_made_holds_nothing_up(cloud: Cloud, copied: bool) -> None:
    """Nor one that was deleted as soon as it was complete, when the agent died before it could say so."""
    key = cloud.server()
    image_id = cloud.act(key, "createImage", {"name": "snap"}, at="2.45").json["image_id"]
    if copied:
        cloud.reconcilers[1].perform(key, Act("snapshot", {"image_id": image_id}))
    assert cloud.api.delete(f"/image/v2/images/{image_id}").status == 204
    cloud.settle()
    assert cloud.show(key)["OS-EXT-STS:task_state"] is None
    assert (cloud.qemu.seen(key) or {})["snapshots_made"] == []


def test_rescue(cloud: Cloud) -> None:
    key = cloud.server()
    assert set(cloud.do(key, "rescue", {"adminPass": "x"}).json) == {"adminPass"}
    assert cloud.status(key) == "RESCUE"
    cloud.do(key, "unrescue")
    assert cloud.status(key) == "ACTIVE"


def test_no_host_fits(cloud: Cloud) -> None:
    cloud.put("/os-quota-sets/p1", {"quota_set": {"cores": -1}}, ADMIN)
    answer = cloud.try_server(flavorRef="3")
    assert answer.status == 202
    shown = cloud.show(answer.json["server"]["id"])
    assert shown["status"] == "ERROR"
    assert shown["fault"]["code"] == 500
    assert shown["fault"]["message"].startswith("No valid host was found.")
    assert cloud.delete(f"/servers/{shown['id']}").status == 204
    assert cloud.get(f"/servers/{shown['id']}").status == 404


@pytest.mark.parametrize(("silent_s", "status", "became"), [(5, 202, "BUILD"), (30, 503, None), (120, 202, "ERROR")])
def test_after_an_outage(cloud: Cloud, silent_s: int, status: int, became: str | None) -> None:
    """Every host was silent because nobody could hear it: nothing fails for good before it is heard again."""
    cloud.beat_was(silent_s)
    answer = cloud.try_server()
    assert answer.status == status, answer.json
    if became is None:
        assert cloud.get("/servers").json["servers"] == []
        assert "try again" in answer.content.decode()
    else:
        assert cloud.status(answer.json["server"]["id"]) == became


def test_bad_requests(cloud: Cloud) -> None:
    for fields, code in (
        ({"name": ""}, 400),
        ({"name": "x" * 256}, 400),
        ({"name": " x"}, 400),
        ({"flavorRef": "nothing"}, 400),
        ({"imageRef": "nothing"}, 400),
        ({"imageRef": "44444444-4444-4444-8444-444444444444"}, 400),
        ({"networks": [{"uuid": "44444444-4444-4444-8444-444444444444"}]}, 400),
        ({"networks": "auto"}, 400),
        ({"key_name": "nothing"}, 400),
        ({"security_groups": [{"name": "nothing"}]}, 400),
        ({"availability_zone": "nowhere"}, 400),
        ({"min_count": 3, "max_count": 2}, 400),
        ({"user_data": "not base64!"}, 400),
        ({"metadata": {"k": "x" * 256}}, 400),
        ({"accessIPv4": "fe80::1"}, 400),
        ({"colour": "red"}, 400),
        ({"min_count": 11, "max_count": 11}, 403),
        ({"availability_zone": "nova:c1"}, 403),
    ):
        answer = cloud.try_server(**fields)
        assert answer.status == code, (fields, answer.content)
    assert cloud.get("/servers").json == {"servers": []}
    assert cloud.try_server(at="2.37", networks=...).status == 400


def test_many_at_once(cloud: Cloud) -> None:
    answer = cloud.try_server(min_count=2, max_count=3, return_reservation_id=True)
    assert set(answer.json) == {"reservation_id"}
    cloud.settle()
    names = {s["name"] for s in cloud.get("/servers").json["servers"]}
    assert names == {"s1-1", "s1-2", "s1-3"}
    found = cloud.get(f"/servers/detail?reservation_id={answer.json['reservation_id']}").json["servers"]
    assert {s["status"] for s in found} == {"ACTIVE"}
    assert len({a["addr"] for s in found for a in s["addresses"]["net"]}) == 3


def test_networks(cloud: Cloud) -> None:
    assert cloud.show(cloud.server(networks=...))["addresses"].keys() == {"net"}
    assert cloud.show(cloud.server(at="2.37", networks="none"))["addresses"] == {}
    fixed = cloud.server(networks=[{"uuid": cloud.network_id, "fixed_ip": "10.0.0.77"}])
    assert cloud.show(fixed)["addresses"]["net"][0]["addr"] == "10.0.0.77"
    port = cloud.api.post("/networking/v2.0/ports", {"port": {"network_id": cloud.network_id}}).json["port"]
    key = cloud.server(networks=[{"port": port["id"]}])
    assert cloud.try_server(networks=[{"port": port["id"]}]).status == 409
    assert cloud.get("/servers/detail?ip=10.0.0.77").json["servers"][0]["id"] == fixed
    cloud.delete(f"/servers/{key}")
    cloud.settle()
    left = cloud.api.get(f"/networking/v2.0/ports/{port['id']}").json["port"]
    assert (left["device_id"], left["device_owner"]) == ("", "")
    cloud.make_network(cidr="10.1.0.0/24")
    assert cloud.try_server(networks=...).status == 409


def test_neighbours_know_it_by_its_name(cloud: Cloud) -> None:
    def name_of(port_id: str) -> str:
        return str(cloud.api.get(f"/networking/v2.0/ports/{port_id}").json["port"]["dns_name"])

    cloud.server(name="Web 1")
    assert [name_of(port["id"]) for port in cloud.ports()] == ["web-1"]
    body = {"port": {"network_id": cloud.network_id}}
    port = cloud.api.post("/networking/v2.0/ports", body).json["port"]["id"]
    key = cloud.server(name="db", networks=[{"port": port}])
    assert name_of(port) == "db"
    cloud.delete(f"/servers/{key}")
    cloud.settle()
    assert name_of(port) == ""


def test_changes(cloud: Cloud) -> None:
    key = cloud.server()
    answer = cloud.put(f"/servers/{key}", {"server": {"name": "other", "accessIPv4": "192.0.2.1"}})
    assert answer.status == 200
    assert answer.json["server"]["name"] == "other"
    assert answer.json["server"]["accessIPv4"] == "192.0.2.1"
    assert "key_name" not in answer.json["server"]
    assert "key_name" in cloud.put(f"/servers/{key}", {"server": {"name": "other"}}, at="2.75").json["server"]
    assert cloud.put(f"/servers/{key}", {"server": {"description": "x"}}).status == 400
    assert cloud.put(f"/servers/{key}", {"server": {"hostname": "web"}}, at="2.90").status == 200
    assert cloud.show(key, at="2.90")["OS-EXT-SRV-ATTR:hostname"] == "web"
    assert cloud.put(f"/servers/{key}", {"server": {"hostname": "a.b"}}, at="2.90").status == 400
    assert cloud.put(f"/servers/{key}", {"server": {"hostname": "a.b"}}, at="2.94").status == 200


def test_states_set_by_administrators(cloud: Cloud) -> None:
    key = cloud.server()
    assert cloud.act(key, "os-resetState", {"state": "error"}).status == 403
    assert cloud.act(key, "os-resetState", {"state": "error"}, ADMIN).status == 202
    assert cloud.status(key) == "ERROR"
    cloud.do(key, "reboot", {"type": "HARD"})
    assert cloud.status(key) == "ACTIVE"
    assert cloud.act(key, "forceDelete").status == 202
    cloud.settle()
    assert cloud.get(f"/servers/{key}").status == 404


def test_security_groups(cloud: Cloud) -> None:
    key = cloud.server()
    assert cloud.act(key, "addSecurityGroup", {"name": "web"}).status == 404
    cloud.api.post("/networking/v2.0/security-groups", {"security_group": {"name": "web"}})
    assert cloud.act(key, "addSecurityGroup", {"name": "web"}).status == 202
    assert {g["name"] for g in cloud.show(key)["security_groups"]} == {"default", "web"}
    listed = cloud.get(f"/servers/{key}/os-security-groups").json["security_groups"]
    assert {g["name"] for g in listed} == {"default", "web"}
    assert cloud.act(key, "removeSecurityGroup", {"name": "web"}).status == 202
    assert cloud.act(key, "removeSecurityGroup", {"name": "web"}).status == 404


def test_sorting(cloud: Cloud) -> None:
    names = ["b", "a", "c"]
    for name in names:
        cloud.server(settled=False, name=name)
    for key in ("display_name", "created_at", "availability_zone", "image_ref", "config_drive", "power_state", "uuid"):
        assert cloud.get(f"/servers?sort_key={key}&sort_dir=asc").status == 200, key
    listed = cloud.get("/servers?sort_key=display_name&sort_dir=asc&limit=2").json
    assert [s["name"] for s in listed["servers"]] == ["a", "b"]
    assert listed["servers_links"][0]["rel"] == "next"
    assert cloud.get("/servers?sort_key=spoon").status == 400
    assert cloud.get("/servers?sort_key=host").status == 403
    assert cloud.get("/servers?colour=red").status == 200
    assert cloud.get("/servers?colour=red", at="2.75").status == 400
    assert cloud.get("/servers?status=spoon").json == {"servers": []}
    assert cloud.get("/servers?status=spoon", at="2.38").status == 400
    assert cloud.get("/servers?all_tenants=1").status == 403
    assert len(cloud.get("/servers?name=^[ab]$").json["servers"]) == 2


def test_images_as_compute_showed_them(cloud: Cloud) -> None:
    shown = cloud.get(f"/images/{IMAGE_ID}").json["image"]
    assert (shown["status"], shown["metadata"]) == ("ACTIVE", {"os_distro": "debian"})
    assert [i["id"] for i in cloud.get("/images?status=ACTIVE").json["images"]] == [IMAGE_ID]
    assert cloud.get("/images/detail", at="2.36").status == 404
    assert cloud.delete(f"/images/{IMAGE_ID}").status == 403
    key = cloud.server()
    image_id = cloud.do(key, "createImage", {"name": "snap"}).headers["location"].rsplit("/", 1)[1]
    (found,) = cloud.get(f"/images/detail?server={key}").json["images"]
    assert (found["id"], found["server"]["id"]) == (image_id, key)
    path = f"/images/{image_id}/metadata"
    assert cloud.put(f"{path}/a", {"meta": {"a": "b"}}).json == {"meta": {"a": "b"}}
    assert cloud.delete(f"{path}/a").status == 204
    assert cloud.get(f"{path}/a").status == 404
    assert cloud.delete(f"/images/{image_id}").status == 204
