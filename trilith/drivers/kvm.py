"""Is KVM really usable? Asked of KVM itself, once per boot.

``/dev/kvm`` can open, accept everything and still not run a stock guest: where only paravirtual guests are supported,
the kernel mode of any other guest is emulated instruction by instruction, some 10,000 times too slow. So the probe runs
a counted loop in 64-bit kernel mode on a bare virtual CPU, without QEMU, and looks at the rate. Run as a program it
prints its verdict as JSON.
"""

import ctypes
import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

Accel = Literal["kvm", "tcg"]

BUDGET_S = 1.0
LOOPS = 20_000_000
FASTEST_EMULATION = 5e7  # loops/s; real hardware does about 1e9, the emulator about 1e5

GET_API_VERSION, CREATE_VM, GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
CREATE_VCPU, RUN = 0xAE41, 0xAE80
SET_USER_MEMORY_REGION, SET_TSS_ADDR = 0x4020AE46, 0xAE47
SET_REGS, GET_REGS, GET_SREGS, SET_SREGS = 0x4090AE82, 0x8090AE81, 0x8138AE83, 0x4138AE84
EXIT_IO = 2
MEMORY_BYTES = 1 << 20
CODE_AT, TABLES_AT = 0x8000, 0x1000


def accelerator(choice: str, cache_dir: Path) -> Accel:
    """What machines shall run on. `choice`: ``auto`` asks the probe (cached in `cache_dir` until the next boot),
    ``kvm`` and ``tcg`` are taken as said. ValueError for anything else."""
    if choice == "kvm":
        return "kvm"
    if choice == "tcg":
        return "tcg"
    if choice != "auto":
        raise ValueError(f"accelerator {choice!r}: use auto, kvm or tcg")
    return "kvm" if verdict(cache_dir)["usable"] else "tcg"


def verdict(cache_dir: Path) -> dict[str, object]:
    """The probe's answer for this boot: ``{boot_id, usable, reason}``."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    cache = cache_dir / "kvm.json"
    try:
        known: dict[str, object] = json.loads(cache.read_text())
        if known["boot_id"] == boot_id:
            return known
    except (OSError, ValueError, KeyError):
        pass  # never asked, or cut short: ask
    answer: dict[str, object] = {"boot_id": boot_id, **_ask()}
    cache_dir.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(answer))
    part.rename(cache)
    return answer


def _ask() -> dict[str, object]:
    # in a process of its own: a virtual CPU that hangs takes nothing along
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], capture_output=True, text=True, timeout=3 * BUDGET_S, check=False
        )
        answer: dict[str, object] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"usable": False, "reason": "the probe did not end in time"}
    except ValueError:
        return {"usable": False, "reason": f"the probe died: {done.stderr.strip()[-200:]}"}
    return answer


def probe() -> tuple[bool, str]:
    """Run the loop: (usable, why). Needs the main thread; takes at most `BUDGET_S`."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return False, f"/dev/kvm: {error.strerror}"
    try:
        return _run_loop(kvm)
    except OSError as error:
        return False, f"ioctl failed: {error}"
    finally:
        os.close(kvm)


def _run_loop(kvm: int) -> tuple[bool, str]:
    if fcntl.ioctl(kvm, GET_API_VERSION) != 12:
        return False, "another version of the KVM interface"
    libc = ctypes.CDLL(None, use_errno=True)
    vm = fcntl.ioctl(kvm, CREATE_VM, 0)
    libc.ioctl(vm, SET_TSS_ADDR, ctypes.c_ulong(0xFFFBD000))  # too large for fcntl.ioctl
    memory = mmap.mmap(-1, MEMORY_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _load(memory)
    fcntl.ioctl(vm, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, MEMORY_BYTES, address))
    vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, GET_VCPU_MMAP_SIZE))
    _enter_long_mode(vcpu)

    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, BUDGET_S)
    began = time.perf_counter()
    code = libc.ioctl(vcpu, RUN, 0)
    took_s = time.perf_counter() - began
    signal.setitimer(signal.ITIMER_REAL, 0)

    (exit_reason,) = struct.unpack_from("<I", run, 8)
    registers = bytearray(144)
    fcntl.ioctl(vcpu, GET_REGS, registers)
    (left,) = struct.unpack_from("<Q", registers, 16)  # rcx
    rate = (LOOPS - left) / took_s
    if code != 0 or exit_reason != EXIT_IO:
        return False, f"a guest's kernel mode is emulated: {rate:.0f} loops/s, exit reason {exit_reason}"
    return rate > FASTEST_EMULATION, f"{rate:.0f} loops/s"


def _load(memory: mmap.mmap) -> None:
    for at, entry in ((0, 0x2003), (0x1000, 0x3003), (0x2000, 0x83)):  # one 2 MiB page, mapped onto itself
        memory[TABLES_AT + at : TABLES_AT + at + 8] = struct.pack("<Q", entry)
    # mov ecx, LOOPS; again: dec ecx; jnz again; mov al, 42; out 0xf4, al; hlt
    code = b"\xb9" + struct.pack("<I", LOOPS) + b"\xff\xc9\x75\xfc" + b"\xb0\x2a\xe6\xf4\xf4"
    memory[CODE_AT : CODE_AT + len(code)] = code


def _enter_long_mode(vcpu: int) -> None:
    special = bytearray(312)
    fcntl.ioctl(vcpu, GET_SREGS, special)
    code, data = (8, 11, 0, 1), (16, 3, 1, 0)  # selector, type, default size, long
    for index, (selector, kind, size, long) in enumerate([code] + [data] * 5):
        segment = (0, 0xFFFFFFFF, selector, kind, 1, 0, size, 1, long, 1, 0)
        struct.pack_into("<QIHBBBBBBBB", special, 24 * index, *segment)
    control = 24 * 8 + 16 * 2
    struct.pack_into("<QQQQQ", special, control, 0x80050033, 0, TABLES_AT, 0x20, 0)
    struct.pack_into("<Q", special, control + 40, 0x500)  # EFER: long mode enabled and active
    fcntl.ioctl(vcpu, SET_SREGS, bytes(special))
    registers = [0] * 18
    registers[6], registers[16], registers[17] = CODE_AT - 8, CODE_AT, 2  # rsp, rip, rflags
    fcntl.ioctl(vcpu, SET_REGS, struct.pack("<18Q", *registers))


if __name__ == "__main__":
    usable, reason = probe()
    print(json.dumps({"usable": usable, "reason": reason}))
