"""Rules of security groups: who may talk to the group's ports, and what they may talk to."""

import ipaddress
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import Field, Quota, choice, computed, ident, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Choice, Kind, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.kernel.versions import Version
from trilith.network.resource import bump, resource
from trilith.network.security_groups import SECURITY_GROUP

Row = dict[str, Any]

PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "icmpv6": 58, "igmp": 2, "ip": 0,
    "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60,
    "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
WITH_PORTS = {6, 17, 33, 132, 136}
ICMP = {1, 58}
ONLY_IPV6 = {"icmpv6", "ipv6-icmp", "ipv6-encap", "ipv6-frag", "ipv6-nonxt", "ipv6-opts", "ipv6-route"}
ONLY_IPV6_NUMBERS = {PROTOCOLS[name] for name in ONLY_IPV6}
ANY = ("any", "", "0", None)


class Protocol(Kind):
    """A protocol's name in lower case, or its number as text; None for any."""

    def check(self, value: Any, path: str, at: Version) -> str | None:
        if value in ANY or value == 0:
            return None
        word = str(value).lower()
        if word in PROTOCOLS or (word.isascii() and word.isdigit() and len(word) <= 3 and int(word) <= 255):
            return word
        known = ", ".join(sorted(PROTOCOLS))
        raise Bad(path, value, f"Security group rule protocol {value} not supported: a number 0 to 255, or {known}")

    def column(self) -> Any:
        return sa.String(40)


class RemotePrefix(Kind):
    """A CIDR or an address as it was written; host bits may be set."""

    def check(self, value: Any, path: str, at: Version) -> str:
        try:
            ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
        except ValueError:
            raise Bad(path, value, f"'{value}' is not a valid CIDR") from None
        return str(value) if "/" in str(value) else str(ipaddress.ip_network(value))

    def column(self) -> Any:
        return sa.String(64)


def _normalized(row: Row, ctx: Ctx) -> str | None:
    prefix = row["remote_ip_prefix"]
    return str(ipaddress.ip_network(prefix, strict=False)) if prefix else None


def _port(**more: Any) -> Field:
    return Field(kind=Whole(), create="optional", null=True, filter=True, sort=True, **more)


def _group_filter(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool]:
    found: sa.ColumnElement[bool] = RULE.c.security_group_id.in_(values)
    return found


def _scope(ctx: Ctx) -> Any:
    """Rules of the caller's groups, whoever made them."""
    if ctx.who.is_admin:
        return None
    own = sa.select(SECURITY_GROUP.c.id).where(SECURITY_GROUP.c.project_id == ctx.who.project_id)
    return sa.or_(RULE.c.project_id == ctx.who.project_id, RULE.c.security_group_id.in_(own))


RULE = resource(
    "security_group_rule",
    "/security-group-rules",
    dict(
        security_group_id=ident(create="required", filter=_group_filter, sort=True, index=True),
        direction=choice("ingress", "egress", create="required", filter=True, sort=True),
        ethertype=Field(
            kind=Choice(("IPv4", "IPv6")), create="optional", null=True, default="IPv4", filter=True, sort=True
        ),
        protocol=Field(kind=Protocol(), create="optional", null=True, filter=True, sort=True),
        port_range_min=_port(),
        port_range_max=_port(),
        remote_ip_prefix=Field(kind=RemotePrefix(), create="optional", null=True, filter=True, sort=True),
        remote_group_id=text(64, create="optional", null=True, filter=True, sort=True, index=True),
        normalized_cidr=computed(_normalized, extension="security-groups-normalized-cidr"),
        remote_address_group_id=text(64),
        belongs_to_default_sg=computed(
            lambda row, ctx: row.get("in_default", False), extension="security-groups-rules-belongs-to-default-sg"
        ),
    ),
    policy={"list": "sees", "show": "sees", "create": "member", "delete": "member"},
    quota=Quota("security_group_rule", 100),
    scope=_scope,
    expand=lambda ctx, rows: _expand(ctx, rows),
    type_name="SecurityGroupRule",
    extension="security-group",
    without=("name",),
)


def _expand(ctx: Ctx, rows: list[Row]) -> None:
    groups = sa.select(SECURITY_GROUP.c.id).where(
        SECURITY_GROUP.c.id.in_({row["security_group_id"] for row in rows}), SECURITY_GROUP.c.name == "default"
    )
    default_ids = {row["id"] for row in ctx.tx.select(groups)}
    for row in rows:
        row["in_default"] = row["security_group_id"] in default_ids


