"""The disks of a server: from ``imageRef``, flavor and ``block_device_mapping_v2`` to what its row remembers.

A disk in the row: ``device kind boot_index tag delete_on_termination bdm_id`` and, by kind, ``image_id image_format
size_gib`` (image), ``label size_gib | size_mib`` (blank), ``volume_id attached leaving attachment_id`` (volume).
"""

from dataclasses import dataclass, field
from typing import Any

from msgspec import DecodeError
from msgspec.json import decode

from trilith.compute import direct_boot
from trilith.compute.server_requests import DEVICES
from trilith.image.images import usable_image
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.versions import NEWEST
from trilith.volume.shared_storage import place_of_disks, shared_storage

Row = dict[str, Any]
GIB = 1 << 30
BAD_BOOT = (
    "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is "
    "not valid."
)
SHOWN_PROPERTIES = ("kernel_id", "ramdisk_id", "hw_", "os_", "img_", "trait:", "cpu_", "vmware_", "hypervisor_")
MAX_DISKS = 24
DEFINED = (
    "source_type",
    "destination_type",
    "uuid",
    "volume_id",
    "snapshot_id",
    "image_id",
    "volume_size",
    "volume_type",
    "boot_index",
    "device_name",
    "delete_on_termination",
    "tag",
)  # what an image may say of a disk
RAW = ("raw", "iso", "ami", "ari", "aki")


@dataclass(frozen=True)
class Layout:
    """What disks the servers of one request get. `entries`: the root first; `near`: where their volumes are."""

    entries: list[Row]
    image_id: str | None
    image_properties: Row = field(default_factory=dict)
    near: frozenset[str] = frozenset()
    shared: bool = False
    "Whether its disks lie where every host reaches them."

    @property
    def makes_volumes(self) -> bool:
        return not self.shared and any(each["kind"] == "volume" and not each.get("host") for each in self.entries)


def lay_out(ctx: Ctx, flavor: Row, new: Row) -> Layout:
    """Checks what a request says of disks, against image and flavor."""
    if new["devices"] is not None and new["old_devices"] is not None:
        message = "Using different block_device_mapping syntaxes is not allowed in the same request."
        raise Fault("invalid", message)
    devices = [_modern(each) for each in new["devices"] or []] + [_converted(each) for each in new["old_devices"] or []]
    image = image_of(ctx, new["image_ref"]) if new["image_ref"] else None
    if image is not None:
        direct_boot.check(ctx, image)
        devices = _defined_by(image, devices) + devices
    devices = [each for each in devices if "no_device" not in each]
    entries = [_entry(ctx, each) for each in devices]
    root = _root(ctx, flavor, image, entries)
    rest = [each for each in entries if each is not root]
    rest = sorted((e for e in rest if e["kind"] == "volume"), key=lambda e: e["boot_index"] or 0) + _local(flavor, rest)
    if len(rest) + 1 > MAX_DISKS:
        raise Fault("invalid", f"A server has at most {MAX_DISKS} disks.")
    near = frozenset(e["host"] for e in [root, *rest] if e.get("host"))
    properties = properties_of(image) if image else {}
    shown = root["image_id"] if root["kind"] == "image" else None
    return Layout([root, *rest], shown, properties, near, shared_storage(ctx.tx) is not None)


def image_of(ctx: Ctx, image_id: str) -> Row:
    try:
        return usable_image(ctx.tx, ctx.who.project_id, ctx.who.is_admin, image_id)
    except Fault as fault:
        raise Fault("invalid", f"Image {image_id} is unacceptable: {fault.message}") from None


def properties_of(image: Row) -> Row:
    own = {key: str(value)[:255] for key, value in (image["extra"] or {}).items() if key.startswith(SHOWN_PROPERTIES)}
    names = {"disk_format": "disk_format", "container_format": "container_format"}
    own |= {shown: str(image[name]) for shown, name in names.items() if image[name]}
    return own | {"min_disk": str(image["min_disk_gib"] or 0), "min_ram": str(image["min_ram_mib"] or 0)}


