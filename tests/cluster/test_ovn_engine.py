"""A host is prepared and removed, as often as one likes, and leaves nothing behind."""

import subprocess

from tests.drivers.ovn_lab import Lab, wait_for
from trilith.cluster.ovn_engine import OvnHost, prepare_host, processes, remove_host
from trilith.drivers import linux_net


def traces(host: OvnHost) -> set[str]:
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    found = linux_net.namespaces(host.netns) | linux_net.links(host.outer_link)
    return found | {line for line in tables.splitlines() if line.endswith(f" {host.nft_table}")}


def test_prepared_twice_and_removed_twice() -> None:
    lab = Lab(98)
    for _ in range(2):
        prepare_host(lab.host)
        assert len(traces(lab.host)) == 3
    for _ in range(2):
        remove_host(lab.host)
        assert traces(lab.host) == set()
    for path in lab.directory.iterdir():
        path.unlink()
    lab.directory.rmdir()


def test_ready_means_that_the_host_is_registered_and_preparing_it_again_disturbs_nothing() -> None:
    lab = Lab(99)
    assert not any(process.ready() for process in processes(lab.host))
    lab.start()
    try:
        wait_for("chassis", lambda: "h1" in _ask(lab.host, "ovn-sbctl", "--bare", "--columns=name", "list", "Chassis"))
        before = _ask(lab.host, "ovs-vsctl", "--columns=_uuid", "list", "Port")
        prepare_host(lab.host)
        assert _ask(lab.host, "ovs-vsctl", "--columns=_uuid", "list", "Port") == before
        assert all(process.ready() for process in processes(lab.host))
    finally:
        lab.stop()


def test_after_a_reboot_ports_of_the_old_namespace_are_forgotten() -> None:
    lab = Lab(97)
    lab.start()
    try:
        lab.network.plug("11111111-0000-4000-8000-000000000001", "fa:16:3e:00:00:01", 1442)
        for name in list(lab.running):
            lab.kill(name)
        remove_host(lab.host)
        prepare_host(lab.host)
        for process in processes(lab.host):
            lab.start_process(process.name)
        wait_for("no port is left", lambda: lab.network.plugged() == {})
    finally:
        lab.stop()


def _ask(host: OvnHost, *words: str) -> str:
    return linux_net.run([words[0], f"--db={host.remote}", *words[1:]])
