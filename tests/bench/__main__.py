"""Measures Trilith on this machine and prints the figures beside their bars and beside upstream.

    python -m tests.bench [--json] [--port N]        QUICK=1 in the environment: fewer repetitions, a few minutes

Needs root (QEMU, OVN) and the guest image (`make guest`), no network. Exit status 1 when a median is over its bar.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

from tests.bench import measures
from tests.bench.figures import Figure, as_json, as_text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--port", type=int, default=19774, help="the clouds' port; the next one is used too")
    parser.add_argument("--only", choices=("starts", "machines", "requests"), help="one part of the figures")
    given = parser.parse_args()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    if os.geteuid() != 0:
        print("Machines and networks need root: sudo make bench", file=sys.stderr)
        return 2
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"  {time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    parts: dict[str, Callable[[], list[Figure]]] = {
        "starts": lambda: measures.starts(given.port, 3 if quick else 9, say),
        "machines": lambda: measures.machines(given.port, 3 if quick else 9, 20.0, say),
        "requests": lambda: measures.requests(given.port, 100 if quick else 500, say),
    }
    figures = [figure for name, part in parts.items() if given.only in (None, name) for figure in part()]
    print(as_json(figures) if given.json else as_text(figures))
    return int(any(figure.over for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
