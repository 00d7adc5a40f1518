"""The compute service and its version documents."""

from typing import Any

from trilith.kernel.declare import Service
from trilith.kernel.request import Ctx
from trilith.kernel.versions import VersionRange, text, v
from trilith.kernel.wire import ComputeWire

VERSIONS = VersionRange("compute", v("2.1"), v("2.104"), "X-OpenStack-Nova-API-Version")
COMPUTE = Service("compute", "compute", "/compute/v2.1", ComputeWire(), VERSIONS, project_in_path=True)
ROOT = Service("compute-versions", "compute-versions", "/compute", ComputeWire())


def document(ctx: Ctx) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": text(VERSIONS.newest),
        "min_version": text(VERSIONS.oldest),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{ctx.base_url}/compute/v2.1/"}],
    }


@ROOT.route("GET", "", "public")
def list_versions(ctx: Ctx) -> dict[str, Any]:
    return {"versions": [document(ctx)]}


@COMPUTE.route("GET", "", "public")
def show_version(ctx: Ctx) -> dict[str, Any]:
    media = {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
    return {"version": document(ctx) | {"media-types": [media]}}
