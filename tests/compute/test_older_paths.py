"""What other services took over long ago still answers under compute's own paths, up to the version that ended it."""

import pytest

from tests.client import ADMIN
from tests.compute.conftest import NETWORK, Cloud


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("os-networks", "2.35"),
        ("os-tenant-networks", "2.35"),
        ("os-floating-ips", "2.35"),
        ("os-floating-ip-pools", "2.35"),
        ("os-security-groups", "2.35"),
        ("os-volumes/detail", "2.35"),
        ("os-snapshots", "2.35"),
        ("os-hosts", "2.42"),
    ],
)
def test_path_ends(cloud: Cloud, path: str, last: str) -> None:
    assert cloud.get(f"/{path}", ADMIN, at=last).status == 200
    major, _, minor = last.partition(".")
    assert cloud.get(f"/{path}", ADMIN, at=f"{major}.{int(minor) + 1}").status == 404
    assert cloud.get(f"/{path.partition('/')[0]}/", ADMIN).status == 404


def test_before_microversions(cloud: Cloud) -> None:
    ids = [each["id"] for each in cloud.api.get("/compute", None).json["versions"]]
    assert ids == ["v2.0", "v2.1"]
    assert cloud.api.get("/compute/v2/", None).json["version"]["id"] == "v2.0"
    keypair = cloud.api.post("/compute/v2/os-keypairs", {"keypair": {"name": "k"}}, at="compute 2.92")
    assert keypair.status == 200


def test_security_groups(cloud: Cloud) -> None:
    group = cloud.post("/os-security-groups", {"security_group": {"name": "g", "description": "d"}}).json
    key = group["security_group"]["id"]
    assert group["security_group"]["rules"] == []
    rule = {"parent_group_id": key, "ip_protocol": "tcp", "from_port": 22, "to_port": 22}
    made = cloud.post("/os-security-group-rules", {"security_group_rule": rule}).json["security_group_rule"]
    assert made["ip_range"] == {"cidr": "0.0.0.0/0"}
    assert cloud.post("/os-security-group-rules", {"security_group_rule": rule}).status == 400
    assert cloud.post("/os-security-group-rules", {"security_group_rule": rule | {"to_port": 1}}).status == 400
    ping = {"parent_group_id": key, "ip_protocol": "icmp", "from_port": -1, "to_port": -1, "group_id": key}
    made = cloud.post("/os-security-group-rules", {"security_group_rule": ping}).json["security_group_rule"]
    assert made["group"]["name"] == "g"
    assert made["from_port"] == -1
    shown = cloud.get(f"/os-security-groups/{key}").json["security_group"]
    assert len(shown["rules"]) == 2
    listed = cloud.get("/os-security-groups").json["security_groups"]
    default = next(each["id"] for each in listed if each["name"] == "default")
    assert cloud.delete(f"/os-security-groups/{default}").status == 400
    assert cloud.delete(f"/os-security-group-rules/{made['id']}").status == 202
    assert cloud.delete(f"/os-security-groups/{key}").status == 202


def test_floating_ip_is_put_on_a_server(cloud: Cloud) -> None:
    outside = {"name": "public", "router:external": True}
    external = cloud.api.post(f"{NETWORK}/networks", {"network": outside}, ADMIN).json["network"]["id"]
    subnet = {"network_id": external, "cidr": "172.24.9.0/24", "ip_version": 4}
    cloud.api.post(f"{NETWORK}/subnets", {"subnet": subnet}, ADMIN)
    router = {"router": {"external_gateway_info": {"network_id": external}}}
    router_id = cloud.api.post(f"{NETWORK}/routers", router).json["router"]["id"]
    inner = cloud.api.get(f"{NETWORK}/subnets?network_id={cloud.network_id}").json["subnets"][0]["id"]
    cloud.api.put(f"{NETWORK}/routers/{router_id}/add_router_interface", {"subnet_id": inner})
    assert cloud.post("/os-floating-ips", {"pool": "nosuch"}).status == 404
    address = cloud.post("/os-floating-ips", {"pool": "public"}).json["floating_ip"]
    server = cloud.server()
    assert cloud.act(server, "addFloatingIp", {"address": address["ip"]}).status == 202
    assert cloud.get(f"/os-floating-ips/{address['id']}").json["floating_ip"]["instance_id"] == server
    other = cloud.post("/os-floating-ips", {}).json["floating_ip"]
    assert cloud.act(server, "addFloatingIp", {"address": other["ip"]}).status == 400
    assert cloud.act(server, "removeFloatingIp", {"address": other["ip"]}).status == 409
    assert cloud.act(server, "removeFloatingIp", {"address": address["ip"]}).status == 202
    assert cloud.act(server, "addFloatingIp", {"address": address["ip"]}, at="2.44").status == 400
    assert cloud.delete(f"/os-floating-ips/{address['id']}").status == 202


def test_volumes_and_snapshots(cloud: Cloud) -> None:
    volume = cloud.post("/os-volumes", {"volume": {"size": 1, "display_name": "v"}}).json["volume"]
    assert (volume["displayName"], volume["status"]) == ("v", "creating")
    cloud.settle()
    new = {"snapshot": {"volume_id": volume["id"], "display_name": "s"}}
    snapshot = cloud.post("/os-snapshots", new).json["snapshot"]
    cloud.settle()
    assert cloud.get(f"/os-snapshots/{snapshot['id']}").json["snapshot"]["status"] == "available"
    assert cloud.delete(f"/os-snapshots/{snapshot['id']}").status == 202
    cloud.settle()
    assert cloud.delete(f"/os-volumes/{volume['id']}").status == 202
    cloud.settle()
    assert cloud.get(f"/os-volumes/{volume['id']}").status == 404
    assert cloud.post("/os-volumes", {"volume": {"size": 0}}).status == 400


def test_hosts(cloud: Cloud) -> None:
    services = [host["service"] for host in cloud.get("/os-hosts", ADMIN).json["hosts"]]
    assert services == ["conductor", "scheduler", "compute"]
    assert cloud.get("/os-hosts?zone=nosuch", ADMIN).json["hosts"] == []
    cloud.server()
    resources = {r["resource"]["project"]: r["resource"] for r in cloud.get("/os-hosts/c1", ADMIN).json["host"]}
    assert resources["p1"]["memory_mb"] == resources["(used_now)"]["memory_mb"] == 512
    assert cloud.put("/os-hosts/c1", {"status": "disable"}, ADMIN).json == {"host": "c1", "status": "disabled"}
    assert cloud.put("/os-hosts/c1", {"status": "bad"}, ADMIN).status == 400
    assert cloud.get("/os-hosts/c1/reboot", ADMIN).status == 400
    assert cloud.get("/os-hosts/nosuch/reboot", ADMIN).status == 404
