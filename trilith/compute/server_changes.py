"""What changes a server's substance: rebuild and resize."""

import secrets
from dataclasses import replace
from typing import Any

from trilith.compute import direct_boot, migrations
from trilith.compute.flavors import FLAVOR, embedded, find_flavor
from trilith.compute.instance_actions import record
from trilith.compute.keypairs import find_keypair
from trilith.compute.scheduler import Ask, claim, place
from trilith.compute.server_actions import must
from trilith.compute.server_disks import check_image_fits, format_of, image_of, properties_of
from trilith.compute.server_groups import GROUP
from trilith.compute.server_moves import NO_MOVE, begin, local_keys, phase_of, root_gib, sized
from trilith.compute.server_requests import HOSTNAME, METADATA, NAME, USER_DATA, AccessAddress
from trilith.compute.servers import SERVER, changed_view, wish
from trilith.compute.takeovers import is_off
from trilith.compute.versions import COMPUTE
from trilith.image.images import IMAGE
from trilith.kernel import quota
from trilith.kernel.declare import Noun
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Choice, Either, Flag, Id, ListOf, Member, Object, Text, Whole
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
KEY_SINCE, USER_DATA_SINCE = v("2.54"), v("2.57")

REBUILD = Object(
    {
        "imageRef": Member(Id(), required=True),
        "name": Member(Text(255, 1, NAME)),
        "adminPass": Member(Text(255)),
        "metadata": Member(METADATA),
        "preserve_ephemeral": Member(Flag()),
        "OS-DCF:diskConfig": Member(Choice(("AUTO", "MANUAL"))),
        "accessIPv4": Member(AccessAddress(4)),
        "accessIPv6": Member(AccessAddress(6)),
        "description": Member(Text(255), null=True, since=v("2.19")),
        "key_name": Member(Text(255, 1), null=True, since=KEY_SINCE),
        "user_data": Member(USER_DATA, null=True, since=USER_DATA_SINCE),
        "trusted_image_certificates": Member(ListOf(Text(255, 1), 50, 1, unique=True), null=True, since=v("2.63")),
        "hostname": Member(HOSTNAME, since=v("2.90")),
    }
)
# request -> column
PLAIN = {
    "name": "name",
    "metadata": "metadata",
    "OS-DCF:diskConfig": "disk_config",
    "accessIPv4": "access_ipv4",
    "accessIPv6": "access_ipv6",
    "description": "description",
    "user_data": "user_data",
    "trusted_image_certificates": "trusted_image_certificates",
    "hostname": "hostname",
}


@SERVER.verb("rebuild", "member", body=REBUILD)
def rebuild(ctx: Ctx, row: Row, body: Row) -> Reply:
    """The root disk is made anew of an image; addresses, volumes and id stay."""
    must(ctx, row, "rebuild", "active", "stopped", "error")
    image = image_of(ctx, body["imageRef"])
    if row["image_id"] is None:
        message = "Unable to rebuild with a different image for a volume-backed server."
        raise Fault("invalid", message)
    direct_boot.check(ctx, image)
    check_image_fits(image, row["flavor"])
    if "metadata" in body:
        limit = quota.limits(ctx.tx, COMPUTE, row["project_id"])["metadata_items"]
        if 0 <= limit < len(body["metadata"]):
            raise Fault("over_quota", f"Quota exceeded for metadata_items: asked {len(body['metadata'])} of {limit}.")
    changes = {column: body[name] for name, column in PLAIN.items() if name in body}
    if "key_name" in body:
        key = find_keypair(ctx.tx, row["user_id"], body["key_name"]) if body["key_name"] else None
        data = {n: key[n] for n in ("name", "key_type", "public_key")} if key else None
        changes |= {"key_name": body["key_name"], "key_data": data}
    password = body.get("adminPass") or secrets.token_urlsafe(9)
    stays_off = row["vm_state"] == "stopped"
    record(ctx, row, "rebuild")
    row = wish(
        ctx.tx,
        row,
        image_id=image["id"],
        image_properties=properties_of(image),
        disks=[_of_image(disk, image) for disk in row["disks"]],
        root_epoch=row["root_epoch"] + 1,
        boot_epoch=row["boot_epoch"] + (0 if stays_off else 1),
        power="stopped" if stays_off else "running",
        admin_password=password,
        failed=False,
        fault=None,
        **changes,
    )
    return _rebuilt(ctx, row, password)


def _of_image(disk: Row, image: Row) -> Row:
    if disk["kind"] != "image":
        return disk
    return disk | {"image_id": image["id"], "image_format": format_of(image)}


def _rebuilt(ctx: Ctx, row: Row, password: str) -> Reply:
    more = ("key_name",) if ctx.at >= KEY_SINCE else ()
    view = changed_view(ctx, row, more)
    view.pop("OS-EXT-SRV-ATTR:user_data", None)
    if ctx.at >= USER_DATA_SINCE:
        view["user_data"] = row["user_data"]
    view["adminPass"] = password
    return Reply({"server": view}, 202, [("Location", view["links"][0]["href"])])


# resize


RESIZE = Object(
    {
        "flavorRef": Member(Either((Text(255, 1), Whole(0))), required=True),
        "OS-DCF:diskConfig": Member(Choice(("AUTO", "MANUAL"))),
    }
)


