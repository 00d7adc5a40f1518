"""Many things at once: deletions (``?bulk-delete``), and the files of an archive (``?extract-archive=tar.gz``).

An archive is taken to a temporary file first, so that a reader that waits for a slow client holds no thread.
"""

import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from typing import IO, Literal
from urllib.parse import quote, unquote_to_bytes

from trilith.kernel.errors import Fault
from trilith.kernel.wire import STATUS
from trilith.objectstore import uploads, versioning
from trilith.objectstore.calls import Call, Target
from trilith.objectstore.limits import MAX_CONTAINER_NAME_BYTES, MAX_FILE_BYTES, MAX_OBJECT_NAME_BYTES
from trilith.objectstore.listing_views import best_media
from trilith.objectstore.messages import Answered, Begun, Response, name_of, on_wire
from trilith.objectstore.reports import ACCEPTED, Report, status_line
from trilith.objectstore.whole_bodies import WholeBody

Mode = Literal["r|", "r|gz", "r|bz2"]
META_NAME = re.compile(r"meta\.[A-Za-z0-9_.-]+")
MAX_DELETES = 10_000
MAX_FAILURES = 1000
MAX_CONTAINERS = 10_000
MAX_LINE_BYTES = 3 * (MAX_CONTAINER_NAME_BYTES + MAX_OBJECT_NAME_BYTES + 2)
TOO_MANY = f"Maximum Bulk Deletes: {MAX_DELETES} per request"
DELETE_INFO = {"max_deletes_per_request": MAX_DELETES, "max_failed_deletes": MAX_FAILURES}
UPLOAD_INFO = {"max_containers_per_extraction": MAX_CONTAINERS, "max_failed_extractions": MAX_FAILURES}
ARCHIVES: Mapping[str, Mode] = {"tar": "r|", "tar.gz": "r|gz", "tar.bz2": "r|bz2"}
USER_ATTRIBUTES = ("SCHILY.xattr.user.", "LIBARCHIVE.xattr.user.")


def begin(call: Call) -> Begun | None:
    """None where the request asks for nothing of this."""
    request = call.request
    kind = request.param("extract-archive")
    if "bulk-delete" in request.query and request.method in ("POST", "DELETE"):
        _check(call)
        return WholeBody(call, MAX_DELETES * MAX_LINE_BYTES, TOO_MANY, lambda body: _delete_lines(call, body))
    if kind is None or request.method != "PUT":
        return None
    if kind.lower().strip(".") not in ARCHIVES:
        raise Answered(400, "Unsupported archive format")
    _check(call)
    return ArchiveUpload(call, ARCHIVES[kind.lower().strip(".")])


def _check(call: Call) -> None:
    """Before a body is taken: that its sender may write anything here. Each name is looked at again."""
    if call.request.length_bytes is None and not call.request.chunked:
        raise Answered(411)
    if call.owns(call.target.account):
        return
    if call.who is None or call.target.kind == "account":
        raise call.denied(call.target)
    call.require_writing(call.target)


def _report(call: Call, report: Report) -> Response:
    media = best_media(call.request, ACCEPTED)
    return report.response(200, media)


# deletion
def _delete_lines(call: Call, body: bytes) -> Response:
    """The names, one a line, percent-encoded."""
    lines = [line.strip() for line in body.split(b"\n")]
    names = [unquote_to_bytes(line) for line in lines if line]
    if len(names) > MAX_DELETES:
        return _report(call, Report("delete", status=413, body=TOO_MANY))
    # objects before the containers that they are in
    ordered = sorted(names, key=lambda name: b"/" not in name.strip(b"/"))
    return _deleted(call, ordered)


def _deleted(call: Call, names: list[bytes]) -> Response:
    targets: list[Target | tuple[str, int]] = []
    for raw in names:
        try:
            container, _, name = name_of(raw).lstrip("/").partition("/")
            targets.append(Target(call.target.account, container, name))
        except Answered as error:
            targets.append((quote(raw), error.response.status))
    return delete_all(call, targets)


def delete_all(call: Call, targets: Iterable[Target | tuple[str, int]]) -> Response:
    """Deletes what it can and tells the rest. A pair is a name that is none, and its status."""
    deleted = missing = 0
    errors: list[tuple[str, str]] = []
    for target in targets:
        if isinstance(target, tuple):
            errors.append((target[0], status_line(target[1])))
            continue
        status = _delete(call.at(target))
        deleted, missing = deleted + (status == 204), missing + (status == 404)
        if status not in (204, 404):
            path = f"{target.container}/{target.name}" if target.name else target.container
            errors.append((quote(path), status_line(status)))
        if len(errors) >= MAX_FAILURES:
            break
    report = Report("delete", errors, {"Number Deleted": deleted, "Number Not Found": missing}, 200)
    if len(errors) >= MAX_FAILURES:
        report.status, report.body = 400, "Max delete failures exceeded"
    elif errors:
        report.status = 400
    elif not deleted and not missing:
        report.status, report.body = 400, "Invalid bulk delete."
    return _report(call, report)


