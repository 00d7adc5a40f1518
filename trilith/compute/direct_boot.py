"""Servers that boot a kernel instead of their disk's boot loader, because their image says so.

Image properties, as in upstream's libvirt driver: ``kernel_id`` and ``ramdisk_id`` (ids of images, the second may be
left out), ``os_command_line`` (what the kernel is told, in place of `COMMAND_LINE`).
"""

from typing import Any

from trilith.image.images import usable_image
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx

Row = dict[str, Any]

IDS = ("kernel_id", "ramdisk_id")
COMMAND_LINE = "root=/dev/vda console=tty0 console=ttyS0"


def check(ctx: Ctx, image: Row) -> None:
    """400 where the image names a kernel or a ramdisk that the caller may not use, or that has no data."""
    for name in IDS:
        if not (key := (image["extra"] or {}).get(name)):
            continue
        try:
            usable_image(ctx.tx, ctx.who.project_id, ctx.who.is_admin, str(key))
        except Fault as fault:
            raise Fault("invalid", f"Image {image['id']} is unacceptable: its {name}: {fault.message}") from None


def document(row: Row) -> Row | None:
    """A server's part of its host's want: ``kernel_id ramdisk_id command_line``; None: its disk is booted."""
    properties = row["image_properties"] or {}
    if not properties.get("kernel_id"):
        return None
    return {
        **{name: properties.get(name) or None for name in IDS},
        "command_line": properties.get("os_command_line") or COMMAND_LINE,
    }
