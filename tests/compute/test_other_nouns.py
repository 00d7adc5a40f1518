"""Flavors, keypairs, server groups, aggregates, zones, hypervisors, services, quotas, limits, usage, events."""

from tests.client import ADMIN, STRANGER
from tests.compute.conftest import ELSE, IMAGE_ID, Cloud
from trilith.placement.hosts import register

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh19lQV4wXDtX/wx4MuWocFC0c+JWCuqF9rn4F/1Vxy k"


def test_flavors(cloud: Cloud) -> None:
    body = {"name": "big", "ram": 64, "vcpus": 1, "disk": 10}
    assert cloud.post("/flavors", {"flavor": body}).status == 403
    made = cloud.post("/flavors", {"flavor": body | {"id": "big-1"}}, ADMIN).json["flavor"]
    assert (made["id"], made["swap"], made["rxtx_factor"]) == ("big-1", "", 1.0)
    assert cloud.post("/flavors", {"flavor": body | {"id": "big-2"}}, ADMIN).status == 409
    assert cloud.post("/flavors", {"flavor": body | {"id": "big-1", "name": "x"}}, ADMIN).status == 409
    assert cloud.post("/flavors", {"flavor": body | {"name": "x", "ram": 0}}, ADMIN).status == 400
    newest = cloud.get("/flavors/big-1", at="2.102").json["flavor"]
    assert (newest["swap"], newest["extra_specs"], newest["description"]) == (0, {}, None)
    assert "rxtx_factor" not in newest
    assert cloud.get("/flavors/none").status == 404
    assert [f["id"] for f in cloud.get("/flavors?minRam=600").json["flavors"]] == ["2"]
    assert cloud.put("/flavors/big-1", {"flavor": {"description": "d"}}, ADMIN).status == 404
    assert cloud.put("/flavors/big-1", {"flavor": {"description": "d"}}, ADMIN, at="2.55").status == 200
    specs = "/flavors/big-1/os-extra_specs"
    assert cloud.post(specs, {"extra_specs": {"a": "1", "b": "2"}}, ADMIN).json == {"extra_specs": {"a": "1", "b": "2"}}
    assert cloud.put(f"{specs}/a", {"a": "3"}, ADMIN).json == {"a": "3"}
    assert cloud.put(f"{specs}/a", {"b": "3"}, ADMIN).status == 400
    assert cloud.delete(f"{specs}/b", ADMIN).status == 200
    assert cloud.get(f"{specs}/b").status == 404
    assert cloud.get(specs).json == {"extra_specs": {"a": "3"}}
    assert cloud.delete("/flavors/big-1", ADMIN).status == 202


def test_flavors_that_are_not_public(cloud: Cloud) -> None:
    body = {"name": "own", "id": "own", "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": False}
    assert cloud.post("/flavors", {"flavor": body}, ADMIN).status == 200
    assert cloud.get("/flavors/own").status == 404
    assert cloud.try_server(flavorRef="own").status == 400
    access = cloud.post("/flavors/own/action", {"addTenantAccess": {"tenant": "p1"}}, ADMIN)
    assert access.json == {"flavor_access": [{"flavor_id": "own", "tenant_id": "p1"}]}
    assert cloud.post("/flavors/own/action", {"addTenantAccess": {"tenant": "p1"}}, ADMIN).status == 409
    assert cloud.get("/flavors/own").status == 200
    assert cloud.get("/flavors/own/os-flavor-access", ADMIN).json == access.json
    assert cloud.get("/flavors/1/os-flavor-access", ADMIN).status == 404
    assert "own" not in [f["id"] for f in cloud.get("/flavors?is_public=True", ADMIN).json["flavors"]]
    assert "own" in [f["id"] for f in cloud.get("/flavors?is_public=None", ADMIN).json["flavors"]]
    assert cloud.post("/flavors/own/action", {"removeTenantAccess": {"tenant": "p1"}}, ADMIN).status == 200
    assert cloud.post("/flavors/own/action", {"removeTenantAccess": {"tenant": "p1"}}, ADMIN).status == 404


