"""Hosts of a rehearsal, on this machine's kernel: they boot, they are reached, and everything can happen to them."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.conftest import traces, write_cluster
from trilith.cli.main import main
from trilith.cluster import rehearse
from trilith.cluster.rehearsal_host import SimulatedHost
from trilith.cluster.rehearse import Rehearsal
from trilith.cluster.state import Problem, locked

Ssh = Callable[..., str]


def reaches(host: SimulatedHost, address: str, within_s: float = 0) -> bool:
    """Asks once, or until it answers: a neighbour that was silent is looked for again only once a second."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            host.run(["ping", "-c1", "-W1", "-q", address])
        except Problem:
            if time.monotonic() > deadline:
                return False
        else:
            return True


def connection_to(host: str, rehearsal: Rehearsal) -> socket.socket:
    """To its SSH server, after the greeting."""
    address = next(each.address for each in rehearsal.cluster.hosts if each.name == host)
    connection = socket.create_connection((address, 22), timeout=5)
    connection.settimeout(5)
    assert connection.recv(100).startswith(b"SSH-")
    connection.settimeout(1.5)
    return connection


def test_each_is_a_whole_host(rehearsal: Rehearsal, ssh: Ssh) -> None:
    rehearsal.host("c2").run(["systemctl", "is-system-running", "--wait"])
    assert ssh("c2", "hostname") == "c2"
    assert ssh("c2", "ls /sys/class/net") == "eth0\neth1\neth2\nlo"
    assert ssh("c2", "cat /sys/class/net/eth1/address") in ssh("c2", "ip link show eth1")
    assert "10.61.10.12/24" in ssh("c2", "ip -br addr show eth0")
    assert "10.61.11.12/24" in ssh("c2", "ip -br addr show eth1")
    assert ssh("c2", "systemctl --failed --no-legend") == ""
    identities = {ssh(host.name, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") for host in rehearsal.hosts}
    assert len(identities) == 3


def test_hosts_reach_each_other_by_name_and_by_tunnel(rehearsal: Rehearsal) -> None:
    assert reaches(rehearsal.host("c1"), "c3", within_s=10)
    assert reaches(rehearsal.host("c1"), "10.61.11.13", within_s=10)


def test_engines_are_there_and_none_of_them_runs(ssh: Ssh) -> None:
    units = ("mariadb", "rabbitmq-server", "memcached", "haproxy", "keepalived", "ovn-central", "ovn-host",
             "openvswitch-switch", "rsyslog")  # fmt: skip
    blocks = ssh("c1", "systemctl show --property=LoadState,ActiveState,UnitFileState", *units).split("\n\n")
    found = {unit: sorted(block.split()) for unit, block in zip(units, blocks, strict=True)}
    assert found == {unit: ["ActiveState=inactive", "LoadState=loaded", "UnitFileState=disabled"] for unit in units}


def test_no_host_may_set_this_machines_clock(rehearsal: Rehearsal, ssh: Ssh) -> None:
    """Asked of the kernel, not tried: there is one clock for all."""
    asked = ["awk", "/^CapBnd/ {print $2}", "/proc/self/status"]
    for told in (ssh("c1", shlex.join(asked)), rehearsal.host("c1").run(asked)):
        assert not int(told, 16) & 1 << 25, "CAP_SYS_TIME"


def test_up_again_leaves_running_hosts_alone(rehearsal: Rehearsal) -> None:
    before = [host.pid1 for host in rehearsal.hosts]
    file = rehearsal.state.parent / f"{rehearsal.cluster.name}.yaml"
    rehearse.up(file, rehearsal.state, print, bare=True)
    assert [host.pid1 for host in rehearsal.hosts] == before


def test_status_says_what_the_kernel_says(rehearsal: Rehearsal) -> None:
    hosts = rehearsal.status()["hosts"]
    assert [host["name"] for host in hosts] == ["c1", "c2", "c3"]
    for host in hosts:
        assert host["condition"] == "running"
        assert 3 < host["memory_mib"] < 100
        assert 0 < host["boot_s"] < 30


def test_the_command_shows_a_table(rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]) -> None:
    host = rehearsal.host("c3")
    host.cut("tunnel")
    rehearsal.block("c1", "c2")
    assert main(["rehearse", "status", "--state", str(rehearsal.state)]) == 0
    _, heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split() == ["HOST", "STATE", "ADDRESS", "TUNNEL", "ROLES", "CUT", "MEMORY", "BOOT"]
    assert rows[2].split()[:6] == ["c3", "running", "10.61.10.13", "10.61.11.13", "control,network,compute", "tunnel"]
    assert rows[3] == "blocked: c1 - c2"
    for words in (["heal", "c3"], ["unblock", "c1", "c2"]):
        assert main(["rehearse", words[0], "--state", str(rehearsal.state), *words[1:]]) == 0
    assert main(["rehearse", "pause", "--state", str(rehearsal.state), "c9"]) == 1
    assert "has no host c9; it has: c1, c2, c3" in capsys.readouterr().err
    assert (host.cut_networks(), rehearsal.blocked()) == ([], [])


def test_a_reboot_keeps_the_disk_and_forgets_the_kernels_state(rehearsal: Rehearsal, ssh: Ssh) -> None:
    host = rehearsal.host("c1")
    host.cut("provider")
    ssh("c1", "echo kept > /var/kept; nft add table ip before; ip link add br-before type bridge; ip netns add before")
    before = host.pid1
    host.reboot()
    assert host.pid1 != before
    assert ssh("c1", "cat /var/kept; nft list tables; ip -br link show type bridge; ip netns list") == "kept"
    assert ssh("c1", "cat /sys/class/net/eth2/carrier") == "0", "a pulled cable stays pulled"
    host.heal("provider")
    assert ssh("c1", "cat /sys/class/net/eth2/carrier") == "1"


def test_a_power_cut_is_silent_and_keeps_the_disk(rehearsal: Rehearsal, ssh: Ssh) -> None:
    host = rehearsal.host("c2")
    ssh("c2", "echo kept > /var/kept")
    with connection_to("c2", rehearsal) as connection:
        began = time.monotonic()
        host.power_off()
        assert time.monotonic() - began < 5
        assert (host.condition, host.pids()) == ("off", [])
        with pytest.raises(TimeoutError):  # neither closed nor reset
            connection.recv(1)
    host.power_off()
    host.power_on()
    assert ssh("c2", "cat /var/kept") == "kept"


def test_a_paused_host_accepts_and_does_not_answer(rehearsal: Rehearsal) -> None:
    host = rehearsal.host("c3")
    host.pause()
    assert host.condition == "paused"
    with socket.create_connection(("10.61.10.13", 22), timeout=2) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        host.resume()
        connection.settimeout(5)
        assert connection.recv(4) == b"SSH-"
    host.pause()
    host.power_off()
    assert host.pid1 is None, "the frozen die too"
    host.power_on()


def test_one_cable_is_cut_and_healed(rehearsal: Rehearsal) -> None:
    one, other = rehearsal.host("c1"), rehearsal.host("c2")
    other.cut("tunnel")
    assert other.cut_networks() == ["tunnel"]
    assert not reaches(one, "10.61.11.12")
    assert reaches(one, "10.61.10.12", within_s=10)
    assert reaches(one, "10.61.11.13", within_s=10)
    other.heal("tunnel")
    assert reaches(one, "10.61.11.12", within_s=10)
    with pytest.raises(Problem, match="no network storage"):
        other.cut("storage")


def test_a_host_without_any_cable_boots(rehearsal: Rehearsal, ssh: Ssh) -> None:
    host = rehearsal.host("c3")
    host.cut()
    host.power_off()
    host.power_on()
    assert host.condition == "running"
    assert not any(host.is_plugged(network) for network in ("management", "tunnel", "provider"))
    host.heal()
    assert host.cut_networks() == []
    assert ssh("c3", "hostname") == "c3"


def test_two_hosts_are_parted_and_reach_the_third(rehearsal: Rehearsal) -> None:
    rehearsal.block("c2", "c1")
    assert rehearsal.blocked() == [("c1", "c2")]
    assert not reaches(rehearsal.host("c1"), "10.61.10.12")
    assert not reaches(rehearsal.host("c2"), "10.61.11.11")
    assert reaches(rehearsal.host("c1"), "c3", within_s=10)
    assert reaches(rehearsal.host("c2"), "c3", within_s=10)
    rehearsal.unblock("c1", "c2")
    assert reaches(rehearsal.host("c1"), "c2", within_s=10)


def test_only_one_works_on_a_rehearsal(rehearsal: Rehearsal) -> None:
    with locked(rehearsal.state / "lock") as mine:
        assert mine
        with pytest.raises(Problem, match=f"Process {os.getpid()} is working"):
            rehearse.down(rehearsal.state)


def test_a_cluster_has_one_rehearsal(rehearsal: Rehearsal) -> None:
    file = rehearsal.state.parent / f"{rehearsal.cluster.name}.yaml"
    with pytest.raises(Problem, match="is rehearsed at"):
        rehearse.up(file, rehearsal.state.parent / "another", print, bare=True)


def test_networks_of_others_are_left_alone(rehearsal: Rehearsal, tmp_path: Path) -> None:
    file = write_cluster(tmp_path, f"re2-{os.getpid()}", 10, hosts=3)
    with pytest.raises(Problem, match=r"10\.61\.10\.0/24 is in use"):
        rehearse.up(file, tmp_path / "state", print, bare=True)
    rehearse.down(tmp_path / "state")


def test_up_is_killed_at_any_moment_and_goes_on_and_down_leaves_nothing(tmp_path: Path) -> None:
    name = f"re3-{os.getpid()}"
    file, state = write_cluster(tmp_path, name, 20, hosts=3), tmp_path / f"{name}-state"
    argv = [sys.executable, "-m", "trilith.cli.main", "rehearse", "up", str(file), "--state", str(state), "--bare"]
    for after_s in (0.4, 0.7, 1.0, 1.4):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(argv, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert [host.condition for host in Rehearsal(state).hosts] == ["running"] * 3
    Rehearsal(state).host("c2").power_off()
    Rehearsal(state).host("c3").pause()
    rehearse.down(state)
    assert not state.exists()
    assert [trace for trace in traces(name) if "10.61.1" not in trace] == []
