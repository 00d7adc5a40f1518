"""Ports: a place on a network with a MAC address and IP addresses, for a machine, a router, or a floating address."""

from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import ip_network
from typing import Any

import sqlalchemy as sa

from trilith.kernel import quota, statements
from trilith.kernel.declare import Field, computed, flag, ident, listing, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Either, Id, Json, ListOf, Mac, Text
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx
from trilith.network import allocations
from trilith.network.allocations import ALLOCATION
from trilith.network.networks import AUTO_DELETED, NETWORK
from trilith.network.port_options import ADDRESS_PAIR, DHCP_OPTION, FIXED_IP, merged_options, tidy, with_mac
from trilith.network.resource import REGULAR, has_item, resource
from trilith.network.security_groups import checked_groups, default_group
from trilith.network.subnets import SUBNET
from trilith.network.versions import NETWORKING
from trilith.placement import hosts

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]

MAC_PREFIX = "fa:16:3e"
MAX_ADDRESSES = 50
ROUTER_OWNERS = ("network:router_interface", "network:router_gateway")
BINDING = "admin|service"


def _status(row: Row) -> Row:
    """ACTIVE once the host says that it is plugged in; what no host plugs in is there when its router is."""
    owner = row["device_owner"]
    if owner == "network:floatingip":
        return {"status": "N/A"}
    if owner.startswith("network:"):
        return {"status": "ACTIVE" if row["admin_state_up"] else "DOWN"}
    return {"status": "ACTIVE" if row["seen_up"] and row["binding_host"] and row["admin_state_up"] else "DOWN"}


def _wakes(row: Row) -> Iterable[str]:
    yield "northbound"
    if row["binding_host"]:
        yield hosts.topic(row["binding_host"])
    if row["binding_peer"]:
        yield hosts.topic(row["binding_peer"])


def _scope(ctx: Ctx) -> Condition | None:
    """The caller's own, and all on the caller's networks."""
    if ctx.who.is_admin or "service" in ctx.who.roles:
        return None
    return _visible() if ctx.who.project_id is not None else _of(None)


def _of(project_id: Any) -> Condition:
    own = sa.select(NETWORK.c.id).where(NETWORK.c.project_id == project_id)
    return sa.or_(PORT.c.project_id == project_id, PORT.c.network_id.in_(own))


@cache
def _visible() -> Condition:
    return statements.fixed(_of(sa.bindparam("who_project_id")))


def _by_fixed_ip(ctx: Ctx, values: list[str]) -> Condition:
    """``fixed_ips=ip_address=A``, ``subnet_id=S``, ``ip_address_substr=T``: the same key is OR, different keys AND."""
    columns = {"ip_address": ALLOCATION.c.ip_address, "subnet_id": ALLOCATION.c.subnet_id}
    asked: dict[str, list[str]] = {}
    for value in values:
        name, _, word = value.partition("=")
        if name not in (*columns, "ip_address_substr"):
            raise Fault(
                "invalid", f"Invalid input for fixed_ips. Reason: {value!r} is not KEY=VALUE.", "HTTPBadRequest"
            )
        asked.setdefault(name, []).append(word)
    where: list[Condition] = [columns[name].in_(words) for name, words in asked.items() if name in columns]
    if parts := asked.get("ip_address_substr"):
        where.append(sa.or_(*[ALLOCATION.c.ip_address.contains(part, autoescape=True) for part in parts]))
    return PORT.c.id.in_(sa.select(ALLOCATION.c.port_id).where(*where))  # type: ignore[no-any-return]


def _by_group(ctx: Ctx, values: list[str]) -> Condition:
    return sa.or_(*[has_item(PORT.c.security_groups, value) for value in values])


def _dns_assignment(row: Row, ctx: Ctx) -> list[Row]:
    return [
        {
            "ip_address": fixed["ip_address"],
            "hostname": row["dns_name"] or f"host-{fixed['ip_address'].replace('.', '-').replace(':', '-')}",
            "fqdn": f"{row['dns_name'] or 'host-' + fixed['ip_address'].replace('.', '-').replace(':', '-')}"
            f".{ctx.settings.get('dns_domain', 'openstacklocal')}.",
        }
        for fixed in row["fixed_ips"]
    ]


def _vif_details(row: Row, ctx: Ctx) -> Row:
    if not row["binding_host"]:
        return {}
    return {"port_filter": True, "connectivity": "l2", "bound_drivers": {"0": "ovn"}}


