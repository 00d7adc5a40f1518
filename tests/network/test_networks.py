import pytest

from tests.client import ADMIN, MEMBER, READER, STRANGER
from tests.network.conftest import Networking, error
from trilith.network.networks import use_tunnel_mtu


def test_life(net: Networking) -> None:
    made = net.make("network", name="n", description="d")
    assert made["project_id"] == made["tenant_id"] == "p1"
    assert (made["mtu"], made["status"], made["shared"], made["revision_number"]) == (1442, "ACTIVE", False, 0)
    assert not any(key.startswith("provider:") for key in made)
    assert net.show("network", made["id"], ADMIN)["provider:network_type"] == "geneve"
    assert net.show("network", made["id"], READER) == made
    changed = net.put(f"/networks/{made['id']}", {"network": {"name": "m"}}).json["network"]
    assert (changed["name"], changed["revision_number"]) == ("m", 1)
    assert error(net.get(f"/networks/{made['id']}", STRANGER)) == (404, "NetworkNotFound")
    assert net.delete(f"/networks/{made['id']}", READER).status == 403
    assert net.delete(f"/networks/{made['id']}").status == 204
    assert net.get(f"/networks/{made['id']}").status == 404


def test_both_names_of_the_project(net: Networking) -> None:
    made = net.make("network", ADMIN, tenant_id="p1")
    assert net.ids("/networks") == net.ids("/networks?tenant_id=p1", ADMIN) == {made["id"]}
    assert net.ids("/networks?project_id=p2", ADMIN) == set()
    assert net.post("/networks", {"network": {"tenant_id": "p2"}}).status == 400
    assert net.post("/networks", {"network": {"tenant_id": "p1", "project_id": "pa"}}, ADMIN).status == 400


def test_fields(net: Networking) -> None:
    made = net.make("network", name="n")
    assert net.get(f"/networks/{made['id']}?fields=id&fields=name").json["network"] == {"id": made["id"], "name": "n"}
    assert net.get("/networks?fields=name").json["networks"] == [{"name": "n"}]
    assert net.get("/networks?name=").json["networks"] == []


def test_shared_networks_are_seen_by_all_and_changed_by_their_owner(net: Networking) -> None:
    assert net.post("/networks", {"network": {"shared": True}}).status == 403
    assert net.post("/networks", {"network": {"shared": False}}).status == 201
    made = net.make("network", ADMIN, shared=True)
    assert net.show("network", made["id"])["shared"] is True
    assert made["id"] in net.ids("/networks?shared=true") - net.ids("/networks?shared=False")
    assert error(net.put(f"/networks/{made['id']}", {"network": {"name": "x"}})) == (403, "PolicyNotAuthorized")
    port = net.make("port", network_id=made["id"])
    unshare = {"network": {"shared": False}}
    assert error(net.put(f"/networks/{made['id']}", unshare, ADMIN)) == (409, "InvalidSharedSetting")
    net.delete(f"/ports/{port['id']}")
    assert net.put(f"/networks/{made['id']}", unshare, ADMIN).json["network"]["shared"] is False
    assert net.get(f"/networks/{made['id']}").status == 404


def test_external_networks(net: Networking) -> None:
    outside = net.outside()
    assert net.show("network", outside)["router:external"] is True
    assert outside in net.ids("/networks?router:external=True")
    assert net.get("/subnets").json["subnets"] == []  # its subnets are the operator's
    flat = {"provider:network_type": "flat", "provider:physical_network": "public"}
    assert net.refused("network", ADMIN, **flat) == (409, "FlatNetworkInUse")
    assert net.refused("network", **flat) == (403, "PolicyNotAuthorized")
    assert net.refused("network", ADMIN, **flat | {"provider:physical_network": "moon"})[0] == 400


def test_mtu(net: Networking) -> None:
    assert net.make("network", mtu=1300)["mtu"] == 1300
    assert net.refused("network", mtu=1500) == (400, "InvalidInput")
    small = net.make("network", mtu=60)["id"]
    assert net.refused("subnet", network_id=small, cidr="10.0.0.0/24", ip_version=4)[1] == "NetworkMTUSubnetConflict"


