"""Ceph's block images (RBD), by its bindings in a process beside (`ceph_process`), and whole files by `rbd`.

An image is named by pool and name. Clones are of the second version: what they were made of may be deleted before
them, it then waits in Ceph's trash until its last clone is gone (`empty_trash`). Calls are idempotent and bounded. The
user's key lies in a file of its own, which nobody else may read; it stands on no command line.

A client that died holding an image's lock keeps the next one waiting for 30 s: `watchers` names it, `blocklist` ends
it, and whatever it still sends is refused by every OSD from then on. So that is a fence, too.

Raises `Unavailable` (no quorum, no answer in time, no room, still in use) or `Refused`.
"""

import errno
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilith.drivers.ceph_process import PROGRAM, SYSTEM_PYTHON, CephFault, CephProcess
from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]

CALL_S = 60.0
LIST_S = 300.0  # of what grows with the cluster
COPY_S = 4 * 3600.0
CONNECT_S = 10
OPERATION_S = 30  # that one message to an OSD may take: longer than any failover
FEATURES = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CLIENT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|[0-9a-fA-F:]+?))(?::[0-9]+/[0-9]+)?")
TRANSIENT = (
    errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOSPC, errno.EDQUOT, errno.ENOTCONN, errno.ESHUTDOWN,
    errno.EIO, errno.EROFS, errno.EINTR, errno.ENOENT, errno.ECONNREFUSED,
)  # fmt: skip
PART = ".part"


class InUse(Unavailable):
    """Some client, as a rule the QEMU of a running machine, has the image open."""


@dataclass(frozen=True)
class Access:
    """How a cluster is reached: its monitors' addresses, a user (without ``client.``), a file with that user's key."""

    monitors: tuple[str, ...]
    user: str
    key_file: Path


@dataclass(frozen=True)
class Image:
    """`snapshots`: names, in the order of making. `parent`: ``pool/name`` of what it is still a clone of."""

    size_bytes: int
    snapshots: tuple[str, ...] = ()
    parent: str | None = None


@dataclass(frozen=True)
class Health:
    """`status`: HEALTH_OK, HEALTH_WARN or HEALTH_ERR. `problems`: a sentence each. Bytes are of raw space."""

    status: str
    problems: tuple[str, ...] = ()
    osds: int = 0
    osds_up: int = 0
    total_bytes: int = 0
    free_bytes: int = 0


