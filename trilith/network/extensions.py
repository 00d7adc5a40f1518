"""The list of extensions, which clients act on at once: computed from what is declared, so that it tells the truth."""

from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx
from trilith.network.versions import NETWORKING

Row = dict[str, Any]

# What no single field or noun stands for: operations and behaviour.
BEHAVIOUR = {
    "agent": "agent",
    "auto-allocated-topology": "Auto Allocated Topology Services",
    "availability_zone": "Availability Zone",
    "empty-string-filtering": "Empty String Filtering Extension",
    "extraroute-atomic": "Atomically add/remove extra routes",
    "filter-validation": "Filter parameters validation",
    "ip-substring-filtering": "IP address substring filtering",
    "net-mtu": "Network MTU",
    "network-ip-availability": "Network IP Availability",
    "pagination": "Pagination support",
    "quota-check-limit": "Quota engine limit check",
    "quotas": "Quota management support",
    "quota_details": "Quota details management support",
    "rbac-security-groups": "Add security_group type to network RBAC",
    "rbac-subnetpool": "Add subnetpool type to network RBAC",
    "revision-if-match": "If-Match constraints based on revision_number",
    "service-type": "Neutron Service Type Management",
    "sorting": "Sorting support",
    "tag-creation": "Resource tag creation",
    "tag-ports-during-bulk-creation": "Tag Ports During Bulk Creation",
}
NAMES = {
    "allowed-address-pairs": "Allowed Address Pairs",
    "binding": "Port Binding",
    "default-subnetpools": "Default Subnetpools",
    "dns-integration": "DNS Integration",
    "ext-gw-mode": "Neutron L3 Configurable external gateway mode",
    "external-net": "Neutron external network",
    "extra_dhcp_opt": "Neutron Extra DHCP options",
    "extraroute": "Neutron Extra Route",
    "fip-port-details": "Floating IP Port Details Extension",
    "ip_allocation": "IP Allocation",
    "net-mtu-writable": "Network MTU (writable)",
    "network_availability_zone": "Network Availability Zone",
    "port-security": "Port Security",
    "project-id": "project_id field enabled",
    "provider": "Provider Network",
    "rbac-policies": "RBAC Policies",
    "router": "Neutron L3 Router",
    "router_availability_zone": "Router Availability Zone",
    "security-group": "security-group",
    "security-groups-normalized-cidr": "Normalized CIDR field for security group rules",
    "security-groups-rules-belongs-to-default-sg": "Whether a security group rule is of a default group",
    "security-groups-shared-filtering": "Security group filtering on the shared field",
    "standard-attr-description": "standard-attr-description",
    "standard-attr-revisions": "Resource revision numbers",
    "standard-attr-tag": "Tag support for resources with standard attribute",
    "standard-attr-timestamp": "Resource timestamps",
    "stateful-security-group": "Stateful security group",
    "subnet-service-types": "Subnet service types",
    "subnet_allocation": "Subnet Allocation",
}


def aliases() -> list[str]:
    """Every extension that something here belongs to."""
    found = set(BEHAVIOUR)
    for noun in NETWORKING.nouns:
        found |= {noun.extension} | {field.extension for field in noun.fields.values()}
    return sorted(found - {""})


def _view(alias: str) -> Row:
    name = BEHAVIOUR.get(alias) or NAMES.get(alias, alias)
    return {"alias": alias, "name": name, "description": name, "updated": "2026-01-01T00:00:00-00:00", "links": []}


@NETWORKING.route("GET", "/extensions", "anyone")
def list_(ctx: Ctx) -> Row:
    return {"extensions": [_view(alias) for alias in aliases()]}


@NETWORKING.route("GET", "/extensions/{alias}", "anyone")
def show(ctx: Ctx) -> Row:
    alias = ctx.path["alias"]
    if alias not in aliases():
        raise Fault("missing", f"Extension with alias {alias} does not exist", "HTTPNotFound")
    return {"extension": _view(alias)}
