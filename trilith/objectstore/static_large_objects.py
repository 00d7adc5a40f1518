"""Static large objects: a manifest that names segments, each of which is looked at when the manifest is stored.

The manifest is kept as the object's bytes, in the form in which ``multipart-manifest=get`` shows it;
``format=raw`` shows it as it was sent.
"""

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.listing_views import best_media
from trilith.objectstore.messages import Answered, Response, is_utf8, iso_date
from trilith.objectstore.reading import MAX_DEPTH, STATIC, STATIC_BYTES, STATIC_ETAG, Found, Raw, decoded, find
from trilith.objectstore.reports import Report
from trilith.objectstore.uploads import created_with, prepare, store_bytes
from trilith.objectstore.whole_bodies import WholeBody

MAX_SEGMENTS = 1000
MAX_MANIFEST_BYTES = 8 << 20
INFO = {"max_manifest_segments": MAX_SEGMENTS, "max_manifest_size": MAX_MANIFEST_BYTES, "min_segment_size": 1,
        "yield_frequency": 10, "allow_async_delete": False}  # fmt: skip
Entry = dict[str, Any]
KEYS = {"path": {"path", "range", "etag", "size_bytes"}, "data": {"data"}}


def begin(call: Call) -> WholeBody:
    """The body of ``PUT ?multipart-manifest=put``."""
    request = call.request
    if "x-copy-from" in request.headers:
        raise Answered(405, "Multipart Manifest PUTs cannot be COPY requests")
    length = request.length_bytes
    if length is None and not request.chunked:
        raise Answered(411)
    call.require_writing(call.target)
    too_large = f"Manifest File > {MAX_MANIFEST_BYTES} bytes"
    upload = WholeBody(call, MAX_MANIFEST_BYTES, too_large, lambda body: put(call, body))
    if length is not None and length > MAX_MANIFEST_BYTES:
        raise Answered(413, upload.too_large)
    return upload


def put(call: Call, manifest: bytes) -> Response:
    """Stores a manifest as it is sent. Raises 400, 413, 422."""
    call.require_writing(call.target)
    asked = _parsed(call, manifest)
    media = call.request.headers.get("content-type") or mimetypes.guess_type(call.target.name)[0]
    call.request.headers["content-type"] = media or "application/octet-stream"
    found, problems = _looked_at(call, asked)
    if problems:
        shown = best_media(call.request, ("text/plain", "application/json"))
        return Report("upload", problems).response(400, shown)
    etag = hashlib.md5("".join(_etag_part(each) for each in found).encode(), usedforsecurity=False).hexdigest()
    wanted = call.request.headers.get("etag", "").strip().strip('"')
    if wanted and wanted != etag:
        raise Answered(422)
    size = sum(_length(each) for each in found)
    stored = json.dumps(found).encode()
    prepared = prepare(call, checked=False)
    headers = {**prepared.headers, STATIC: "True", STATIC_ETAG: etag, STATIC_BYTES: str(size)}
    prepared = replace(prepared, headers=headers, listed={"bytes": str(size), "slo_etag": f'"{etag}"'})
    return created_with(store_bytes(call, prepared, stored), f'"{etag}"')


# what the client sent
def _parsed(call: Call, manifest: bytes) -> list[Entry]:
    try:
        parsed = json.loads(manifest)
    except (ValueError, RecursionError):
        raise Answered(400, "Manifest must be valid JSON.\n") from None
    if not isinstance(parsed, list):
        raise Answered(400, "Manifest must be a list.\n")
    last = len(parsed) - 1
    problems = [
        f"Index {number}: {why}\n" for number, each in enumerate(parsed) for why in _wrong(call, each, number == last)
    ]
    if parsed and not problems and all("data" in each for each in parsed):
        problems.append("Inline data segments require at least one object-backed segment.\n")
    if problems:
        raise Answered(400, "".join(problems))
    if sum("path" in each for each in parsed) > MAX_SEGMENTS:
        raise Answered(413, f"Number of object-backed segments must be <= {MAX_SEGMENTS}")
    return parsed


def _wrong(call: Call, each: Any, last: bool) -> Iterator[str]:
    """Why an entry cannot be taken: nothing, or the first reason."""
    if not isinstance(each, dict):
        yield "not a JSON object"
    elif (kind := next((key for key in KEYS if key in each), None)) is None:
        yield "expected keys to include one of 'path' or 'data'"
    elif extra := sorted(key for key in each if key not in KEYS[kind]):
        yield f"extraneous keys {', '.join(json.dumps(key) for key in extra)}"
    elif kind == "data":
        yield from _wrong_data(each["data"])
    else:
        yield from _wrong_path(call, each, last)


def _wrong_data(data: Any) -> Iterator[str]:
    try:
        if not decoded(data):
            yield "too small; each segment must be at least 1 byte."
    except (ValueError, TypeError):
        yield "data must be valid base64"


def _wrong_path(call: Call, each: Entry, last: bool) -> Iterator[str]:
    path, etag, size = each["path"], each.get("etag"), each.get("size_bytes")
    if not isinstance(path, str) or not is_utf8(path):
        yield '"path" must be a string'
    elif etag is not None and not isinstance(etag, str):
        yield '"etag" must be a string or null (if provided)'
    elif "/" not in path.strip("/"):
        yield "path does not refer to an object. Path must be of the form /container/object."
    elif size is not None and not _is_number(size):
        yield "invalid size_bytes"
    elif size is not None and int(size) < 1 and not last:
        yield "too small; each segment must be at least 1 byte."
    elif _target(call, path) == call.target:
        yield "manifest must not include itself as a segment"
    elif each.get("range") and (why := _wrong_range(each["range"], None if size is None else int(size))):
        yield why


