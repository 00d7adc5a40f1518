"""What a name stands for when it is read: an object's own bytes, those that a symlink leads to, or those of the
segments that a manifest lists."""

import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.delivery import Content
from trilith.objectstore.limits import MAX_LISTING, MAX_SYMLINKS
from trilith.objectstore.messages import Answered, Headers, on_wire, text_of
from trilith.objectstore.store import Object, Page, Reader, Subdir
from trilith.objectstore.version_names import CURRENT, DELETED, VERSION, version_at

MICRO = 1e-6
LINK = "x-object-sysmeta-symlink-target"
LINK_ACCOUNT = "x-object-sysmeta-symlink-target-account"
LINK_ETAG = "x-object-sysmeta-symlink-target-etag"
LINK_BYTES = "x-object-sysmeta-symlink-target-bytes"
STATIC = "x-static-large-object"
STATIC_ETAG = "x-object-sysmeta-slo-etag"
STATIC_BYTES = "x-object-sysmeta-slo-size"
DYNAMIC = "x-object-manifest"
SHOWN_VERSION = "x-object-version-id"
MAX_DEPTH = 10  # of manifests in manifests
Segments = list[dict[str, Any]]


@dataclass
class Found:
    """An object as a reader sees it: `target` is where it was found in the end. To be closed."""

    target: Target
    object: Object
    content: Content
    headers: Headers
    held: contextlib.ExitStack

    def close(self) -> None:
        self.held.close()


@dataclass(frozen=True)
class Raw:
    """What is to be shown itself, and not what it stands for."""

    symlink: bool = False
    manifest: bool = False


@dataclass(frozen=True)
class Segment:
    """`size_bytes` of a large object, from `start` on in what `target` stands for; or `data`."""

    size_bytes: int
    target: Target | None = None
    start: int = 0
    etag: str = ""
    whole_bytes: int = 0
    data: bytes = b""


def asked_version(call: Call) -> str:
    """The version that the request is about; empty for the one that is there now. No signed URL is about another."""
    return call.request.param("version-id") or "" if call.grant is None else ""


def find(
    call: Call, target: Target, raw: Raw = Raw(), depth: int = 0, peek: bool = False, version_id: str = ""
) -> Found:
    """Raises 401, 403, 404; 409 where links or segments lead nowhere. `peek`: the bytes are not wanted."""
    found, reader, place = _followed(call, target, raw, peek, version_id)
    shown = _shown(found, raw)
    if place != target:
        shown["content-location"] = on_wire(place.path)
    with contextlib.ExitStack() as held:
        held.callback(_close, reader)
        content = None if raw.manifest else _large(call, place, found, reader, depth)
        return Found(place, found, content or _plain(found, reader), shown, held.pop_all())


def _followed(
    call: Call, target: Target, raw: Raw, peek: bool, version_id: str
) -> tuple[Object, Reader | None, Target]:
    """The end of a chain of symlinks."""
    wanted_etag, hops = "", 0
    while True:
        found, reader = look(call, target, peek, version_id)
        version_id = ""
        link = found.headers.get(LINK)
        if link is None or raw.symlink:
            etag = found.headers.get(STATIC_ETAG, found.etag)
            if wanted_etag and link is None and etag != wanted_etag:
                _close(reader)
                sentence = f"Object Etag '{etag}' does not match X-Symlink-Target-Etag header '{wanted_etag}'"
                raise Answered(409, sentence, {"content-location": on_wire(target.path)})
            return found, reader, target
        _close(reader)
        if hops == MAX_SYMLINKS:
            raise Answered(409, f"Too many levels of symbolic links, maximum allowed is {MAX_SYMLINKS}")
        hops += 1
        wanted_etag = found.headers.get(LINK_ETAG, "")
        target = link_target(found, target)


def _close(reader: Reader | None) -> None:
    if reader is not None:
        reader.close()


def link_target(link: Object, at: Target) -> Target:
    container, _, name = text_of(link.headers[LINK]).partition("/")
    account = link.headers.get(LINK_ACCOUNT)
    return Target(text_of(account) if account else at.account, container, name)


def look(call: Call, target: Target, peek: bool, version_id: str = "") -> tuple[Object, Reader | None]:
    """The object of this name itself, or a version of it. Raises 401, 403, 404, the last also for one whose time is
    over."""
    call.require_reading(target)
    if version_id and version_id != "null":
        return _version(call, target, peek, version_id)
    found, reader = _opened(call, target, peek)
    if (current := found.headers.get(CURRENT)) is None:
        return found, reader
    _close(reader)
    if version_id == "null":
        raise Answered(404)
    version, reader = _version(call, target, peek, current)
    return replace(version, delete_at_s=found.delete_at_s), reader


def _version(call: Call, target: Target, peek: bool, version_id: str) -> tuple[Object, Reader | None]:
    found, reader = _opened(call, version_at(target, version_id), peek)
    if found.content_type == DELETED:
        _close(reader)
        raise Answered(404, "", {SHOWN_VERSION: version_id})
    return found, reader


