"""The drills: what is broken, for how long, and the bar that must hold. Data; who breaks it is the site."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trilith.cluster.drill import upgrade
from trilith.cluster.drill.measure import Bar
from trilith.cluster.drill.rehearsed import Rehearsed
from trilith.cluster.drill.site import Site, one_of
from trilith.cluster.state import Problem

KILLS = 12  # of any-process
OBJECT_KILLS = 5
KILL_REST_S = (0.3, 2.0)


@dataclass(frozen=True)
class Drill:
    """`inject` breaks something and says what; `heal`, `lasts_s` later, ends it where it does not end by itself.
    `storm`: servers that are asked for in one request just before; how long requests are slow is then no bar,
    because the machines that boot take the processors of a rehearsal for minutes. `machines`: that write to a
    volume each, on `host` (None: on any). `restarts`: machines may be started again. `counted`: QEMU processes are
    counted over all hosts throughout: never two of one machine. `moves`: live migrations of those machines, with TCP
    connections to them; `kills`: agents and controllers die meanwhile. `objects`: users who write objects all the time,
    where the cloud has an object store; `about_objects`: it has to have one."""

    name: str
    what: str
    inject: Callable[[Site], str]
    bar: Bar
    heal: Callable[[Site], None] | None = None
    lasts_s: float = 0.0
    before: Callable[[Site], None] | None = None
    storm: int = 0
    machines: int = 0
    host: Callable[[Site], str] | None = None
    counted: bool = False
    moves: int = 0
    kills: bool = False
    restarts: bool = False
    objects: int = 0
    about_objects: bool = False
    cluster: bool = True
    "Needs a rehearsal; else it works on one machine too."
    pings: bool = False
    "Is about machines' traffic: needs real ones."
    named: bool = False
    "Is done only where it is named: it needs shared storage, or takes long."


def _rehearsed(site: Site) -> Rehearsed:
    if not isinstance(site, Rehearsed):
        raise Problem("This drill needs the hosts of a rehearsal: trilith rehearse up FILE, then --rehearsal STATE")
    return site


# --- what breaks


def api_process(site: Site) -> str:
    if isinstance(site, Rehearsed):
        host = site.vip_holder()
        site.kill_unit(host, "trilith-api")
        return f"the API of {host}"
    process = one_of(site, "api worker")
    site.kill(process)
    return f"API worker {process.pid}"


def any_process(site: Site) -> str:
    killed = []
    for _ in range(KILLS):
        processes = site.processes()
        if processes:
            name = random.choice(sorted({process.name for process in processes}))
            victim = random.choice([process for process in processes if process.name == name])
            site.kill(victim)
            killed.append(victim.name)
        time.sleep(random.uniform(*KILL_REST_S))
    return ", ".join(f"{killed.count(name)} {name}" for name in sorted(set(killed)))


def object_process(site: Site) -> str:
    """Again and again."""
    for _ in range(OBJECT_KILLS):
        if isinstance(site, Rehearsed):
            site.kill_unit(random.choice(site.controllers), "trilith-objects")
        else:
            site.kill(one_of(site, "objects"))
        time.sleep(random.uniform(*KILL_REST_S))
    return f"a process of the object store, {OBJECT_KILLS} times"


def database_writer(site: Site) -> str:
    host = _rehearsed(site).database_writer()
    _rehearsed(site).kill_unit(host, "mariadb")
    return f"MariaDB of {host}, the writer"


def database_node(site: Site) -> str:
    cluster = _rehearsed(site)
    writer = cluster.database_writer()
    host = next(name for name in cluster.controllers if name != writer)
    cluster.kill_unit(host, "mariadb")
    return f"MariaDB of {host}"


def rabbitmq_broker(site: Site) -> str:
    cluster = _rehearsed(site)
    host = cluster.vip_holder()
    cluster.kill_unit(host, "rabbitmq-server")
    return f"RabbitMQ of {host}"


def rabbitmq_all(site: Site) -> str:
    cluster = _rehearsed(site)
    for host in cluster.controllers:
        cluster.kill_unit(host, "rabbitmq-server")
    return "RabbitMQ of every controller"


def memcached(site: Site) -> str:
    cluster = _rehearsed(site)
    for host in cluster.controllers:
        cluster.kill_unit(host, "memcached")
    return "memcached of every controller"


def power_cut(site: Site) -> str:
    host = _rehearsed(site).vip_holder()
    _rehearsed(site).power_off([host])
    return f"power of {host}, which held the VIP"


def link_cut(site: Site) -> str:
    host = _rehearsed(site).vip_holder()
    _rehearsed(site).cut(host, "management")
    return f"management link of {host}, which held the VIP"


def paused(site: Site) -> str:
    host = _rehearsed(site).vip_holder()
    _rehearsed(site).pause(host)
    return f"{host}, which held the VIP, stood still"


def gateway_host(site: Site) -> str:
    cluster = _rehearsed(site)
    host = cluster.gateway_host()
    cluster.power_off([host])
    return f"power of {host}, the gateway"


def first_compute(site: Site) -> str:
    return _rehearsed(site).computes_alone[0]


def compute_host(site: Site) -> str:
    cluster = _rehearsed(site)
    host = cluster.busiest()
    machines = len(cluster.machines()[host])
    cluster.power_off([host])
    return f"power of {host}, which ran {machines} machines"


def compute_link(network: str) -> Callable[[Site], str]:
    def cut(site: Site) -> str:
        host = _rehearsed(site).busiest()
        _rehearsed(site).cut(host, network)
        return f"{network} of {host}, which ran most machines"

    return cut


def storage_host(site: Site) -> str:
    cluster = _rehearsed(site)
    others = [name for name in cluster.storages if name != cluster.vip_holder() and name not in cluster.computes]
    if not others:
        raise Problem("No storage host of this rehearsal can be lost alone. Drill a larger cluster file.")
    host = others[0]
    cluster.power_off([host])
    return f"power of {host}, a storage host"


def partition(site: Site) -> str:
    cluster = _rehearsed(site)
    pair = [next(name for name in cluster.controllers if name != cluster.vip_holder()), cluster.busiest()]
    cluster.part(pair)
    return f"{' and '.join(pair)} were cut off together"


def half_the_hosts(site: Site) -> str:
    cluster = _rehearsed(site)
    hosts = cluster.computes_alone
    gone = hosts[: max(2, (len(hosts) + 1) // 2)]
    for name in gone:
        cluster.cut(name, "all")
    return f"every link of {', '.join(gone)}"


def nothing(site: Site) -> str:
    """What happens is that machines move."""
    return "nothing"


def everything(site: Site) -> str:
    cluster = _rehearsed(site)
    cluster.power_off(cluster.hosts)
    time.sleep(2.0)
    cluster.power_on(cluster.hosts)
    return "power of every host, off and on"


def rolled_forth(site: Site) -> str:
    cluster = _rehearsed(site)
    begun_s = time.monotonic()
    cluster.roll(upgrade.next_version(cluster.scratch / "next"))
    return f"every host runs a version with one more column, after {time.monotonic() - begun_s:.0f} s"


def rolled_back(site: Site) -> None:
    _rehearsed(site).roll(upgrade.this_version())


def gather(site: Site) -> None:
    """Moves the SQL writer and RabbitMQ's leader to where the VIP is."""
    _rehearsed(site).gather()