def _is_number(size: Any) -> bool:
    return type(size) is int or (isinstance(size, str) and bool(re.fullmatch(r"-?[0-9]{1,18}", size)))


def _wrong_range(text: Any, size: int | None) -> str:
    if isinstance(text, str) and "," in text:
        return "multiple ranges (only one allowed)"
    match = re.fullmatch(r"([0-9]{0,18})-([0-9]{0,18})", text) if isinstance(text, str) else None
    if match is None or text == "-" or (match[1] and match[2] and int(match[2]) < int(match[1])):
        return "invalid range"
    return "unsatisfiable range" if size is not None and _span(text, size) is None else ""


def _span(text: str, size: int) -> tuple[int, int] | None:
    first, last = text.split("-")
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    return (start, end) if start < end else None


def _target(call: Call, path: str) -> Target:
    container, _, name = path.lstrip("/").partition("/")
    return Target(call.target.account, container, name)


# the segments
def _looked_at(call: Call, asked: list[Entry]) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The entries as they are kept; and (path, why) of those that are not as the client says."""
    found: list[Entry] = []
    problems: list[tuple[str, str]] = []
    seen: dict[str, Found | str] = {}
    for number, each in enumerate(asked):
        if "data" in each:
            found.append({"data": base64.b64encode(decoded(each["data"])).decode()})
            continue
        path = each["path"]
        if path not in seen:
            seen[path] = _head(call, path)
        segment = seen[path]
        if isinstance(segment, str):
            problems.append((path, segment))
            continue
        entry, why = _entry(each, segment, number == len(asked) - 1)
        found.append(entry)
        problems += [(path, reason) for reason in why]
    return found, problems


def _head(call: Call, path: str) -> Found | str:
    try:
        return find(call.at(call.target, call.request.sub("HEAD")), _target(call, path), Raw(), peek=True)
    except Answered as error:
        return error.status_line


def _entry(asked: Entry, segment: Found, last: bool) -> tuple[Entry, list[str]]:
    content, why = segment.content, []
    entry: Entry = {
        "name": "/" + asked["path"].lstrip("/"),
        "bytes": content.size_bytes,
        "hash": content.etag,
        "content_type": content.media,
        "last_modified": iso_date(content.modified_s),
    }
    length = content.size_bytes
    if asked.get("range"):
        span = _span(asked["range"], content.size_bytes)
        if span is None:
            why.append("Unsatisfiable Range")
        elif span != (0, content.size_bytes):
            entry["range"], length = f"{span[0]}-{span[1] - 1}", span[1] - span[0]
    if length < 1 and not last:
        why.append("Too small; each segment must be at least 1 byte.")
    if asked.get("size_bytes") is not None and int(asked["size_bytes"]) != content.size_bytes:
        why.append("Size Mismatch")
    if asked.get("etag") is not None and asked["etag"] != content.etag:
        why.append("Etag Mismatch")
    if STATIC in segment.object.headers:
        entry["sub_slo"] = True
    return entry, why


def _etag_part(entry: Entry) -> str:
    if "data" in entry:
        return hashlib.md5(decoded(entry["data"]), usedforsecurity=False).hexdigest()
    return f"{entry['hash']}:{entry['range']};" if "range" in entry else str(entry["hash"])


def _length(entry: Entry) -> int:
    if "data" in entry:
        return len(decoded(entry["data"]))
    if "range" not in entry:
        return int(entry["bytes"])
    first, last = entry["range"].split("-")
    return int(last) - int(first) + 1


# shown and deleted
def as_sent(stored: bytes) -> bytes:
    """A stored manifest in the form in which it can be put again."""
    names = {"name": "path", "bytes": "size_bytes", "hash": "etag", "range": "range", "data": "data"}
    entries = [{names[key]: value for key, value in each.items() if key in names} for each in json.loads(stored)]
    return json.dumps(entries).encode()


def delete(call: Call) -> Response:
    """``DELETE ?multipart-manifest=delete``: the segments, those of manifests among them too, then the manifest."""
    from trilith.objectstore.bulk import delete_all  # here: bulk deletes objects, and an object may be a manifest

    return delete_all(call, list(_all_of(call, call.target, 0)))


def _all_of(call: Call, target: Target, depth: int) -> Iterator[Target]:
    """A manifest's segments, each before what names it; itself last."""
    found = find(call.at(target, call.request.sub("GET")), target, Raw(manifest=True))
    try:
        is_manifest = STATIC in found.object.headers
        entries = json.loads(b"".join(found.content.read(0, found.content.size_bytes))) if is_manifest else []
    finally:
        found.close()
    if not is_manifest and depth == 0:
        raise Answered(400, "Not an SLO manifest")
    for each in entries:
        if "data" in each:
            continue
        segment = _target(call.at(target), each["name"])
        if each.get("sub_slo") and depth < MAX_DEPTH:
            yield from _all_of(call, segment, depth + 1)
        else:
            yield segment
    yield target
