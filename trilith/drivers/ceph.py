"""Ceph's block images (RBD), by the `rbd` and `ceph` command lines: no binding of theirs fits every Python.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]

CALL_S = 60.0
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
CLIENTS = Path(__file__).with_name("ceph_clients.py")
SYSTEM_PYTHON = "/usr/bin/python3"


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


@dataclass(frozen=True)
class _Done:
    code: int
    out: str
    said: str


@dataclass(frozen=True)
class Ceph:
    """One cluster, as one user. `netns`: the network namespace from which it is reached."""

    access: Access
    netns: str | None = None
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": os.environ.get("PATH", os.defpath)})

    # ---- images

    def images(self, pool: str) -> dict[str, Image]:
        """Every image of the pool, by name; those that are being made are not among them."""
        entries = json.loads(self._rbd("ls", "--long", "--format=json", _checked(pool)).out or "[]")
        found: dict[str, Image] = {}
        for entry in entries:
            name = entry["image"]
            if "snapshot" in entry:
                old = found[name]
                found[name] = Image(old.size_bytes, (*old.snapshots, entry["snapshot"]), old.parent)
            else:
                found[name] = Image(entry["size"], (), _parent(entry))
        return {name: image for name, image in found.items() if not name.endswith(PART)}

    def image(self, pool: str, name: str) -> Image | None:
        """One image; None where there is none."""
        done = self._rbd("info", "--format=json", _spec(pool, name), may_fail=(errno.ENOENT,))
        if done.code:
            return None
        document = json.loads(done.out)
        done = self._rbd("snap", "ls", "--format=json", _spec(pool, name), may_fail=(errno.ENOENT,))
        if done.code:
            return None
        snapshots = tuple(each["name"] for each in json.loads(done.out))
        return Image(document["size"], snapshots, _parent(document))

    def create(self, pool: str, name: str, size_bytes: int) -> None:
        """An empty image."""
        words = ["create", f"--size={size_bytes}B", f"--image-feature={FEATURES}", _spec(pool, name)]
        self._rbd(*words, may_fail=(errno.EEXIST,))

    def clone(self, source: tuple[str, str, str], pool: str, name: str) -> None:
        """A copy-on-write image of the snapshot `source` (pool, name, snapshot). `Unavailable` while there is none."""
        words = ["clone", "--rbd-default-clone-format=2", f"--image-feature={FEATURES}"]
        self._rbd(*words, _spec(*source), _spec(pool, name), may_fail=(errno.EEXIST,))

    def flatten(self, pool: str, name: str) -> None:
        """Copy what the image still shares with its parent, so that it is none's clone any more."""
        found = self.image(pool, name)
        if found is None:
            raise _absent(pool, name)
        if found.parent is not None:
            self._rbd("flatten", "--no-progress", _spec(pool, name), limit_s=COPY_S)

    def resize(self, pool: str, name: str, size_bytes: int) -> None:
        """Grow the image, whoever has it open. Shrinking is Refused: it would cut data off."""
        found = self.image(pool, name)
        if found is None:
            raise _absent(pool, name)
        if size_bytes < found.size_bytes:
            raise Refused(f"The image {name} has {found.size_bytes} bytes; it cannot shrink to {size_bytes}.")
        if size_bytes > found.size_bytes:
            self._rbd("resize", "--no-progress", f"--size={size_bytes}B", _spec(pool, name))

    def rename(self, pool: str, name: str, new_name: str) -> None:
        """Does nothing when that was done already."""
        done = self._rbd("rename", _spec(pool, name), _spec(pool, new_name), may_fail=(errno.ENOENT,))
        if done.code and self.image(pool, new_name) is None:
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
        done = self._rbd(
            "rm", "--no-progress", _spec(pool, name), may_fail=(errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY)
        )
        if done.code in (errno.ENOTEMPTY, errno.EBUSY):
            if self.watchers(pool, name):
                raise InUse(f"The image {name} was opened meanwhile.")
            self._rbd("trash", "mv", _spec(pool, name), may_fail=(errno.ENOENT,))

    def set_aside(self, pool: str, name: str, days: int = 7) -> None:
        """Put the image, with its snapshots, into the trash: ``rbd trash restore`` brings it back for so long."""
        if self.watchers(pool, name):
            raise InUse(f"The image {name} is still open; it is put away when whoever has it lets go.")
        self._rbd("trash", "mv", f"--expires-at={days} days", _spec(pool, name), may_fail=(errno.ENOENT,))

    def empty_trash(self, pool: str) -> None:
        """Remove from the trash what has no clones any more and whose time is over."""
        self._rbd("trash", "purge", "--no-progress", _checked(pool), may_fail=(errno.EBUSY, errno.ENOTEMPTY))

    # ---- snapshots

    def snapshot(self, pool: str, name: str, snapshot: str) -> None:
        """Keep the image's content of this moment; whoever has it open first writes what it was holding back."""
        self._rbd("snap", "create", "--no-progress", _spec(pool, name, snapshot), may_fail=(errno.EEXIST,))

    def drop_snapshot(self, pool: str, name: str, snapshot: str) -> None:
        """Clones of it live on."""
        self._rbd("snap", "rm", "--no-progress", _spec(pool, name, snapshot), may_fail=(errno.ENOENT,))

    # ---- in and out

    def import_raw(self, file: Path, pool: str, name: str, snapshot: str | None = None) -> None:
        """Make the image of a raw file; holes stay holes. It has its name, and its `snapshot`, when it is whole."""
        if self.image(pool, name) is not None:
            return
        part = f"{name}{PART}"
        self.delete(pool, part)
        features = f"--image-feature={FEATURES}"
        self._rbd("import", "--no-progress", features, str(file), _spec(pool, part), limit_s=COPY_S)
        if snapshot is not None:
            self.snapshot(pool, part, snapshot)
        self.rename(pool, part, name)

    def export_raw(self, pool: str, name: str, file: Path, snapshot: str | None = None) -> None:
        """Write the image, or its snapshot, into the new raw `file`."""
        file.unlink(missing_ok=True)
        self._rbd("export", "--no-progress", _spec(pool, name, snapshot), str(file), limit_s=COPY_S)

    # ---- who has it

    def watchers(self, pool: str, name: str) -> list[str]:
        """Addresses (``10.0.0.5:0/123``) of the clients that have the image open for writing."""
        done = self._rbd("status", "--format=json", _spec(pool, name), may_fail=(errno.ENOENT,))
        return [] if done.code else [watcher["address"] for watcher in json.loads(done.out).get("watchers", [])]

    def watchers_of(self, images: Sequence[tuple[str, str]]) -> list[list[str]]:
        """`watchers` of many (pool, name), in their order."""
        for pool, name in images:
            check_names(pool, name)
        found: list[list[str]] = self._clients(images=list(images))["watchers"]
        return found

    def blocklist_all(self, addresses: Sequence[str], for_s: int = 3600) -> None:
        """`blocklist` of many."""
        self._clients(block=[check_client(address) for address in addresses], for_s=for_s)

    def blocklist(self, address: str, for_s: int = 3600) -> None:
        """Refuse whatever this client (``10.0.0.5:0/123``), or every client at an address (``10.0.0.5``), sends."""
        self._ceph("osd", "blocklist", "add", check_client(address), str(for_s))

    def unblock(self, address: str) -> None:
        """End a blocklisting; nothing happens when there is none."""
        self._ceph("osd", "blocklist", "rm", check_client(address), may_fail=(errno.ENOENT,))

    def blocklisted(self) -> set[str]:
        """As they were given to `blocklist`."""
        said = self._ceph("osd", "blocklist", "ls", "--format=json").out.lstrip() or "[]"
        entries, _ = json.JSONDecoder().raw_decode(said)  # a sentence may follow
        return {entry["addr"].removesuffix(":0/0") for entry in entries}

    # ---- the cluster

    def health(self) -> Health:
        document = json.loads(self._ceph("status", "--format=json").out)
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

    def _rbd(self, *words: str, may_fail: Sequence[int] = (), limit_s: float = CALL_S) -> _Done:
        bounds = [f"--client-mount-timeout={CONNECT_S}", f"--rados-mon-op-timeout={CONNECT_S}"]
        return self._run(["rbd", *words, *bounds, f"--rados-osd-op-timeout={OPERATION_S}"], may_fail, limit_s)

    def _ceph(self, *words: str, may_fail: Sequence[int] = ()) -> _Done:
        return self._run(["ceph", *words, f"--connect-timeout={CONNECT_S}"], may_fail, CALL_S)

    def _clients(self, **request: Any) -> Doc:
        """See `ceph_clients`."""
        text = json.dumps({"images": [], "block": [], "for_s": 0, **request})
        done = self._run([SYSTEM_PYTHON, "-I", str(CLIENTS)], (), CALL_S, text)
        answer: Doc = json.loads(done.out)
        return answer

    def _run(self, words: list[str], may_fail: Sequence[int], limit_s: float, text: str = "") -> _Done:
        access = self.access
        into = ["nsenter", f"--net=/run/netns/{self.netns}", "--"] if self.netns is not None else []
        place = ["--conf=/dev/null", f"--mon-host={','.join(access.monitors)}"]
        argv = [*into, "setpriv", "--pdeathsig", "KILL", *words, *place, f"--id={access.user}"]
        argv += [f"--keyfile={access.key_file}", "--log-to-stderr=false", "--debug-ms=0"]
        try:
            done = subprocess.run(
                argv, input=text, capture_output=True, text=True, errors="replace",
                env={**self.environment, "LC_ALL": "C"}, timeout=limit_s, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Unavailable(f"{error.filename} is not installed; install ceph-common and util-linux.") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{words[0]} {words[1]} did not end within {limit_s:.0f} s.") from error
        found = _Done(done.returncode, done.stdout, done.stderr.strip())
        if found.code and found.code not in may_fail:
            raise _failure(found, f"{words[0]} {words[1]}")
        return found


def _failure(done: _Done, what: str) -> Exception:
    lines = [line for line in done.said.splitlines() if line.strip()]
    sentence = f"{what}: {lines[-1][-300:] if lines else os.strerror(done.code) if done.code > 0 else 'killed'}"
    if done.code == 127 or "setpriv: failed to execute" in done.said:
        return Unavailable(f"{what}: the program is not installed; install ceph-common.")
    if done.code < 0 or done.code in TRANSIENT or "timed out" in done.said or "error connecting" in done.said:
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


def _parent(document: Doc) -> str | None:
    parent = document.get("parent")
    return f"{parent['pool']}/{parent['image']}" if parent else None


def check_client(address: str) -> str:
    """The address, Refused where it is none: what is blocklisted by mistake stops working."""
    found = CLIENT.fullmatch(address)
    try:
        ipaddress.ip_address((found[1] or found[2]) if found else "")
    except ValueError:
        raise Refused(f"`{address}` is no client's address.") from None
    return address
