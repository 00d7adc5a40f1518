"""What the drills found, for people and for programs."""

import json
import statistics
from dataclasses import asdict
from typing import Any

from trilith.cluster.drill.run import Outcome
from trilith.cluster.status import table

HEAD = ("drill", "outage", "bar", "failed", "retried", "added", "slow for", "pings", "lost", "healed in", "verdict")
MOST_REASONS = 12


def as_text(outcomes: list[Outcome]) -> str:
    lines = table(HEAD, [_row(outcome) for outcome in outcomes])
    lines += ["", "outage: first to last failed request, without a retry. failed: also at the one retry. "]
    lines += ["added: to the usual latency, in the worst 3 s. slow for: until no request was slow any more."]
    for outcome in outcomes:
        if why := reasons(outcome):
            lines += ["", f"{outcome.drill} ({outcome.broke}):", *why]
    for outcome in outcomes:
        lines += [*_moves(outcome), *_objects(outcome)]
    late_s = max((outcome.figures.lag_s for outcome in outcomes), default=0.0)
    lines += ["", f"The measuring client was late by {late_s * 1000:.0f} ms at most."]
    return "\n".join(lines)


def as_json(outcomes: list[Outcome], samples: bool = False) -> str:
    """`samples`: with every request and ping."""
    return json.dumps([_document(outcome, samples) for outcome in outcomes], indent=2)


def one_line(outcome: Outcome) -> str:
    figures = outcome.figures
    healed = "not healed" if figures.healed_s is None else f"healed in {figures.healed_s:.1f} s"
    return (
        f"{outcome.drill}: {'held' if outcome.passed else 'MISSED'}; outage {figures.outage_s:.2f} s, "
        f"{figures.failed} failed, {figures.retried} retried, {healed}"
    )


def reasons(outcome: Outcome) -> list[str]:
    """Why it did not hold."""
    said = [*outcome.wrong, *outcome.stuck, *outcome.leaked, *outcome.lost]
    more = [f"  and {len(said) - MOST_REASONS} more; all of them: --json"] if len(said) > MOST_REASONS else []
    return [f"  {words[:220]}" for words in said[:MOST_REASONS]] + more


def _moves(outcome: Outcome) -> list[str]:
    """What live migrations cost; [] where there were none."""
    down = [move["downtime_s"] for move in outcome.moves if move["downtime_s"] is not None]
    if not outcome.moves:
        return []
    took = [move["ended_s"] - move["begun_s"] for move in outcome.moves]
    silence = f"; silent for {statistics.median(down):.1f} s, at most {max(down):.1f} s" if down else ""
    figures = outcome.figures
    lost = "" if figures.broken is None else f"; {figures.broken} TCP connections lost"
    waited = "" if figures.stream_s is None else f", a line waited {figures.stream_s:.1f} s at most"
    said = f"{outcome.broke}: each took {statistics.median(took):.1f} s, at most {max(took):.1f} s"
    return ["", f"{outcome.drill}: {said}{silence}{lost}{waited}."]


def _objects(outcome: Outcome) -> list[str]:
    """How many were written; [] where nobody did."""
    if "objects" not in outcome.load:
        return []
    count, waited_s = outcome.load["objects"], outcome.load["objects_waited_s"]
    return ["", f"{outcome.drill}: {count} objects were acknowledged; the slowest request took {waited_s:.1f} s."]


def _row(outcome: Outcome) -> tuple[str, ...]:
    figures, bar = outcome.figures, outcome.bar
    return (
        outcome.drill,
        f"{figures.outage_s:.2f} s",
        _bar(bar),
        str(figures.failed),
        str(figures.retried),
        f"{figures.added_s:.2f} s",
        f"{figures.slow_s:.1f} s",
        "-" if figures.ping_s is None else f"{figures.ping_s:.1f} s",
        str(len(outcome.lost)),
        "not" if figures.healed_s is None else f"{figures.healed_s:.0f} s",
        "held" if outcome.passed else "MISSED",
    )


def _bar(bar: dict[str, Any]) -> str:
    if bar["io_s"] is not None:
        return f"writes {bar['io_s']:g} s"
    if bar["ping_s"] is not None:
        return f"pings {bar['ping_s']:g} s"
    if bar["outage_s"] is not None:
        return f"{bar['outage_s']:g} s"
    return "0 failed" if bar["failed"] == 0 else "0 lost"


def _document(outcome: Outcome, samples: bool) -> dict[str, Any]:
    document = asdict(outcome) | {"passed": outcome.passed}
    if not samples:
        document.pop("samples")
    return document
