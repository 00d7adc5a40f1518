"""Quotas: of an account (``X-Account-Quota-Bytes``, ``X-Account-Quota-Count``; administrators of the cloud set them),
and of a container (``X-Container-Meta-Quota-Bytes``, ``X-Container-Meta-Quota-Count``).

They are looked at when an upload begins, and again with its true size before it is stored. Uploads at the same moment
may together exceed them, as in Swift.
"""

from collections.abc import Mapping

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.limits import POLICY
from trilith.objectstore.messages import Answered, Headers
from trilith.objectstore.store import Account, Container

KINDS = ("bytes", "count")
ACCOUNT = tuple(f"x-account-quota-{kind}{policy}" for kind in KINDS for policy in ("", f"-policy-{POLICY}"))
OLD_NAME = "x-account-meta-quota-bytes"


def account_quotas(call: Call, headers: Headers) -> dict[str, str | None]:
    """What a request asks of an account's quotas. Raises 403 for whom they bind, 400 for what is no number."""
    found: dict[str, str | None] = {}
    if OLD_NAME in headers or OLD_NAME.replace("x-", "x-remove-", 1) in headers:
        found["x-account-quota-bytes"] = headers.get(OLD_NAME) or None
    for name in ACCOUNT:
        if name in headers:
            found[name] = headers[name] or None
        if headers.get(name.replace("x-", "x-remove-", 1)):
            found[name] = None
    if found and not call.is_reseller:
        raise Answered(403)
    if not all(value is None or _is_number(value) for value in found.values()):
        raise Answered(400)
    return found


def check_container_quotas(changes: Mapping[str, str | None]) -> None:
    """Raises 400."""
    for kind in KINDS:
        value = changes.get(f"x-container-meta-quota-{kind}")
        if value is not None and not _is_number(value):
            raise Answered(400, f"Invalid {kind} quota.")


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()


def require_room(call: Call, target: Target, size_bytes: int) -> None:
    """Raises 413 where an object of this size is too much for its container or account."""
    container = call.container(target)
    if container is not None:
        _require(container, "x-container-meta-quota-bytes", "x-container-meta-quota-count", size_bytes)
    account = call.account(target.account)
    if account is not None and not call.is_reseller:
        for policy in ("", f"-policy-{POLICY}"):
            _require(account, f"x-account-quota-bytes{policy}", f"x-account-quota-count{policy}", size_bytes)


def _require(of: Account | Container, bytes_name: str, count_name: str, size_bytes: int) -> None:
    room, count = of.headers.get(bytes_name), of.headers.get(count_name)
    if room and _is_number(room) and of.size_bytes + size_bytes > int(room):
        raise Answered(413, "Upload exceeds quota.")
    if count and _is_number(count) and of.object_count + 1 > int(count):
        raise Answered(413, "Upload exceeds quota.")
