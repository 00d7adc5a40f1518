"""qemu-img: disk files made, copied and read, with every format said and none guessed.

A guest can write any header into its disk. Whoever lets QEMU guess the format then opens what that header names, so
nothing here probes: the caller says the format that was stored when the file was made.

Each run is limited in memory, processor and clock time (a hostile image can make qemu-img take any of them), and ends
with the thread that started it, so that nothing writes on after its agent was killed.

Raises `InUse` when a running machine has the file open, `Unavailable` when it may work later (disk full),
`Refused` when the file is not what it was said to be.
"""

import json
import os
import re
import signal
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]

MIB = 1 << 20
GIB = 1 << 30

# The image service's name of a disk format -> QEMU's name. What is absent is stored, never opened.
QEMU_FORMAT = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhdx": "vhdx",
    "ploop": "parallels",
    "iso": "raw",
    "ami": "raw",
    "aki": "raw",
    "ari": "raw",
}

INFO_CPU_S = 30
COPY_CPU_S = 4 * 3600
MEMORY_BYTES = 2 * GIB  # address space; the work on any sound image stays far below

TRANSIENT = (
    "Connection refused",
    "Failed to connect",
    "TLS handshake",
    "Server",
    "No space left",
    "Disk quota exceeded",
    "Input/output error",
    "No such file",
    "Permission denied",
)


# The user who reads a fault has no use for the host's directories.
DIRECTORIES = re.compile(r"(?:file:)?/(?:[^/\s'\"\]]+/)*")


class InUse(Unavailable):
    """Another process, as a rule the QEMU of a running machine, has the file open."""


@dataclass(frozen=True)
class ImageInfo:
    """What a disk file says of itself. `backing_file` and `data_file` are other files that it wants opened."""

    format: str
    virtual_size_bytes: int
    actual_size_bytes: int
    backing_file: str | None
    data_file: str | None


def info(path: Path, disk_format: str, while_in_use: bool = False) -> ImageInfo:
    """Read the header of `path` as `disk_format`. Opens no other file that the header may name."""
    share = ["--force-share"] if while_in_use else []
    text = _run(["info", "--output=json", "-f", qemu_format(disk_format), *share, _filename(path)], INFO_CPU_S)
    document = json.loads(text)
    specific = document.get("format-specific", {}).get("data", {})
    return ImageInfo(
        format=disk_format,
        virtual_size_bytes=document["virtual-size"],
        actual_size_bytes=document.get("actual-size", 0),
        backing_file=document.get("backing-filename"),
        data_file=specific.get("data-file"),
    )


def require_standalone(path: Path, disk_format: str) -> ImageInfo:
    """`info`, Refused if the file wants another one opened: an image could so name any file of the host."""
    found = info(path, disk_format)
    if found.backing_file is not None or found.data_file is not None:
        raise Refused(f"The {disk_format} file {path.name} refers to another file; an image must be self-contained.")
    return found


def create(path: Path, disk_format: str, size_bytes: int, backing: tuple[Path, str] | None = None) -> None:
    """Make an empty disk of `size_bytes`, or an overlay over `backing` = (file, its format)."""
    argv = ["create", "-q", "-f", qemu_format(disk_format)]
    if backing is not None:
        argv += ["-b", str(backing[0].absolute()), "-F", qemu_format(backing[1])]
    _run([*argv, _filename(path), str(size_bytes)], INFO_CPU_S)


def convert(source: Path, source_format: str, target: Path, target_format: str, compress: bool = False) -> None:
    """Copy the disk `source` into a new, standalone, sparse file `target`; what was there is replaced."""
    target.unlink(missing_ok=True)  # a fresh inode: a writer that has just lost its parent must not reach it
    flags = ["-c"] if compress else []
    formats = ["-f", qemu_format(source_format), "-O", qemu_format(target_format)]
    if target_format == "vhd":
        flags += ["-o", "force_size=on"]  # else the size is rounded up to a disk geometry and fits nowhere
    _run(["convert", "-q", "-t", "writeback", *flags, *formats, _filename(source), _filename(target)], COPY_CPU_S)