@SERVER.verb("resize", "member", body=RESIZE)
def resize(ctx: Ctx, row: Row, body: Row) -> None:
    """Another flavor, as a rule on another host; the old one is kept until it is confirmed or reverted."""
    must(ctx, row, "resize", "active", "stopped")
    flavor, old = find_flavor(ctx.tx, FLAVOR.scope(ctx), str(body["flavorRef"])), row["flavor"]
    if flavor["id"] == old["id"]:
        raise Fault("invalid", "When resizing, instances must change flavor!")
    backed = row["image_id"] is not None
    if backed and flavor["disk_gib"] < old["disk_gib"]:
        raise Fault("invalid", f"Flavor {flavor['id']} has a smaller disk: a server's disk cannot shrink.")
    if backed and (image := ctx.tx.one(IMAGE, id=row["image_id"])) is not None:
        check_image_fits(image, flavor)
    quota.check(
        ctx.tx,
        COMPUTE,
        row["project_id"],
        cores=flavor["vcpus"] - old["vcpus"],
        ram=flavor["ram_mib"] - old["ram_mib"],
    )
    changes = {"disk_config": body["OS-DCF:diskConfig"]} if "OS-DCF:diskConfig" in body else {}
    record(ctx, row, "resize")
    begin_cold(ctx, row, flavor, "resize", **changes)


def begin_cold(ctx: Ctx, row: Row, flavor: Row, kind: str, host: str | None = None, **changes: Any) -> None:
    """To another host, or with a new flavor, or both. Where a resize finds no other host it stays on its own."""
    ask = ask_of(ctx.tx, row, flavor, host)
    try:
        target = place(ctx.tx, ask)
    except Fault as fault:
        if fault.kind == "unavailable":
            raise
        if kind != "resize" or fault.kind != "no_capacity":
            raise Fault("invalid", fault.message) from None
        target = _own_host(ctx, replace(ask, not_on=None, host=row["host"]))
    claim(ctx.tx, target)
    old = row["flavor"]
    changes |= {"resize": "resizing", "old_flavor": old}
    migration = migrations.begin(ctx, row, target["name"], kind, "migrating", old, flavor)
    if target["name"] == row["host"]:
        both = {name: max(amount, row["claim"].get(name, 0)) for name, amount in ask.amounts().items()}
        wish(ctx.tx, row, claim=both, **changes, **sized(row, embedded(flavor)))
        return
    changes |= sized(row, embedded(flavor)) if kind == "resize" else {}
    begin(ctx.tx, row, target["name"], "copying", ask.amounts(), migration, root_gib=root_gib(row), **changes)


def _own_host(ctx: Ctx, ask: Ask) -> Row:
    try:
        return place(ctx.tx, ask)
    except Fault as fault:
        if fault.kind == "unavailable":
            raise
        raise Fault("invalid", fault.message) from None


def ask_of(tx: Tx, row: Row, flavor: Row, host: str | None = None, **more: Any) -> Ask:
    """What a server that is there needs of another host."""
    group = tx.one(GROUP, id=row["server_group_id"]) if row["server_group_id"] else None
    volumes = [disk["volume_id"] for disk in row["disks"] if disk["kind"] == "volume"]
    near = frozenset(volume["host"] for volume in tx.rows(_volumes(), id=volumes)) if volumes else frozenset()
    return Ask(
        flavor,
        row["project_id"],
        zone=row["pinned_zone"],
        host=host,
        group=group,
        hints=row["scheduler_hints"] or {},
        image_properties=row["image_properties"] or {},
        near=near,
        server_id=row["id"],
        local_disk=row["image_id"] is not None,
        **({"not_on": row["host"]} | more),
    )


def _volumes() -> Noun:
    from trilith.volume.volumes import VOLUME

    return VOLUME


@SERVER.verb("confirmResize", "member", status=204)
def confirm_resize(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "confirmResize", "resized")
    migrations.set_status(ctx.tx, row["id"], "confirmed")
    record(ctx, row, "confirmResize", done=True)
    ask = Ask(row["flavor"], row["project_id"], local_disk=row["image_id"] is not None)
    wish(ctx.tx, row, resize=None, old_flavor=None, claim=ask.amounts(), **NO_MOVE)  # the kept disks go


@SERVER.verb("revertResize", "member")
def revert_resize(ctx: Ctx, row: Row, body: Any) -> None:
    must(ctx, row, "revertResize", "resized")
    old = row["old_flavor"]
    migrations.set_status(ctx.tx, row["id"], "reverting")
    record(ctx, row, "revertResize")
    if row["peer"] is not None and not local_keys(row) and is_off(ctx.tx, row["peer"]):
        row = ctx.tx.update(SERVER, row, **NO_MOVE)  # nothing of it was kept there
    if row["peer"] is None:
        ask = Ask(old, row["project_id"], local_disk=row["image_id"] is not None)
        wish(ctx.tx, row, resize="reverting", claim=ask.amounts(), **sized(row, old))
        return
    move = phase_of(row, "returning")
    wish(ctx.tx, row, resize="reverting", move=move, **sized(row, old, move["root_gib"]))
