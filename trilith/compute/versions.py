"""The compute service and its version documents."""

from typing import Any

from trilith.kernel.declare import Service
from trilith.kernel.request import Ctx
from trilith.kernel.versions import VersionRange, text, v
from trilith.kernel.wire import ComputeWire

VERSIONS = VersionRange("compute", v("2.1"), v("2.104"), "X-OpenStack-Nova-API-Version")
COMPUTE = Service(
    "compute", "compute", "/compute/v2.1", ComputeWire(), VERSIONS, project_in_path=True, plain_prefix="/compute/v2"
)
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


def plain_document(ctx: Ctx) -> dict[str, Any]:
    """The API as it was before there were microversions: the same at 2.1."""
    return document(ctx) | {
        "id": "v2.0",
        "status": "SUPPORTED",
        "version": "",
        "min_version": "",
        "updated": "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": f"{ctx.base_url}/compute/v2/"}],
    }


@ROOT.route("GET", "", "public")
def list_versions(ctx: Ctx) -> dict[str, Any]:
    return {"versions": [plain_document(ctx), document(ctx)]}


@ROOT.route("GET", "/v2", "public")
def show_plain_version(ctx: Ctx) -> dict[str, Any]:
    media = {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2"}
    return {"version": plain_document(ctx) | {"media-types": [media]}}


@COMPUTE.route("GET", "", "public")
def show_version(ctx: Ctx) -> dict[str, Any]:
    media = {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}
    return {"version": document(ctx) | {"media-types": [media]}}
