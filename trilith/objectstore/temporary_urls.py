"""Temporary URLs: whoever has one may do one thing to one object, or to those below a prefix, until it expires. It is
signed with a key that the owner keeps in the metadata of the account or of the container.

The path that is signed begins with ``/v1/``, as all of Swift's tools have it, or with what stands before that in the
catalogue's URL.
"""

import base64
import binascii
import calendar
import hmac
import ipaddress
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from trilith.objectstore.calls import Call, Grant, Target
from trilith.objectstore.messages import PREFIX, Answered, Begun, Headers, Response, http_date, on_wire

DIGESTS = {64: "sha256", 128: "sha512"}  # by the length of a signature in hex
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
NOT_WITH = ("x-object-manifest", "x-symlink-target")
KEYS = ("temp-url-key", "temp-url-key-2")
INFO = {
    "methods": list(METHODS),
    "incoming_remove_headers": ["x-timestamp"],
    "incoming_allow_headers": [],
    "outgoing_remove_headers": ["x-object-meta-*"],
    "outgoing_allow_headers": ["x-object-meta-public-*"],
    "allowed_digests": sorted(DIGESTS.values()),
}


@dataclass(frozen=True)
class TemporaryGrant(Grant):
    """`expires_s`: since 1970. `filename`, `inline`: under which name a browser shall keep it, or that it shall not."""

    expires_s: int = 0
    filename: str = ""
    inline: bool = False


def grant_of(call: Call) -> TemporaryGrant | None:
    """None where the request has no signature. Raises 401 for one that is not right, or not any more."""
    request, target = call.request, call.target
    signature, expires = request.param("temp_url_sig"), request.param("temp_url_expires")
    if signature is None and expires is None:
        return None
    prefix, ip_range = request.param("temp_url_prefix"), request.param("temp_url_ip_range")
    end_s = _moment(expires or "")
    if not signature or end_s < request.now_s or request.method not in METHODS:
        raise _invalid(call)
    if ip_range and not _in_range(request.peer, ip_range):
        raise _invalid(call)
    if prefix is not None and not target.name.startswith(prefix):
        raise _invalid(call)
    at_root = prefix == "" and target.kind == "container" and request.method in ("GET", "HEAD")
    if not at_root and not target.name.strip("/"):
        raise _invalid(call)
    signed = Target(target.account, target.container, target.name if prefix is None else prefix)
    scope = _scope(call, signature, signed, prefix is not None, end_s, ip_range)
    if scope is None:
        raise _invalid(call)
    _check_headers(call)
    methods = ("GET", "HEAD") if request.method in ("GET", "HEAD") else (request.method,)
    return TemporaryGrant(methods, Covers(scope), end_s, request.param("filename") or "", "inline" in request.query)


@dataclass(frozen=True)
class Covers:
    """All of an account or of a container."""

    scope: Target

    def __call__(self, target: Target) -> bool:
        return target.account == self.scope.account and self.scope.container in ("", target.container)


def _invalid(call: Call) -> Answered:
    text = "" if call.request.method == "HEAD" else "401 Unauthorized: Temp URL invalid\n"
    return Answered(401, text, {"www-authenticate": f'Swift realm="{quote(call.target.account)}"'})


def _moment(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0


def _in_range(peer: str, ip_range: str) -> bool:
    try:
        return ipaddress.ip_address(peer) in ipaddress.ip_network(ip_range)
    except ValueError:
        return False


def signature_of(text: str, digests: Mapping[int, str] = DIGESTS) -> tuple[str, str] | None:
    """(digest, signature in hex); None for what is none. Also ``sha256:BASE64``."""
    name, colon, encoded = text.partition(":")
    if colon:
        try:
            padded = encoded.replace("-", "+").replace("_", "/") + "=" * (-len(encoded) % 4)
            text = base64.b64decode(padded, validate=True).hex()
        except (binascii.Error, ValueError):
            return None
        return (name, text) if digests.get(len(text)) == name else None
    digest = digests.get(len(text))
    return (digest, text) if digest and text.isascii() else None


def keys(call: Call) -> Iterator[tuple[str, Target]]:
    """(key, what it is for) of the account and the container."""
    target = call.target
    account, container = call.account(target.account), call.container(target)
    for name in KEYS:
        if account is not None and (key := account.headers.get(f"x-account-meta-{name}")):
            yield key, Target(target.account)
        if container is not None and (key := container.headers.get(f"x-container-meta-{name}")):
            yield key, Target(target.account, target.container)


def signs(key: str, digest: str, signature: str, texts: list[str]) -> bool:
    """Whether this is the signature of one of the texts."""
    raw = key.encode("latin-1")
    found = False
    for text in texts:
        found |= hmac.compare_digest(hmac.new(raw, text.encode(), digest).hexdigest(), signature)
    return found


def _scope(
    call: Call, signature: str, signed: Target, is_prefix: bool, end_s: int, ip_range: str | None
) -> Target | None:
    """What the key that made the signature is for; None where none of them did."""
    parsed = signature_of(signature)
    if parsed is None:
        return None
    path = f"/v1/{signed.account}/{signed.container}/{signed.name}"
    before = "prefix:" if is_prefix else ""
    methods = ("HEAD", "GET", "POST", "PUT") if call.request.method == "HEAD" else (call.request.method,)
    range_line = f"ip={ip_range}\n" if ip_range else ""
    texts = [f"{range_line}{method}\n{end_s}\n{before}{where}{path}" for method in methods for where in ("", PREFIX)]
    scopes = [scope for key, scope in keys(call) if signs(key, *parsed, texts)]
    return min(scopes, key=lambda scope: scope.container) if scopes else None


def _check_headers(call: Call) -> None:
    """A signed URL is for bytes, not for what makes other objects readable."""
    if call.request.method in ("GET", "HEAD"):
        return
    for name in NOT_WITH:
        if name in call.request.headers:
            raise Answered(400, f"The header '{name.title()}' is not allowed in this tempurl")


def finished(call: Call, begun: Begun) -> Begun:
    """The response as the URL's holder gets it: as a file to keep, without the owner's metadata."""
    grant = call.grant
    if not isinstance(grant, TemporaryGrant) or not isinstance(begun, Response):
        return begun
    begun.headers = {name: value for name, value in begun.headers.items() if _is_shown(name)}
    if call.request.method in ("GET", "HEAD") and begun.ok:
        begun.headers["content-disposition"] = on_wire(_disposition(call, grant, begun.headers))
        begun.headers["expires"] = http_date(grant.expires_s)
    return begun


def _is_shown(name: str) -> bool:
    return not name.startswith("x-object-meta-") or name.startswith("x-object-meta-public-")


def _disposition(call: Call, grant: TemporaryGrant, headers: Headers) -> str:
    if grant.inline:
        return _named("inline", grant.filename) if grant.filename else "inline"
    if not grant.filename and "content-disposition" in headers:
        return headers["content-disposition"].encode("latin-1").decode("utf-8", "replace")
    return _named("attachment", grant.filename or call.target.name.rstrip("/").rpartition("/")[2])


def _named(kind: str, name: str) -> str:
    return f"{kind}; filename=\"{quote(name, safe=' /')}\"; filename*=UTF-8''{quote(name)}"
