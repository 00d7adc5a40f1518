"""QEMU's command line and device documents, as pure functions of a machine's record (see `drivers.qemu`).

What is plugged at start and what is plugged later is described by the same functions, so that a machine restored from
its saved memory, or plugged and unplugged many times, has each device at the address it had before.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from trilith.drivers.qemu_img import qemu_format
from trilith.kernel.errors import Refused

Doc = dict[str, Any]

MACHINE = "pc-q35-7.2"  # pinned: a machine's devices must not change under it with a newer QEMU
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
DISK_PORTS = 16  # vda to vdp
NIC_PORTS = 8
PORTS_PER_SLOT = 8
FIRST_SLOT = 0x10
WATCHDOG_ADDRESS = "1e.0"
WATCHDOG_ACTIONS = ("disabled", "reset", "poweroff", "pause", "none")
RECONNECT_S = 120  # that a guest's request waits for a volume's host: its agent, or the host itself, starts again
CEPH_KEY = "ceph.key"  # the file in a machine's directory with which it opens its disks in Ceph
MONITOR_PORT = "3300"
# five levels of pages and `rep movsb` (which is emulated byte by byte) only cost an emulated guest time
EMULATED = "max,la57=off,erms=off"
# Emulating, QEMU before 9.0 loses what a guest writes during a live migration: asked which pages were written, it takes
# a short way through memory of whole units of 64 pages, and forgets to watch them from then on. So ours is not whole.
NOT_WHOLE_UNITS_KIB = 8
CODE_CACHE_MIB = 32  # of the TCG translator; its default is most of a small machine's memory


def watchdog_action(asked: str | None) -> str:
    """What happens when the guest's watchdog is not fed, as ``hw:watchdog_action`` says it; disabled: there is none."""
    if asked not in (None, *WATCHDOG_ACTIONS):
        raise Refused(f"Provided watchdog action ({asked}) is not supported.")
    return asked or "disabled"


def disk_id(key: str) -> str:
    return f"disk-{key}"


def nic_id(port_id: str) -> str:
    return f"nic-{port_id}"


def netdev_id(port_id: str) -> str:
    return f"net-{port_id}"


def node(key: str) -> str:
    """Name of the block node that a disk's device sits on. QEMU allows 31 characters."""
    return f"n-{key[:28]}"


def protocol_node(key: str) -> str:
    return f"p-{key[:28]}"


def disk_port(device: str, taken: set[int]) -> int:
    """Root port of a disk: by its letter, so that vdc is the guest's third disk; else the first free one.

    ValueError when all are taken.
    """
    named = re.fullmatch(r"[a-z]+d([a-z])", device)
    wished = ord(named[1]) - ord("a") if named else 0
    free: list[int] = [port for port in [wished, *range(DISK_PORTS)] if port < DISK_PORTS and port not in taken]
    if not free:
        raise ValueError(f"a machine has at most {DISK_PORTS} disks")
    return free[0]


def nic_port(taken: set[int]) -> int:
    """Root port of one more network card. ValueError when all are taken."""
    for port in range(DISK_PORTS, DISK_PORTS + NIC_PORTS):
        if port not in taken:
            return port
    raise ValueError(f"a machine has at most {NIC_PORTS} network cards")


def file_node(path: Path, name: str | None = None, read_only: bool = False) -> Doc:
    document: Doc = {"driver": "file", "filename": str(path), "discard": "unmap"}
    if name is not None:
        document["node-name"] = name
    if read_only:
        document["read-only"] = True
    return document


def disk_nodes(directory: Path, disk: Doc) -> list[Doc]:
    """Block nodes of a disk, in the order of adding. Formats and files are all said; none is probed or followed."""
    key = disk["key"]
    if disk.get("nbd"):
        return _nbd_nodes(key, disk["nbd"])
    if disk.get("rbd"):
        return _rbd_nodes(key, disk["rbd"])
    top: Doc = {"driver": disk["format"], "node-name": node(key), "file": protocol_node(key), "discard": "unmap"}
    if disk["format"] == "qcow2":
        base = disk.get("base")
        top["backing"] = None if base is None else _base(directory / base["file"], base["format"])
    return [file_node(directory / disk["file"], protocol_node(key)), top]