def test_keypairs(cloud: Cloud) -> None:
    made = cloud.post("/os-keypairs", {"keypair": {"name": "k", "public_key": PUBLIC}})
    assert made.status == 200
    assert set(made.json["keypair"]) == {"name", "public_key", "fingerprint", "user_id"}
    assert made.json["keypair"]["fingerprint"].count(":") == 15
    assert cloud.post("/os-keypairs", {"keypair": {"name": "k", "public_key": PUBLIC}}).status == 409
    own = cloud.post("/os-keypairs", {"keypair": {"name": "own"}}, at="2.2")
    assert own.status == 201
    assert "PRIVATE KEY" in own.json["keypair"]["private_key"]
    assert own.json["keypair"]["public_key"].startswith("ssh-rsa ")
    windows = cloud.post("/os-keypairs", {"keypair": {"name": "win", "type": "x509"}}, at="2.2").json["keypair"]
    assert "BEGIN CERTIFICATE" in windows["public_key"]
    assert cloud.post("/os-keypairs", {"keypair": {"name": "none"}}, at="2.92").status == 400
    assert cloud.post("/os-keypairs", {"keypair": {"name": "a@b", "public_key": PUBLIC}}).status == 400
    assert cloud.post("/os-keypairs", {"keypair": {"name": "a@b", "public_key": PUBLIC}}, at="2.92").status == 201
    assert cloud.post("/os-keypairs", {"keypair": {"name": "bad", "public_key": "ssh-rsa x"}}).status == 400
    assert cloud.get("/os-keypairs/k", ELSE).status == 404
    assert cloud.get("/os-keypairs/k?user_id=u1", ADMIN, at="2.10").status == 200
    assert cloud.get("/os-keypairs?user_id=u9", at="2.10").status == 403
    assert [k["keypair"]["name"] for k in cloud.get("/os-keypairs?limit=1", at="2.35").json["keypairs"]] == ["a@b"]
    assert len(cloud.get("/os-keypairs?limit=1").json["keypairs"]) == 4
    assert cloud.delete("/os-keypairs/k").status == 202
    assert cloud.delete("/os-keypairs/own", at="2.2").status == 204


def test_server_groups(cloud: Cloud) -> None:
    made = cloud.post("/os-server-groups", {"server_group": {"name": "g", "policies": ["anti-affinity"]}})
    assert made.status == 200
    group = made.json["server_group"]
    assert set(group) == {"id", "name", "policies", "members", "metadata"}
    soft = {"server_group": {"name": "g", "policies": ["soft-affinity"]}}
    assert cloud.post("/os-server-groups", soft).status == 400
    assert cloud.post("/os-server-groups", soft, at="2.15").status == 200
    assert cloud.post("/os-server-groups", {"server_group": {"name": "g"}}, at="2.64").status == 400
    rules = {"server_group": {"name": "r", "policy": "anti-affinity", "rules": {"max_server_per_host": 2}}}
    two = cloud.post("/os-server-groups", rules, at="2.64").json["server_group"]
    assert (two["policy"], two["rules"]) == ("anti-affinity", {"max_server_per_host": 2})
    first = cloud.server(hints={"group": group["id"]})
    assert cloud.status(first) == "ACTIVE"
    assert cloud.status(cloud.server(hints={"group": group["id"]})) == "ERROR"
    assert [cloud.status(cloud.server(hints={"group": two["id"]})) for _ in "abc"] == ["ACTIVE", "ACTIVE", "ERROR"]
    assert first in cloud.get(f"/os-server-groups/{group['id']}").json["server_group"]["members"]
    assert cloud.show(first, at="2.71")["server_groups"] == [group["id"]]
    assert cloud.show(first, at="2.100")["scheduler_hints"] == {"group": group["id"]}
    assert cloud.try_server(hints={"group": "44444444-4444-4444-8444-444444444444"}).status == 400
    assert cloud.get(f"/os-server-groups/{group['id']}", STRANGER).status == 404
    assert cloud.delete(f"/os-server-groups/{group['id']}").status == 204


def second_host(cloud: Cloud, name: str = "c2") -> None:
    key = f"22222222-2222-4222-8222-22222222220{name[-1]}"
    cloud.store.run(lambda tx: register(tx, name, key, ["compute"], "nova"))
    cloud.beat(name)


