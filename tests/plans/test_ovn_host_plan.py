"""A host becomes a chassis: in which order, with either datapath, after a reboot, and what an operator must mend."""

import copy
from typing import Any

import pytest

from trilith.cluster.engines import ovn_host_plan as plans
from trilith.kernel.reconcile import Act, Doc

UNITS = ["ovs.service", "ovn-controller.service"]
WANT: Doc = {
    "units": {name: {"digest": "d1"} for name in UNITS},
    "switch_units": UNITS[:1],
    "controller_units": UNITS[1:],
    "restarted": UNITS[1:],
    "external_ids": {"system-id": "c1", "ovn-remote": "ssl:10.0.0.1:6642"},
    "physical_networks": ["public", "provider"],
    "is_gateway": True,
    "provider_interface": "eth2",
    "tunnel_interface": "eth1",
    "tunnel_address": "10.0.1.1",
    "tunnel_prefix_length": 24,
    "tunnel_mtu": 1500,
    "tunnel_shared": False,
}


def link(*addresses: str, up: bool = True) -> Doc:
    return {"mac": "02:00:00:00:00:01", "mtu": 1500, "up": up, "addresses": list(addresses)}


class World:
    """One host. Acts happen as told; `after` lists them."""

    def __init__(self, datapath: str) -> None:
        self.datapath = datapath
        self.acts: list[str] = []
        self.boot()

    def boot(self) -> None:
        self.seen: Doc = {
            "units": {name: {"active": "inactive", "runs_with": None, "pid": 0} for name in UNITS},
            "datapath": None,
            "switch": None,
            "links": {"eth0": link("10.0.0.1/24"), "eth1": link("10.0.1.1/24"), "eth2": link(up=False)},
            "drops": [],
            "controller": None,
        }

    def perform(self, act: Act) -> None:
        self.acts.append(" ".join([act.do, *[str(act.args[k]) for k in ("unit", "name") if k in act.args]]))
        match act.do:
            case "start":
                self.seen["units"][act.args["unit"]] = {"active": "active", "runs_with": "d1", "pid": 7}
                if act.args["unit"] == "ovs.service":
                    self.seen |= {"datapath": self.datapath}
                    self.seen["switch"] = {"external_ids": {}, "other_config": {}, "bridges": {}}
                else:
                    self.seen["controller"] = "connected"
            case "set_switch":
                self.seen["switch"] |= act.args
            case "make_bridge":
                bridge = dict(act.args)
                self.seen["switch"]["bridges"][bridge.pop("name")] = bridge
                self.seen["links"][act.args["name"]] = link(up=False)
            case "remove_bridge":
                del self.seen["switch"]["bridges"][act.args["name"]]
                del self.seen["links"][act.args["name"]]
            case "set_link":
                there = self.seen["links"][act.args["name"]]
                there |= {"up": True, "addresses": act.args["addresses"], "mtu": act.args["mtu"] or there["mtu"]}
            case "leave_to_switch":
                self.seen["drops"] = list(act.args["interfaces"])
            case _:
                raise AssertionError(act.do)

    def run(self, want: Doc = WANT, most: int = 100) -> None:
        for _ in range(most):
            acts = plans.plan(want, copy.deepcopy(self.seen))
            if not acts:
                return
            self.perform(acts[0])
        assert most < 100


@pytest.mark.parametrize("datapath", ["system", "netdev"])
def test_from_nothing(datapath: str) -> None:
    world = World(datapath)
    world.run()
    assert world.acts[0] == "start ovs.service"
    assert world.acts[-1] == "start ovn-controller.service"
    assert plans.problem(WANT, world.seen) is None
    links, bridges = world.seen["links"], world.seen["switch"]["bridges"]
    assert world.seen["switch"]["external_ids"]["ovn-bridge-mappings"] == "public:br-ex,provider:br-ex"
    if datapath == "netdev":
        assert (links["eth1"]["addresses"], links["br-phy"]["addresses"]) == ([], ["10.0.1.1/24"])
        assert bridges["br-phy"]["other_config"] == {"hwaddr": links["eth1"]["mac"]}
        assert world.seen["drops"] == ["eth1", "eth2"]
    else:
        assert links["eth1"]["addresses"] == ["10.0.1.1/24"]
        assert set(bridges) == {"br-int", "br-ex"}
        assert world.seen["drops"] == []
    assert bridges["br-int"]["fail_mode"] == "secure"


@pytest.mark.parametrize("stop", range(12))
def test_a_reboot_at_any_moment(stop: int) -> None:
    world = World("netdev")
    world.run(most=stop)
    world.boot()
    world.run()
    assert world.acts[-1] == "start ovn-controller.service"
    assert world.seen["links"]["br-phy"]["addresses"] == ["10.0.1.1/24"]


def test_what_somebody_changed_is_put_right() -> None:
    world = World("netdev")
    world.run()
    world.acts.clear()
    world.seen["links"]["br-phy"] |= {"up": False, "addresses": []}  # the switch died: its own link is a new one
    world.seen["links"]["eth2"]["addresses"] = ["fe80::1/64"]
    world.seen["drops"] = []
    world.seen["switch"]["external_ids"]["ovn-remote"] = "tcp:somewhere"
    world.seen["units"]["ovn-controller.service"]["runs_with"] = "another"
    del world.seen["switch"]["bridges"]["br-ex"]
    world.seen["units"]["ovs.service"]["runs_with"] = "another"  # machines' traffic: only its next start takes it
    with pytest.raises(AssertionError, match="restart"):
        world.run()
    assert world.acts == [
        *("set_switch", "make_bridge br-ex", "set_link eth2", "set_link br-ex", "set_link br-phy"),
        *("leave_to_switch", "restart ovn-controller.service"),
    ]


def test_a_database_that_was_made_anew_is_followed() -> None:
    world = World("netdev")
    world.run()
    world.seen["controller"] = "not connected"
    assert plans.plan(WANT, world.seen) == [Act("follow")]


def test_the_module_came_with_a_reboot() -> None:
    world = World("netdev")
    world.run()
    world.seen["datapath"] = "system"
    world.run()
    assert "br-phy" not in world.seen["switch"]["bridges"]


def test_a_compute_host_without_a_provider_interface() -> None:
    world = World("netdev")
    del world.seen["links"]["eth2"]
    world.run(WANT | {"is_gateway": False})
    assert world.seen["switch"]["external_ids"]["ovn-bridge-mappings"] == ""
    assert set(world.seen["switch"]["bridges"]) == {"br-int", "br-phy"}


@pytest.mark.parametrize(
    ("datapath", "gone", "want", "said"),
    [
        ("system", "eth2", {}, "There is no interface eth2"),
        ("netdev", "eth1", {}, "There is no interface eth1"),
        ("netdev", "", {"tunnel_shared": True}, "an interface of their own"),
        ("netdev", "", {"tunnel_prefix_length": None, "tunnel_address": "10.9.9.9"}, "networks.tunnel"),
        ("system", "eth1", {"tunnel_shared": True}, None),
        ("netdev", "", {"tunnel_prefix_length": None}, None),
    ],
)
def test_what_an_operator_must_mend(datapath: str, gone: str, want: dict[str, Any], said: str | None) -> None:
    world = World(datapath)
    world.seen["links"].pop(gone, None)
    world.run(WANT | want)
    found = plans.problem(WANT | want, world.seen)
    assert (found is None) if said is None else (found is not None and said in found)
    assert ("start ovn-controller.service" in world.acts) == (said is None)
