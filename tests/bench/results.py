"""What one run measured: kept as JSON, from which tables and plots are made."""

import platform
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.meter import CORES
from trilith import __version__


class Sample(msgspec.Struct):
    """One span of load of one case on one side. `cpu_ms`: of the whole cloud for each operation, its databases and
    brokers included; `other_percent`: of all cores, what neither it nor the clients used."""

    case: str
    side: str
    clients: int
    count: int
    failed: int
    cpu_ms: float
    per_second: float
    median_ms: float
    slow_ms: float
    bytes_each: int
    other_percent: float


class Fact(msgspec.Struct):
    """A figure of a side that is no request: memory, starts, storms. Several of one name: one for each round."""

    name: str
    side: str
    value: float
    unit: str


class Machine(msgspec.Struct):
    """What it was measured on, and when."""

    date: str
    cores: int
    processor: str
    memory_gib: int
    system: str
    kernel: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls) -> "Machine":
        cpu = [x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
        date, python = time.strftime("%F %R %Z"), platform.python_version()
        own = {"trilith": f"{__version__} ({_commit()})"}
        processor = cpu[0] if cpu else platform.machine()
        return cls(date, CORES, processor, memory_kib >> 20, release, platform.release(), python, own)


class Results(msgspec.Struct):
    """`conditions`: how the run was made, in words."""

    machine: Machine
    conditions: dict[str, str] = msgspec.field(default_factory=dict)
    samples: list[Sample] = msgspec.field(default_factory=list)
    facts: list[Fact] = msgspec.field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def read(cls, path: Path) -> "Results":
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def fact(self, name: str, side: str, value: float, unit: str) -> None:
        self.facts.append(Fact(name, side, value, unit))

    def sides(self) -> list[str]:
        return list(dict.fromkeys(each.side for each in [*self.samples, *self.facts]))

    def spread(self, case: str, side: str, what: str, clients: int | None = None) -> "Spread | None":
        """Of one column of a case's samples; `clients` None: of all."""
        found = [s for s in self.samples if (s.case, s.side) == (case, side) and clients in (None, s.clients)]
        return Spread.of([getattr(sample, what) for sample in found])

    def fact_spreads(self) -> dict[tuple[str, str], dict[str, "Spread"]]:
        """By (name, unit), by side, in the order in which they were measured."""
        found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for each in self.facts:
            found[each.name, each.unit][each.side].append(each.value)
        return {key: {s: Spread.certain(v) for s, v in sides.items()} for key, sides in found.items()}


class Spread(msgspec.Struct):
    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        return cls.certain(values) if values else None

    @classmethod
    def certain(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "not from a repository"


def short(value: Any) -> str:
    """With as many digits as say something."""
    if isinstance(value, str):
        return value
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
