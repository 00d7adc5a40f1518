"""Configuration files as data: what shall lie where, whose it is, and whether it does."""

import contextlib
import grp
import hashlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ConfigFile:
    """One file of an engine's configuration. `content` None: no such file shall be."""

    path: str
    content: str | None
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"

    @property
    def digest(self) -> str | None:
        """Changes with content, mode and owner; never tells the content. None for a file that shall not be."""
        return None if self.content is None else _digest(self.content.encode(), self.mode, self.owner, self.group)


def seen_digest(path: str, root: Path = Path("/")) -> str | None:
    """The digest of what lies at `path` (below `root`); None when nothing does."""
    where = below(root, path)
    try:
        content, found = where.read_bytes(), where.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _digest(content, found.st_mode & 0o7777, _user(found.st_uid), _group(found.st_gid))


def put(file: ConfigFile, root: Path = Path("/")) -> None:
    """Write or remove the file; whole or not at all, also across a power cut. Raises KeyError for an unknown owner."""
    where = below(root, file.path)
    if file.content is None:
        with contextlib.suppress(FileNotFoundError):
            where.unlink()
        return
    where.parent.mkdir(parents=True, exist_ok=True)
    temporary = where.with_name(f".{where.name}.trilith-new")  # no directory of configuration files reads such names
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(file.content.encode())
        out.flush()
        os.fchown(out.fileno(), pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid)
        os.fchmod(out.fileno(), file.mode)
        os.fsync(out.fileno())
    temporary.rename(where)
    directory = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def below(root: Path, path: str) -> Path:
    """Where an absolute path lies on a host whose root is `root`."""
    return root / path.lstrip("/")


def _digest(content: bytes, mode: int, owner: str, group: str) -> str:
    return hashlib.sha256(f"{mode:o} {owner}:{group}\n".encode() + content).hexdigest()[:20]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
