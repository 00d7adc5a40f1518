"""Servers. The declaration at every microversion; creating, listing, changing and deleting.

A row holds what is wanted (`host power boot_epoch ... disks nics`) and, in `seen`, what its host last reported; its
status is computed from both (`server_status`). `wanted` counts the changes of what is wanted.
"""

import secrets
from collections.abc import Iterable
from functools import cache
from typing import Any

import sqlalchemy as sa

from trilith.compute import server_views as views
from trilith.compute.flavors import FLAVOR, embedded, find_flavor
from trilith.compute.instance_actions import record
from trilith.compute.keypairs import find_keypair
from trilith.compute.scheduler import Ask, claim, claims_of, place
from trilith.compute.server_disks import Layout, lay_out, make_disks
from trilith.compute.server_filters import FILTERS, shows_all, shows_deleted, sorting
from trilith.compute.server_groups import find_group
from trilith.compute.server_networks import Nic, make_nics, resolve, resolve_groups
from trilith.compute.server_requests import (
    DEVICES,
    FQDN,
    HINTS,
    HOSTNAME,
    METADATA,
    NAME,
    NETWORKS,
    TAG,
    USER_DATA,
    AccessAddress,
    check_versions,
    counts,
    hostname_of,
    zone_and_host,
)
from trilith.compute.server_status import server_status
from trilith.compute.versions import COMPUTE
from trilith.compute.views import host_id, links, seconds
from trilith.kernel import quota
from trilith.kernel.declare import Field, Noun, Quota, choice, computed, flag, given, ident, json, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Either, Flag, ListOf, Member, Object, Text, Whole, now
from trilith.kernel.paging import fetch
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.statements import fixed
from trilith.kernel.store import Tx
from trilith.kernel.versions import v
from trilith.placement import loads
from trilith.placement.hosts import topic

Row = dict[str, Any]
FULL_SINCE = v("2.75")  # changing and rebuilding show the whole server
# what they show before
SHORT_FORM = (
    "id name status tenant_id user_id metadata hostId image flavor created updated addresses accessIPv4 accessIPv6 "
    "links OS-DCF:diskConfig progress fault locked description tags trusted_image_certificates locked_reason "
    "server_groups"
)

# what no view needs
NOT_LISTED = "key_data claim admin_password old_flavor move peer_claim peer_seen shelve seen nics snapshots"


def _scope(ctx: Ctx) -> sa.ColumnElement[bool] | None:
    """One's project's; deleted ones only where a list asks for them; administrators' lists hold all when they ask."""
    listing = ctx.url_path.endswith(("/servers", "/servers/detail"))
    deleted_too = listing and shows_deleted(ctx)
    if ctx.who.is_admin and not (listing and not shows_all(ctx)):
        return _seen(deleted_too, own=False)
    if ctx.who.project_id is None:
        return sa.and_(_seen(deleted_too, own=False), SERVER.c.project_id.is_(None))
    return _seen(deleted_too, own=True)


@cache
def _seen(deleted_too: bool, own: bool) -> sa.ColumnElement[bool]:
    here = sa.true() if deleted_too else SERVER.c.deleted_at.is_(None)
    return fixed(sa.and_(here, SERVER.c.project_id == sa.bindparam("who_project_id")) if own else here)


def live(tx: Tx, project_id: str, *what: Any) -> int:
    """A sum over a project's servers."""
    total = sa.func.coalesce(sa.func.sum(what[0]) if what else sa.func.count(), 0)
    query = sa.select(total).where(SERVER.c.project_id == project_id, SERVER.c.deleted_at.is_(None))
    return int(tx.scalar(query))