PORT = resource(
    "port",
    "/ports",
    dict(
        network_id=ident(create="required", filter=True, sort=True, index=True),
        mac_address=Field(
            kind=Either((Mac(), Text(0))), create="optional", update=True, null=True, filter=True, sort=True
        ),
        admin_state_up=flag(create="optional", update=True, default=True, filter=True, sort=True),
        fixed_ips=Field(
            kind=ListOf(FIXED_IP, MAX_ADDRESSES), create="optional", update=True, null=True, filter=_by_fixed_ip
        ),
        device_id=text(255, create="optional", update=True, default="", null=True, filter=True, sort=True, index=True),
        device_owner=text(
            255, create="optional", update=True, default="", null=True, filter=True, sort=True, index=True
        ),
        status=text(16, filter=True, sort=True),
        port_security_enabled=flag(create="optional", update=True, null=True, extension="port-security"),
        security_groups=Field(
            kind=ListOf(Id(), unique=True),
            create="optional",
            update=True,
            null=True,
            filter=_by_group,
            extension="security-group",
        ),
        allowed_address_pairs=listing(
            ADDRESS_PAIR, create="optional", update=True, null=True, extension="allowed-address-pairs"
        ),
        extra_dhcp_opts=listing(DHCP_OPTION, create="optional", update=True, null=True, extension="extra_dhcp_opt"),
        binding_host=text(
            255,
            wire="binding:host_id",
            create="optional",
            update=True,
            default="",
            null=True,
            policy=BINDING,
            see=BINDING,
            filter=True,
            extension="binding",
        ),
        binding_peer=text(255, default="", hidden=True),  # the host that a running machine is moving to
        binding_profile=Field(
            kind=Json(),
            wire="binding:profile",
            create="optional",
            update=True,
            null=True,
            default=dict,
            policy=BINDING,
            see=BINDING,
        ),
        binding_vnic_type=Field(
            kind=Choice(("normal", "direct", "macvtap", "baremetal", "direct-physical", "virtio-forwarder")),
            wire="binding:vnic_type",
            create="optional",
            update=True,
            default="normal",
            filter=True,
        ),
        vif_type=computed(
            lambda row, ctx: "ovs" if row["binding_host"] else "unbound", wire="binding:vif_type", see=BINDING
        ),
        vif_details=computed(_vif_details, wire="binding:vif_details", see=BINDING),
        dns_name=Field(
            kind=Text(63, 0, r"([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)?"),
            create="optional",
            update=True,
            default="",
            null=True,
            filter=True,
            extension="dns-integration",
        ),
        dns_assignment=computed(_dns_assignment, extension="dns-integration"),
        ip_allocation=computed(lambda row, ctx: "immediate" if row["fixed_ips"] else "none", extension="ip_allocation"),
        machine_id=text(64, default="", hidden=True, index=True),  # whose it really is; anyone may write a device_id
        seen_up=flag(default=False, hidden=True),
    ),
    policy=REGULAR | {"delete": "sees"},
    scope=_scope,
    derive=_status,
    wakes=_wakes,
    unique=[("network_id", "mac_address")],
    filters={"ip_allocation": lambda ctx, values: sa.true()},
)
NETWORKING.quota(
    "port",
    500,
    lambda tx, project_id: tx.count(
        PORT, PORT.c.device_owner != "network:distributed", PORT.c.project_id == project_id
    ),
)


# what other services call
def make_port(
    tx: Tx,
    new_id: Callable[[], str],
    *,
    project_id: str,
    network_id: str,
    name: str = "",
    fixed_ips: list[Row] | None = None,
    security_group_ids: list[str] | None = None,
    mac_address: str | None = None,
    device_id: str = "",
    device_owner: str = "",
    host: str | None = None,
    admin_state_up: bool = True,
    port_security_enabled: bool | None = None,
    **more: Any,
) -> Row:
    """A port with its addresses taken. `fixed_ips`: see `allocations.choose`; `security_group_ids` None: the project's
    default group. `more`: further columns. `Fault`: IpAddressGenerationFailure, IpAddressInUse, OverQuota ..."""
    network = tx.get(NETWORK, network_id)
    if project_id and device_owner != "network:distributed":
        quota.check(tx, NETWORKING, project_id, port=1)
    row = PORT.blank() | {
        "id": more.pop("id", None) or new_id(),
        "project_id": project_id,
        "network_id": network_id,
        "name": name,
        "device_id": device_id,
        "device_owner": device_owner,
        "machine_id": device_id if device_owner.startswith("compute:") else "",
        "binding_host": host or "",
        "admin_state_up": admin_state_up,
    }
    row |= more
    row["mac_address"] = mac_address or _free_mac(tx, row)
    own = device_owner.startswith("network:")
    secure = (network["port_security_enabled"] if port_security_enabled is None else port_security_enabled) and not own
    if security_group_ids is None:
        security_group_ids = [default_group(tx, new_id, project_id)["id"]] if secure and project_id else []
    row |= {"port_security_enabled": secure, "security_groups": security_group_ids}
    row["allowed_address_pairs"] = with_mac(row["allowed_address_pairs"], row["mac_address"])
    _check_security(row)
    if tx.one(PORT, network_id=network_id, mac_address=row["mac_address"]) is not None:
        raise mac_in_use(row)
    row["fixed_ips"] = allocations.choose(tx, row, _subnets(tx, network_id), fixed_ips)
    return tx.insert(PORT, row)


