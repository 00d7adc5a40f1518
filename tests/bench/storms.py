"""Many servers asked for at once, until the last of them is ACTIVE, and their end."""

import itertools
import json
import time
from collections.abc import Iterator

from tests.bench.fill import Filled, Side
from tests.bench.load import Operation, Request, load
from tests.bench.meter import measured
from tests.bench.results import Results
from tests.bench.sessions import Failed

MOST_CLIENTS = 100
GIVE_UP_S = 3600.0
POLL_SHARE = 0.02  # of what has passed is waited between two looks: so time is told to 2 %, and looking costs little
LEAST_POLL_S = 0.01
BUSY, COME_BACK_S = 503, 1.0


def storm(side: Side, filled: Filled, count: int, number: int, results: Results) -> None:
    """Adds facts: until all were accepted, until all were ACTIVE, CPU time for each, until all were gone."""
    api, tag = side.api, f"storm-{number}-"
    url, headers = f"{api.endpoints['compute']}/servers", api.headers("compute")
    with measured(side.leaders) as span:
        begun = time.monotonic()
        busy = _ask(side, filled, tag, count)
        accepted_s = time.monotonic() - begun
        _wait(side, f"/servers?name={tag}&status=BUILD&limit=1", count)
    made = _listed(side, tag)
    active = sum(server["status"] == "ACTIVE" for server in made)
    if (len(made), active) != (count, count):
        raise Failed(f"{count} servers at once on {side.name}: {len(made)} were made, {active} are ACTIVE")
    name = f"{count:,} servers at once" if count > 1 else "one server"
    results.fact(f"{name}: accepted", side.name, accepted_s, "s")
    results.fact(f"{name}: told to come back", side.name, busy, "")
    results.fact(f"{name}: ACTIVE", side.name, span.wall_s, "s")
    results.fact(f"{name}: CPU for each", side.name, 1000 * span.cpu_s / count, "ms")
    if count > MOST_CLIENTS:
        return  # they stay: taking so many away would take upstream as long again
    begun = time.monotonic()
    ends = [[Request("DELETE", f"{url}/{server['id']}", headers)] for server in made]
    load(iter(ends), min(count, MOST_CLIENTS), float("inf"))
    _wait(side, f"/servers?name={tag}&limit=1", count)
    results.fact(f"{name}: deleted", side.name, time.monotonic() - begun, "s")


def _ask(side: Side, filled: Filled, tag: str, count: int) -> int:
    """Until so many are accepted: who hears that the cloud is busy (503) comes back. How often that was."""
    url, headers = f"{side.api.endpoints['compute']}/servers", side.api.headers("compute")
    left, busy, numbers = count, 0, itertools.count()
    while left:
        bodies = [json.dumps(filled.server_body(f"{tag}{next(numbers)}")).encode() for _ in range(left)]
        asked: Iterator[Operation] = ([Request("POST", url, headers, body)] for body in bodies)
        answers = load(asked, min(left, MOST_CLIENTS), float("inf")).statuses
        if answers[202] + answers[BUSY] != left:
            raise Failed(f"{count} servers at once on {side.name}: {dict(answers)}")
        left, busy = answers[BUSY], busy + answers[BUSY]
        if left:
            time.sleep(COME_BACK_S)
    return busy


def _wait(side: Side, path: str, count: int) -> None:
    """Until nothing is found there."""
    begun = time.monotonic()
    while side.api.call("compute", "GET", path)["servers"]:
        passed_s = time.monotonic() - begun
        if passed_s > GIVE_UP_S:
            raise Failed(f"{count} servers on {side.name}: not ready after {passed_s:.0f} s")
        time.sleep(max(LEAST_POLL_S, POLL_SHARE * passed_s))


def _listed(side: Side, tag: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for _ in itertools.count():
        marker = f"&marker={found[-1]['id']}" if found else ""
        page = side.api.call("compute", "GET", f"/servers/detail?name={tag}&limit=1000{marker}")["servers"]
        found += page
        if len(page) < 1000:
            break
    return found