SERVER = Noun(
    COMPUTE,
    "server",
    "/servers",
    dict(
        id=ident(brief=True),
        name=text(255, NAME, 1, create="required", update=True, brief=True),
        status=text(32, index=True),
        project_id=text(64, wire="tenant_id"),
        user_id=text(64),
        metadata=Field(kind=METADATA, create="optional", default=dict),
        host_id=computed(lambda row, ctx: host_id(row["project_id"], row["host"]), wire="hostId"),
        image_link=computed(views.image, wire="image", until=v("2.97")),
        image=computed(views.image_with_properties, since=v("2.98")),
        flavor_link=computed(views.flavor_link, wire="flavor", until=v("2.46")),
        flavor=json(show=views.flavor, since=v("2.47")),
        created_at=time(wire="created", show=lambda row, ctx: seconds(row["created_at"])),
        updated_at=time(wire="updated", show=lambda row, ctx: seconds(row["updated_at"] or row["created_at"])),
        addresses=computed(lambda row, ctx: row.get("_addresses", {})),
        access_ipv4=Field(kind=AccessAddress(4), wire="accessIPv4", create="optional", update=True, default=""),
        access_ipv6=Field(kind=AccessAddress(6), wire="accessIPv6", create="optional", update=True, default=""),
        links=computed(lambda row, ctx: links(ctx, "servers", row["id"]), brief=True),
        disk_config=choice(
            "AUTO", "MANUAL", wire="OS-DCF:diskConfig", create="optional", update=True, default="MANUAL"
        ),
        progress=computed(views.progress, optional_in_view=True),
        fault=json(show=views.fault, optional_in_view=True),
        zone=text(255, wire="OS-EXT-AZ:availability_zone", default="", show=lambda row, ctx: row["zone"] or ""),
        config_drive=flag(
            create="optional", default=False, show=lambda row, ctx: "True" if row["config_drive"] else ""
        ),
        key_name=text(255, create="optional"),
        launched_at=time(wire="OS-SRV-USG:launched_at"),
        terminated_at=time(wire="OS-SRV-USG:terminated_at"),
        security_groups=computed(views.group_names, optional_in_view=True),
        task_state=text(64, wire="OS-EXT-STS:task_state"),
        vm_state=text(64, wire="OS-EXT-STS:vm_state"),
        power_state=whole(wire="OS-EXT-STS:power_state", default=0),
        host=text(255, wire="OS-EXT-SRV-ATTR:host", see="admin", index=True),
        hypervisor=views.admin_only("hypervisor_hostname", "host"),
        instance_name=computed(
            lambda row, ctx: f"instance-{row['number']:08x}", wire="OS-EXT-SRV-ATTR:instance_name", see="admin"
        ),
        reservation_id=text(64, wire="OS-EXT-SRV-ATTR:reservation_id", see="admin", since=v("2.3")),
        launch_index=whole(wire="OS-EXT-SRV-ATTR:launch_index", default=0, see="admin", since=v("2.3")),
        hostname_admin=views.admin_only("hostname", "hostname", "2.3").but(until=v("2.89")),
        kernel_id=computed(
            views.image_of_boot("kernel_id"), wire="OS-EXT-SRV-ATTR:kernel_id", see="admin", since=v("2.3")
        ),
        ramdisk_id=computed(
            views.image_of_boot("ramdisk_id"), wire="OS-EXT-SRV-ATTR:ramdisk_id", see="admin", since=v("2.3")
        ),
        root_device=computed(views.root_device, wire="OS-EXT-SRV-ATTR:root_device_name", see="admin", since=v("2.3")),
        user_data_shown=views.admin_only("user_data", "user_data", "2.3"),
        volumes_old=computed(views.volumes, wire="os-extended-volumes:volumes_attached", until=v("2.2")),
        volumes=computed(views.volumes_with_flag, wire="os-extended-volumes:volumes_attached", since=v("2.3")),
        locked=flag(default=False, since=v("2.9")),
        host_status=computed(views.host_status, see="admin", since=v("2.16")),
        description=text(255, create="optional", update=True, null=True, since=v("2.19")),
        tags=Field(kind=ListOf(TAG, 50), create="optional", default=list, since=v("2.26"), accept_since=v("2.52")),
        trusted_image_certificates=Field(
            kind=ListOf(Text(255, 1), 50, 1, unique=True), create="optional", null=True, since=v("2.63")
        ),
        server_groups=computed(views.server_groups, optional_in_view=True, since=v("2.71")),
        locked_reason=text(255, since=v("2.73")),
        hostname_shown=computed(lambda row, ctx: row["hostname"], wire="OS-EXT-SRV-ATTR:hostname", since=v("2.90")),
        pinned_zone=text(
            255, wire="pinned_availability_zone", update=True, null=True, since=v("2.96"), accept_since=v("2.104")
        ),
        scheduler_hints=json(default=dict, since=v("2.100")),
        # what a request holds besides
        image_ref=given(Text(255), wire="imageRef"),
        flavor_ref=given(Either((Text(255, 1), Whole(0))), wire="flavorRef", create="required"),
        networks=given(NETWORKS),
        devices=given(DEVICES, wire="block_device_mapping_v2"),
        old_devices=given(DEVICES, wire="block_device_mapping"),
        admin_pass=given(Text(255), wire="adminPass"),
        group_names=given(ListOf(Object({"name": Member(Text(255, 1), required=True)})), wire="security_groups"),
        availability_zone=given(Text(255, 1)),
        min_count=given(Whole(1)),
        max_count=given(Whole(1)),
        return_reservation_id=given(Flag()),
        asked_host=given(Text(255, 1, FQDN), wire="host", since=v("2.74"), policy="admin"),
        asked_node=given(Text(255, 1, FQDN), wire="hypervisor_hostname", since=v("2.74"), policy="admin"),
        # what is wanted and seen, beyond what is shown
        hostname=text(255, FQDN, 2, create="optional", update=True, hidden=True, since=v("2.90")),
        user_data=Field(kind=USER_DATA, create="optional", null=True, hidden=True),
        number=whole(hidden=True, index=True),
        image_id=text(64, hidden=True),
        image_properties=json(default=dict, hidden=True),
        flavor_id=text(255, hidden=True, index=True),
        key_data=json(hidden=True),
        admin_password=text(255, hidden=True),
        vcpus=whole(hidden=True),
        ram_mib=whole(hidden=True),
        disk_gib=whole(hidden=True),
        claim=json(default=dict, hidden=True),  # vcpus ram_mib disk_gib that its host keeps for it
        wanted=whole(default=1, hidden=True),
        power=text(16, default="running", hidden=True),
        boot_epoch=whole(default=0, hidden=True),
        soft_reboot_epoch=whole(default=0, hidden=True),
        root_epoch=whole(default=0, hidden=True),
        disks=json(default=list, hidden=True),
        nics=json(default=list, hidden=True),
        snapshots=json(default=list, hidden=True),
        rescue_image_id=text(64, hidden=True),
        rescue_image_format=text(16, hidden=True),
        resize=text(16, hidden=True),  # resizing | resized | reverting
        old_flavor=json(hidden=True),
        # while it moves, `peer` is the other of its two hosts; see `server_moves`
        move=json(hidden=True),
        peer=text(255, hidden=True, index=True),
        peer_claim=json(default=dict, hidden=True),
        peer_seen=json(hidden=True),
        shelve=json(hidden=True),  # see `server_shelving`
        server_group_id=text(64, hidden=True, index=True),
        deleting=flag(default=False, hidden=True),
        deleted_at=time(hidden=True),  # an index of its own would look right for every question, and is for none
        failed=flag(default=False, hidden=True),
        seen=json(hidden=True),
    ),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
    quota=Quota("instances", 10, live),
    status=dict(create=202, delete=204),
    detail=True,
    scope=_scope,
    derive=server_status,
    expand=views.expand,
    wakes=lambda row: tuple(topic(host) for host in (row["host"], row["peer"]) if host),
    filters=FILTERS,
    beside=("os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"),
    hidden_in_lists=NOT_LISTED.split(),
    indexes=(("project_id", "deleted_at", "created_at", "id"), ("created_at", "id")),
    type_name="Instance",
)
SERVER.follows.append(loads.follow(claims_of))
COMPUTE.quota("cores", 20, lambda tx, project_id: live(tx, project_id, SERVER.c.vcpus))
COMPUTE.quota("ram", 51200, lambda tx, project_id: live(tx, project_id, SERVER.c.ram_mib))
COMPUTE.quota("metadata_items", 128, lambda tx, project_id: 0)
COMPUTE.quota("server_group_members", 10, lambda tx, project_id: 0)


