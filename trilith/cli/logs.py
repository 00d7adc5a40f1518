"""`trilith logs`: the logs of all processes of a cloud as one story, in the order of time."""

import heapq
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

POLL_S = 0.3
NEIGHBOURS = 200
# 2026-01-31T10:20:30.123Z|00042|module|WARN|words: how Open vSwitch and OVN write
ENGINE_LINE = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+)Z\|\d+\|([^|]*)\|([A-Z]+)\|(.*)")
HIDDEN = ("time", "level", "process", "request_id", "message", "traceback")


def entries(directories: list[Path]) -> Iterator[dict[str, Any]]:
    """Every entry of every log, oldest first."""
    paths = [path for directory in directories for path in directory.glob("*.log*")]
    paths += [path for directory in directories for path in directory.glob("*.jsonl*")]
    return heapq.merge(*(_entries(path) for path in paths), key=lambda entry: str(entry["time"]))


def show(directories: list[Path], request_id: str | None, follow: bool, write: Callable[[str], None]) -> None:
    """Write each entry that is asked for. With `follow` never returns."""
    seen: dict[Path, int] = {}
    if follow:
        seen = {path: path.stat().st_size for path in _current(directories)}
    for entry in entries(directories):
        if _asked(entry, request_id):
            write(as_text(entry))
    while follow:
        time.sleep(POLL_S)
        fresh: list[dict[str, Any]] = []
        for path in _current(directories):
            size = path.stat().st_size
            start = seen.get(path, 0) if size >= seen.get(path, 0) else 0
            with open(path, errors="replace") as file:
                file.seek(start)
                lines = file.read()
                whole = lines.rfind("\n") + 1
            seen[path] = start + len(lines[:whole].encode())
            fresh += [new for line in lines[:whole].splitlines() if (new := parse(line, path))]
        for entry in sorted(fresh, key=lambda entry: str(entry["time"])):
            if _asked(entry, request_id):
                write(as_text(entry))


def parse(line: str, path: Path) -> dict[str, Any] | None:
    """One line of a log as an entry; None for one that says nothing by itself (a raw line of a traceback)."""
    if line.startswith("{"):
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        return entry if "time" in entry else None
    if match := ENGINE_LINE.match(line):
        moment, module, level, words = match.groups()
        process = path.name.partition(".")[0]
        return {
            "time": f"{moment}+00:00",
            "level": {"WARN": "warning", "ERR": "error"}.get(level, level.lower()),
            "process": process,
            "message": f"{module}: {words}",
        }
    return None


def as_text(entry: dict[str, Any]) -> str:
    extras = " ".join(f"{name}={value}" for name, value in entry.items() if name not in HIDDEN and value is not None)
    request = f" [{entry['request_id']}]" if entry.get("request_id") else ""
    text = f"{str(entry['time'])[:23]} {entry.get('level', ''):7} {entry.get('process', ''):14}{request} "
    text += f"{entry.get('message', '')} {extras}".rstrip()
    return f"{text}\n{entry['traceback'].rstrip()}" if entry.get("traceback") else text


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """In the order of time: several workers write to one file, so neighbours may stand the wrong way round."""
    window: list[tuple[str, int, dict[str, Any]]] = []
    with open(path, errors="replace") as file:
        for number, line in enumerate(file):
            if entry := parse(line, path):
                heapq.heappush(window, (str(entry["time"]), number, entry))
            if len(window) > NEIGHBOURS:
                yield heapq.heappop(window)[2]
    while window:
        yield heapq.heappop(window)[2]


def _asked(entry: dict[str, Any], request_id: str | None) -> bool:
    return request_id is None or entry.get("request_id") == request_id


def _current(directories: list[Path]) -> list[Path]:
    return [path for directory in directories for suffix in ("*.jsonl", "*.log") for path in directory.glob(suffix)]
