"""How costs grow with a region: the same requests, storms and failures among 10 hosts and among 10,000.

Hosts and machines are pretended; schema, application, scheduler, takeover and SQL are the program's own. A region's
servers are copies of one that was really made (`region.py`), a thousand to a project. Everything runs without sockets:
single requests in this process, what comes in crowds in as many processes as there are cores.
"""

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.bench import region as regions
from tests.bench.cost import cost_ms
from tests.bench.fleet import Fleet, secret_of
from tests.bench.rack import lose_rack
from tests.bench.region import AT, COMPUTE, NETWORKING, Region
from tests.bench.results import Results
from tests.client import Answer
from trilith.compute.servers import SERVER
from trilith.identity import credentials
from trilith.kernel.logs import start_log
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST
from trilith.volume import shared_storage

Say = Callable[[str], None]
ON_EACH_HOST = 100
PROJECT_SERVERS = 1000
ALIVE_S = 86_400.0  # hosts are heard for so long: nobody beats for them meanwhile
SPAN_S = 0.5
POOLS = ("images", "volumes", "machines")


@dataclass(frozen=True)
class Growth:
    """`storm`: servers asked for at once, at most one for each host; `rack`: hosts that are lost at once, at most a
    tenth of them (more is a broken network, and nothing is touched)."""

    hosts: tuple[int, ...]
    rounds: int
    storm: int
    rack: int


WIDE = Growth((10, 100, 1000, 10_000), 5, 10_000, 40)
SMALL = Growth((10, 50), 1, 50, 4)


def grow(growth: Growth, work: Path, results: Results, say: Say) -> None:
    """Adds facts; their side is the number of hosts."""
    results.conditions |= {
        "servers": f"{ON_EACH_HOST} on each host, {PROJECT_SERVERS:,} to a project, each with a port and an address",
        "database": f"SQLite {sqlite3.sqlite_version}, durable commits",
        "requests": f"{growth.rounds} spans of {SPAN_S:g} s each, by one client without sockets",
    }
    start_log("scale", work, logging.INFO)  # as the API's processes have it
    for hosts in growth.hosts:
        directory = work / f"region-{hosts}"
        directory.mkdir()
        try:
            _one_size(growth, hosts, directory, results, say)
        finally:
            shutil.rmtree(directory)


