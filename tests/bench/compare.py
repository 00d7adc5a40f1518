"""Upstream and Trilith side by side: all clouds run at once, and each case is asked of one after the other, round after
round, so that whatever else the machine does meanwhile meets all of them."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tests.bench.bare_side import Bare
from tests.bench.cases import CASES
from tests.bench.fill import Filled, Side, Started, fill
from tests.bench.load import Operation, load
from tests.bench.meter import measured, process_count, pss_mib
from tests.bench.results import Results, Sample
from tests.bench.sessions import Failed

Say = Callable[[str], None]
MOST_FAILED = 0.1  # of a span's requests: more is no measurement; fewer stand in the page
FIRST = 4  # requests at once that are not measured, so that each worker process has done it before


@dataclass(frozen=True)
class Extent:
    """How much is measured. `for_s`: a span of load; `users`: sign-ins of new users in one span."""

    rounds: int = 3
    for_s: float = 4.0
    clients: tuple[int, ...] = (1, 8, 32)
    ports: int = 1000
    servers: int = 10_000
    users: int = 8
    idle_s: float = 30.0
    storms: tuple[tuple[int, int], ...] = ((1, 3), (100, 3), (1000, 1))
    "How many servers at once, and how often."
    image_mib: int = 1024
    hosts: tuple[int, ...] = (100, 10_000)


QUICK = Extent(1, 0.4, (1, 8), 1000, 1000, 2, 3.0, ((1, 1), (100, 1)), 64, (100,))
SMALL = replace(QUICK, ports=100)  # upstream makes three ports a second


@contextmanager
def running(sides: Sequence[Started], results: Results, say: Say, idle_s: float) -> Iterator[None]:
    """Made and started one after the other, each measured while it is alone."""
    with ExitStack() as stack:
        for side in sides:
            stack.callback(side.stop)
            say(f"{side.name}: making it")
            side.make()
            say(f"{side.name}: starting it")
            side.start()
            if not side.is_cloud:
                continue
            results.fact("schema", side.name, side.schema_s, "s")
            results.fact("start to ready", side.name, side.start_s, "s")
            results.fact("schema and start", side.name, side.schema_s + side.start_s, "s")
            at_rest(side, results, "new", say, idle_s)
        yield


def at_rest(side: Started, results: Results, when: str, say: Say, idle_s: float) -> None:
    say(f"{side.name}: at rest for {idle_s:.0f} s")
    with measured(side.leaders) as span:
        time.sleep(idle_s)
    results.fact(f"CPU at rest, {when}", side.name, 100 * span.cpu_s / span.wall_s, "% of a core")
    results.fact(f"memory (PSS), {when}", side.name, pss_mib(side.leaders), "MiB")
    results.fact(f"processes, {when}", side.name, process_count(side.leaders), "")


def fill_all(sides: list[Side], extent: Extent, say: Say) -> dict[str, Filled]:
    users = extent.users * extent.rounds * 2 + 1
    found: dict[str, Filled] = {}
    for side in sides:
        if isinstance(side, Bare):
            found[side.name] = side.filled(found[side.over.name])
            continue
        say(f"{side.name}: {extent.servers:,} servers, {extent.ports:,} ports, images, projects, networks, users")
        found[side.name] = fill(side, extent.ports, extent.servers, users)
    return found


def compare(
    sides: list[Side], filled: dict[str, Filled], extent: Extent, results: Results, say: Say, only: str = ""
) -> None:
    """Adds samples. `only`: cases whose key holds this word."""
    cases = [case for case in CASES if only in case.key and case.ports <= extent.ports]
    operations = {
        (case.key, side.name): case.operations(side.api, filled[side.name])
        for case in cases
        for side in sides
        if side.is_cloud or case.bare
    }
    for (key, side_name), given in operations.items():
        if not next(case.once for case in cases if case.key == key):
            say(f"{side_name}: {key}, for the first time")
            load(itertools.islice(given, FIRST), FIRST, float("inf"))
    for number, case in itertools.product(range(extent.rounds), cases):
        say(f"round {number + 1} of {extent.rounds}: {case.title}")
        for clients in case.clients:
            if clients not in extent.clients:
                continue
            for side in sides:
                if (given := operations.get((case.key, side.name))) is None:
                    continue
                for_s = float("inf") if case.once else extent.for_s
                some = itertools.islice(given, extent.users) if case.once else given
                number = len(results.samples) * 1_000_000
                results.samples.append(sample(case.key, side, some, clients, for_s, number))


def sample(
    case: str, side: Started, operations: Iterator[Operation], clients: int, for_s: float, first_number: int
) -> Sample:
    """One span of load. `first_number`: what the operations' own numbers begin with. Raises `Failed`."""
    with measured(side.leaders) as span:
        outcome = load(operations, clients, for_s, first_number)
    if not outcome.count:
        raise Failed(f"{case} on {side.name}: nothing was asked")
    if outcome.failed > MOST_FAILED * outcome.count:
        raise Failed(f"{case} on {side.name}: {dict(outcome.statuses)}")
    return Sample(
        case=case,
        side=side.name,
        clients=clients,
        count=outcome.count,
        failed=outcome.failed,
        cpu_ms=1000 * span.cpu_s / outcome.count,
        per_second=outcome.count / outcome.wall_s,
        median_ms=1000 * outcome.within_s(0.5),
        slow_ms=1000 * outcome.within_s(0.99),
        bytes_each=outcome.bytes_each,
        other_percent=span.other_percent,
    )
