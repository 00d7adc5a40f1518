"""The ports of a server: from what a request names (networks, ports, ``auto``, ``none``, nothing) to rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]


@dataclass(frozen=True)
class Nic:
    """One port to have: a present one, or a new one on a network."""

    network_id: str
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


def resolve(ctx: Ctx, asked: list[Row] | str | None, many: bool = False) -> list[Nic]:
    """The ports that a request means. `many`: the same for several servers, so nothing that only one can have."""
    if asked == "none":
        return []
    if asked == "auto":
        return [_automatic(ctx)]
    if not asked:
        return _only_network(ctx)
    assert isinstance(asked, list)
    found = [resolve_one(ctx, each) for each in asked]
    if many and any(nic.port_id or nic.fixed_ip for nic in found):
        raise Fault("invalid", "Unable to launch multiple instances with a single configured port ID or fixed IP.")
    ports = [nic.port_id for nic in found if nic.port_id]
    if len(set(ports)) < len(ports):
        raise Fault("invalid", "A port can be given to a server only once.")
    addresses = [(nic.network_id, nic.fixed_ip) for nic in found if nic.fixed_ip]
    if len(set(addresses)) < len(addresses):
        raise Fault("invalid", "A fixed IP can be given to a server only once.")
    return found


def resolve_one(ctx: Ctx, asked: Row) -> Nic:
    from trilith.network.networks import usable_network
    from trilith.network.ports import PORT

    if asked.get("port"):
        port = ctx.tx.one(PORT, PORT.c.id == asked["port"], PORT.scope(ctx))
        if port is None:
            raise Fault("invalid", f"Port id {asked['port']} could not be found.")
        if port["device_id"]:
            raise Fault("conflict", f"Port {port['id']} is still in use.")
        if not port["fixed_ips"]:
            raise Fault("invalid", f"Port {port['id']} requires a FixedIP in order to be used.")
        return Nic(port["network_id"], port["id"], tag=asked.get("tag"))
    if not asked.get("uuid"):
        raise Fault("invalid", "Bad network format: missing 'uuid'")
    try:
        network = usable_network(ctx.tx, ctx.who.project_id or "", ctx.who.is_admin, asked["uuid"])
    except Fault:
        raise Fault("invalid", f"Network {asked['uuid']} could not be found.") from None
    own = network["project_id"] == ctx.who.project_id
    if network["external"] and not (own or ctx.who.is_admin):
        raise Fault("forbidden", f"It is not allowed to create an interface on external network {network['id']}")
    return Nic(network["id"], fixed_ip=asked.get("fixed_ip"), tag=asked.get("tag"))


def _only_network(ctx: Ctx) -> list[Nic]:
    from trilith.network.networks import usable_networks

    usable = [n for n in usable_networks(ctx.tx, ctx.who.project_id or "", ctx.who.is_admin) if not n["external"]]
    if len(usable) > 1:
        raise Fault("conflict", "Multiple possible networks found, use a Network ID to be more specific.")
    return [Nic(usable[0]["id"])] if usable else []


def _automatic(ctx: Ctx) -> Nic:
    from trilith.network.networks import auto_network

    return Nic(auto_network(ctx.tx, ctx.new_id, ctx.who.project_id or "")["id"])


def resolve_groups(ctx: Ctx, asked: Iterable[Row] | None) -> list[str] | None:
    """Ids of the named security groups; None: the project's default group."""
    from trilith.network.security_groups import find_group

    if not asked:
        return None
    found = []
    for name in dict.fromkeys(each["name"] for each in asked):
        try:
            found.append(find_group(ctx.tx, ctx.who.project_id or "", name)["id"])
        except Fault as fault:
            if fault.kind != "missing" or name == "default":
                if name == "default" and fault.kind == "missing":
                    found.append(_default_group(ctx)["id"])
                    continue
                raise
            message = f"Security group {name} not found for project {ctx.who.project_id}."
            raise Fault("invalid", message) from None
    return found


def _default_group(ctx: Ctx) -> Row:
    from trilith.network.security_groups import default_group

    return default_group(ctx.tx, ctx.new_id, ctx.who.project_id or "")


def make_nics(ctx: Ctx, server: Row, nics: list[Nic], groups: list[str] | None) -> list[Row]:
    """Makes or binds a server's ports; returns what the server's row remembers of them."""
    return [make_nic(ctx, server, nic, groups) for nic in nics]


def make_nic(ctx: Ctx, server: Row, nic: Nic, groups: list[str] | None = None) -> Row:
    from trilith.network.ports import PORT, bind_port, make_port

    place = {"device_id": server["id"], "device_owner": f"compute:{server['zone']}", "host": server["host"]}
    name = server["hostname"].partition(".")[0][:63]  # by which its neighbours find it
    if nic.port_id:
        port = bind_port(ctx.tx, ctx.tx.get(PORT, nic.port_id), **place)
        if not port["dns_name"]:
            ctx.tx.update(PORT, port, dns_name=name)
        return {"port_id": port["id"], "preserve": True, "tag": nic.tag}
    fixed_ips = [{"ip_address": nic.fixed_ip}] if nic.fixed_ip else None
    port = make_port(
        ctx.tx,
        ctx.new_id,
        project_id=server["project_id"],
        network_id=nic.network_id,
        fixed_ips=fixed_ips,
        security_group_ids=groups,
        dns_name=name,
        **place,
    )
    return {"port_id": port["id"], "preserve": False, "tag": nic.tag}


def leave_port(tx: Tx, port_id: str, preserve: bool) -> None:
    """The server has the port no more: it is unbound when it was there before the server, else deleted."""
    from trilith.network.ports import PORT, drop_port, unbind_port

    port = tx.one(PORT, id=port_id)
    if port is None:
        return
    if not preserve:
        drop_port(tx, port)
        return
    tx.update(PORT, unbind_port(tx, port), dns_name="")