def _delete(call: Call) -> int:
    """The status of one deletion."""
    target = call.target
    try:
        if target.name:
            call.require_writing(target, "DELETE")
            versioning.delete(call)
        else:
            call.require("DELETE", target)
            call.store.delete_container(target.account, target.container)
    except Answered as error:
        return error.response.status
    except Fault as fault:
        return STATUS[fault.kind]
    return 204


# archives
class ArchiveUpload:
    def __init__(self, call: Call, mode: Mode) -> None:
        self.call, self.mode = call, mode
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever ends the upload
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > MAX_FILE_BYTES:
            raise Answered(413)
        self.file.write(data)

    def finish(self) -> Response:
        length = self.call.request.length_bytes
        if length is not None and length != self.size_bytes:
            raise Answered(499)
        report = Report("extract", counts={"Number Files Created": 0}, status=201)
        self.file.seek(0)
        try:
            with tarfile.open(fileobj=self.file, mode=self.mode) as archive:
                self._extract(archive, report)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            report.status, report.body = 400, f"Invalid Tar File: {error}"
        except Answered as error:
            report.status = error.response.status
        else:
            if report.errors:
                report.status = 400
            elif not report.counts["Number Files Created"]:
                report.status, report.body = 400, "Invalid Tar File: No Valid Files"
        return _report(self.call, report)

    def abandon(self) -> None:
        self.file.close()

    def _extract(self, archive: tarfile.TarFile, report: Report) -> None:
        made: set[str] = set()
        for member in archive:
            if len(report.errors) >= MAX_FAILURES:
                return
            if not member.isfile() or (path := self._path(member)) is None:
                continue
            status = self._store(archive, member, path, made)
            if status == 201:
                report.counts["Number Files Created"] += 1
            else:
                report.errors.append((quote(path, errors="surrogateescape")[:MAX_LINE_BYTES], status_line(status)))
                if status == 401:
                    raise Answered(401)

    def _path(self, member: tarfile.TarInfo) -> str | None:
        """``container/object``; None for a file that lies in no container."""
        path = member.name.removeprefix("./").lstrip("/")
        base = "/".join(filter(None, (self.call.target.container, self.call.target.name.rstrip("/"))))
        path = f"{base}/{path}" if base else path
        return path if "/" in path else None

    def _store(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, made: set[str]) -> int:
        """The status of one file's upload."""
        try:
            container, _, name = name_of(path.encode("utf-8", "surrogateescape")).partition("/")
            if member.size > MAX_FILE_BYTES:
                return 413
            target = Target(self.call.target.account, container, name)
            if container not in made:
                self._make_container(target)
                made.add(container)
            call = self.call.at(target, self.call.request.sub("PUT"))
            call.request.headers = self._headers(member)
            upload = uploads.begin(call)
            try:
                source = archive.extractfile(member)
                while source is not None and (piece := source.read(1 << 20)):
                    upload.write(piece)
                return upload.finish().status
            finally:
                upload.abandon()
        except Answered as error:
            return error.response.status
        except Fault as fault:
            return STATUS[fault.kind]

    def _make_container(self, target: Target) -> None:
        """Unless it is there. Who may not make one may still write into one."""
        place = Target(target.account, target.container)
        if self.call.store.container(place.account, place.container) is not None or not self.call.owns(place.account):
            return
        if len(place.container.encode()) > MAX_CONTAINER_NAME_BYTES:
            raise Answered(400)
        self.call.store.create_container(place.account, place.container, {})

    def _headers(self, member: tarfile.TarInfo) -> dict[str, str]:
        given = self.call.request.headers
        headers = {
            name: value for name, value in given.items() if uploads.is_meta(name) or name.startswith("x-delete-")
        }
        headers |= {"content-length": str(member.size)}
        for key, value in member.pax_headers.items():
            for prefix in USER_ATTRIBUTES:
                attribute = key.removeprefix(prefix) if key.startswith(prefix) else ""
                if attribute == "mime_type":
                    headers["content-type"] = on_wire(value)
                elif META_NAME.fullmatch(attribute):
                    headers[on_wire(f"x-object-meta-{attribute.removeprefix('meta.')}").lower()] = on_wire(value)
        return headers
