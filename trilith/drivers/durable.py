"""Files that are whole or not there, whatever is killed and when: written under another name, synced, renamed."""

import os
from pathlib import Path


def publish(part: Path, final: Path, owner: tuple[int, int] | None = None, mode: int = 0o600) -> None:
    """Give the finished file `part` its `final` name (same file system), replacing what was there. Durable on return.

    `owner` is the (uid, gid) that it shall belong to; None leaves it ours.
    """
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fchmod(fd, mode)
        if owner is not None:
            os.fchown(fd, *owner)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(part, final)
    sync_directory(final.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: Path, mode: int = 0o711) -> Path:
    """`directory`, made durably with its parents if it is not there; by default others may pass it, not list it."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode=mode, exist_ok=True)
        sync_directory(directory.parent)
    return directory


def check_name(name: str) -> str:
    """`name` as given, if it can be a file's name in our directory; else ValueError: it would lead out of it."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 128:
        raise ValueError(f"{name!r} cannot be a file's name.")
    return name
