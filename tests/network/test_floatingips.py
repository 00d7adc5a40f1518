from tests.client import ADMIN, STRANGER
from tests.network.conftest import Networking, error


def test_life(net: Networking) -> None:
    outside = net.outside()
    network, subnet = net.network()
    router = net.reach(subnet, outside)
    port = net.make("port", network_id=network, name="p", device_id="vm")
    made = net.make("floatingip", floating_network_id=outside)
    assert (made["status"], made["port_id"], made["router_id"], made["port_details"]) == ("DOWN", None, None, None)
    path = f"/floatingips/{made['id']}"
    on = net.put(path, {"floatingip": {"port_id": port["id"]}}).json["floatingip"]
    assert (on["status"], on["fixed_ip_address"], on["router_id"]) == ("ACTIVE", "10.0.0.3", router)
    assert on["port_details"]["device_id"] == "vm"
    assert net.put(path, {"floatingip": {"description": "d"}}).json["floatingip"]["port_id"] == port["id"]
    clear = net.put(f"/routers/{router}", {"router": {"external_gateway_info": None}})
    assert error(clear) == (409, "RouterExternalGatewayInUseByFloatingIp")
    off = net.put(f"/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    assert error(off) == (409, "RouterInterfaceInUseByFloatingIP")
    assert net.ids(f"/floatingips?port_id={port['id']}") == {made["id"]}
    assert net.ids("/floatingips?port_id=") == set()
    assert net.get(path, STRANGER).status == 404
    assert net.put(path, {"floatingip": {"port_id": None}}).json["floatingip"]["status"] == "DOWN"
    assert net.delete(path).status == 204
    assert error(net.get(path)) == (404, "FloatingIPNotFound")
    assert net.ids("/ports?device_owner=network:floatingip", ADMIN) == set()


def test_at_once_with_a_port(net: Networking) -> None:
    outside = net.outside()
    network, subnet = net.network()
    port = net.make("port", network_id=network)["id"]
    unreachable = {"floating_network_id": outside, "port_id": port}
    assert net.refused("floatingip", **unreachable) == (404, "ExternalGatewayForFloatingIPNotFound")
    assert net.ids("/ports?device_owner=network:floatingip", ADMIN) == set()
    net.reach(subnet, outside)
    made = net.make("floatingip", **unreachable)
    assert made["status"] == "ACTIVE"
    assert net.refused("floatingip", **unreachable) == (409, "FloatingIPPortAlreadyAssociated")
    net.delete(f"/ports/{port}")
    assert net.show("floatingip", made["id"])["port_id"] is None


def test_an_address_that_the_port_gives_up_is_not_translated_to(net: Networking) -> None:
    outside = net.outside()
    network, subnet = net.network()
    net.reach(subnet, outside)
    port = net.make("port", network_id=network)["id"]
    floating = net.make("floatingip", floating_network_id=outside, port_id=port)["id"]
    both = {"port": {"fixed_ips": [{"ip_address": "10.0.0.3"}, {"ip_address": "10.0.0.50"}]}}
    net.put(f"/ports/{port}", both)
    assert net.show("floatingip", floating)["status"] == "ACTIVE"
    net.put(f"/ports/{port}", {"port": {"fixed_ips": [{"ip_address": "10.0.0.50"}]}})
    assert net.show("floatingip", floating)["status"] == "DOWN"


def test_which_address(net: Networking) -> None:
    outside = net.outside()
    network, subnet = net.network()
    net.reach(subnet, outside)
    fixed = [{"ip_address": "10.0.0.20"}, {"ip_address": "10.0.0.21"}]
    port = net.make("port", network_id=network, fixed_ips=fixed)["id"]
    wanted = {"floating_network_id": outside, "port_id": port}
    assert net.refused("floatingip", **wanted) == (400, "BadRequest")
    assert net.refused("floatingip", **wanted, fixed_ip_address="10.0.0.22") == (400, "BadRequest")
    assert net.make("floatingip", **wanted, fixed_ip_address="10.0.0.21")["fixed_ip_address"] == "10.0.0.21"
    mine = {"floating_network_id": outside, "floating_ip_address": "172.24.4.77"}
    assert net.refused("floatingip", **mine)[0] == 403
    assert net.make("floatingip", ADMIN, **mine)["floating_ip_address"] == "172.24.4.77"
    assert net.refused("floatingip", ADMIN, **mine) == (409, "IpAddressInUse")
    assert net.refused("floatingip", floating_network_id=network) == (400, "BadRequest")
    foreign = net.make("floatingip", STRANGER, floating_network_id=outside)["id"]
    assert error(net.put(f"/floatingips/{foreign}", {"floatingip": {"port_id": port}}, STRANGER)) == (
        404,
        "PortNotFound",
    )
