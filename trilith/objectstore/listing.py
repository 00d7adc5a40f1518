"""Lists by prefix, delimiter and markers, over any ordered set of names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from trilith.objectstore.store import Page, Subdir

LAST = chr(0x10FFFF)
SCAN_ROWS = 64  # asked for at first where most may turn out to be in one subdir


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True)
class Span:
    """Names after `lower` (or it, too, if `inclusive`) and before `upper`; None: no bound."""

    lower: str | None = None
    inclusive: bool = False
    upper: str | None = None

    def has(self, name: str) -> bool:
        below = self.lower is not None and (name < self.lower or (name == self.lower and not self.inclusive))
        return not below and (self.upper is None or name < self.upper)


Scan = Callable[[Span, int, bool], Sequence[T]]
"""The first so many entries within a span, ascending, or descending from its end. Fewer only when there are no more."""


def listing(page: Page, scan: Scan[T]) -> list[T | Subdir]:
    """What `page` asks for. Rolls names up into subdirs without reading what is in them."""
    span = _span(page)
    if not page.delimiter:
        return list(scan(span, page.limit, page.reverse))
    found: list[T | Subdir] = []
    lowest = page.end_marker if page.reverse else page.marker
    rows = SCAN_ROWS
    while len(found) < page.limit and (part := scan(span, min(rows, page.limit), page.reverse)):
        for entry in part:
            subdir = subdir_of(entry.name, page)
            if subdir is not None:
                if subdir != lowest:
                    found.append(Subdir(subdir))
                span = _past(span, subdir, page.reverse)
                break
            found.append(entry)
            if len(found) == page.limit:
                break
            span = replace(span, upper=entry.name) if page.reverse else Span(entry.name, False, span.upper)
        else:
            rows = min(rows * 4, page.limit)
    return found


def subdir_of(name: str, page: Page) -> str | None:
    """The subdir that a list tells instead of `name`; None if it tells the name."""
    end = name.find(page.delimiter, len(page.prefix))
    return None if end < 0 else name[: end + len(page.delimiter)]


def after_all(prefix: str) -> str | None:
    """The first text that is after everything that begins with `prefix`; None if there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        if prefix[position] != LAST:
            following = ord(prefix[position]) + 1
            # between these two are no characters, only halves of such
            return prefix[:position] + chr(0xE000 if following == 0xD800 else following)
    return None


def each(page: Page, ask: Callable[[Page], Sequence[T | Subdir]]) -> Iterator[T | Subdir]:
    """Every entry of a list, page by page."""
    while True:
        part = ask(page)
        yield from part
        if len(part) < page.limit:
            return
        page = replace(page, marker=part[-1].name)


def _span(page: Page) -> Span:
    low, high = (page.end_marker, page.marker) if page.reverse else (page.marker, page.end_marker)
    lower, inclusive = (low, False) if low and low >= page.prefix else (page.prefix, True)
    upper = after_all(page.prefix) if page.prefix else None
    if high and (upper is None or high < upper):
        upper = high
    return Span(lower or None, inclusive, upper)


def _past(span: Span, subdir: str, reverse: bool) -> Span:
    if reverse:
        return replace(span, upper=subdir)
    following = after_all(subdir)
    if following is None:
        return replace(span, upper=subdir)  # nothing is past it: an empty span
    return Span(following, True, span.upper)
