"""Values for kinds: one that each takes, and many that should do no harm anywhere."""

import uuid
from collections.abc import Iterator
from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Either, Json, Kind, ListOf, MapOf, Object
from trilith.kernel.versions import Version

KEY, TAG = "a-key", "a-tag"  # that specimens have, and that paths name
SOME_ID = str(uuid.UUID(int=0xC0DE))
CANDIDATES: tuple[Any, ...] = (
    "a",
    1,
    True,
    SOME_ID,
    "10.99.0.9",
    "10.99.0.0/24",
    "2031-01-01T00:00:00",
    "fa:16:3e:00:00:01",
    "aa",
    "YQ==",
    "a-long-enough-password",
    {},
    [],
    0.5,
    None,
)
HOSTILE: tuple[Any, ...] = (
    None,
    "",
    " ",
    "x" * 70_000,
    "a\x00b",
    "\ud7ff\U0001f4a9\u202e",
    "../../etc/passwd",
    "' OR 1=1 --",
    "9" * 5000,
    7,
    -1,
    2**70,
    1.5,
    True,
    {},
    [],
    {"a": {"b": ["c"]}},
    [{}],
    [[], None, 7],
)


def takes(kind: Kind, value: Any, at: Version) -> bool:
    try:
        kind.check(value, "sample", at)
    except (Bad, Fault):
        return False
    return True


def good(kind: Kind, at: Version) -> Any:
    """The smallest value that the kind takes at a version."""
    if isinstance(kind, Object):
        members = kind.members.items()
        needed = {name: m for name, m in members if m.required and m.since <= at <= m.until}
        return {name: good(member.kind, at) for name, member in needed.items()}
    if isinstance(kind, ListOf):
        return [good(kind.of, at) for _ in range(max(kind.least, 1))]
    if isinstance(kind, MapOf):
        return {KEY: good(kind.value, at)}
    if isinstance(kind, Either):
        return good(kind.kinds[0], at)
    for value in kind.options if hasattr(kind, "options") else CANDIDATES:
        if takes(kind, value, at):
            return value
    least = getattr(kind, "least", 0) or getattr(kind, "low", 0)
    return "a" * least if hasattr(kind, "least") else least


def hostile(kind: Kind, at: Version) -> Iterator[Any]:
    """Values that should do no harm, also deep inside of what the kind takes."""
    yield from HOSTILE
    if isinstance(kind, Object):
        whole = good(kind, at)
        for name, member in kind.members.items():
            if member.since <= at <= member.until:
                yield from (whole | {name: value} for value in hostile(member.kind, at))
    elif isinstance(kind, ListOf):
        yield from ([value] for value in hostile(kind.of, at))
    elif isinstance(kind, MapOf):
        yield from ({"k": value} for value in hostile(kind.value, at))
        yield from ({key: good(kind.value, at)} for key in ("", "a\x00", "k" * 5000, "a/b"))
    elif isinstance(kind, Either):
        for one in kind.kinds:
            if isinstance(one, Object | ListOf | MapOf):
                yield from hostile(one, at)
    elif isinstance(kind, Json):
        yield from ({"k": value} for value in HOSTILE)


def text_of(value: Any) -> str:
    """A value in an assertion's message."""
    shown = repr(value)
    return shown if len(shown) < 80 else f"{shown[:60]}... ({len(shown)} characters)"
