"""The controllers' work in Ceph: images brought there, volumes, and what is left of servers that are gone.

One controller at a time does it, by lease. What lies in a pool is asked for as a whole, now and then, and image by
image after each act, because each question starts a process. Ceph does not know leases: an act of one who slept through
the loss of its own is harmless, since every act is for one id, the rows are asked again before anything is removed that
nobody seems to want, and what came too late is found by the next look.
"""

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trilith.cluster.ceph_access import access
from trilith.cluster.shared_images import SharedImages, image_files
from trilith.cluster.state import Settings, State
from trilith.drivers import qemu_img
from trilith.drivers.ceph import Ceph, Image
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.image_files import CHUNK_BYTES, ImageFiles
from trilith.image import image_data
from trilith.image.images import IMAGE
from trilith.kernel.errors import Fault, Unavailable
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Act, Doc, Reconciler, Runner
from trilith.kernel.store import Store, Tx
from trilith.placement.hosts import numbered
from trilith.volume import shared_storage, volume_plan
from trilith.volume.shared_storage import STORAGE, WHOLE
from trilith.volume.volumes import VOLUME

log = logging.getLogger(__name__)

GIB = 1 << 30
LOOK_S = 2.0
COMPARE_S = 60.0
HEALTH_S = 10.0
TRASH_S = 120.0
DISKS_S = 30.0  # between looks for disks that nobody wants any more
WORKERS = 4
MARK, MARK_BYTES = "trilith-cloud-", 1 << 22  # an image that says whose the pool is
COPY = "copy-"  # snapshots that are there only while a volume is cloned from another
OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
AnyCeph = Ceph | FakeCeph


class NotOurs(Unavailable):
    """The pool has images that this cloud knows nothing of. It would take them for left over."""


class Pool:
    """What lies in one pool, as it was seen last. Only what has an id of ours for a name is anything of ours."""

    def __init__(self, ceph: AnyCeph, name: str) -> None:
        self.ceph, self.name = ceph, name
        self._images: dict[str, Image] = {}
        self._looked_at_s = -COMPARE_S
        self._lock = threading.Lock()

    def claim(self, cloud_id: str) -> None:
        """From now on the pool is this cloud's, if it is empty or was so before; else `NotOurs`."""
        found = self.ceph.images(self.name)
        if f"{MARK}{cloud_id}" in found:
            return
        if found:
            raise NotOurs(
                f"The pool {self.name} is not this cloud's: it has {min(found)}. "
                "Name an empty pool under `ceph` in the cluster file, then deploy it."
            )
        self.ceph.create(self.name, f"{MARK}{cloud_id}", MARK_BYTES)

    def images(self) -> dict[str, Image]:
        with self._lock:
            if time.monotonic() - self._looked_at_s > COMPARE_S:
                found = self.ceph.images(self.name)
                self._images = {name: image for name, image in found.items() if OURS.match(name)}
                self._looked_at_s = time.monotonic()
            return dict(self._images)

    def look_again(self, name: str | None = None) -> None:
        """At one image now; at all of them when they are asked for."""
        if name is None:
            self._looked_at_s = -COMPARE_S
            return
        image = self.ceph.image(self.name, name)
        with self._lock:
            if image is None:
                self._images.pop(name, None)
            else:
                self._images[name] = image


class CephImages:
    """The reconciler of kind "ceph_image": each active image is there as a raw one with the snapshot `WHOLE`."""

    kind = "ceph_image"

    def __init__(self, pool: Pool, store: Store, files: ImageFiles | SharedImages, directory: Path) -> None:
        self._pool, self._store, self._directory = pool, store, directory
        self._own = files.own if isinstance(files, SharedImages) else files

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if not want["present"]:
            return [] if seen is None else [Act("delete")]
        there = seen is not None and seen["whole"]
        names = ("sha512", "disk_format")
        return [] if there else [Act("bring", {name: want[name] for name in names})]

    def observe(self, key: str) -> Doc | None:
        image = self._pool.images().get(key)
        return None if image is None else {"whole": WHOLE in image.snapshots, "size_bytes": image.size_bytes}

    def known(self) -> set[str]:
        return set(self._pool.images())

    def perform(self, key: str, act: Act) -> None:
        if act.do == "bring":
            self._bring(key, **act.args)
        elif not self._store.read(lambda tx: tx.count(IMAGE, IMAGE.c.id == key, IMAGE.c.phase == "active")):
            self._pool.ceph.delete(self._pool.name, key)
        self._pool.look_again(key)

    def _bring(self, key: str, sha512: str, disk_format: str) -> None:
        if self._own.size_bytes(key, sha512) is None:
            raise Unavailable(f"Image {key} is not on this controller yet.")
        with self._own.open(key, sha512) as file:
            path = Path(file.name)
            if qemu_img.qemu_format(disk_format) == "raw":
                self._pool.ceph.import_raw(path, self._pool.name, key, WHOLE)
                return
            raw = self._directory / f"{key}.raw"
            qemu_img.require_standalone(path, disk_format)
            try:
                qemu_img.convert(path, disk_format, raw, "raw")
                self._pool.ceph.import_raw(raw, self._pool.name, key, WHOLE)
            finally:
                raw.unlink(missing_ok=True)


