"""Listings of accounts and containers as plain text, JSON and XML."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from trilith.objectstore.limits import MAX_LISTING
from trilith.objectstore.messages import Answered, Request, Response, is_true, iso_date
from trilith.objectstore.store import Object, Subdir

Entry = dict[str, Any]  # as JSON shows it: of a thing with a name, or {"subdir": ...}
MICRO = 1e-6
FORMATS = {"plain": "text/plain", "json": "application/json", "xml": "application/xml"}
MEDIA = ("text/plain", "application/json", "application/xml", "text/xml")
ACCOUNT_FIELDS = ("name", "count", "bytes", "last_modified", "storage_policy")
CONTAINER_FIELDS = ("name", "hash", "bytes", "content_type", "last_modified")


@dataclass(frozen=True)
class Asked:
    """What of a listing is asked for. `path` is an older way to say prefix and delimiter ``/``."""

    limit: int
    marker: str
    end_marker: str
    prefix: str
    delimiter: str
    reverse: bool
    path: str | None = None


def asked(request: Request) -> Asked:
    """Raises 412 for a limit above the largest, 400 for what is no UTF-8."""
    given = {name: request.param(name) for name in ("limit", "marker", "end_marker", "prefix", "delimiter", "path")}
    limit = MAX_LISTING
    if (text := given["limit"]) and text.isascii() and text.isdigit():
        limit = int(text)
        if limit > MAX_LISTING:
            raise Answered(412, f"Maximum limit is {MAX_LISTING}")
    prefix, delimiter, path = given["prefix"] or "", given["delimiter"] or "", given["path"]
    if path is not None:
        prefix, delimiter = f"{path.rstrip('/')}/" if path else "", "/"
    return Asked(
        limit=limit,
        marker=given["marker"] or "",
        end_marker=given["end_marker"] or "",
        prefix=prefix,
        delimiter=delimiter,
        reverse=is_true(request.param("reverse")),
        path=path,
    )


def media_of(request: Request) -> str:
    """The media type that the client wants. Raises 406 where it is none of ours."""
    if wanted := request.param("format"):
        return FORMATS.get(wanted.lower(), "text/plain")
    if not (best := _best(request, MEDIA)):
        raise Answered(406)
    return best


def best_media(request: Request, offered: tuple[str, ...]) -> str:
    """The one of `offered` that the client likes best; the first where it says nothing that is understood."""
    try:
        return _best(request, offered) or offered[0]
    except Answered:
        return offered[0]


def _best(request: Request, offered: tuple[str, ...]) -> str:
    """Raises 400."""
    best, best_quality = "", 0.0
    patterns = _accepted(request.headers.get("accept") or "*/*")
    for media in offered:
        fitting = [found for found in patterns if _fits(media, found[0])]
        if fitting and (quality := max(fitting, key=lambda found: _weight(found[0]))[1]) > best_quality:
            best, best_quality = media, quality
    return best


def _accepted(header: str) -> list[tuple[str, float]]:
    found = []
    for item in header.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    raise Answered(400, "Invalid Accept header") from None
        if media.count("/") != 1 and media != "*":
            raise Answered(400, "Invalid Accept header")
        found.append((media.lower(), quality))
    return found


def _fits(media: str, pattern: str) -> bool:
    return pattern in ("*", "*/*", media) or (pattern.endswith("/*") and media.startswith(pattern[:-1]))


def _weight(pattern: str) -> int:
    return 0 if pattern in ("*", "*/*") else 1 if pattern.endswith("/*") else 2


def entry(found: Object | Subdir) -> Entry:
    """As a container's listing shows it."""
    if isinstance(found, Subdir):
        return {"subdir": found.name}
    shown: Entry = {
        "name": found.name,
        "hash": found.etag,
        "bytes": found.size_bytes,
        "content_type": found.content_type.encode("latin-1").decode("utf-8", "replace"),
        "last_modified": iso_date(found.timestamp_us * MICRO),
    }
    shown |= {name: value for name, value in found.listed.items() if name != "version"}
    shown["bytes"] = int(shown["bytes"])
    return shown


def listing(request: Request, kind: str, name: str, entries: Iterable[Entry], headers: dict[str, str]) -> Response:
    """The response to a GET (or HEAD, which has no body) of an ``account`` or ``container``."""
    media = media_of(request)
    shown = headers | {"content-type": f"{media}; charset=utf-8", "accept-ranges": "bytes"}
    if "format" not in request.query:
        shown["vary"] = "Accept"
    if request.method == "HEAD":
        return Response(204, shown)
    if media.endswith("xml"):
        body = _xml(kind, name, entries)
    elif media.endswith("json"):
        body = json.dumps(list(entries)).encode()
    else:
        body = "".join(f"{entry.get('name', entry.get('subdir'))}\n" for entry in entries).encode()
    return Response(200 if body else 204, shown, body)


def _xml(kind: str, name: str, entries: Iterable[Entry]) -> bytes:
    root = Element(kind, name=name)
    child, fields = ("container", ACCOUNT_FIELDS) if kind == "account" else ("object", CONTAINER_FIELDS)
    for entry in entries:
        if "subdir" in entry:
            below = SubElement(root, "subdir", name=_legal(entry["subdir"]))
            if kind == "container":
                SubElement(below, "name").text = _legal(entry["subdir"])
            continue
        below = SubElement(root, child)
        for field in fields:
            SubElement(below, field).text = _legal(str(entry[field]))
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode").encode()


def _legal(text: str) -> str:
    """XML has no way to write control characters, which names may have."""
    return "".join(c if c >= " " or c in "\t\n\r" else "\ufffd" for c in text if c not in "\ufffe\uffff")
