"""The volume service (block storage, API version 3) and its version documents."""

from typing import Any

from trilith.kernel.declare import Service
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import VersionRange, v
from trilith.kernel.wire import VolumeWire

ROOT = Service("volume-root", "block-storage", "/volume", VolumeWire())
RANGE = VersionRange("volume", v("3.0"), v("3.71"))
VOLUMES = Service("volume", "block-storage", "/volume/v3", VolumeWire(), RANGE, project_in_path=True)


def _versions(ctx: Ctx) -> dict[str, Any]:
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": "3.71",
                "min_version": "3.0",
                "updated": "2026-03-01T00:00:00Z",
                "links": [
                    {"rel": "self", "href": f"{ctx.base_url}/volume/v3/"},
                ],
                "media-types": [
                    {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
                ],
            }
        ]
    }


@ROOT.route("GET", "", "public")
def choices(ctx: Ctx) -> Reply:
    return Reply(_versions(ctx), 300)


@VOLUMES.route("GET", "", "public")
def versions(ctx: Ctx) -> dict[str, Any]:
    return _versions(ctx)
