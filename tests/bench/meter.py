"""CPU time and memory of one cloud's processes, and how busy the rest of the machine was meanwhile.

CPU time is what a figure costs wherever and whenever it is measured; wall time holds for a machine that does nothing
else, and `other_percent` says how far from that it was.
"""

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trilith.cluster import proc
from trilith.cluster.state import State
from trilith.cluster.supervisor import ask

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


@dataclass
class Span:
    """What went by: wall time, CPU time of the cloud without its machines, by process, and of its machines."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    machines_cpu_s: float = 0.0
    other_percent: float = 0.0
    by_process: dict[str, float] | None = None


@dataclass
class _Moment:
    wall_s: float
    cloud: dict[str, float]
    machines: float
    own: float
    busy: float

    @classmethod
    def now(cls, state: State) -> "_Moment":
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in usage)
        return cls(time.monotonic(), _cloud(state), _machines(state), own, _busy_s())


@contextmanager
def measured(state: State) -> Iterator[Span]:
    """``with measured(state) as span: ...``; the span is filled in at the end. A cloud that begins or ends inside
    counts with all that it used there and had not used before."""
    span, before = Span(), _Moment.now(state)
    yield span
    after = _Moment.now(state)
    span.wall_s = after.wall_s - before.wall_s
    span.by_process = {name: used - before.cloud.get(name, 0.0) for name, used in after.cloud.items()}
    span.cpu_s = sum(span.by_process.values())
    span.machines_cpu_s = max(0.0, after.machines - before.machines)
    ours = span.cpu_s + span.machines_cpu_s + after.own - before.own
    other_s = max(0.0, after.busy - before.busy - ours)
    span.other_percent = 100 * other_s / (span.wall_s * CORES)


def pss_mib(state: State) -> float:
    """Of all processes of the cloud, without its machines."""
    return sum(proc.pss_mib(proc.session_members(pid)) for pid in _sessions(state).values())


def _sessions(state: State) -> dict[str, int]:
    answer = ask(state, "status")
    if answer is None:
        return {}
    found = {process["name"]: process["pid"] for process in answer["processes"] if process["pid"]}
    return {"supervisor": answer["pid"], **found}


def _cloud(state: State) -> dict[str, float]:
    found = {}
    for name, session in _sessions(state).items():
        members = proc.session_members(session)
        # machines are among the children that an agent has seen end: theirs would be counted with them
        reaped_s = 0.0 if name == "agent" else sum(map(_reaped_s, members))
        found[name] = sum(map(_cpu_s, members)) + reaped_s
    return found


def _machines(state: State) -> float:
    used = 0.0
    for pidfile in state.host.glob("machines/*/run/pid"):
        with contextlib.suppress(OSError, ValueError):
            used += _cpu_s(int(pidfile.read_text()))
    return used


def _cpu_s(pid: int) -> float:
    """Of all threads of a process, in nanoseconds' precision; 0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's number for another process's CPU clock
    except OSError:
        return 0.0


def _reaped_s(pid: int) -> float:
    """Of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) * TICK_S


def _busy_s() -> float:
    """Of all cores, since boot; what the hypervisor took away counts as busy."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(None, 9)[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_S
