"""Runs one host of a rehearsal: wires it, boots it in a container, boots it again when it reboots. Ends when it is off.

A program of its own (``python rehearsal_boot.py BOOT.JSON``) that outlives the command that started it; it imports the
standard library only, so that a host costs little memory. Killed at any moment, it leaves nothing that
`rehearsal_host` does not find again by name.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REBOOT = 133  # how systemd-nspawn ends when its host wants to boot again
# Entered before nspawn, so that the host can be frozen and its processes found; the mounts go with the namespace.
ENTER = """
for group in $GROUPS_TO_ENTER; do echo $$ > "$group/cgroup.procs" || exit 1; done
mount -t overlay "$OVERLAY_NAME" -o "$OVERLAY" "$ROOT" || exit 1
exec "$@"
"""

Document = dict[str, Any]


def main(file: Path) -> int:
    place = file.parent
    with open(place / "runner.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        _write(place / "runner.json", json.dumps(_identity()))
        code = REBOOT
        while code == REBOOT:
            document = json.loads(file.read_text())  # afresh: what has changed counts from the next boot on
            with wiring(place):
                plug(document, cut_networks(place))
            code = _boot(document)
        with wiring(place):
            unplug(document)
    return code


@contextlib.contextmanager
def wiring(place: Path) -> Iterator[None]:
    """Held by whoever makes, cuts or heals the links of a host."""
    with open(place / "wiring.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cut_networks(place: Path) -> list[str]:
    """Names of the networks whose cable is pulled; it stays pulled across a reboot."""
    try:
        cut: list[str] = json.loads((place / "cut.json").read_text())
    except FileNotFoundError:
        return []
    return cut


def plug(document: Document, cut: list[str]) -> None:
    """A namespace made anew, because a reboot forgets rules, bridges and taps; and its cables to the fabric."""
    unplug(document)
    fabric, netns = document["fabric"], document["netns"]
    _ip("netns", "add", netns)
    pairs, ports, inner = [], [], ["link set lo up"]
    for link in document["links"]:
        port, name, size = link["port"], link["interface"], f"mtu {link['mtu']}"
        peer = f"peer name {name} netns {netns} address {link['mac']} {size}"
        pairs.append(f"link add {port} netns {fabric} address {link['port_mac']} {size} type veth {peer}")
        ports.append(f"link set {port} master {link['network']}")
        if link["network"] not in cut:
            ports.append(f"link set {port} up")
        if link["address"]:
            inner.append(f"addr add {link['address']} dev {name}")
        inner.append(f"link set {name} up")
    _ip("-batch", "-", lines=pairs)
    _ip("-n", fabric, "-batch", "-", lines=ports)
    for link in document["links"]:  # before they carry anything: a switch in userspace does not complete checksums
        if link["network"] != "management":
            argv = ["ip", "netns", "exec", netns, "ethtool", "-K", link["interface"], "tx", "off"]
            subprocess.run(argv, check=True, capture_output=True)
    _ip("-n", netns, "-batch", "-", lines=inner)


def unplug(document: Document) -> None:
    """Take the links and the namespace away; missing ones are fine. A namespace alone would free them too late."""
    for link in document["links"]:
        argv = ["ip", "-n", document["fabric"], "link", "del", link["port"]]
        subprocess.run(argv, check=False, capture_output=True)
    if os.path.exists(f"/run/netns/{document['netns']}"):
        _ip("netns", "del", document["netns"])


def _boot(document: Document) -> int:
    """One life of the host; returns how nspawn ended."""
    for group, cpu_weight in document["groups"].items():
        os.makedirs(group, exist_ok=True)
        _weigh(Path(group), cpu_weight)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "GROUPS_TO_ENTER": " ".join(document["groups"]),
        "OVERLAY_NAME": document["netns"],
        "OVERLAY": document["overlay"],
        "ROOT": document["root"],
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", *document["nspawn"]]
    return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def _weigh(group: Path, cpu_weight: int) -> None:
    """`cpu_weight`: 100 is the usual. Nothing happens in a tree that does not have processors in it."""
    for name, value in (("cpu.weight", cpu_weight), ("cpu.shares", cpu_weight * 1024 // 100)):
        if (group / name).exists():
            (group / name).write_text(str(value))


def _ip(*words: str, lines: list[str] | None = None) -> None:
    text = "\n".join(lines) + "\n" if lines else None
    done = subprocess.run(["ip", *words], input=text, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _identity() -> Document:
    """This process, recognisable after its number was given to another one."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": os.getpid(), "ticks": int(ticks), "boot_id": boot_id}


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.rename(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