def _one_size(growth: Growth, hosts: int, directory: Path, results: Results, say: Say) -> None:
    side, servers = str(hosts), hosts * ON_EACH_HOST
    say(f"{hosts:,} hosts: making {servers:,} servers")
    url = regions.sqlite_url(directory)
    region = make_region(url, hosts, servers)
    calls = calls_of(region)
    for number in range(growth.rounds):
        say(f"{hosts:,} hosts: requests, {number + 1} of {growth.rounds}")
        for name, call in calls.items():
            results.fact(name, side, cost_ms(call, SPAN_S), "ms of CPU")
    storm = min(growth.storm, hosts)
    with Fleet(url, region, directory) as fleet:
        say(f"{hosts:,} hosts: {storm:,} servers at once")
        made = fleet.create(storm)
        results.fact("servers at once: asked for", side, made.count, "")
        results.fact("servers at once: placed", side, made.count / made.wall_s, "a second")
        results.fact("servers at once: CPU to place one", side, 1000 * made.cpu_s / made.count, "ms of CPU")
        ran = fleet.settle(waiting_hosts(region))
        whole_s = made.wall_s + ran.wall_s
        results.fact("servers at once: ACTIVE", side, whole_s, "s")
        results.fact("servers at once: CPU for each", side, 1000 * (made.cpu_s + ran.cpu_s) / made.count, "ms of CPU")
        say(f"{hosts:,} hosts: every agent asks anew")
        again = fleet.resync([regions.name_of(number) for number in range(hosts)])
        results.fact("all agents anew: asked", side, again.count, "")
        results.fact("all agents anew: took", side, again.wall_s, "s")
        results.fact("all agents anew: CPU for each host", side, 1000 * again.cpu_s / again.count, "ms of CPU")
    region.store.run(_keep_alive)  # heartbeats hold for seconds
    rack = min(growth.rack, hosts // 10)
    say(f"{hosts:,} hosts: {rack} of them are lost")
    lost = lose_rack(region.store, [regions.name_of(number) for number in range(rack)])
    results.fact("rack lost: hosts", side, rack, "")
    results.fact("rack lost: machines", side, lost.machines, "")
    results.fact("rack lost: of them went elsewhere", side, lost.moved, "")
    results.fact("rack lost: until they had gone", side, lost.wall_s, "s")
    results.fact("rack lost: CPU for each machine", side, 1000 * lost.cpu_s / max(1, lost.moved), "ms of CPU")
    results.fact("rack lost: a look at all hosts", side, lost.look_ms, "ms of CPU")
    region.store.close()
    size_mib = sum(file.stat().st_size for file in directory.iterdir()) / 2**20
    results.fact("database", side, size_mib, "MiB")


def make_region(url: str, hosts: int, servers: int) -> Region:
    """Its machines' disks are in shared storage, so that a lost host's can go elsewhere."""
    region = regions.make(url, hosts)
    store = region.store
    store.run(lambda tx: shared_storage.declare(tx, "bench-storage", POOLS))
    answer = region.client.post(f"{COMPUTE}/servers", region.server_body("shared"), region.member, at=AT)
    region.server_id = _made(answer)["server"]["id"]
    store.run(lambda tx: regions.activate(tx, region.server_id))
    regions.add_servers(region, servers - 2, hosts)
    store.run(_spread)
    store.run(_keep_alive)
    store.run(partial(_let_in, hosts=hosts))
    network = _made(region.client.post(f"{NETWORKING}/networks", {"network": {"name": "new"}}, region.member))
    region.network_id = network["network"]["id"]
    subnet = {"network_id": region.network_id, "cidr": "10.128.0.0/16", "ip_version": 4}
    _made(region.client.post(f"{NETWORKING}/subnets", {"subnet": subnet}, region.member))
    return region


def _made(answer: Answer) -> Any:
    assert answer.status < 300, answer.content
    return answer.json


def _spread(tx: Tx) -> None:
    """Servers and ports above the first thousand belong to other projects."""
    beyond = f"WHERE number >= {PROJECT_SERVERS}"
    tx.connection.exec_driver_sql(
        f"UPDATE compute_servers SET project_id = 'project-' || (number / {PROJECT_SERVERS}) {beyond}"
    )
    tx.connection.exec_driver_sql(
        "UPDATE network_ports SET project_id = (SELECT project_id FROM compute_servers WHERE id = machine_id) "
        "WHERE machine_id IS NOT NULL"
    )


def _keep_alive(tx: Tx) -> None:
    tx.execute(HOST.table.update().values(seen_at_s=time.time() + ALIVE_S))


def _let_in(tx: Tx, hosts: int) -> None:
    """The agents' credentials."""
    names = [regions.name_of(number) for number in range(hosts)]
    rows = [{"name": f"host-{name}", "digest": credentials.digest(secret_of(name)), "made_at_s": 0.0} for name in names]
    tx.connection.execute(credentials.CREDENTIALS.insert(), rows)


def calls_of(region: Region) -> dict[str, Callable[[], Any]]:
    client, host = region.client, regions.name_of(1)
    agent = {"Authorization": f"Bearer {secret_of(host)}"}

    def get(path: str, who: str) -> Callable[[], Any]:
        return lambda: _made(client.get(path, who, at=AT))

    def create() -> Any:
        return _made(client.post(f"{COMPUTE}/servers", region.server_body(), region.member, at=AT))

    def port() -> Any:
        body = {"port": {"network_id": region.network_id}}
        return _made(client.post(f"{NETWORKING}/ports", body, region.member))

    def wants() -> Any:
        return _made(client.get(f"/agent/v1/hosts/{host}/wants", None, headers=agent))

    row = region.store.read(lambda tx: tx.get(HOST, host))
    beat = {name: row[name] for name in ("boot_id", "inventory", "versions", "epoch")}

    def heartbeat() -> Any:
        return _made(client.post(f"/agent/v1/hosts/{host}/heartbeat", beat, None, headers=agent))

    return {
        "100 servers of a project": get(f"{COMPUTE}/servers/detail?limit=100", region.member),
        "100 servers of all projects": get(f"{COMPUTE}/servers/detail?limit=100&all_tenants=1", region.admin),
        "one server": get(f"{COMPUTE}/servers/{region.server_id}", region.member),
        "create a port": port,
        "create a server": create,
        "an agent's heartbeat": heartbeat,
        "what an agent wants": wants,
    }


def waiting_hosts(region: Region) -> list[str]:
    """Those with servers that do not run yet."""
    query = sa.select(SERVER.c.host).where(SERVER.c.status == "BUILD", SERVER.c.deleted_at.is_(None)).distinct()
    return [row["host"] for row in region.store.read(lambda tx: tx.select(query))]
