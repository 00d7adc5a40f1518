"""CPU time and memory of one cloud's processes, whichever cloud it is, and how busy the rest of the machine was.

CPU time is what a figure costs wherever and whenever it is measured; wall time holds for a machine that does nothing
else, and `other_percent` says how far from that it was.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trilith.cluster import proc
from trilith.cluster.state import State
from trilith.cluster.supervisor import ask

Leaders = Callable[[], dict[str, int]]
"""A cloud: the sessions of its processes, by name."""
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
    def now(cls, leaders: Leaders, machines: Path | None) -> "_Moment":
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in usage)
        return cls(time.monotonic(), _cloud(leaders), _machines(machines), own, _busy_s())


@contextmanager
def measured(leaders: Leaders, machines: Path | None = None) -> Iterator[Span]:
    """``with measured(leaders) as span: ...``; the span is filled in at the end. A cloud that begins or ends inside
    counts with all that it used there and had not used before. `machines`: where a host keeps real ones."""
    span, before = Span(), _Moment.now(leaders, machines)
    yield span
    after = _Moment.now(leaders, machines)
    span.wall_s = after.wall_s - before.wall_s
    span.by_process = {name: used - before.cloud.get(name, 0.0) for name, used in after.cloud.items()}
    span.cpu_s = sum(span.by_process.values())
    span.machines_cpu_s = max(0.0, after.machines - before.machines)
    ours = span.cpu_s + span.machines_cpu_s + after.own - before.own
    other_s = max(0.0, after.busy - before.busy - ours)
    span.other_percent = 100 * other_s / (span.wall_s * CORES)


def pss_mib(leaders: Leaders) -> float:
    """Of all processes of the cloud, without its machines."""
    return sum(proc.pss_mib(proc.session_members(pid)) for pid in leaders().values())


def process_count(leaders: Leaders) -> int:
    return sum(len(proc.session_members(pid)) for pid in leaders().values())


def leaders_of(state: State) -> Leaders:
    """Of a Trilith cloud, as its supervisor says."""

    def leaders() -> dict[str, int]:
        answer = ask(state, "status")
        if answer is None:
            return {}
        found = {process["name"]: process["pid"] for process in answer["processes"] if process["pid"]}
        return {"supervisor": answer["pid"], **found}

    return leaders


def _cloud(leaders: Leaders) -> dict[str, float]:
    found = {}
    for name, session in leaders().items():
        members = proc.session_members(session)
        # machines are among the children that an agent has seen end: theirs would be counted with them
        reaped_s = 0.0 if name == "agent" else sum(map(_reaped_s, members))
        found[name] = sum(map(_cpu_s, members)) + reaped_s
    return found


def _machines(directory: Path | None) -> float:
    used = 0.0
    for pidfile in directory.glob("machines/*/run/pid") if directory else ():
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
