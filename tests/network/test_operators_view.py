"""Quotas, extensions, agents, zones, how full networks are, and the first network."""

from tests.client import ADMIN, MEMBER
from tests.network.conftest import Networking, error
from trilith.network.seed import seed_network
from trilith.placement import hosts


def test_roots(net: Networking) -> None:
    assert net.api.get("/networking", None).json["versions"][0]["id"] == "v2.0"
    assert {row["name"] for row in net.get("/").json["resources"]} >= {"network", "subnetpool"}


def test_quotas(net: Networking) -> None:
    assert net.get("/quotas/p1").json["quota"]["network"] == 100
    assert net.get("/quotas/p2").status == 403
    assert net.put("/quotas/p1", {"quota": {"network": 1}}).status == 403
    assert net.put("/quotas/p1", {"quota": {"network": 1, "floatingip": -1}}, ADMIN).json["quota"]["network"] == 1
    assert [row["project_id"] for row in net.get("/quotas", ADMIN).json["quotas"]] == ["p1"]
    assert net.get("/quotas/p1/default").json["quota"]["network"] == 100
    net.make("network")
    assert net.refused("network") == (409, "OverQuota")
    assert net.get("/quotas/p1/details.json").json["quota"]["network"] == {"limit": 1, "used": 1, "reserved": 0}
    assert net.put("/quotas/p1", {"quota": {"moons": 1}}, ADMIN).status == 400
    assert net.put("/quotas/p1", {"quota": {"network": -2}}, ADMIN).status == 400
    assert net.delete("/quotas/p1", ADMIN).status == 204
    net.make("network")


def test_extensions_tell_the_truth(net: Networking) -> None:
    listed = net.get("/extensions").json["extensions"]
    aliases = {row["alias"] for row in listed}
    assert {"router", "security-group", "quotas", "provider", "standard-attr-tag", "port-security"} <= aliases
    assert not {"trunk", "qos", "external-gateway-multihoming", "dvr", "metering"} & aliases
    for row in listed:
        assert net.get(f"/extensions/{row['alias']}").json["extension"] == row
        assert row["name"] != row["alias"] or row["alias"] in ("agent", "security-group", "standard-attr-description")
    assert net.get("/extensions/external-gateway-multihoming").status == 404
    assert net.put("/routers/x/update_external_gateways", {}).status == 404


def test_agents_and_zones(net: Networking) -> None:
    host_id = "00000000-0000-0000-0000-000000000001"
    net.api.app.store.run(lambda tx: hosts.register(tx, "c1", host_id, ["compute", "network"], "nova"))
    assert net.get("/agents").json == {"agents": []}
    found = net.get("/agents?host=c1&fields=id&fields=alive", ADMIN).json["agents"]
    assert [row["alive"] for row in found] == [False, False]
    assert net.get(f"/agents/{found[0]['id']}", ADMIN).json["agent"]["host"] == "c1"
    note = {"agent": {"description": "rack 7"}}
    assert net.put(f"/agents/{found[0]['id']}", note).status == 403
    assert net.put(f"/agents/{found[0]['id']}", note, ADMIN).json["agent"]["description"] == "rack 7"
    assert net.get(f"/agents/{found[0]['id']}", ADMIN).json["agent"]["description"] == "rack 7"
    assert error(net.delete(f"/agents/{host_id}", ADMIN)) == (404, "AgentNotFound")
    zones = net.get("/availability_zones").json["availability_zones"]
    assert {(row["name"], row["resource"]) for row in zones} == {("nova", "network"), ("nova", "router")}
    assert net.get("/service-providers").json == {"service_providers": []}


def test_how_full_networks_are(net: Networking) -> None:
    network, subnet = net.network("10.0.0.0/28")
    net.make("port", network_id=network)
    found = net.get(f"/network-ip-availabilities/{network}", ADMIN).json["network_ip_availability"]
    assert (found["total_ips"], found["used_ips"]) == (13, 2)
    assert found["subnet_ip_availability"][0]["subnet_id"] == subnet
    assert net.get("/network-ip-availabilities", MEMBER).json == {"network_ip_availabilities": []}


def test_the_first_network_leaves_room_for_the_operators(net: Networking) -> None:
    def seed() -> str:
        cidr, gateway = "172.24.4.0/24", "172.24.4.1"
        work = lambda tx: seed_network(tx, public_cidr=cidr, gateway_ip=gateway, admin_project_id="pa")  # noqa: E731
        return str(net.api.app.store.run(work)["id"])

    network = seed()
    assert seed() == network
    shown = net.show("network", network, ADMIN)
    assert (shown["name"], shown["router:external"], shown["mtu"], shown["is_default"]) == ("public", True, 1500, True)
    assert net.make("floatingip", floating_network_id=network)["floating_ip_address"] == "172.24.4.10"
    net.outside("172.24.5.0/24")  # flat, on "public": as every handbook's first command


def test_paging_and_revisions(net: Networking) -> None:
    made = sorted(net.make("network", name=str(n))["id"] for n in range(3))
    page = net.get("/networks?limit=2").json
    assert [row["id"] for row in page["networks"]] == made[:2]
    assert [link["rel"] for link in page["networks_links"]] == ["next"]
    change = {"network": {"name": "x"}}
    stale = net.put(f"/networks/{made[0]}", change, headers={"If-Match": "revision_number=5"})
    assert error(stale) == (412, "RevisionNumberConstraintFailed")
    assert net.put(f"/networks/{made[0]}", change, headers={"If-Match": "revision_number=0"}).status == 200
