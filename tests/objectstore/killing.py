"""Processes that use a store and are killed in the middle of it; then whether the store is what was acknowledged."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from trilith.objectstore.listing import each
from trilith.objectstore.store import Object, Page, Store

ROOT = Path(__file__).parents[2]
ACKNOWLEDGED = int(os.environ.get("TRILITH_CRASH_OBJECTS", "1000"))  # acts, at least, before the last one is killed
LIVES_S = (0.15, 0.6)  # of a process, from its first word on
State = tuple[str, str] | None
"""ETag and mark of an object; None: there is none."""


class Expected:
    """What each name may be: one state, or two while nobody knows whether an act was done."""

    def __init__(self) -> None:
        self.states: dict[str, set[State]] = {}
        self.acknowledged = 0

    def hear(self, lines: Iterable[str], sure: int | None = None) -> None:
        """What one process said before it died. Acts of one thread follow each other. Of acts after the first `sure`
        lines nobody knows whether they were done."""
        open_acts: dict[str, tuple[str, set[State]]] = {}
        for number, line in enumerate(lines):
            if not line.endswith("\n"):
                break  # killed in the middle of a word
            if sure is not None and number >= sure and "done" in json.loads(line):
                continue
            told = json.loads(line)
            name, who = told["name"], told["who"]
            before = self.states.setdefault(name, {None})
            if "done" in told:
                self.acknowledged += 1
                _, before = open_acts.pop(who)
                self.states[name] = after(told, before, told["done"])
                assert self.states[name], f"{told} cannot follow {before}"
            else:
                open_acts[who] = (name, before)
                self.states[name] = before | after(told, before, None)


def after(told: dict[str, str], before: set[State], done: str | None) -> set[State]:
    """The states that an act leaves; `done`: what it was answered, None if it may have been done or not."""
    do, new = told["do"], (told["etag"], told["mark"])
    if done is None:
        return {state for was in before for state in _after(do, was, new)}
    if done == "missing":
        return {was for was in before if was is None}
    if done == "precondition":
        return {was for was in before if was is not None}
    return {state for was in before for state in _after(do, was, new)}


def _after(do: str, was: State, new: tuple[str, str]) -> set[State]:
    if do == "put":
        return {new}
    if do == "new":
        return {new} if was is None else set()
    if was is None:
        return set()
    return {None} if do == "delete" else {(was[0], new[1])}


def kill_again_and_again(kind: str, processes: int = 3, threads: int = 4, acknowledged: int = ACKNOWLEDGED) -> Expected:
    """Until enough was acknowledged; all are dead then."""
    dice, expected = random.Random(1), Expected()
    lives = 0
    running = [Life(kind, f"p{number}", lives, threads) for number in range(processes)]
    try:
        while expected.acknowledged < acknowledged:
            time.sleep(dice.uniform(*LIVES_S) / processes)
            victim = running.pop(0)
            victim.end(expected)
            lives += 1
            running.append(Life(kind, victim.who, lives, threads))
    finally:
        for life in running:
            life.end(expected)
    return expected


class Life:
    """One process, from start to kill."""

    def __init__(self, kind: str, who: str, number: int, threads: int) -> None:
        self.who = who
        fd, name = tempfile.mkstemp(prefix="said-")
        self._said = Path(name)
        argv = [sys.executable, "-m", "tests.objectstore.putter", kind, who, str(number), str(threads)]
        self._process = subprocess.Popen(argv, stdout=fd, cwd=ROOT)
        os.close(fd)

    def end(self, expected: Expected) -> None:
        deadline = time.monotonic() + 60
        while self._said.stat().st_size == 0 and time.monotonic() < deadline:
            assert self._process.poll() is None, f"{self.who} ended by itself"
            time.sleep(0.02)
        time.sleep(0.1)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        with open(self._said) as lines:
            expected.hear(lines)
        self._said.unlink()


def found(store: Store) -> dict[str, Object]:
    """What the list of the container "c" tells."""
    told = each(Page(limit=1000), lambda page: store.list_objects("a", "c", page))
    return {entry.name: entry for entry in told if isinstance(entry, Object)}


def check(store: Store, expected: Expected) -> None:
    """Every acknowledged object is there with its bytes, nothing else is, and the counts are exact."""
    listed = found(store)
    for name, states in expected.states.items():
        assert state(store, name, listed.get(name)) in states, name
    assert listed.keys() <= expected.states.keys()
    total_bytes = sum(entry.size_bytes for entry in listed.values())
    account, container = store.account("a"), store.container("a", "c")
    assert account is not None
    assert container is not None
    assert (account.object_count, account.size_bytes) == (len(listed), total_bytes)
    assert (container.object_count, container.size_bytes) == (len(listed), total_bytes)


def state(store: Store, name: str, entry: Object | None) -> State:
    """The object, as its list, its metadata and its bytes say; they must agree."""
    reader = store.open("a", "c", name)
    if reader is None:
        assert entry is None, f"{name} is listed and is not there"
        return None
    assert entry is not None, f"{name} is there and is not listed"
    md5 = hashlib.md5()
    for chunk in reader.chunks():
        md5.update(chunk)
    reader.close()
    assert md5.hexdigest() == reader.object.etag == entry.etag, name
    assert reader.object == store.object("a", "c", name)
    return entry.etag, reader.object.headers["mark"]
