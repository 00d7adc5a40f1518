"""Writers are killed at any moment. ``TRILITH_CRASH_OBJECTS=100000`` makes it long."""

import subprocess
import sys
from pathlib import Path

from tests.objectstore.killing import ROOT, check, found, kill_again_and_again
from tests.objectstore.stores import files_store


def test_what_was_acknowledged_is_there_and_nothing_else_however_often_writers_are_killed(tmp_path: Path) -> None:
    directory = tmp_path / "objects"
    store = files_store(directory)
    store.create_container("a", "c", {"x-container-read": ".r:*"})
    expected = kill_again_and_again(f"files:{directory}")
    check(store, expected)
    store.sweep()
    check(store, expected)
    assert len(found(store)) > 100
    # nothing is left over but what overwritten and deleted objects leave for a minute
    whose = {store.object("a", "c", name).blob for name in found(store)}  # type: ignore[union-attr]
    on_disk = {path.relative_to(directory / "data").as_posix() for path in (directory / "data").glob("*/*")}
    assert on_disk == whose
    store.close()

    # the index is made anew from the files
    (directory / "index.sqlite").unlink()
    store = files_store(directory)
    check(store, expected)
    assert store.container("a", "c").headers == {"x-container-read": ".r:*"}  # type: ignore[union-attr]
    store.close()


def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", sys.executable, "-m", "tests.objectstore.power_cut", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all are there") == 5
