"""`trilith check`: what of a cluster may die before its users notice, and what availability follows. Pure.

A service is up while `needed` of its hosts are. Hosts of one availability zone share what feeds them, so a zone can
fail as a whole. From mean times between failures and to repair:

    a = MTBF / (MTBF + MTTR)        the probability that a host (or a zone) is up
    P(up) = sum over the sets of zones that are up of  P(set) * P(at least `needed` of the hosts in it are up)

minus what each failover costs (the bars that `trilith drill` measures).
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from trilith.cluster.cluster_file import ClusterFile, Host

YEAR_S = 365.25 * 24 * 3600

Zone = Literal["safe", "edge", "down"]
"safe: one more host may die. edge: it works, and the next one stops it. down: it does not work."


@dataclass(frozen=True)
class Rates:
    """Mean times, in hours: between failures of one host (of anything that stops it) and until it is back; the same
    for a zone (power feed, rack, switch)."""

    host_mtbf_h: float = 4380.0
    host_mttr_h: float = 4.0
    zone_mtbf_h: float = 43800.0
    zone_mttr_h: float = 4.0

    @property
    def host(self) -> float:
        return self.host_mtbf_h / (self.host_mtbf_h + self.host_mttr_h)

    @property
    def zone(self) -> float:
        return self.zone_mtbf_h / (self.zone_mtbf_h + self.zone_mttr_h)


@dataclass(frozen=True)
class Service:
    """`failover_s`: outage when one of its hosts dies; `noticed_by`: the part of its hosts whose death costs that.
    `vital`: the whole cloud is away without it. `engine`: the keepers' name for it."""

    name: str
    hosts: tuple[Host, ...]
    needed: int
    engine: str
    vital: bool
    without: str
    failover_s: float = 0.0
    noticed_by: float = 1.0


@dataclass(frozen=True)
class Finding:
    """How one service stands. `hosts_may_die`, `zones_may_die`: any so many, at the same time, without an end to it;
    -1 when it is down already. `ready`: names of hosts on which it works (of a file: all)."""

    service: Service
    ready: tuple[str, ...]
    hosts_may_die: int
    zones_may_die: int
    availability: float

    @property
    def zone(self) -> Zone:
        return "safe" if self.hosts_may_die > 0 else "edge" if self.hosts_may_die == 0 else "down"

    @property
    def outage_s_a_year(self) -> float:
        return (1 - self.availability) * YEAR_S


@dataclass(frozen=True)
class Weakness:
    """Something whose failure alone ends something, what that is, and what to change. `vital`: the whole cloud."""

    what: str
    ends: str
    change: str
    vital: bool


def services(cluster: ClusterFile) -> list[Service]:
    """Everything that a cloud consists of, and how many hosts of each it needs."""
    control = tuple(cluster.with_role("control"))
    network, compute = tuple(cluster.with_role("network")), tuple(cluster.with_role("compute"))
    logging = tuple(cluster.with_role("logging"))
    quorum = len(control) // 2 + 1
    one = 1 / max(1, len(control))
    found = [
        Service("entry", control, 1, "haproxy", True, "nobody reaches the API", 5.0, one),
        Service("API", control, 1, "trilith", True, "requests fail"),
        Service("database", control, quorum, "galera", True, "requests fail; machines run on", 3.0),
        Service("network control", control, quorum, "ovn_central", False, "networks do not change; traffic flows on"),
        Service("bus", control, quorum, "rabbitmq", False, "changes come up to a second later"),
        Service("cache", control, 1, "memcached", False, "answers come later"),
        Service("gateways", network, 1, "ovn_host", True, "machines are cut off from outside", 3.0, 1.0),
        Service("new machines", compute, 1, "trilith", False, "no machine can be started"),
    ]
    if (ceph := cluster.own_ceph) is not None:
        storage = tuple(cluster.with_role("storage"))
        without = "machines stand still until it is back"
        found.append(Service("storage monitors", control, quorum, "ceph_mon", True, without, 9.0))
        needed = len(storage) - (ceph.size - ceph.min_size)
        found.append(Service("storage", storage, needed, "ceph_osd", True, without, 9.0))
    if logging:
        found.append(Service("logs", logging, 1, "rsyslog", False, "logs wait on their hosts"))
    return found


def check(cluster: ClusterFile, rates: Rates, ready: dict[str, set[str]] | None = None) -> list[Finding]:
    """`ready`: names of hosts by engine, on which it is ready now; None: as the file says, everywhere."""
    found = []
    for service in services(cluster):
        works = [host for host in service.hosts if ready is None or host.name in ready.get(service.engine, set())]
        spare = len(works) - service.needed
        found.append(
            Finding(
                service,
                tuple(host.name for host in works),
                max(-1, spare),
                zones_may_die(works, service.needed),
                availability(service, rates) if service.hosts else 0.0,
            )
        )
    return found


