"""The path of one request through the program is short, and becomes longer only on purpose."""

import subprocess
import sys
from pathlib import Path

TRACE = Path(__file__).with_name("trace.txt")
SPINE = (
    "kernel/http.py",
    "compute/servers.py",
    "compute/scheduler.py",
    "kernel/store.py",
    "compute/server_plan.py",
    "drivers/qemu_fake.py",
)


def traced() -> list[str]:
    # in a process of its own: a cloud's keys and credentials are one a process
    done = subprocess.run([sys.executable, "-m", "tools.trace", "--files"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_files_that_a_request_passes_are_those_on_record() -> None:
    found, recorded = traced(), TRACE.read_text().splitlines()
    assert found == recorded, "If it is meant: python -m tools.trace --files > tests/trace.txt"


def test_the_record_holds_the_way_of_a_request() -> None:
    recorded = TRACE.read_text().splitlines()
    assert [name for name in SPINE if name not in recorded] == []
