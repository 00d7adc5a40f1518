"""What is said of a run of Tempest is what stestr recorded; a required test that did not pass is never overlooked."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clients import drilled, outcomes, tempest
from tests.clients.outcomes import Outcome

TESTS = """
import unittest

class Works(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): raise ValueError("two lines:\\nthe second")
    def test_is_skipped(self): self.skipTest("no reason")

class Skipped(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("no service")
    def test_one(self): pass

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no cloud")
    def test_one(self): pass

class Torn(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise OSError("still in use")
    def test_one(self): pass
"""
ALL = [f"samples.test_it.{test}" for test in ("Broken.test_one", "Skipped.test_one", "Torn.test_one")]
ALL += [f"samples.test_it.Works.test_{what}" for what in ("fails", "is_skipped", "passes")]
GONE = "samples.test_it.Works.test_gone"


def test_a_recorded_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/__init__.py").touch()
    (tmp_path / "samples/test_it.py").write_text(TESTS)
    (tmp_path / ".stestr.conf").write_text("[DEFAULT]\ntest_path=./samples\ntop_dir=./\n")
    env = {**os.environ, "PATH": f"{tempest.BIN}:{os.environ['PATH']}"}
    done = subprocess.run([tempest.BIN / "stestr", "run"], capture_output=True, cwd=tmp_path, env=env)
    assert done.returncode == 1, done.stderr
    seen = outcomes.last_run(tmp_path, tempest.BIN, env)
    found = outcomes.of([*ALL, GONE], seen)
    assert {name.rpartition("it.")[2]: outcome[:2] for name, outcome in found.items()} == {
        "Broken.test_one": ("failed", "OSError: no cloud"),
        "Skipped.test_one": ("skipped", "no service"),
        "Torn.test_one": ("passed", ""),
        "Works.test_fails": ("failed", "ValueError: two lines: the second"),
        "Works.test_is_skipped": ("skipped", "no reason"),
        "Works.test_passes": ("passed", ""),
        "Works.test_gone": ("not run", ""),
    }
    times = found["samples.test_it.Works.test_passes"]
    assert (times.begun or 0.0) <= (times.ended or 0.0)
    assert outcomes.to_repeat(found, seen) == [ALL[0], ALL[2], ALL[3], GONE]
    told = outcomes.document("these", found, seen)
    assert told["areas"]["all"] == {"tests": 7, "passed": 2, "failed": 2, "skipped": 2, "not run": 1}
    assert told["failed"]["tearDownClass (samples.test_it.Torn)"] == "OSError: still in use"
    assert f"not run: {GONE}" in list(outcomes.table(told))


def test_a_test_that_failed_once_failed() -> None:
    line = {"id": "a.B.test_c[id-1]", "reason": "", "begun": 1.0, "ended": 2.0}
    for told in (["fail", "success"], ["success", "fail"]):
        seen = outcomes.read(json.dumps(line | {"status": status}) for status in told)
        assert seen["a.B.test_c"].state == "failed"


def test_areas() -> None:
    names = ("tempest.api.compute.a.B.c", "tempest.serial_tests.api.compute.a.B.c", "tempest.scenario.a.B.c")
    assert [outcomes.area(name) for name in names] == ["compute", "compute", "scenario"]
    counted = outcomes.counts({names[0]: Outcome("passed")}, left_out=[names[1]])
    assert counted["compute"] == counted["all"] == {"tests": 2, "passed": 1, "left out": 1}


def test_all_that_is_required_is_required_once() -> None:
    assert len(tempest.required("interop")) == 283
    parts = [set(tempest.required(f"interop-{part}")) for part in ("compute", "storage")]
    assert parts[0] | parts[1] == set(tempest.required("interop"))
    assert tempest.required("smoke") == []


class Played:
    """Tempest, whose runs end as they are told to: the outcome of each test that does not pass, run by run."""

    def __init__(self, workspace: Path, names: list[str], *runs: dict[str, str]) -> None:
        self.cloud, self.workspace = SimpleNamespace(fake=True), workspace
        self.names, self.runs, self.included = names, list(runs), [""]

    def listed(self, words: list[str]) -> list[str]:
        return self.names

    def run(self, words: list[str]) -> tuple[int, dict[str, Outcome]]:
        wrong = self.runs.pop(0)
        if "--include-list" in words:
            self.included = (self.workspace / "included.txt").read_text().splitlines()
        seen = {name: Outcome(wrong.get(name, "passed"), "why", 10.0, 20.0) for name in self.names}
        return int("failed" in wrong.values()), {name: it for name, it in seen.items() if it.state != "not run"}


class Breaks:
    """Drills that did this."""

    def __init__(self, *damages: drilled.Damage) -> None:
        self.damages = list(damages)

    def end(self) -> list[drilled.Damage]:
        return self.damages


def run(played: Played, what: str, breaks: Breaks | None = None) -> tuple[bool, dict[str, Any]]:
    begin: Any = None if breaks is None else lambda: breaks
    tempest_played: Any = played
    return tempest.run_set(tempest_played, what, begin)


@pytest.mark.parametrize("state", ["failed", "skipped", "not run"])
def test_a_required_test_has_to_pass(tmp_path: Path, state: str) -> None:
    names = tempest.required("interop-storage")
    good, told = run(Played(tmp_path, names, {}), "interop-storage")
    assert (good, told["areas"]["all"]["passed"]) == (True, len(names))
    good, told = run(Played(tmp_path, names, {names[5]: state}), "interop-storage")
    assert (good, told["areas"]["all"][state]) == (False, 1)


def test_others_may_be_skipped_or_left_out(tmp_path: Path) -> None:
    names = ["tempest.api.x.A.test_1", "tempest.api.x.A.test_2", "tempest.api.x.A." + tempest.NEEDS_LOGIN[0]]
    good, told = run(Played(tmp_path, names, {names[0]: "skipped"}), "x")
    counted = dict(tests=3, passed=1, failed=0, skipped=1) | {"not run": 0, "left out": 1}
    assert (good, told["areas"]["x"]) == (True, counted)
    assert not run(Played(tmp_path, names, {names[0]: "failed"}), "x")[0]


def test_what_fails_beside_a_drill_runs_again(tmp_path: Path) -> None:
    names = ["tempest.api.x.A.test_1", "tempest.api.x.A.test_2"]
    hit = drilled.Damage("api-process", "the API of c1", "held", 15.0, 16.0)
    late = drilled.Damage("database-writer", "MariaDB of c1", "held", 30.0, 32.0)
    played = Played(tmp_path, names, {names[1]: "failed"}, {})
    good, told = run(played, "x", Breaks(hit, late))
    assert (good, told["beside"]) == (True, {names[1]: "api-process"})
    assert told["again"]["areas"]["all"]["passed"] == 1
    assert played.included == [tempest.exactly([names[1]])]
    good, told = run(Played(tmp_path, names, {names[1]: "failed"}, {}), "x", Breaks(late))
    assert (good, told["beside"]) == (True, {names[1]: ""})
    failing = {names[1]: "failed"}
    assert not run(Played(tmp_path, names, failing, failing), "x", Breaks(hit))[0]
    assert not run(Played(tmp_path, names, {}), "x", Breaks(hit._replace(broke="")))[0]
    assert not run(Played(tmp_path, names, {}), "x", Breaks())[0]


def test_when_a_drill_did_its_damage() -> None:
    said = dict(drill="api-process", broke="the API of c1", passed=False, fault_at_s=5.0, fault_ended_s=6.0)
    said |= dict(figures={"healed_s": 3.0}, wrong=["outage 9 s, at most 5 s"], stuck=[], leaked=[], lost=[])
    [damage] = drilled.damages([said], clock_began=1000.0)
    assert (damage.begun, damage.ended, damage.verdict) == (1005.0, 1009.0, "MISSED: outage 9 s, at most 5 s")
    met = [
        drilled.hit_by(Outcome("failed", "", *times), [damage]) for times in ((1000, 1006), (None, 1008), (1010, 1011))
    ]
    assert met == ["api-process", "api-process", ""]
