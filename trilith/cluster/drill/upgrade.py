"""A rolling upgrade for real: a copy of this program with one more column, deployed to a rehearsal by the usual path.

As a program: ``python -m trilith.cluster.drill.upgrade STATE`` deploys the version that it is part of.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import trilith
from trilith.cluster.bundle import bundle, copy_source
from trilith.cluster.deploy import cache_directory
from trilith.cluster.rehearse import Rehearsal, deploy_to
from trilith.cluster.state import Problem

ROLL_S = 900.0
# The new version reads and writes the column, in a table that is in use all the time; the old one does not know it.
REVISION = '''"""A column for a drill."""

import sqlalchemy as sa

from trilith.cluster.schema import steps
from trilith.compute.keypairs import KEYPAIR

PHASE = "expand"
KEYPAIR.table.append_column(sa.Column("{column}", sa.String(32)))


def upgrade() -> None:
    steps.add_column(KEYPAIR.table.name, sa.Column("{column}", sa.String(32)))
'''


def next_version(directory: Path) -> Path:
    """A version after this one, below `directory`. Each time it has another column."""
    column = f"drill_{int(time.time())}"
    copy_source(directory)
    shutil.copyfile(bundle(cache_directory() / "bundles").lock, directory / "requirements.lock")
    revisions = directory / "trilith/cluster/schema/revisions"
    for old in revisions.glob("r9999_*.py"):
        old.unlink()
    (revisions / f"r9999_{column}.py").write_text(REVISION.format(column=column))
    return directory


def this_version() -> Path:
    return Path(trilith.__file__).resolve().parent.parent


def roll(state: Path, version: Path) -> str:
    """Deploys the program in `version` to the rehearsal; which one that is. `Problem` where it stops."""
    argv = [sys.executable, "-m", "trilith.cluster.drill.upgrade", str(state)]
    try:
        done = subprocess.run(argv, cwd=version, capture_output=True, text=True, timeout=ROLL_S, check=False)
    except subprocess.TimeoutExpired:
        raise Problem(f"Deploying {version} to {state} does not end within {ROLL_S:.0f} s.") from None
    if done.returncode:
        raise Problem(f"Deploying {version} to {state}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout.split()[-1]


if __name__ == "__main__":
    try:
        deploy_to(Rehearsal(Path(sys.argv[1])), print)
        print(bundle(cache_directory() / "bundles").program)
    except Problem as problem:
        sys.exit(str(problem))
