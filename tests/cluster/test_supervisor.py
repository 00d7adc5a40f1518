"""The supervisor alone, over processes that are little shell scripts."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, eventually
from trilith.cluster import proc
from trilith.cluster.state import State
from trilith.cluster.supervisor import Unit, ask, remembered, rotate_logs, sweep

PROGRAM = """
import sys
from trilith.cluster.state import State
from trilith.cluster.supervisor import Supervisor
from tests.cluster.test_supervisor import units
state = State(sys.argv[1])
Supervisor(state, units(state)).run()
"""


def units(state: State) -> list[Unit]:
    """`engine` survives its supervisor; `server` has a worker that ignores SIGTERM; `setup` runs once, then `late`."""
    mark = state.root / "set-up"
    return [
        Unit("engine", ["sleep", "1000"], survives=True),
        Unit("server", ["sh", "-c", "(trap '' TERM; sleep 1001) & sleep 1002"]),
        Unit("setup", ["sh", "-c", f"sleep 0.1; touch {mark}"], once=True),
        Unit("late", ["sh", "-c", f"test -e {mark} && sleep 1003"], after=("setup",)),
    ]


FORGETFUL = """
import os, signal, sys
from trilith.cluster.state import State
from trilith.cluster.supervisor import Supervisor, Unit

class Forgetful(Supervisor):
    def _remember(self):
        if any(child.running for child in self.children.values()):
            os.kill(os.getpid(), signal.SIGKILL)

state = State(sys.argv[1])
Forgetful(state, [Unit("server", ["touch", str(state.root / "ran")], survives=True)]).run()
"""


class Running:
    """A supervisor in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.state = State(directory)
        self.state.make_directories()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-c", PROGRAM, str(self.state.root)]
        self.process = subprocess.Popen(argv, cwd=ROOT, start_new_session=True)
        eventually(self.all_ready, "all ready")

    def all_ready(self) -> bool:
        answer = ask(self.state, "status")
        return answer is not None and all(child["state"] in ("ready", "done") for child in answer["processes"])

    def pid(self, name: str) -> int:
        answer = ask(self.state, "status")
        assert answer is not None
        return next(child["pid"] or 0 for child in answer["processes"] if child["name"] == name)

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        sweep(self.state)


@pytest.fixture
def running(short_dir: Path) -> Iterator[Running]:
    made = Running(short_dir)
    made.start()
    yield made
    made.end()


def alive(pid: int) -> bool:
    return proc.start_ticks(pid) is not None


def test_a_killed_child_is_started_again_and_its_workers_are_not_left(running: Running) -> None:
    first = running.pid("server")
    workers = [pid for pid in proc.session_members(first) if pid != first]
    assert len(workers) >= 2
    os.kill(first, signal.SIGKILL)
    eventually(lambda: running.pid("server") not in (0, first), "a new process")
    assert not any(alive(pid) for pid in workers)
    eventually(running.all_ready, "all ready")
    answer = ask(running.state, "status")
    assert answer is not None
    server = next(child for child in answer["processes"] if child["name"] == "server")
    assert (server["restarts"], server["last_exit"]) == (1, "killed by SIGKILL")


def test_nothing_runs_that_the_next_supervisor_would_not_know_of(short_dir: Path) -> None:
    """kill -9 between the start of a process and the note of its pid: it must not run on, holding a port."""
    state = State(short_dir)
    state.make_directories()
    killed = subprocess.run([sys.executable, "-c", FORGETFUL, str(state.root)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    time.sleep(0.3)
    assert not (state.root / "ran").exists()


def test_what_runs_once_is_not_started_again(running: Running) -> None:
    answer = ask(running.state, "status")
    assert answer is not None
    states = {child["name"]: (child["state"], child["restarts"]) for child in answer["processes"]}
    assert states["setup"] == ("done", 0)
    assert states["late"] == ("ready", 0)  # it would have ended, had it not waited for `setup`


def test_a_process_that_always_fails_is_tried_ever_more_slowly(running: Running) -> None:
    times = []
    for _ in range(4):
        pid = running.pid("late")
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: running.pid("late") not in (0, pid), "a new process")  # type: ignore[misc]
        times.append(time.monotonic() - killed)
    assert times[0] < times[3] > 0.4  # 50, 100, 200, 400 ms and what the machine adds


def test_after_kill_9_of_the_supervisor_the_next_one_takes_over(running: Running) -> None:
    engine, server = running.pid("engine"), running.pid("server")
    workers = proc.session_members(server)
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    eventually(lambda: not alive(server), "the server dies with the supervisor")
    assert alive(engine)
    assert ask(running.state, "status") is None
    running.start()
    assert running.pid("engine") == engine  # taken over, never interrupted
    assert running.pid("server") != server
    assert not any(alive(pid) for pid in workers)
    os.kill(engine, signal.SIGKILL)  # watched as if it were its own
    eventually(lambda: running.pid("engine") not in (0, engine), "a new engine")


def test_stop_leaves_nothing(running: Running) -> None:
    pids = [pid for name in ("engine", "server", "late") for pid in proc.session_members(running.pid(name))]
    assert len(pids) >= 5
    ask(running.state, "stop")
    assert running.process is not None
    assert running.process.wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert remembered(running.state) == []


def test_there_is_one_supervisor(running: Running) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(running.state.root)]
    second = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert "already has a supervisor" in second.stderr
    assert running.all_ready()


def test_a_foreign_process_with_a_remembered_pid_is_left_alone(short_dir: Path) -> None:
    with subprocess.Popen(["sleep", "1004"], start_new_session=True) as foreign:
        try:
            proc.end_session(foreign.pid, short_dir, grace_s=0)
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_a_session_has_ended_when_its_processes_are_gone_not_when_they_go(short_dir: Path) -> None:
    large = "import time; held = bytearray(400 << 20); print(flush=True); time.sleep(1005)"  # takes a while to go
    environ = {**os.environ, "TRILITH_STATE": str(short_dir)}
    with subprocess.Popen(
        [sys.executable, "-c", large], env=environ, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        proc.end_session(process.pid, short_dir, grace_s=0)
        assert proc.session_members(process.pid) == []


def test_full_logs_are_renamed_or_cut(tmp_path: Path) -> None:
    (tmp_path / "api.jsonl").write_text("x" * 100)
    with open(tmp_path / "engine.log", "a") as held:
        held.write("y" * 100)
        held.flush()
        rotate_logs(tmp_path, limit_bytes=50, kept=2)
        held.write("after")
    assert not (tmp_path / "api.jsonl").exists()
    assert (tmp_path / "api.jsonl.1").read_text() == "x" * 100
    assert (tmp_path / "engine.log.1").read_text() == "y" * 100
    assert (tmp_path / "engine.log").read_text() == "after"
    for letter in "abc":
        (tmp_path / "api.jsonl").write_text(letter * 60)
        rotate_logs(tmp_path, limit_bytes=50, kept=2)
    assert sorted(path.name for path in tmp_path.glob("api*")) == ["api.jsonl.1", "api.jsonl.2"]
    assert (tmp_path / "api.jsonl.2").read_text() == "b" * 60


def test_control_socket_stands_nonsense(running: Running) -> None:
    import socket

    before = threading.active_count()
    for words in (b"nonsense\n", b"", b"[1]\n", b'{"do": "signal", "name": "nobody"}\n'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(running.state.control_socket))
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)
            client.recv(100)
    assert running.all_ready()
    assert threading.active_count() <= before + 1