class CephVolumes:
    """The reconciler of kind "ceph_volume", by the plan of all volumes."""

    kind = "ceph_volume"

    def __init__(
        self, pool: Pool, images_pool: str, store: Store, files: ImageFiles | SharedImages, directory: Path
    ) -> None:
        self._pool, self._images_pool, self._directory = pool, images_pool, directory
        self._store, self._files = store, files
        self._uploaded: dict[str, set[str]] = {}
        self._acts: dict[str, Callable[..., None]] = {
            "create_blank": self._create_blank,
            "create_from_image": self._create_from_image,
            "create_from_volume": self._create_from_volume,
            "create_from_snapshot": self._create_from_snapshot,
            "extend": self._extend,
            "snapshot": self._snapshot,
            "delete_snapshot": self._delete_snapshot,
            "upload": self._upload,
            "forget_upload": self._forget_upload,
            "clean": self._clean,
            "delete": self._delete,
            "set_aside": self._set_aside,
        }

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return volume_plan.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        image = self._pool.images().get(key)
        if image is None:
            return None
        return {
            "size_gib": image.size_bytes // GIB,
            "path": f"{self._pool.name}/{key}",
            "format": "raw",
            "snapshots": [name for name in image.snapshots if not name.startswith(COPY)],
            "uploads_done": sorted(self._uploaded.get(key, ())),
            "unfinished": [name for name in image.snapshots if name.startswith(COPY)],
            "export": None,
            "error": None,
        }

    def known(self) -> set[str]:
        return set(self._pool.images())

    def perform(self, key: str, act: Act) -> None:
        try:
            self._acts[act.do](key, **act.args)
        finally:
            self._pool.look_again(key)

    def _create_blank(self, key: str, size_gib: int) -> None:
        self._pool.ceph.create(self._pool.name, key, size_gib * GIB)

    def _create_from_image(self, key: str, size_gib: int, image_id: str, image_format: str) -> None:
        self._clone((self._images_pool, image_id, WHOLE), key, size_gib)

    def _create_from_snapshot(self, key: str, size_gib: int, source_id: str, snapshot_id: str) -> None:
        self._clone((self._pool.name, source_id, snapshot_id), key, size_gib)

    def _create_from_volume(self, key: str, size_gib: int, source_id: str) -> None:
        copy = f"{COPY}{key}"
        self._pool.ceph.snapshot(self._pool.name, source_id, copy)
        self._clone((self._pool.name, source_id, copy), key, size_gib)
        self._pool.ceph.drop_snapshot(self._pool.name, source_id, copy)

    def _clone(self, source: tuple[str, str, str], key: str, size_gib: int) -> None:
        self._pool.ceph.clone(source, self._pool.name, key)
        self._pool.ceph.resize(self._pool.name, key, size_gib * GIB)

    def _extend(self, key: str, size_gib: int) -> None:
        self._pool.ceph.resize(self._pool.name, key, size_gib * GIB)

    def _snapshot(self, key: str, snapshot_id: str) -> None:
        self._pool.ceph.snapshot(self._pool.name, key, snapshot_id)

    def _delete_snapshot(self, key: str, snapshot_id: str) -> None:
        self._pool.ceph.drop_snapshot(self._pool.name, key, snapshot_id)

    def _clean(self, key: str) -> None:
        """A copy that is being made at this moment is begun again."""
        image = self._pool.ceph.image(self._pool.name, key)
        for name in image.snapshots if image else ():
            if name.startswith(COPY):
                self._pool.ceph.drop_snapshot(self._pool.name, key, name)

    def _delete(self, key: str) -> None:
        self._pool.ceph.delete(self._pool.name, key)

    def _set_aside(self, key: str) -> None:
        """Not what was made a moment ago, after the wants were read."""
        if not self._store.read(lambda tx: tx.count(VOLUME, id=key)):
            self._pool.ceph.set_aside(self._pool.name, key)

    def _forget_upload(self, key: str, image_id: str) -> None:
        self._uploaded.get(key, set()).discard(image_id)

    def _upload(self, key: str, image_id: str, disk_format: str) -> None:
        """The volume as it is now, into the image's row. Doing it twice does no harm."""
        token = f"ceph:{uuid.uuid4()}"
        try:
            row = self._store.run(lambda tx: _begin_upload(tx, image_id, token))
            if row is not None:
                self._send(key, row, disk_format, token)
        except Fault as fault:  # it was deleted meanwhile
            log.warning("upload of volume %s: %s", key, fault.message)
        self._uploaded.setdefault(key, set()).add(image_id)

    def _send(self, key: str, row: Doc, disk_format: str, token: str) -> None:
        raw, made = (self._directory / f"{row['id']}.{part}" for part in ("exported", "converted"))
        done = False
        try:
            copy = f"{COPY}{row['id']}"
            self._pool.ceph.snapshot(self._pool.name, key, copy)
            self._pool.ceph.export_raw(self._pool.name, key, raw, copy)
            self._pool.ceph.drop_snapshot(self._pool.name, key, copy)
            if disk_format != "raw":
                qemu_img.convert(raw, "raw", made, disk_format)
            with open(raw if disk_format == "raw" else made, "rb") as file:
                chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
                renewed = image_data.renewing(self._store, chunks, row["id"], token)
                stored = self._files.receive(row["id"], renewed, row["disk_format"], image_data.MAX_IMAGE_BYTES)
            self._files.publish(stored)
            self._store.run(lambda tx: image_data.activate(tx, row["id"], token, stored))
            done = True
        finally:
            for path in (raw, made):
                path.unlink(missing_ok=True)
            if not done:
                self._store.run(lambda tx: image_data.give_back(tx, row["id"], token))


