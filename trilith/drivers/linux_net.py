"""Links and network namespaces of the Linux kernel: the few calls that drivers and engines share.

Everything is idempotent. A namespace of None is the caller's own.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trilith.kernel.errors import Refused, Unavailable

NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_UP = 0x0002, 0x1000, 0x4000, 0x1
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU, SIOCETHTOOL = 0x8913, 0x8914, 0x8922, 0x8946
ETHTOOL_STXCSUM = 0x00000017

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def in_netns(name: str | None) -> Iterator[None]:
    """The calling thread is inside the namespace; sockets made there stay there. `Unavailable`: there is none."""
    if name is None:
        yield
        return
    try:
        inside = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"Network namespace {name} does not exist.") from error
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(inside)
        try:
            yield
        finally:
            _setns(outside)
    finally:
        os.close(inside)
        os.close(outside)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise Refused(f"setns: {os.strerror(ctypes.get_errno())}; it needs root.")


def namespaces(prefix: str) -> set[str]:
    """Names of the namespaces that begin with `prefix`."""
    if not NAMESPACES.is_dir():
        return set()
    return {path.name for path in NAMESPACES.iterdir() if path.name.startswith(prefix)}


def make_namespace(name: str) -> None:
    """Make it if it is not there, with its loopback up and without IPv6 of its own."""
    if not usable(name):
        delete_namespace(name)  # the bare file that a crash halfway leaves
        ip("netns", "add", name)
    with in_netns(name):
        for scope in ("all", "default"):
            write_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        set_up("lo")


def usable(name: str) -> bool:
    """Whether the name stands for a namespace (a bare file is what a crash can leave)."""
    try:
        with in_netns(name):
            return True
    except (Unavailable, Refused):
        return False


def delete_namespace(name: str) -> None:
    if (NAMESPACES / name).exists():
        ip("netns", "del", name)


def ip(*words: str) -> str:
    """Run iproute2. Raises `Unavailable` with what it said."""
    return run(["ip", *words])


def run(argv: Sequence[str], text: str | None = None) -> str:
    """Run a short command with `text` as its input. Raises `Unavailable` with what it said."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(argv[:4])}: {done.stderr.strip()}")
    return done.stdout


def write_sysctl(path: str, value: str) -> None:
    """Of the namespace that the calling thread is in; one that this kernel does not have is left alone."""
    file = Path("/proc/sys") / path
    if file.exists():
        file.write_text(value)


def link_exists(name: str) -> bool:
    """In the namespace that the calling thread is in."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def set_up(name: str, mtu: int = 0) -> None:
    """Bring a link of the calling thread's namespace up, with an MTU in bytes (0: leave it)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if mtu:
            fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
        request = struct.pack("16sh22x", name.encode(), 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | IFF_UP))


def set_addresses(name: str, mac: str, addresses: set[str]) -> None:
    """Give a link of the calling thread's namespace this MAC and exactly these addresses (``10.0.0.2/24``)."""
    links = json.loads(run(["ip", "-j", "addr", "show", "dev", name]))
    link = next(each for each in links if each)
    there = {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] != "link"}
    if link["address"] != mac:
        run(["ip", "link", "set", "dev", name, "address", mac])
    for address in there - addresses:
        run(["ip", "addr", "del", address, "dev", name])
    for address in addresses - there:
        run(["ip", "addr", "replace", address, "dev", name])
    set_up(name)


def checksum_offload_off(name: str) -> None:
    """Have checksums computed before frames leave by this link: a userspace switch does not complete them."""
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))


def offload_off(name: str) -> None:
    """Frames leave and arrive as they are on the wire: a userspace switch neither cuts large ones nor joins small."""
    for feature in ("tx", "gro", "lro"):  # one by one, because a link that cannot do one must not keep the others
        argv = ["ethtool", "-K", name, feature, "off"]
        subprocess.run(argv, capture_output=True, check=False, timeout=10)


def make_tap(name: str, owner_uid: int) -> bool:
    """A persistent tap in the calling thread's namespace, to be opened by that user; says whether it was made."""
    made = not link_exists(name)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        if made:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
            fcntl.ioctl(tun, TUNSETOWNER, owner_uid)
            fcntl.ioctl(tun, TUNSETPERSIST, 1)
    except OSError as error:
        raise Unavailable(f"Tap {name} cannot be made: {error.strerror}.") from error
    finally:
        os.close(tun)
    return made


def quick_acks(network: str) -> bool:
    """Have what arrives from `network` acknowledged at once, by the caller's own namespace; says whether that was new.

    An NBD client sends small packets and waits (Nagle): with acknowledgements that wait too, each costs 40 ms. The
    routes keep everything else that they say; those through a gateway are not touched.
    """
    changed = False
    for line in run(["ip", "route", "show", "exact", network]).splitlines():
        words = [word for word in line.split() if word not in ("linkdown", "dead")]
        if words and "quickack" not in words and "via" not in words:
            ip("route", "replace", *words, "quickack", "1")
            changed = True
    return changed


def links(prefix: str) -> set[str]:
    """Names of the calling thread's namespace that begin with `prefix`."""
    return {name for _, name in socket.if_nameindex() if name.startswith(prefix)}


def delete_link(name: str) -> None:
    """Of the calling thread's namespace; missing is fine."""
    if link_exists(name):
        run(["ip", "link", "del", name])