class Ceph:
    """One cluster, as one user. `netns`: the network namespace from which it is reached. Of any thread."""

    def __init__(self, access: Access, netns: str | None = None) -> None:
        self.access, self.netns = access, netns
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        argv = [*self._inside, SYSTEM_PYTHON, "-I", str(PROGRAM), *self._as_user]
        self._process = CephProcess(argv, self._environment)

    # ---- images

    def images(self, pool: str) -> dict[str, Image]:
        """Every image of the pool, by name; those that are being made are not among them."""
        found: dict[str, Doc] = self._ask("images", LIST_S, pool=_checked(pool))
        return {name: _image(document) for name, document in found.items() if not name.endswith(PART)}

    def image(self, pool: str, name: str) -> Image | None:
        """One image; None where there is none."""
        document = self._ask("image", pool=_checked(pool), name=_checked(name))
        return None if document is None else _image(document)

    def create(self, pool: str, name: str, size_bytes: int) -> None:
        """An empty image."""
        self._ask("create", may_fail=(errno.EEXIST,), pool=_checked(pool), name=_checked(name), size_bytes=size_bytes)

    def clone(self, source: tuple[str, str, str], pool: str, name: str) -> None:
        """A copy-on-write image of the snapshot `source` (pool, name, snapshot). `Unavailable` while there is none."""
        check_names(*source)
        self._ask("clone", may_fail=(errno.EEXIST,), source=source, pool=_checked(pool), name=_checked(name))

    def resize(self, pool: str, name: str, size_bytes: int) -> None:
        """Grow the image, whoever has it open. Shrinking is Refused: it would cut data off."""
        found = self.image(pool, name)
        if found is None:
            raise _absent(pool, name)
        if size_bytes < found.size_bytes:
            raise Refused(f"The image {name} has {found.size_bytes} bytes; it cannot shrink to {size_bytes}.")
        if size_bytes > found.size_bytes:
            self._ask("resize", pool=pool, name=name, size_bytes=size_bytes)

    def rename(self, pool: str, name: str, new_name: str) -> None:
        """Does nothing when that was done already."""
        check_names(pool, name, new_name)
        failed, _ = self._try("rename", (errno.ENOENT,), pool=pool, name=name, new_name=new_name)
        if failed and self.image(pool, new_name) is None:
            raise _absent(pool, name)

    def delete(self, pool: str, name: str) -> None:
        """Remove the image and its snapshots. `InUse` while somebody has it open. What still has clones waits for
        their end in the trash."""
        found = self.image(pool, name)
        if found is None:
            return
        if self.watchers(pool, name):
            raise InUse(f"The image {name} is still open; it is deleted when whoever has it lets go.")
        for snapshot in found.snapshots:
            self.drop_snapshot(pool, name, snapshot)
        failed, _ = self._try("remove", (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY), pool=pool, name=name)
        if failed in (errno.ENOTEMPTY, errno.EBUSY):
            if self.watchers(pool, name):
                raise InUse(f"The image {name} was opened meanwhile.")
            self._ask("to_trash", may_fail=(errno.ENOENT,), pool=pool, name=name, delay_s=0)

    def set_aside(self, pool: str, name: str, days: int = 7) -> None:
        """Put the image, with its snapshots, into the trash: ``rbd trash restore`` brings it back for so long."""
        if self.watchers(pool, name):
            raise InUse(f"The image {name} is still open; it is put away when whoever has it lets go.")
        self._ask("to_trash", may_fail=(errno.ENOENT,), pool=pool, name=name, delay_s=days * 24 * 3600)

    def empty_trash(self, pool: str) -> None:
        """Remove from the trash what has no clones any more and whose time is over."""
        self._ask("empty_trash", LIST_S, may_fail=(errno.EBUSY, errno.ENOTEMPTY), pool=_checked(pool))

    # ---- snapshots

    def snapshot(self, pool: str, name: str, snapshot: str) -> None:
        """Keep the image's content of this moment; whoever has it open first writes what it was holding back."""
        check_names(pool, name, snapshot)
        self._ask("snapshot", may_fail=(errno.EEXIST,), pool=pool, name=name, snapshot=snapshot)

    def drop_snapshot(self, pool: str, name: str, snapshot: str) -> None:
        """Clones of it live on."""
        check_names(pool, name, snapshot)
        self._ask("drop_snapshot", may_fail=(errno.ENOENT,), pool=pool, name=name, snapshot=snapshot)

    # ---- in and out

    def import_raw(self, file: Path, pool: str, name: str, snapshot: str | None = None) -> None:
        """Make the image of a raw file; holes stay holes. It has its name, and its `snapshot`, when it is whole."""
        if self.image(pool, name) is not None:
            return
        part = f"{name}{PART}"
        self.delete(pool, part)
        self._copy("import", f"--image-feature={FEATURES}", str(file), _spec(pool, part))
        if snapshot is not None:
            self.snapshot(pool, part, snapshot)
        self.rename(pool, part, name)

    def export_raw(self, pool: str, name: str, file: Path, snapshot: str | None = None) -> None:
        """Write the image, or its snapshot, into the new raw `file`."""
        file.unlink(missing_ok=True)
        self._copy("export", _spec(pool, name, snapshot), str(file))

    # ---- who has it

    def watchers(self, pool: str, name: str) -> list[str]:
        """Addresses (``10.0.0.5:0/123``) of the clients that have the image open for writing."""
        return self.watchers_of([(pool, name)])[0]

    def watchers_of(self, images: Sequence[tuple[str, str]]) -> list[list[str]]:
        """`watchers` of many (pool, name), in their order."""
        for pool, name in images:
            check_names(pool, name)
        found: list[list[str]] = self._ask("watchers", LIST_S, images=list(images))
        return found

    def blocklist(self, addresses: Sequence[str], for_s: int = 3600) -> None:
        """Refuse whatever these clients (``10.0.0.5:0/123``), or every client at an address (``10.0.0.5``), send."""
        asked = [_blocklist("add", addr=check_client(address), expire=float(for_s)) for address in addresses]
        self._ask("commands", commands=asked)

    def unblock(self, address: str) -> None:
        """End a blocklisting; nothing happens when there is none."""
        asked = _blocklist("rm", addr=check_client(address))
        self._ask("commands", may_fail=(errno.ENOENT,), commands=[asked])

    def blocklisted(self) -> set[str]:
        """As they were given to `blocklist`."""
        said = self._command({"prefix": "osd blocklist ls", "format": "json"}).lstrip() or "[]"
        entries, _ = json.JSONDecoder().raw_decode(said)  # a sentence may follow
        return {entry["addr"].removesuffix(":0/0") for entry in entries}

    # ---- the cluster

    def health(self) -> Health:
        document = json.loads(self._command({"prefix": "status", "format": "json"}))
        checks = document["health"].get("checks", {})
        osds, space = document.get("osdmap", {}), document.get("pgmap", {})
        osds = osds.get("osdmap", osds)
        return Health(
            status=document["health"]["status"],
            problems=tuple(check["summary"]["message"] for check in checks.values() if not check.get("muted")),
            osds=osds.get("num_osds", 0),
            osds_up=osds.get("num_up_osds", 0),
            total_bytes=space.get("bytes_total", 0),
            free_bytes=space.get("bytes_avail", 0),
        )

    # ---- how it is asked

    def _command(self, command: Doc) -> str:
        (answer,) = self._ask("commands", commands=[command])
        return str(answer)

    def _ask(self, do: str, limit_s: float = CALL_S, may_fail: Sequence[int] = (), **args: Any) -> Any:
        """The act's answer; None when it failed as it may."""
        return self._try(do, may_fail, limit_s, **args)[1]

    def _try(self, do: str, may_fail: Sequence[int], limit_s: float = CALL_S, **args: Any) -> tuple[int, Any]:
        """0 and the act's answer, or one of `may_fail`."""
        try:
            return 0, self._process.call(do, limit_s, **args)
        except CephFault as fault:
            if fault.errno in may_fail:
                return fault.errno, None
            raise _failure(fault.errno, f"rbd {do}: {fault}") from fault

    def _copy(self, *words: str) -> None:
        """By Ceph's own program, which ends when its time or ours is over, and knows how to skip holes."""
        bounds = [f"--client-mount-timeout={CONNECT_S}", f"--rados-mon-op-timeout={CONNECT_S}"]
        argv = [*self._inside, "setpriv", "--pdeathsig", "KILL", "rbd", *words, "--no-progress", *bounds]
        argv += [f"--rados-osd-op-timeout={OPERATION_S}", "--conf=/dev/null", *self._as_user, "--log-to-stderr=false"]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", env=self._environment, timeout=COPY_S,
                check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Unavailable(f"{error.filename} is not installed; install ceph-common and util-linux.") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"rbd {words[0]} did not end within {COPY_S:.0f} s.") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = lines[-1][-300:] if lines else "killed" if done.returncode < 0 else os.strerror(done.returncode)
            raise _failure(done.returncode, f"rbd {words[0]}: {why}")

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--"] if self.netns is not None else []

    @property
    def _as_user(self) -> list[str]:
        access = self.access
        return [f"--mon-host={','.join(access.monitors)}", f"--id={access.user}", f"--keyfile={access.key_file}"]


