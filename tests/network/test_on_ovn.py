"""From a request to a packet: rows, controller, a real OVN, and machines that answer pings from outside."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, SERVICE
from tests.drivers.ovn_lab import HOST, Lab, Machine, lab, wait_for
from tests.network.conftest import Networking
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.network_controller import NetworkController
from trilith.cluster.state import Settings, State
from trilith.drivers import linux_net
from trilith.drivers.ovn import Northbound
from trilith.network import repair
from trilith.network.seed import seed_network
from trilith.placement import hosts

HOST_ID = "00000000-0000-0000-0000-000000000001"


class Cloud:
    """The API and a controller over one real OVN host."""

    def __init__(self, net: Networking, ovn: Lab, directory: Path) -> None:
        self.net, self.ovn = net, ovn
        self.store = net.api.app.store
        self.store.run(lambda tx: hosts.register(tx, HOST, HOST_ID, ["compute", "network"], "nova"))
        settings = Settings(cloud_id="t", host=HOST, cluster=all_in_one(HOST))
        self.controller = NetworkController(State(directory), settings, self.store, Northbound(ovn.host.remote))
        self.thread = threading.Thread(target=self.controller.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.controller.stop()
        self.thread.join(10)

    def machine(self, network: str, group: str) -> Machine:
        """On the network, with its address, when its port is ACTIVE."""
        port = self.net.make("port", network_id=network, security_groups=[group])
        bind = {"binding:host_id": HOST, "device_id": port["id"], "device_owner": "compute:nova"}
        assert self.net.put(f"/ports/{port['id']}", {"port": bind}, ADMIN).status == 200
        machine = self.ovn.machine(port)
        self.controller.wake()
        wait_for("the port is active", lambda: self.net.show("port", port["id"])["status"] == "ACTIVE")
        machine.static_address("10.0.0.1")
        return machine

    def reachable_as(self, machine: Machine, outside: str) -> str:
        """A floating address, from which the machine answers."""
        wanted = {"floating_network_id": outside, "port_id": machine.port["id"]}
        address = str(self.net.make("floatingip", **wanted)["floating_ip_address"])
        self.controller.wake()
        wait_for(f"{address} answers", lambda: pings(address))
        return address


def pings(address: str) -> bool:
    argv = ["ping", "-c1", "-W1", address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.fixture
def cloud(net: Networking, tmp_path: Path) -> Iterator[Cloud]:
    with lab(97) as ovn:
        made = Cloud(net, ovn, tmp_path)
        yield made
        made.stop()


def test_from_request_to_packet(net: Networking, cloud: Cloud) -> None:
    gateway = f"{cloud.ovn.public}.1"

    def seed(tx: Any) -> str:
        cidr = f"{cloud.ovn.public}.0/24"
        return str(seed_network(tx, public_cidr=cidr, gateway_ip=gateway, admin_project_id="pa")["id"])

    public = cloud.store.run(seed)
    group = net.make("security_group", name="g")["id"]
    rule = net.make("security_group_rule", security_group_id=group, direction="ingress", protocol="icmp")["id"]
    network, subnet = net.network()
    net.reach(subnet, public)
    machine = cloud.machine(network, group)
    address = cloud.reachable_as(machine, public)
    assert machine.pings(gateway, tries=3)

    # an operator's own external network, by the first command of every handbook, is on the same wire
    flat = {"provider:network_type": "flat", "provider:physical_network": "public", "router:external": True}
    second = net.make("network", ADMIN, **flat)["id"]
    pool = [{"start": f"{cloud.ovn.public}.251", "end": f"{cloud.ovn.public}.253"}]
    more = {"cidr": f"{cloud.ovn.public}.0/24", "gateway_ip": gateway, "allocation_pools": pool, "enable_dhcp": False}
    net.make("subnet", ADMIN, network_id=second, ip_version=4, **more)
    other_network, other_subnet = net.network()
    net.reach(other_subnet, second)
    cloud.reachable_as(cloud.machine(other_network, group), second)

    # derived, so it can be made anew while everything runs
    assert net.api.post("/agent/v1/repair/network", who=SERVICE).status == 202
    cloud.controller.wake()
    wait_for("repaired", lambda: cloud.store.read(repair.pending) == 0)
    wait_for("still there", lambda: pings(address))

    # what is taken away is gone, what is unplugged is down
    net.delete(f"/security-group-rules/{rule}")
    cloud.controller.wake()
    wait_for("pings are let in no more", lambda: not pings(address))
    linux_net.delete_namespace(machine.netns)
    cloud.ovn.network.unplug(machine.port["id"])
    wait_for("the port is down", lambda: net.show("port", machine.port["id"])["status"] == "DOWN")
