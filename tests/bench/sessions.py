"""Foreground programs that Trilith's supervisor does not keep: each leads a session, so that all it forks can be
measured and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trilith.cluster import proc

START_S = 600.0  # on a machine that does much else
STOP_S = 20.0
POLL_S = 0.05


class Failed(Exception):
    """A side does not start, or answers what it should not; the sentence says which and where its log is."""


class Sessions:
    """Programs by name, logs below `directory`. Used as a context, it ends all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        with open(self.log(name), "ab") as output:
            self._running[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )

    def run(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """A command that ends. Raises `Failed` with the end of its log."""
        with open(self.log(name), "ab") as output:
            code = subprocess.call(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
        if code:
            raise Failed(f"{name} ended with {code}:\n{self.last_words(name)}")

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def last_words(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-12:])

    def alive(self, name: str) -> None:
        """Raises `Failed` when it has ended."""
        if (code := self._running[name].poll()) is not None:
            raise Failed(f"{name} ended with {code}:\n{self.last_words(name)}")

    def wait_port(self, name: str, port: int, within_s: float = START_S) -> None:
        """Until it listens. Raises `Failed`."""
        give_up = time.monotonic() + within_s
        while not listens(port):
            self.alive(name)
            if time.monotonic() > give_up:
                raise Failed(f"{name} does not listen after {within_s:.0f} s:\n{self.last_words(name)}")
            time.sleep(POLL_S)

    def leaders(self) -> dict[str, int]:
        """Session ids by name, of what runs."""
        return {name: started.pid for name, started in self._running.items() if started.poll() is None}

    def stop(self, name: str) -> None:
        """SIGTERM to the leader, after a while SIGKILL to all of its session."""
        started = self._running.pop(name)
        if started.poll() is None:
            started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(STOP_S)
        for pid in proc.session_members(started.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.wait()

    def stop_all(self) -> None:
        """The last one first."""
        for name in reversed(list(self._running)):
            self.stop(name)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
