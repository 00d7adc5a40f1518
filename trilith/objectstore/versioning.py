"""Older versions of objects, kept in another container that the user names: ``X-Versions-Location`` (a deletion brings
the last one back) or ``X-History-Location`` (a deletion is a version, too).

A version's name is that of the object behind its length, then its time: ``003abc/1700000000.12345``. As in Swift, what
is kept and what replaces it are two steps: of writers at the same moment, one's version may be missing.
"""

from collections.abc import Iterator

from trilith.kernel.errors import Fault
from trilith.objectstore import object_versions
from trilith.objectstore.calls import Call, Target
from trilith.objectstore.messages import Answered, Headers, on_wire, text_of, timestamp
from trilith.objectstore.reading import DYNAMIC, MICRO, is_over
from trilith.objectstore.store import Object, Page, Put, Reader, Subdir
from trilith.objectstore.version_names import DELETED

STACK, HISTORY = "x-versions-location", "x-history-location"
INFO = {"allowed_flags": [STACK, HISTORY]}


def version_changes(call: Call) -> dict[str, str | None]:
    """What a container's PUT or POST asks about versions. Raises 400, 412."""
    headers = call.request.headers
    given = {name: headers[name] for name in (STACK, HISTORY) if headers.get(name)}
    if len(given) > 1:
        raise Answered(400, "Only one of X-Versions-Location or X-History-Location may be specified")
    if given:
        ((name, value),) = given.items()
        if "/" in text_of(value):
            raise Answered(412, "Container name cannot contain slashes")
        return {STACK: None, HISTORY: None, name: value}
    asked = (STACK, HISTORY, "x-remove-versions-location", "x-remove-history-location")
    return {STACK: None, HISTORY: None} if any(name in headers for name in asked) else {}


def keep_current(call: Call) -> None:
    """Copies the object that a request is about to replace, where its container says so."""
    _, place = _asked(call)
    if place is not None and DYNAMIC not in call.request.headers:
        _keep(call, place)


def delete(call: Call) -> Headers:
    """Deletes the object that a request is about, or brings back the version before it; what there is to tell. Raises
    404, also for an object whose time is over: but then it is gone for good."""
    if object_versions.is_enabled(call):
        return object_versions.delete(call)
    mode, place = _asked(call)
    target = call.target
    if place is None:
        _delete(call)
    elif mode == HISTORY:
        _keep(call, place)
        marker = Target(place.account, place.container, f"{_prefix(target)}{timestamp(call.request.now_s)}")
        _store(call, marker, Put(DELETED), iter(()))
        _delete(call)
    elif not _restored(call, place):
        _delete(call)
    return {}


def _delete(call: Call) -> None:
    target = call.target
    if is_over(call.store.delete_object(target.account, target.container, target.name), call.request.now_s):
        raise Answered(404)


def _asked(call: Call) -> tuple[str, Target | None]:
    container = call.container(call.target)
    for mode in (STACK, HISTORY):
        if container is not None and (value := container.headers.get(mode)):
            return mode, Target(call.target.account, text_of(value))
    return "", None


def _prefix(target: Target) -> str:
    return f"{len(target.name.encode()):03x}{target.name}/"


def _keep(call: Call, place: Target) -> None:
    target = call.target
    reader = call.store.open(target.account, target.container, target.name)
    if reader is None:
        return
    try:
        if is_over(reader.object, call.request.now_s):
            return
        name = f"{_prefix(target)}{timestamp(reader.object.timestamp_us * MICRO)}"
        _copy(call, reader, Target(place.account, place.container, name))
    finally:
        reader.close()


def _copy(call: Call, reader: Reader, place: Target) -> None:
    found = reader.object
    put = Put(found.content_type, found.headers, found.listed, found.delete_at_s)
    _store(call, place, put, reader.chunks())


def _store(call: Call, place: Target, put: Put, pieces: Iterator[bytes]) -> None:
    writer = call.store.write(place.account, place.container, place.name)
    try:
        for piece in pieces:
            writer.write(piece)
        writer.commit(put)
    except Fault as fault:
        if fault.kind != "missing":
            raise
        raise Answered(412, on_wire(f"The container for versions, {place.container}, is not there.")) from fault
    finally:
        writer.abandon()


def _restored(call: Call, place: Target) -> bool:
    """Whether an older version took the place of the object, or a mark of its deletion went."""
    target, store = call.target, call.store
    current = store.object(target.account, target.container, target.name)
    there = current is not None and not is_over(current, call.request.now_s)
    versions = _versions(call, place)
    newest = next(versions, None)
    if newest is None:
        return False
    if newest.content_type != DELETED:
        return _bring_back(call, place, newest)
    if there:
        return False
    before = next(versions, None)
    if before is not None and before.content_type != DELETED:
        _bring_back(call, place, before)
    store.delete_object(place.account, place.container, newest.name)
    return True


def _bring_back(call: Call, place: Target, version: Object) -> bool:
    reader = call.store.open(place.account, place.container, version.name)
    if reader is None:
        return False
    try:
        _copy(call, reader, call.target)
    finally:
        reader.close()
    call.store.delete_object(place.account, place.container, version.name)
    return True


def _versions(call: Call, place: Target) -> Iterator[Object]:
    """From the newest on."""
    if call.store.container(place.account, place.container) is None:
        return
    page = Page(prefix=_prefix(call.target), reverse=True, limit=100)
    for found in call.store.list_objects(place.account, place.container, page):
        if not isinstance(found, Subdir):
            yield found