def _opened(call: Call, target: Target, peek: bool) -> tuple[Object, Reader | None]:
    reader = None if peek else call.store.open(target.account, target.container, target.name)
    if peek:
        found = call.store.object(target.account, target.container, target.name)
    else:
        found = reader.object if reader is not None else None
    if found is None or is_over(found, call.request.now_s):
        _close(reader)
        raise Answered(404)
    return found, reader


def is_over(found: Object, now_s: float) -> bool:
    return found.delete_at_s is not None and found.delete_at_s <= now_s


def _shown(found: Object, raw: Raw) -> Headers:
    shown = {name: value for name, value in found.headers.items() if "-sysmeta-" not in name}
    if VERSION in found.headers:
        shown[SHOWN_VERSION] = found.headers[VERSION]
    if found.delete_at_s is not None:
        shown["x-delete-at"] = str(found.delete_at_s)
    if raw.symlink:
        for name in (LINK, LINK_ACCOUNT, LINK_ETAG, LINK_BYTES):
            if name in found.headers:
                shown[name.replace("x-object-sysmeta-", "x-")] = found.headers[name]
    return shown


def _plain(found: Object, reader: Reader | None) -> Content:
    def read(start: int, end: int) -> Iterator[bytes]:
        assert reader is not None
        return reader.chunks(start, end)

    return Content(found.size_bytes, found.etag, found.timestamp_us * MICRO, found.content_type, read)


# large objects
def _large(call: Call, place: Target, found: Object, reader: Reader | None, depth: int) -> Content | None:
    """The bytes of a manifest's segments; None where it is no manifest."""
    if STATIC in found.headers:
        etag, size = found.headers[STATIC_ETAG], int(found.headers[STATIC_BYTES])

        def segments() -> list[Segment]:
            assert reader is not None
            return static_segments(call, place, b"".join(reader.chunks()))

    elif DYNAMIC in found.headers:
        known = _dynamic_segments(call, place, found.headers[DYNAMIC])
        etag = hashlib.md5("".join(each.etag for each in known).encode(), usedforsecurity=False).hexdigest()
        size = sum(each.size_bytes for each in known)

        def segments() -> list[Segment]:
            return known

    else:
        return None
    if depth >= MAX_DEPTH:
        raise Answered(409, "Max recursion depth exceeded")
    return Content(
        size,
        etag,
        found.timestamp_us * MICRO,
        found.content_type,
        lambda start, end: _joined(call, segments, start, end, depth + 1),
        quoted=True,
    )


def static_segments(call: Call, place: Target, manifest: bytes) -> list[Segment]:
    """Of a stored manifest; its segments are of the manifest's account."""
    return [_static_segment(place, each) for each in json.loads(manifest)]


def _static_segment(place: Target, entry: dict[str, Any]) -> Segment:
    if "data" in entry:
        data = decoded(entry["data"])
        return Segment(len(data), data=data)
    whole, start, end = entry["bytes"], 0, entry["bytes"]
    if "range" in entry:
        first, last = entry["range"].split("-")
        start, end = int(first), int(last) + 1
    container, _, name = entry["name"].lstrip("/").partition("/")
    return Segment(end - start, Target(place.account, container, name), start, entry["hash"], whole)


def decoded(text: str) -> bytes:
    """Base64. ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _dynamic_segments(call: Call, place: Target, manifest: str) -> list[Segment]:
    """Whatever lies below the prefix now, in the order of names. Raises 401, 403 where its list may not be read."""
    container, _, prefix = text_of(manifest).partition("/")
    where = Target(place.account, container)
    if call.container(where) is None:
        return []
    if call.grant is None:
        call.require_reading(where)
    else:
        call.require("GET", where)
    found: list[Segment] = []
    marker = ""
    while page := call.store.list_objects(where.account, container, Page(prefix=prefix, marker=marker)):
        marker = page[-1].name
        for each in page:
            if not isinstance(each, Subdir):
                size = int(each.listed.get("bytes", each.size_bytes))
                etag = each.listed.get("slo_etag", "").strip('"') or each.etag
                found.append(Segment(size, Target(where.account, container, each.name), 0, etag, size))
        if len(page) < MAX_LISTING:
            break
    return found


def _joined(call: Call, segments: Callable[[], list[Segment]], start: int, end: int, depth: int) -> Iterator[bytes]:
    """The bytes from `start` to before `end` of all segments behind one another."""
    offset = 0
    for each in segments():
        first, behind = max(start - offset, 0), min(end - offset, each.size_bytes)
        offset += each.size_bytes
        if first < behind:
            yield from _of_segment(call, each, first, behind, depth)
        if offset >= end:
            return


def _of_segment(call: Call, each: Segment, first: int, behind: int, depth: int) -> Iterator[bytes]:
    """Raises 409 for a segment that is not any more what the manifest says."""
    if each.target is None:
        yield each.data[first:behind]
        return
    try:
        found = find(call, each.target, depth=depth)
    except Answered as error:
        if error.response.status == 404:
            raise Answered(409, f"Segment {each.target.path} is not there any more.") from None
        raise
    try:
        if (found.content.etag, found.content.size_bytes) != (each.etag, each.whole_bytes):
            raise Answered(409, f"Segment {each.target.path} has changed.")
        yield from found.content.read(each.start + first, each.start + behind)
    finally:
        found.close()
