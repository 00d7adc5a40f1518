from tests.client import ADMIN, STRANGER
from tests.network.conftest import Networking, error


def test_life(net: Networking) -> None:
    made = net.make("router", name="r")
    assert (made["status"], made["external_gateway_info"], made["routes"]) == ("ACTIVE", None, [])
    assert net.put(f"/routers/{made['id']}", {"router": {"name": "q"}}).json["router"]["name"] == "q"
    assert net.get(f"/routers/{made['id']}", STRANGER).status == 404
    assert net.refused("router", distributed=True)[0] == 400  # not built
    assert net.delete(f"/routers/{made['id']}").status == 204
    assert error(net.get(f"/routers/{made['id']}")) == (404, "RouterNotFound")


def test_gateway(net: Networking) -> None:
    outside = net.outside()
    router = net.make("router", external_gateway_info={"network_id": outside})
    info = router["external_gateway_info"]
    assert (info["network_id"], info["enable_snat"]) == (outside, True)
    assert [fixed["ip_address"] for fixed in info["external_fixed_ips"]] == ["172.24.4.2"]
    path = f"/routers/{router['id']}"
    (port,) = net.get(f"/ports?device_id={router['id']}", ADMIN).json["ports"]
    assert (port["device_owner"], port["project_id"], port["status"]) == ("network:router_gateway", "", "ACTIVE")
    assert net.ids(f"/ports?device_id={router['id']}") == set()
    assert error(net.delete(f"/ports/{port['id']}", ADMIN)) == (409, "ServicePortInUse")
    no_snat = {"router": {"external_gateway_info": {"network_id": outside, "enable_snat": False}}}
    assert net.put(path, no_snat).status == 403
    assert net.put(path, no_snat, ADMIN).json["router"]["external_gateway_info"]["enable_snat"] is False
    moved = {"network_id": outside, "external_fixed_ips": [{"ip_address": "172.24.4.99"}]}
    changed = net.put(path, {"router": {"external_gateway_info": moved}}, ADMIN).json["router"]
    assert [fixed["ip_address"] for fixed in changed["external_gateway_info"]["external_fixed_ips"]] == ["172.24.4.99"]
    assert net.delete(f"/networks/{outside}", ADMIN).status == 409
    assert net.put(path, {"router": {"external_gateway_info": {}}}).json["router"]["external_gateway_info"] is None
    assert net.ids(f"/ports?device_id={router['id']}", ADMIN) == set()


def test_a_gateway_on_a_network_without_subnets_has_no_address(net: Networking) -> None:
    wanted = {"router:external": True, "provider:network_type": "flat", "provider:physical_network": "public"}
    outside = net.make("network", ADMIN, **wanted)["id"]
    router = net.make("router", external_gateway_info={"network_id": outside})
    assert router["external_gateway_info"]["external_fixed_ips"] == []
    assert net.refused("floatingip", floating_network_id=outside) == (400, "ExternalIpAddressExhausted")


def test_bad_gateways(net: Networking) -> None:
    network, _ = net.network()
    router = net.make("router")["id"]
    for info, expected in (
        ({"network_id": network}, (400, "BadRequest")),
        ({"network_id": router}, (404, "NetworkNotFound")),
    ):
        assert error(net.put(f"/routers/{router}", {"router": {"external_gateway_info": info}})) == expected


def test_interfaces_by_subnet(net: Networking) -> None:
    network, subnet = net.network()
    router = net.make("router")["id"]
    made = net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet}).json
    assert (made["id"], made["subnet_id"], made["subnet_ids"], made["tenant_id"]) == (router, subnet, [subnet], "p1")
    port = net.show("port", made["port_id"])
    assert (port["device_owner"], port["device_id"]) == ("network:router_interface", router)
    assert port["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "10.0.0.1"}]
    assert error(net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet})) == (400, "BadRequest")
    _, overlapping = net.network("10.0.0.128/25")
    assert error(net.put(f"/routers/{router}/add_router_interface", {"subnet_id": overlapping})) == (400, "BadRequest")
    assert error(net.delete(f"/routers/{router}")) == (409, "RouterInUse")
    assert error(net.delete(f"/ports/{port['id']}")) == (409, "ServicePortInUse")
    assert error(net.delete(f"/subnets/{subnet}")) == (409, "SubnetInUse")
    assert error(net.delete(f"/networks/{network}")) == (409, "NetworkInUse")
    remove = f"/routers/{router}/remove_router_interface"
    assert error(net.put(remove, {"subnet_id": overlapping})) == (404, "RouterInterfaceNotFoundForSubnet")
    assert net.put(remove, {"subnet_id": subnet}).json["port_id"] == port["id"]
    assert net.get(f"/ports/{port['id']}").status == 404
    assert net.delete(f"/routers/{router}").status == 204


