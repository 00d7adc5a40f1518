"""Requests from other web sites' pages: what a browser asks first, and what it may show of the answer. Who may, the
container's metadata say (``X-Container-Meta-Access-Control-*``)."""

from collections.abc import Callable

from trilith.objectstore.calls import Call
from trilith.objectstore.messages import Answered, Begun, Headers, Response, page

META = "x-container-meta-access-control-"
EXPOSED = (
    "cache-control",
    "content-language",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "x-openstack-request-id",
    "x-timestamp",
    "x-trans-id",
)


def _settings(call: Call) -> Headers:
    container = call.container(call.target) if call.target.container else None
    headers = container.headers if container else {}
    return {name.removeprefix(META): value for name, value in headers.items() if name.startswith(META)}


def _is_allowed(settings: Headers, origin: str) -> bool:
    allowed = settings.get("allow-origin", "").split()
    return "*" in allowed or origin in allowed


def _origin(settings: Headers, origin: str) -> Headers:
    if settings.get("allow-origin", "").strip() == "*":
        return {"access-control-allow-origin": "*"}
    return {"access-control-allow-origin": origin, "vary": "Origin"}


def options(call: Call, allowed: list[str]) -> Response:
    """What may be done here; to a browser that asks for a page of another site, whether it may."""
    headers = call.request.headers
    found: Headers = {"allow": ", ".join(allowed), "content-type": "text/html; charset=UTF-8"}
    origin = headers.get("origin")
    if not origin or not call.target.container:
        return Response(200, found)
    settings = _settings(call)
    if not _is_allowed(settings, origin) or headers.get("access-control-request-method") not in allowed:
        return page(401, "", found)
    found |= _origin(settings, origin)
    if "max-age" in settings:
        found["access-control-max-age"] = settings["max-age"]
    found["access-control-allow-methods"] = ", ".join(allowed)
    asked = [each.strip() for each in headers.get("access-control-request-headers", "").split(",") if each.strip()]
    if asked:
        found["access-control-allow-headers"] = ", ".join(asked)
        found["vary"] = ", ".join(filter(None, [found.get("vary", ""), "Access-Control-Request-Headers"]))
    return Response(200, found)


def shown(call: Call, run: Callable[[], Begun]) -> Begun:
    """Runs the request; what it answers may be read by a page of an allowed origin, also where it is an error."""
    origin = call.request.headers.get("origin")
    if not origin or call.request.method == "OPTIONS":
        return run()
    try:
        begun = run()
    except Answered as error:
        _expose(call, origin, error.response)
        raise
    if isinstance(begun, Response):
        _expose(call, origin, begun)
    return begun


def _expose(call: Call, origin: str, response: Response) -> None:
    settings = _settings(call)
    if not _is_allowed(settings, origin):
        return
    names = {*EXPOSED, *settings.get("expose-headers", "").lower().split()}
    names |= {name for name in response.headers if name.startswith(("x-container-meta", "x-object-meta"))}
    vary = response.headers.get("vary")
    response.headers |= {"access-control-expose-headers": ", ".join(sorted(names)), **_origin(settings, origin)}
    if vary:
        response.headers["vary"] = ", ".join([vary, *(["Origin"] if "vary" in _origin(settings, origin) else [])])
