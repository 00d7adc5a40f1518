"""What a side started is measured while it runs, and gone when it is stopped."""

import sys
from pathlib import Path

import pytest

from tests.bench.meter import measured, process_count, pss_mib
from tests.bench.sessions import Failed, Sessions
from trilith.cluster import proc

FORKS = "import os, time; os.fork(); time.sleep(600)"


def test_all_of_a_session_is_counted_and_ended(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.start("forks", [sys.executable, "-c", FORKS])
    leader = sessions.leaders()["forks"]
    while len(proc.session_members(leader)) < 2:
        sessions.alive("forks")
    assert process_count(sessions.leaders) == 2
    assert pss_mib(sessions.leaders) > 0
    sessions.stop_all()
    assert proc.session_members(leader) == []
    assert sessions.leaders() == {}


def test_what_it_uses_is_measured(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with measured(sessions.leaders) as span:
        sessions.start("works", [sys.executable, "-c", "while True: pass"])
        while (used_s := sum(_used(sessions))) < 0.1:
            sessions.alive("works")
    sessions.stop_all()
    assert span.cpu_s >= 0.1
    assert span.by_process is not None
    assert used_s <= span.by_process["works"]


def _used(sessions: Sessions) -> list[float]:
    with measured(lambda: {}) as span:
        pass
    assert span.cpu_s == 0.0
    return [proc_cpu_s(pid) for pid in sessions.leaders().values()]


def proc_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_one_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.start("ends", [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"])
    with pytest.raises(Failed, match=r"(?s)ends ended with 3.*out of luck"):
        sessions.wait_port("ends", 1)
    with pytest.raises(Failed, match="ended with 4"):
        sessions.run("command", [sys.executable, "-c", "raise SystemExit(4)"])
