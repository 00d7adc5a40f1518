"""From a meter's samples to what a failure cost: pure functions."""

import itertools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

Doc = dict[str, Any]
SLOW_S = 1.0  # a request that takes longer is part of the tail, or five times the usual, whichever is more
WINDOW_S = 3.0
WINDOW_SAMPLES = 3


@dataclass(frozen=True)
class Bar:
    """What a drill must hold; None: not asked. `outage_s`: first to last failed request, of the fault and of
    its mending. `failed`: requests that failed although the client tried once more. `added_s`: on the usual
    latency, in the worst three seconds; and of volumes, made one after the other, in the worst three. `slow_s`:
    how long after the fault requests are still slow. `ping_s`: the longest silence of a machine that is pinged.
    `io_s`: the longest that a machine's write took. `broken`: TCP connections to machines that were lost. `healed_s`:
    from the fault's end until everything is as before, without a hand."""

    outage_s: float | None = None
    failed: int | None = None
    added_s: float | None = None
    slow_s: float | None = None
    ping_s: float | None = None
    io_s: float | None = None
    broken: int | None = None
    healed_s: float = 120.0


@dataclass
class Figures:
    """What was measured; the names are the bar's. `retried`: went well at the second try. `usual_s`: median before.
    `stream_s`: the longest that a line on a TCP connection waited for its answer."""

    requests: int = 0
    outage_s: float = 0.0
    failed: int = 0
    retried: int = 0
    usual_s: float = 0.0
    added_s: float = 0.0
    slowest_s: float = 0.0
    slow_s: float = 0.0
    ping_s: float | None = None
    io_s: float | None = None
    broken: int | None = None
    stream_s: float | None = None
    lag_s: float = 0.0
    healed_s: float | None = None
    problems: dict[str, int] = field(default_factory=dict)


def figures(samples: list[Doc], rate: float, fault_at_s: float, mended_at_s: float | None = None) -> Figures:
    """`samples`: the meter's requests, `rate` a second, and pings; `fault_at_s`: when the fault came; `mended_at_s`:
    when what had been broken came back, which may hurt once more: the two outages are added, the longer tail counts."""
    requests = sorted((s for s in samples if "op" in s), key=lambda s: s["at_s"])
    plain = [s for s in requests if s["op"] not in ("work", "password")]
    after = [s for s in requests if s["at_s"] + s["took_s"] >= fault_at_s]
    usual_s = _usual_s(plain, fault_at_s)
    slow_over_s = max(SLOW_S, 5 * usual_s)
    late = [s["at_s"] + s["took_s"] for s in plain if s in after and s["took_s"] > slow_over_s]
    failed = [(at, at + took) for s in after for at, took, problem in s["tries"] if problem]
    second_s = math.inf if mended_at_s is None else mended_at_s

    def event_s(ended_s: float) -> float:
        """What was on its way when it was mended is of the mending."""
        return fault_at_s if ended_s < second_s else second_s

    outages: dict[float, list[float]] = {}
    for at, end in failed:
        outages.setdefault(event_s(end), []).append(at)
    problems: dict[str, int] = {}
    for problem in (tried[2] for s in after for tried in s["tries"] if tried[2]):
        problems[problem] = problems.get(problem, 0) + 1
    pings = [s for s in samples if "ping" in s]
    lines = [s for s in samples if "stream" in s]
    return Figures(
        requests=len(requests),
        outage_s=sum(_span(moments_s, 1 / rate) for moments_s in outages.values()),
        failed=sum(s["problem"] is not None for s in after),
        retried=sum(s["problem"] is None and len(s["tries"]) > 1 for s in after),
        usual_s=usual_s,
        added_s=max(
            _added_s(plain, fault_at_s),
            _added_in_a_row_s([s for s in requests if s["op"] == "work"], fault_at_s),
        ),
        slowest_s=max((s["took_s"] for s in plain if s in after), default=0.0),
        slow_s=max((at - event_s(at) for at in late), default=0.0),
        ping_s=max((_gap_s(pings, address) for address in _addresses(pings)), default=None),
        broken=sum(s["problem"] is not None for s in lines) if lines else None,
        stream_s=max((s["took_s"] for s in lines if s["took_s"] is not None), default=None),
        lag_s=max((s["lag_s"] for s in requests), default=0.0),
        problems=problems,
    )


def missed(found: Figures, bar: Bar) -> list[str]:
    """Which bars do not hold, as sentences."""
    wrong = []
    for name in WORDS:
        unit = "" if name in ("failed", "broken") else " s"
        asked, got = getattr(bar, name), getattr(found, name)
        if asked is not None and got is not None and got > asked:
            number = got if isinstance(got, int) else round(got, 2)
            wrong.append(f"{WORDS[name]} {number}{unit}, at most {asked:g}{unit}")
        if asked is not None and got is None and name in ALWAYS_MEASURED:
            wrong.append(f"{WORDS[name]}: nothing was measured")
    if found.healed_s is None or found.healed_s > bar.healed_s:
        took = "not" if found.healed_s is None else f"in {found.healed_s:.0f} s, not"
        wrong.append(f"healed {took} within {bar.healed_s:.0f} s")
    return wrong


WORDS = {
    "outage_s": "outage",
    "failed": "failed requests",
    "added_s": "added latency",
    "slow_s": "slow for",
    "ping_s": "no answer to pings for",
    "io_s": "a machine's write waited",
    "broken": "lost TCP connections",
}

ALWAYS_MEASURED = ("io_s", "broken")  # where there is a bar; pretended machines answer no pings


def _span(moments_s: list[float], each_s: float) -> float:
    """First to last; one alone lasts until the next would have come."""
    return max(moments_s) - min(moments_s) + each_s if moments_s else 0.0


def _added_s(samples: list[Doc], fault_at_s: float) -> float:
    """The worst window's median over the median before."""
    windows: dict[int, list[float]] = {}
    for s in samples:
        if s["at_s"] >= fault_at_s:
            windows.setdefault(int((s["at_s"] - fault_at_s) / WINDOW_S), []).append(s["took_s"])
    worst = [statistics.median(took) for took in windows.values() if len(took) >= WINDOW_SAMPLES]
    return max(0.0, max(worst, default=0.0) - _usual_s(samples, fault_at_s))


def _added_in_a_row_s(samples: list[Doc], fault_at_s: float) -> float:
    """The same for what comes one after the other and takes a second or so: the worst median of so many in a row."""
    took = [s["took_s"] for s in samples if s["at_s"] + s["took_s"] >= fault_at_s]
    rows = zip(*(took[start:] for start in range(WINDOW_SAMPLES)), strict=False)
    worst = max((statistics.median(row) for row in rows), default=0.0)
    return max(0.0, worst - _usual_s(samples, fault_at_s))


def _usual_s(samples: list[Doc], fault_at_s: float) -> float:
    before = [s["took_s"] for s in samples if s["at_s"] < fault_at_s]
    return statistics.median(before) if before else 0.0


def _addresses(pings: list[Doc]) -> set[str]:
    return {s["ping"] for s in pings}


def _gap_s(pings: list[Doc], address: str) -> float:
    """The longest time without an answer; the last may be one that has not ended."""
    sent = sorted((s["at_s"], s["took_s"] is not None) for s in pings if s["ping"] == address)
    moments = [at_s for at_s, answered in sent if answered] + [at_s for at_s, _ in sent[-1:]]
    return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0)
