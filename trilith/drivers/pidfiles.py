"""QEMU's programs as processes that outlive us: started, and found again by the pidfile that each keeps locked."""

import fcntl
import os
import select
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trilith.kernel.errors import Unavailable

FLOCK = "hhqqi4x"  # struct flock


def start(words: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Run a program in a session of its own; what it says is in the new file `log`."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,
            cwd="/",
            env={"PATH": f"{os.defpath}:/usr/sbin:/sbin", "LC_ALL": "C"},
        )


def holder(pidfile: Path, word: str) -> int | None:
    """The process that holds the file locked, if an argument of it begins with `word`. The kernel names it: no pid is
    taken for another's."""
    try:
        fd = os.open(pidfile, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        flock = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = struct.unpack(FLOCK, flock)
    if kind == fcntl.F_UNLCK:
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return int(pid) if any(each.startswith(word.encode()) for each in words) else None


def cpu_s(pid: int) -> float | None:
    """Seconds of processors that a process has used (proc(5)); None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def end(pidfile: Path, word: str, grace_s: float) -> None:
    """End the holder: by asking, and after `grace_s` by force. `Unavailable` if it does not die."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        pid = holder(pidfile, word)
        if pid is None:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if holder(pidfile, word) == pid:  # still the same process, now that it is held
                signal.pidfd_send_signal(fd, number)
                select.select([fd], [], [], wait_s)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)
    if holder(pidfile, word) is not None:
        raise Unavailable(f"The process of {pidfile.parent.name} does not die.")
