"""HAProxy, keepalived, memcached and Trilith's own units: what they are configured to, and what they do when."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.cluster.engines.fake_units import FakeUnits, host_view, three_controllers
from trilith.cluster.cluster_file import Host, read
from trilith.cluster.engines import engines_of, keepalived, own_units
from trilith.cluster.engines.engine import KEY, HostView
from trilith.cluster.engines.galera import Galera, configuration
from trilith.cluster.engines.haproxy import Haproxy, traffic
from trilith.cluster.engines.keepalived import Keepalived
from trilith.cluster.engines.memcached import Memcached
from trilith.cluster.engines.own_units import OwnUnits, keeper_unit
from trilith.cluster.keeper import Keeper
from trilith.kernel.reconcile import Act, converge

EXAMPLES = Path(__file__).parents[3] / "examples"


def compute_host(directory: Path) -> HostView:
    cluster = three_controllers()
    hosts = [*cluster.hosts, Host(name="n1", address="10.0.0.21", roles=["compute"])]
    return host_view(directory, msgspec.structs.replace(cluster, hosts=hosts), "n1")


def text(engine: Haproxy | Keepalived | OwnUnits | Memcached, end: str) -> str:
    return next(file.content or "" for file in engine.files() if file.path.endswith(end))


def test_every_engine_of_a_compute_host_but_its_own_is_absent(tmp_path: Path) -> None:
    present = [engine.kind for engine in engines_of(compute_host(tmp_path)) if engine.want()["present"]]
    assert {"galera", "haproxy", "keepalived", "memcached", "rabbitmq", "ovn_central"}.isdisjoint(present)
    assert "trilith" in present


def test_no_secret_stands_in_a_want(tmp_path: Path) -> None:
    view = host_view(tmp_path)
    for engine in (Galera(view), Haproxy(view), Keepalived(view), Memcached(view), OwnUnits(view)):
        assert "-secret" not in json.dumps(engine.want())


def test_haproxys_configuration_is_one(tmp_path: Path) -> None:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    engine = Haproxy(host_view(tmp_path))
    config = text(engine, "haproxy.cfg")
    assert "use_backend hub-c2 if { path_beg /agent-console/c2. }" in config
    assert "server c1 10.0.0.11:8774 ssl verify required ca-file ca.crt verifyhost c1" in config
    assert config.count("backup") == 2
    if program:  # a controller has it; what reads certificates is left out, because these are none
        path = tmp_path / "haproxy.cfg"
        path.write_text("\n".join(line for line in config.splitlines() if "crt" not in line))
        done = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_object_store_stands_beside_the_api_where_there_is_ceph(tmp_path: Path) -> None:
    view = host_view(tmp_path, read(EXAMPLES / "ceph.yaml"))
    config = text(Haproxy(view), "haproxy.cfg")
    assert "  acl objects path_beg /object-store/\n  acl objects path /info /healthcheck\n" in config
    assert f"server c1 {view.controllers[0].address}:8776 ssl verify required" in config
    assert "trilith-objects.service" in OwnUnits(view).want()["units"]
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if program:
        path = tmp_path / "haproxy.cfg"
        path.write_text("\n".join(line for line in config.splitlines() if "crt" not in line))
        done = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    without = host_view(tmp_path / "without")
    assert "objects" not in text(Haproxy(without), "haproxy.cfg")
    assert "trilith-objects.service" not in OwnUnits(without).want()["units"]


def test_haproxy_tells_who_is_written_to_and_what_is_down() -> None:
    answers = {
        "show table sql": "# table: sql, type: integer\n0x1: key=1 use=0 exp=9 server_id=2 server_key=c2\n",
        "show stat -1 4 -1": ",".join(["api", "c1", *["0"] * 15, "DOWN"])
        + "\n"
        + ",".join(["api", "c2", *["0"] * 15, "UP"]),
    }
    assert traffic(lambda command: answers[command]) == {"writer": "c2", "down": ["api/c1"]}


def test_keepalived_prefers_the_order_of_the_file_and_knows_its_peers(tmp_path: Path) -> None:
    first, second = (text(Keepalived(host_view(tmp_path, name=name)), ".conf") for name in ("c1", "c2"))
    assert "priority 200" in first
    assert "priority 190" in second
    assert "10.0.0.100/24 dev eth0" in first
    assert "    10.0.0.12\n    10.0.0.13\n" in first


@pytest.mark.parametrize(
    ("reached", "holds"), [(("10.0.0.12", "10.0.0.13"), True), (("10.0.0.13",), True), ((), False)]
)
def test_who_reaches_no_majority_of_the_controllers_does_not_hold_the_address(
    tmp_path: Path, reached: tuple[str, ...], holds: bool
) -> None:
    script = text(Keepalived(host_view(tmp_path)), "majority")
    for peer in ("10.0.0.12", "10.0.0.13"):
        assert peer in script
        script = script.replace(peer, "127.0.0.1" if peer in reached else "127.0.0.1.invalid")
    assert (subprocess.run(["sh", "-c", script], check=False).returncode == 0) is holds


@pytest.mark.parametrize(
    ("serves", "others", "gives_way", "expected"),
    [
        (True, [], False, []),
        (False, [], False, []),  # nobody can: the address stays
        (False, ["c2"], False, [Act("give_way")]),
        (False, ["c2"], True, []),
        (True, [], True, [Act("take_part")]),
    ],
)
def test_who_cannot_serve_gives_the_address_away(
    serves: bool, others: list[str], gives_way: bool, expected: list[Act]
) -> None:
    want = {"present": True, "files": {}, "units": {}}
    seen = {"files": {}, "units": {}, "serves": serves, "others": others, "gives_way": gives_way, "long_idle": True}
    assert keepalived.plan(want, seen) == expected
    if expected == [Act("give_way")]:  # not at once: what all of them suffer is over sooner
        assert keepalived.plan(want, seen | {"long_idle": False}) == []


def test_memcached_listens_where_the_other_controllers_are(tmp_path: Path) -> None:
    assert "-l 10.0.0.11\n" in text(Memcached(host_view(tmp_path)), "memcached.conf")


def test_the_api_waits_for_the_database_and_the_hub_does_not(tmp_path: Path) -> None:
    view = host_view(tmp_path)
    engine = OwnUnits(view)
    assert isinstance(view.units, FakeUnits)
    converge(engine, KEY, engine.want())
    running = {name for name, unit in view.units.states.items() if unit.active == "active"}
    assert running == {"trilith-hub.service", "trilith-agent.service"}
    seen = engine.observe(KEY) | {"sql": True}
    starts = [act.args["unit"] for act in own_units.plan(engine.want(), seen) if act.do == "start"]
    assert starts == ["trilith-api.service", "trilith-controller.service"]


def test_units_of_a_lost_role_are_stopped(tmp_path: Path) -> None:
    view = host_view(tmp_path)
    engine = OwnUnits(view)
    converge(engine, KEY, engine.want())
    cluster = view.settings.cluster
    hosts = [Host(name="c1", address="10.0.0.11", roles=["compute"]), *cluster.hosts[1:]]
    changed = msgspec.structs.replace(view.settings, cluster=msgspec.structs.replace(cluster, hosts=hosts))
    smaller = OwnUnits(dataclasses.replace(view, settings=changed))
    converge(smaller, KEY, smaller.want())
    assert view.units.state("trilith-hub.service").stopped
    assert not view.units.state("trilith-hub.service").enabled
    assert not view.units.state("trilith-agent.service").stopped


def test_machines_outlive_the_agent_and_controllers_processes_have_no_powers(tmp_path: Path) -> None:
    engine = OwnUnits(host_view(tmp_path))
    assert "KillMode=process" in text(engine, "trilith-agent.service")
    assert "CapabilityBoundingSet=\n" in text(engine, "trilith-api.service")
    assert "ExecStart=/opt/x serve keeper --state /s\n" in keeper_unit("/opt/x", "/s")


def test_the_database_takes_its_peers_from_the_cluster_file(tmp_path: Path) -> None:
    config = configuration(host_view(tmp_path))
    assert "wsrep_cluster_address=gcomm://10.0.0.11,10.0.0.12,10.0.0.13\n" in config
    assert "bind-address=10.0.0.11\n" in config
    assert "socket.ssl=yes" in config


def test_a_keeper_tells_what_its_engines_have_become(tmp_path: Path) -> None:
    view = host_view(tmp_path)
    keeper = Keeper(view, [Memcached(view)])
    assert not keeper.ready()
    want = keeper.wants("memcached")[KEY]
    outcome = converge(keeper.watched["memcached"], KEY, want)
    keeper.report("memcached", KEY, want["generation"], outcome.seen, None)
    state = json.loads((view.state.run / "keeper.json").read_bytes())
    assert state["ready"]
    assert state["host"] == "c1"
    calm = {"present": True, "ready": True, "doing": None, "problem": None, "detail": {}}
    assert state["engines"]["memcached"] == calm
    keeper.report("memcached", KEY, want["generation"], outcome.seen, "It cannot be.")
    assert keeper.state()["engines"]["memcached"]["problem"] == "It cannot be."


def test_a_keeper_waits_for_a_secret(tmp_path: Path) -> None:
    view = host_view(tmp_path)
    (view.state.secrets / "tls" / "host.key").unlink()
    keeper = Keeper(view, [Galera(view)])
    assert keeper.wants("galera") == {}
    assert "host.key is not on this host yet" in keeper.state()["engines"]["galera"]["problem"]
