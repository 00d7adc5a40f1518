"""Three pretended nodes under storms of faults, led by the plan alone: one history, nothing acknowledged is lost, and
all three serve again without a hand."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from trilith.cluster.engines.galera_plan import FORM_S, next_step

NAMES = ("c1", "c2", "c3")


@dataclass
class Node:
    """`seqno`: the last transaction on disk. `history`: the database's uuid. A host that is off answers nobody."""

    host_on: bool = True
    running: bool = False
    component: int = 0  # the quorum that it is in; 0 for none
    history: str | None = None
    seqno: int = -1
    position_known: bool = False
    view: int = 0
    members: tuple[str, ...] = ()
    steady: bool = False
    waited_s: int = 0
    attempts: int = 0


@dataclass
class Cluster:
    """What Galera does by itself: members of a quorum share every transaction; a majority of the last one goes on."""

    chance: random.Random
    nodes: dict[str, Node] = field(default_factory=lambda: {name: Node() for name in NAMES})
    quorums: int = 0
    acknowledged: int = 0
    foundations: int = 0

    def serving(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.component]

    def connected(self) -> int:
        return sum(node.running and node.host_on for node in self.nodes.values())

    def document(self, name: str) -> dict[str, Any] | None:
        node = self.nodes[name]
        if not node.host_on:
            return None
        return {
            "phase": "running" if node.running else "stopped", "candidate": True, "data": node.history is not None,
            "uuid": node.history, "seqno": node.seqno if node.position_known and not node.running else None,
            "primary": bool(node.component), "synced": bool(node.component), "transfer": False,
            "size": len(self.serving()) if node.component else self.connected(),
            "committed": node.seqno, "steady": node.steady and node.running, "view": node.view or None,
            "members": list(node.members), "member": name, "waited_s": node.waited_s, "attempts": node.attempts,
            "stale": False, "data_mib": 1, "lost": [],
        }  # fmt: skip

    def keep(self, name: str) -> None:
        """One round of one keeper."""
        node = self.nodes[name]
        if not node.host_on:
            return
        seen = {"nodes": {n: self.document(n) for n in NAMES}, "installed": True, "accounts_right": True}
        act = next_step({"me": name, "order": list(NAMES)}, seen).act
        match act.do if act else None:
            case "found":
                self.foundations += 1
                node.history, node.seqno = f"history-{self.foundations}", 0
                self.run(name)
                self.form([name])
            case "bootstrap":
                self.run(name)
                self.form([name])
            case "join":
                self.run(name)
                donor = self.nodes[self.serving()[0]]
                node.history, node.seqno = donor.history, donor.seqno
                self.form([*self.serving(), name])
            case "form":
                node.attempts += 1
                self.run(name)
            case "recover_position":
                node.position_known = True
            case "forget_view":
                node.view, node.members = 0, ()
            case "give_up" | "stop":
                self.stop(name)
                node.view, node.members = 0, ()
            case "revive":
                running = [n for n in NAMES if self.nodes[n].running and self.nodes[n].host_on]
                self.form(running)

    def run(self, name: str) -> None:
        node = self.nodes[name]
        node.running, node.position_known, node.waited_s = True, False, 0

    def stop(self, name: str) -> None:
        node = self.nodes[name]
        node.running = node.steady = False
        node.component = 0

    def form(self, members: list[str]) -> None:
        """Whoever is behind gets what is missing."""
        self.quorums += 1
        newest = max(self.nodes[name].seqno for name in members)
        for name in members:
            node = self.nodes[name]
            node.component = node.view = self.quorums
            node.seqno = newest
            node.members, node.steady, node.waited_s, node.attempts = tuple(members), True, 0, 0

    def live(self) -> None:
        """Time passes: transactions, waiting, and the quorum that forms again when all its members are there."""
        serving = self.serving()
        if serving:
            self.acknowledged += 1
            for name in serving:  # the others may not have written it down yet when their power is cut
                self.nodes[name].seqno = self.acknowledged
        for name, node in self.nodes.items():
            if node.running and not node.component:
                node.waited_s = FORM_S if node.waited_s or self.chance.random() < 0.5 else 0
                together = [n for n in node.members if self.nodes[n].running and self.nodes[n].view == node.view]
                if node.members and set(together) == set(node.members) and name == node.members[0]:
                    self.form(list(node.members))

    def fault(self) -> None:
        name = self.chance.choice(NAMES)
        node = self.nodes[name]
        before = self.serving()
        match self.chance.choice(["kill", "power", "power all", "stop", "on", "split"]):
            case "kill":
                self.stop(name)
            case "power":
                self.stop(name)
                node.host_on = False
            case "power all":
                survivor = self.chance.choice(before or list(NAMES))
                for other in NAMES:
                    if other != survivor and other in before and self.nodes[other].seqno > 0:
                        self.nodes[other].seqno -= self.chance.choice([0, 1])
                    self.stop(other)
                    self.nodes[other].host_on = False
                return
            case "stop" if node.running:
                self.stop(name)
                node.view, node.members = 0, ()
            case "on":
                node.host_on = True
            case "split":
                for other in before:
                    self.nodes[other].component = 0
                return
        after = [n for n in before if self.nodes[n].component]
        if after and 2 * len(after) > len(before):
            self.form(after)
        else:
            for other in after:
                self.nodes[other].component = 0


@pytest.mark.parametrize("seed", range(150))
def test_a_storm_ends_well(seed: int) -> None:
    cluster = Cluster(random.Random(seed))
    for _ in range(60):
        if cluster.chance.random() < 0.3:
            cluster.fault()
        for name in cluster.chance.sample(NAMES, 3):
            cluster.keep(name)
        cluster.live()
        assert len({cluster.nodes[name].component for name in cluster.serving()}) <= 1, "two quorums"
        for name in cluster.serving():
            assert cluster.nodes[name].seqno == cluster.acknowledged, "acknowledged and lost"
    for node in cluster.nodes.values():
        node.host_on = True
    for _ in range(40):
        for name in NAMES:
            cluster.keep(name)
        cluster.live()
    assert cluster.serving() == list(NAMES), {name: cluster.document(name) for name in NAMES}
    assert {node.seqno for node in cluster.nodes.values()} == {cluster.acknowledged}
    assert cluster.foundations == 1