def wish(tx: Tx, row: Row, **changes: Any) -> Row:
    """Changes what is wanted of a server; its host hears of it after the commit."""
    return tx.update(SERVER, row, wanted=row["wanted"] + 1, **changes)


def find_server(tx: Tx, server_id: str) -> Row:
    return tx.get(SERVER, server_id, SERVER.c.deleted_at.is_(None))


def servers_on(tx: Tx, hosts: Iterable[str]) -> list[Row]:
    return tx.rows(SERVER, SERVER.c.host.in_(list(hosts)), deleted_at=None)


# lists


@SERVER.on("list")
def list_servers(ctx: Ctx) -> Reply:
    wire, query = ctx.service.wire, ctx.query
    ctx.query = {name: values for name, values in query.items() if name not in ("sort_key", "sort_dir")}
    listing = wire.listing(ctx, SERVER)
    ctx.query = query
    listing.sort = sorting(ctx)
    page = fetch(ctx, SERVER, listing)
    shown = ctx.show_all(SERVER, page.rows, not ctx.url_path.endswith("/detail"))
    return Reply(wire.wrap_list(ctx, SERVER, shown, page, listing), 200)


# creation


@SERVER.on("create")
def create(ctx: Ctx, new: Row) -> Reply:
    check_versions(ctx, new)
    hints = _hints(ctx)
    least, most = counts(new)
    flavor = find_flavor(ctx.tx, FLAVOR.scope(ctx), str(new["flavor_ref"]))
    zone, host = zone_and_host(ctx, new)
    layout = lay_out(ctx, flavor, new)
    nics = resolve(ctx, new["networks"], many=most > 1)
    groups = resolve_groups(ctx, new["group_names"])
    group = find_group(ctx, hints.get("group"))
    amount = _fitting(ctx, flavor, least, most)
    _check_metadata_quota(ctx, new["metadata"])
    ask = Ask(
        flavor,
        ctx.who.project_id or "",
        zone,
        host,
        group,
        hints,
        layout.near,
        layout.image_properties,
        local_disk=layout.image_id is not None and not layout.shared,
        makes_volumes=layout.makes_volumes,
    )
    password = new["admin_pass"] or secrets.token_urlsafe(9)
    first = _wanted_row(ctx, new, flavor, layout, hints, group, password)
    if zone is not None:
        first["pinned_zone"] = zone
    servers = []
    for n in range(amount):
        own = first | {"id": new["id"] if n == 0 else ctx.new_id(), "launch_index": n, "number": first["number"] + n}
        if most > 1:
            own |= {"name": f"{new['name']}-{n + 1}", "hostname": f"{first['hostname'][:250]}-{n + 1}"}
        servers.append(_build(ctx, own, ask, layout, nics, groups))
    if new["return_reservation_id"]:
        return Reply({"reservation_id": first["reservation_id"]}, 202)
    return _created(ctx, servers[0], password, new["group_names"])


