"""Objects: bytes under a name, with what is said about them."""

from dataclasses import replace

from trilith.kernel.errors import Fault
from trilith.objectstore import copying, object_versions, static_large_objects, symlinks, uploads, versioning
from trilith.objectstore.calls import Call
from trilith.objectstore.delivery import deliver
from trilith.objectstore.limits import check_metadata, delete_at
from trilith.objectstore.messages import HTML, Answered, Begun, Response, page
from trilith.objectstore.reading import STATIC, Raw, asked_version, find, is_over
from trilith.objectstore.store import Object, Put
from trilith.objectstore.version_names import CURRENT, version_at

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "COPY")


def get(call: Call) -> Response:
    """Also HEAD."""
    request = call.request
    raw = Raw(request.param("symlink") == "get", request.param("multipart-manifest") == "get")
    found = find(call, call.target, raw, peek=request.method == "HEAD", version_id=asked_version(call))
    content, headers = found.content, found.headers
    if raw.manifest and STATIC in found.object.headers:
        content = replace(content, media="application/json; charset=utf-8")
    response = deliver(request, content, headers)
    if raw.manifest and STATIC in found.object.headers and request.param("format") == "raw":
        response.headers.pop("content-range", None)
        if request.method == "GET":
            shown = static_large_objects.as_sent(response.whole())
            response = Response(200, response.headers, shown)
    if isinstance(response.body, bytes):
        found.close()
    else:
        response.on_close = found.close
    return response


def put(call: Call) -> Begun:
    headers = call.request.headers
    if version_id := call.request.param("version-id"):
        return object_versions.bring_back(call, version_id)
    if call.request.param("multipart-manifest") == "put":
        return static_large_objects.begin(call)
    if "x-copy-from" in headers:
        return copying.put_from(call)
    if symlinks.ASKED in headers:
        return symlinks.put(call)
    return uploads.begin(call)


def copy(call: Call) -> Response:
    return copying.copy(call)


def post(call: Call) -> Response:
    """Other metadata for the same bytes: all that is not given goes."""
    request, target = call.request, call.target
    call.require_writing(target, "POST")
    check_metadata(request, "object")
    if symlinks.ASKED in request.headers:
        raise Answered(400, "A PUT request is required to set a symlink target")
    moment, kept = delete_at(request), uploads.kept_headers(request)

    def change(found: Object) -> Put:
        if is_over(found, request.now_s):
            raise Fault("missing", "Its time is over.")
        ours = {name: value for name, value in found.headers.items() if "-sysmeta-" in name or name == STATIC}
        content_type = request.headers.get("content-type") or found.content_type
        return Put(content_type, {**kept, **ours}, found.listed, moment)

    if call.request.param("version-id"):
        raise Answered(400, "version-id parameter is not allowed with POST")
    found = call.store.update_object(target.account, target.container, target.name, change)
    if version_id := found.headers.get(CURRENT):  # what it is a name for has the metadata
        place = version_at(target, version_id)

        def lasting(version: Object) -> Put:
            return replace(change(version), delete_at_s=None)

        found = call.store.update_object(place.account, place.container, place.name, lasting)
    return symlinks.redirected(found, target) or page(202)


def delete(call: Call) -> Response:
    call.require_writing(call.target, "DELETE")
    if call.request.param("multipart-manifest") == "delete":
        return static_large_objects.delete(call)
    version_id = call.request.param("version-id")
    told = object_versions.delete_version(call, version_id) if version_id else versioning.delete(call)
    return Response(204, {"content-type": HTML} | told)