def _begin_upload(tx: Tx, image_id: str, token: str) -> Doc | None:
    """Takes the image; None when it has its data already, or is gone."""
    row = tx.one(IMAGE, id=image_id)
    if row is None or row["phase"] == "active":
        return None
    if row["phase"] == "saving":  # an earlier try that broke off
        row = tx.update(IMAGE, row, phase="queued")
    return image_data.take(tx, row, "saving", token)


class CephDisks:
    """The reconciler of kind "ceph_disk": hosts make their machines' own disks, and this removes those of servers that
    are gone, or were rebuilt. A host never does: the machine may run on another by then."""

    kind = "ceph_disk"

    def __init__(self, pool: Pool, store: Store) -> None:
        self._pool, self._store = pool, store

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return [] if want["present"] or seen is None else [Act("remove")]

    def observe(self, key: str) -> Doc | None:
        return {} if key in self._pool.images() else None

    def known(self) -> set[str]:
        return set(self._pool.images())

    def perform(self, key: str, act: Act) -> None:
        """Rows come before disks: one that no row wants now is wanted by nobody."""
        server_id, pool = key.partition("_")[0], self._pool
        wanted = self._store.read(shared_storage.disk_wants).get(pool.name, set())
        if key not in wanted:
            known = self._store.read(lambda tx: shared_storage.was_deleted(tx, server_id))
            (pool.ceph.delete if known else pool.ceph.set_aside)(pool.name, key)
        pool.look_again(key)


