"""What this host is: asked once, when the agent starts."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path

from trilith.kernel.reconcile import Doc

PROGRAMS = {"qemu": "qemu-system-x86_64", "openvswitch": "ovs-vswitchd"}
ANSWER_S = 10.0


def inventory(directory: Path) -> Doc:
    """What this host has in all, not what is free. `directory` is on the disk that machines get."""
    disk = os.statvfs(directory)
    return {
        "vcpus": os.cpu_count() or 1,
        "ram_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "disk_gib": disk.f_frsize * disk.f_blocks // 2**30,
        "booted_at_s": int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)),
        "cpu_info": cpu_info(Path("/proc/cpuinfo").read_text()),
    }


def versions(engines: bool) -> dict[str, str]:
    """Versions by program; those of the `engines` that machines run on only where there are any."""
    found = {"python": platform.python_version(), "linux": platform.release()}
    for name, program in PROGRAMS.items() if engines else ():
        if (version := _version(program)) is not None:
            found[name] = version
    return found


def cpu_info(text: str) -> Doc:
    """``arch model vendor features topology``, of what the kernel writes into /proc/cpuinfo."""
    processors = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.strip().split("\n\n")
    ]
    first = processors[0]
    sockets = len({processor.get("physical id", "0") for processor in processors})
    cores = int(first.get("cpu cores", 1))
    return {
        "arch": platform.machine(),
        "model": first.get("model name", ""),
        "vendor": first.get("vendor_id", ""),
        "features": sorted(first.get("flags", "").split()),
        "topology": {"sockets": sockets, "cores": cores, "threads": max(1, int(first.get("siblings", cores)) // cores)},
    }


def _version(program: str) -> str | None:
    """The first number that looks like one in ``PROGRAM --version``."""
    words = [program, "--version"]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return found.group() if found else None
