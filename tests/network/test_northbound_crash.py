"""The controller dies before or after each of its acts, or does them twice: OVN ends up as the rows say, and empty."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.network.conftest import Networking
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.network_controller import KEY, NetworkController
from trilith.cluster.state import Settings, State
from trilith.drivers.ovn_fake import FakeNorthbound
from trilith.kernel.reconcile import converge
from trilith.kernel.testing import Doomed, Fate, Killed
from trilith.network import northbound_plan, repair
from trilith.placement import hosts

WANT = {"id": KEY, "generation": 1}
HOST_ID = "00000000-0000-0000-0000-000000000001"


class World:
    """An API, an OVN that outlives its controllers, and one controller after the other."""

    def __init__(self, net: Networking, directory: Path) -> None:
        self.net, self.directory, self.ovn = net, directory, FakeNorthbound()
        self.store = net.api.app.store
        self.store.run(lambda tx: hosts.register(tx, "c1", HOST_ID, ["network"], "nova"))

    def controller(self) -> NetworkController:
        settings = Settings(cloud_id="t", host="c1", cluster=all_in_one("c1"))
        return NetworkController(State(self.directory), settings, self.store, self.ovn)

    def work(self, fate: Fate, at: int) -> None:
        """A controller that meets its fate, and where it died the next one."""
        doomed = Doomed(self.controller(), fate, at)
        with contextlib.suppress(Killed):
            converge(doomed, KEY, WANT)
        outcome = converge(self.controller(), KEY, WANT)
        assert outcome.fault is None
        assert not outcome.retry
        assert northbound_plan.diff(self.controller()._wanted(), self.ovn.read()) == []

    def rows(self) -> int:
        return sum(len(rows) for rows in self.ovn.read().values())


def life(world: World, fate: Fate, at: int) -> None:
    """Rows appear, change, are all made anew, and go; each time the controller is disturbed."""
    net = world.net
    world.work("none", 0)
    empty = world.rows()
    network = net.post("/networks", {"network": {"name": "n"}}).json["network"]["id"]
    net.post("/subnets", {"subnet": {"network_id": network, "cidr": "10.0.0.0/24", "ip_version": 4}})
    ports = [net.post("/ports", {"port": {"network_id": network}}).json["port"]["id"] for _ in range(3)]
    world.work(fate, at)
    assert world.rows() > empty
    net.put(f"/ports/{ports[0]}", {"port": {"admin_state_up": False}})
    world.work(fate, at)
    world.store.run(lambda tx: tx.execute(repair.REPAIRS.insert().values(what=repair.WHAT, asked=1, done=0)))
    world.work(fate, at)
    assert world.store.read(repair.pending) == 0
    for port in ports:
        assert net.delete(f"/ports/{port}").status == 204
    assert net.delete(f"/networks/{network}").status == 204
    world.work(fate, at)
    left: Any = {table: rows for table, rows in world.ovn.read().items() if rows and table.startswith("Logical")}
    assert left == {}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("fate", ["before", "after", "reply lost", "twice"])
def test_every_crash_is_survived(net: Networking, tmp_path: Path, fate: Fate, at: int) -> None:
    life(World(net, tmp_path), fate, at)
