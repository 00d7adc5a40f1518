"""From rows to OVN's northbound rows and back, through the controller's reconciler over the fake driver."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import ADMIN, SERVICE
from tests.network.conftest import Networking
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.network_controller import NetworkController, resolvers
from trilith.cluster.state import Settings, State
from trilith.drivers.ovn_fake import FakeNorthbound
from trilith.kernel.errors import Unavailable
from trilith.kernel.leases import LEASES
from trilith.kernel.reconcile import Act
from trilith.network import northbound_plan, repair, topology
from trilith.placement import hosts

CHASSIS = ["c1"]


def whole_cloud(net: Networking) -> dict[str, str]:
    """One of everything."""
    outside = net.outside()
    network, subnet = net.network(dns_nameservers=["9.9.9.9"])
    router = net.reach(subnet, outside)
    group = net.make("security_group", name="g")["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    net.make("security_group_rule", **rule, port_range_min=22, port_range_max=22)
    port = net.make("port", network_id=network, security_groups=[group], dns_name="web")["id"]
    bind = {"binding:host_id": "c1", "device_id": "vm", "device_owner": "compute:nova"}
    assert net.put(f"/ports/{port}", {"port": bind}, ADMIN).status == 200
    floating = net.make("floatingip", floating_network_id=outside, port_id=port)["id"]
    return {"network": network, "router": router, "group": group, "port": port, "floating": floating}


def test_the_plan_understands_the_topology(net: Networking) -> None:
    made = whole_cloud(net)
    document = net.api.app.store.read(
        lambda tx: topology.topology(tx, {"gateway_chassis": CHASSIS}, dns_servers=["1.1.1.1"])
    )
    rows = northbound_plan.compile(document)
    assert made["network"] in rows["Logical_Switch"]
    assert made["router"] in rows["Logical_Router"]
    assert made["port"] in rows["Logical_Switch_Port"]
    assert made["floating"] in rows["NAT"]
    assert rows["DHCP_Options"]


def test_the_fingerprint_tells_of_every_change(net: Networking) -> None:
    store = net.api.app.store
    made = whole_cloud(net)
    marks = [store.read(topology.fingerprint)]
    for method, path, body in (
        (net.put, f"/networks/{made['network']}", {"network": {"admin_state_up": False}}),
        (net.post, "/ports", {"port": {"network_id": made["network"]}}),
        (net.put, f"/floatingips/{made['floating']}", {"floatingip": {"port_id": None}}),
    ):
        assert method(path, body).status < 300
        marks.append(store.read(topology.fingerprint))
    net.delete(f"/floatingips/{made['floating']}")
    marks.append(store.read(topology.fingerprint))
    assert len(set(marks)) == 5
    assert store.read(topology.fingerprint) == marks[-1]


@pytest.fixture
def controller(net: Networking, tmp_path: Path) -> Iterator[NetworkController]:
    host_id = "00000000-0000-0000-0000-000000000001"
    net.api.app.store.run(lambda tx: hosts.register(tx, "c1", host_id, ["network"], "nova"))
    settings = Settings(cloud_id="t", host="c1", cluster=all_in_one("c1"), fake=False)
    found = NetworkController(State(tmp_path), settings, net.api.app.store, FakeNorthbound())
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    yield found
    found.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_two_gateways_have_a_witness(net: Networking) -> None:
    store = net.api.app.store
    roles = {"c1": ["control", "network"], "c2": ["network"], "n1": ["compute"], "n2": ["compute"], "l1": ["logging"]}
    for number, (name, of_host) in enumerate(roles.items()):
        host_id = f"00000000-0000-0000-0000-00000000000{number}"
        store.run(lambda tx, n=name, i=host_id, r=of_host: hosts.register(tx, n, i, r, "nova"))  # type: ignore[misc]
    assert store.read(topology.gateways) == {"gateway_chassis": ["c1", "c2"], "gateway_witnesses": ["n1"]}


def test_what_was_asleep_writes_nothing(net: Networking, tmp_path: Path) -> None:
    """Two controllers over one database: the first one's lease runs out while it looks away."""
    settings = [Settings(cloud_id="t", host=name, cluster=all_in_one(name), fake=False) for name in ("c1", "c2")]
    ovn = FakeNorthbound()
    first, second = (NetworkController(State(tmp_path), each, net.api.app.store, ovn) for each in settings)
    first.perform("northbound", Act("compare"))
    net.api.app.store.run(lambda tx: tx.execute(LEASES.update().values(expires_at_s=0.0)))
    second.perform("northbound", Act("compare"))
    network, _ = net.network()
    with pytest.raises(Unavailable, match="taken over"):
        first.perform("northbound", Act("compare"))
    assert network not in ovn.read()["Logical_Switch"]
    second.perform("northbound", Act("compare"))
    assert network in ovn.read()["Logical_Switch"]


def until(ready: object, what: str) -> None:
    deadline = time.monotonic() + 5
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_the_controller_follows_and_reports(net: Networking, controller: NetworkController) -> None:
    northbound = controller._northbound
    assert isinstance(northbound, FakeNorthbound)
    made = whole_cloud(net)
    controller.wake()
    until(lambda: made["floating"] in northbound.read()["NAT"], "the floating address reaches OVN")
    northbound.set_up(made["port"])
    until(lambda: net.show("port", made["port"])["status"] == "ACTIVE", "the port is up")
    northbound.away = True
    net.delete(f"/floatingips/{made['floating']}")
    controller.wake()
    time.sleep(0.1)
    assert net.show("port", made["port"])["status"] == "ACTIVE"  # nobody knows: nothing changes
    northbound.away = False
    until(lambda: made["floating"] not in northbound.read()["NAT"], "what was missed is made good")


def test_what_others_did_to_ovn_is_undone(net: Networking, controller: NetworkController) -> None:
    northbound = controller._northbound
    assert isinstance(northbound, FakeNorthbound)
    network, _ = net.network()
    controller.wake()
    until(lambda: network in northbound.read()["Logical_Switch"], "there")
    northbound.replace({})
    until(lambda: network in northbound.read()["Logical_Switch"], "there again")


def test_repair(net: Networking, controller: NetworkController) -> None:
    store = net.api.app.store
    assert net.api.post("/agent/v1/repair/network").status == 403
    assert net.api.post("/agent/v1/repair/network", who=SERVICE).status == 202
    assert store.read(repair.pending) == 1
    controller.wake()
    until(lambda: store.read(repair.pending) == 0, "done")


def test_resolvers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search x\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n# nameserver 1.1.1.1\n")
    assert resolvers(path) == ["9.9.9.9"]
    assert resolvers(tmp_path / "none") == []