def _image(document: Doc) -> Image:
    return Image(document["size_bytes"], tuple(document["snapshots"]), document["parent"])


def _blocklist(op: str, **args: Any) -> Doc:
    return {"prefix": "osd blocklist", "blocklistop": op, **args}


def _failure(code: int, sentence: str) -> Exception:
    if code == 127 or "setpriv: failed to execute" in sentence:
        return Unavailable(f"{sentence}. Is ceph-common installed?")
    if code <= 0 or code in TRANSIENT or "timed out" in sentence or "error connecting" in sentence:
        return Unavailable(sentence)
    return Refused(sentence)


def _absent(pool: str, name: str) -> Unavailable:
    return Unavailable(f"The image {name} is not in the pool {pool}.")


def check_names(*names: str) -> None:
    for name in names:
        _checked(name)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise Refused(f"`{name}` is no name for a pool, an image or a snapshot.")
    return name


def _spec(pool: str, name: str, snapshot: str | None = None) -> str:
    whole = f"{_checked(pool)}/{_checked(name)}"
    return whole if snapshot is None else f"{whole}@{_checked(snapshot)}"


def check_client(address: str) -> str:
    """The address, Refused where it is none: what is blocklisted by mistake stops working."""
    found = CLIENT.fullmatch(address)
    try:
        ipaddress.ip_address((found[1] or found[2]) if found else "")
    except ValueError:
        raise Refused(f"`{address}` is no client's address.") from None
    return address
