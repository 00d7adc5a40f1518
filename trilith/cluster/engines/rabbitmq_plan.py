"""What a controller does next so that RabbitMQ is one cluster over all controllers. Pure.

The bus holds nothing that the cloud needs, so every doubt is settled by making nodes anew. What a node belongs to is
its *incarnation*: a number (the time of founding, so later is larger) and the controller that founded it. A node whose
data are of an older incarnation than any that a reachable controller knows throws them away and joins.
"""

from dataclasses import dataclass, field
from typing import Any

from trilith.kernel.reconcile import Act

Doc = dict[str, Any]
REJOIN_S = 180.0  # that a node may take to come up while others run; between machines that boot it takes over a minute
REBUILD_S = 150.0  # that nodes may wait for each other while none runs


@dataclass(frozen=True)
class Node:
    """One controller's node. `incarnation` 0: it has no data, or none that count. `members` as the node itself tells;
    empty when it does not run, or was not asked yet. `stuck_s`: for how long nothing has changed while it is down."""

    has_data: bool = False
    incarnation: int = 0
    founder: str = ""
    unit_active: bool = False
    running: bool = False
    members: tuple[str, ...] = ()
    stuck_s: float = 0.0


@dataclass(frozen=True)
class Sight:
    """What one controller sees. `peers`: the other controllers, None for one that does not answer."""

    me: str
    controllers: tuple[str, ...]  # in the order of the file
    node: Node
    peers: dict[str, Node | None] = field(default_factory=dict)

    @property
    def reachable(self) -> list[str]:
        return [name for name in self.controllers if name == self.me or self.peers.get(name)]

    def of(self, name: str) -> Node | None:
        return self.node if name == self.me else self.peers.get(name)

    @property
    def newest(self) -> int:
        return max(node.incarnation for name in self.controllers if (node := self.of(name)))

    @property
    def has_majority(self) -> bool:
        return len(self.reachable) > len(self.controllers) // 2

    def running(self) -> list[str]:
        """Reachable controllers whose node runs in the newest incarnation, in the order of the file."""
        found = ((name, self.of(name)) for name in self.reachable)
        return [name for name, node in found if node and node.running and node.incarnation == self.newest]


def plan(sight: Sight) -> list[Act]:
    """The next acts: wipe, found, join, adopt, start, forget. None needs another to have been done by this process."""
    node = sight.node
    if node.incarnation < sight.newest or node.incarnation == 0:
        return _enter(sight)
    if not node.unit_active:
        return [Act("start_node")]
    if node.running:
        return _stray(sight) or _forget(sight)
    return _stuck(sight)


def waiting_for(sight: Sight) -> str | None:
    """Why nothing can be done now, as a sentence; None when there is something to do, or all is well."""
    node, missing = sight.node, [name for name in sight.controllers if name not in sight.reachable]
    if plan(sight) or (node.running and node.incarnation == sight.newest and node.incarnation):
        return None
    if node.incarnation and node.unit_active:
        return "The node is starting." if sight.has_majority else "The node waits: most controllers do not answer."
    if missing and not sight.newest:
        return f"To be founded, it waits for the keepers of {', '.join(missing)}."
    running = sight.running()
    if running and _listed(sight, running):
        return f"It waits until {running[0]} forgets the node that was here."
    return f"It waits for a node of {', '.join(n for n in sight.controllers if n != sight.me)} to run."


def _enter(sight: Sight) -> list[Act]:
    """This node has to become part of the newest incarnation, or of the first."""
    if sight.node.running and sight.node.incarnation:
        return _outlived(sight)
    if sight.node.has_data or sight.node.unit_active:
        return [Act("wipe")]
    running = sight.running() if sight.newest else []
    if running:
        founder = _node(sight, running[0])
        return [] if _listed(sight, running) else [Act("join", mark(founder.incarnation, founder.founder))]
    if sight.newest == 0 and len(sight.reachable) == len(sight.controllers) and sight.controllers[0] == sight.me:
        return [_found(sight)]
    return []


def _outlived(sight: Sight) -> list[Act]:
    """It runs in an older incarnation. It came up while the newer one was founded: that has joined it, or goes on
    without it. Until the new ones tell, it serves."""
    newer = [node for name in sight.running() if (node := _node(sight, name)).members]
    if not newer:
        return []
    if sight.me in newer[0].members:
        return [Act("adopt", mark(newer[0].incarnation, newer[0].founder))]
    return [Act("wipe")]


def _listed(sight: Sight, running: list[str]) -> bool:
    """Whether the one who would forget this node's predecessor has not done so yet."""
    return sight.me in _node(sight, running[0]).members


def _stray(sight: Sight) -> list[Act]:
    """It came up alone beside the cluster that it should have joined."""
    others = [name for name in sight.running() if name != sight.me]
    alone = sight.node.members == (sight.me,)
    apart = all(sight.me not in _node(sight, name).members for name in others if _node(sight, name).members)
    return [Act("wipe")] if others and alone and apart and sight.node.founder != sight.me else []


def _forget(sight: Sight) -> list[Act]:
    """Members that are none any more: the first running controller does it."""
    if sight.running()[:1] != [sight.me]:
        return []
    acts = []
    for member in sight.node.members:
        there = sight.of(member)
        blank = there is not None and there.incarnation == 0 and not there.unit_active
        if member not in sight.controllers or blank:
            acts.append(Act("forget", {"node": member}))
    return acts


def _stuck(sight: Sight) -> list[Act]:
    if sight.running():
        return [Act("wipe")] if sight.node.stuck_s > REJOIN_S else []
    patience_over = sight.node.stuck_s > REBUILD_S and sight.has_majority
    newest = [name for name in sight.reachable if _node(sight, name).incarnation == sight.newest]
    return [Act("wipe"), _found(sight)] if patience_over and newest[0] == sight.me else []


def _found(sight: Sight) -> Act:
    return Act("found", {"after": sight.newest})


def mark(incarnation: int, founder: str) -> Doc:
    return {"incarnation": incarnation, "founder": founder}


def _node(sight: Sight, name: str) -> Node:
    node = sight.of(name)
    assert node is not None
    return node
