"""What happens to a request of the object store, in order:

    path -> ``/info`` and the like -> signed URL or form -> token -> bulk, static web, or the method -> CORS

Everything here blocks and runs in a thread. A request that has a body to be taken as it comes answers with an `Upload`.
"""

import json
from collections.abc import Callable, Mapping

from trilith.kernel.errors import Fault, Refused, Unavailable
from trilith.kernel.wire import STATUS
from trilith.objectstore import accounts, bulk, containers, cors, objects, static_web, temporary_urls
from trilith.objectstore.calls import Call, Identity, Target
from trilith.objectstore.form_post import begin_form
from trilith.objectstore.information import information
from trilith.objectstore.limits import MAX_HEADER_BYTES, MAX_HEADERS
from trilith.objectstore.messages import PREFIX, Answered, Begun, Request, Response, page
from trilith.objectstore.store import StorageFull, Store

Work = Callable[[Call], Begun]
METHODS: Mapping[str, Mapping[str, Work]] = {
    "account": {
        "GET": accounts.get,
        "HEAD": accounts.get,
        "PUT": accounts.put,
        "POST": accounts.post,
        "DELETE": accounts.delete,
    },
    "container": {
        "GET": containers.get,
        "HEAD": containers.get,
        "PUT": containers.put,
        "POST": containers.post,
        "DELETE": containers.delete,
    },
    "object": {
        "GET": objects.get,
        "HEAD": objects.get,
        "PUT": objects.put,
        "POST": objects.post,
        "DELETE": objects.delete,
        "COPY": objects.copy,
    },
}
OF_SERVICE, METHODS_OF_SERVICE = ("/info", "/healthcheck", "/healthz"), ("GET", "HEAD", "OPTIONS")


class Front:
    """Swift's API over a store."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self.store, self.identity = store, identity

    def begin(self, request: Request) -> Begun:
        """Raises `Answered`, `Fault`, `Unavailable`, `Refused`."""
        path = request.path.removeprefix(PREFIX)
        if (found := self._of_service(request, path)) is not None:
            return found
        if len(request.headers) > MAX_HEADERS or any(len(each) > MAX_HEADER_BYTES for each in request.headers.values()):
            raise Answered(400, "The request has too many headers, or one that is too long.")
        _ = request.length_bytes
        call = Call(request, target_of(path), self.store, self.identity)
        return cors.shown(call, lambda: self._run(call))

    def _of_service(self, request: Request, path: str) -> Response | None:
        """What is no account's."""
        if path not in OF_SERVICE:
            return None
        if request.method not in METHODS_OF_SERVICE:
            raise Answered(405, "", {"allow": ", ".join(METHODS_OF_SERVICE)})
        if path == "/info":
            body = json.dumps(information()).encode()
            return Response(200, {"content-type": "application/json; charset=UTF-8"}, body)
        if path == "/healthz":
            self.store.account("AUTH_nobody")
        return Response(200, {"content-type": "text/plain"}, b"OK")

    def _run(self, call: Call) -> Begun:
        request, kind = call.request, call.target.kind
        if request.method == "OPTIONS":
            return cors.options(call, _allowed(kind))
        if is_form(request):
            return begin_form(call)
        call.grant = temporary_urls.grant_of(call)
        if call.grant is None:
            call.who = self.identity.caller(request)
            if call.who is not None:
                request.user_id, request.project_id = call.who.user_id, call.who.project_id
        if (found := bulk.begin(call)) is not None:
            return found
        work = METHODS[kind].get(request.method)
        if work is None:
            raise Answered(405, "", {"allow": ", ".join(_allowed(kind))})
        if request.method in ("GET", "HEAD") and static_web.concerns(call):
            begun = static_web.get(call, work)
        else:
            begun = work(call)
        return temporary_urls.finished(call, begun)


def is_form(request: Request) -> bool:
    return request.method == "POST" and request.headers.get("content-type", "").startswith("multipart/form-data")


def _allowed(kind: str) -> list[str]:
    return [*METHODS[kind], "OPTIONS"]


def target_of(path: str) -> Target:
    """``/v1/account[/container[/object]]``. Raises 400 for another version, 404 for what is no path."""
    parts = path.split("/", 4)
    if len(parts) < 3 or parts[0] or not parts[2]:
        raise Answered(404)
    if parts[1] not in ("v1", "v1.0"):
        raise Answered(400)
    container, name = [*parts[3:], "", ""][:2]
    if (name and not container) or (len(parts) == 5 and not container):
        raise Answered(404)
    return Target(parts[2], container, name)


def answer_to(error: BaseException) -> Response | None:
    """The page for what a request ended with; None for what must not happen."""
    if isinstance(error, Answered):
        return error.response
    if isinstance(error, StorageFull):
        return page(507)
    if isinstance(error, Fault):
        return page(STATUS[error.kind])
    if isinstance(error, Unavailable | Refused):
        return page(STATUS[error.kind])
    return None
