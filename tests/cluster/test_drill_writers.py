"""What the drill's writing machines say, and what follows from it."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trilith.cluster.drill.writers import SCRIPT, Told, Writers

SERVER = "77777777-7777-7777-7777-777777777777"


class Talking:
    """A user whose one server has this console. Started again, it says what it finds."""

    def __init__(self, console: str, found: str = "") -> None:
        self.console, self.found, self.reboots = console, found, 0

    def ask(self, method: str, path: str, body: Any) -> Any:
        if "reboot" in body:
            self.reboots += 1
            self.console = self.found
            return SimpleNamespace(status=202)
        return SimpleNamespace(status=200, json={"output": self.console})

    def wait(self, *words: str) -> None: ...


def writers(user: Talking) -> Writers:
    made = Writers.__new__(Writers)
    made._stage, made._user, made.servers, made.addresses = None, user, [SERVER], []  # type: ignore[assignment]
    return made


def test_it_tells_how_far_it_is() -> None:
    text = "booting\nstamps: found 3 records of 1 lives, 0 out of order\nstamps: wrote 4, slowest 0 s\n"
    assert writers(Talking(text)).told(SERVER) == Told(4, 0, False)
    assert writers(Talking(text + "stamps: wrote 5, slowest 7 s\nstamps: wr")).slowest_s() == 7.0
    assert writers(Talking("booting")).told(SERVER) is None


@pytest.mark.parametrize(
    ("console", "found", "words"),
    [
        ("stamps: wrote 9, slowest 1 s", "stamps: found 9 records of 2 lives, 0 out of order", None),
        ("stamps: wrote 9, slowest 1 s", "stamps: found 8 records of 2 lives, 0 out of order", "had written 9 records"),
        ("stamps: wrote 9, slowest 1 s", "stamps: found 9 records of 2 lives, 3 out of order", "ran twice"),
        (
            "stamps: failed at 9\nstamps: wrote 9, slowest 1 s",
            "stamps: found 9 records of 2 lives, 0 out of order",
            "had an I/O error",
        ),
    ],
)
def test_what_is_wrong(console: str, found: str, words: str | None) -> None:
    user = Talking(console, found)
    wrong = writers(user).wrong({SERVER: Told(9, 1, False)})
    assert user.reboots == 1
    assert ([] if words is None else [True]) == [words in each for each in wrong if words is not None]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(1 << 23)
    return path


def record(disk: Path, number: int, life: str) -> None:
    with open(disk, "r+b") as file:
        file.seek(number * 512)
        file.write(f"{life} {number}\n".encode().ljust(512, b"\0"))


def found(disk: Path) -> str:
    """What the machines' script says of the disk: its own lines, up to where it begins to write."""
    script = SCRIPT.read_text().partition("<<'END'\n")[2].partition("\nnumber=$1")[0]
    script = script.replace("disk=/dev/vdb", f"disk={disk}").replace("[ -b ", "[ -f ").replace(">/dev/console", "")
    place = {**os.environ, "PATH": os.environ["PATH"]}
    script = script.replace("/run/stamps", f"{disk}.read")
    said = subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=True, env=place)
    begins, last = said.stdout.splitlines()
    assert begins.startswith("stamps: begins life ")
    return last


def test_the_script_reads_an_empty_disk(disk: Path) -> None:
    assert found(disk) == "stamps: found 0 records of 0 lives, 0 out of order"


def test_the_script_knows_lives_that_follow_each_other(disk: Path) -> None:
    for number, life in enumerate(["a", "a", "b", "b", "b", "c"]):
        record(disk, number, life)
    assert found(disk) == "stamps: found 6 records of 3 lives, 0 out of order"


def test_the_script_knows_two_lives_at_once(disk: Path) -> None:
    for number, life in enumerate(["a", "a", "b", "a", "b"]):
        record(disk, number, life)
    assert found(disk) == "stamps: found 5 records of 2 lives, 2 out of order"


def test_the_script_knows_a_record_that_is_missing(disk: Path) -> None:
    for number in (0, 1, 3):
        record(disk, number, "a")
    assert found(disk) == "stamps: found 3 records of 1 lives, 1 out of order"


@pytest.mark.parametrize(("lives", "words"), [(1, []), (2, ["it has written in 2 lives"])])
def test_a_machine_that_shall_have_lived_on(lives: int, words: list[str]) -> None:
    user = Talking("stamps: wrote 9, slowest 1 s", f"stamps: found 9 records of {lives} lives, 0 out of order")
    wrong = writers(user).wrong({SERVER: Told(9, 1, False)}, lived_on=True)
    assert [word in sentence for word, sentence in zip(words, wrong, strict=True)] == [True] * len(words)