def _created(ctx: Ctx, row: Row, password: str, group_names: list[Row] | None) -> Reply:
    view = {
        "id": row["id"],
        "links": links(ctx, "servers", row["id"]),
        "OS-DCF:diskConfig": row["disk_config"],
        "security_groups": [{"name": each["name"]} for each in group_names or [{"name": "default"}]],
        "adminPass": password,
    }
    return Reply({"server": view}, 202, [("Location", view["links"][0]["href"])])


def _hints(ctx: Ctx) -> Row:
    given_hints = ctx.body.get("os:scheduler_hints", ctx.body.get("OS-SCH-HNT:scheduler_hints", {}))
    return HINTS.check(given_hints, "scheduler_hints", ctx.at)


def _fitting(ctx: Ctx, flavor: Row, least: int, most: int) -> int:
    """How many of the asked servers the quotas allow; 403 when it is fewer than the least."""
    for amount in range(most, least, -1):
        try:
            _check_quotas(ctx, flavor, amount)
        except Fault:
            continue
        return amount
    _check_quotas(ctx, flavor, least)
    return least


def _check_quotas(ctx: Ctx, flavor: Row, amount: int) -> None:
    asked = {"instances": amount, "cores": amount * flavor["vcpus"], "ram": amount * flavor["ram_mib"]}
    quota.check(ctx.tx, COMPUTE, ctx.who.project_id or "", **asked)


def _check_metadata_quota(ctx: Ctx, metadata: Row) -> None:
    limit = quota.limits(ctx.tx, COMPUTE, ctx.who.project_id or "")["metadata_items"]
    if 0 <= limit < len(metadata):
        raise Fault("over_quota", f"Quota exceeded for metadata_items: asked {len(metadata)}, allowed {limit}.")


