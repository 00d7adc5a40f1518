"""The table says which figures are over their bars, and what else the machine did meanwhile."""

import json

from tests.bench.figures import Figure, as_json, as_text
from tests.bench.meter import Span


def figure(*values: float, other_percent: float = 0.0) -> Figure:
    found = Figure("trilith up", "s", bar=3.0)
    for value in values:
        found.add(value, Span(wall_s=value, cpu_s=1.5, other_percent=other_percent))
    return found


def test_a_median_within_its_bar_is_ok() -> None:
    assert not figure(2.0, 9.0, 2.5).over
    assert "OVER" not in as_text([figure(2.0, 9.0, 2.5)])


def test_a_median_over_its_bar_is_said_last() -> None:
    last = as_text([figure(4.0), figure(2.0)]).splitlines()[-1]
    assert last == "OVER ITS BAR  trilith up: 4.00 s, the bar is 3."


def test_a_busy_machine_is_said_with_it() -> None:
    assert as_text([figure(4.0, other_percent=50.0)]).endswith(
        "Others used 50 % of the machine: measure again when it is quiet."
    )


def test_json_holds_every_value() -> None:
    found = json.loads(as_json([figure(2.0, 4.0, 3.5)]))["figures"][0]
    assert (found["n"], found["median"], found["values"], found["over_bar"]) == (3, 3.5, [2.0, 4.0, 3.5], True)
