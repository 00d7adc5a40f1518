"""What upstream's compute API took back for good: 410 at every microversion, to whoever has a valid token.

Upstream kept these paths when it removed what they were for; it asks for no role and looks for no server before it says
so. The one action on a server is different here: as every action, it is about a server that the caller may see, else
404. What upstream still answers at old versions is in `network_proxy` and the other proxies.
"""

from typing import Any, NoReturn

from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Json, Member, Object
from trilith.kernel.request import Ctx

GONE = {  # path: methods
    # the Xen driver's agents and consoles
    "/os-agents": ("GET", "POST"),
    "/os-agents/{agent_id}": ("PUT", "DELETE"),
    "/servers/{server_id}/consoles": ("GET", "POST"),
    "/servers/{server_id}/consoles/{console_id}": ("GET", "DELETE"),
    # cells, the first kind
    "/os-cells": ("GET", "POST"),
    "/os-cells/capacities": ("GET",),
    "/os-cells/detail": ("GET",),
    "/os-cells/info": ("GET",),
    "/os-cells/sync_instances": ("POST",),
    "/os-cells/{cell}": ("GET", "PUT", "DELETE"),
    "/os-cells/{cell}/capacities": ("GET",),
    # the EC2 API inside compute
    "/os-certificates": ("POST",),
    "/os-certificates/{certificate}": ("GET",),
    # the network service inside compute
    "/os-cloudpipe": ("GET", "POST"),
    "/os-cloudpipe/{change}": ("PUT",),
    "/os-fixed-ips/{address}": ("GET",),
    "/os-floating-ip-dns": ("GET",),
    "/os-floating-ip-dns/{domain}": ("PUT", "DELETE"),
    "/os-floating-ip-dns/{domain}/entries/{entry}": ("GET", "PUT", "DELETE"),
    "/os-floating-ips-bulk": ("GET", "POST"),
    "/os-floating-ips-bulk/{host_name}": ("GET",),
    "/os-floating-ips-bulk/{change}": ("PUT",),
    "/os-fping": ("GET",),
    "/os-fping/{server_id}": ("GET",),
    "/os-networks": ("POST",),
    "/os-networks/add": ("POST",),
    "/os-networks/{network_id}": ("DELETE",),
    "/os-security-group-default-rules": ("GET", "POST"),
    "/os-security-group-default-rules/{rule_id}": ("GET", "DELETE"),
    "/os-tenant-networks": ("POST",),
    "/os-tenant-networks/{network_id}": ("DELETE",),
    "/servers/{server_id}/os-virtual-interfaces": ("GET",),
}
GONE_ACTIONS = {  # of what is no noun any more; path: actions
    "/os-fixed-ips/{address}/action": ("reserve", "unreserve"),
    "/os-networks/{network_id}/action": (
        "associate_host",
        "disassociate",
        "disassociate_host",
        "disassociate_project",
    ),
}


def gone(ctx: Ctx, *_: Any) -> NoReturn:
    """With upstream's sentence, its two spaces too."""
    raise Fault("gone", "This resource is no longer available.  No forwarding address is given.")


def _one_action(body: dict[str, Any], path: str) -> None:
    if len(body) != 1:
        raise Bad(path, body, "The body must hold exactly one action")


for path, methods in GONE.items():
    for method in methods:
        COMPUTE.route(method, path, "anyone", write=False)(gone)
for path, actions in GONE_ACTIONS.items():
    taken = Object({action: Member(Json()) for action in actions}, check_whole=_one_action)
    COMPUTE.route("POST", path, "anyone", body=taken, write=False)(gone)
SERVER.verb("resetNetwork", "anyone")(gone)