def test_a_network_goes_with_its_subnets_but_not_with_ports(net: Networking) -> None:
    network, subnet = net.network()
    port = net.make("port", network_id=network)
    assert error(net.delete(f"/networks/{network}")) == (409, "NetworkInUse")
    net.delete(f"/ports/{port['id']}")
    assert net.delete(f"/networks/{network}").status == 204
    assert net.get(f"/subnets/{subnet}").status == 404
    assert net.ids("/ports", ADMIN) == set()


def test_an_external_network_goes_with_addresses_that_are_on_nothing(net: Networking) -> None:
    outside = net.outside()
    floating = net.make("floatingip", floating_network_id=outside)["id"]
    assert net.delete(f"/networks/{outside}", ADMIN).status == 204
    assert net.get(f"/floatingips/{floating}").status == 404


def test_bulk(net: Networking) -> None:
    made = net.post("/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
    assert made.status == 201
    assert [row["name"] for row in made.json["networks"]] == ["a", "b"]
    assert net.post("/networks", {"networks": [{"name": "c"}, {"name": 7}]}).status == 400
    assert len(net.ids("/networks")) == 2


def test_unknown_things(net: Networking) -> None:
    assert net.post("/networks", {"network": {"colour": "red"}}).status == 400
    assert net.post("/networks", {"network": {"status": "DOWN"}}).status == 400
    assert net.get("/networks?colour=red").status == 400
    assert net.get("/networks/net1").status == 404


def test_tags(net: Networking) -> None:
    one, two = net.make("network", tags=["red"]), net.make("network")
    path = f"/networks/{two['id']}/tags"
    assert net.put(path, {"tags": ["blue", "red"]}).json == {"tags": ["blue", "red"]}
    assert net.put(f"{path}/green").status == 201
    assert net.get(f"{path}/green").status == 204
    assert error(net.get(f"{path}/black")) == (404, "TagNotFound")
    assert net.delete(f"{path}/green").status == 204
    assert net.get(path).json == {"tags": ["blue", "red"]}
    assert net.ids("/networks?tags=red,blue") == {two["id"]}
    assert net.ids("/networks?tags-any=red,blue") == {one["id"], two["id"]}
    assert net.ids("/networks?not-tags=red,blue") == {one["id"]}
    assert net.ids("/networks?not-tags-any=blue") == {one["id"]}
    assert net.delete(path).status == 204
    assert net.put(path, {"tags": ["a,b"]}).status == 400
    assert net.put(path, {"tags": ["a"]}, STRANGER).status == 404


def test_rbac_policies(net: Networking) -> None:
    network = net.make("network")
    wanted = {"object_type": "network", "object_id": network["id"], "action": "access_as_shared", "target_tenant": "p2"}
    policy = net.make("rbac_policy", **wanted)
    assert net.show("network", network["id"], STRANGER)["shared"] is True
    assert net.show("network", network["id"], MEMBER)["shared"] is False
    assert net.refused("rbac_policy", **wanted)[0] == 409
    assert net.refused("rbac_policy", **wanted | {"target_tenant": "*"})[0] == 403
    assert net.refused("rbac_policy", **wanted | {"object_type": "cloud"})[0] == 400
    assert net.delete(f"/rbac-policies/{policy['id']}").status == 204
    assert net.get(f"/networks/{network['id']}", STRANGER).status == 404


@pytest.mark.parametrize(("tunnel_mtu", "mtu"), [(1500, 1442), (9000, 8942), (1450, 1392)])
def test_the_mtu_is_what_the_tunnels_leave(net: Networking, tunnel_mtu: int, mtu: int) -> None:
    use_tunnel_mtu(tunnel_mtu)
    try:
        assert net.make("network")["mtu"] == mtu
        assert error(net.post("/networks", {"network": {"mtu": mtu + 1}})) == (400, "InvalidInput")
        wire = {"provider:network_type": "flat", "provider:physical_network": "public"}
        assert net.make("network", ADMIN, **wire)["mtu"] == 1500
    finally:
        use_tunnel_mtu(1500)
