"""Uploads by a browser's form (``multipart/form-data``), allowed by a signature that stands in the form, before its
files: of path, ``redirect``, ``max_file_size``, ``max_file_count`` and ``expires``."""

import email.parser
import email.policy
import re
from dataclasses import dataclass, field
from email.message import Message
from html import escape
from urllib.parse import quote

from trilith.objectstore import temporary_urls, uploads
from trilith.objectstore.calls import Call, Grant, Target
from trilith.objectstore.messages import PREFIX, REASONS, Answered, Headers, Response, on_wire
from trilith.objectstore.temporary_urls import Covers

MAX_VALUE_BYTES = 4096
MAX_HEADERS_BYTES = 8192
DIGESTS = {40: "sha1", **temporary_urls.DIGESTS}  # as a MAC SHA-1 is not broken, and old forms have it
INFO = {"allowed_digests": sorted(DIGESTS.values()), "deprecated_digests": ["sha1"]}


def begin_form(call: Call) -> "FormUpload":
    message = _headers(b"content-type: " + call.request.headers["content-type"].encode("latin-1"))
    boundary = message.get_param("boundary", header="content-type")
    if not isinstance(boundary, str) or not boundary or not boundary.isascii():
        raise Answered(400, "FormPost: invalid starting boundary")
    if call.target.kind == "account":
        raise Answered(401, "FormPost: Invalid Signature")
    return FormUpload(call, b"\r\n--" + boundary.encode())


def _headers(raw: bytes) -> Message:
    return email.parser.BytesParser(policy=email.policy.compat32).parsebytes(raw + b"\r\n\r\n")


