"""Upstream from PyPI at the versions of its lock files, and the Debian packages that it needs."""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guest.build import cache_dir
from tests.bench.results import Results
from tests.bench.sessions import Failed

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "tools/setup.sh"


@dataclass(frozen=True)
class Environment:
    """An environment: `services` are what of the lock file, and `engines` what of Debian, is worth a word."""

    name: str
    lock: Path
    packages: Path
    services: Sequence[str]
    engines: Sequence[str]


CLOUD = Environment(
    "upstream",
    ROOT / "requirements-upstream.lock",
    ROOT / "tests/bench/packages.txt",
    ("keystone", "openstack-placement", "glance", "nova", "neutron", "cinder", "sqlalchemy", "pyuwsgi"),
    ("mariadb-server", "rabbitmq-server", "memcached"),
)
SWIFT = Environment(
    "swift",
    ROOT / "requirements-swift.lock",
    ROOT / "tests/bench/swift_packages.txt",
    ("swift", "eventlet", "pyeclib"),
    ("memcached",),
)


def install(what: Environment) -> Path:
    """The environment with its programs; made when there is none of this lock file. Raises `Failed`."""
    _run(SETUP, "packages", what.packages)
    venv = cache_dir() / "bench" / f"{what.name}-{hashlib.sha256(what.lock.read_bytes()).hexdigest()[:16]}"
    made = venv / "made"
    if not made.exists():
        shutil.rmtree(venv, ignore_errors=True)
        _make(venv, what.lock)
        made.touch()
    return venv


def _make(venv: Path, lock: Path) -> None:
    venv.parent.mkdir(parents=True, exist_ok=True)
    _run(SETUP, "venv", venv, lock)
    # as a package manager would: without it every start compiles
    _run(venv / "bin/python", "-m", "compileall", "-q", "-j", "0", venv / "lib")


def measure_install(side: str, lock: Path, results: Results) -> None:
    """How long an environment takes to make from its lock file, with whatever packages are in the cache of this
    machine, and what it takes on disk. What was made is removed again."""
    trial = cache_dir() / "bench" / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    begun = time.monotonic()
    _make(trial, lock)
    results.fact("install: Python packages", side, time.monotonic() - begun, "s")
    results.fact("disk: Python packages", side, disk_mib([trial]), "MiB")
    results.fact("Python packages", side, len(list(trial.glob("lib/python3*/site-packages/*.dist-info"))), "")
    shutil.rmtree(trial)


def disk_mib(directories: list[Path]) -> float:
    """As it is allocated."""
    files = (file for directory in directories for file in directory.rglob("*") if file.is_file())
    return sum(file.lstat().st_blocks for file in files) * 512 / 2**20


def versions(what: Environment) -> dict[str, str]:
    lines = [line.partition("==") for line in what.lock.read_text().splitlines() if "==" in line and line[0].isalnum()]
    pinned = {name: version.split()[0] for name, _, version in lines}
    found = {name: pinned[name] for name in what.services}
    for package in what.engines:
        asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
        found[package] = asked.stdout
    return found


def _run(*argv: str | Path) -> None:
    try:
        subprocess.run(argv, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise Failed(f"{' '.join(map(str, argv))} ended with {error.returncode}; its reason stands above") from error
