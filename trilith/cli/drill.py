"""`trilith drill`: break a cloud on purpose and measure what its users notice."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilith.cluster.drill.drills import Drill
    from trilith.cluster.drill.site import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="which drills (default: all that can be done without shared storage)")
    parser.add_argument("--rehearsal", type=Path, metavar="DIR", help="a rehearsal's directory (default: the only one)")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="in a row (default: 1)")
    about = "others use the cloud meanwhile: what is in between or left over may be theirs, and does not count"
    parser.add_argument("--shared", action="store_true", help=about)
    parser.add_argument("--list", action="store_true", help="which there are, and their bars")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--samples", action="store_true", help="with every request in the JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a timeline")


def drill(arguments: argparse.Namespace) -> int:
    """With --state: the cloud on this machine; else a rehearsal. Exit code 1 when a bar is missed."""
    from trilith.cluster.drill import report, timeline
    from trilith.cluster.drill.drills import DRILLS
    from trilith.cluster.drill.run import run_drills
    from trilith.cluster.state import Problem, write_file

    if arguments.list:
        print("\n".join(f"{drill.name:24}{drill.what}" for drill in DRILLS.values()))
        return 0
    if unknown := [name for name in arguments.name if name not in DRILLS]:
        raise Problem(f"There is no drill {unknown[0]}. There are: {', '.join(DRILLS)}")
    site = _site(arguments)
    chosen = _chosen(site, arguments.name)
    outcomes = []
    out = sys.stderr if arguments.json else sys.stdout
    say = partial(print, file=out, flush=True)
    for outcome in run_drills(site, chosen, arguments.times, say, alone=not arguments.shared):
        say("\n".join([report.one_line(outcome), *report.reasons(outcome)]))
        outcomes.append(outcome)
        if arguments.svg:
            write_file(arguments.svg, timeline.picture(outcomes).encode(), mode=0o644, sync=False)
    print(report.as_json(outcomes, arguments.samples) if arguments.json else f"\n{report.as_text(outcomes)}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _site(arguments: argparse.Namespace) -> "Site":
    from trilith.cluster.drill.rehearsed import Rehearsed
    from trilith.cluster.drill.site import OneMachine
    from trilith.cluster.rehearse import the_only_state
    from trilith.cluster.state import State

    if arguments.state is not None:
        return OneMachine(State(arguments.state))
    return Rehearsed(the_only_state(arguments.rehearsal))


def _chosen(site: "Site", names: list[str]) -> "list[Drill]":
    from trilith.cluster.drill.drills import DRILLS
    from trilith.cluster.drill.rehearsed import Rehearsed
    from trilith.cluster.state import Problem

    clustered = isinstance(site, Rehearsed)
    possible = [
        drill for drill in DRILLS.values() if (clustered or not drill.cluster) and not (drill.pings and site.fake)
    ]
    if impossible := set(names) - {drill.name for drill in possible}:
        why = "machines are pretended there" if clustered else "it needs a rehearsal: trilith rehearse up FILE"
        raise Problem(f"{', '.join(sorted(impossible))} cannot be done in {site.name}: {why}")
    return [drill for drill in possible if drill.name in names or not (names or drill.named)]
