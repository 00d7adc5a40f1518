"""Clouds of stand-ins: real supervisor, hub and agent around a tiny API, each with a directory and ports of its own."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.state import Settings, State

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """The first of three neighbouring free ports, below those that the kernel gives to outgoing connections: one of
    these could take the port while its server is being started again."""
    while True:
        port = random.randrange(15000, 32000, 4)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for each in range(port, port + 3):
                held.enter_context(socket.create_server(("127.0.0.1", each)))
            return port


def eventually(
    condition: Callable[[], bool], what: str, timeout_s: float = 10.0, why: Callable[[], object] = lambda: ""
) -> None:
    """Fails with `what`, and with what `why` says then."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}. {why()}"
        time.sleep(0.02)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """Sockets have short names; pytest's own directories are too deep."""
    directory = Path(tempfile.mkdtemp(prefix="trilith-", dir="/var/tmp"))
    directory.chmod(0o755)  # machines run as another user
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


class Cloud:
    """One cloud of stand-ins and the `trilith` command on it."""

    def __init__(self, directory: Path, config: Path) -> None:
        self.state = State(directory)
        self.config = config
        self.port = free_port()

    def settle(self, fake: bool = True) -> None:
        third = random.randrange(256)
        self.state.make_directories()
        settings = Settings(
            cloud_id=f"{random.randrange(1 << 16):04x}",
            host="host1",
            cluster=all_in_one("host1"),
            port=self.port,
            fake=fake,
            public_cidr=f"10.213.{third}.0/24",
            program="tests.cluster.stand_in",
        )
        self.state.write_settings(settings)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(self.config)}
        argv = [sys.executable, "-m", "trilith.cli.main", *words, "--state", str(self.state.root)]
        return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60, check=False)

    def up(self) -> str:
        done = self.run("up")
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.fixture
def cloud(short_dir: Path) -> Iterator[Cloud]:
    made = Cloud(short_dir / "a", short_dir / "config")
    made.settle()
    yield made
    made.run("down", "--destroy")


@pytest.fixture
def other_cloud(short_dir: Path) -> Iterator[Cloud]:
    made = Cloud(short_dir / "b", short_dir / "config")
    made.settle()
    yield made
    made.run("down", "--destroy")
