from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client import ADMIN, SERVICE, STRANGER
from tests.network.conftest import Networking, error
from trilith.kernel.errors import Fault
from trilith.network import addresses, ports, topology


def ips(port: dict[str, Any]) -> list[str]:
    return [fixed["ip_address"] for fixed in port["fixed_ips"]]


def test_life(net: Networking) -> None:
    network, subnet = net.network()
    made = net.make("port", network_id=network, name="p")
    assert made["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "10.0.0.3"}]  # .2 is where metadata is served
    assert made["mac_address"].startswith("fa:16:3e:")
    assert (made["status"], made["device_owner"], made["port_security_enabled"]) == ("DOWN", "", True)
    assert made["security_groups"] == list(net.ids("/security-groups?name=default"))
    assert not any(key.startswith("binding:") and key != "binding:vnic_type" for key in made)
    assert net.show("port", made["id"], ADMIN)["binding:vif_type"] == "unbound"
    assert net.show("port", made["id"]) == made
    changed = net.put(f"/ports/{made['id']}", {"port": {"name": "q", "admin_state_up": False}}).json["port"]
    assert (changed["name"], changed["admin_state_up"]) == ("q", False)
    assert net.get(f"/ports/{made['id']}", STRANGER).status == 404
    assert net.delete(f"/ports/{made['id']}").status == 204
    assert ips(net.make("port", network_id=network)) == ["10.0.0.3"]


def test_addresses_that_are_asked_for(net: Networking) -> None:
    network, subnet = net.network()
    made = net.make("port", network_id=network, fixed_ips=[{"ip_address": "10.0.0.50"}, {"subnet_id": subnet}])
    assert ips(made) == ["10.0.0.50", "10.0.0.3"]
    for fixed, expected in (
        ({"ip_address": "10.0.0.50"}, (409, "IpAddressInUse")),
        ({"ip_address": "10.7.0.1"}, (400, "InvalidIpForNetwork")),
        ({"ip_address": "10.7.0.1", "subnet_id": subnet}, (400, "InvalidIpForSubnet")),
        ({"ip_address": "10.0.0.255", "subnet_id": subnet}, (400, "InvalidIpForSubnet")),
        ({"subnet_id": network}, (400, "InvalidInput")),
        ({"ip_address": "ten"}, (400, "HTTPBadRequest")),
    ):
        assert net.refused("port", network_id=network, fixed_ips=[fixed]) == expected, fixed
    assert net.make("port", network_id=network, fixed_ips=[])["fixed_ips"] == []


def test_new_addresses(net: Networking) -> None:
    network, first = net.network()
    second = net.make("subnet", network_id=network, cidr="10.1.0.0/24", ip_version=4)["id"]
    port = net.make("port", network_id=network, fixed_ips=[{"subnet_id": first}, {"subnet_id": second}])
    path = f"/ports/{port['id']}"
    one = net.put(path, {"port": {"fixed_ips": [{"subnet_id": first}]}}).json["port"]
    assert ips(one) == ips(port)[:1]
    both = net.put(path, {"port": {"fixed_ips": [{"subnet_id": first}, {"subnet_id": second}]}}).json["port"]
    assert ips(both) == ips(port)
    moved = net.put(path, {"port": {"fixed_ips": [{"ip_address": "10.0.0.99"}]}}).json["port"]
    assert ips(moved) == ["10.0.0.99"]
    assert ips(net.make("port", network_id=network, fixed_ips=[{"subnet_id": first}])) == ips(port)[:1]


def test_exhaustion(net: Networking) -> None:
    network, _ = net.network("10.0.0.0/30", enable_dhcp=False)
    net.make("port", network_id=network)
    assert net.refused("port", network_id=network) == (409, "IpAddressGenerationFailure")
    assert (
        net.post("/ports", {"ports": [{"network_id": network, "fixed_ips": []}, {"network_id": network}]}).status == 409
    )
    assert len(net.ids("/ports")) == 1


def test_the_lowest_free_address_is_given_however_many_are_taken(net: Networking) -> None:
    network, subnet = net.network("10.0.0.0/24", enable_dhcp=False)
    made = [net.make("port", network_id=network) for _ in range(40)]
    assert [ips(port)[0] for port in made] == [f"10.0.0.{n}" for n in range(2, 42)]
    for n in (33, 4):
        net.delete(f"/ports/{made[n]['id']}")
    assert [ips(net.make("port", network_id=network))[0] for _ in range(3)] == ["10.0.0.6", "10.0.0.35", "10.0.0.42"]
    pools = [{"start": "10.0.0.200", "end": "10.0.0.202"}, {"start": "10.0.0.50", "end": "10.0.0.50"}]
    assert net.put(f"/subnets/{subnet}", {"subnet": {"allocation_pools": pools}}).status == 200
    given = [ips(net.make("port", network_id=network))[0] for _ in range(4)]
    assert given == ["10.0.0.200", "10.0.0.201", "10.0.0.202", "10.0.0.50"]
    assert net.refused("port", network_id=network) == (409, "IpAddressGenerationFailure")


def test_a_full_subnet_gives_what_becomes_free(net: Networking) -> None:
    network, _ = net.network("10.0.0.0/27", enable_dhcp=False)
    made = [net.make("port", network_id=network) for _ in range(29)]
    assert net.refused("port", network_id=network) == (409, "IpAddressGenerationFailure")
    net.put(f"/ports/{made[7]['id']}", {"port": {"fixed_ips": []}})
    assert ips(net.make("port", network_id=network)) == ips(made[7])


def test_no_two_requests_get_one_address(net: Networking) -> None:
    network, _ = net.network()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: net.make("port", network_id=network), range(24)))
    assert len({ips(port)[0] for port in made}) == 24
    assert len({port["mac_address"] for port in made}) == 24


