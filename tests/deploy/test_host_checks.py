from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.deploy.conftest import good_facts
from trilith.cluster.cluster_file import Ceph, ClusterFile, ExistingCeph
from trilith.cluster.deploy_apply import clock_offset_s
from trilith.cluster.host_checks import problems, warnings
from trilith.cluster.state import DEFAULT_PORT

Facts = dict[str, Any]


def found(cluster: ClusterFile, name: str, facts: Facts, offset_s: float = 0.0) -> list[str]:
    host = next(host for host in cluster.hosts if host.name == name)
    return problems(cluster, host, facts, offset_s)


@pytest.mark.parametrize("name", ["c1", "n1", "log1"])
def test_a_good_host_has_no_problems(cluster: ClusterFile, name: str) -> None:
    assert found(cluster, name, good_facts(cluster, name)) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.update(user="debian"), "we are `debian` there and not root"),
        (lambda f: f.update(os="debian 11"), "it runs debian 11; hosts run Debian 12"),
        (lambda f: f.update(python=(3, 9, 2)), "its python3 is 3.9.2; 3.11 is needed"),
        (lambda f: f.update(machine="aarch64"), "it is a aarch64"),
        (lambda f: f.update(systemd="offline"), "systemd is offline"),
        (lambda f: f.update(memory_mib=900), "it has 900 MiB of memory; control/network needs 2000"),
        (lambda f: f["free_mib"].update({"/opt": 100}), "/opt has 100 MiB free; 600 are needed"),
        (lambda f: f["free_mib"].update({"/var/lib": 100}), "/var/lib has 100 MiB free; 4000 are needed"),
        (lambda f: f.update(host_name="debian"), "it calls itself `debian`. Type there: hostnamectl set-hostname c1"),
        (lambda f: f["addresses_of"].update(c2=[]), "the name `c2` does not resolve there. Add to its /etc/hosts"),
        (lambda f: f["addresses_of"].update(c1=["127.0.1.1"]), "`c1` resolves to 127.0.1.1 there, not to 10.60.0.11"),
        (lambda f: f["name_of"].update({"10.60.0.12": []}), "the address 10.60.0.12 has no name there, not `c2`"),
        (lambda f: f["name_of"].update({"10.60.0.12": ["web"]}), "the address 10.60.0.12 is called `web` there"),
        (lambda f: f["interfaces"].pop("eth2"), "it has no interface `eth2` (networks.provider_interface)"),
        (lambda f: f["interfaces"].pop("eth1"), "it has no interface `eth1` (networks.tunnel_interface)"),
        (lambda f: f["interfaces"]["eth0"].update(addresses=[]), "`eth0` does not have the address 10.60.0.11"),
        (lambda f: f["interfaces"]["eth2"].update(addresses=["10.9.9.9"]), "`eth2` has the address 10.9.9.9; it must"),
        (lambda f: f["interfaces"]["eth1"].update(mtu=1400), "tunnel interface is 1400; `tunnel_mtu` says 1500"),
        (lambda f: f["listening"].update({"443": "nginx"}), "port 443 is taken by nginx"),
        (lambda f: f["foreign"].append("/var/lib/mysql has databases (shop)"), "(shop) that are not this cloud's"),
    ],
)
def test_what_is_wrong_is_said(cluster: ClusterFile, spoil: Callable[[Facts], None], words: str) -> None:
    facts = good_facts(cluster, "c1")
    spoil(facts)
    assert any(words in problem for problem in found(cluster, "c1", facts)), found(cluster, "c1", facts)


def test_everything_is_said_at_once(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "c1")
    facts |= {"memory_mib": 1, "os": "alpine 3"}
    facts["addresses_of"]["c3"] = []
    assert len(found(cluster, "c1", facts, offset_s=-3.0)) == 4


def test_what_engines_of_ours_have_is_not_taken(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "c1")
    facts["listening"] = {"443": "haproxy", "3306": "mariadbd", "9200": "trilith", "25672": "beam.smp"}
    assert found(cluster, "c1", facts) == []


def test_an_object_store_needs_a_port_of_controllers(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "c1")
    facts["listening"] = {str(DEFAULT_PORT + 2): "nginx"}
    assert found(cluster, "c1", facts) == []
    own = msgspec.structs.replace(cluster, ceph=Ceph())
    assert found(own, "c1", facts) == [f"port {DEFAULT_PORT + 2} is taken by nginx."]


def test_ceph_needs_a_port_of_controllers_and_memory_of_storage_hosts(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "c1")
    facts["listening"] = {"3300": "nginx"}
    assert found(cluster, "c1", facts) == []
    own = msgspec.structs.replace(cluster, ceph=Ceph(osd_memory_mib=2000))
    assert found(own, "c1", facts) == ["port 3300 is taken by nginx."]
    existing = ExistingCeph(monitors=["10.60.0.50"], user="trilith", keyring="ceph.keyring")
    theirs = msgspec.structs.replace(cluster, ceph=Ceph(existing=existing))
    assert found(theirs, "c1", facts) == []
    facts = {**good_facts(cluster, "n1"), "memory_mib": 2900}
    assert found(cluster, "n1", facts) == []
    assert found(own, "n1", facts) == ["it has 2900 MiB of memory; compute/storage needs 3000."]


def test_the_tunnel_address_may_have_moved_to_the_bridge(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "n1")
    links = facts["interfaces"]
    links["br-phy"] = {"mtu": 1500, "up": True, "addresses": links["eth1"]["addresses"]}
    links["eth1"] = {**links["eth1"], "addresses": []}
    assert found(cluster, "n1", facts) == []


def test_kvm_is_a_warning_unless_it_is_demanded(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "n1")
    facts["kvm"] = {"usable": False, "reason": "70000 loops/s"}
    host = next(host for host in cluster.hosts if host.name == "n1")
    assert problems(cluster, host, facts, 0.0) == []
    assert "does not really work there (70000 loops/s)" in warnings(cluster, host, facts)[0]
    demanding = msgspec.structs.replace(cluster, engines=msgspec.structs.replace(cluster.engines, accelerator="kvm"))
    assert "KVM does not really work" in problems(demanding, host, facts, 0.0)[0]


def test_clocks_that_differ(cluster: ClusterFile) -> None:
    facts = good_facts(cluster, "c1")
    assert found(cluster, "c1", facts, 0.3) == []
    assert "its clock is 3.0 s behind this machine's" in found(cluster, "c1", facts, -3.0)[0]
    assert "2.0 s ahead of" in found(cluster, "c1", facts, 2.0)[0]


def test_a_clock_is_not_blamed_for_a_slow_line() -> None:
    import time

    def slow() -> float:
        there = time.time()
        time.sleep(0.05)
        return there

    assert clock_offset_s(slow) == 0.0
    assert clock_offset_s(lambda: time.time() + 5) == pytest.approx(5, abs=0.1)
