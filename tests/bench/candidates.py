"""Which host shall it be? Upstream's first question about a new server, ``GET /allocation_candidates``, and what
answers it in Trilith: the scheduler's choice, inside the transaction that makes the server. Upstream filters and weighs
afterwards, which is not counted.
"""

import contextlib
import itertools
import uuid
from pathlib import Path
from typing import Any

from tests.bench import region as regions
from tests.bench.cost import cost_ms
from tests.bench.load import Request, load
from tests.bench.meter import measured
from tests.bench.results import Results
from tests.bench.sessions import Failed
from tests.bench.upstream_side import Upstream
from trilith.compute.flavors import FLAVOR
from trilith.compute.scheduler import Ask, place

SPAN_S = 4.0
MOST = 1000  # candidates that nova asks for
QUESTION = f"/allocation_candidates?resources=VCPU:1,MEMORY_MB:64,DISK_GB:1&limit={MOST}"
RESOURCES = {0: 64, 1: 262_144, 2: 4000}  # processors, MiB, GiB: the numbers that placement gives its own classes


def ask_upstream(upstream: Upstream, hosts: int, rounds: int, results: Results) -> None:
    """With so many more providers, which stay: servers cannot be made after it."""
    with contextlib.closing(upstream.database.connect("placement")) as connection:
        _add_providers(connection, hosts)
    request = Request("GET", upstream.api.endpoints["placement"] + QUESTION, upstream.api.headers("placement"))
    load(itertools.repeat([request], 2), 2, float("inf"))
    for _ in range(rounds):
        with measured(upstream.leaders) as span:
            outcome = load(itertools.repeat([request]), 1, SPAN_S)
        if outcome.failed:
            raise Failed(f"{QUESTION}: {dict(outcome.statuses)}")
        results.fact(_name(hosts), upstream.name, 1000 * span.cpu_s / outcome.count, "ms of CPU")


def _add_providers(connection: Any, hosts: int) -> None:
    """Up to so many."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM resource_providers WHERE name LIKE 'bench-%'")
        names = [f"bench-{number}" for number in range(cursor.fetchone()[0], hosts)]
        insert = "INSERT INTO resource_providers (uuid, name, generation, created_at) VALUES (%s, %s, 1, now())"
        cursor.executemany(insert, [(str(uuid.uuid4()), name) for name in names])
        cursor.execute("UPDATE resource_providers SET root_provider_id = id WHERE root_provider_id IS NULL")
        for resource, total in RESOURCES.items():
            cursor.execute(
                "INSERT INTO inventories (resource_provider_id, resource_class_id, total, reserved, min_unit, "
                "max_unit, step_size, allocation_ratio, created_at) SELECT id, %s, %s, 0, 1, %s, 1, 4.0, now() "
                "FROM resource_providers p WHERE name LIKE 'bench-%%' AND NOT EXISTS (SELECT 1 FROM inventories i "
                "WHERE i.resource_provider_id = p.id AND i.resource_class_id = %s)",
                (resource, total, total, resource),
            )


def ask_trilith(directory: Path, hosts: int, rounds: int, side: str, results: Results) -> None:
    """In this process, over a region of its own with a server on each host."""
    directory.mkdir()
    region = regions.make(regions.sqlite_url(directory), hosts)
    regions.add_servers(region, hosts, hosts)
    store = region.store
    ask = Ask(store.read(lambda tx: tx.rows(FLAVOR)[0]), region.project_id)
    for _ in range(rounds):
        regions.beat(store)
        taken_ms = cost_ms(lambda: store.read(lambda tx: place(tx, ask)), 1.0)
        results.fact(_name(hosts), side, taken_ms, "ms of CPU")
    store.close()


def _name(hosts: int) -> str:
    return f"which of {hosts:,} hosts"
