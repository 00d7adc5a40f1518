"""A whole cloud of one's own, started and asked as users do: the `trilith` command and HTTP."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.conftest import free_port
from trilith.cluster import proc
from trilith.cluster.drill.api import Api
from trilith.cluster.state import State
from trilith.cluster.supervisor import ask

ROOT = Path(__file__).parents[2]
UP_S = 90


class Cloud:
    """Lies in `directory` with all it has. `real`: with QEMU and OVN, as root; else with fakes of both."""

    def __init__(self, directory: Path, real: bool = False) -> None:
        self.state = State(directory / "s")
        self.config = directory / "config"
        self.port = free_port()
        self.api = Api(f"http://127.0.0.1:{self.port}")
        self.real = real

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(self.config)}
        argv = [sys.executable, "-m", "trilith.cli.main", *words, "--state", str(self.state.root)]
        return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=UP_S, check=False)

    def up(self) -> None:
        done = self.run("up", "--port", str(self.port), *([] if self.real else ["--fake"]))
        assert done.returncode == 0, done.stderr + done.stdout + self.logs(200)

    def down(self) -> None:
        """Ends it and everything that it has."""
        self.run("down", "--destroy")

    def logs(self, lines: int = 60) -> str:
        return "\n".join(self.run("logs").stdout.splitlines()[-lines:])

    def sign_in(self, name: str) -> str:
        """A token of ``admin`` or ``demo``, each in the project of that name."""
        return self.api.sign_in(name, self.state.secret(name), name)

    # processes
    def processes(self) -> dict[str, int]:
        """The pid of each, and of one of the API's workers; {} when there is no supervisor."""
        status = ask(self.state, "status")
        if status is None:
            return {}
        found = {child["name"]: child["pid"] for child in status["processes"] if child["pid"]}
        found["supervisor"] = status["pid"]
        workers = [pid for pid in proc.session_members(found.get("api", -1)) if pid != found.get("api")]
        return found | ({"api worker": workers[0]} if workers else {})


def eventually(condition: Callable[[], object], what: str, timeout_s: float, why: Callable[[], object]) -> None:
    """Waits until `condition` gives something that is false: what is still wrong."""
    deadline = time.monotonic() + timeout_s
    while wrong := condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}: {wrong}\n{why()}"
        time.sleep(0.1)