def test_placing(cloud: Cloud) -> None:
    second_host(cloud)

    def host(**fields: object) -> str | None:
        key = cloud.server(settled=False, **fields)  # type: ignore[arg-type]
        found: str | None = cloud.show(key, ADMIN)["OS-EXT-SRV-ATTR:host"]
        return found

    assert {host(), host()} == {"c1", "c2"}
    first = cloud.server(settled=False)
    there = cloud.show(first, ADMIN)["OS-EXT-SRV-ATTR:host"]
    assert host(hints={"same_host": [first]}) == there
    assert host(hints={"different_host": first}) != there
    assert cloud.try_server(availability_zone="nova:c2").status == 403
    network = cloud.make_network(ADMIN, "10.9.0.0/24")
    forced = cloud.try_server(ADMIN, networks=[{"uuid": network}], availability_zone="nova:c2").json["server"]["id"]
    assert cloud.show(forced, ADMIN)["OS-EXT-SRV-ATTR:host"] == "c2"
    asked = cloud.try_server(ADMIN, at="2.74", networks=[{"uuid": network}], host="c1").json["server"]["id"]
    assert cloud.show(asked, ADMIN)["OS-EXT-SRV-ATTR:host"] == "c1"
    assert cloud.try_server(ADMIN, at="2.74", networks=[{"uuid": network}], host="c9").status == 400
    cloud.beat("c2", disabled=True)
    assert {host(), host()} == {"c1"}


def test_aggregates_and_zones(cloud: Cloud) -> None:
    second_host(cloud)
    assert cloud.get("/os-aggregates").status == 403
    made = cloud.post("/os-aggregates", {"aggregate": {"name": "a", "availability_zone": "west"}}, ADMIN)
    assert made.status == 200
    assert "hosts" not in made.json["aggregate"]
    key = made.json["aggregate"]["id"]
    added = cloud.post(f"/os-aggregates/{key}/action", {"add_host": {"host": "c2"}}, ADMIN).json["aggregate"]
    assert (added["hosts"], added["metadata"]) == (["c2"], {"availability_zone": "west"})
    assert cloud.post(f"/os-aggregates/{key}/action", {"add_host": {"host": "c2"}}, ADMIN).status == 409
    assert cloud.post(f"/os-aggregates/{key}/action", {"add_host": {"host": "c9"}}, ADMIN).status == 404
    zones = cloud.get("/os-availability-zone").json["availabilityZoneInfo"]
    assert [z["zoneName"] for z in zones] == ["nova", "west"]
    assert cloud.get("/os-availability-zone/detail").status == 403
    detail = cloud.get("/os-availability-zone/detail", ADMIN).json["availabilityZoneInfo"]
    assert detail[-1]["hosts"]["c2"]["nova-compute"]["available"] is True
    server = cloud.server(settled=False, availability_zone="west")
    assert cloud.show(server)["OS-EXT-AZ:availability_zone"] == "west"
    assert cloud.show(server, at="2.96")["pinned_availability_zone"] == "west"
    assert cloud.post(f"/os-aggregates/{key}/action", {"remove_host": {"host": "c2"}}, ADMIN).status == 409
    assert cloud.put(f"/os-aggregates/{key}", {"aggregate": {"name": "b"}}, ADMIN).json["aggregate"]["name"] == "b"
    assert cloud.delete(f"/os-aggregates/{key}", ADMIN).status == 400
    assert cloud.get("/os-aggregates/77", ADMIN).status == 404
    spec = {"extra_specs": {"aggregate_instance_extra_specs:ssd": "true"}}
    cloud.post("/flavors/1/os-extra_specs", spec, ADMIN)
    assert cloud.status(cloud.server(settled=False)) == "ERROR"
    cloud.post(f"/os-aggregates/{key}/action", {"set_metadata": {"metadata": {"ssd": "true"}}}, ADMIN)
    assert cloud.status(cloud.server(settled=False)) == "BUILD"


