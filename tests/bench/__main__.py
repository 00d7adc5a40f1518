"""Measures Trilith on this machine, beside upstream and as it grows, and prints the figures.

    python -m tests.bench [--part compare|objects|scale|machines] [--only WORD] [--docs DIR] [--port N]

QUICK=1 in the environment: Trilith alone, few repetitions, two minutes, no page is written. Without it: upstream is
installed from PyPI and Debian, all parts are run (hours), and ``docs/benchmarks.md`` is written.
Needs root for real machines (QEMU, OVN) and to install packages.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import compare, measures, objects, report
from tests.bench.bare_side import NAME as BARE
from tests.bench.bare_side import Bare
from tests.bench.candidates import ask_trilith, ask_upstream
from tests.bench.figures import Figure, as_text
from tests.bench.fill import Filled, Side, Started
from tests.bench.image_bytes import hash_alone, move_image
from tests.bench.results import Machine, Results
from tests.bench.scale import SMALL, WIDE, grow
from tests.bench.sessions import Failed
from tests.bench.storms import storm
from tests.bench.swift_side import Swift
from tests.bench.trilith_side import Trilith
from tests.bench.upstream_config import HASH_ROUNDS, WORKERS
from tests.bench.upstream_install import CLOUD, ROOT, SWIFT, disk_mib, install, measure_install, versions
from tests.bench.upstream_side import Upstream

PARTS = ("machines", "compare", "objects", "scale")
SQLITE_AT, MARIADB_AT, BARE_AT, UPSTREAM_AT = 0, 10, 20, 30  # from the first port on
Say = Callable[[str], None]


def main() -> int:
    given = _parser().parse_args()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    begun = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # and everything is ended on the way out

    def say(what: str) -> None:
        print(f"  {time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    parts = [given.part] if given.part else ["compare"] if quick else list(PARTS)
    if os.geteuid() != 0 and ("machines" in parts or not quick):
        print(
            "Machines, networks and packages need root: sudo make bench. Without: make bench QUICK=1", file=sys.stderr
        )
        return 2
    docs = None if quick and given.docs is None else given.docs or ROOT / "docs"
    work = Path(tempfile.mkdtemp(prefix="tri-bench-", dir="/var/tmp"))
    work.chmod(0o711)
    try:
        codes = [RUN[part](given, quick, docs, work, say) for part in parts]
    except Failed as failed:
        print(f"bench: {failed}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if docs is not None and docs.is_dir():
            say(f"written: {report.write_page(docs)}")
    return max(codes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--part", choices=PARTS, help="one of the parts")
    parser.add_argument("--only", default="", metavar="WORD", help="of the comparison: cases whose key holds this word")
    parser.add_argument(
        "--sides", metavar="NAMES", help="of the comparison: upstream,trilith-sqlite,trilith-mariadb,bare"
    )
    parser.add_argument("--small", action="store_true", help="as few repetitions as with QUICK=1, with upstream too")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where the page is written (default: docs)")
    parser.add_argument("--port", type=int, default=18600, metavar="N", help="the first of a hundred ports")
    return parser


def _machines(given: argparse.Namespace, quick: bool, docs: Path | None, work: Path, say: Say) -> int:
    times = 3 if quick or given.small else 9
    figures: list[Figure] = measures.starts(given.port, times, say)
    figures += measures.machines(given.port, times, 20.0, say)
    print(as_text(figures))
    results = Results(Machine.here(), {"repetitions": f"{times} starts, {times} servers"})
    for figure in figures:
        for value in figure.values:
            results.fact(figure.name, report.SQLITE, value, figure.unit)
    _keep(results, docs, "machines")
    return int(any(figure.over for figure in figures))


def _compare(given: argparse.Namespace, quick: bool, docs: Path | None, work: Path, say: Say) -> int:
    extent = compare.QUICK if quick else compare.SMALL if given.small else compare.Extent()
    names = given.sides.split(",") if given.sides else [report.SQLITE, report.MARIADB, BARE]
    if not given.sides and not quick:
        names.insert(0, report.UPSTREAM)
    results = Results(Machine.here())
    results.conditions |= {
        "worker processes": f"{WORKERS} for the API on each side; upstream's for each of its six APIs",
        "schemas": "Trilith makes its own when it first starts; upstream's are made before its services start",
        "password hashes": f"bcrypt, {HASH_ROUNDS} rounds, on both sides",
        "repetitions": f"{extent.rounds} rounds of {extent.for_s:g} s for each case, number of clients and side",
        "servers": f"{extent.servers:,}, of which one was made through the API and the others are copies of its rows",
    }
    try:
        _measure(names, given, extent, work, results, say)
    except (Failed, AssertionError) as error:  # hours of measurements are kept, and say that they are not all
        results.conditions["not complete"] = f"the run ended early: {str(error).splitlines()[0]}"
        raise
    finally:
        if results.samples:
            print(report.plain(*report.cpu_rows(results)))
            print(f"\n{report.plain(*report.fact_rows(results))}\n")
            print(report.busy_words(results))
            _keep(results, docs, "compare")
    return 0


def _measure(
    names: list[str], given: argparse.Namespace, extent: compare.Extent, work: Path, results: Results, say: Say
) -> None:
    sides = _sides(names, work, given.port, results, say)
    with compare.running(sides, results, say, extent.idle_s):
        filled = compare.fill_all(sides, extent, say)
        compare.compare(sides, filled, extent, results, say, given.only)
        clouds = [side for side in sides if side.name != BARE]
        if not given.only:
            _more(clouds, filled, extent, results, say)
            for hosts in extent.hosts:
                say(f"which of {hosts:,} hosts?")
                ask_trilith(work / f"region-{hosts}", hosts, extent.rounds, report.SQLITE, results)
                for side in sides:
                    if isinstance(side, Upstream):
                        ask_upstream(side, hosts, extent.rounds, results)


def _sides(names: list[str], work: Path, port: int, results: Results, say: Say) -> list[Side]:
    made: dict[str, Side] = {}
    if report.UPSTREAM in names:
        say("upstream: installing it")
        venv = install(CLOUD)
        results.machine.versions |= versions(CLOUD)
        measure_install(report.UPSTREAM, CLOUD.lock, results)
        measure_install(report.SQLITE, ROOT / "requirements.lock", results)
        made[report.UPSTREAM] = Upstream(work / "up", venv, port + UPSTREAM_AT)
    sqlite = Trilith(work / "lite", port + SQLITE_AT, WORKERS, on_mariadb=False)
    made[report.SQLITE] = sqlite
    made[report.MARIADB] = Trilith(work / "maria", port + MARIADB_AT, WORKERS, on_mariadb=True)
    made[BARE] = Bare(sqlite, port + BARE_AT, WORKERS)
    return [side for name, side in made.items() if name in names]


def _more(sides: list[Side], filled: dict[str, Filled], extent: compare.Extent, results: Results, say: Say) -> None:
    """What is not a rate of requests."""
    for count, rounds in extent.storms:
        for number in range(rounds):
            for side in sides:
                say(f"{side.name}: storm of {count:,}, {number + 1} of {rounds}")
                storm(side, filled[side.name], count, count * 100 + number, results)
    for _ in range(extent.rounds):
        for side in sides:
            say(f"{side.name}: an image of {extent.image_mib} MiB")
            move_image(side, extent.image_mib, results)
        hash_alone(extent.image_mib, results)
    for side in sides:
        compare.at_rest(side, results, "after all this", say, extent.idle_s)
        results.fact("disk: data", side.name, disk_mib(side.data_directories()), "MiB")


def _objects(given: argparse.Namespace, quick: bool, docs: Path | None, work: Path, say: Say) -> int:
    extent = objects.QUICK if quick else objects.SMALL if given.small else objects.Extent()
    results = Results(Machine.here())
    results.conditions |= {
        "worker processes": f"{WORKERS} of each: Swift's proxy, account, container and object servers; Trilith's "
        "object store and API",
        "Swift": "one replica on one disk, tokens of its tempauth in memcached, the filters for what Trilith does too, "
        "nothing beside its servers",
        "Trilith": "the whole cloud on one machine, its objects in files, each token looked up in SQL",
        "repetitions": f"{extent.rounds} rounds of {extent.for_s:g} s for each case, number of clients and side",
        "durability": "both sync an object's bytes before they answer; Trilith its row in the list, too",
    }
    sides: list[Started] = [Trilith(work / "ours", given.port + SQLITE_AT, WORKERS, on_mariadb=False)]
    if not quick:
        say("Swift: installing it")
        venv = install(SWIFT)
        results.machine.versions |= versions(SWIFT)
        sides.insert(0, Swift(work / "swift", venv, given.port + UPSTREAM_AT, WORKERS))
    try:
        with compare.running(sides, results, say, extent.idle_s):
            objects.compare(sides, extent, results, say)
    finally:
        if results.samples:
            print(f"{report.plain(*report.cpu_rows(results, objects.CASES))}\n")
            print(f"{report.plain(*report.object_rate_rows(results))}\n")
            print(f"{report.plain(*report.fact_rows(results))}\n")
            print(report.busy_words(results))
            _keep(results, docs, "objects")
    return 0


def _scale(given: argparse.Namespace, quick: bool, docs: Path | None, work: Path, say: Say) -> int:
    results = Results(Machine.here())
    try:
        grow(SMALL if quick or given.small else WIDE, work, results, say)
    finally:  # what was measured is kept, up to the size that was reached
        if results.facts:
            print(report.scale_table(results, report.plain))
            _keep(results, docs, "scale")
    return 0


def _keep(results: Results, docs: Path | None, part: str) -> None:
    if docs is not None:
        results.write(docs / report.DIRECTORY / f"{part}.json")


RUN = {"machines": _machines, "compare": _compare, "objects": _objects, "scale": _scale}

if __name__ == "__main__":
    sys.exit(main())
