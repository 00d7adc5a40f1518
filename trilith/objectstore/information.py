"""``/info``: what this object store can do, for clients that look before they try. Nothing stands here that does not
work."""

from typing import Any

from trilith.objectstore import bulk, form_post, static_large_objects, temporary_urls, versioning
from trilith.objectstore.limits import MAX_SYMLINKS, SWIFT


def information() -> dict[str, Any]:
    return {
        "swift": SWIFT,
        "account_quotas": {},
        "container_quotas": {},
        "bulk_delete": bulk.DELETE_INFO,
        "bulk_upload": bulk.UPLOAD_INFO,
        "dlo": {},
        "formpost": form_post.INFO,
        "object_versioning": {},
        "slo": static_large_objects.INFO,
        "staticweb": {},
        "symlink": {"symloop_max": MAX_SYMLINKS, "static_links": True},
        "tempurl": temporary_urls.INFO,
        "versioned_writes": versioning.INFO,
    }
