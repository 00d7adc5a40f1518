"""`trilith logs`: the logs of all processes of a cloud, on all of its hosts, as one story in the order of time."""

import heapq
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

POLL_S = 0.3
NEIGHBOURS = 200
# 2026-01-31T10:20:30.123Z|00042|module|WARN|words: how Open vSwitch and OVN write
ENGINE_LINE = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+)Z\|\d+\|([^|]*)\|([A-Z]+)\|(.*)")
LEVELS = {"warn": "warning", "err": "error", "emer": "critical", "notice": "info"}
DAY = re.compile(r"\d{4}-\d\d-\d\d")
Entry = dict[str, Any]
HIDDEN = ("time", "level", "process", "host", "request_id", "message", "traceback")


@dataclass(frozen=True)
class Asked:
    """Which entries: of one request, since a time (ISO, UTC), of one host; `follow`: go on with what comes."""

    request_id: str | None = None
    since: str | None = None
    host: str | None = None
    follow: bool = False
    json: bool = False

    def wants(self, entry: Entry) -> bool:
        if self.request_id is not None and entry.get("request_id") != self.request_id:
            return False
        return self.since is None or str(entry["time"]) >= self.since


class LocalLogs:
    """One machine's own: the processes' files and the engines'."""

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories

    def groups(self, asked: Asked) -> Iterator[list[Path]]:
        """Files that are read together; groups follow one another in time."""
        yield [
            path for directory in self._directories for glob in ("*.log*", "*.jsonl*") for path in directory.glob(glob)
        ]

    def current(self, asked: Asked) -> list[Path]:
        """Those that are still written."""
        return [
            path for directory in self._directories for glob in ("*.jsonl", "*.log") for path in directory.glob(glob)
        ]


class StoredLogs:
    """What a logging host keeps of all hosts: ``HOST/DAY/PROGRAM.jsonl``. The entries' host is the directory's."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def groups(self, asked: Asked) -> Iterator[list[Path]]:
        first = _day_before(asked.since) if asked.since else ""
        for day in sorted({path.name for path in self._store.glob("*/*")}):
            if day >= first:
                yield self._of_day(asked, day)

    def current(self, asked: Asked) -> list[Path]:
        days = sorted({path.name for path in self._store.glob("*/*")})
        return self._of_day(asked, days[-1]) if days else []

    def _of_day(self, asked: Asked, day: str) -> list[Path]:
        return sorted(self._store.glob(f"{asked.host or '*'}/{day}/*.jsonl"))


def entries(logs: LocalLogs | StoredLogs, asked: Asked) -> Iterator[Entry]:
    """Every entry that is asked for, oldest first."""
    for paths in logs.groups(asked):
        merged = heapq.merge(*(_entries(path, asked.request_id) for path in paths), key=_time)
        yield from (entry for entry in merged if asked.wants(entry))


def show(logs: LocalLogs | StoredLogs, asked: Asked, write: Callable[[str], None]) -> None:
    """Write each entry that is asked for. With `follow` never returns."""
    shape = json.dumps if asked.json else as_text
    seen: dict[Path, int] = {}
    if asked.follow:
        seen = {path: path.stat().st_size for path in logs.current(asked)}
    for entry in entries(logs, asked):
        write(shape(entry))
    while asked.follow:
        time.sleep(POLL_S)
        fresh: list[Entry] = []
        for path in logs.current(asked):
            size = path.stat().st_size
            start = seen.get(path, 0) if size >= seen.get(path, 0) else 0
            with open(path, errors="replace") as file:
                file.seek(start)
                lines = file.read()
                whole = lines.rfind("\n") + 1
            seen[path] = start + len(lines[:whole].encode())
            fresh += [new for line in lines[:whole].splitlines() if (new := parse(line, path))]
        for entry in sorted(fresh, key=_time):
            if asked.wants(entry):
                write(shape(entry))


def parse(line: str, path: Path) -> Entry | None:
    """One line of a log as an entry; None for one that says nothing by itself (a raw line of a traceback)."""
    process = path.name.partition(".")[0]
    if line.startswith("{"):
        try:
            entry: Entry = json.loads(line)
        except ValueError:
            return None
        if "time" not in entry:
            return None
        if DAY.fullmatch(path.parent.name):
            entry["host"] = path.parent.parent.name
        entry["level"] = LEVELS.get(str(entry.get("level")), entry.get("level"))
        written = ENGINE_LINE.match(str(entry.get("message")))
        return entry | _of_engine(written, str(entry.get("process"))) if written else entry
    written = ENGINE_LINE.match(line)
    return _of_engine(written, process) if written else None


def _of_engine(written: re.Match[str], process: str) -> Entry:
    moment, module, level, words = written.groups()
    level = LEVELS.get(level.lower(), level.lower())
    return {"time": f"{moment}+00:00", "level": level, "process": process, "message": f"{module}: {words}"}


def as_text(entry: Entry) -> str:
    extras = " ".join(f"{name}={value}" for name, value in entry.items() if name not in HIDDEN and value is not None)
    request = f" [{entry['request_id']}]" if entry.get("request_id") else ""
    who = "/".join(str(entry[name]) for name in ("host", "process") if entry.get(name))
    text = f"{str(entry['time'])[:23]} {entry.get('level', ''):7} {who:14}{request} "
    text += f"{entry.get('message', '')} {extras}".rstrip()
    return f"{text}\n{entry['traceback'].rstrip()}" if entry.get("traceback") else text


def _entries(path: Path, request_id: str | None) -> Iterator[Entry]:
    """In the order of time: several workers write to one file, so neighbours may stand the wrong way round."""
    window: list[tuple[str, int, Entry]] = []
    with open(path, errors="replace") as file:
        for number, line in enumerate(file):
            if request_id is not None and request_id not in line:
                continue
            if entry := parse(line, path):
                heapq.heappush(window, (_time(entry), number, entry))
            if len(window) > NEIGHBOURS:
                yield heapq.heappop(window)[2]
    while window:
        yield heapq.heappop(window)[2]


def _time(entry: Entry) -> str:
    return str(entry["time"])


def _day_before(moment: str) -> str:
    """Files are named by the day on which a line arrived at the logging host, by its own calendar."""
    return (date.fromisoformat(moment[:10]) - timedelta(days=1)).isoformat()


def since(text: str) -> str:
    """``10m``, ``2h``, ``3d`` ago, or a time as ``2026-01-31T10:20``; ISO, UTC. Raises ValueError."""
    if match := re.fullmatch(r"(\d+)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
        return (datetime.now(UTC) - timedelta(**{unit: int(match[1])})).isoformat(timespec="milliseconds")
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
