"""The scheduler looks at few hosts and chooses as if it had looked at all; the sums that it reads are those of the
servers' rows."""

import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, MEMBER
from tests.compute.conftest import Cloud
from trilith.compute import scheduler
from trilith.compute.aggregates import AGGREGATE
from trilith.compute.scheduler import Ask, claims_of, place, recount, sweep
from trilith.compute.servers import SERVER
from trilith.compute.takeovers import set_control
from trilith.kernel.errors import Fault
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, register
from trilith.placement.loads import LOADS, loads

Row = dict[str, Any]
FLAVOR = {"vcpus": 1, "ram_mib": 512, "disk_gib": 1, "swap_mib": 0, "ephemeral_gib": 0, "extra_specs": {}}


def add_hosts(tx: Tx, numbers: random.Random, amount: int) -> None:
    """Hosts of many sizes; some are down, disabled, in a zone of their own, or no compute hosts."""
    for n in range(amount):
        name = f"h{n:02d}"
        roles = numbers.choice([["compute"], ["compute", "storage"], ["storage"]])
        row = register(tx, name, str(uuid.UUID(int=numbers.getrandbits(128))), roles, numbers.choice(["nova", "east"]))
        has = {"vcpus": numbers.choice([1, 4]), "ram_mib": numbers.choice([1024, 4096, 8192]), "disk_gib": 40}
        seen_at_s = tx.now_s() - numbers.choice([0, 0, 0, 500])
        tx.update(HOST, row, inventory=has, seen_at_s=seen_at_s, disabled=numbers.random() < 0.1)


def add_servers(tx: Tx, numbers: random.Random, like: Row, amount: int) -> list[str]:
    """Claims here and there, some on two hosts, some of a group."""
    names = [row["name"] for row in tx.rows(HOST)]
    made = []
    for n in range(amount):
        new = {"id": str(uuid.UUID(int=numbers.getrandbits(128))), "number": 100 + n, "nics": [], "disks": []}
        new |= {"host": numbers.choice(names), "claim": {"vcpus": 1, "ram_mib": numbers.choice([512, 1024])}}
        if numbers.random() < 0.2:
            new |= {"peer": numbers.choice(names), "peer_claim": {"vcpus": 1, "ram_mib": 512, "disk_gib": 3}}
        if numbers.random() < 0.4:
            new["server_group_id"] = "g"
        made.append(str(tx.insert(SERVER, like | new)["id"]))
    return made


def asks(numbers: random.Random, servers: list[str], hosts: list[str]) -> Ask:
    policy = numbers.choice(["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"])
    hints = {numbers.choice(["same_host", "different_host"]): numbers.sample(servers, 2)}
    return Ask(
        FLAVOR | {"ram_mib": numbers.choice([512, 2048, 6000])},
        "p1",
        zone=numbers.choice([None, None, "east", "west"]),
        host=numbers.choice([None, None, None, numbers.choice(hosts), "nowhere"]),
        group=numbers.choice([None, {"id": "g", "policy": policy, "rules": {}}]),
        hints=numbers.choice([{}, {}, hints]),
        near=frozenset(numbers.choice([[], [], numbers.sample(hosts, 2)])),
        server_id=numbers.choice([None, numbers.choice(servers)]),
        makes_volumes=numbers.random() < 0.3,
        takeover=numbers.random() < 0.3,
        not_on=numbers.choice([None, numbers.choice(hosts)]),
    )


@pytest.mark.parametrize("seed", range(6))
def test_few_hosts_are_looked_at_and_the_best_of_all_is_chosen(cloud: Cloud, seed: int) -> None:
    key = cloud.server()
    numbers = random.Random(seed)
    agreed = 0

    def work(tx: Tx) -> None:
        nonlocal agreed
        add_hosts(tx, numbers, 2 * scheduler.FIRST_LOOKED_AT)
        servers = add_servers(tx, numbers, tx.get(SERVER, key), 25)
        hosts = [row["name"] for row in tx.rows(HOST)]
        tx.insert(AGGREGATE, {"id": "1", "name": "a", "hosts": hosts[:3], "metadata": {"filter_tenant_id": "p2"}})
        if seed % 2:
            set_control(tx, reserve_hosts=2)
        for _ in range(60):
            ask = asks(numbers, servers, hosts)
            fast, slow = (outcome(choose, tx, ask) for choose in (place, scheduler._among_all))
            assert fast == slow, ask
            agreed += "h" in fast
        assert not any(recount(tx, host) for host in tx.rows(HOST))

    cloud.store.run(work)
    assert agreed > 5


def outcome(choose: Any, tx: Tx, ask: Ask) -> str:
    try:
        return str(choose(tx, ask)["name"])
    except Fault as fault:
        return f"{fault.kind}: {fault.message}"


def sums(cloud: Cloud) -> dict[str, Row]:
    """What the servers' rows say."""
    found: dict[str, Row] = {}
    for row in cloud.store.read(lambda tx: tx.rows(SERVER)):
        for host, amounts in claims_of(row):
            own = found.setdefault(host, dict.fromkeys(amounts, 0))
            for name, amount in amounts.items():
                own[name] += amount
    return found


def kept(cloud: Cloud) -> dict[str, Row]:
    found = cloud.store.read(loads)
    return {host: {k: v for k, v in row.items() if k not in ("host", "free_ram_mib")} for host, row in found.items()}


def test_sums_follow_the_servers(cloud: Cloud, tmp_path: Path) -> None:
    cloud.add_host(tmp_path, "c2", ["compute"])
    first, second = cloud.server(), cloud.server(flavorRef="2")
    assert kept(cloud) == sums(cloud) != {}
    cloud.act(first, "migrate", who=ADMIN)
    assert kept(cloud) == sums(cloud)
    assert len(kept(cloud)) == 2
    cloud.delete(f"/servers/{second}", MEMBER)
    for _ in range(3):
        for host in ("c1", "c2"):
            cloud.beat(host)
            cloud.settle(1, host)
    assert kept(cloud) == sums(cloud)


def test_wrong_sums_are_found_and_counted_anew(cloud: Cloud) -> None:
    cloud.server()
    right = kept(cloud)
    cloud.store.run(lambda tx: tx.execute(LOADS.update().values(vcpus=77, claims=3)))
    assert kept(cloud) != right
    cloud.store.run(sweep)
    assert kept(cloud) == right
    cloud.store.run(lambda tx: tx.execute(LOADS.delete()))
    assert cloud.try_server().status == 202  # a program that knew nothing of sums has left none
    assert kept(cloud) == sums(cloud)
