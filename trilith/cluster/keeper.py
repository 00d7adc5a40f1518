"""The keeper: one process a host that brings the host's engines to what the cluster file says, and keeps them there.

It needs nothing but the host itself and what deploy left in the state directory: no database, no API, no bus, because
it is what makes those. Each engine is reconciled by itself; what they become is told to peers and operators under
``https://ADDRESS:9200`` (see `trilith.cluster.keeper_api`) and in ``run/keeper.json``.
"""

import json
import logging
import signal
import sys
import threading
import time
from datetime import UTC, datetime

from trilith.cluster import proc
from trilith.cluster.engines import engines_of
from trilith.cluster.engines.engine import KEY, Engine, HostView, Status
from trilith.cluster.engines.own_units import program_directory
from trilith.cluster.engines.peers import Peers
from trilith.cluster.keeper_api import KeeperApi, Page
from trilith.cluster.state import KEEPER_PORT, State, write_file
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc, Runner

log = logging.getLogger(__name__)

UNREADY_ROUND_S = 1.0
READY_ROUND_S = 5.0  # systemd restarts what dies; the rounds find the rest
BACKOFF_S = (0.5, 1.0, 2.0, 3.0)
BEAT_S = 10.0  # `run/keeper.json` is never older


class Watched:
    """An engine as the runner sees it: like the engine, but it is known what it is doing, and while it is ready it is
    looked at every `READY_ROUND_S` only, however often the others are."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.kind = engine.kind
        self.doing: str | None = None
        self.told = Status(False)
        self.present = True
        self._seen: Doc | None = None
        self._looked_at_s = -READY_ROUND_S

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return self.engine.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        if not self.told.ready or time.monotonic() - self._looked_at_s > READY_ROUND_S - UNREADY_ROUND_S / 2:
            self._seen = self.engine.observe(key)
            self._looked_at_s = time.monotonic()
        return self._seen

    def known(self) -> set[str]:
        return self.engine.known()

    def perform(self, key: str, act: Act) -> None:
        self.doing = describe(act)
        self._looked_at_s = -READY_ROUND_S
        try:
            self.engine.perform(key, act)
        finally:
            self.doing = None

    def state(self) -> Doc:
        told = self.told
        return {
            "present": self.present,
            "ready": told.ready,
            "doing": self.doing,
            "problem": told.problem,
            "detail": told.detail,
        }


def describe(act: Act) -> str:
    """``restart haproxy.service``: an act for people. Arguments of acts are never secret."""
    return " ".join([act.do.replace("_", " "), *(str(value) for value in act.args.values())])


class Keeper:
    """The source of wants and the place of reports for the kernel's runner."""

    def __init__(self, view: HostView, engines: list[Engine]) -> None:
        self.view = view
        self.watched = {engine.kind: Watched(engine) for engine in engines}
        self.runner = Runner(self, list(self.watched.values()), UNREADY_ROUND_S, max(1, len(engines)), BACKOFF_S)
        self._wants: dict[str, Doc] = {}
        self._boot_id = proc.boot_id()
        self._writing = threading.Lock()

    def wants(self, kind: str) -> dict[str, Doc]:
        watched = self.watched[kind]
        try:
            self._wants[kind] = watched.engine.want()
        except Unavailable as error:
            watched.told = Status(False, str(error))
            return {}
        watched.present = bool(self._wants[kind]["present"])
        return {KEY: self._wants[kind]}

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        watched = self.watched[kind]
        found = watched.engine.status(self._wants[kind], seen)
        waiting = seen.get("waiting") if seen else "Failed; see the keeper's log."
        problem = fault or found.problem or waiting
        told = Status(found.ready and not fault and not waiting, problem, found.detail)
        if told != watched.told:
            log.info("engine", extra={"engine": kind, "ready": told.ready, "problem": problem})
            watched.told = told
            self.write_state()
        self.runner.resync_s = READY_ROUND_S if self.ready() else UNREADY_ROUND_S

    def ready(self) -> bool:
        return all(watched.told.ready for watched in self.watched.values())

    def state(self) -> Doc:
        return {
            "host": self.view.host.name,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "boot_id": self._boot_id,
            "program": program(),
            "ready": self.ready(),
            "engines": {kind: watched.state() for kind, watched in self.watched.items()},
        }

    def write_state(self) -> None:
        with self._writing:
            write_file(self.view.state.run / "keeper.json", json.dumps(self.state()).encode(), 0o600, sync=False)

    def run(self) -> None:
        """Until it is told to stop."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        self.runner.run()

    def _beat(self) -> None:
        while True:
            self.write_state()
            time.sleep(BEAT_S)


def program() -> str:
    """Which program this is: the name of the directory that deploy unpacked it to."""
    return program_directory().name


def next_acts(engine: Engine) -> list[Act]:
    """What the keeper would do now, without doing it. Raises `Unavailable` when that cannot be known."""
    return engine.plan(engine.want(), engine.observe(KEY))


def run(state: State) -> None:
    """The process: ``trilith serve keeper``."""
    settings = state.settings()
    view = HostView(state, settings, Peers(state).ask)
    engines = engines_of(view)
    keeper = Keeper(view, engines)
    pages: dict[str, Page] = {}
    for engine in engines:
        pages |= getattr(engine, "pages", dict)()
    api = KeeperApi(view, keeper.state, pages)
    api.start(settings.this_host.address, KEEPER_PORT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    keeper.run()
