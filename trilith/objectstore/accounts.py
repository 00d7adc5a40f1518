"""Accounts: what a project has in all, its metadata, and the list of its containers."""

from trilith.objectstore.calls import Call, visible
from trilith.objectstore.limits import OWNER_HEADERS, POLICY, check_all_metadata, check_metadata
from trilith.objectstore.listing_views import Asked, Entry, asked, listing, media_of
from trilith.objectstore.messages import Answered, Headers, Response, iso_date, page, timestamp
from trilith.objectstore.quotas import account_quotas
from trilith.objectstore.store import Account, Container, Page, Subdir
from trilith.objectstore.version_names import LAST_HIDDEN

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")
MICRO = 1e-6


def get(call: Call) -> Response:
    """Also HEAD. An account that nobody wrote to yet is an empty one."""
    call.require(call.request.method, call.target)
    media_of(call.request)
    wanted = asked(call.request)
    found = call.account(call.target.account)
    shown = _headers(call, found)
    if call.request.method == "HEAD":
        return listing(call.request, "account", call.target.account, [], shown)
    entries = [] if found is None or not wanted.limit else _entries(call, wanted)
    return listing(call.request, "account", call.target.account, entries, shown)


def _entries(call: Call, wanted: Asked) -> list[Entry]:
    """What is ours stands before everything else, and is left out."""
    marker, end = wanted.marker, wanted.end_marker
    if wanted.reverse:
        end = max(end, LAST_HIDDEN)
    else:
        marker = max(marker, LAST_HIDDEN)
    page = Page(wanted.prefix, wanted.delimiter, marker, end, wanted.limit, wanted.reverse)
    return [_entry(found) for found in call.store.list_containers(call.target.account, page)]


def _entry(found: Container | Subdir) -> Entry:
    if isinstance(found, Subdir):
        return {"subdir": found.name}
    return {
        "name": found.name,
        "count": found.object_count,
        "bytes": found.size_bytes,
        "last_modified": iso_date(found.timestamp_us * MICRO),
        "storage_policy": POLICY,
    }


def _headers(call: Call, found: Account | None) -> Headers:
    counts = (found.container_count, found.object_count, found.size_bytes) if found else (0, 0, 0)
    names = ("container-count", "object-count", "bytes-used")
    shown = {f"x-account-{name}": str(count) for name, count in zip(names, counts, strict=True)}
    shown |= {f"x-account-storage-policy-{POLICY}-{name}": shown[f"x-account-{name}"] for name in names if counts[0]}
    shown["x-timestamp"] = timestamp(found.timestamp_us * MICRO if found else call.request.now_s)
    return shown | (visible(dict(found.headers), call.owns(call.target.account)) if found else {})


def put(call: Call) -> Response:
    """Makes it; for administrators, because it makes itself when it is needed."""
    call.require("PUT", call.target)
    if not call.is_reseller:
        raise Answered(403)
    there = call.account(call.target.account) is not None
    _change(call)
    return page(202 if there else 201)


def post(call: Call) -> Response:
    call.require("POST", call.target)
    _change(call)
    return Response(204, {"content-type": "text/html; charset=UTF-8"})


def _change(call: Call) -> None:
    check_metadata(call.request, "account")
    changes = changed(call.request.headers, "account") | account_quotas(call, call.request.headers)
    if not call.owns(call.target.account):
        changes = {name: value for name, value in changes.items() if name not in OWNER_HEADERS}
    found = call.account(call.target.account)
    after = {name: value for name, value in {**(found.headers if found else {}), **changes}.items() if value}
    check_all_metadata(after, "account")
    call.store.update_account(call.target.account, changes)


def changed(headers: Headers, kind: str) -> dict[str, str | None]:
    """What a request's ``X-<kind>-Meta-*`` and ``X-Remove-<kind>-Meta-*`` ask for; None removes, an empty value too."""
    removed = {
        name.replace("x-remove-", "x-", 1): None for name in headers if name.startswith(f"x-remove-{kind}-meta-")
    }
    given = {name: value or None for name, value in headers.items() if name.startswith(f"x-{kind}-meta-")}
    return {**removed, **given}


def delete(call: Call) -> Response:
    """For administrators of the cloud only, and only when it is empty."""
    if not call.is_reseller:
        raise call.denied(call.target)
    call.store.delete_account(call.target.account)
    return Response(204, {"content-type": "text/html; charset=UTF-8"})
