"""What is measured, against which bar; as a table."""

import json
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.meter import CORES, Span
from trilith import __version__
from trilith.cluster.status import table

BUSY_PERCENT = 10  # used by others: from here on a wall time says little


@dataclass
class Figure:
    """One row. `bar`: the median must stay below."""

    name: str
    unit: str
    bar: float | None = None
    values: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    other_percent: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, value: float, span: Span) -> None:
        self.values.append(value)
        self.cpu_s.append(span.cpu_s)
        self.other_percent.append(span.other_percent)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def over(self) -> bool:
        return self.bar is not None and self.median > self.bar

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.values),
            "median": round(self.median, 3),
            "values": [round(value, 3) for value in self.values],
            "bar": self.bar,
            "over_bar": self.over,
            "cpu_s": round(statistics.median(self.cpu_s), 3),
            "other_percent": round(statistics.median(self.other_percent), 1),
            "note": self.note,
        }

    def cells(self) -> tuple[Any, ...]:
        bar = "-" if self.bar is None else f"{self.bar:g}"
        return (
            self.name,
            self.unit,
            len(self.values),
            _short(self.median),
            f"{_short(min(self.values))}..{_short(max(self.values))}",
            bar,
            "OVER" if self.over else "ok" if self.bar is not None else "-",
            f"{statistics.median(self.cpu_s):.2f}",
            f"{statistics.median(self.other_percent):.0f}",
        )


HEAD = ("figure", "unit", "n", "median", "range", "bar", "", "CPU s", "other %")


def as_text(figures: list[Figure]) -> str:
    lines = [f"Trilith {__version__}, Python {platform.python_version()}, {CORES} cores, {time.strftime('%F %T')}", ""]
    lines += table(HEAD, [figure.cells() for figure in figures])
    lines += [f"{figure.name}: {figure.note}" for figure in figures if figure.note]
    lines += [
        "",
        "CPU s: of the cloud's processes, machines not counted, in one measurement.",
        "other %: of all cores, what the rest of the machine used meanwhile; wall times grow with it.",
    ]
    return "\n".join([*lines, *(_late(figure) for figure in figures if figure.over)])


def _late(figure: Figure) -> str:
    line = f"OVER ITS BAR  {figure.name}: {_short(figure.median)} {figure.unit}, the bar is {figure.bar:g}."
    busy = statistics.median(figure.other_percent)
    if busy >= BUSY_PERCENT:
        line += f" Others used {busy:.0f} % of the machine: measure again when it is quiet."
    return line


def as_json(figures: list[Figure]) -> str:
    machine = {"version": __version__, "python": platform.python_version(), "cores": CORES}
    return json.dumps(machine | {"figures": [f.document() for f in figures]}, indent=2)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