def test_interfaces_by_port(net: Networking) -> None:
    network, subnet = net.network()
    router = net.make("router")["id"]
    port = net.make("port", network_id=network)["id"]
    add, remove = f"/routers/{router}/add_router_interface", f"/routers/{router}/remove_router_interface"
    for body in ({}, {"subnet_id": subnet, "port_id": port}):
        assert error(net.put(add, body)) == (400, "BadRequest")
    assert net.put(add, {"port_id": port}).json["subnet_ids"] == [subnet]
    assert net.ids(f"/ports?device_id={router}") == {port}
    assert error(net.put(add, {"port_id": port})) == (409, "PortInUse")
    assert error(net.put(remove, {"port_id": subnet})) == (404, "RouterInterfaceNotFound")
    assert net.put(remove, {"port_id": port}).status == 200


def test_a_subnet_without_gateway_cannot_be_joined(net: Networking) -> None:
    _, subnet = net.network(gateway_ip=None)
    router = net.make("router")["id"]
    assert error(net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet})) == (400, "BadRequest")


def test_one_port_for_the_ipv6_subnets_of_a_network(net: Networking) -> None:
    network, first = net.network("2001:db8:1::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
    second = net.make("subnet", network_id=network, cidr="2001:db8:2::/64", ip_version=6)["id"]
    router = net.make("router")["id"]
    ports = [
        net.put(f"/routers/{router}/add_router_interface", {"subnet_id": s}).json["port_id"] for s in (first, second)
    ]
    assert ports[0] == ports[1]
    net.put(f"/routers/{router}/remove_router_interface", {"subnet_id": first})
    assert [fixed["subnet_id"] for fixed in net.show("port", ports[0])["fixed_ips"]] == [second]


def test_routes(net: Networking) -> None:
    _, subnet = net.network()
    router = net.make("router")["id"]
    net.put(f"/routers/{router}/add_router_interface", {"subnet_id": subnet})
    path = f"/routers/{router}"
    good = {"destination": "10.50.0.0/16", "nexthop": "10.0.0.9"}
    assert net.put(path, {"router": {"routes": [good]}}).json["router"]["routes"] == [good]
    for bad in ({"nexthop": "10.77.0.1"}, {"nexthop": "10.0.0.1"}, {"destination": "2001:db8::/64"}):
        assert error(net.put(path, {"router": {"routes": [good | bad]}})) == (400, "InvalidRoutes"), bad
    in_use = net.put(f"{path}/remove_router_interface", {"subnet_id": subnet})
    assert error(in_use) == (409, "RouterInterfaceInUseByRoute")
    more = good | {"destination": "10.60.0.0/16"}
    added = net.put(f"{path}/add_extraroutes", {"router": {"routes": [more]}}).json["router"]
    assert added["routes"] == [good, more]
    left = net.put(f"{path}/remove_extraroutes", {"router": {"routes": [good]}}).json["router"]
    assert left["routes"] == [more]
    assert net.put(path, {"router": {"routes": []}}).json["router"]["routes"] == []


def test_auto_allocated_topology(net: Networking) -> None:
    path = "/auto-allocated-topology/p1"
    assert error(net.get(path)) == (404, "AutoAllocationFailure")
    outside = net.outside()
    net.put(f"/networks/{outside}", {"network": {"is_default": True}}, ADMIN)
    assert net.get(f"{path}?fields=dry-run").json["auto_allocated_topology"]["id"] == "dry-run=pass"
    network = net.get(path).json["auto_allocated_topology"]["id"]
    assert net.get(path).json["auto_allocated_topology"]["id"] == network
    assert len(net.ids("/routers")) == 1
    assert net.get("/auto-allocated-topology/p2").status == 403
    assert net.delete(path).status == 204
    assert net.ids("/routers") == net.ids("/subnets") == net.ids("/ports") == set()