def bind_port(tx: Tx, port: Row, *, device_id: str, device_owner: str, host: str) -> Row:
    """The port is that machine's, on that host."""
    if port["device_id"] and port["device_id"] != device_id:
        raise in_use(port)
    seen_up = port["seen_up"] and port["binding_host"] == host
    place: Row = {
        "device_id": device_id,
        "device_owner": device_owner,
        "machine_id": device_id,
        "binding_host": host or "",
    }
    return tx.update(PORT, port, **place, seen_up=seen_up)


def unbind_port(tx: Tx, port: Row) -> Row:
    """The port is nobody's again; it keeps its addresses."""
    return tx.update(PORT, port, device_id="", device_owner="", machine_id="", binding_host="", seen_up=False)


def drop_port(tx: Tx, port: Row) -> None:
    """Deletes the port, frees its addresses, and takes floating addresses off it."""
    from trilith.network.floatingips import disassociate

    disassociate(tx, port["id"])
    allocations.release(tx, port["id"])
    tx.delete(PORT, port)


def ports_of(tx: Tx, device_ids: list[str]) -> list[Row]:
    """The ports of these machines, oldest first."""
    return sorted(tx.rows(PORT, machine_id=device_ids), key=lambda row: (row["created_at"], row["id"]))


def readdress(tx: Tx, port: Row, asked: list[Row]) -> Row:
    """Gives the port these addresses instead of those that it has; what is asked for without an address keeps the
    one that it has in that subnet."""
    from trilith.network.floatingips import disassociate

    left = list(port["fixed_ips"])
    kept, wanted = [], []
    for want in asked:
        same = next((fixed for fixed in left if _asks_for(want, fixed)), None)
        if same is not None:
            left.remove(same)
            kept.append(same)
        else:
            wanted.append(want)
    for fixed in left:
        allocations.release(tx, port["id"], fixed["ip_address"])
    new = allocations.choose(tx, port, _subnets(tx, port["network_id"]), wanted)
    disassociate(tx, port["id"], keep={fixed["ip_address"] for fixed in kept + new})
    return tx.update(PORT, port, fixed_ips=kept + new)


def _asks_for(want: Row, fixed: Row) -> bool:
    return all(want.get(name) in (None, fixed[name]) for name in ("subnet_id", "ip_address")) and any(want.values())


def networks_of(tx: Tx, ports: list[Row]) -> dict[str, Row]:
    """The networks of these ports by id, each with all of its ``subnets``: read at once for many machines."""
    ids = sorted({port["network_id"] for port in ports})
    found = {row["id"]: row | {"subnets": []} for row in tx.rows(NETWORK, id=ids)} if ids else {}
    for subnet in tx.rows(SUBNET, network_id=ids) if ids else []:
        found[subnet["network_id"]]["subnets"].append(subnet)
    return found


def nic_document(port: Row, network: Row) -> Row:
    """What a machine's host must know of a port: ``{"port_id", "mac", "mtu", "ready"}``; ready: OVN says
    that it is up."""
    ready = bool(port["binding_host"] and port["seen_up"])
    return {"port_id": port["id"], "mac": port["mac_address"], "mtu": network["mtu"], "ready": ready}


def network_data(ports: list[Row], networks_by_id: dict[str, Row]) -> Row:
    """The document ``network_data.json`` of a machine with these ports; `networks_by_id` as of `networks_of`."""
    links: list[Row] = []
    networks: list[Row] = []
    services: list[Row] = []
    for port in ports:
        network = networks_by_id[port["network_id"]]
        link = f"tap{port['id'][:11]}"
        links.append(
            {
                "id": link,
                "vif_id": port["id"],
                "type": "ovs",
                "mtu": network["mtu"],
                "ethernet_mac_address": port["mac_address"],
            }
        )
        subnets = {subnet["id"]: subnet for subnet in network["subnets"]}
        for fixed in port["fixed_ips"]:
            subnet = subnets[fixed["subnet_id"]]
            dns = [{"type": "dns", "address": address} for address in subnet["dns_nameservers"]]
            services += [service for service in dns if service not in services]
            head = {"id": f"network{len(networks)}", "link": link, "network_id": port["network_id"]}
            networks.append(head | _subnet_data(subnet, fixed["ip_address"], dns))
    return {"links": links, "networks": networks, "services": services}