def _defined_by(image: Row, asked: list[Row]) -> list[Row]:
    """The volumes that an image asks for by itself (see `server_images`), but for those that the request replaces."""
    text = (image["extra"] or {}).get("block_device_mapping")
    if not text:
        return []
    try:
        found = decode(text, type=list[dict[str, Any]])
    except DecodeError:
        raise Fault("invalid", f"Image {image['id']} is unacceptable: its block_device_mapping is no list.") from None
    own = [{name: each[name] for name in DEFINED if each.get(name) is not None} for each in found[: MAX_DISKS + 1]]
    devices = [_modern(each) for each in DEVICES.check(own, "block_device_mapping", NEWEST)]
    replaced = {each.get("device_name") for each in asked} - {None}
    return [
        each
        for each in devices
        if each["source_type"] != "blank" or each.get("destination_type") == "volume"  # the flavor's, not the image's
        if each.get("device_name") not in replaced
    ]


def _modern(asked: Row) -> Row:
    for name, source in (("volume_id", "volume"), ("snapshot_id", "snapshot"), ("image_id", "image")):
        if asked.get(name) and asked.get("source_type", source) == source:
            asked = {"source_type": source, "uuid": asked[name]} | asked
    if "source_type" not in asked and "no_device" not in asked:
        raise Fault("invalid", "Block Device Mapping is Invalid: Missing source_type field")
    return asked


def _converted(old: Row) -> Row:
    """The first syntax in terms of the second."""
    new: Row = {k: old[k] for k in ("device_name", "volume_size", "delete_on_termination", "no_device") if k in old}
    source = "volume" if old.get("volume_id") else "snapshot" if old.get("snapshot_id") else "blank"
    key = old.get("volume_id") or old.get("snapshot_id")
    first = old.get("device_name", "").removeprefix("/dev/") in ("vda", "sda", "hda", "vda1", "sda1")
    new |= {"source_type": source, "destination_type": "volume", "boot_index": 0 if first else -1}
    return new | ({"uuid": key} if key else {})


def _entry(ctx: Ctx, asked: Row) -> Row:
    source = asked["source_type"]
    target = asked.get("destination_type", "volume" if source in ("volume", "snapshot") else "local")
    index = asked.get("boot_index")
    entry: Row = {
        "source": source,
        "uuid": asked.get("uuid"),
        "boot_index": index if index is not None and index >= 0 else None,
        "size_gib": asked.get("volume_size") or None,
        "delete_on_termination": asked.get("delete_on_termination", target == "local"),
        "tag": asked.get("tag"),
        "volume_type": asked.get("volume_type"),
    }
    if (source, target) not in CHECKS:
        message = f"Block Device Mapping is Invalid: Mapping {source} to {target} is not supported."
        raise Fault("invalid", message)
    if source != "blank" and not entry["uuid"]:
        raise Fault("invalid", "Block Device Mapping is Invalid: Missing device UUID.")
    return entry | CHECKS[source, target](ctx, entry, asked)


def _local_image(ctx: Ctx, entry: Row, asked: Row) -> Row:
    image = image_of(ctx, entry["uuid"])
    if entry["boot_index"] != 0:
        raise Fault("invalid", "Block Device Mapping is Invalid: Mapping image to local is not supported.")
    return {"kind": "image", "image_id": image["id"], "image": image}


def _image_volume(ctx: Ctx, entry: Row, asked: Row) -> Row:
    if not entry["size_gib"]:
        message = "Images with destination_type 'volume' need to have a non-zero size specified"
        raise Fault("invalid", f"Block Device Mapping is Invalid: {message}")
    return {"kind": "volume", "image_id": image_of(ctx, entry["uuid"])["id"]}


def _blank_volume(ctx: Ctx, entry: Row, asked: Row) -> Row:
    if not entry["size_gib"]:
        message = "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size"
        raise Fault("invalid", f"Block Device Mapping is Invalid: {message}")
    return {"kind": "volume"}


def _snapshot_volume(ctx: Ctx, entry: Row, asked: Row) -> Row:
    from trilith.volume.snapshots import SNAPSHOT
    from trilith.volume.volumes import VOLUME

    snapshot = ctx.tx.one(SNAPSHOT, SNAPSHOT.c.id == entry["uuid"], SNAPSHOT.scope(ctx))
    if snapshot is None:
        raise Fault("invalid", f"Block Device Mapping is Invalid: failed to get snapshot {entry['uuid']}.")
    origin = ctx.tx.get(VOLUME, snapshot["volume_id"])
    return {"kind": "volume", "snapshot_id": snapshot["id"], "host": origin["host"]}