def fetch(place: Doc, name: str, keys: Path, user: str, target: Path, target_format: str, netns: str | None) -> None:
    """Copy the export `name` of `place` (``address port``) into a new file; `keys`: the directory of our TLS key."""
    target.unlink(missing_ok=True)
    secret = f"tls-creds-psk,id=psk,dir={str(keys).replace(',', ',,')},endpoint=client,username={user}"
    source: Doc = {"driver": "nbd", "export": name, "tls-creds": "psk", "discard": "unmap"}
    source["server"] = {"type": "inet", "host": place["address"], "port": str(place["port"])}
    words = ["convert", "-q", "-t", "writeback", "--object", secret, "--image-opts", "-O", qemu_format(target_format)]
    _run([*words, f"driver=raw,file.{_dotted(source)}", _filename(target)], COPY_CPU_S, netns)


def _dotted(document: Doc) -> str:
    """A block node as ``--image-opts`` takes it, below ``file``."""
    flat = [(key, value) for key, value in document.items() if not isinstance(value, dict)]
    for key, inner in document.items():
        flat += [(f"{key}.{name}", value) for name, value in inner.items()] if isinstance(inner, dict) else []
    return ",file.".join(f"{key}={str(value).replace(',', ',,')}" for key, value in flat)


def resize(path: Path, disk_format: str, size_bytes: int) -> None:
    """Grow the disk to `size_bytes`. Shrinking is Refused: it would cut data off."""
    now_bytes = info(path, disk_format).virtual_size_bytes
    if size_bytes < now_bytes:
        raise Refused(f"The disk {path.name} has {now_bytes} bytes; it cannot shrink to {size_bytes}.")
    if size_bytes > now_bytes:
        _run(["resize", "-q", "-f", qemu_format(disk_format), _filename(path), str(size_bytes)], INFO_CPU_S)


def in_use(path: Path, disk_format: str) -> bool:
    """Whether some process has `path` open for writing, by the locks that QEMU takes. A damaged file is in no use."""
    try:
        info(path, disk_format)
    except InUse:
        return True
    except Refused:
        return False
    return False


def qcow2_size_bytes(path: Path) -> int:
    """The virtual size that a qcow2 file's header says, read without a process: for the round of every second.

    Refused if it is no qcow2.
    """
    with open(path, "rb") as file:
        header = file.read(32)
    if len(header) < 32 or header[:4] != b"QFI\xfb":
        raise Refused(f"The file {path.name} is not a qcow2 disk.")
    (size_bytes,) = struct.unpack(">Q", header[24:32])
    return int(size_bytes)


def qemu_format(disk_format: str) -> str:
    """QEMU's name of the image service's `disk_format`; Refused if there is none."""
    if disk_format not in QEMU_FORMAT:
        raise Refused(f"A disk of format {disk_format} cannot be opened; use one of {', '.join(sorted(QEMU_FORMAT))}.")
    return QEMU_FORMAT[disk_format]


def _filename(path: Path) -> str:
    # "file:" keeps a name that has a colon from being read as a protocol
    return f"file:{path.absolute()}"


def _run(arguments: Sequence[str], cpu_s: int, netns: str | None = None) -> str:
    limits = ["prlimit", f"--as={MEMORY_BYTES}", f"--cpu={cpu_s}:{cpu_s + 5}", "--core=0"]
    place = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns is not None else []
    argv = [*place, "setpriv", "--pdeathsig", "KILL", *limits, "qemu-img", *arguments]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            timeout=2 * cpu_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is not installed; install qemu-utils and util-linux.") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"qemu-img {arguments[0]} did not end within {2 * cpu_s} s.") from error
    if done.returncode == 0:
        return done.stdout
    raise _failure(arguments[0], done.returncode, done.stderr.strip())


def _failure(verb: str, returncode: int, complaint: str) -> Exception:
    last = complaint.splitlines()[-1] if complaint else f"exit code {returncode}"
    sentence = f"qemu-img {verb}: {DIRECTORIES.sub('', last.removeprefix('qemu-img: '))}"
    if returncode == 127 or "failed to execute" in complaint:
        return Unavailable("qemu-img is not installed; install qemu-utils.")
    if "lock" in complaint and "Failed to get" in complaint:
        return InUse(sentence)
    if -returncode in (signal.SIGXCPU, signal.SIGABRT, signal.SIGTRAP, signal.SIGSEGV):
        return Refused(f"qemu-img {verb} went over its limits of memory or time; the image cannot be sound.")
    if returncode < 0 or any(cause in complaint for cause in TRANSIENT):
        return Unavailable(sentence)
    return Refused(sentence)
