"""`trilith drill` beside Tempest: what it broke, when, and which tests that may have hit."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.clients.cloud import ROOT
from tests.clients.outcomes import Outcome

Doc = dict[str, Any]


class Damage(NamedTuple):
    """`broke`: what; "" where the drill could not be done. `begun`, `ended`: from the fault until all was well, seconds
    since 1970."""

    drill: str
    broke: str
    verdict: str
    begun: float
    ended: float

    def __str__(self) -> str:
        return f"{self.drill} ({self.broke or 'nothing'}), {self.ended - self.begun:.0f} s: {self.verdict}"


class Drills:
    """Runs drills, once each, one after the other, from now on. `where`: words of `trilith drill`."""

    def __init__(self, where: Iterable[str], names: Iterable[str]) -> None:
        words = ["drill", *names, *where, "--shared", "--json"]
        command = [sys.executable, "-m", "trilith.cli.main", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def end(self) -> list[Damage]:
        """Waits for the last, after which the cluster is whole again; [] where they could not be done at all."""
        said, _ = self._process.communicate()
        return damages(json.loads(said), time.time() - time.monotonic()) if said else []


def damages(told: list[Doc], clock_began: float) -> list[Damage]:
    """Of the drills' JSON. `clock_began`: when the clock that they tell read 0, in seconds since 1970."""
    found = []
    for each in told:
        wrong = [*each["wrong"], *each["stuck"], *each["leaked"], *each["lost"]]
        verdict = "held" if each["passed"] else f"MISSED: {'; '.join(wrong)}"
        ended = each["fault_ended_s"] + (each["figures"]["healed_s"] or 0.0)
        times = (clock_began + at for at in (each["fault_at_s"], ended))
        found.append(Damage(each["drill"], each["broke"], verdict, *times))
    return found


def hit_by(outcome: Outcome, damages: list[Damage]) -> str:
    """The drill whose damage the test met, or "". A class that was not set up tells only when it gave up."""
    begun, ended = outcome.begun or outcome.ended, outcome.ended
    if begun is None or ended is None:
        return ""
    return ", ".join(each.drill for each in damages if begun <= each.ended and ended >= each.begun)