def _subnet_data(subnet: Row, address: str, dns: list[Row]) -> Row:
    """How a machine gets its address in a subnet: told by the network, or written here."""
    version = subnet["ip_version"]
    if subnet["enable_dhcp"]:
        mode = "dhcp" if version == 4 else subnet["ipv6_address_mode"] or "dhcp"
        return {
            "type": f"ipv{version}_{mode if mode in ('dhcp', 'slaac') else 'dhcpv6-' + mode.removeprefix('dhcpv6-')}"
        }
    routes = [(route["destination"], route["nexthop"]) for route in subnet["host_routes"]]
    if subnet["gateway_ip"]:
        routes.append(("0.0.0.0/0" if version == 4 else "::/0", subnet["gateway_ip"]))
    nets = [(ip_network(destination, strict=False), hop) for destination, hop in routes]
    return {
        "type": f"ipv{version}",
        "ip_address": address,
        "netmask": str(ip_network(subnet["cidr"]).netmask),
        "routes": [
            {"network": str(net.network_address), "netmask": str(net.netmask), "gateway": hop} for net, hop in nets
        ],
        "services": dns,
    }


def _subnets(tx: Tx, network_id: str) -> list[Row]:
    found = tx.rows(SUBNET, network_id=network_id)
    return sorted(found, key=lambda row: (row["created_at"], row["id"]))


def _free_mac(tx: Tx, row: Row) -> str:
    """From the port's id, so that it is the same when the transaction is run again."""
    digits = row["id"].replace("-", "")
    for start in range(0, len(digits) - 5):
        part = digits[start : start + 6]
        mac = f"{MAC_PREFIX}:{part[0:2]}:{part[2:4]}:{part[4:6]}"
        if tx.one(PORT, network_id=row["network_id"], mac_address=mac) is None:
            return mac
    raise Fault(
        "no_capacity", f"Unable to generate unique mac on network {row['network_id']}.", "MacAddressGenerationFailure"
    )


def mac_in_use(row: Row) -> Fault:
    return Fault(
        "conflict",
        f"Unable to complete operation for network {row['network_id']}. "
        f"The mac address {row['mac_address']} is in use.",
        "MacAddressInUse",
    )


def in_use(port: Row) -> Fault:
    return Fault(
        "conflict",
        f"Unable to complete operation on port {port['id']} for network {port['network_id']}. Port already has an "
        f"attached device {port['device_id']}.",
        "PortInUse",
    )


def _check_security(row: Row) -> None:
    """Groups and address pairs mean nothing on a port without port security."""
    if row["port_security_enabled"]:
        return
    if row["security_groups"]:
        raise Fault(
            "conflict",
            "Port security must be enabled and port must have an IP address in order to use security groups.",
            "PortSecurityAndIPRequiredForSecurityGroups",
        )
    if row["allowed_address_pairs"]:
        raise Fault(
            "conflict",
            "Port Security must be enabled in order to have allowed address pairs on a port.",
            "AddressPairAndPortSecurityRequired",
        )


# the API
def _network_owners_only(ctx: Ctx, network: Row, body: Row, operation: str) -> None:
    """On another project's network, one takes what one is given."""
    if ctx.who.is_admin or network["project_id"] == ctx.who.project_id or "service" in ctx.who.roles:
        return
    for name in ("mac_address", "port_security_enabled", "allowed_address_pairs"):
        if body.get(name) not in (None, "", []):
            raise forbidden(f"{operation}_port:{name}")
    if any(fixed.get("ip_address") for fixed in body.get("fixed_ips") or []):
        raise forbidden(f"{operation}_port:fixed_ips:ip_address")
    if (body.get("device_owner") or "").startswith("network:"):
        raise forbidden(f"{operation}_port:device_owner")


@PORT.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    network = ctx.find(NETWORK, new["network_id"])
    _network_owners_only(ctx, network, new, "create")
    tidy(new)
    _own_devices_only(ctx, new, "create")
    groups = new.pop("security_groups")
    if groups is not None:
        groups = checked_groups(ctx.tx, new["project_id"], ctx.who.is_admin, groups)
    new["extra_dhcp_opts"] = merged_options([], new["extra_dhcp_opts"] or [])
    host = new.pop("binding_host")
    return make_port(ctx.tx, ctx.new_id, security_group_ids=groups, host=host, **new)


