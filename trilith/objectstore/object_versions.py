"""Versions of all objects of a container (``X-Versions-Enabled: true``): each upload is one.

The bytes of an upload go where the container's versions lie; the object is then a name for one of them. So an older
version comes back, or the newest one goes, by changing a name.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trilith.kernel.errors import Fault
from trilith.objectstore.calls import Call, Target
from trilith.objectstore.listing_views import Asked, entry
from trilith.objectstore.messages import Answered, Headers, Response, is_true, timestamp
from trilith.objectstore.reading import MICRO, is_over
from trilith.objectstore.reading import SHOWN_VERSION as SHOWN
from trilith.objectstore.store import Check, Object, Page, Put, Subdir, Writer
from trilith.objectstore.version_names import (
    CURRENT,
    DELETED,
    ENABLED,
    VERSION,
    before_versions,
    hidden,
    parsed,
    version_at,
)

Entry = dict[str, Any]


def is_enabled(call: Call) -> bool:
    container = call.container(call.target)
    return container is not None and is_true(container.headers.get(ENABLED))


def next_version(call: Call) -> str:
    """The id of what this request stores; empty where the container keeps no versions."""
    return timestamp(call.request.now_s) if is_enabled(call) else ""


def commit(call: Call, writer: Writer, version_id: str, put: Put, check: Check | None) -> Object:
    """Makes a version of what was written, and the object its name."""
    target, store = call.target, call.store
    current = store.object(target.account, target.container, target.name)
    if check is not None:
        check(current)
    _keep_unversioned(call, current)
    stored = writer.commit(replace(put, headers={**put.headers, VERSION: version_id}, delete_at_s=None))
    done = False
    try:
        _name(call, stored, version_id, put.delete_at_s, check)
        done = True
    finally:
        if not done:
            _forget(call, version_at(target, version_id))
    return stored


def _name(call: Call, version: Object, version_id: str, delete_at_s: int | None, check: Check | None = None) -> None:
    """The object is this version from now on."""
    told = {"bytes": str(version.size_bytes), "hash": version.etag, **version.listed, "version": version_id}
    target = call.target
    writer = call.store.write(target.account, target.container, target.name)
    writer.commit(Put(version.content_type, {CURRENT: version_id}, told, delete_at_s), check)


def _forget(call: Call, place: Target) -> None:
    try:
        call.store.delete_object(place.account, place.container, place.name)
    except Fault as fault:
        if fault.kind != "missing":
            raise


def _keep_unversioned(call: Call, current: Object | None) -> None:
    """An object from the time before becomes a version when something replaces it."""
    if current is None or CURRENT in current.headers or is_over(current, call.request.now_s):
        return
    target = call.target
    reader = call.store.open(target.account, target.container, target.name)
    if reader is None:
        return
    found, version_id = reader.object, timestamp(reader.object.timestamp_us * MICRO)
    place = version_at(target, version_id)
    writer = call.store.write(place.account, place.container, place.name)
    try:
        for piece in reader.chunks():
            writer.write(piece)
        writer.commit(Put(found.content_type, {**found.headers, VERSION: version_id}, found.listed))
    finally:
        reader.close()
        writer.abandon()


def delete(call: Call) -> Headers:
    """Leaves a mark in place of the object. Raises 404."""
    target, store = call.target, call.store
    current = store.object(target.account, target.container, target.name)
    if current is None or is_over(current, call.request.now_s):
        raise Answered(404)
    _keep_unversioned(call, current)
    version_id = timestamp(call.request.now_s)
    place = version_at(target, version_id)
    store.write(place.account, place.container, place.name).commit(Put(DELETED, {VERSION: version_id}))
    store.delete_object(target.account, target.container, target.name)
    return {SHOWN: version_id}


def delete_version(call: Call, version_id: str) -> Headers:
    """One version for good; the object too, where it is this one. Raises 400, 404."""
    target, store = call.target, call.store
    current = store.object(target.account, target.container, target.name)
    current_id = current.headers.get(CURRENT, "null") if current else "null"
    if version_id == current_id and current is not None:
        store.delete_object(target.account, target.container, target.name)
        current_id = "null"
    if version_id != "null":
        place = version_at(target, version_id)
        store.delete_object(place.account, place.container, place.name)
    elif current is None or CURRENT in current.headers:
        raise Answered(404)
    return {SHOWN: version_id, "x-object-current-version-id": current_id}


def bring_back(call: Call, version_id: str) -> Response:
    """``PUT ?version-id=``: the object is that version again. Raises 400, 404."""
    from trilith.objectstore.uploads import created  # here: an upload may make a version

    if call.request.length_bytes or call.request.chunked:
        raise Answered(400, "PUT version-id requests require a zero byte body")
    call.require_writing(call.target)
    place, store = version_at(call.target, version_id), call.store
    found = store.object(place.account, place.container, place.name)
    if found is None or found.content_type == DELETED:
        raise Answered(404, "The specified version does not exist")
    _keep_unversioned(call, store.object(call.target.account, call.target.container, call.target.name))
    _name(call, found, version_id, None)
    return created(found)


# the container
def changes(call: Call) -> dict[str, str | None]:
    """What a container's PUT or POST asks. Makes the place for versions. Raises 400."""
    asked = call.request.headers.get(ENABLED)
    if asked is None:
        return {}
    container = call.container(call.target)
    old = [name for name in ("x-versions-location", "x-history-location") if container and container.headers.get(name)]
    if old or any(call.request.headers.get(name) for name in ("x-versions-location", "x-history-location")):
        sentence = "Cannot enable object versioning on a container that is already using the legacy versioned writes "
        raise Answered(400, f"{sentence}feature.")
    if is_true(asked):
        place = hidden(call.target)
        call.store.create_container(place.account, place.container, {})
    return {ENABLED: str(is_true(asked))}


