"""A picture of the drills (SVG): a row for each, latency as a line, failures as marks, the fault as a band."""

from html import escape
from math import log10
from typing import Any

from trilith.cluster.drill.run import Outcome

Doc = dict[str, Any]
WIDTH, ROW, LEFT, RIGHT, TOP = 1000, 96, 190, 16, 34
PLOT, BASE = 64, 78  # of a row: height of the latency's scale, and where it is zero
TOP_S = 10.0  # latencies are drawn on a scale from a millisecond to this
STYLE = (
    "text{font:12px sans-serif;fill:#333}.small{font-size:10px;fill:#777}.fault{fill:#f7d7d7}.grid{stroke:#ddd}"
    ".latency{fill:none;stroke:#3b6ea5;stroke-width:1}.failed{stroke:#c62828;stroke-width:2}"
    ".retried{stroke:#ef9a1a;stroke-width:2}.ping{stroke:#7b1fa2;stroke-width:2}.held{fill:#2e7d32}.missed{fill:#c62828}"
)


def picture(outcomes: list[Outcome]) -> str:
    height = TOP + ROW * len(outcomes) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20">latency (log scale, 1 ms to 10 s), band: the fault; '
        "red: failed twice, orange: failed once, violet: ping lost</text>",
    ]
    for number, outcome in enumerate(outcomes):
        parts.append(f'<g transform="translate(0 {TOP + number * ROW})">{"".join(_row(outcome))}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _row(outcome: Outcome) -> list[str]:
    requests = [s for s in outcome.samples if "op" in s and s["op"] not in ("work", "password")]
    moments = [s["at_s"] for s in outcome.samples] or [outcome.fault_at_s]
    begin_s, end_s = min(moments), max([*moments, outcome.fault_ended_s, min(moments) + 1])

    def x(moment_s: float) -> float:
        return round(float(LEFT + (moment_s - begin_s) / (end_s - begin_s) * (WIDTH - LEFT - RIGHT)), 1)

    figures, verdict = outcome.figures, "held" if outcome.passed else "missed"
    band = max(2.0, x(outcome.fault_ended_s) - x(outcome.fault_at_s))
    parts = [
        f'<text x="8" y="24">{escape(outcome.drill)}</text>',
        f'<text x="8" y="40" class="small">outage {figures.outage_s:.2f} s, {figures.failed} failed</text>',
        f'<text x="8" y="56" class="{verdict}">{verdict}</text>',
        f'<rect x="{x(outcome.fault_at_s)}" y="{BASE - PLOT}" width="{band:.1f}" height="{PLOT}" class="fault"/>',
        f'<line x1="{LEFT}" y1="{BASE}" x2="{WIDTH - RIGHT}" y2="{BASE}" class="grid"/>',
    ]
    points = " ".join(f"{x(s['at_s'])},{_height(s['took_s'])}" for s in sorted(requests, key=_at))
    parts.append(f'<polyline points="{points}" class="latency"/>')
    for sample in sorted((s for s in outcome.samples if "op" in s), key=_at):
        if any(tried[2] for tried in sample["tries"]):
            kind = "failed" if sample["problem"] else "retried"
            parts.append(
                f'<line x1="{x(_at(sample))}" x2="{x(_at(sample))}" y1="{BASE}" y2="{BASE - 9}" class="{kind}"/>'
            )
    for sample in outcome.samples:
        if "ping" in sample and sample["took_s"] is None:
            parts.append(
                f'<line x1="{x(_at(sample))}" x2="{x(_at(sample))}" y1="{BASE + 2}" y2="{BASE + 8}" class="ping"/>'
            )
    seconds = range(0, int(end_s - begin_s) + 1, max(5, int((end_s - begin_s) / 10 / 5) * 5))
    parts += [f'<text x="{x(begin_s + at)}" y="{BASE + 14}" class="small">{at} s</text>' for at in seconds]
    return parts


def _at(sample: Doc) -> float:
    return float(sample["at_s"])


def _height(took_s: float) -> str:
    scaled: float = (log10(min(max(took_s, 0.001), TOP_S)) + 3) / (log10(TOP_S) + 3)
    return f"{BASE - scaled * PLOT:.1f}"