def test_hypervisors_and_services(cloud: Cloud) -> None:
    key = cloud.server()
    assert cloud.get("/os-hypervisors").status == 403
    (old,) = cloud.get("/os-hypervisors/detail", ADMIN).json["hypervisors"]
    assert (old["id"], old["vcpus"], old["vcpus_used"], old["memory_mb_used"]) == (1, 8, 1, 512)
    (new,) = cloud.get("/os-hypervisors/detail?with_servers=true", ADMIN, at="2.88").json["hypervisors"]
    assert len(new["id"]) == 36
    assert "vcpus" not in new
    assert [s["uuid"] for s in new["servers"]] == [key]
    assert cloud.get(f"/os-hypervisors/{new['id']}", ADMIN, at="2.53").status == 200
    assert cloud.get("/os-hypervisors/statistics", ADMIN, at="2.88").status == 404
    services = cloud.get("/os-services", ADMIN).json["services"]
    assert [s["binary"] for s in services] == ["nova-conductor", "nova-scheduler", "nova-compute"]
    body = {"host": "c1", "binary": "nova-compute"}
    assert cloud.put("/os-services/disable", body, ADMIN).json["service"]["status"] == "disabled"
    assert cloud.status(cloud.server(settled=False)) == "ERROR"
    assert cloud.put("/os-services/enable", body, ADMIN).json["service"]["status"] == "enabled"
    assert cloud.put("/os-services/enable", body | {"host": "x"}, ADMIN).status == 404
    path = f"/os-services/{new['id']}"
    changed = cloud.put(path, {"status": "disabled", "disabled_reason": "r"}, ADMIN, at="2.53").json["service"]
    assert (changed["status"], changed["disabled_reason"]) == ("disabled", "r")
    assert cloud.put(path, {"forced_down": True}, ADMIN, at="2.53").json["service"]["state"] == "down"
    assert cloud.delete(path, ADMIN, at="2.53").status == 409


def test_quotas_and_limits(cloud: Cloud) -> None:
    cloud.server()
    assert cloud.get("/os-quota-sets/p1").json["quota_set"]["cores"] == 20
    assert cloud.get("/os-quota-sets/p2").status == 403
    detail = cloud.get("/os-quota-sets/p1/detail").json["quota_set"]
    assert detail["ram"] == {"limit": 51200, "in_use": 512, "reserved": 0}
    assert "fixed_ips" not in cloud.get("/os-quota-sets/p1", at="2.36").json["quota_set"]
    assert cloud.put("/os-quota-sets/p1", {"quota_set": {"cores": 0}}, ADMIN).status == 400
    assert cloud.put("/os-quota-sets/p1", {"quota_set": {"cores": 1}}).status == 403
    assert cloud.put("/os-quota-sets/p1", {"quota_set": {"spoons": 1}}, ADMIN).status == 400
    changed = cloud.put("/os-quota-sets/p1", {"quota_set": {"cores": 1}}, ADMIN).json["quota_set"]
    assert (changed["cores"], "id" in changed) == (1, False)
    full = cloud.try_server()
    assert full.status == 403
    assert full.json["forbidden"]["message"] == "Quota exceeded for cores: asked 1, used 1 of 1."
    assert cloud.get("/limits").json["limits"]["absolute"]["totalCoresUsed"] == 1
    assert "maxImageMeta" not in cloud.get("/limits", at="2.39").json["limits"]["absolute"]
    assert cloud.delete("/os-quota-sets/p1", ADMIN).status == 202
    assert cloud.get("/os-quota-sets/p1").json["quota_set"]["cores"] == 20
    put = cloud.put("/os-quota-class-sets/default", {"quota_class_set": {"cores": 30}}, ADMIN)
    assert put.json["quota_class_set"]["cores"] == 30
    assert cloud.get("/os-quota-sets/p1/defaults").json["quota_set"]["cores"] == 30


def test_usage_events_extensions_versions(cloud: Cloud) -> None:
    key = cloud.server()
    usage = cloud.get("/os-simple-tenant-usage/p1").json["tenant_usage"]
    assert [u["instance_id"] for u in usage["server_usages"]] == [key]
    assert cloud.get("/os-simple-tenant-usage").status == 403
    assert len(cloud.get("/os-simple-tenant-usage?detailed=1", ADMIN).json["tenant_usages"]) == 1
    events = [{"name": "network-changed", "server_uuid": key}, {"name": "network-changed", "server_uuid": IMAGE_ID}]
    assert cloud.post("/os-server-external-events", {"events": events}).status == 403
    some = cloud.post("/os-server-external-events", {"events": events}, ADMIN)
    assert (some.status, [e["code"] for e in some.json["events"]]) == (207, [200, 404])
    assert cloud.get("/extensions/os-hosts").json["extension"]["name"] == "Hosts"
    assert cloud.get("/extensions/OS-SCH-HNT").status == 200
    assert cloud.api.get("/compute", None).json["versions"][-1]["version"] == "2.104"
    assert cloud.api.get("/compute/v2.1", None).json["version"]["min_version"] == "2.1"
    assert cloud.api.get("/compute/v2.1/p1/servers").status == 200
