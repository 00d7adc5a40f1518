"""What of an object a GET gets: all of it, nothing because the client has it already, or ranges of its bytes."""

import itertools
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trilith.objectstore.messages import Headers, Request, Response, http_date, moment_of, page, timestamp

MAX_RANGES = 50
MAX_OVERLAPS = 2
MAX_DESCENTS = 8
Span = tuple[int, int]  # first byte, and the one behind the last


@dataclass(frozen=True)
class Content:
    """The bytes that a name stands for. `read` gives those of a span as pieces; its result is closed after use.

    `etag` without quotes; `quoted`: whether it is shown with them, because it is no MD5 of the bytes.
    """

    size_bytes: int
    etag: str
    modified_s: float
    media: str
    read: Callable[[int, int], Iterator[bytes]]
    quoted: bool = False


def deliver(request: Request, content: Content, headers: Headers) -> Response:
    """The response to a GET or HEAD; `headers` are shown with it."""
    shown = headers | {
        "content-type": content.media,
        "etag": f'"{content.etag}"' if content.quoted else content.etag,
        "last-modified": http_date(content.modified_s),
        "x-timestamp": timestamp(content.modified_s),
        "accept-ranges": "bytes",
    }
    if status := condition(request, content.etag, content.modified_s):
        return Response(status, shown) if status == 304 else page(status, "", shown | {"content-type": "text/html"})
    if request.method == "HEAD":
        return Response(200, shown, b"", content.size_bytes)
    spans = _spans(request, content)
    if spans is None:
        return Response(200, shown, content.read(0, content.size_bytes), content.size_bytes)
    if not spans:
        return page(416, "", shown | {"content-range": f"bytes */{content.size_bytes}", "content-type": "text/html"})
    if len(spans) == 1:
        first, behind = spans[0]
        shown["content-range"] = f"bytes {first}-{behind - 1}/{content.size_bytes}"
        return Response(206, shown, content.read(first, behind), behind - first)
    return _several(content, shown, spans)


# conditions
def condition(request: Request, etag: str, modified_s: float) -> int | None:
    """412 or 304 where the request's conditions forbid to go on."""
    given = request.headers
    if (wanted := given.get("if-match")) is not None and not _names(wanted, etag):
        return 412
    if (known := given.get("if-none-match")) is not None and _names(known, etag):
        return 304 if request.method in ("GET", "HEAD") else 412
    whole_s = -(-modified_s // 1)
    since = moment_of(given.get("if-modified-since"))
    if known is None and since is not None and whole_s <= since:
        return 304
    until = moment_of(given.get("if-unmodified-since"))
    return 412 if until is not None and whole_s > until else None


def _names(header: str, etag: str) -> bool:
    """Whether a list of entity tags names this one."""
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or etag in tags


# ranges
def _spans(request: Request, content: Content) -> list[Span] | None:
    """None: no range is asked for, or nothing that is one; []: none of them can be had."""
    header = request.headers.get("range")
    if header is None or not _still(request, content):
        return None
    asked = _asked(header)
    if not asked:
        return None
    found = []
    for first, last in asked:
        if first is None:
            assert last is not None
            span = (max(content.size_bytes - last, 0), content.size_bytes)
        else:
            span = (first, content.size_bytes if last is None else min(last + 1, content.size_bytes))
        if span[0] < span[1]:
            found.append(span)
    return [] if _abusive(found) else found


def _still(request: Request, content: Content) -> bool:
    """``If-Range``: a part is of use only while the rest, which the client has, is still the same."""
    known = request.headers.get("if-range")
    if known is None:
        return True
    moment = moment_of(known)
    return _names(known, content.etag) if moment is None else -(-content.modified_s // 1) <= moment


def _asked(header: str) -> list[tuple[int | None, int | None]]:
    """(first, last) of each range as it was written; [] for what is no list of ranges of bytes."""
    unit, _, text = header.partition("=")
    if unit.strip().lower() != "bytes":
        return []
    found: list[tuple[int | None, int | None]] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", part)
        if match is None or match[1] == match[2] == "":
            return []
        first, last = (int(digits) if digits else None for digits in match.groups())
        if first is not None and last is not None and last < first:
            return []
        found.append((first, last))
    return found


def _abusive(spans: list[Span]) -> bool:
    """Many, overlapping or shuffled ranges cost more than they can be good for."""
    overlaps = sum(
        any(a < other_b and other_a < b for other_a, other_b in spans[:number])
        for number, (a, b) in enumerate(spans[: MAX_RANGES + 1])
    )
    descents = sum(later < before for (before, _), (later, _) in itertools.pairwise(spans))
    return len(spans) > MAX_RANGES or overlaps > MAX_OVERLAPS or descents > MAX_DESCENTS


def _several(content: Content, shown: Headers, spans: list[Span]) -> Response:
    boundary = uuid.uuid4().hex
    heads = [
        f"--{boundary}\r\nContent-Type: {content.media}\r\n"
        f"Content-Range: bytes {first}-{behind - 1}/{content.size_bytes}\r\n\r\n".encode("latin-1")
        for first, behind in spans
    ]
    tail = f"--{boundary}--".encode()
    length = sum(len(head) + 2 for head in heads) + sum(b - a for a, b in spans) + len(tail)

    def parts() -> Iterator[bytes]:
        for head, (first, behind) in zip(heads, spans, strict=True):
            yield head
            yield from content.read(first, behind)
            yield b"\r\n"
        yield tail

    shown["content-type"] = f"multipart/byteranges; boundary={boundary}"
    return Response(206, shown, parts(), length)
