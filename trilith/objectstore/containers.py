"""Containers: made, described, listed, deleted when they are empty."""

from trilith.objectstore import acls, object_versions
from trilith.objectstore.accounts import MICRO, changed
from trilith.objectstore.calls import Call, Target, visible
from trilith.objectstore.limits import (
    MAX_CONTAINER_NAME_BYTES,
    OWNER_HEADERS,
    POLICY,
    check_all_metadata,
    check_metadata,
)
from trilith.objectstore.listing_views import Asked, Entry, asked, entry, listing, media_of
from trilith.objectstore.messages import HTML, Answered, Headers, Response, http_date, on_wire, page
from trilith.objectstore.messages import timestamp as wire_timestamp
from trilith.objectstore.quotas import check_container_quotas
from trilith.objectstore.store import Container, Page, Subdir
from trilith.objectstore.versioning import version_changes

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")
ACLS = ("x-container-read", "x-container-write")


def get(call: Call) -> Response:
    """Also HEAD."""
    found = call.require_reading(call.target)
    media_of(call.request)
    wanted = asked(call.request)
    shown = _headers(call, found)
    if "versions" in call.request.query and call.request.method == "GET":
        media = "application/json; charset=utf-8"
        return Response(200, shown | {"content-type": media}, object_versions.listing(call, wanted))
    entries = [] if call.request.method == "HEAD" else entries_of(call, call.target, wanted)
    return listing(call.request, "container", call.target.container, entries, shown)


def _headers(call: Call, found: Container) -> Headers:
    shown = {
        "x-container-object-count": str(found.object_count),
        "x-container-bytes-used": str(found.size_bytes + object_versions.size_bytes(call)),
        "x-timestamp": wire_timestamp(found.timestamp_us * MICRO),
        "last-modified": http_date(found.changed_us * MICRO),
        "x-storage-policy": POLICY,
    }
    return shown | visible(dict(found.headers), call.owns(call.target.account))


def entries_of(call: Call, target: Target, wanted: Asked) -> list[Entry]:
    """What a listing shows, in its order."""
    page = Page(wanted.prefix, wanted.delimiter, wanted.marker, wanted.end_marker, wanted.limit, wanted.reverse)
    if wanted.limit == 0:
        return []
    found = call.store.list_objects(target.account, target.container, page)
    if wanted.path is None:
        return [entry(each) for each in found]
    # only what lies directly below a path, among it objects that stand for a folder
    objects = [
        call.store.object(target.account, target.container, each.name) if isinstance(each, Subdir) else each
        for each in found
    ]
    return [entry(each) for each in objects if each is not None and each.name != wanted.prefix]


def put(call: Call) -> Response:
    call.require("PUT", call.target)
    name = call.target.container
    changes = _changes(call)
    if (size := len(name.encode())) > MAX_CONTAINER_NAME_BYTES:
        raise Answered(400, f"Container name length of {size} longer than {MAX_CONTAINER_NAME_BYTES}")
    found = call.container(call.target)
    _check_whole(found, changes)
    made = call.store.create_container(call.target.account, name, changes)
    return page(201) if made else page(202)


def post(call: Call) -> Response:
    call.require("POST", call.target)
    changes = _changes(call)
    found = call.container(call.target)
    if found is None:
        raise Answered(404)
    _check_whole(found, changes)
    call.store.update_container(call.target.account, call.target.container, changes)
    return Response(204, {"content-type": HTML})


def _changes(call: Call) -> dict[str, str | None]:
    """What the request asks to be changed. Raises 400."""
    headers = call.request.headers
    check_metadata(call.request, "container")
    if (policy := headers.get("x-storage-policy")) and policy.lower() != POLICY:
        raise Answered(400, f"Invalid X-Storage-Policy '{policy}'")
    changes = changed(headers, "container")
    check_container_quotas(changes)
    for name in ACLS:
        if f"x-remove-{name.removeprefix('x-')}" in headers:
            changes[name] = None
        if name in headers:
            try:
                changes[name] = acls.cleaned(name, headers[name]) or None
            except ValueError as error:
                raise Answered(400, on_wire(str(error))) from None
    changes |= version_changes(call) | object_versions.changes(call)
    if not call.owns(call.target.account):
        changes = {name: value for name, value in changes.items() if name not in OWNER_HEADERS}
    return changes


def _check_whole(found: Container | None, changes: dict[str, str | None]) -> None:
    after = {name: value for name, value in {**(found.headers if found else {}), **changes}.items() if value}
    check_all_metadata(after, "container")


def delete(call: Call) -> Response:
    call.require("DELETE", call.target)
    if call.container(call.target) is None:
        raise Answered(404)
    object_versions.require_none(call)
    call.store.delete_container(call.target.account, call.target.container)
    return Response(204, {"content-type": HTML})