def test_mac_addresses(net: Networking) -> None:
    network, _ = net.network()
    made = net.make("port", network_id=network, mac_address="FA:16:3E:00:00:01")
    assert made["mac_address"] == "fa:16:3e:00:00:01"
    assert net.refused("port", network_id=network, mac_address="fa:16:3e:00:00:01") == (409, "MacAddressInUse")
    change = {"port": {"mac_address": "fa:16:3e:00:00:02"}}
    assert net.put(f"/ports/{made['id']}", change).status == 403
    assert net.put(f"/ports/{made['id']}", change, ADMIN).json["port"]["mac_address"] == "fa:16:3e:00:00:02"


def test_port_security(net: Networking) -> None:
    network, _ = net.network()
    group = net.make("security_group", name="g")["id"]
    open_ = net.make("port", network_id=network, port_security_enabled=False)
    assert open_["security_groups"] == []
    assert net.refused("port", network_id=network, port_security_enabled=False, security_groups=[group])[0] == 409
    pair = {"ip_address": "10.0.0.200"}
    conflict = net.put(f"/ports/{open_['id']}", {"port": {"allowed_address_pairs": [pair]}})
    assert error(conflict) == (409, "AddressPairAndPortSecurityRequired")
    port = net.make("port", network_id=network, allowed_address_pairs=[pair], security_groups=[group])
    assert port["allowed_address_pairs"] == [{"ip_address": "10.0.0.200", "mac_address": port["mac_address"]}]
    assert port["security_groups"] == [group]
    assert net.ids(f"/ports?security_groups={group}") == {port["id"]}
    assert net.refused("port", network_id=network, security_groups=[network]) == (404, "SecurityGroupNotFound")
    closed = {"port": {"port_security_enabled": False, "security_groups": [], "allowed_address_pairs": []}}
    assert net.put(f"/ports/{port['id']}", closed).status == 200


def test_dhcp_options(net: Networking) -> None:
    network, _ = net.network()
    wanted = [{"opt_name": "tftp-server", "opt_value": "10.0.0.9"}, {"opt_name": "bootfile-name", "opt_value": "x"}]
    port = net.make("port", network_id=network, extra_dhcp_opts=wanted)
    assert port["extra_dhcp_opts"] == [option | {"ip_version": 4} for option in wanted]
    change = {"port": {"extra_dhcp_opts": [{"opt_name": "tftp-server", "opt_value": None}]}}
    changed = net.put(f"/ports/{port['id']}", change).json["port"]
    assert [option["opt_name"] for option in changed["extra_dhcp_opts"]] == ["bootfile-name"]


def test_filters(net: Networking) -> None:
    network, subnet = net.network()
    port = net.make("port", network_id=network, device_id="d1", fixed_ips=[{"ip_address": "10.0.0.77"}])
    other = net.make("port", network_id=network)
    assert net.ids("/ports?device_id=d1") == {port["id"]}
    assert net.ids("/ports?device_id=&device_owner=") == {other["id"]}
    assert net.ids("/ports?fixed_ips=ip_address=10.0.0.77") == {port["id"]}
    assert net.ids(f"/ports?fixed_ips=subnet_id={subnet}&fixed_ips=ip_address=10.0.0.77") == {port["id"]}
    assert net.ids("/ports?fixed_ips=ip_address_substr=0.77") == {port["id"]}
    assert net.get("/ports?fixed_ips=77").status == 400
    fields = net.get("/ports?fields=id&fields=name&fields=mac_address&fields=fixed_ips&fields=status").json["ports"]
    assert set(fields[0]) == {"id", "name", "mac_address", "fixed_ips", "status"}


def test_ports_on_others_networks(net: Networking) -> None:
    shared = net.make("network", ADMIN, shared=True)["id"]
    net.make("subnet", ADMIN, network_id=shared, cidr="10.0.0.0/24", ip_version=4)
    port = net.make("port", network_id=shared)
    assert port["project_id"] == "p1"
    assert net.refused("port", network_id=shared, fixed_ips=[{"ip_address": "10.0.0.9"}])[0] == 403
    assert net.refused("port", network_id=shared, mac_address="fa:16:3e:00:00:01")[0] == 403
    assert net.refused("port", network_id=shared, device_owner="network:router_interface")[0] == 403
    assert net.refused("port", network_id=net.make("network", STRANGER)["id"]) == (404, "NetworkNotFound")
    assert port["id"] in net.ids("/ports", ADMIN)
    assert port["id"] not in net.ids("/ports", STRANGER)


