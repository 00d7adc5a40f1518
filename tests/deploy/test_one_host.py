"""Deploy's end on a host, against a real one: a container that is reached over SSH."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from trilith.cluster import rehearse
from trilith.cluster.bundle import bundle
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.deploy import cache_directory
from trilith.cluster.deploy_apply import Applier, Deployed, find_facts
from trilith.cluster.deploy_directory import Deployment
from trilith.cluster.deploy_packages import PackageRelay
from trilith.cluster.deploy_plan import changes, wanted
from trilith.cluster.engines.own_units import keeper_unit
from trilith.cluster.host_checks import problems
from trilith.cluster.rehearse import Rehearsal
from trilith.cluster.ssh import HostProblem, Session, forget_host

KILLS = 6


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One bare host."""
    directory = tmp_path_factory.mktemp("deploy")
    file = directory / "one.yaml"
    file.write_text(
        f"name: de-{os.getpid()}\nvip: 10.65.40.100\n"
        "networks: {management: 10.65.40.0/24, tunnel: 10.65.41.0/24}\npublic: {cidr: 10.65.42.0/24}\n"
        "hosts:\n  - {name: c1, address: 10.65.40.11, tunnel_address: 10.65.41.11}\n"
    )
    try:
        yield rehearse.up(file, directory / "state", print, bare=True)
    finally:  # what came up only halfway would be in the way of the next run
        rehearse.down(directory / "state")


@pytest.fixture
def deployment(rehearsal: Rehearsal, tmp_path: Path) -> Deployment:
    """Knows the host's key beforehand."""
    made = Deployment(tmp_path / "deployment")
    made.prepare(rehearsal.cluster)
    made.known_hosts.write_bytes(rehearsal.known_hosts.read_bytes())
    return made


def connect(rehearsal: Rehearsal, deployment: Deployment) -> Deployed:
    host = rehearsal.cluster.hosts[0]
    return Deployed(host, Session(host, rehearsal.cluster.ssh, deployment.known_hosts, print))


def plan(cluster: ClusterFile, deployment: Deployment, deployed: Deployed) -> None:
    made = bundle(cache_directory() / "bundles")
    unit = keeper_unit("/opt/trilith/current/bin/trilith", "/var/lib/trilith")
    find_facts(cluster, deployed)
    deployed.want = wanted(cluster, deployment, deployed.host, made.program, made.wheels, unit, joined=False)
    deployed.planned = changes(deployed.want, deployed.facts)


def apply(cluster: ClusterFile, deployment: Deployment, deployed: Deployed) -> None:
    """All that deploy does on a host, but for the keeper, which would bring all the engines up."""
    deployed.planned = [change for change in deployed.planned if change.step != "keeper"]
    with PackageRelay(cache_directory() / "packages", cluster.ssh, deployment.known_hosts) as relay:
        applier = Applier(bundle(cache_directory() / "bundles"), relay, lambda *words: None)
        applier.prepare(deployed)
        applier.activate(deployed)


def remaining(deployed: Deployed) -> list[str]:
    return [change.step for change in deployed.planned]


def test_killed_anywhere_and_typed_again_it_ends_in_the_same_place(
    rehearsal: Rehearsal, deployment: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "cluster.json").write_bytes(msgspec.json.encode(rehearsal.cluster))
    argv = [
        sys.executable,
        "-m",
        "tests.deploy.test_one_host",
        str(tmp_path / "cluster.json"),
        str(deployment.directory),
    ]
    dice = random.Random(7)
    for _ in range(KILLS):
        process = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.5, 4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    deployed = connect(rehearsal, deployment)
    try:
        plan(rehearsal.cluster, deployment, deployed)
        apply(rehearsal.cluster, deployment, deployed)
        plan(rehearsal.cluster, deployment, deployed)
        assert remaining(deployed) == ["keeper"]
        files = rehearsal.host("c1").run(
            ["sh", "-c", "ls -A /opt/trilith; find / -xdev -name '.*deploy*' -o -name '*.part'"]
        )
        assert ".part" not in files
        assert deployed.facts["command"] == "/opt/trilith/current/bin/trilith"
        assert "deploy" in rehearsal.host("c1").run(["/usr/local/bin/trilith", "--help"])
    finally:
        if deployed.session:
            deployed.session.close()


