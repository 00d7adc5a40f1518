"""The object store beside Swift: small objects in and out by several clients, large ones by one. Both run at once, and
each span of load is asked of one after the other, round after round."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.bench.api import Api
from tests.bench.compare import Say, sample
from tests.bench.fill import Started
from tests.bench.image_bytes import receive, send, speed_facts
from tests.bench.load import Operation, Request, load
from tests.bench.results import Results
from tests.bench.sessions import Failed

SMALL_BYTES = 4096
CONTAINER = "bench"
FIRST = 4  # of each kind, not measured
BAR = 10.0  # times Swift's rate of small objects


@dataclass(frozen=True)
class Extent:
    """How much is measured. `for_s`: a span of load; `kept`: objects that are read again and again."""

    rounds: int = 5
    for_s: float = 5.0
    clients: tuple[int, ...] = (1, 8, 32)
    kept: int = 500
    large_mib: int = 100
    idle_s: float = 20.0


SMALL = Extent(2, 2.0, (1, 8, 32), 100, 100, 3.0)
QUICK = replace(SMALL, rounds=1, for_s=1.0)


@dataclass(frozen=True)
class Case:
    """`bar`: so many times Swift's rate, and so many times less CPU time."""

    key: str
    title: str
    operations: Callable[[Api, Extent], Iterator[Operation]]
    bar: float | None = BAR


def url_of(api: Api, name: str = "") -> str:
    """Of an object, or of the container."""
    return "/".join([api.endpoints["objects"], CONTAINER, *([name] if name else [])])


def new_objects(api: Api, extent: Extent) -> Iterator[Operation]:
    """Each of a name of its own."""
    content = os.urandom(SMALL_BYTES)
    for number in itertools.count():
        yield [Request("PUT", url_of(api, f"new-{number}"), api.headers("objects"), content)]


def kept_objects(api: Api, extent: Extent) -> Iterator[Operation]:
    urls = [url_of(api, f"kept-{number}") for number in range(extent.kept)]
    return itertools.cycle([[Request("GET", url, api.headers("objects"))] for url in urls])


CASES = (
    Case("object_put", "PUT 4 KiB, a new object", new_objects),
    Case("object_get", "GET 4 KiB", kept_objects),
)


def fill(side: Started, extent: Extent) -> None:
    """The container, and what is read. Raises `Failed`."""
    api = side.api
    status = api.exchange("PUT", url_of(api), b"", api.headers("objects"))[0]
    if status not in (201, 202):
        raise Failed(f"{side.name}: making a container was answered {status}")
    content = os.urandom(SMALL_BYTES)
    for number in range(extent.kept):
        status = api.exchange("PUT", url_of(api, f"kept-{number}"), content, api.headers("objects"))[0]
        if status != 201:
            raise Failed(f"{side.name}: making an object was answered {status}")
    got = api.exchange("GET", url_of(api, "kept-0"), None, api.headers("objects"))[2]
    if got != content:
        raise Failed(f"{side.name}: an object came back as {len(got)} other bytes")


def compare(sides: list[Started], extent: Extent, results: Results, say: Say) -> None:
    """Adds samples and facts."""
    for side in sides:
        say(f"{side.name}: {extent.kept} objects of {SMALL_BYTES} bytes")
        fill(side, extent)
    operations = {(case.key, side.name): case.operations(side.api, extent) for case in CASES for side in sides}
    for given in operations.values():
        load(itertools.islice(given, FIRST), FIRST, float("inf"))
    for number in range(extent.rounds):
        for case, clients in itertools.product(CASES, extent.clients):
            say(f"round {number + 1} of {extent.rounds}: {case.title}, {clients} clients")
            for side in sides:
                given = operations[case.key, side.name]
                results.samples.append(
                    sample(case.key, side, given, clients, extent.for_s, len(results.samples) * 1_000_000)
                )
        for side in sides:
            say(f"{side.name}: {extent.large_mib} MiB up and down")
            move_large(side, extent.large_mib, results)


def move_large(side: Started, size_mib: int, results: Results) -> None:
    api, url = side.api, url_of(side.api, "large")
    status, span = send(side, "PUT", url, api.headers("objects"), size_mib)
    if status != 201:
        raise Failed(f"{size_mib} MiB to {side.name}: answered {status}")
    speed_facts(results, side.name, f"{size_mib} MiB up", size_mib, span.wall_s, span.cpu_s)
    got, span = receive(side, url, api.headers("objects"))
    if got != size_mib << 20:
        raise Failed(f"{size_mib} MiB from {side.name}: {got} bytes came")
    speed_facts(results, side.name, f"{size_mib} MiB down", size_mib, span.wall_s, span.cpu_s)