def _present_volume(ctx: Ctx, entry: Row, asked: Row) -> Row:
    from trilith.volume.volumes import VOLUME

    volume = ctx.tx.one(VOLUME, VOLUME.c.id == entry["uuid"], VOLUME.scope(ctx))
    if volume is None:
        raise Fault("invalid", f"Block Device Mapping is Invalid: failed to get volume {entry['uuid']}.")
    if volume["status"] != "available" and not (volume["multiattach"] and volume["status"] == "in-use"):
        raise Fault("invalid", f"Invalid volume: Volume {volume['id']} is {volume['status']}, it must be available.")
    if entry["boot_index"] == 0 and not volume["bootable"]:
        raise Fault("invalid", f"Block Device {volume['id']} is not bootable.")
    return {"kind": "volume", "volume_id": volume["id"], "host": volume["host"]}


def _local_blank(ctx: Ctx, entry: Row, asked: Row) -> Row:
    return {"kind": "blank", "swap": asked.get("guest_format") == "swap", "delete_on_termination": True}


CHECKS = {
    ("image", "local"): _local_image,
    ("image", "volume"): _image_volume,
    ("blank", "volume"): _blank_volume,
    ("blank", "local"): _local_blank,
    ("snapshot", "volume"): _snapshot_volume,
    ("volume", "volume"): _present_volume,
}


def _root(ctx: Ctx, flavor: Row, image: Row | None, entries: list[Row]) -> Row:
    firsts = [each for each in entries if each["boot_index"] == 0]
    indexes = sorted(each["boot_index"] for each in entries if each["boot_index"] is not None)
    if len(firsts) > 1 or len(set(indexes)) < len(indexes):
        raise Fault("invalid", BAD_BOOT)
    if not firsts:
        if image is None:
            raise Fault("invalid", BAD_BOOT if entries else "Invalid imageRef provided.")
        firsts = [{"kind": "image", "image_id": image["id"], "image": image, "boot_index": 0, "tag": None}]
    root = firsts[0]
    if indexes and indexes != list(range(indexes[0], indexes[0] + len(indexes))):
        raise Fault("invalid", BAD_BOOT)
    if root["kind"] == "blank":
        raise Fault("invalid", BAD_BOOT)
    if root["kind"] == "image":
        check_image_fits(root["image"], flavor)
        if flavor["disk_gib"] == 0 and not ctx.who.is_admin:
            raise forbidden("os_compute_api:servers:create:zero_disk_flavor")
    elif image is not None:
        check_ram(image, flavor)
    return root


def check_ram(image: Row, flavor: Row) -> None:
    if (image["min_ram_mib"] or 0) > flavor["ram_mib"]:
        raise Fault("invalid", "Flavor's memory is too small for requested image.")


def check_image_fits(image: Row, flavor: Row) -> None:
    """400 unless a server of this flavor can start from the image."""
    check_ram(image, flavor)
    if image["size_bytes"] == 0:
        raise Fault("invalid", f"Image {image['id']} is unacceptable: it holds no data.")
    disk = flavor["disk_gib"]
    size_bytes = max(image["size_bytes"] or 0, image["virtual_size_bytes"] or 0)
    if disk and size_bytes > disk * GIB:
        raise Fault(
            "invalid",
            f"Flavor's disk is too small for requested image. Flavor disk is {disk * GIB} bytes, image is {size_bytes} "
            "bytes.",
        )
    if disk and (image["min_disk_gib"] or 0) > disk:
        raise Fault(
            "invalid",
            f"Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {disk * GIB} "
            f"bytes, minimum size is {image['min_disk_gib'] * GIB} bytes.",
        )


