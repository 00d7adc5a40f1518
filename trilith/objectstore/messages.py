"""One request and one response of the object store, and its error pages.

Header values and names of entities cross the wire as bytes. Headers are held as latin-1 text, one character a byte, so
that whatever a client stored comes back; names and query parameters are UTF-8 text.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, mktime_tz, parsedate_tz
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote_to_bytes

Headers = dict[str, str]  # names in lower case, values as latin-1
PREFIX = "/object-store"
TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=UTF-8"
REASONS: Mapping[int, tuple[str, str]] = {
    200: ("OK", ""),
    201: ("Created", ""),
    202: ("Accepted", "The request is accepted for processing."),
    204: ("No Content", ""),
    206: ("Partial Content", ""),
    301: ("Moved Permanently", "The resource has moved permanently."),
    303: ("See Other", "The response to the request can be found under a different URI."),
    304: ("Not Modified", ""),
    307: ("Temporary Redirect", "The resource has moved temporarily."),
    400: (
        "Bad Request",
        "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    ),
    401: (
        "Unauthorized",
        "This server could not verify that you are authorized to access the document you requested.",
    ),
    403: ("Forbidden", "Access was denied to this resource."),
    404: ("Not Found", "The resource could not be found."),
    405: ("Method Not Allowed", "The method is not allowed for this resource."),
    406: ("Not Acceptable", "The resource is not available in a format acceptable to your browser."),
    408: ("Request Timeout", "The server has waited too long for the request to be sent by the client."),
    409: ("Conflict", "There was a conflict when trying to complete your request."),
    411: ("Length Required", "Content-Length header required."),
    412: ("Precondition Failed", "A precondition for this request was not met."),
    413: ("Request Entity Too Large", "The body of your request was too large for this server."),
    416: ("Requested Range Not Satisfiable", "The Range requested is not available."),
    422: ("Unprocessable Entity", "Unable to process the contained instructions"),
    499: ("Client Disconnect", "The client was disconnected during request."),
    500: (
        "Internal Error",
        "The server has either erred or is incapable of performing the requested operation.",
    ),
    501: ("Not Implemented", "The requested method is not implemented by this server."),
    503: ("Service Unavailable", "The server is currently unavailable. Please try again at a later time."),
    507: ("Insufficient Storage", "There was not enough space to save the resource."),
}


@dataclass
class Response:
    """`body` is all of it, or pieces that are made as they are sent, `length_bytes` in all. Without a body, as after a
    HEAD, `length_bytes` may say how long it would be.

    Who has a response closes it.
    """

    status: int
    headers: Headers = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    length_bytes: int | None = None
    on_close: Callable[[], None] | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def length(self) -> int | None:
        return len(self.body) if isinstance(self.body, bytes) and self.length_bytes is None else self.length_bytes

    def close(self) -> None:
        if not isinstance(self.body, bytes) and (close := getattr(self.body, "close", None)):
            close()
        if self.on_close is not None:
            self.on_close()

    def whole(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        try:
            return b"".join(self.body)
        finally:
            self.close()


class Answered(Exception):
    """Ends a request here, with this response."""

    def __init__(self, status: int, text: str = "", headers: Headers | None = None) -> None:
        super().__init__(f"{status} {text}")
        self.response = page(status, text, headers)

    @property
    def status_line(self) -> str:
        return f"{self.response.status} {REASONS[self.response.status][0]}"


def page(status: int, text: str = "", headers: Headers | None = None) -> Response:
    """An error's page: the sentence that says why, or the one that every error of this kind has, as HTML."""
    if text:
        return Response(status, {"content-type": TEXT} | (headers or {}), text.encode())
    title, sentence = REASONS[status]
    body = f"<html><h1>{title}</h1><p>{sentence}</p></html>" if sentence else ""
    return Response(status, {"content-type": HTML} | (headers or {}), body.encode())


