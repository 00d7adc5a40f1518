"""The ledger: every operation of upstream's API references, and what becomes of it here.

    python -m tools.ledger             totals of each service, as they stand in README.md
    python -m tools.ledger --missing   the operations that are not built

``tests/contract/operations/SERVICE.txt`` has one operation a line, ``STATE METHOD PATH [ACTION] [| reason]``:

    done      it works, as its declaration says
    refused   it is answered, always with upstream's error; the reason says why
    missing   it is not built, and answers 404 (405 where the path has other methods, 400 for an unknown action)
    own       it is built, and not on the list of operations that was made from upstream's API references

A path has ``{}`` for each variable part and no project's id; an action is the key of the body (``os-start``), or what
the query says (``?bulk-delete``). ``tests/contract/test_ledger.py`` compares the files with the declarations.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "contract" / "operations"
STATES = ("done", "refused", "missing", "own")
COLUMNS = ("operations", "done", "refused", "missing", "own")


class Operation(NamedTuple):
    """As the ledger names it."""

    path: str
    method: str
    action: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.action}".rstrip()


class Row(NamedTuple):
    service: str
    operation: Operation
    state: str
    reason: str

    def __str__(self) -> str:
        return f"{self.state} {self.operation}" + (f" | {self.reason}" if self.reason else "")


def rows() -> Iterator[Row]:
    """Of every service, in the order of the files."""
    for file in sorted(FOLDER.glob("*.txt")):
        for line in file.read_text().splitlines():
            facts, _, reason = line.partition(" | ")
            state, method, path, *action = facts.split(" ")
            yield Row(file.stem, Operation(path, method, " ".join(action)), state, reason)


def totals() -> dict[str, Counter[str]]:
    """By service, and of all: how many are in each state. `operations` are upstream's: done, refused and missing."""
    found: dict[str, Counter[str]] = {}
    for row in rows():
        for name in (row.service, "all"):
            count = found.setdefault(name, Counter())
            count[row.state] += 1
            count["operations"] += row.state != "own"
    return {name: found[name] for name in [*sorted(found.keys() - {"all"}), "all"]}


def table() -> str:
    """The totals, as Markdown."""
    lines = ["| service | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, count in totals().items():
        lines.append(f"| {name} | " + " | ".join(str(count[column]) for column in COLUMNS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.ledger", description="What is built of upstream's APIs.")
    parser.add_argument("--missing", action="store_true", help="list the operations that are not built")
    if parser.parse_args().missing:
        print(*(row for row in rows() if row.state == "missing"), sep="\n")
    else:
        print(table())


if __name__ == "__main__":
    main()