def _wanted_row(ctx: Ctx, new: Row, flavor: Row, layout: Layout, hints: Row, group: Row | None, password: str) -> Row:
    """What all servers of one request have in common."""
    key = find_keypair(ctx.tx, ctx.who.user_id, new["key_name"]) if new["key_name"] else None
    last = ctx.tx.scalar(sa.select(sa.func.max(SERVER.c.number))) or 0
    stored = {name: value for name, value in new.items() if name in SERVER.table.c}
    return stored | {
        "user_id": ctx.who.user_id,
        "number": last + 1,
        "reservation_id": f"r-{secrets.token_hex(4)}",
        "hostname": new["hostname"] or hostname_of(new["name"], new["id"]),
        "description": new["description"],
        "image_id": layout.image_id,
        "image_properties": layout.image_properties,
        "flavor": embedded(flavor),
        "flavor_id": flavor["id"],
        "vcpus": flavor["vcpus"],
        "ram_mib": flavor["ram_mib"],
        "disk_gib": flavor["disk_gib"] + flavor["ephemeral_gib"],
        "key_data": {n: key[n] for n in ("name", "key_type", "public_key")} if key else None,
        "admin_password": password,
        "tags": sorted(set(new["tags"] or [])),
        "scheduler_hints": hints,
        "server_group_id": group["id"] if group else None,
    }


def _build(ctx: Ctx, new: Row, ask: Ask, layout: Layout, nics: list[Nic], groups: list[str] | None) -> Row:
    """One server's rows: a host claimed for it, its ports, its volumes. Where nothing fits it is made in ERROR."""
    try:
        host = place(ctx.tx, ask)
    except Fault as fault:
        if fault.kind != "no_capacity":
            raise
        row = ctx.tx.insert(SERVER, new | {"failed": True, "fault": fault_of(fault.message)})
        record(ctx, row, "create", done=True)
        return row
    claim(ctx.tx, host)
    zone = ask.zone_of(ctx.tx, host)
    new |= {"host": host["name"], "zone": zone, "claim": ask.amounts()}
    new["nics"] = make_nics(ctx, new, nics, groups)
    new["disks"] = make_disks(ctx, new, layout)
    row = ctx.tx.insert(SERVER, new)
    record(ctx, row, "create")
    return row


def fault_of(message: str, code: int = 500, details: str = "") -> Row:
    return {"code": code, "created": seconds(now()), "message": message[:255], "details": details or message}


# change and end


@SERVER.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Reply:
    if changes.get("hostname"):
        HOSTNAME.check(changes["hostname"], "hostname", ctx.at)
    if "pinned_zone" in changes and changes["pinned_zone"] not in (None, row["zone"]):
        raise Fault("invalid", f"Server {row['id']} runs in {row['zone']}; it can be pinned to no other zone.")
    return Reply({"server": changed_view(ctx, wish(ctx.tx, row, **changes))}, 200)


def changed_view(ctx: Ctx, row: Row, more: Iterable[str] = ()) -> Row:
    """A server as change and rebuild show it: wholly, or in their old short form."""
    view = ctx.show(SERVER, row)
    if ctx.at >= FULL_SINCE:
        return view
    short = {*SHORT_FORM.split(), *more}
    view = {name: value for name, value in view.items() if name in short}
    view["addresses"] = {
        network: [{"version": a["version"], "addr": a["addr"]} for a in found]
        for network, found in view["addresses"].items()
    }
    return view


@SERVER.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    if row["locked"] and not ctx.who.is_admin:
        raise Fault("conflict", f"Instance {row['id']} is locked")
    remove(ctx, row)


def remove(ctx: Ctx, row: Row) -> None:
    """Its host takes it apart; without a host it is gone at once."""
    from trilith.compute.server_moves import forget_move
    from trilith.compute.server_wants import finish_removal

    if row["deleting"] and not row["failed"]:
        return
    record(ctx, row, "delete")
    if row["move"] is not None:
        row = forget_move(ctx.tx, row, "cancelled")  # what the other host has of it, nobody wants any more
    row = wish(ctx.tx, row, deleting=True, failed=False)
    if row["host"] is None:
        finish_removal(ctx.tx, row)


def server_state(tx: Tx, server_id: str) -> str | None:
    """A server's ``vm_state``; None where there is no such server."""
    row = tx.one(SERVER, id=server_id)
    return row["vm_state"] if row else None
