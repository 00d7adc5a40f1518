"""Objects on their way in: what is looked at before the first byte, and what must be true behind the last one."""

import mimetypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from trilith.kernel.errors import Fault
from trilith.objectstore import object_versions, versioning
from trilith.objectstore.calls import Call, Target
from trilith.objectstore.limits import MAX_FILE_BYTES, check_object, delete_at
from trilith.objectstore.messages import HTML, Answered, Headers, Request, Response, http_date, text_of
from trilith.objectstore.quotas import require_room
from trilith.objectstore.reading import DYNAMIC, MICRO, SHOWN_VERSION, is_over
from trilith.objectstore.store import Check, Object, Put, Writer
from trilith.objectstore.version_names import VERSION, version_at

KEPT = (  # headers that are kept with an object, beside its own metadata
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-robots-tag",
    DYNAMIC,
)


def prepare(call: Call, checked: bool = True) -> Put:
    """What is to be stored with the bytes of this request. Raises what is wrong with its headers or its caller.

    `checked` False: the bytes do not come with the request, so its length says nothing.
    """
    request = call.request
    if (known := request.headers.get("if-none-match")) is not None and known.strip() != "*":
        raise Answered(400, "If-None-Match only supports *")
    call.require_writing(call.target)
    _default_content_type(request, call.target)
    if checked:
        check_object(request, call.target.name)
        require_room(call, call.target, request.length_bytes or 0)
    moment = delete_at(request)
    return Put(request.headers["content-type"], kept_headers(request), delete_at_s=moment)


def _default_content_type(request: Request, target: Target) -> None:
    if request.flag("x-detect-content-type") or not request.headers.get("content-type"):
        request.headers["content-type"] = mimetypes.guess_type(target.name)[0] or "application/octet-stream"


def kept_headers(request: Request) -> Headers:
    """Raises 400."""
    found = {name: value for name, value in request.headers.items() if is_meta(name) or (value and name in KEPT)}
    if DYNAMIC in found:
        found[DYNAMIC] = _manifest(found[DYNAMIC])
    return found


def is_meta(name: str) -> bool:
    return name.startswith("x-object-meta-") and name != "x-object-meta-"


def _manifest(value: str) -> str:
    container, _, prefix = text_of(value).partition("/")
    if not container or not prefix or prefix.startswith("/") or any(each in value for each in "?&"):
        raise Answered(400, "X-Object-Manifest must be in the format container/prefix")
    return value


def unless_there(request: Request) -> Check | None:
    """The condition of ``If-None-Match: *``."""
    if "if-none-match" not in request.headers:
        return None

    def check(there: Object | None) -> None:
        if there is not None and not is_over(there, request.now_s):
            raise Fault("precondition", "There is an object of this name.")

    return check


@dataclass
class ObjectUpload:
    """The body of a request on its way into an object. `answer` makes the response of what was stored."""

    call: Call
    put: Put
    place: "Place"
    answer: Callable[[Object], Response]

    def write(self, data: bytes) -> None:
        self.place.writer.write(data)
        if self.place.writer.size_bytes > MAX_FILE_BYTES:
            raise Answered(413, "Your request is too large.")

    def finish(self) -> Response:
        request, writer = self.call.request, self.place.writer
        length = request.length_bytes
        if length is not None and length != writer.size_bytes:
            raise Answered(499)
        if length is None:
            require_room(self.call, self.call.target, writer.size_bytes)
        wanted = request.headers.get("etag", "").strip().strip('"').lower()
        if wanted and wanted != writer.etag:
            raise Answered(422)
        return self.answer(commit(self.call, self.place, self.put))

    def abandon(self) -> None:
        self.place.writer.abandon()


def begin(call: Call) -> ObjectUpload:
    return ObjectUpload(call, prepare(call), place_for(call), created)


@dataclass(frozen=True)
class Place:
    """Where bytes go; `version_id` is empty where they are not kept as a version."""

    writer: Writer
    version_id: str


def place_for(call: Call) -> Place:
    version_id = object_versions.next_version(call)
    target = version_at(call.target, version_id) if version_id else call.target
    return Place(call.store.write(target.account, target.container, target.name), version_id)


def commit(call: Call, place: Place, put: Put) -> Object:
    """Keeps what is there as an older version, where the container says so, and makes the new object."""
    check = unless_there(call.request)
    if place.version_id:
        return object_versions.commit(call, place.writer, place.version_id, put, check)
    versioning.keep_current(call)
    return place.writer.commit(put, check)


def store_bytes(call: Call, put: Put, data: bytes | Iterator[bytes]) -> Object:
    """Stores what does not come with the request."""
    place = place_for(call)
    try:
        for piece in (data,) if isinstance(data, bytes) else data:
            place.writer.write(piece)
        require_room(call, call.target, place.writer.size_bytes)
        return commit(call, place, put)
    finally:
        place.writer.abandon()


def created(found: Object) -> Response:
    return created_with(found, found.etag)


def created_with(found: Object, etag: str, headers: Headers | None = None) -> Response:
    shown = {"etag": etag, "last-modified": http_date(found.timestamp_us * MICRO), "content-type": HTML}
    if VERSION in found.headers:
        shown[SHOWN_VERSION] = found.headers[VERSION]
    return Response(201, shown | (headers or {}))


def with_listed(put: Put, **listed: str) -> Put:
    return replace(put, listed={**put.listed, **listed})
