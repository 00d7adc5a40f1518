"""How much of everything there may be, and what ``/info`` tells of it: Swift's numbers, as its clients know them."""

import re
from typing import Any

from trilith.objectstore.messages import Answered, Headers, Request, is_utf8

MAX_FILE_BYTES = 5 * (1 << 30) + 2
MAX_META_NAME_BYTES = 128
MAX_META_VALUE_BYTES = 256
MAX_META_COUNT = 90
MAX_META_BYTES = 4096
MAX_HEADER_BYTES = 8192
MAX_HEADERS = MAX_META_COUNT + 36
MAX_OBJECT_NAME_BYTES = 1024
MAX_CONTAINER_NAME_BYTES = 256
MAX_LISTING = 10_000
MAX_SYMLINKS = 2
POLICY = "default"
OWNER_HEADERS = (  # only who owns the account sees and sets these
    "x-container-read",
    "x-container-write",
    "x-account-meta-temp-url-key",
    "x-account-meta-temp-url-key-2",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
)
SWIFT: dict[str, Any] = {
    "version": "2.38.0",
    "max_file_size": MAX_FILE_BYTES,
    "max_meta_name_length": MAX_META_NAME_BYTES,
    "max_meta_value_length": MAX_META_VALUE_BYTES,
    "max_meta_count": MAX_META_COUNT,
    "max_meta_overall_size": MAX_META_BYTES,
    "max_header_size": MAX_HEADER_BYTES,
    "max_request_line": 8192,
    "max_object_name_length": MAX_OBJECT_NAME_BYTES,
    "max_container_name_length": MAX_CONTAINER_NAME_BYTES,
    "max_account_name_length": 256,
    "container_listing_limit": MAX_LISTING,
    "account_listing_limit": MAX_LISTING,
    "extra_header_count": 0,
    "valid_api_versions": ["v1", "v1.0"],
    "account_autocreate": True,
    "allow_account_management": True,
    "strict_cors_mode": True,
    "policies": [{"name": POLICY, "aliases": POLICY, "default": True}],
}


def check_metadata(request: Request, kind: str) -> None:
    """The request's ``X-<kind>-Meta-*`` headers and the size of all headers. Raises 400."""
    prefix = f"x-{kind}-meta-"
    count = size = 0
    for name, value in request.headers.items():
        if len(value) > MAX_HEADER_BYTES:
            raise Answered(400, f"Header value too long: {name[:MAX_META_NAME_BYTES]}")
        if not name.startswith(prefix):
            continue
        key = name.removeprefix(prefix)
        if not key:
            raise Answered(400, "Metadata name cannot be empty")
        if kind != "object" and not (_wire_utf8(key) and (not value or _wire_utf8(value))):
            raise Answered(400, "Metadata must be valid UTF-8")
        count, size = count + 1, size + len(key) + len(value)
        if len(key) > MAX_META_NAME_BYTES:
            raise Answered(400, f"Metadata name too long: {name}")
        if len(value) > MAX_META_VALUE_BYTES:
            raise Answered(400, f"Metadata value longer than {MAX_META_VALUE_BYTES}: {name}")
        _check_totals(count, size)


def check_all_metadata(metadata: Headers, kind: str) -> None:
    """What an account or a container would have in all. Raises 400."""
    prefix = f"x-{kind}-meta-"
    mine = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    _check_totals(len(mine), sum(len(name) + len(value) for name, value in mine.items()))


def _check_totals(count: int, size: int) -> None:
    if count > MAX_META_COUNT:
        raise Answered(400, f"Too many metadata items; max {MAX_META_COUNT}")
    if size > MAX_META_BYTES:
        raise Answered(400, f"Total metadata too large; max {MAX_META_BYTES}")


def _wire_utf8(value: str) -> bool:
    try:
        return is_utf8(value.encode("latin-1").decode())
    except UnicodeDecodeError:
        return False


def check_object(request: Request, name: str) -> None:
    """What an upload's headers must say before any of its bytes is taken, in the order in which Swift looks."""
    length = request.length_bytes
    if length is not None and length > MAX_FILE_BYTES:
        raise Answered(413, "Your request is too large.")
    if length is None and not request.chunked:
        raise Answered(411, "Missing Content-Length header.")
    if (size := len(name.encode())) > MAX_OBJECT_NAME_BYTES:
        raise Answered(400, f"Object name length of {size} longer than {MAX_OBJECT_NAME_BYTES}")
    if not _wire_utf8(request.headers["content-type"]):
        raise Answered(400, "Invalid Content-Type")
    check_metadata(request, "object")


def delete_at(request: Request) -> int | None:
    """When the object of this request shall be deleted, in seconds since 1970. Raises 400."""
    if (after := request.headers.get("x-delete-after")) is not None:
        if not re.fullmatch(r"-?[0-9]{1,18}", after.strip()):
            raise Answered(400, "Non-integer X-Delete-After")
        moment = min(int(request.now_s + int(after)), 9_999_999_999)
        if moment <= request.now_s:
            raise Answered(400, "X-Delete-After in past")
        return moment
    if (at := request.headers.get("x-delete-at")) is not None:
        if not re.fullmatch(r"-?[0-9]{1,18}", at.strip()):
            raise Answered(400, "Non-integer X-Delete-At")
        moment = min(int(at), 9_999_999_999)
        if moment <= request.now_s:
            raise Answered(400, "X-Delete-At in past")
        return moment
    return None
