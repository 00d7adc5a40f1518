"""The network service: its two roots. There is one version, v2.0; extensions tell what is there."""

from typing import Any

from trilith.kernel.declare import Service
from trilith.kernel.policy import Principal, Row, rule
from trilith.kernel.request import Ctx
from trilith.kernel.wire import NetworkWire

NETWORKING = Service("network", "network", "/networking/v2.0", NetworkWire())
ROOT = Service("network_root", "network", "/networking", NetworkWire())

ROOTS = "networks subnets ports routers floatingips security-groups security-group-rules subnetpools extensions quotas"


@rule("sees")
def sees(who: Principal, row: Row | None) -> bool:
    """May look at what is in sight: scopes say which rows of other projects (shared, external) are."""
    return "reader" in who.roles or who.is_admin


@ROOT.route("GET", "", "public")
def versions(ctx: Ctx) -> dict[str, Any]:
    link = {"rel": "self", "href": f"{ctx.base_url}{NETWORKING.prefix}/"}
    return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}


@NETWORKING.route("GET", "", "anyone")
def resources(ctx: Ctx) -> dict[str, Any]:
    found = []
    for path in ROOTS.split():
        collection = path.replace("-", "_")
        link = {"rel": "self", "href": ctx.url(f"/{path}")}
        found.append({"name": collection.removesuffix("s"), "collection": collection, "links": [link]})
    return {"resources": found}