@PORT.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    network = ctx.tx.get(NETWORK, row["network_id"])
    _network_owners_only(ctx, network, changes, "update")
    tidy(changes)
    _stays_with_its_device(row, changes)
    if "device_id" in changes or "device_owner" in changes:
        _own_devices_only(ctx, row | changes, "update")
    if "mac_address" in changes:
        _check_new_mac(ctx, row, changes)
    asked = changes.pop("fixed_ips", None)
    if changes.get("security_groups", ()) is None:
        changes["security_groups"] = []
    if "security_groups" in changes:
        project_id = row["project_id"] or str(ctx.who.project_id)
        changes["security_groups"] = checked_groups(ctx.tx, project_id, ctx.who.is_admin, changes["security_groups"])
    if changes.get("port_security_enabled", ()) is None:
        del changes["port_security_enabled"]
    if "extra_dhcp_opts" in changes:
        changes["extra_dhcp_opts"] = merged_options(row["extra_dhcp_opts"], changes["extra_dhcp_opts"] or [])
    if "allowed_address_pairs" in changes:
        mac = changes.get("mac_address") or row["mac_address"]
        changes["allowed_address_pairs"] = with_mac(changes["allowed_address_pairs"], str(mac))
    if "binding_host" in changes and changes["binding_host"] != row["binding_host"]:
        changes["seen_up"] = False
    if asked is not None:
        row = readdress(ctx.tx, row, asked)
    _check_security(row | changes)
    return ctx.tx.update(PORT, row, **changes)


def _check_new_mac(ctx: Ctx, row: Row, changes: Row) -> None:
    if changes["mac_address"] is None or changes["mac_address"] == row["mac_address"]:
        del changes["mac_address"]
        return
    if not ctx.may("admin"):
        raise forbidden("update_port:mac_address")
    if row["binding_host"]:
        raise Fault("conflict", f"Unable to complete operation on port {row['id']}: it is bound.", "PortBound")
    if ctx.tx.one(PORT, network_id=row["network_id"], mac_address=changes["mac_address"]) is not None:
        raise mac_in_use(row | changes)


def _own_devices_only(ctx: Ctx, port: Row, operation: str) -> None:
    """Nobody makes a port of somebody else's router, or one that the network itself has."""
    from trilith.network.routers import ROUTER

    owner, device_id = port["device_owner"], port["device_id"]
    if ctx.who.is_admin or not owner.startswith("network:"):
        return
    if owner in AUTO_DELETED:
        raise forbidden(f"{operation}_port:device_owner")
    if owner in ROUTER_OWNERS and device_id and ctx.tx.one(ROUTER, ROUTER.c.id == device_id, ROUTER.scope(ctx)) is None:
        message = (
            f"The following device_id {device_id} is not owned by your project or matches another project's router."
        )
        raise Fault("conflict", message, "DeviceIDNotOwnedByProject")


def _stays_with_its_device(row: Row, changes: Row) -> None:
    """What a machine or a router holds is let go by the machine or the router."""
    if not row["machine_id"] and not (row["device_owner"] in ROUTER_OWNERS and row["device_id"]):
        return
    if any(name in changes and changes[name] != row[name] for name in ("device_id", "device_owner")):
        raise Fault(
            "conflict",
            f"Port {row['id']} cannot be updated directly via the port API: has device owner {row['device_owner']}.",
            "ServicePortInUse",
        )


def _is_held(tx: Tx, row: Row) -> bool:
    """Whether the router or the floating address that the port is of is (still) there."""
    from trilith.network.floatingips import FLOATING_IP
    from trilith.network.routers import ROUTER

    holder = {"network:floatingip": FLOATING_IP} | dict.fromkeys(ROUTER_OWNERS, ROUTER)
    return row["device_owner"] in holder and tx.one(holder[row["device_owner"]], id=row["device_id"]) is not None


@PORT.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    """Its owner may, and the owner of its network."""
    if not ctx.may("member", row) and not ctx.may("member", ctx.tx.get(NETWORK, row["network_id"])):
        raise forbidden("delete_port")
    if _is_held(ctx.tx, row):
        raise Fault(
            "conflict",
            f"Port {row['id']} cannot be deleted directly via the port API: has device owner {row['device_owner']}.",
            "ServicePortInUse",
        )
    drop_port(ctx.tx, row)