def test_binding(net: Networking) -> None:
    network, _ = net.network()
    port = net.make("port", network_id=network)
    bind = {"port": {"binding:host_id": "c1", "device_id": "vm", "device_owner": "compute:nova"}}
    assert net.put(f"/ports/{port['id']}", bind).status == 403
    bound = net.put(f"/ports/{port['id']}", bind, SERVICE)
    assert bound.status in (200, 403)
    bound = net.put(f"/ports/{port['id']}", bind, ADMIN).json["port"]
    assert (bound["binding:vif_type"], bound["binding:host_id"], bound["status"]) == ("ovs", "c1", "DOWN")
    net.api.app.store.run(lambda tx: topology.report_ports_up(tx, {port["id"]}))
    assert net.show("port", port["id"])["status"] == "ACTIVE"
    net.api.app.store.run(lambda tx: topology.report_ports_up(tx, set()))
    assert net.show("port", port["id"])["status"] == "DOWN"


def test_what_compute_calls(net: Networking) -> None:
    network, subnet = net.network("10.0.0.0/24", dns_nameservers=["9.9.9.9"])
    store = net.api.app.store
    ids = iter(f"00000000-0000-0000-0000-{n:012}" for n in range(9))
    port = store.run(lambda tx: ports.make_port(tx, lambda: next(ids), project_id="p1", network_id=network))
    port = store.run(lambda tx: ports.bind_port(tx, port, device_id="vm1", device_owner="compute:nova", host="c0"))
    with pytest.raises(Fault):
        store.run(lambda tx: ports.bind_port(tx, port, device_id="vm2", device_owner="compute:nova", host="c1"))
    bound = store.run(lambda tx: ports.bind_port(tx, port, device_id="vm1", device_owner="compute:nova", host="c1"))
    networks = store.read(lambda tx: ports.networks_of(tx, [bound]))
    document = ports.nic_document(bound, networks[network])
    assert document == {"port_id": port["id"], "mac": port["mac_address"], "mtu": 1442, "ready": False}
    store.run(lambda tx: topology.report_ports_up(tx, {port["id"]}))
    (bound,) = store.read(lambda tx: ports.ports_of(tx, ["vm1"]))
    assert ports.nic_document(bound, networks[network])["ready"] is True
    found = store.read(lambda tx: addresses.addresses(tx, ["vm1", "vm2"]))
    assert found["vm2"] == {}
    assert [address["addr"] for address in found["vm1"][""]] == ["10.0.0.3"]
    data = ports.network_data([bound], networks)
    assert data["networks"][0]["type"] == "ipv4_dhcp"
    assert data["links"][0]["ethernet_mac_address"] == port["mac_address"]
    assert data["services"] == [{"type": "dns", "address": "9.9.9.9"}]
    (served,) = store.read(lambda tx: topology.metadata_networks(tx, "c1"))
    assert (served["id"], served["addresses"], served["servers"]) == (network, ["10.0.0.2/24"], {"10.0.0.3": "vm1"})
    free = store.run(lambda tx: ports.unbind_port(tx, bound))
    assert (free["device_id"], free["status"], free["fixed_ips"]) == ("", "DOWN", port["fixed_ips"])
    store.run(lambda tx: ports.drop_port(tx, free))
    assert net.delete(f"/subnets/{subnet}").status == 204


def test_a_port_belongs_to_the_machine_that_holds_it(net: Networking) -> None:
    """Anyone may write any device_id on an own port: that alone must not put it into somebody's machine."""
    network, _ = net.network()
    store = net.api.app.store
    claimed = net.make("port", network_id=network, device_id="victim", device_owner="compute:nova")["id"]
    assert store.read(lambda tx: ports.ports_of(tx, ["victim"])) == []
    row = store.read(lambda tx: tx.get(ports.PORT, net.make("port", network_id=network)["id"]))
    store.run(lambda tx: ports.bind_port(tx, row, device_id="mine", device_owner="compute:nova", host="c1"))
    change = {"port": {"device_id": "victim"}}
    assert error(net.put(f"/ports/{row['id']}", change)) == (409, "ServicePortInUse")
    assert net.put(f"/ports/{claimed}", {"port": {"device_id": ""}}).status == 200
    (served,) = store.read(lambda tx: topology.metadata_networks(tx, "c1"))
    assert set(served["servers"].values()) == {"mine"}


def test_nobody_joins_the_router_of_another(net: Networking) -> None:
    network, _ = net.network()
    theirs = net.make("router", STRANGER)["id"]
    wanted = {"network_id": network, "device_owner": "network:router_interface", "device_id": theirs}
    assert net.refused("port", **wanted) == (409, "DeviceIDNotOwnedByProject")
    port = net.make("port", network_id=network)["id"]
    change = {"port": {"device_owner": "network:router_interface", "device_id": theirs}}
    assert error(net.put(f"/ports/{port}", change)) == (409, "DeviceIDNotOwnedByProject")
    assert net.refused("port", network_id=network, device_owner="network:distributed")[0] == 403