def size_bytes(call: Call) -> int:
    """Of all versions of the container's objects."""
    found = call.container(hidden(call.target))
    return found.size_bytes if found else 0


def require_none(call: Call) -> None:
    """Before a container is deleted. Raises 409 where there are versions."""
    place = hidden(call.target)
    found = call.store.container(place.account, place.container)
    if found is None:
        return
    if found.object_count:
        raise Answered(409, "Delete all versions before deleting container.")
    call.store.delete_container(place.account, place.container)


def listing(call: Call, asked: Asked) -> bytes:
    """``GET ?versions``: objects and their versions, the newest of each first, as JSON. Raises 400."""
    after = call.request.param("version_marker")
    if after and not asked.marker:
        raise Answered(400, "version_marker param requires marker")
    if set(asked.delimiter) & set("0123456789."):
        raise Answered(400, "invalid delimiter param")
    target, place = call.target, hidden(call.target)
    page = Page(asked.prefix, asked.delimiter, asked.marker, asked.end_marker, asked.limit, asked.reverse)
    named = call.store.list_objects(target.account, target.container, page) if asked.limit else []
    kept: list[Object | Subdir] = []
    if asked.limit and call.store.container(place.account, place.container) is not None:
        marker = _marker(target, asked, after)
        page = replace(page, prefix=f"\0{asked.prefix}", marker=marker, end_marker=_end(asked))
        kept = list(call.store.list_objects(place.account, place.container, page))
    current = {each.name: each.listed["version"] for each in named if isinstance(each, Object) and _is_version(each)}
    plain = [each for each in named if not _is_version(each)]
    found = [*_unversioned(plain), *_versions(kept, current, {each.name for each in named})]
    found.sort(key=lambda each: (each.get("subdir") or each["name"]).encode(), reverse=asked.reverse)
    unique = {each.get("subdir") or (each["name"], each["version_id"]): each for each in found}
    return json.dumps(list(unique.values())[: asked.limit]).encode()


def _is_version(each: Object | Subdir) -> bool:
    return isinstance(each, Object) and "version" in each.listed


def _marker(target: Target, asked: Asked, after: str | None) -> str:
    if not asked.marker:
        return ""
    if after and after != "null":
        return version_at(Target(target.account, target.container, asked.marker), after).name
    edge = before_versions(asked.marker)
    return edge if after == "null" or asked.reverse else f"{edge}:"  # before, or behind, all times


def _end(asked: Asked) -> str:
    return before_versions(asked.end_marker) if asked.end_marker else ""


def _unversioned(plain: list[Object | Subdir]) -> Iterator[Entry]:
    for each in plain:
        yield entry(each) if isinstance(each, Subdir) else entry(each) | {"version_id": "null", "is_latest": True}


def _versions(kept: list[Object | Subdir], current: dict[str, str], named: set[str]) -> Iterator[Entry]:
    newest: set[str] = set()
    for each in kept:
        if isinstance(each, Subdir):
            yield {"subdir": each.name.lstrip("\0")}
            continue
        name, version_id = parsed(each.name)
        is_mark = each.content_type == DELETED and name not in named and name not in newest
        newest.add(name)
        latest = current.get(name) == version_id or is_mark
        yield entry(each) | {"name": name, "version_id": version_id, "is_latest": latest}
