from pathlib import Path

import pytest

from trilith.cluster.check import Rates, at_least, check, cloud, weaknesses, zones_may_die
from trilith.cluster.cluster_file import ClusterFile, Host, all_in_one, read

EXAMPLES = Path(__file__).parents[2] / "examples"
THREE = read(EXAMPLES / "three-controllers.yaml")


@pytest.mark.parametrize(
    ("needed", "count", "up", "expected"),
    [(1, 1, 0.9, 0.9), (1, 2, 0.9, 0.99), (2, 2, 0.9, 0.81), (2, 3, 0.9, 0.972), (0, 0, 0.9, 1.0), (1, 0, 0.9, 0.0)],
)
def test_k_of_n(needed: int, count: int, up: float, expected: float) -> None:
    assert at_least(needed, count, up) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("zones", "needed", "expected"),
    [("abc", 2, 1), ("aab", 2, 0), ("aaa", 2, 0), ("abc", 1, 2), ("ab", 3, -1), ("abcde", 3, 2), ("aabbc", 3, 1)],
)
def test_zones_that_may_die(zones: str, needed: int, expected: int) -> None:
    hosts = [Host(name=f"h{index}", availability_zone=zone) for index, zone in enumerate(zones)]
    assert zones_may_die(hosts, needed) == expected


def zones(cluster: ClusterFile, ready: dict[str, set[str]] | None = None) -> dict[str, str]:
    return {finding.service.name: finding.zone for finding in check(cluster, Rates(), ready)}


def test_three_controllers_are_safe_but_for_the_logs() -> None:
    findings = check(THREE, Rates())
    assert {f.service.name for f in findings if f.zone != "safe"} == {"logs"}
    weak = list(weaknesses(THREE, findings))
    assert not any(weakness.vital for weakness in weak)
    assert "host log1: logs" in {weakness.what for weakness in weak}


def test_one_machine_is_a_single_point_of_failure() -> None:
    cluster = all_in_one("host1")
    findings = check(cluster, Rates())
    assert {finding.zone for finding in findings} == {"edge"}
    assert "host host1: database" in {weakness.what for weakness in weaknesses(cluster, findings) if weakness.vital}


def test_one_zone_is_named() -> None:
    for host in THREE.hosts:
        assert host.availability_zone != "nova"
    hosts = [Host(name=h.name, address=h.address, roles=h.roles, availability_zone="rack1") for h in THREE.hosts]
    cluster = ClusterFile(hosts=hosts, vip=THREE.vip, networks=THREE.networks)
    weak = {weakness.what: weakness for weakness in weaknesses(cluster, check(cluster, Rates()))}
    assert weak["zone rack1: database"].vital
    assert weak["zone rack1: database"].change == "spread its hosts over three zones"


def test_live_a_dead_controller_takes_the_safety() -> None:
    every = {host.name for host in THREE.hosts}
    ready = {name: set(every) for name in ("haproxy", "trilith", "rabbitmq", "ovn_central", "memcached", "ovn_host")}
    ready |= {"galera": {"c1", "c3"}, "rsyslog": every}
    assert zones(THREE, ready)["database"] == "edge"
    assert zones(THREE, ready)["entry"] == "safe"
    assert zones(THREE, ready | {"galera": {"c1"}})["database"] == "down"
    weak = list(weaknesses(THREE, check(THREE, Rates(), ready)))
    assert [(w.what, w.change) for w in weak if w.vital] == [("each of c1, c3: database", "bring c2 back")]


def test_expected_availability_follows_from_the_rates() -> None:
    rates = Rates(host_mtbf_h=999, host_mttr_h=1, zone_mtbf_h=1e12, zone_mttr_h=1)
    findings = {finding.service.name: finding for finding in check(THREE, rates)}
    assert findings["bus"].availability == pytest.approx(at_least(2, 3, 0.999), abs=1e-9)
    failovers = 3 * 3.0 / (999 * 3600)
    assert findings["database"].availability == pytest.approx(at_least(2, 3, 0.999) - failovers, abs=1e-9)
    expected = cloud(findings.values(), rates)
    assert expected["one machine"] == pytest.approx(0.999 * findings["gateways"].availability, abs=1e-6)
    assert expected["API"] < findings["database"].availability
    worse = cloud(check(all_in_one("host1"), rates), rates)
    assert worse["API"] < expected["API"]
    assert "two machines in two zones" not in worse