class Upload(Protocol):
    """A request whose body is taken as it comes. Called from one thread at a time; ends with one of the last two."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> Response: ...

    def abandon(self) -> None: ...


Begun = Response | Upload


@dataclass
class Request:
    """`path` as decoded UTF-8, `raw_path` as it was sent; `length_bytes` None: not told (chunked, or no body).

    `user_id` and `project_id`: of the caller, once that is known; for the log.
    """

    method: str
    raw_path: str
    raw_query: str = ""
    headers: Headers = field(default_factory=dict)
    scheme: str = "http"
    peer: str = ""
    trans_id: str = ""
    user_id: str | None = None
    project_id: str | None = None
    query: dict[str, str] = field(init=False)
    now_s: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        pairs = parse_qsl(self.raw_query, keep_blank_values=True, errors="surrogateescape")
        self.query = dict(reversed(pairs))  # the first of a name counts

    @property
    def path_bytes(self) -> bytes:
        return unquote_to_bytes(self.raw_path)

    @property
    def path(self) -> str:
        """Raises 412 for what is no name."""
        return name_of(self.path_bytes)

    @property
    def base_url(self) -> str:
        scheme = self.headers.get("x-forwarded-proto", self.scheme)
        return f"{scheme}://{self.headers.get('host', 'localhost')}"

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length_bytes(self) -> int | None:
        """Raises 400 for a length that is none, 501 for a transfer encoding that is not known."""
        encoding, given = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        if encoding is not None and encoding.lower() != "chunked":
            if "," in encoding:
                raise Answered(501, "Unsupported Transfer-Coding header value specified in Transfer-Encoding header")
            raise Answered(400, f'Invalid Transfer-Encoding header value: "{encoding}"')
        if given is None or self.chunked:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", given):
            raise Answered(400, f"Invalid Content-Length header value: {given}")
        return int(given)

    def param(self, name: str) -> str | None:
        """A query parameter. Raises 400 where it is no UTF-8."""
        value = self.query.get(name)
        if value is not None and not is_utf8(value):
            raise Answered(400, f'"{name}" parameter not valid UTF-8')
        return value

    def flag(self, name: str) -> bool:
        return is_true(self.headers.get(name))

    def sub(self, method: str, **query: str) -> "Request":
        """Another request of the same client, with its headers."""
        other = Request(method, self.raw_path, "", dict(self.headers), self.scheme, self.peer, self.trans_id)
        other.query, other.now_s = dict(query), self.now_s
        return other


# names
def is_utf8(text: str) -> bool:
    """Whether decoded text was UTF-8, with no NUL in it."""
    return "\0" not in text and not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def name_of(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Answered(412, "Invalid UTF8 or contains NULL") from None
    if "\0" in text:
        raise Answered(412, "Invalid UTF8 or contains NULL")
    return text


def text_of(header: str) -> str:
    """A header's value as UTF-8 text, unquoted. Raises 412 where it is none."""
    return name_of(unquote_to_bytes(header.encode("latin-1")))


def on_wire(text: str) -> str:
    """UTF-8 text as a header's value."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def quoted(text: str) -> str:
    return quote(text, safe="/")


def is_true(value: str | None) -> bool:
    return value is not None and value.strip().lower() in TRUE


# times
def timestamp(moment_s: float) -> str:
    """As ``X-Timestamp`` says it: seconds with five decimals."""
    return f"{moment_s:016.5f}"


def http_date(moment_s: float) -> str:
    """Whole seconds, rounded up: nothing was changed after its own ``Last-Modified``."""
    return formatdate(-(-moment_s // 1), usegmt=True)


def iso_date(moment_s: float) -> str:
    """As listings say it: UTC with six decimals and no zone."""
    whole = int(moment_s)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((moment_s - whole) * 1e5) * 10:06d}"


def moment_of(date: str | None) -> float | None:
    """Seconds of an HTTP date; None for anything else."""
    parsed = parsedate_tz(date) if date else None
    try:
        return float(mktime_tz(parsed)) if parsed else None
    except (ValueError, OverflowError):
        return None
