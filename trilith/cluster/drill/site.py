"""Where a drill happens: what it needs to know of a cloud, and to break in it. Here: a cloud on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trilith.cluster import audit, proc, status
from trilith.cluster.state import Problem, State
from trilith.cluster.supervisor import ask

Doc = dict[str, Any]
FOUND_S = 10.0  # how long a process that is just being started is looked for


@dataclass(frozen=True)
class Process:
    """One of Trilith's own. `name`: api, api worker, objects, hub, controller, agent, keeper."""

    host: str
    name: str
    pid: int


class Site(Protocol):
    """`url` and `ca`: how clients reach the cloud. `fake`: machines and networks are pretended."""

    name: str
    url: str
    ca: Path | None
    fake: bool

    def password(self, user: str) -> str:
        """Of ``admin``."""

    def looks(self) -> list[Doc]:
        """Every host's `audit.look`; one controller's has the rows of SQL. Raises OSError where a host is away."""

    def problems(self) -> list[str]:
        """What is not as it should be; [] when everything is healthy."""

    def processes(self) -> list[Process]:
        """Those that run now and may be killed."""

    def kill(self, process: Process) -> None:
        """kill -9."""


class OneMachine:
    """A cloud that `trilith up` started. Its supervisor is not killed: whoever starts that again is not part of it."""

    def __init__(self, state: State) -> None:
        settings = state.settings()
        self.state, self.name, self.url, self.fake = state, settings.cluster.name, settings.api_url, settings.fake
        self.ca = state.ca_file(settings)
        if ask(state, "status") is None:
            raise Problem(f"No cloud runs at {state.root}. To start one: trilith up --state {state.root}")

    def password(self, user: str) -> str:
        return self.state.secret(user)

    def looks(self) -> list[Doc]:
        return [audit.look(self.state)]

    def problems(self) -> list[str]:
        found = status.status(self.state)
        if found.code == status.NOT_RUNNING:
            return ["it does not run"]
        return [f"{wrong['what']}: {wrong['why']}" for wrong in found.document["degraded"]]

    def processes(self) -> list[Process]:
        answer = ask(self.state, "status")
        found: list[Process] = []
        for child in answer["processes"] if answer else []:
            if child["pid"] and child["name"] in ("api", "objects", "hub", "controller", "agent"):
                found.append(Process(self.name, child["name"], child["pid"]))
            if child["pid"] and child["name"] == "api":
                workers = [pid for pid in proc.session_members(child["pid"]) if pid != child["pid"]]
                found += [Process(self.name, "api worker", pid) for pid in workers]
        return found

    def kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def one_of(site: Site, name: str) -> Process:
    """A running process of that name. Raises `Problem` when there is none within `FOUND_S`."""
    deadline = time.monotonic() + FOUND_S
    while True:
        for process in site.processes():
            if process.name == name:
                return process
        if time.monotonic() > deadline:
            raise Problem(f"No process {name} runs in {site.name}. See: trilith status")
        time.sleep(0.1)


def own_process(module: str) -> "subprocess.Popen[str]":
    """A process of this program with pipes, running one of the drill's modules."""
    return subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
