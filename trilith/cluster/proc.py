"""What ``/proc`` tells about processes: identity that survives pid reuse, sessions, memory."""

import contextlib
import os
import signal
import time
from pathlib import Path

PF_EXITING = 0x4  # of the flags in /proc/PID/stat; include/linux/sched.h


def boot_id() -> str:
    """Changes with each boot of this machine (and in each container)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in ticks since boot; None when it is gone or a zombie. With the pid: an identity."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def wait_ended(pid: int, ticks: int, timeout_s: float) -> bool:
    """Until the process that started at `ticks` is gone; False when it still is there after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while start_ticks(pid) == ticks:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def session_members(session: int, state_root: Path | None = None) -> list[int]:
    """Live processes of a session; with `state_root`, those that were started for that cloud or cannot say any more,
    because they are ending."""
    members = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat(int(name))
        if fields is None or fields[0] in "ZX" or int(fields[3]) != session:
            continue
        if state_root is None or _is_for(int(name), state_root):
            members.append(int(name))
    return members


def end_session(session: int, state_root: Path, grace_s: float) -> None:
    """SIGTERM to all of the session that is of this cloud, after `grace_s` SIGKILL; returns when they are gone."""
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while members := session_members(session, state_root):
        last_word = time.monotonic() >= deadline
        for pid in members:
            if last_word or pid not in asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if last_word else signal.SIGTERM)
        asked.update(members)
        time.sleep(0.01)


def pss_mib(pids: list[int]) -> float:
    """Memory of the processes, shared pages divided among those that share them, in MiB."""
    total_kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kib += int(line.split()[1])
    return total_kib / 1024


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the command's name: state, ppid, pgrp, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _is_for(pid: int, state_root: Path) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except ProcessLookupError:  # as newer kernels say it
        environ = b""
    except OSError:
        return False
    return f"TRILITH_STATE={state_root}".encode() in environ.split(b"\0") or (not environ and _ends(pid))


def _ends(pid: int) -> bool:
    """A process that exits gives its memory back, and its environment with it, before anything else."""
    fields = _stat(pid)
    return fields is not None and bool(int(fields[6]) & PF_EXITING)