def test_a_rehearsals_host_passes_the_checks(rehearsal: Rehearsal, deployment: Deployment) -> None:
    deployed = connect(rehearsal, deployment)
    try:
        find_facts(rehearsal.cluster, deployed)
    finally:
        assert deployed.session
        deployed.session.close()
    assert problems(rehearsal.cluster, deployed.host, deployed.facts, deployed.clock_offset_s) == []
    assert abs(deployed.clock_offset_s) < 0.5


def test_one_deploy_at_a_time(rehearsal: Rehearsal, deployment: Deployment) -> None:
    first, second = connect(rehearsal, deployment), connect(rehearsal, deployment)
    assert first.session
    assert second.session
    try:
        first.ask("lock", {"owner": "us"})
        with pytest.raises(HostProblem, match=r"Another deploy works on this host \(us\)"):
            second.ask("lock", {"owner": "them"})
        first.session.close()
        second.ask("lock", {"owner": "them"})
    finally:
        second.session.close()


def test_a_host_without_internet_gets_packages_through_us(rehearsal: Rehearsal, deployment: Deployment) -> None:
    rehearsal.host("c1").run(["dpkg", "--purge", "memcached"])
    deployed = connect(rehearsal, deployment)
    try:
        plan(rehearsal.cluster, deployment, deployed)
        lacking = next(change for change in deployed.planned if change.step == "packages")
        assert lacking.names == ("memcached",)
        cache = deployment.directory / "packages"
        with PackageRelay(cache, rehearsal.cluster.ssh, deployment.known_hosts) as relay:
            relay.install(deployed.host, deployed.ask, list(lacking.names))
        plan(rehearsal.cluster, deployment, deployed)
        assert "packages" not in remaining(deployed)
        assert any(path.read_bytes().startswith(b"!<arch>") for path in cache.iterdir())  # kept for the next host
        state = rehearsal.host("c1").run(["sh", "-c", "systemctl is-active memcached; ls /usr/sbin/policy-rc.d; true"])
        assert state.split() == ["inactive"]  # installed, but not started by the package
    finally:
        assert deployed.session
        deployed.session.close()


def test_a_host_that_is_not_there(rehearsal: Rehearsal, deployment: Deployment) -> None:
    with pytest.raises(HostProblem, match="cannot be reached over SSH"):
        Session(
            Host(name="c9", address="127.0.0.1"),
            msgspec.structs.replace(rehearsal.cluster.ssh, port=1),
            deployment.known_hosts,
            print,
        )


def test_a_host_with_another_key_is_refused_until_it_is_replaced(rehearsal: Rehearsal, deployment: Deployment) -> None:
    host = rehearsal.cluster.hosts[0]
    other = deployment.directory / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    deployment.known_hosts.write_text(f"{host.address} {other.with_suffix('.pub').read_text()}")
    with pytest.raises(HostProblem, match="another than before"):
        connect(rehearsal, deployment)
    forget_host(deployment.known_hosts, host.address, 22)
    session = connect(rehearsal, deployment).session
    assert session
    session.close()
    assert host.address in deployment.known_hosts.read_text()


def test_a_name_that_does_not_resolve_is_said(rehearsal: Rehearsal, deployment: Deployment) -> None:
    hosts = [*rehearsal.cluster.hosts, Host(name="c2", address="10.65.40.12")]
    cluster = msgspec.structs.replace(rehearsal.cluster, hosts=hosts)
    deployed = connect(rehearsal, deployment)
    try:
        find_facts(cluster, deployed)
    finally:
        assert deployed.session
        deployed.session.close()
    assert problems(cluster, deployed.host, deployed.facts, 0.0) == [
        "the name `c2` does not resolve there. Add to its /etc/hosts (or to DNS): 10.65.40.12 c2"
    ]


if __name__ == "__main__":  # one deploy, to be killed
    asked = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ClusterFile)
    directory = Deployment(Path(sys.argv[2]))
    one = Deployed(asked.hosts[0])
    one.session = Session(one.host, asked.ssh, directory.known_hosts, print)
    plan(asked, directory, one)
    apply(asked, directory, one)
    one.session.close()
