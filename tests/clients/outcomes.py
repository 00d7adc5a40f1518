"""What came of a run of Tempest: of each test that was wanted, counted, as a table and as a document."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

STATES = ("passed", "failed", "skipped", "not run")
STATE_OF = {"success": "passed", "xfail": "passed", "skip": "skipped"}  # anything else failed
READER = Path(__file__).with_name("subunit_lines.py")
SHORT = 3  # names of tests that were skipped for one reason
Doc = dict[str, Any]


class Outcome(NamedTuple):
    """`state`: one of STATES. `begun`, `ended`: seconds since 1970, or None."""

    state: str
    reason: str = ""
    begun: float | None = None
    ended: float | None = None


def last_run(workspace: Path, programs: Path, env: dict[str, str]) -> dict[str, Outcome]:
    """By the test's name, as stestr recorded the newest run; also ``setUpClass (CLASS)`` where that said something."""
    stestr = subprocess.Popen(
        [programs / "stestr", "last", "--subunit"], stdout=subprocess.PIPE, cwd=workspace, env=env
    )
    done = subprocess.run([programs / "python", READER], stdin=stestr.stdout, capture_output=True, text=True)
    assert (stestr.wait(), done.returncode) == (0, 0), done.stderr[-2000:]
    return read(done.stdout.splitlines())


def read(lines: Iterable[str]) -> dict[str, Outcome]:
    """The reader's lines. A test that is told of twice failed if it failed once."""
    found: dict[str, Outcome] = {}
    for line in lines:
        told = json.loads(line)
        name = bare(told["id"])
        outcome = Outcome(STATE_OF.get(told["status"], "failed"), told["reason"], told["begun"], told["ended"])
        if name not in found or found[name].state != "failed":
            found[name] = outcome
    return found


def bare(test: str) -> str:
    """Without its tags: ``a.B.test_c[id-1,smoke]``."""
    return test.partition("[")[0]


def of(wanted: Iterable[str], seen: dict[str, Outcome]) -> dict[str, Outcome]:
    """Of each wanted test. One whose class was not set up has what came of that."""
    found = {}
    for name in wanted:
        of_class = seen.get(f"setUpClass ({name.rpartition('.')[0]})", Outcome("not run"))
        found[name] = seen.get(name, of_class)
    return found


def to_repeat(outcomes: dict[str, Outcome], seen: dict[str, Outcome]) -> list[str]:
    """What failed or did not run; of a class that could not be taken down, every test."""
    broken = {name.partition("(")[2].rstrip(")") for name in torn(seen)}
    return [n for n, o in outcomes.items() if o.state in ("failed", "not run") or n.rpartition(".")[0] in broken]


def torn(seen: dict[str, Outcome]) -> list[str]:
    """``tearDownClass (CLASS)`` of each class that could not be taken down: no test of it says so."""
    return [name for name, outcome in seen.items() if name.startswith("tearDown") and outcome.state == "failed"]


def area(name: str) -> str:
    """``compute`` for tempest.api.compute…, ``scenario`` for tempest.scenario…"""
    words = name.removeprefix("tempest.").removeprefix("serial_tests.").split(".")
    return words[1] if words[0] == "api" else words[0]


def counts(outcomes: dict[str, Outcome], left_out: Iterable[str] = ()) -> dict[str, Counter[str]]:
    """By area, and of all: `tests`, and how many are in each state or were left out."""
    found: dict[str, Counter[str]] = {}
    states = [(name, outcome.state) for name, outcome in outcomes.items()] + [(name, "left out") for name in left_out]
    for name, state in states:
        for where in (area(name), "all"):
            found.setdefault(where, Counter()).update(("tests", state))
    return {name: found[name] for name in [*sorted(found.keys() - {"all"}), *(["all"] if found else [])]}


def document(what: str, outcomes: dict[str, Outcome], seen: dict[str, Outcome], left_out: Iterable[str] = ()) -> Doc:
    """For programs, and for the ledger: `areas`, `failed` and `not run` with reasons, `skipped` by reason."""
    columns = ("tests", *STATES, *(["left out"] if left_out else []))
    areas = {name: {column: count[column] for column in columns} for name, count in counts(outcomes, left_out).items()}
    skipped: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome.state == "skipped":
            skipped.setdefault(outcome.reason, []).append(name)
    failed = {name: outcome.reason for name, outcome in outcomes.items() if outcome.state == "failed"}
    failed |= {name: seen[name].reason for name in torn(seen)}
    not_run = [name for name, outcome in outcomes.items() if outcome.state == "not run"]
    return {"set": what, "areas": areas, "failed": failed, "not run": not_run, "skipped": skipped}


def table(found: Doc, most: int = SHORT) -> Iterator[str]:
    """A document, for people. `most`: names that each reason for being skipped has."""
    columns = list(found["areas"].get("all", ()))
    width = max(12, *(len(name) + 2 for name in found["areas"]))
    yield f"{found['set']:{width}}" + "".join(f"{column:>10}" for column in columns)
    for name, count in found["areas"].items():
        yield f"{name:{width}}" + "".join(f"{count[column]:10}" for column in columns)
    for reason, names in sorted(found["skipped"].items(), key=lambda pair: -len(pair[1])):
        more = [f"and {len(names) - most} more"] if len(names) > most else []
        yield "\n    ".join([f"skipped: {reason}", *names[:most], *more])
    for name, reason in found["failed"].items():
        yield f"failed: {name}\n    {reason}"
    for name in found["not run"]:
        yield f"not run: {name}"