def zones_may_die(hosts: Iterable[Host], needed: int) -> int:
    """Any so many zones at once; -1 when there are too few hosts already."""
    sizes = sorted(_by_zone(hosts).values(), reverse=True)
    left, died = sum(sizes), -1
    for size in [0, *sizes]:
        left -= size
        if left < needed:
            break
        died += 1
    return died


def availability(service: Service, rates: Rates) -> float:
    """The part of the time in which it serves."""
    up = 0.0
    sizes = list(_by_zone(service.hosts).values())
    for alive in itertools.product((True, False), repeat=len(sizes)):
        chance = math.prod(rates.zone if lives else 1 - rates.zone for lives in alive)
        hosts = sum(size for size, lives in zip(sizes, alive, strict=True) if lives)
        up += chance * at_least(service.needed, hosts, rates.host)
    failures_a_second = len(service.hosts) * service.noticed_by / (rates.host_mtbf_h * 3600)
    return max(0.0, up - failures_a_second * service.failover_s)


def at_least(needed: int, count: int, up: float) -> float:
    """The probability that at least `needed` of `count` independent things are up, each with probability `up`."""
    return sum(math.comb(count, n) * up**n * (1 - up) ** (count - n) for n in range(needed, count + 1))


def _by_zone(hosts: Iterable[Host]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for host in hosts:
        sizes[host.availability_zone] = sizes.get(host.availability_zone, 0) + 1
    return sizes


def cloud(findings: Iterable[Finding], rates: Rates) -> dict[str, float]:
    """What users get: the API, and one machine that is reached from outside.

    Controllers are the same hosts for all that runs on them, so only the most demanding of it counts; what its
    failovers cost adds up.
    """
    by_name = {finding.service.name: finding for finding in findings}
    entry = by_name["entry"].service
    failover = len(entry.hosts) * entry.noticed_by * entry.failover_s / (rates.host_mtbf_h * 3600)
    gateways = by_name["gateways"].availability
    machine = rates.host * rates.zone
    found = {
        "API": max(0.0, by_name["database"].availability - failover),
        "floating addresses": gateways,
        "one machine": machine * gateways,
    }
    if len(_by_zone(by_name["new machines"].service.hosts)) > 1:
        found["two machines in two zones"] = (1 - (1 - machine) ** 2) * gateways
    return found


def weaknesses(cluster: ClusterFile, findings: Iterable[Finding]) -> Iterator[Weakness]:
    """Each single point of failure, by name."""
    for finding in findings:
        yield from _service_weaknesses(cluster, finding)
    change = "run what matters twice, on hosts of two zones; back up volumes"
    names = [host.name for host in cluster.with_role("compute")]
    one = f"host {names[0]}" if len(names) == 1 else f"each of {', '.join(names)}"
    ends = "its machines" if cluster.ceph else "its machines, and volumes on its disks"
    yield Weakness(one, ends, change, False)
    networks = cluster.networks
    if cluster.clustered:
        cables = {networks.management_interface: "management", networks.provider_interface: "provider"}
        if networks.tunnel:
            cables[networks.tunnel_interface] = "tunnel"
        if networks.storage:
            cables[networks.storage_interface] = "storage"
        for interface, name in cables.items():
            if not interface.startswith(("bond", "team")):
                yield Weakness(f"{name} interface {interface}", "its host", "bond two interfaces", False)


def _service_weaknesses(cluster: ClusterFile, finding: Finding) -> Iterator[Weakness]:
    service = finding.service
    names = ", ".join(finding.ready) or "no host"
    role: str = "control" if service.hosts == tuple(cluster.with_role("control")) else service.hosts[0].roles[0]
    role = {"gateways": "network", "new machines": "compute", "logs": "logging", "storage": "storage"}.get(
        service.name, role
    )
    if finding.zone == "down":
        yield Weakness(f"{service.name} (down)", service.without, "see trilith status", service.vital)
    elif finding.zone == "edge":
        more = f"give `{role}` to {'three hosts' if role == 'control' else 'another host'}"
        if len(service.hosts) > len(finding.ready):
            more = f"bring {', '.join(h.name for h in service.hosts if h.name not in finding.ready)} back"
        what = f"host {names}" if len(finding.ready) == 1 else f"each of {names}"
        yield Weakness(f"{what}: {service.name}", service.without, more, service.vital)
    elif finding.zones_may_die == 0:
        sizes = _by_zone(service.hosts)
        zone = max(sizes, key=lambda name: sizes[name])
        more = "spread its hosts over three zones" if service.needed > 1 else "put one of its hosts into another zone"
        yield Weakness(f"zone {zone}: {service.name}", service.without, more, service.vital)
