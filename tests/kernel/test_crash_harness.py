"""The crash harness finds what it is for: acts that cannot be repeated, cut short, or undone."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from trilith.kernel.reconcile import Act
from trilith.kernel.testing import converges

Doc = dict[str, Any]
WANT: Doc = {"id": "lamp", "generation": 1, "present": True}


@dataclass
class Lamp:
    """A lamp: screwed in, lit; put out, taken away. `flaw` says what is wrong with this one."""

    world: dict[str, str]
    flaw: str = ""
    kind: str = field(default="lamp")

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if want["present"]:
            return [] if seen is not None and seen.get("state") == "lit" else [Act("screw"), Act("light")]
        return [] if seen is None else [Act("remove")]

    def observe(self, key: str) -> Doc | None:
        return {"state": self.world[key]} if key in self.world else None

    def known(self) -> set[str]:
        return set(self.world) - {"glass"}

    def perform(self, key: str, act: Act) -> None:
        if act.do == "screw":
            if self.flaw == "cannot be repeated" and key in self.world:
                raise AssertionError("screwed in already")
            self.world[key] = "dark"
        elif act.do == "light":
            self.world[key] = "lit"
        else:
            self.world.pop(key, None)
            if self.flaw == "leaves glass":
                self.world["glass"] = "broken"


def test_a_sound_reconciler_converges() -> None:
    world: dict[str, str] = {}
    converges(lambda: Lamp(world), [WANT], lambda: world)


@pytest.mark.parametrize("flaw", ["cannot be repeated", "leaves glass"])
def test_a_flawed_one_does_not(flaw: str) -> None:
    world: dict[str, str] = {}
    with pytest.raises(AssertionError, match=r"stuck|left over|screwed in already"):
        converges(lambda: Lamp(world, flaw), [WANT], lambda: world, patience_s=0.1)