def credentials(directory: Path, disk: Doc) -> Doc | None:
    """The object with which a disk's volume is reached on another host or in Ceph; None for one that is not there."""
    if disk.get("rbd"):
        key_file = str(directory / CEPH_KEY)  # its text is what QEMU calls base64
        return {"qom-type": "secret", "id": credentials_id(disk["key"]), "format": "base64", "file": key_file}
    if not disk.get("nbd"):
        return None
    document = {"qom-type": "tls-creds-psk", "id": credentials_id(disk["key"]), "endpoint": "client"}
    return document | {"dir": str(directory / credentials_id(disk["key"])), "username": disk["nbd"]["user"]}


def credentials_id(key: str) -> str:
    """Name of that object, and of the directory that the key lies in."""
    return f"psk-{key}"


def _nbd_nodes(key: str, nbd: Doc) -> list[Doc]:
    protocol: Doc = {"driver": "nbd", "node-name": protocol_node(key), "export": nbd["name"]}
    protocol["server"] = {"type": "inet", "host": nbd["address"], "port": str(nbd["port"])}
    protocol |= {"tls-creds": credentials_id(key), "reconnect-delay": RECONNECT_S, "discard": "unmap"}
    return [protocol, {"driver": "raw", "node-name": node(key), "file": protocol_node(key), "discard": "unmap"}]


def _rbd_nodes(key: str, rbd: Doc) -> list[Doc]:
    protocol: Doc = {"driver": "rbd", "node-name": protocol_node(key), "pool": rbd["pool"], "image": rbd["image"]}
    protocol |= {"user": rbd["user"], "key-secret": credentials_id(key), "conf": "/dev/null", "discard": "unmap"}
    protocol["server"] = [_monitor(each) for each in rbd["monitors"]]
    protocol["cache"] = {"direct": True}  # what counts as written is there for whichever host is next
    return [protocol, {"driver": "raw", "node-name": node(key), "file": protocol_node(key), "discard": "unmap"}]


def _monitor(address: str) -> Doc:
    host, port = address, MONITOR_PORT
    if address.count(":") == 1 or "]:" in address:
        host, _, port = address.rpartition(":")
    return {"host": host.strip("[]"), "port": port}


def _base(path: Path, image_format: str) -> Doc:
    document: Doc = {"driver": qemu_format(image_format), "read-only": True, "file": file_node(path, read_only=True)}
    if document["driver"] == "qcow2":
        document["backing"] = None
    return document


def disk_device(disk: Doc) -> Doc:
    document: Doc = {
        "driver": "virtio-blk-pci",
        "id": disk_id(disk["key"]),
        "bus": f"rp{disk['port']}",
        "drive": node(disk["key"]),
    }
    if disk.get("volume_id"):
        document["serial"] = disk["volume_id"][:20]
    if disk.get("nbd"):
        document |= {"rerror": "stop", "werror": "stop"}  # after `RECONNECT_S` the machine waits, and is asked to go on
    if disk.get("boot_index") is not None:
        document["bootindex"] = disk["boot_index"]
    return document


def nic_device(nic: Doc, checksum_offload: bool) -> Doc:
    document: Doc = {
        "driver": "virtio-net-pci",
        "id": nic_id(nic["port_id"]),
        "bus": f"rp{nic['port']}",
        "netdev": netdev_id(nic["port_id"]),
        "mac": nic["mac"],
        "host_mtu": nic["mtu"],
        "romfile": "",
    }
    if not checksum_offload:
        document["csum"] = False  # a packet with half a checksum does not survive NAT in the userspace datapath
    return document


