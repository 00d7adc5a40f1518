"""A server's addresses, its network interfaces and its security groups."""

from typing import Any

from trilith.compute.instance_actions import record
from trilith.compute.server_actions import must
from trilith.compute.server_networks import Nic, leave_port, make_nic, resolve, resolve_one
from trilith.compute.server_requests import TAG
from trilith.compute.servers import SERVER, wish
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Id, ListOf, Member, Object
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v

Row = dict[str, Any]
TAG_SHOWN_SINCE = v("2.70")

ASKED = Object(
    {
        "net_id": Member(Id()),
        "port_id": Member(Id()),
        "fixed_ips": Member(ListOf(Object({"ip_address": Member(Address(), required=True)}), 1, 1)),
        "tag": Member(TAG, since=v("2.49")),
    }
)
ATTACH = Object({"interfaceAttachment": Member(ASKED, required=True)})


@SERVER.route("GET", "/{id}/ips", "reader")
def list_addresses(ctx: Ctx, row: Row) -> Row:
    return {"addresses": _plain(ctx, row)}


@SERVER.route("GET", "/{id}/ips/{network}", "reader")
def show_addresses(ctx: Ctx, row: Row) -> Row:
    found = _plain(ctx, row)
    if ctx.path["network"] not in found:
        raise Fault("missing", f"Instance {row['id']} has no network named {ctx.path['network']}")
    return {ctx.path["network"]: found[ctx.path["network"]]}


def _plain(ctx: Ctx, row: Row) -> Row:
    from trilith.network.addresses import addresses

    found = addresses(ctx.tx, [row["id"]]).get(row["id"], {})
    return {name: [{"version": a["version"], "addr": a["addr"]} for a in each] for name, each in found.items()}


@SERVER.route("GET", "/{id}/os-security-groups", "reader")
def list_groups(ctx: Ctx, row: Row) -> Row:
    from trilith.network.ports import ports_of
    from trilith.network.security_group_rules import RULE
    from trilith.network.security_groups import SECURITY_GROUP

    ids = {group for port in ports_of(ctx.tx, [row["id"]]) for group in port["security_groups"] or []}
    groups = ctx.tx.rows(SECURITY_GROUP, id=ids) if ids else []
    rules = ctx.tx.rows(RULE, security_group_id=ids, direction="ingress") if ids else []
    names = {group["id"]: group["name"] for group in groups}
    return {
        "security_groups": [
            {
                "id": group["id"],
                "name": group["name"],
                "description": group["description"] or "",
                "tenant_id": group["project_id"],
                "rules": [_rule(rule, names) for rule in rules if rule["security_group_id"] == group["id"]],
            }
            for group in groups
        ]
    }


def _rule(rule: Row, names: dict[str, str]) -> Row:
    """A security group rule as compute shows it."""
    remote = rule["remote_group_id"]
    prefix = rule["remote_ip_prefix"] or ("::/0" if rule["ethertype"] == "IPv6" else "0.0.0.0/0")
    low = rule["port_range_min"]
    return {
        "id": rule["id"],
        "parent_group_id": rule["security_group_id"],
        "ip_protocol": (rule["protocol"] or "").upper() or None,
        "from_port": -1 if low is None and rule["protocol"] else low,
        "to_port": -1 if rule["port_range_max"] is None and rule["protocol"] else rule["port_range_max"],
        "group": {"name": names.get(remote), "tenant_id": rule["project_id"]} if remote else {},
        "ip_range": {} if remote else {"cidr": prefix},
    }


# interfaces


def _view(ctx: Ctx, row: Row, port: Row) -> Row:
    view = {
        "port_state": port["status"],
        "port_id": port["id"],
        "net_id": port["network_id"],
        "mac_addr": port["mac_address"],
        "fixed_ips": [{n: ip[n] for n in ("subnet_id", "ip_address")} for ip in port["fixed_ips"] or []],
    }
    if ctx.at >= TAG_SHOWN_SINCE:
        view["tag"] = next((nic["tag"] for nic in row["nics"] if nic["port_id"] == port["id"]), None)
    return view


def _port(ctx: Ctx, row: Row, port_id: str) -> Row:
    from trilith.network.ports import PORT

    port = ctx.tx.one(PORT, id=port_id, device_id=row["id"])
    if port is None:
        raise Fault("missing", f"Port {port_id} is not attached to instance {row['id']}")
    return port


@SERVER.route("GET", "/{id}/os-interface", "reader")
def list_interfaces(ctx: Ctx, row: Row) -> Row:
    from trilith.network.ports import ports_of

    return {"interfaceAttachments": [_view(ctx, row, port) for port in ports_of(ctx.tx, [row["id"]])]}


@SERVER.route("GET", "/{id}/os-interface/{port_id}", "reader")
def show_interface(ctx: Ctx, row: Row) -> Row:
    return {"interfaceAttachment": _view(ctx, row, _port(ctx, row, ctx.path["port_id"]))}


@SERVER.route("POST", "/{id}/os-interface", "member")
def attach_interface(ctx: Ctx, row: Row) -> Row:
    asked = ATTACH.check(ctx.body or {"interfaceAttachment": {}}, "body", ctx.at)["interfaceAttachment"]
    if asked.get("net_id") and asked.get("port_id"):
        raise Fault("invalid", "Must not input both network_id and port_id")
    if asked.get("fixed_ips") and not asked.get("net_id"):
        raise Fault("invalid", "Must input network_id when request IP address")
    must(ctx, row, "attach_interface", "active", "paused", "stopped")
    nic = _asked_nic(ctx, asked)
    remembered = make_nic(ctx, row, nic)
    row = wish(ctx.tx, row, nics=[*row["nics"], remembered])
    record(ctx, row, "attach_interface", done=True)
    return {"interfaceAttachment": _view(ctx, row, _port(ctx, row, remembered["port_id"]))}


def _asked_nic(ctx: Ctx, asked: Row) -> Nic:
    if not asked.get("net_id") and not asked.get("port_id"):
        found = resolve(ctx, None)
        if not found:
            raise Fault("invalid", "There is no network to attach to: name one.")
        return found[0]
    fixed = asked.get("fixed_ips")
    one = {"uuid": asked.get("net_id"), "port": asked.get("port_id"), "tag": asked.get("tag")}
    try:
        return resolve_one(ctx, one | ({"fixed_ip": fixed[0]["ip_address"]} if fixed else {}))
    except Fault as fault:
        if fault.kind == "conflict":
            raise Fault("invalid", fault.message) from None
        if fault.kind == "invalid" and "could not be found" in fault.message:
            raise Fault("missing", fault.message) from None
        raise


@SERVER.route("DELETE", "/{id}/os-interface/{port_id}", "member", status=202)
def detach_interface(ctx: Ctx, row: Row) -> None:
    must(ctx, row, "detach_interface", "active", "paused", "stopped")
    port = _port(ctx, row, ctx.path["port_id"])
    nic = next((each for each in row["nics"] if each["port_id"] == port["id"]), {"preserve": True})
    leave_port(ctx.tx, port["id"], nic["preserve"])
    record(ctx, row, "detach_interface", done=True)
    wish(ctx.tx, row, nics=[each for each in row["nics"] if each["port_id"] != port["id"]])