@dataclass
class FormUpload:
    """Parts as they come: fields are kept, files are stored one after the other."""

    call: Call
    delimiter: bytes
    buffer: bytes = b"\r\n"  # what stands before the first boundary, whether it was sent or not
    state: str = "preamble"
    fields: dict[str, str] = field(default_factory=dict)
    name: str = ""
    value: bytes = b""
    upload: uploads.ObjectUpload | None = None
    files: int = 0
    size_bytes: int = 0
    file_bytes: int = 0
    failed: Response | None = None

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self.buffer += data
        while self.failed is None and self._step():
            pass
        if self.failed is not None or self.state == "end":
            self.buffer = b""

    def _step(self) -> bool:
        """One change of state, if there is enough for it."""
        if self.state == "headers":
            return self._part_begins()
        if self.state == "boundary":
            return self._boundary()
        if self.state == "end":
            return False
        at = self.buffer.find(self.delimiter)
        if at < 0:
            keep = len(self.delimiter) - 1
            if self.state == "preamble" and len(self.buffer) > MAX_HEADERS_BYTES:
                raise Answered(400, "FormPost: invalid starting boundary")
            self._take(self.buffer[:-keep])
            self.buffer = self.buffer[-keep:]
            return False
        self._take(self.buffer[:at])
        self.buffer = self.buffer[at + len(self.delimiter) :]
        self._part_ends()
        self.state = "boundary"
        return True

    def _boundary(self) -> bool:
        if len(self.buffer) < 2:
            return False
        self.state = "end" if self.buffer.startswith(b"--") else "headers"
        if self.state == "headers" and not self.buffer.startswith(b"\r\n"):
            raise Answered(400, "FormPost: invalid boundary")
        return True

    def _part_begins(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEADERS_BYTES:
                raise Answered(400, "FormPost: invalid headers of a part")
            return False
        headers = _headers(self.buffer[2:end])
        self.buffer = self.buffer[end + 4 :]
        filename = headers.get_filename()
        if headers.get_content_disposition() == "form-data" and filename:
            self.state = "file"
            self._file_begins(filename, headers)
        else:
            self.state, self.value = "field", b""
            name = headers.get_param("name", header="content-disposition")
            self.name = name.lower() if isinstance(name, str) else ""
        return True

    def _take(self, data: bytes) -> None:
        if self.state == "field":
            self.value = (self.value + data)[:MAX_VALUE_BYTES]
        elif self.state == "file" and self.upload is not None and self.failed is None:
            self.file_bytes += len(data)
            if self.file_bytes > self._number("max_file_size"):
                raise Answered(400, "FormPost: max_file_size exceeded")
            self.upload.write(data)

    def _part_ends(self) -> None:
        if self.state == "field" and self.name:
            self.fields[self.name] = self.value.decode("utf-8", "replace").rstrip("\r\n")
        elif self.state == "file" and self.upload is not None:
            upload, self.upload = self.upload, None
            upload.finish()
            self.files += 1

    # files
    def _file_begins(self, filename: str, headers: Message) -> None:
        if self.files >= self._number("max_file_count"):
            self.failed = self._answer(400, "max file count exceeded")
            return
        scope = self._scope()
        given = {name: self.fields.get(name) or headers.get(name) for name in ("content-type", "content-encoding")}
        sent: Headers = {name: on_wire(str(value)) for name, value in given.items() if value}
        for name in ("x_delete_at", "x_delete_after"):
            if name in self.fields:
                if not re.fullmatch(r"-?[0-9]{1,18}", self.fields[name]):
                    raise Answered(400, f"FormPost: {name} not an integer")
                sent[name.replace("_", "-")] = self.fields[name]
        target = Target(self.call.target.account, self.call.target.container, self._object_name(filename))
        request = self.call.request.sub("PUT")
        request.headers = {**sent, "transfer-encoding": "chunked"}
        new = self.call.at(target, request)
        new.grant = Grant(("PUT",), Covers(scope))
        self.upload, self.file_bytes = uploads.begin(new), 0

    def _object_name(self, filename: str) -> str:
        return self.call.target.name + filename

    def _scope(self) -> Target:
        """What the form's signature is good for. Raises 401, 400."""
        if self._number("expires") < self.call.request.now_s:
            raise Answered(401, "FormPost: Form Expired")
        parsed = temporary_urls.signature_of(self.fields.get("signature", ""), DIGESTS)
        path = self.call.request.path.removeprefix(PREFIX)
        said = [self.fields.get("redirect", "")]
        said += [self.fields.get(name) or "0" for name in ("max_file_size", "max_file_count", "expires")]
        texts = ["\n".join([where + path, *said]) for where in ("", PREFIX)]
        if parsed is not None:
            for key, scope in temporary_urls.keys(self.call):
                if temporary_urls.signs(key, *parsed, texts):
                    return scope
        raise Answered(401, "FormPost: Invalid Signature")

    def _number(self, name: str) -> int:
        value = self.fields.get(name) or "0"
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise Answered(400, f"FormPost: {name} not an integer")
        return int(value)

    # the end
    def finish(self) -> Response:
        length = self.call.request.length_bytes
        if length is not None and length != self.size_bytes:
            raise Answered(499)
        if self.failed is not None:
            return self.failed
        if self.state != "end":
            raise Answered(400, "FormPost: the form ends too early")
        if not self.files:
            return self._answer(400, "no files to process")
        return self._answer(201, "")

    def _answer(self, status: int, message: str) -> Response:
        redirect = self.fields.get("redirect")
        if redirect and not re.search(r"[\x00-\x20\x7f]", redirect):
            mark = "&" if "?" in redirect else "?"
            place = f"{redirect}{mark}status={status}&message={quote(message)}"
            page = f'<p><a href="{escape(place)}">Click to continue...</a></p>'
            shown = f"<html><body>{page}</body></html>".encode()
            return Response(303, {"location": on_wire(place), "content-type": "text/html; charset=UTF-8"}, shown)
        text = f"{status} {REASONS[status][0]}" + (f"\r\nFormPost: {message.title()}" if message else "")
        return Response(status, {"content-type": "text/plain"}, text.encode())

    def abandon(self) -> None:
        if self.upload is not None:
            self.upload.abandon()
