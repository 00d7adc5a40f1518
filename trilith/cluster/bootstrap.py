"""What a new cloud has: people, catalogue, flavors, a volume type, its hosts, the public network, the guest image.

Run at every start, by one process, before the API serves; adds what is missing and changes nothing else.
"""

import itertools
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trilith.cluster.api import open_store
from trilith.cluster.schema import migrate
from trilith.cluster.state import Settings, State
from trilith.compute.flavors import FLAVOR
from trilith.drivers.image_files import CHUNK_BYTES, ImageFiles
from trilith.drivers.volume_files_fake import empty_disk
from trilith.identity import credentials, fernet
from trilith.identity.seed import fixed_id, make_once, seed, was_made
from trilith.image.image_data import MAX_IMAGE_BYTES, activate
from trilith.image.image_import import worker
from trilith.image.images import IMAGE, busy_until
from trilith.kernel.kinds import now
from trilith.kernel.store import Store, Tx
from trilith.network.seed import seed_network
from trilith.placement.hosts import register
from trilith.volume import shared_storage, types

log = logging.getLogger(__name__)
Row = dict[str, Any]
FLAVORS = (  # name, vcpus, RAM in MiB, disk in GiB
    ("m1.nano", 1, 128, 1),
    ("m1.micro", 1, 192, 1),
    ("m1.tiny", 1, 512, 1),
    ("m1.small", 1, 2048, 20),
    ("m1.medium", 2, 4096, 40),
    ("m1.large", 4, 8192, 80),
)
GUEST = "trilith-guest"


def named_id(name: str) -> str:
    """The same id on every controller."""
    return str(uuid.UUID(fixed_id(name)))


def bootstrap(state: State, settings: Settings) -> None:
    store = open_store(state, settings)
    migrate.prepare(store, "api", settings.host)
    store.run(lambda tx: _processes(tx, state, settings))
    shutil.rmtree(state.secrets / "fernet", ignore_errors=True)  # now in SQL
    store.run(lambda tx: _rows(tx, state, settings))
    files = ImageFiles(state.images)
    _adopt_images(store, files)
    _guest_image(store, files, settings)
    store.close()


def _processes(tx: Tx, state: State, settings: Settings) -> None:
    """What the cloud's own processes need: credentials and the keys of tokens. On one machine its host's credential is
    known here; those of other hosts come when they join."""
    names = ["hub", "controller", *([] if settings.clustered else [f"host-{settings.host}"])]
    credentials.register(tx, {name: state.secret(name) for name in names})
    old_keys = state.secrets / "fernet"
    fernet.make_keys(tx, state.secret("cluster-key"), old_keys if old_keys.is_dir() else None)


def _rows(tx: Tx, state: State, settings: Settings) -> None:
    seed(
        tx,
        admin_password=state.secret("admin"),
        demo_password=state.secret("demo"),
        region=settings.cluster.region,
        objects=settings.stores_objects,
    )
    for host in settings.cluster.hosts:
        register(tx, host.name, named_id(f"host:{host.name}"), list(host.roles), host.availability_zone)
    types.seed(tx, named_id("volume-type:default"))
    ceph = settings.cluster.ceph
    shared_storage.declare(tx, named_id("shared-storage"), ceph.pools if ceph else None)
    if tx.count(FLAVOR) == 0:
        for number, (name, vcpus, ram_mib, disk_gib) in enumerate(FLAVORS, 1):
            new = {"id": str(number), "name": name, "vcpus": vcpus, "ram_mib": ram_mib, "disk_gib": disk_gib}
            tx.insert(FLAVOR, new | {"is_public": True, "swap_mib": 0, "ephemeral_gib": 0, "extra_specs": {}})
    _public_network(tx, settings)


def _public_network(tx: Tx, settings: Settings) -> None:
    """The ids follow from the cloud's, so that two controllers that start at once make one network."""
    numbers = itertools.count()
    seed_network(
        tx,
        lambda: named_id(f"public-network:{settings.cloud_id}:{next(numbers)}"),
        public_cidr=settings.public_cidr,
        gateway_ip=settings.public_gateway,
        admin_project_id=fixed_id("project:admin"),
    )


def guest_file() -> Path | None:
    """The newest guest image that ``make guest`` left in the cache."""
    home = Path("/var/cache/trilith") if os.geteuid() == 0 else Path.home() / ".cache/trilith"
    cache = Path(os.environ["TRILITH_CACHE"]) if "TRILITH_CACHE" in os.environ else home
    found = sorted(cache.glob(f"guest/*/{GUEST}.qcow2"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _guest_image(store: Store, files: ImageFiles, settings: Settings) -> None:
    """A public image to start with; in a fake cloud an empty disk. An image that somebody deleted stays deleted."""
    image_id = named_id("image:guest")
    if (old_mark := files.directory / ".seeded").exists():
        store.run(lambda tx: make_once(tx, GUEST))
        old_mark.unlink()
    if store.read(lambda tx: was_made(tx, GUEST)):
        return
    path = None if settings.fake else guest_file()
    if path is None and not settings.fake:
        log.warning("there is no guest image yet; to build it: make guest, then: trilith up")
        return
    token = f"{worker(settings.host)}:{uuid.uuid4()}"
    if not store.run(lambda tx: _begin(tx, image_id, token)):
        return  # another controller is at it
    stored = files.receive(image_id, _chunks(path), "qcow2", MAX_IMAGE_BYTES)
    files.publish(stored)

    def ready(tx: Tx) -> None:
        activate(tx, image_id, token, stored)
        make_once(tx, GUEST)

    store.run(ready)


def _begin(tx: Tx, image_id: str, token: str) -> bool:
    """Takes the image, also from a process that died over it; False while another controller streams into it."""
    if was_made(tx, GUEST):
        return False
    old = tx.one(IMAGE, id=image_id)
    if old is not None and old["phase"] == "active":
        make_once(tx, GUEST)
        return False
    if old is not None:
        mine = (old["busy_token"] or "").partition(":")[0] == token.partition(":")[0]
        if old["busy_until"] and old["busy_until"] > now() and not mine:
            return False
        tx.delete(IMAGE, old)
    new: Row = {"id": image_id, "name": GUEST, "project_id": fixed_id("project:admin"), "visibility": "public"}
    new |= {"disk_format": "qcow2", "container_format": "bare", "min_ram_mib": 96, "min_disk_gib": 0, "tags": []}
    new |= {"extra": {"os_distro": "debian"}, "phase": "saving", "busy_token": token, "busy_until": busy_until()}
    tx.insert(IMAGE, new)
    return True


def _adopt_images(store: Store, files: ImageFiles) -> None:
    """Bytes that an earlier version of the store kept get the names of this one."""
    for row in store.read(lambda tx: tx.rows(IMAGE, phase="active")):
        files.adopt(row["id"], row["os_hash_value"])


def _chunks(path: Path | None) -> Iterator[bytes]:
    if path is None:
        yield empty_disk("qcow2", 1 << 30)
        return
    with open(path, "rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part