def bad(message: str, type_name: str) -> Fault:
    return Fault("invalid", message, type_name)


@RULE.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    new["ethertype"] = new["ethertype"] or "IPv4"
    group = ctx.find(SECURITY_GROUP, new["security_group_id"])
    if group["project_id"] != ctx.who.project_id and not ctx.who.is_admin:
        raise SECURITY_GROUP.missing(group["id"])
    if new["remote_group_id"] is not None:
        ctx.find(SECURITY_GROUP, new["remote_group_id"])
    return make_rule(ctx.tx, ctx.new_id, group, **new)


def make_rule(tx: Tx, new_id: Callable[[], str], group: Row, **fields: Any) -> Row:
    """A rule, checked, and not there before: `Fault` SecurityGroupRuleExists."""
    row = RULE.blank() | {"project_id": group["project_id"], "security_group_id": group["id"]} | fields
    row["id"] = row.get("id") or new_id()
    _check(row)
    same = {name: row[name] for name in ("security_group_id", "direction", "ethertype", "remote_group_id")}
    for known in tx.rows(RULE, **same):
        if _meaning(known) == _meaning(row):
            raise Fault(
                "conflict", f"Security group rule already exists. Rule id is {known['id']}.", "SecurityGroupRuleExists"
            )
    bump(tx, SECURITY_GROUP, group["id"])
    return tx.insert(RULE, row)


@RULE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    ctx.tx.delete(RULE, row)
    bump(ctx.tx, SECURITY_GROUP, row["security_group_id"])


def _meaning(row: Row) -> tuple[Any, ...]:
    prefix = row["remote_ip_prefix"]
    net = ipaddress.ip_network(prefix, strict=False) if prefix else None
    everything = net is not None and net.prefixlen == 0
    return number(row["protocol"]), row["port_range_min"], row["port_range_max"], None if everything else net


def number(protocol: str | None) -> int | None:
    """A protocol's number; None for any."""
    if protocol is None:
        return None
    return int(protocol) if protocol.isdigit() else PROTOCOLS[protocol]


def _check(row: Row) -> None:
    """Whether the parts of a rule fit together."""
    if row["remote_ip_prefix"] and row["remote_group_id"]:
        raise bad("Only remote_ip_prefix or remote_group_id may be provided.", "SecurityGroupMultipleRemoteEntites")
    if row["remote_ip_prefix"]:
        version = ipaddress.ip_network(row["remote_ip_prefix"], strict=False).version
        if f"IPv{version}" != row["ethertype"]:
            raise bad(
                f"Conflicting value ethertype {row['ethertype']} for CIDR {row['remote_ip_prefix']}",
                "SecurityGroupRuleParameterConflict",
            )
    if row["ethertype"] == "IPv4" and number(row["protocol"]) in ONLY_IPV6_NUMBERS:
        raise bad(
            f"Invalid ethertype IPv4 for protocol {row['protocol']}.", "SecurityGroupEthertypeConflictWithProtocol"
        )
    if row["protocol"] == "icmp" and row["ethertype"] == "IPv6":
        row["protocol"] = "ipv6-icmp"
    _check_ports(row, number(row["protocol"]))


def _check_ports(row: Row, protocol: int | None) -> None:
    low, high = row["port_range_min"], row["port_range_max"]
    if protocol in ICMP:
        for name, value in (("type", low), ("code", high)):
            if value is not None and not 0 <= value <= 255:
                raise bad(f"Invalid value for ICMP {name}: {value}. Must be 0 to 255.", "SecurityGroupInvalidIcmpValue")
        if low is None and high is not None:
            message = f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing."
            raise bad(message, "SecurityGroupMissingIcmpType")
        return
    if low == -1 and high == -1:
        row["port_range_min"] = row["port_range_max"] = low = high = None
    if low is None and high is None:
        return
    if protocol is None:
        raise bad("Must also specify protocol if port range is given.", "SecurityGroupProtocolRequiredWithPorts")
    if protocol not in WITH_PORTS:
        raise bad(f"Invalid protocol {row['protocol']} for port range.", "SecurityGroupInvalidProtocolForPort")
    for value in (low, high):
        if value is not None and not 1 <= value <= 65535:
            raise bad(f"Invalid value for port {value}: must be 1 to 65535.", "SecurityGroupInvalidPortValue")
    if low is None or high is None or low > high:
        raise bad("For TCP/UDP protocols, port_range_min must be <= port_range_max", "SecurityGroupInvalidPortRange")
