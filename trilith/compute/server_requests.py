"""What requests about servers may hold: kinds of values, and checks over several of them."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import (
    Address,
    Bad,
    Choice,
    Either,
    Flag,
    Id,
    Json,
    Kind,
    ListOf,
    MapOf,
    Member,
    Object,
    Text,
    Whole,
)
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.versions import Version, v

Row = dict[str, Any]

NAME = r"\S(.*\S)?"
FQDN = r"[a-zA-Z0-9\-._]*"
TAG = Text(60, 1, r"[^,/]*")
METADATA = MapOf(Text(255), Text(255, 1, r"[a-zA-Z0-9\-_:. ]{1,255}"))
NETWORKS_REQUIRED, FULL_HOSTNAMES = v("2.37"), v("2.94")
NETWORK_TAG_GAP = (v("2.37"), v("2.41"))  # tags at creation were lost in these versions
DEVICE_TAG_GAP = (v("2.33"), v("2.41"))


@dataclass(frozen=True)
class AccessAddress(Address):
    """An address or nothing: null becomes ""."""

    def check(self, value: Any, path: str, at: Version) -> str:
        return "" if value in (None, "") else super().check(value, path, at)


@dataclass(frozen=True)
class Base64(Kind):
    """Base64 text, kept as it was written."""

    limit: int = 65535

    def check(self, value: Any, path: str, at: Version) -> str:
        text = Text(self.limit).check(value, path, at)
        try:
            base64.b64decode(re.sub(r"\s", "", text), validate=True)
        except (binascii.Error, ValueError):
            raise Bad(path, value, f"{value[:60]!r} is not a 'base64'") from None
        return text

    def column(self) -> Any:
        return Text(self.limit).column()


@dataclass(frozen=True)
class HostName(Kind):
    """A host name; with its domain from 2.94 on."""

    def check(self, value: Any, path: str, at: Version) -> str:
        if at >= FULL_HOSTNAMES:
            return Text(255, 1, FQDN).check(value, path, at)
        return Text(63, 2, r"[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+").check(value, path, at)


HOSTNAME = HostName()
USER_DATA = Base64()
NETWORK = Object(
    {
        "uuid": Member(Id()),
        "port": Member(Id(), null=True),
        "fixed_ip": Member(Address()),
        "tag": Member(TAG, since=v("2.32")),
    }
)
NETWORKS = Either((ListOf(NETWORK), Choice(("auto", "none"))))
DEVICES = ListOf(
    Object(
        {
            "source_type": Member(Choice(("volume", "image", "snapshot", "blank"))),
            "destination_type": Member(Choice(("local", "volume"))),
            "uuid": Member(Text(255, 1, r"[a-zA-Z0-9._-]*")),
            "image_id": Member(Id()),
            "volume_id": Member(Id()),
            "snapshot_id": Member(Id()),
            "volume_size": Member(Whole(0)),
            "volume_type": Member(Text(255), null=True, since=v("2.67")),
            "boot_index": Member(Whole(), null=True),
            "delete_on_termination": Member(Flag()),
            "device_name": Member(Text(255, 1, r"[a-zA-Z0-9._/-]*")),
            "guest_format": Member(Text(255)),
            "device_type": Member(Text(255)),
            "disk_bus": Member(Text(255)),
            "virtual_name": Member(Text(255)),
            "no_device": Member(Json(), null=True),
            "connection_info": Member(Text(65535)),
            "tag": Member(TAG, since=v("2.32")),
        }
    )
)
IDS = Either((Id(), ListOf(Id())))
HINTS = Object(
    {
        "group": Member(Either((Id(), ListOf(Id())))),
        "different_host": Member(IDS),
        "same_host": Member(IDS),
        "query": Member(Either((Text(65535), Json(only_objects=True)))),
        "build_near_host_ip": Member(Address()),
        "cidr": Member(Text(255, 0, r"/[0-9a-f.:]+")),
        "target_cell": Member(Text(255, 1)),
        "different_cell": Member(Either((Text(255), ListOf(Text(255))))),
    },
    open_ended=True,
)


def check_versions(ctx: Ctx, new: Row) -> None:
    """What a single field's versions do not say."""
    networks = new["networks"]
    if ctx.at >= NETWORKS_REQUIRED:
        if networks is None:
            raise Bad("networks", None, "'networks' is a required property", "required")
    elif isinstance(networks, str):
        raise Bad("networks", networks, f"{networks!r} is not of type 'array'")
    tagged = [each for each in networks or [] if isinstance(each, dict) and "tag" in each]
    devices = [each for each in new["devices"] or [] if "tag" in each]
    for found, (first, last) in ((tagged, NETWORK_TAG_GAP), (devices, DEVICE_TAG_GAP)):
        if found and first <= ctx.at <= last:
            raise Bad("tag", found[0]["tag"], "'tag' was unexpected", "unknown")
    if new["hostname"]:
        HOSTNAME.check(new["hostname"], "hostname", ctx.at)
        if (new["max_count"] or 1) > 1:
            raise Fault("invalid", "A hostname cannot be requested for several servers at once.")


def counts(new: Row) -> tuple[int, int]:
    """The least and the most servers that are asked for."""
    least = new["min_count"] or 1
    most = new["max_count"] or least
    if least > most:
        raise Fault("invalid", "min_count must be <= max_count")
    return least, most


def zone_and_host(ctx: Ctx, new: Row) -> tuple[str | None, str | None]:
    """The asked zone and host: ``zone``, ``zone:host`` (administrators only), or the fields for hosts."""
    asked: str | None = new["availability_zone"]
    host = new["asked_host"] or new["asked_node"]
    if host and asked and ":" in asked:
        raise Fault("invalid", "A host cannot be asked for twice: in availability_zone and in host.")
    if asked is None or ":" not in asked:
        return asked, host
    if not ctx.who.is_admin:
        raise forbidden("os_compute_api:servers:create:forced_host")
    zone, _, rest = asked.partition(":")
    if rest.count(":") > 1:
        raise Fault("invalid", "Unable to parse availability_zone")
    name, _, node = rest.partition(":")
    return zone or None, name or node or None


def hostname_of(name: str, server_id: str) -> str:
    """A host name like the server's name."""
    plain = re.sub(r"[ _]", "-", name.encode("ascii", "ignore").decode())
    plain = re.sub(r"[^\w.-]+", "", plain).lower().strip(".-")[:63].rstrip(".-")
    return plain if len(plain) >= 1 else f"server-{server_id}"
