"""CPU time of a request inside one process, without a server or sockets: Trilith, the bare handler, and what divides
them; or where the time goes.

    python -m tests.bench.cost [CASE...] [--servers N] [--hosts N] [--rounds N] [--json]
    python -m tests.bench.cost CASE --profile [--lines N]        cProfile's table of one case

The two take turns; a figure is the median over the turns.
"""

import argparse
import cProfile
import json
import logging
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import region as regions
from tests.bench.bare import Bare
from tests.bench.region import AT, COMPUTE, NETWORKING, Region
from tests.client import Client
from trilith.kernel.logs import start_log

ROUND_S = 0.25  # of one side's turn
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """`bare`: whether the bare handler has it too; `body` makes what is sent."""

    path: str
    method: str = "GET"
    as_admin: bool = False
    bare: bool = False
    body: Callable[[Region], Any] = lambda region: None
    bar: float | None = None  # times the bare handler


CASES = {
    "servers-100": Case(f"{COMPUTE}/servers/detail?limit=100", bare=True, bar=2.0),
    "servers-1000": Case(f"{COMPUTE}/servers/detail?limit=1000", bare=True, bar=2.0),
    "server": Case(f"{COMPUTE}/servers/{{server}}", bare=True),
    "ports-100": Case(f"{NETWORKING}/ports?limit=100", bare=True, bar=2.0),
    "ports-1000": Case(f"{NETWORKING}/ports?limit=1000", bare=True, bar=2.0),
    "networks": Case(f"{NETWORKING}/networks", bare=True),
    "projects": Case("/identity/v3/projects", as_admin=True, bare=True),
    "images": Case("/image/v2/images", bare=True),
    "validate": Case("/identity/v3/auth/tokens"),
    "token": Case("/identity/v3/auth/tokens", "POST", body=lambda region: _by_token(region)),
    "port-create": Case(f"{NETWORKING}/ports", "POST", body=lambda region: {"port": {"network_id": region.network_id}}),
    "server-create": Case(f"{COMPUTE}/servers", "POST", body=lambda region: region.server_body()),
    "missing": Case("/nowhere"),
}


def _by_token(region: Region) -> Any:
    scope = {"project": {"id": region.project_id}}
    return {"auth": {"identity": {"methods": ["token"], "token": {"id": region.member}}, "scope": scope}}


def caller(region: Region, client: Client, case: Case) -> Call:
    who = region.admin if case.as_admin else region.member
    path = case.path.format(server=region.server_id)
    body = case.body(region)
    expected = {"GET": (200, 404)}.get(case.method, (201, 202))
    subject = {"X-Subject-Token": region.member} if "auth/tokens" in path and case.method == "GET" else {}

    def call() -> Any:
        answer = client(case.method, path, who, body, AT, subject)
        assert answer.status in expected, answer.content
        return answer

    return call


def cost_ms(call: Call, for_s: float = ROUND_S) -> float:
    """CPU time of one call, over as many as fit."""
    calls, end = 0, time.perf_counter() + for_s
    begun = time.process_time()
    while calls < 2 or time.perf_counter() < end:
        call()
        calls += 1
    return 1000 * (time.process_time() - begun) / calls


def compare(region: Region, names: list[str], rounds: int) -> list[dict[str, Any]]:
    bare = Client(Bare(region.store))  # type: ignore[arg-type]
    found = []
    for name in names:
        case = CASES[name]
        sides = {"trilith": caller(region, region.client, case)}
        if case.bare:
            sides["bare"] = caller(region, bare, case)
        regions.beat(region.store)
        took: dict[str, list[float]] = {side: [] for side in sides}
        for call in sides.values():
            cost_ms(call, 0.05)
        for _ in range(rounds):
            for side, call in sides.items():
                took[side].append(cost_ms(call))
        medians = {side: statistics.median(values) for side, values in took.items()}
        ratio = medians["trilith"] / medians["bare"] if case.bare else None
        found.append({"case": name, **medians, "ratio": ratio, "bar": case.bar, "rounds": took})
        print(as_line(found[-1]), file=sys.stderr, flush=True)
    return found


def as_line(row: dict[str, Any]) -> str:
    values = row["rounds"]["trilith"]
    line = f"{row['case']:14} {row['trilith']:8.3f} ms ({min(values):.3f}..{max(values):.3f})"
    if row["ratio"] is not None:
        line += f"  bare {row['bare']:8.3f} ms  {row['ratio']:5.2f} times"
    if row["bar"] is not None:
        line += f"  bar {row['bar']:g} {'OVER' if row['ratio'] > row['bar'] else 'ok'}"
    return line


def profile(region: Region, name: str, lines: int) -> None:
    call = caller(region, region.client, CASES[name])
    regions.beat(region.store)
    cost_ms(call)
    watch, calls, end = cProfile.Profile(), 0, time.perf_counter() + 3
    watch.enable()
    while time.perf_counter() < end:
        call()
        calls += 1
    watch.disable()
    print(f"{name}: {calls} calls")
    table = pstats.Stats(watch, stream=sys.stdout)
    table.sort_stats("tottime").print_stats(lines)
    table.sort_stats("cumulative").print_stats(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--servers", type=int, default=2000)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--lines", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trilith-cost-") as directory:
        start_log("cost", Path(directory), logging.INFO)  # as the API has it
        region = regions.make(regions.sqlite_url(Path(directory)), given.hosts)
        regions.add_servers(region, given.servers, given.hosts)
        regions.add_networks(region, 10)
        regions.add_projects(region, 47)
        regions.add_images(region, 25)
        if given.profile:
            for name in given.cases:
                profile(region, name, given.lines)
            return 0
        rows = compare(region, given.cases or list(CASES), given.rounds)
        region.store.close()
    print(json.dumps(rows) if given.json else "\n".join(map(as_line, rows)))
    return int(any(row["bar"] is not None and row["ratio"] > row["bar"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