def arguments(
    server_id: str, directory: Path, spec: Doc, accel: str, checksum_offload: bool, tap_fds: dict[str, int]
) -> list[str]:
    """The whole command line after the program's name. `tap_fds`: port id to an open tap."""
    run = str(directory / "run").replace(",", ",,")  # so that an option does not end in the middle of a path
    words = ["-name", f"guest={server_id},debug-threads=on", "-uuid", server_id, "-nodefaults", "-no-user-config"]
    words += ["-machine", f"{MACHINE},usb=off,vmport=off,dump-guest-core=off,hpet=off"]
    words += ["-accel", "kvm" if accel == "kvm" else f"tcg,thread=multi,tb-size={CODE_CACHE_MIB}"]
    words += ["-cpu", "host" if accel == "kvm" else EMULATED, "-smp", f"{spec['vcpus']},sockets={spec['vcpus']}"]
    ram_kib = spec["ram_mib"] * 1024 + (0 if accel == "kvm" else NOT_WHOLE_UNITS_KIB)
    words += ["-m", f"{ram_kib}K", "-rtc", "base=utc", "-boot", "strict=on", "-display", "none"]
    words += ["-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"]
    # guests know by these names that they run in an OpenStack cloud, and where to look for their metadata
    words += ["-smbios", f"type=1,manufacturer=Trilith,product=OpenStack Compute,serial={server_id},uuid={server_id}"]
    words += ["-sandbox", SANDBOX, "-pidfile", str(directory / "run" / "pid")]
    # a guest that powers off stays as it is, paused, so that this is seen by whoever looks later
    # and so does one whose kernel panics, which it tells by pvpanic
    words += ["-action", "shutdown=pause,reboot=reset,panic=pause", *_device({"driver": "pvpanic"})]
    if spec["watchdog_action"] != "disabled":
        # QEMU would not be there any more to say why; its driver ends it
        action = "pause" if spec["watchdog_action"] == "poweroff" else spec["watchdog_action"]
        words += ["-action", f"watchdog={action}"]
        words += _device({"driver": "i6300esb", "bus": "pcie.0", "addr": WATCHDOG_ADDRESS})
    for name in ("qmp", "qmp2"):  # the second is for diagnosis: a monitor has one client at a time
        words += ["-chardev", f"socket,id={name},path={run}/{name},server=on,wait=off"]
        words += ["-mon", f"chardev={name},mode=control"]
    log = f"logfile={run}/console.log,logappend=on"
    words += ["-chardev", f"socket,id=serial,path={run}/serial,server=on,wait=off,{log}", "-serial", "chardev:serial"]
    words += ["-vga", "std", "-vnc", f"unix:{run}/vnc"]
    words += ["-object", "rng-builtin,id=rng", *_device({"driver": "virtio-rng-pci", "bus": "pcie.0", "rng": "rng"})]
    words += _root_ports()
    kernel = spec.get("kernel")
    if kernel is not None:
        words += ["-kernel", str(directory / kernel["kernel"]), "-append", kernel["command_line"]]
        words += ["-initrd", str(directory / kernel["ramdisk"])] if kernel["ramdisk"] else []
    for disk in spec["disks"]:
        if (secret := credentials(directory, disk)) is not None:
            words += ["-object", json.dumps(secret)]
        words += [word for document in disk_nodes(directory, disk) for word in ("-blockdev", json.dumps(document))]
        # a kernel goes before all disks, and QEMU refuses two that are first
        words += _device(disk_device(disk if kernel is None else disk | {"boot_index": None}))
    if spec["config_drive"]:
        words += _config_drive(directory / "config.iso")
    for nic in spec["nics"]:
        port_id = nic["port_id"]
        words += ["-netdev", json.dumps({"type": "tap", "id": netdev_id(port_id), "fd": str(tap_fds[port_id])})]
        words += _device(nic_device(nic, checksum_offload))
    return words


def _root_ports() -> list[str]:
    words = []
    for port in range(DISK_PORTS + NIC_PORTS):
        slot, function = divmod(port, PORTS_PER_SLOT)
        document: Doc = {"driver": "pcie-root-port", "id": f"rp{port}", "bus": "pcie.0", "chassis": port + 1}
        document["addr"] = f"{FIRST_SLOT + slot:x}.{function}"
        if function == 0:
            document["multifunction"] = True
        words += _device(document)
    return words


def _config_drive(path: Path) -> list[str]:
    nodes = [file_node(path, "p-config", read_only=True)]
    nodes += [{"driver": "raw", "node-name": "n-config", "file": "p-config", "read-only": True}]
    words = [word for document in nodes for word in ("-blockdev", json.dumps(document))]
    words += _device({"driver": "virtio-scsi-pci", "id": "scsi", "bus": "pcie.0"})
    return words + _device({"driver": "scsi-cd", "id": "config", "bus": "scsi.0", "drive": "n-config"})


def _device(document: Doc) -> list[str]:
    return ["-device", json.dumps(document)]


def launcher(
    netns: str | None, owner: tuple[int, int] | None, accel: str, program: str = "qemu-system-x86_64"
) -> list[str]:
    """What goes before the program's own words: into the host's network namespace, and out of root."""
    words = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns is not None else []
    if owner is not None:
        uid, gid = owner
        groups = [f"--groups={os.stat('/dev/kvm').st_gid}"] if accel == "kvm" else ["--clear-groups"]
        drop = [f"--reuid={uid}", f"--regid={gid}", *groups, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        words += ["setpriv", *drop, "--"]
    return [*words, program]