def _local(flavor: Row, entries: list[Row]) -> list[Row]:
    """Ephemeral and swap disks: those asked for, within the flavor's sizes, else the flavor's own."""
    blank = [each for each in entries if each["kind"] == "blank"]
    ephemeral = [each for each in blank if not each["swap"]]
    swap = [each for each in blank if each["swap"]]
    if not ephemeral and flavor["ephemeral_gib"]:
        ephemeral = [{"kind": "blank", "size_gib": None, "tag": None}]
    if not swap and flavor["swap_mib"]:
        swap = [{"kind": "blank", "size_gib": None, "tag": None}]
    sizes = [each["size_gib"] or flavor["ephemeral_gib"] for each in ephemeral]
    if sum(sizes) > flavor["ephemeral_gib"]:
        raise Fault("invalid", "Ephemeral disks requested are larger than the instance type allows.")
    if len(swap) > 1 or sum((each["size_gib"] or 0) * 1024 for each in swap) > flavor["swap_mib"]:
        raise Fault("invalid", "Swap drive requested is larger than instance type allows.")
    found = [
        {"kind": "blank", "label": f"ephemeral{n}", "size_gib": size, "boot_index": None, "tag": each["tag"]}
        for n, (each, size) in enumerate(zip(ephemeral, sizes, strict=True))
    ]
    for each in swap:
        size_mib = (each["size_gib"] or 0) * 1024 or flavor["swap_mib"]
        found.append(
            {
                "kind": "blank",
                "label": "swap0",
                "size_gib": 0,
                "size_mib": size_mib,
                "boot_index": None,
                "tag": each["tag"],
            }
        )
    return found


def format_of(image: Row) -> str:
    """How a host reads the image's bytes."""
    return "raw" if image["disk_format"] in RAW else str(image["disk_format"])


def next_device(disks: list[Row]) -> str:
    taken = {each["device"] for each in disks}
    return next(name for n in range(MAX_DISKS + 1) if (name := f"vd{chr(ord('a') + n)}") not in taken)


def make_disks(ctx: Ctx, server: Row, layout: Layout) -> list[Row]:
    """Makes a server's volumes; returns what its row remembers of its disks."""
    disks: list[Row] = []
    place = place_of_disks(ctx.tx)
    for entry in layout.entries:
        disk: Row = {
            "device": next_device(disks),
            "kind": entry["kind"],
            "boot_index": entry["boot_index"],
            "tag": entry["tag"],
            "delete_on_termination": entry.get("delete_on_termination", True),
            "bdm_id": ctx.new_id(),
        }
        if entry["kind"] == "image":
            disk |= {"image_id": entry["image_id"], "image_format": format_of(entry["image"])}
            disk |= {"size_gib": server["flavor"]["disk_gib"], **place}
        elif entry["kind"] == "blank":
            disk |= {name: entry[name] for name in ("label", "size_gib", "size_mib") if name in entry} | place
        else:
            disk |= _make_volume(ctx, server, entry, disk["device"])
        disks.append(disk)
    return disks


def _make_volume(ctx: Ctx, server: Row, entry: Row, device: str) -> Row:
    from trilith.volume.volumes import VOLUME, make_volume, storage_host

    if entry.get("volume_id"):
        return attach_volume(ctx, server, ctx.tx.get(VOLUME, entry["volume_id"]), device)
    volume = make_volume(
        ctx.tx,
        ctx.new_id,
        project_id=server["project_id"],
        user_id=server["user_id"],
        size_gib=entry["size_gib"],
        name="",
        image_id=entry.get("image_id"),
        snapshot_id=entry.get("snapshot_id"),
        volume_type=entry["volume_type"],
        host=storage_host(ctx.tx, server["host"]),
        is_admin=ctx.who.is_admin,
    )
    return attach_volume(ctx, server, volume, device, made_for=True)


def attach_volume(ctx: Ctx, server: Row, volume: Row, device: str, made_for: bool = False) -> Row:
    """Promises the volume to the server; its host will tell when it has it."""
    from trilith.volume.attachments import attach, attached

    where = {"server_id": server["id"], "host": server["host"], "device": f"/dev/{device}"}
    attachment = attach(ctx.tx, ctx.new_id, volume, **where, made_for=made_for)
    if server.get("shelve"):  # and no host: as in Nova, the volume counts as in use from now on
        attached(ctx.tx, attachment)
    return {"volume_id": volume["id"], "attachment_id": attachment["id"], "attached": False, "leaving": False}
