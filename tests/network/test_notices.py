"""What neutron's listeners are told: each resource as its API shows it to an administrator."""

from tests.client import ADMIN
from tests.network.conftest import Networking
from tests.notices import Told
from trilith.network.ports import PORT


def test_a_networks_life(net: Networking) -> None:
    told = Told(net.api.app.store)
    network = net.make("network", name="n")["id"]
    ((name, payload),) = told()
    assert name == "network.create.end"
    assert payload == {"network": net.show("network", network, ADMIN)}
    subnet = net.make("subnet", network_id=network, cidr="10.0.0.0/24", ip_version=4)["id"]
    found = dict(told())
    assert found["subnet.create.end"] == {"subnet": net.show("subnet", subnet, ADMIN)}
    assert net.put(f"/networks/{network}", {"network": {"name": "m"}}).status == 200
    ((name, payload),) = told()
    assert (name, payload) == ("network.update.end", {"network": net.show("network", network, ADMIN)})
    assert net.put(f"/networks/{network}", {"network": {"name": "m"}}).status == 200
    assert told() == []
    assert net.delete(f"/networks/{network}").status == 204
    found = dict(told())
    assert found["network.delete.end"]["network_id"] == network
    assert found["network.delete.end"]["network"]["name"] == "m"
    assert found["subnet.delete.end"]["subnet_id"] == subnet


def test_a_shared_network_is_told_as_it_was_committed(net: Networking) -> None:
    told = Told(net.api.app.store)
    net.make("network", ADMIN, shared=True)
    found = dict(told())
    assert found["network.create.end"]["network"]["shared"] is True
    assert found["rbac_policy.create.end"]["rbac_policy"]["action"] == "access_as_shared"


def test_ports_routers_and_floating_addresses(net: Networking) -> None:
    network, subnet = net.network()
    outside = net.outside()
    told = Told(net.api.app.store)
    router = net.reach(subnet, outside)
    found = told()
    (made,) = (payload for name, payload in found if name == "router.create.end")
    assert made["router"]["external_gateway_info"]["network_id"] == outside
    port = net.make("port", network_id=network)
    assert next(payload for name, payload in told() if name == "port.create.end")["port"]["id"] == port["id"]
    address = net.make("floatingip", floating_network_id=outside, port_id=port["id"])
    (payload,) = (payload for name, payload in told() if name == "floatingip.create.end")
    assert payload["floatingip"]["router_id"] == router
    assert payload["floatingip"]["floating_ip_address"] == address["floating_ip_address"]
    assert net.delete(f"/floatingips/{address['id']}").status == 204
    assert "floatingip.delete.end" in told.types()


def test_a_port_that_comes_up_is_an_update_and_its_bookkeeping_is_none(net: Networking) -> None:
    network, _ = net.network()
    port, store = net.make("port", network_id=network), net.api.app.store
    told = Told(store)
    store.run(lambda tx: tx.update(PORT, tx.get(PORT, port["id"]), machine_id="m1"))
    assert told() == []
    store.run(lambda tx: tx.update(PORT, tx.get(PORT, port["id"]), seen_up=True, binding_host="c1"))
    ((name, payload),) = told()
    assert (name, payload["port"]["status"]) == ("port.update.end", "ACTIVE")


def test_security_groups(net: Networking) -> None:
    group = net.make("security_group", name="g")["id"]
    told = Told(net.api.app.store)
    rule = net.make("security_group_rule", security_group_id=group, direction="ingress", ethertype="IPv4")["id"]
    assert "security_group_rule.create.end" in told.types()
    assert net.delete(f"/security-group-rules/{rule}").status == 204
    assert "security_group_rule.delete.end" in told.types()
    assert net.delete(f"/security-groups/{group}").status == 204
    assert "security_group.delete.end" in told.types()
