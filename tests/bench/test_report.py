"""The page says what was measured, where, and which parts were not; ratios follow from medians."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import plot
from tests.bench.objects import CASES
from tests.bench.report import cpu_rows, object_rate_rows, write_page
from tests.bench.results import Machine, Results, Sample, Spread, short


def results() -> Results:
    machine = Machine("2026-01-02 03:04 UTC", 2, "a processor", 24, "an OS", "6.1", "3.11", {"trilith": "0.1"})
    found = Results(machine, {"worker processes": "2"})
    for side, costs in {"upstream": (10.0, 90.0, 30.0), "trilith-sqlite": (0.5, 0.3, 0.4), "bare": (0.2,)}.items():
        for cpu_ms in costs:
            sample = Sample("server", side, 1, 100, 0, cpu_ms, 50.0, 20.0, 30.0, 1000, 3.0)
            found.samples.append(sample)
    found.fact("start to ready", "upstream", 30.0, "s")
    found.fact("start to ready", "trilith-sqlite", 2.0, "s")
    return found


def test_ratios_follow_from_medians() -> None:
    head, rows = cpu_rows(results())
    row = dict(zip(head, rows[0], strict=True))
    assert row["upstream"] == "30.0 (10.0 to 90.0)"
    assert (row["upstream / SQLite"], row["bar"], row["SQLite / bare"]) == ("75.0x", "80x", "2.00x")


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    assert "make bench PART=compare" in text
    assert "not run yet" in text


def test_the_page_says_where_and_when(tmp_path: Path) -> None:
    results().write(tmp_path / "benchmarks/compare.json")
    text = write_page(tmp_path).read_text()
    assert "2026-01-02 03:04 UTC. 2 cores (a processor), 24 GiB" in text
    assert "trilith 0.1" in text
    assert "| start to ready | s | 30.0 | 2.00 | 15.0x |" in text
    ElementTree.parse(tmp_path / "benchmarks/ratios.svg")


def of_objects() -> Results:
    found = Results(results().machine)
    for side, rate in (("upstream", 50.0), ("trilith-sqlite", 900.0)):
        for case in CASES:
            found.samples += [Sample(case.key, side, n, 100, 0, 500 / rate, rate, 1.0, 2.0, 4096, 3.0) for n in (1, 8)]
        found.fact("100 MiB up: speed", side, rate, "MiB/s")
    return found


def test_objects_have_rates_beside_swifts(tmp_path: Path) -> None:
    head, rows = object_rate_rows(of_objects())
    assert [row[:2] for row in rows] == [[case.title, clients] for case in CASES for clients in ("1", "8")]
    assert dict(zip(head, rows[0], strict=True))["SQLite / upstream, bar 10x"] == "18.0x"
    of_objects().write(tmp_path / "benchmarks/objects.json")
    text = write_page(tmp_path).read_text()
    assert "## Objects beside Swift" in text
    assert "| GET 4 KiB | 10.0 (10.0 to 10.0) | 0.56 (0.56 to 0.56) | 18.0x | 10x |" in text
    assert "| 100 MiB up: speed | MiB/s | 50.0 | 900 | 0.06x |" in text


def test_without_swift_there_is_nothing_to_compare() -> None:
    alone = of_objects()
    alone.samples = [each for each in alone.samples if each.side != "upstream"]
    alone.facts = [each for each in alone.facts if each.side != "upstream"]
    head, rows = object_rate_rows(alone)
    assert {len(row) for row in rows} == {len(head)} == {4}


def test_results_survive_being_written(tmp_path: Path) -> None:
    results().write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json") == results()


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([]) is None


@pytest.mark.parametrize(("value", "words"), [(0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")])
def test_numbers_have_the_digits_that_say_something(value: float, words: str) -> None:
    assert short(value) == words


def test_lines_lie_within_their_axes() -> None:
    drawn = plot.lines("costs", "hosts", "ms", {"list": [(10, 1.0), (10_000, 5.0)], "nothing": [(10, 0.0)]})
    circles = ElementTree.fromstring(drawn).findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2
    for circle in circles:
        assert plot.LEFT <= float(circle.attrib["cx"]) <= plot.WIDTH - plot.RIGHT
        assert plot.TOP <= float(circle.attrib["cy"]) <= plot.HEIGHT - plot.BOTTOM


def test_nothing_is_no_plot() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.lines("costs", "hosts", "ms", {})
