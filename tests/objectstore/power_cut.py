"""Takes a disk's power away while processes write to a store on it, and looks at what the disk has then.

    unshare --mount python -m tests.objectstore.power_cut DIRECTORY [CUTS]

The disk is a file in a file system that can copy it in one instant (XFS): each copy is what a disk holds whose power
was cut at that moment, with what the kernel had not written yet missing. Mounts end with this process.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.objectstore.killing import ROOT, Expected, check
from tests.objectstore.stores import files_store

WRITERS = 2
BETWEEN_S = (0.3, 1.0)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def mounted(disk: Path, at: Path) -> Path:
    at.mkdir()
    run("mount", "-o", "loop", str(disk), str(at))
    return at


def make_disk(directory: Path) -> Path:
    """The file that is the disk, with a file system on it."""
    with open(directory / "outer", "wb") as outer:
        outer.truncate(1 << 30)
    run("mkfs.xfs", "-q", "-m", "reflink=1", str(directory / "outer"))
    disk = mounted(directory / "outer", directory / "copies") / "disk"
    with open(disk, "wb") as file:
        file.truncate(400 << 20)
    run("mkfs.ext4", "-q", str(disk))
    return disk


def main() -> None:
    directory, cuts = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    disk, dice = make_disk(directory), random.Random(2)
    at = mounted(disk, directory / "disk") / "objects"
    store = files_store(at)
    store.create_container("a", "c", {})
    writers, said = [], []
    for number in range(WRITERS):
        fd, name = tempfile.mkstemp(dir=directory)
        argv = [sys.executable, "-m", "tests.objectstore.putter", f"files:{at}", f"p{number}", "1"]
        writers.append(subprocess.Popen(argv, stdout=fd, cwd=ROOT))
        said.append(Path(name))
        os.close(fd)
    moments = [cut(disk, said, number, dice) for number in range(cuts)]
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    store.close()
    for number, (before, after) in enumerate(moments):
        look(directory, disk.with_name(f"cut{number}"), said, before, after)


def cut(disk: Path, said: list[Path], number: int, dice: random.Random) -> tuple[list[int], list[int]]:
    """How many lines each writer had said before and after the power was gone."""
    time.sleep(dice.uniform(*BETWEEN_S))
    while not all(path.stat().st_size for path in said):
        time.sleep(0.05)
    before = [len(whole_lines(path)) for path in said]
    run("cp", "--reflink=always", str(disk), str(disk.with_name(f"cut{number}")))
    return before, [len(whole_lines(path)) for path in said]


def whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def look(directory: Path, disk: Path, said: list[Path], before: list[int], after: list[int]) -> None:
    """A cloud that starts again on what the disk has."""
    expected = Expected()
    for path, sure, most in zip(said, before, after, strict=True):
        expected.hear(whole_lines(path)[:most], sure)
    store = files_store(mounted(disk, directory / disk.name) / "objects")
    check(store, expected)
    store.sweep()
    check(store, expected)
    store.close()
    print(f"{disk.name}: {expected.acknowledged} acts were acknowledged, all are there; {len(expected.states)} names")


if __name__ == "__main__":
    main()
