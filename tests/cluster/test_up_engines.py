"""A cloud with its real network engines. Needs root."""

import os
import signal
import subprocess
from pathlib import Path

from tests.cluster.conftest import Cloud, eventually
from tests.cluster.test_up import healthy, processes, status
from trilith.cluster import proc
from trilith.cluster.up import ovn_host
from trilith.drivers import linux_net

ENGINES = ("ovsdb-server", "ovs-vswitchd", "ovn-northd", "ovn-controller")


def test_engines_outlive_the_supervisor_are_healed_and_go_with_down(cloud: Cloud) -> None:
    cloud.settle(fake=False)
    cloud.up()
    before = processes(cloud)
    assert set(ENGINES) < set(before)
    assert {"qemu", "ovs", "ovn"} < set(status(cloud)["versions"])

    os.kill(before["supervisor"], signal.SIGKILL)
    eventually(lambda: proc.start_ticks(before["api"]) is None, "our own processes die with the supervisor")
    cloud.up()
    assert [processes(cloud)[name] for name in ENGINES] == [before[name] for name in ENGINES]

    os.kill(before["ovs-vswitchd"], signal.SIGKILL)
    eventually(lambda: processes(cloud)["ovs-vswitchd"] not in (None, before["ovs-vswitchd"]), "a new switch")
    eventually(lambda: healthy(cloud), "all ready again", why=lambda: cloud.run("logs").stdout)

    host = ovn_host(cloud.state, cloud.state.settings())
    os.kill(processes(cloud)["supervisor"], signal.SIGKILL)
    assert linux_net.namespaces(host.netns) == {host.netns}
    assert cloud.run("down").returncode == 0
    assert not any(proc.start_ticks(before[name]) for name in ENGINES)
    assert linux_net.namespaces(host.netns) == set()
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    assert host.outer_link not in links


def test_a_directory_that_machines_cannot_reach_is_said_at_once(cloud: Cloud, short_dir: Path) -> None:
    cloud.settle(fake=False)
    short_dir.chmod(0o700)
    failed = cloud.run("up")
    assert failed.returncode == 1
    assert f"Type: chmod a+x {short_dir}" in failed.stderr
    short_dir.chmod(0o755)


def test_two_clouds_may_not_share_a_public_network(cloud: Cloud, other_cloud: Cloud) -> None:
    cloud.settle(fake=False)
    other_cloud.settle(fake=False)
    settings = other_cloud.state.settings()
    settings.public_cidr = cloud.state.settings().public_cidr
    other_cloud.state.write_settings(settings)
    cloud.up()
    failed = other_cloud.run("up")
    assert failed.returncode == 1
    assert f"which is in this cloud's public network {settings.public_cidr}" in failed.stderr