# --- what heals


def restore(site: Site) -> None:
    _rehearsed(site).restore()


# Of hosts that real machines are lost with, and of what these write to.
while_machines_write = partial(Drill, heal=restore, lasts_s=90.0, machines=4, counted=True, pings=True, named=True)

# Of two users who do nothing but write objects.
while_objects_are_written = partial(Drill, objects=2, about_objects=True, named=True)

# Of machines that write, and answer on TCP connections.
while_machines_move = partial(Drill, inject=nothing, machines=4, pings=True, named=True)

DRILLS: dict[str, Drill] = {
    drill.name: drill
    for drill in (
        Drill("api-process", "an API process, kill -9", api_process, Bar(failed=0), cluster=False),
        Drill("database-writer", "the SQL writer, kill -9", database_writer, Bar(outage_s=3.0)),
        Drill("database-node", "another SQL node, kill -9", database_node, Bar(outage_s=3.0)),
        Drill("rabbitmq-broker", "a RabbitMQ broker, kill -9", rabbitmq_broker, Bar(failed=0, added_s=1.0)),
        Drill("rabbitmq-all", "all of RabbitMQ, kill -9", rabbitmq_all, Bar(failed=0, added_s=1.0)),
        Drill("memcached", "all of memcached, kill -9", memcached, Bar(failed=0)),
        Drill(
            "controller-power-cut",
            "the controller with the VIP, power cut",
            power_cut,
            Bar(outage_s=5.0, slow_s=15.0),
            heal=restore,
            lasts_s=20.0,
            objects=1,
        ),
        Drill(
            "controller-link-cut",
            "a controller's link, cut for 60 s",
            link_cut,
            Bar(outage_s=10.0),
            heal=restore,
            lasts_s=60.0,
        ),
        Drill(
            "controller-paused",
            "a controller, still for 30 s",
            paused,
            Bar(outage_s=10.0),
            heal=restore,
            lasts_s=30.0,
        ),
        Drill(
            "gateway-host",
            "a network gateway host, power cut",
            gateway_host,
            Bar(outage_s=5.0, ping_s=3.0),
            heal=restore,
            lasts_s=20.0,
            pings=True,
        ),
        while_machines_write(
            "compute-host-loss",
            "a compute host with 10 machines, power cut",
            compute_host,
            Bar(failed=0, ping_s=60.0),
            machines=10,
            host=first_compute,
            restarts=True,
        ),
        *(
            while_machines_write(
                f"compute-{name}-cut",
                f"{what} of a compute host, cut for 90 s",
                compute_link(network),
                Bar(failed=0),
                restarts=True,
            )
            for name, what, network in (
                ("management", "the management link", "management"),
                ("storage", "the storage link", "storage"),
                ("host", "every link", "all"),
            )
        ),
        while_machines_write(
            "partition",
            "a controller and a compute host cut off together, for 90 s",
            partition,
            Bar(outage_s=10.0),
            restarts=True,
        ),
        while_machines_write(
            "storage-host",
            "a storage host, power cut, while machines write",
            storage_host,
            Bar(failed=0, io_s=10.0),
            lasts_s=60.0,
            objects=1,
        ),
        while_machines_write(
            "half-the-hosts",
            "half of the compute hosts vanish, for 90 s: nothing is touched",
            half_the_hosts,
            Bar(failed=0),
        ),
        while_machines_move(
            "live-migrations", "20 live migrations, two at a time", bar=Bar(failed=0, broken=0), moves=20
        ),
        while_machines_move(
            "live-migrations-killed",
            "live migrations while agents and controllers die",
            bar=Bar(broken=0),
            moves=10,
            kills=True,
        ),
        Drill("any-process", "any process, again and again", any_process, Bar(), objects=1, cluster=False),
        while_objects_are_written(
            "object-process",
            "the object store's process, kill -9, again and again",
            object_process,
            Bar(failed=0),
            cluster=False,
        ),
        while_objects_are_written(
            "object-controller",
            "the controller with the VIP, power cut, while objects are written",
            power_cut,
            Bar(outage_s=5.0),
            heal=restore,
            lasts_s=30.0,
        ),
        while_objects_are_written(
            "object-storage",
            "a storage host, power cut, while objects are written",
            storage_host,
            Bar(failed=0),
            heal=restore,
            lasts_s=30.0,
        ),
        Drill("everything", "power of everything", everything, Bar(outage_s=120.0), objects=1, restarts=True),
        Drill(
            "rolling-upgrade",
            "a version with one more column, and back",
            rolled_forth,
            Bar(failed=0),
            heal=rolled_back,
        ),
        Drill(
            "nastiest",
            "VIP, SQL writer and bus leader at once",
            power_cut,
            Bar(outage_s=5.0, healed_s=300.0),  # a host boots while 50 machines boot, on the same processors
            heal=restore,
            lasts_s=20.0,
            before=gather,
            storm=50,
        ),
    )
}
