"""The OVN engines over a pretended host: what their files and units say, and that an agent finds its place."""

from pathlib import Path

from trilith.cluster import agent_place
from trilith.cluster.cluster_file import ClusterFile, Host, Networks, Role
from trilith.cluster.engines.engine import KEY, HostView
from trilith.cluster.engines.ovn_central import NORTHBOUND, OvnCentral, remotes
from trilith.cluster.engines.ovn_host import OvnHost
from trilith.cluster.engines.systemd import UnitState
from trilith.cluster.state import Settings, State


class Units:
    """None of them runs, and what is done to them is noted."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def state(self, name: str) -> UnitState:
        return UnitState(name)

    def daemon_reload(self) -> None:
        self.done.append("daemon-reload")

    def enable(self, name: str) -> None:
        self.done.append(f"enable {name}")

    def disable(self, name: str) -> None:
        self.done.append(f"disable {name}")

    def start(self, name: str, wait: bool = True) -> None:
        self.done.append(f"start {name}")

    def restart(self, name: str) -> None:
        self.done.append(f"restart {name}")

    def reload(self, name: str) -> None:
        self.done.append(f"reload {name}")

    def stop(self, name: str, patience_s: float = 10.0) -> None:
        self.done.append(f"stop {name}")


def view(root: Path, roles: list[Role], fake: bool = False) -> HostView:
    hosts = [Host(name=f"c{n}", address=f"10.0.0.{n}", tunnel_address=f"10.0.1.{n}", roles=roles) for n in (1, 2, 3)]
    cluster = ClusterFile(hosts=hosts, vip="10.0.0.100", networks=Networks(tunnel="10.0.1.0/24"))
    settings = Settings(cloud_id="t", host="c2", cluster=cluster, fake=fake)
    return HostView(State(root / "state"), settings, units=Units(), root=root)


def test_roles_decide(tmp_path: Path) -> None:
    assert OvnCentral(view(tmp_path, ["control"])).want()["present"]
    assert not OvnHost(view(tmp_path, ["control"])).want()["present"]
    assert not OvnCentral(view(tmp_path, ["compute"])).want()["present"]
    assert OvnHost(view(tmp_path, ["network"])).want()["present"]
    for engine in (OvnCentral, OvnHost):
        assert not engine(view(tmp_path, ["control", "compute"], fake=True)).want()["present"]


def test_databases_speak_tls_only(tmp_path: Path) -> None:
    engine = OvnCentral(view(tmp_path, ["control"]))
    server = next(unit.dropin for unit in engine.units() if unit.name == NORTHBOUND.unit)
    assert "--remote=pssl:6641:10.0.0.2" in server
    assert "tcp:" not in server
    tls = tmp_path / "state/secrets/tls"
    assert f"--private-key={tls}/host.key --certificate={tls}/host.crt --ca-cert={tls}/ca.crt" in server
    assert remotes(NORTHBOUND, engine.view.controllers) == "ssl:10.0.0.1:6641,ssl:10.0.0.2:6641,ssl:10.0.0.3:6641"
    assert "\nExecStart=\nExecStart=/usr/sbin/ovsdb-server " in server


def test_the_second_controller_waits_for_the_others(tmp_path: Path) -> None:
    """No peer answers: its files are written, and then nothing is founded."""
    engine = OvnCentral(view(tmp_path, ["control"]))
    want = engine.want()
    for act in engine.plan(want, engine.observe(KEY)):
        assert act.do == "write_file"
        engine.perform(KEY, act)
    seen = engine.observe(KEY)
    assert seen is not None
    assert [act.args for act in engine.plan(want, seen)] == [{"unit": "ovn-northd.service"}]
    status = engine.status(want, seen)
    assert not status.ready
    assert status.problem == "OVN's northbound database has no leader; no answer from c1, c3."
    assert status.detail["nb"]["file"] is False


def test_a_chassis_has_the_name_of_its_host(tmp_path: Path) -> None:
    engine = OvnHost(view(tmp_path, ["compute"]))
    want = engine.want()
    assert want["external_ids"]["system-id"] == "c2"
    assert want["external_ids"]["ovn-encap-ip"] == "10.0.1.2"
    for act in engine.plan(want, engine.observe(KEY)):
        engine.perform(KEY, act)
    assert (tmp_path / "etc/openvswitch/system-id.conf").read_text() == "c2\n"


def test_agents_work_in_the_namespace_of_their_host(tmp_path: Path) -> None:
    with_machines, without = view(tmp_path, ["compute"]), view(tmp_path, ["network"])
    place = agent_place.agent_settings(with_machines.state, with_machines.settings)
    assert (place.netns, place.ovs_socket, place.machines) == (None, "/run/openvswitch/db.sock", True)
    assert place.api_url == "https://10.0.0.100"
    assert not agent_place.agent_settings(without.state, without.settings).machines
