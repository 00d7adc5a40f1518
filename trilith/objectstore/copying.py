"""Copies within the store: ``COPY`` with ``Destination``, and ``PUT`` with ``X-Copy-From``."""

from trilith.objectstore import static_large_objects, symlinks
from trilith.objectstore.calls import Call, Target
from trilith.objectstore.delivery import deliver
from trilith.objectstore.limits import MAX_FILE_BYTES, check_metadata
from trilith.objectstore.messages import Answered, Headers, Request, Response, http_date, on_wire, quoted, text_of
from trilith.objectstore.quotas import require_room
from trilith.objectstore.reading import DYNAMIC, LINK, STATIC, Found, Raw, asked_version, find
from trilith.objectstore.uploads import KEPT, created, is_meta, prepare, store_bytes

CONDITIONS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
NOT_TAKEN = (*CONDITIONS, "content-length", "transfer-encoding", "destination", "etag", "x-copy-from")
EXPIRY = ("x-delete-at", "x-delete-after")
LINKS = ("x-symlink-target", "x-symlink-target-account", "x-symlink-target-etag")


def copy(call: Call) -> Response:
    """``COPY source`` to ``Destination: container/object``."""
    headers = call.request.headers
    if not headers.get("destination"):
        raise Answered(412, "Destination header required")
    container, name = _place(headers["destination"], "Destination")
    account = _account(headers, "destination-account", call.target.account)
    return _copied(call, call.target, Target(account, container, name))


def put_from(call: Call) -> Response:
    """``PUT`` with ``X-Copy-From: container/object``."""
    headers = call.request.headers
    if call.request.length_bytes or call.request.chunked:
        raise Answered(400, "Copy requests require a zero byte body")
    container, name = _place(headers["x-copy-from"], "X-Copy-From")
    account = _account(headers, "x-copy-from-account", call.target.account)
    return _copied(call, Target(account, container, name), call.target)


def _place(value: str, header: str) -> tuple[str, str]:
    container, _, name = text_of(value).lstrip("/").partition("/")
    if not container or not name:
        raise Answered(412, f"{header} header must be of the form <container name>/<object name>")
    return container, name


def _account(headers: Headers, header: str, otherwise: str) -> str:
    found = text_of(headers[header]) if header in headers else otherwise
    if not found or "/" in found:
        raise Answered(412, "Account name cannot contain slashes" if found else "Account name cannot be empty")
    return found


def _copied(call: Call, source: Target, place: Target) -> Response:
    raw = Raw(call.request.param("symlink") == "get", call.request.param("multipart-manifest") == "get")
    found = find(call, source, raw, version_id=asked_version(call))
    try:
        response = deliver(call.request.sub("GET"), found.content, found.headers)
        if not response.ok:
            return response
        if (response.length or 0) > MAX_FILE_BYTES:
            raise Answered(413)
        new = call.at(place, _request(call, found, raw))
        stored = _stored(new, found, raw, response)
        stored.headers |= _told(source, found, new)
        return stored
    finally:
        found.close()


def _request(call: Call, found: Found, raw: Raw) -> Request:
    """The PUT that this copy is: the source's headers, unless fresh ones are wanted, and over these the client's."""
    request, source = call.request.sub("PUT"), {}
    if not request.flag("x-fresh-metadata"):
        source = {
            name: value
            for name, value in found.headers.items()
            if is_meta(name) or (name in (*KEPT, "x-delete-at") and name != DYNAMIC)
        }
    if any(name in request.headers for name in EXPIRY):
        source.pop("x-delete-at", None)
    if raw.manifest and DYNAMIC in found.headers:
        source[DYNAMIC] = found.headers[DYNAMIC]
    if raw.symlink and LINK in found.object.headers:
        source |= {name: found.headers[name] for name in LINKS if name in found.headers}
    own = {name: value for name, value in request.headers.items() if name not in NOT_TAKEN}
    request.headers = {**source, **own, "content-length": "0"}
    if not request.headers.get("content-type"):
        request.headers["content-type"] = found.content.media
    return request


def _stored(new: Call, found: Found, raw: Raw, response: Response) -> Response:
    if raw.symlink and LINK in found.object.headers:
        return symlinks.put(new)
    if raw.manifest and STATIC in found.object.headers:
        return static_large_objects.put(new, static_large_objects.as_sent(response.whole()))
    put = prepare(new, checked=False)
    check_metadata(new.request, "object")
    require_room(new, new.target, response.length or 0)
    return created(store_bytes(new, put, response.body))


def _told(source: Target, found: Found, new: Call) -> Headers:
    told = {
        "x-copied-from": on_wire(quoted(f"{source.container}/{source.name}")),
        "x-copied-from-account": on_wire(quoted(source.account)),
        "x-copied-from-last-modified": http_date(found.content.modified_s),
    }
    return told | {name: value for name, value in new.request.headers.items() if is_meta(name) or name == "x-delete-at"}
