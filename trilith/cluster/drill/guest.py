"""The machines that drills make: a kernel and a ramdisk that ``make guest`` left beside its image.

They boot in about half of the processor's time that the whole guest needs. Where processors are emulated, and all
hosts of a rehearsal have those of one machine, that decides how soon the tenth machine of a lost host answers again.
"""

from typing import Any

from trilith.cluster.bootstrap import guest_file
from trilith.cluster.drill.load import PATHS, Broken, User

COMMAND_LINE = (
    "console=ttyS0,115200 quiet panic=5 mitigations=off nokaslr no_timer_check cryptomgr.notests net.ifnames=0"
)
DISK_BYTES = 1 << 20  # of an empty root disk: a server has one


def upload(user: User) -> str | None:
    """The id of an image that such machines start from; None where ``make guest`` has not been run."""
    image = guest_file()
    if image is None:
        return None
    parts = {"aki": image.with_suffix(".vmlinuz"), "ari": image.with_suffix(".ramdisk")}
    if not all(path.exists() for path in parts.values()):
        return None
    kernel, ramdisk = (_image(user, kind, path.read_bytes()) for kind, path in parts.items())
    properties = {"kernel_id": kernel, "ramdisk_id": ramdisk, "os_command_line": COMMAND_LINE}
    return _image(user, "raw", bytes(DISK_BYTES), **properties)


def _image(user: User, disk_format: str, data: bytes, **properties: Any) -> str:
    formats = {"disk_format": disk_format, "container_format": disk_format if disk_format != "raw" else "bare"}
    key = user.create("image", {**formats, **properties})
    sent = user.ask("PUT", f"{PATHS['image']}/{key}/file", data=data)
    if sent.status != 204:
        raise Broken(f"sending image {key}: {sent.status} {sent.content[:300]!r}")
    user.wait("image", key, "active")
    return key
