"""Symlinks: objects without bytes that stand for another one (``X-Symlink-Target: container/object``). A static one
also says which ETag its target must have."""

from dataclasses import replace

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.messages import Answered, Response, on_wire, quoted, text_of
from trilith.objectstore.reading import LINK, LINK_ACCOUNT, LINK_BYTES, LINK_ETAG, Raw, find, link_target
from trilith.objectstore.store import Object
from trilith.objectstore.uploads import created, prepare, store_bytes

FORM = "X-Symlink-Target header must be of the form <container name>/<object name>"
ASKED = "x-symlink-target"


def put(call: Call) -> Response:
    """Raises 400, 409, 412."""
    request = call.request
    if request.length_bytes or request.chunked:
        raise Answered(400, "Symlink requests require a zero byte body")
    target = _target(call)
    etag = request.headers.get("x-symlink-target-etag", "").strip().strip('"')
    if any(character in etag for character in ';"\\'):
        raise Answered(400, "Bad X-Symlink-Target-Etag format")
    sysmeta = {LINK: quoted(f"{target.container}/{target.name}")}
    if "x-symlink-target-account" in request.headers:
        sysmeta[LINK_ACCOUNT] = quoted(target.account)
    listed = {"symlink_path": target.path}
    call.require_writing(call.target)
    if etag:
        size, media = _verified(call, target, etag)
        sysmeta |= {LINK_ETAG: etag, LINK_BYTES: str(size)}
        listed |= {"symlink_etag": etag, "symlink_bytes": str(size)}
        request.headers["content-type"] = request.headers.get("content-type") or media
    elif not request.headers.get("content-type"):
        request.headers["content-type"] = "application/symlink"
    prepared = prepare(call)
    prepared = replace(prepared, headers={**prepared.headers, **sysmeta}, listed=listed)
    return created(store_bytes(call, prepared, b""))


def _target(call: Call) -> Target:
    container, _, name = text_of(call.request.headers[ASKED]).partition("/")
    if not container or not name:
        raise Answered(412, FORM)
    account = text_of(call.request.headers.get("x-symlink-target-account", on_wire(call.target.account)))
    if not account or "/" in account:
        raise Answered(412, "Account name cannot contain slashes" if account else "Account name cannot be empty")
    found = Target(account, container, name)
    if found == call.target:
        raise Answered(400, "Symlink cannot target itself")
    return found


def _verified(call: Call, target: Target, etag: str) -> tuple[int, str]:
    """Size and content type of the target of a static link."""
    where = {"content-location": on_wire(target.path)}
    try:
        found = find(call, target, Raw(), peek=True)
    except Answered as error:
        if error.response.status == 404:
            raise Answered(409, "X-Symlink-Target does not exist", where) from None
        raise
    if found.content.etag != etag:
        sentence = f"Object Etag '{found.content.etag}' does not match X-Symlink-Target-Etag header '{etag}'"
        raise Answered(409, sentence, where)
    return found.content.size_bytes, found.content.media


def redirected(found: Object, at: Target) -> Response | None:
    """What a POST to a symlink gets, which has changed the symlink and not its target."""
    if LINK not in found.headers:
        return None
    sentence = "The requested POST was applied to a symlink. POST directly to the target to apply requested metadata."
    return Answered(307, sentence, {"location": on_wire(link_target(found, at).path)}).response
