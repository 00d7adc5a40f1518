"""The drill measures what it says it measures, and a cloud on one machine loses nothing when an API process dies."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.crash.cloud import Cloud
from trilith.cluster.drill import report, timeline
from trilith.cluster.drill.drills import DRILLS
from trilith.cluster.drill.measure import Bar, Figures, figures, missed
from trilith.cluster.drill.run import RATE, Outcome

FAULT_S = 100.0


def request(at_s: float, took_s: float = 0.02, fails: int = 0, op: str = "servers") -> dict[str, Any]:
    """`fails`: how many of its tries failed."""
    tries = [[at_s + number, 0.01, "503"] for number in range(fails)]
    tries += [[at_s + fails, took_s, None]] if fails < 2 else []
    problem = "503" if fails == 2 else None
    return {"op": op, "at_s": at_s, "took_s": took_s + fails, "tries": tries, "problem": problem, "lag_s": 0.001}


def usual(until_s: float = FAULT_S + 20) -> list[dict[str, Any]]:
    return [request(90 + n / 20) for n in range(int((until_s - 90) * 20))]


def test_nothing_happened() -> None:
    found = figures(usual(), RATE, FAULT_S)
    assert (found.outage_s, found.failed, found.retried, found.slow_s) == (0, 0, 0, 0)
    assert found.usual_s == pytest.approx(0.02)
    found.healed_s = 1.0
    assert missed(found, Bar(outage_s=0, failed=0, added_s=0.1, slow_s=0)) == []


def test_an_outage_is_from_the_first_to_the_last_failed_try() -> None:
    samples = [*usual(), request(101.0, fails=1), request(102.0, fails=2), request(103.5, fails=2)]
    found = figures(samples, RATE, FAULT_S)
    assert found.outage_s == pytest.approx(3.5 + 0.05)
    assert (found.failed, found.retried) == (2, 1)
    found.healed_s = None
    wrong = missed(found, Bar(outage_s=3, failed=0))
    assert wrong == ["outage 3.55 s, at most 3 s", "failed requests 2, at most 0", "healed not within 120 s"]


def test_what_comes_back_may_hurt_once_more() -> None:
    samples = [*usual(), request(101.0, fails=1), request(103.0, fails=1), request(110.0, fails=1)]
    assert figures(samples, RATE, FAULT_S).outage_s == pytest.approx(9.05)
    assert figures(samples, RATE, FAULT_S, mended_at_s=109.0).outage_s == pytest.approx(2.05 + 0.05)
    slow = [*usual(), request(101.0, took_s=3), request(110.0, took_s=2)]
    assert figures(slow, RATE, FAULT_S, mended_at_s=109.0).slow_s == pytest.approx(4)


def test_what_failed_before_the_fault_does_not_count() -> None:
    assert figures([*usual(), request(95.0, fails=2)], RATE, FAULT_S).failed == 0


def test_slow_requests_are_a_tail_and_added_latency() -> None:
    slow = [request(105 + n / 20, took_s=2.0) for n in range(60)]
    found = figures([*usual(104.9), *slow], RATE, FAULT_S)
    assert found.outage_s == 0
    assert found.slow_s == pytest.approx(5 + 59 / 20 + 2)
    assert found.added_s == pytest.approx(1.98)


def test_lost_pings() -> None:
    pings = [{"ping": "10.0.0.1", "at_s": 99 + n / 10, "took_s": None if 12 <= n < 30 else 0.01} for n in range(60)]
    found = figures([*usual(), *pings], RATE, FAULT_S)
    assert found.ping_s == pytest.approx(1.9)


def test_pings_that_are_never_answered_again_count_until_the_last() -> None:
    pings = [{"ping": "10.0.0.1", "at_s": 99 + n / 10, "took_s": None if n >= 12 else 0.01} for n in range(60)]
    assert figures([*usual(), *pings], RATE, FAULT_S).ping_s == pytest.approx(4.8)


def test_what_has_a_bar_and_was_not_measured_does_not_hold() -> None:
    assert missed(Figures(healed_s=1.0), Bar(broken=0)) == ["lost TCP connections: nothing was measured"]
    assert missed(Figures(healed_s=1.0, broken=1), Bar(broken=0)) == ["lost TCP connections 1, at most 0"]
    assert missed(Figures(healed_s=1.0, broken=0), Bar(broken=0)) == []


def test_every_drill_has_a_bar_and_a_picture() -> None:
    assert all(drill.bar.healed_s for drill in DRILLS.values())
    outcome = Outcome("x", "y", dict(outage_s=3.0, failed=None, ping_s=None, io_s=None), "z", FAULT_S, FAULT_S + 5)
    outcome.samples = [*usual(), request(101, fails=2), {"ping": "a", "at_s": 101.0, "took_s": None}]
    outcome.figures = figures(outcome.samples, RATE, FAULT_S)
    assert timeline.picture([outcome]).count('class="failed"') == 1
    assert "x  " in report.as_text([outcome])


def test_an_api_process_and_the_object_store_die(tmp_path: Path, short_dir: Path) -> None:
    cloud, picture = Cloud(short_dir), tmp_path / "drill.svg"
    try:
        cloud.up()
        done = cloud.run("drill", "api-process", "--json", "--svg", str(picture))
        assert done.stdout, done.stderr
        outcome = json.loads(done.stdout)[0]
        assert done.returncode == 0, [outcome[name] for name in ("wrong", "stuck", "leaked", "lost")]
        assert outcome["figures"]["requests"] > 100
        assert outcome["broke"].startswith("API worker")
        assert picture.read_text().startswith("<svg")
        done = cloud.run("drill", "object-process", "--json")
        outcome = json.loads(done.stdout)[0]
        assert done.returncode == 0, [outcome[name] for name in ("wrong", "stuck", "leaked", "lost")]
        assert outcome["load"]["objects"] > 20
        assert "cannot be done" in cloud.run("drill", "everything").stderr
    finally:
        cloud.down()
