"""Machines that move to another host while they run: many, two at a time, and whether each ends well."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from trilith.cluster.drill.rehearsed import Rehearsed
from trilith.cluster.drill.stage import Stage

Doc = dict[str, Any]
AT_ONCE = 2
MOVES_S = 240.0  # until a migration has ended, one way or the other
SETTLES_S = 60.0  # until one host has the machine, and SQL says so
LOOK_EACH_S = 0.5
KILL_REST_S = (3.0, 8.0)
KILLED = ("agent", "controller")
COMPLETED = "completed"
ENDED = {COMPLETED, "error", "failed", "cancelled"}


@dataclass(frozen=True)
class Move:
    """`status`: of the API's migration, or what else became of it. Times are of the monotonic clock. `wrong`:
    sentences."""

    server: str
    source: str
    target: str
    status: str
    begun_s: float
    ended_s: float
    wrong: tuple[str, ...] = ()


class Moves:
    """Live migrations of `servers`, in turn."""

    def __init__(self, site: Rehearsed, stage: Stage, servers: list[str]) -> None:
        self._site, self._stage, self._servers = site, stage, servers
        self._killed: list[str] = []

    def run(self, count: int, kills: bool) -> list[Move]:
        """`kills`: agents and controllers die meanwhile, and a migration may be undone; else each must complete."""

        def some(number: int) -> list[Move]:
            mine = self._servers[number::AT_ONCE]
            return [self._move(mine[turn % len(mine)], undone_ok=kills) for turn in range(count // AT_ONCE)]

        with self._killing(kills), ThreadPoolExecutor(AT_ONCE) as pool:
            return [move for moves in pool.map(some, range(AT_ONCE)) for move in moves]

    def told(self, moves: list[Move]) -> str:
        """What was done, in a line."""
        whole = sum(move.status == COMPLETED for move in moves)
        died = f", while {', '.join(self._killed)} died" if self._killed else ""
        return f"{whole} of {len(moves)} live migrations completed{died}"

    def _move(self, server: str, undone_ok: bool) -> Move:
        begun_s, before = time.monotonic(), self._stage.last_move(server)
        source = self._stage.host_of(server)
        refused = self._stage.live_migrate(server)
        if refused:
            return Move(server, source, source, refused, begun_s, time.monotonic(), (f"moving {server}: {refused}",))
        found = _until(lambda: self._new(server, before), MOVES_S)
        ended_s = time.monotonic()
        if found is None:
            said = (f"the migration of {server} does not end within {MOVES_S:.0f} s",)
            return Move(server, source, source, "under way", begun_s, ended_s, said)
        wrong = [] if undone_ok or found["status"] == COMPLETED else [f"moving {server}: {found['status']}"]
        if _until(lambda: self._is_settled(server), SETTLES_S) is None:
            where = [host for host, servers in self._site.machines().items() if server in servers]
            wrong.append(f"machine {server} is {self._stage.host_of(server)}'s after its move, and runs on {where}")
        return Move(server, source, self._stage.host_of(server), found["status"], begun_s, ended_s, tuple(wrong))

    def _new(self, server: str, before: Doc | None) -> Doc | None:
        found = self._stage.last_move(server)
        is_new = found is not None and (before is None or found["id"] != before["id"])
        return found if found is not None and is_new and found["status"] in ENDED else None

    def _is_settled(self, server: str) -> bool:
        there = [host for host, servers in self._site.machines().items() if server in servers]
        return there == [self._stage.host_of(server)] and self._stage.is_idle(server)

    @contextmanager
    def _killing(self, kills: bool) -> Iterator[None]:
        ended = threading.Event()

        def kill() -> None:
            while kills and not ended.wait(random.uniform(*KILL_REST_S)):
                name = random.choice(KILLED)
                victims = [process for process in self._site.processes() if process.name == name]
                if victims:
                    victim = random.choice(victims)
                    self._site.kill(victim)
                    self._killed.append(f"{victim.name} of {victim.host}")

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        try:
            yield
        finally:
            ended.set()
            killer.join(30)


def with_downtime(moves: list[Move], addresses: dict[str, str], samples: list[Doc]) -> list[Doc]:
    """The moves as documents, with `downtime_s`: the longest that the machine did not answer pings meanwhile; null
    where it was not pinged. `addresses`: of the servers."""
    return [asdict(move) | {"downtime_s": _silence_s(move, addresses.get(move.server), samples)} for move in moves]


def _silence_s(move: Move, address: str | None, samples: list[Doc]) -> float | None:
    answered = sorted(s["at_s"] for s in samples if s.get("ping") == address and s["took_s"] is not None)
    inside = [at_s for at_s in answered if move.begun_s - 1 <= at_s <= move.ended_s + 1]
    return max((later - earlier for earlier, later in itertools.pairwise(inside)), default=None)


def _until(what: Callable[[], Any], limit_s: float) -> Any:
    """Its first answer that is true; None when none comes in time."""
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        if time.monotonic() > deadline:
            return None
        time.sleep(LOOK_EACH_S)
    return found
