"""Quotas of accounts and containers, which are metadata: ``X-Account-Meta-Quota-Bytes``,
``X-Account-Meta-Quota-Count``, ``X-Container-Meta-Quota-Bytes`` and ``X-Container-Meta-Quota-Count``.

They are looked at when an upload begins, and again with its true size before it is stored. Uploads at the same moment
may together exceed them, as in Swift.
"""

from collections.abc import Mapping

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.messages import Answered

NAMES = ("quota-bytes", "quota-count")


def account_quota(call: Call, changes: Mapping[str, str | None]) -> None:
    """Only administrators of the cloud set an account's quota. Raises 403, and 400 for what is no number."""
    for name in (f"x-account-meta-{quota}" for quota in NAMES):
        if name not in changes:
            continue
        if not call.is_reseller:
            raise Answered(403)
        _check_number(changes[name], "Invalid bytes quota." if name.endswith("bytes") else "Invalid count quota.")


def container_quota(changes: Mapping[str, str | None]) -> None:
    """Raises 400."""
    for quota in NAMES:
        value = changes.get(f"x-container-meta-{quota}")
        _check_number(value, "Invalid bytes quota." if quota == "quota-bytes" else "Invalid count quota.")


def _check_number(value: str | None, sentence: str) -> None:
    if value is not None and not (value.isascii() and value.isdigit()):
        raise Answered(400, sentence)


def require_room(call: Call, target: Target, size_bytes: int) -> None:
    """Raises 413 where an object of this size is too much for its container or account."""
    container = call.container(target)
    if container is not None:
        room = _number(container.headers.get("x-container-meta-quota-bytes"))
        if room is not None and container.size_bytes + size_bytes > room:
            raise Answered(413, "Upload exceeds quota.")
        count = _number(container.headers.get("x-container-meta-quota-count"))
        if count is not None and container.object_count + 1 > count:
            raise Answered(413, "Upload exceeds quota.")
    account = call.account(target.account)
    if account is None or call.is_reseller:
        return
    room = _number(account.headers.get("x-account-meta-quota-bytes"))
    if room is not None and account.size_bytes + size_bytes > room:
        raise Answered(413, "Upload exceeds quota.")
    count = _number(account.headers.get("x-account-meta-quota-count"))
    if count is not None and account.object_count + 1 > count:
        raise Answered(413, "Upload exceeds quota.")


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdigit() else None