class CephController:
    """`run()` is a thread's work until `stop()`; `wake()` makes it look now."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        store: Store,
        ceph: AnyCeph | None = None,
        files: ImageFiles | SharedImages | None = None,
    ) -> None:
        file, found = settings.cluster.ceph, access(state, settings, control=True)
        assert file is not None
        assert found is not None
        self._store, self._ceph, self._copies = store, ceph or Ceph(found), file.size
        self._lease = Holder(store, "ceph", f"controller:{settings.host}")
        self._guard = threading.Lock()
        self._epoch = self._claimed = 0
        self._cloud_id = settings.cloud_id
        self._given: set[str] = set()  # kinds whose last wants were given under the lease
        self._disks: tuple[float, dict[str, Doc]] = (-DISKS_S, {})
        self._health_at_s, self._trash_at_s = -HEALTH_S, -TRASH_S
        files, directory = files or image_files(state, settings), state.root / "ceph"
        directory.mkdir(mode=0o700, exist_ok=True)
        for left in directory.iterdir():
            left.unlink()
        self._pools = {pool: Pool(self._ceph, pool) for pool in file.pools}
        images, self._volumes, self._machines = (self._pools[pool] for pool in file.pools)
        self.reconcilers: list[Reconciler] = [
            CephImages(images, store, files, directory),
            CephVolumes(self._volumes, images.name, store, files, directory),
            CephDisks(self._machines, store),
        ]
        self._runner = Runner(self, [Leased(each, self) for each in self.reconcilers], LOOK_S, WORKERS)

    def wake(self) -> None:
        self._runner.wake()

    def stop(self) -> None:
        self._runner.stop()

    def run(self) -> None:
        self._runner.run()

    def _held(self) -> bool:
        with self._guard:
            lease = self._lease.held()
            if lease is not None and lease.epoch != self._epoch:
                self._epoch = lease.epoch
                for pool in self._pools.values():
                    pool.look_again()  # others have worked on them meanwhile
            return lease is not None

    def require(self) -> None:
        if not self._held():
            raise Unavailable("another controller has taken over")

    def works_on(self, kind: str) -> bool:
        """Whether the wants that were given last are all there are: else nothing may be taken for unwanted."""
        return kind in self._given

    # where the runner gets its wants from, and tells what was seen
    def wants(self, kind: str) -> dict[str, Doc]:
        self._given.discard(kind)
        if not self._held():
            return {}
        self._claim_pools()
        match kind:
            case "ceph_image":
                self._tell_health()
                found = _by_id(self._store.read(shared_storage.image_wants))
            case "ceph_volume":
                found = _by_id(self._store.read(lambda tx: shared_storage.volume_wants(tx, self._volumes.name)))
            case _:
                found = self._disk_wants()
        self._given.add(kind)
        return found

    def _claim_pools(self) -> None:
        """Before anything is done in one of them. Raises `NotOurs`; the storage's row tells it."""
        epoch = self._epoch
        if self._claimed == epoch:
            return
        try:
            for pool in self._pools.values():
                pool.claim(self._cloud_id)
        except NotOurs as error:
            self._tell(health="HEALTH_ERR", problems=[str(error)])
            raise
        self._claimed = epoch

    def _disk_wants(self) -> dict[str, Doc]:
        """Now and then: they are removed when nobody wants them, which is no hurry."""
        if time.monotonic() - self._disks[0] > DISKS_S:
            names = self._store.read(shared_storage.disk_wants).get(self._machines.name, set())
            self._machines.look_again()
            self._disks = time.monotonic(), {name: {"id": name, "generation": 1, "present": True} for name in names}
        return dict(self._disks[1])

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        if kind == "ceph_volume":
            self._lease.run(lambda tx: shared_storage.volume_report(tx, key, seen, fault))

    def _tell_health(self) -> None:
        """And what has waited for its last clone goes."""
        if time.monotonic() - self._health_at_s < HEALTH_S:
            return
        self._health_at_s = time.monotonic()
        health = self._ceph.health()
        seen: dict[str, Any] = {"health": health.status, "problems": list(health.problems), "seen_at_s": time.time()}
        seen["total_gib"] = health.total_bytes // GIB // self._copies
        seen["free_gib"] = health.free_bytes // GIB // self._copies
        self._tell(**seen)
        if time.monotonic() - self._trash_at_s > TRASH_S:
            self._trash_at_s = time.monotonic()
            for pool in self._pools:
                self._ceph.empty_trash(pool)

    def _tell(self, **seen: Any) -> None:
        def tell(tx: Tx) -> None:
            row = tx.one(STORAGE)
            if row is not None:
                tx.update(STORAGE, row, touch=False, **seen)

        self._lease.run(tell)


class Leased:
    """A reconciler that acts only while the lease is held."""

    def __init__(self, inner: Reconciler, controller: CephController) -> None:
        self._inner, self._controller, self.kind = inner, controller, inner.kind

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return self._inner.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        return self._inner.observe(key)

    def known(self) -> set[str]:
        return self._inner.known() if self._controller.works_on(self.kind) else set()

    def perform(self, key: str, act: Act) -> None:
        self._controller.require()
        self._inner.perform(key, act)


def _by_id(documents: list[Doc]) -> dict[str, Doc]:
    """With generations that change with the want only: a report must not look like a new one."""
    return {doc["id"]: numbered({"present": True, "generation": 0, **doc}) for doc in documents}
