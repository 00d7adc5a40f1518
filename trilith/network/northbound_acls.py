"""Security groups as port groups with ACLs. What no rule allows is dropped, by a group of all ports under security."""

from ipaddress import ip_network
from typing import Any

Doc = dict[str, Any]
Row = dict[str, Any]

DROP = "drop"
PRIORITY_DROP, PRIORITY_ALLOW = 1001, 1002
PROTOCOL_NUMBERS = {
    "ah": 51,
    "dccp": 33,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "hopopt": 0,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "ip": 4,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
# What a machine needs to get its address and find its neighbours, whatever its groups say.
ALWAYS = {
    "dhcp4": ("from-lport", "ip4 && ip4.dst == 255.255.255.255 && udp && udp.src == 68 && udp.dst == 67"),
    "dhcp6": ("from-lport", "ip6 && ip6.dst == {ff02::1:2, ff05::1:3} && udp && udp.src == 546 && udp.dst == 547"),
    "neighbours-out": ("from-lport", "icmp6 && icmp6.type == {133, 135, 136, 143}"),
    "neighbours-in": ("to-lport", "icmp6 && icmp6.type == {134, 135, 136} && ip.ttl == 255"),
}


def group_name(security_group_id: str) -> str:
    """As it stands in matches: letters, digits and underscores only."""
    return "pg_" + security_group_id.replace("-", "_")


def compile_groups(topology: Doc, ports: list[Doc]) -> dict[str, dict[str, Row]]:
    """Rows of the tables ``Port_Group`` and ``ACL``."""
    secured = [p for p in ports if p["port_security_enabled"] and not p["device_owner"].startswith("network:")]
    groups = {group["id"]: group for group in topology["security_groups"]}
    members: dict[str, list[str]] = {group: [] for group in groups}
    for port in secured:
        for group in port["security_group_ids"]:
            if group in members:
                members[group].append(port["id"])
    acls = _drop_acls()
    acls_of: dict[str, list[str]] = {group: [] for group in groups}
    for rule in topology["security_group_rules"]:
        group = groups.get(rule["security_group_id"])
        remote_is_known = rule["remote_group_id"] is None or rule["remote_group_id"] in groups
        if group is not None and remote_is_known and _protocol_is_known(rule):
            acls[rule["id"]] = _acl(rule, bool(group["stateful"]))
            acls_of[group["id"]].append(rule["id"])
    rows = {group: {"name": group_name(group), "ports": members[group], "acls": acls_of[group]} for group in groups}
    rows[DROP] = {
        "name": group_name(DROP),
        "ports": [port["id"] for port in secured],
        "acls": [key for key in acls if key.startswith(DROP + "/")],
    }
    return {"Port_Group": rows, "ACL": acls}


def _drop_acls() -> dict[str, Row]:
    acls: dict[str, Row] = {}
    for direction, side in (("from-lport", "inport"), ("to-lport", "outport")):
        match = f"{side} == @{group_name(DROP)} && ip"
        acls[f"{DROP}/{direction}"] = _row(direction, match, "drop", PRIORITY_DROP)
    for name, (direction, match) in ALWAYS.items():
        side = "inport" if direction == "from-lport" else "outport"
        acls[f"{DROP}/{name}"] = _row(direction, f"{side} == @{group_name(DROP)} && {match}", "allow", PRIORITY_ALLOW)
    return acls


def _row(direction: str, match: str, action: str, priority: int) -> Row:
    return {"direction": direction, "match": match, "action": action, "priority": priority}


def _acl(rule: Doc, stateful: bool) -> Row:
    ingress = rule["direction"] == "ingress"
    family = "ip4" if rule["ethertype"].lower() == "ipv4" else "ip6"
    parts = [f"{'outport' if ingress else 'inport'} == @{group_name(rule['security_group_id'])}", family]
    far = f"{family}.{'src' if ingress else 'dst'}"
    if rule["remote_group_id"]:
        parts.append(f"{far} == ${group_name(rule['remote_group_id'])}_{family}")
    elif rule["remote_ip_prefix"]:
        parts.append(f"{far} == {ip_network(rule['remote_ip_prefix'], strict=False)}")
    parts += _protocol(rule, family)
    action = "allow-related" if stateful else "allow-stateless"
    return _row("to-lport" if ingress else "from-lport", " && ".join(parts), action, PRIORITY_ALLOW)


def _protocol_is_known(rule: Doc) -> bool:
    """A rule that cannot be expressed allows nothing; it must not stop all others."""
    word = str(rule["protocol"] or "any").lower()
    return word in PROTOCOL_NUMBERS or word in ("any", "-1") or (word.isdigit() and int(word) < 256)


def _protocol(rule: Doc, family: str) -> list[str]:
    """The part of a match that names a protocol and its ports, or the type and code of ICMP."""
    word = str(rule["protocol"]).lower() if rule["protocol"] is not None else "any"
    if word in ("any", "-1"):
        return []
    number = PROTOCOL_NUMBERS[word] if word in PROTOCOL_NUMBERS else int(word)
    low, high = rule["port_range_min"], rule["port_range_max"]
    if number in (1, 58):
        name = "icmp4" if family == "ip4" else "icmp6"
        kind = [f"{name}.type == {low}"] if low is not None else []
        return [name, *kind, *([f"{name}.code == {high}"] if low is not None and high is not None else [])]
    if number not in WITH_PORTS:
        return [f"ip.proto == {number}"]
    name = WITH_PORTS[number]
    if low is not None and low == high:
        return [name, f"{name}.dst == {low}"]
    bounds = [(">=", low)] if low is not None else []
    bounds += [("<=", high)] if high is not None else []
    return [name, *(f"{name}.dst {sign} {port}" for sign, port in bounds)]
