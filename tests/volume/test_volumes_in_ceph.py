"""Volumes, images and machines' disks in Ceph, through HTTP; the controller is the real one over a pretended Ceph."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.client import ADMIN, MEMBER, Client, client
from trilith.cluster.ceph_controller import MARK, CephController, CephVolumes, NotOurs, Pool
from trilith.cluster.cluster_file import read
from trilith.cluster.state import Settings, State
from trilith.compute import servers  # noqa: F401 - their rows
from trilith.drivers.ceph import Image
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.image_files import ImageFiles
from trilith.image import image_data  # noqa: F401 - its routes
from trilith.kernel.reconcile import converge, gone
from trilith.kernel.testing import converges
from trilith.placement.hosts import HOST, register
from trilith.volume import (  # noqa: F401 - their routes
    attachments,
    backends,
    limits,
    shared_storage,
    types,
    volume_actions,
)
from trilith.volume.volumes import VOLUME, disk_document, wants

V3 = "/volume/v3"
NEW = "volume 3.71"
GIB, MIB = 1 << 30, 1 << 20
IMAGES, VOLUMES, MACHINES = POOLS = ("trilith-images", "trilith-volumes", "trilith-machines")
EXAMPLE = Path(__file__).parents[2] / "examples/ceph.yaml"


class Controller:
    """One round of the controller after the other."""

    def __init__(self, api: Client, directory: Path, ceph: FakeCeph, host: str = "c1") -> None:
        state = State(directory / host)
        state.make_directories()
        (state.secrets / "ceph-control").touch()
        settings = Settings(cloud_id="x", host=host, cluster=read(EXAMPLE))
        files = api.app.settings["image_files"]
        self.inner = CephController(state, settings, api.app.store, ceph, files)
        self.inner._lease.for_s = 3600.0  # however slow the machine is

    def work(self) -> None:
        for reconciler in self.inner._runner.reconcilers:
            documents = self.inner.wants(reconciler.kind)
            for key in reconciler.known() - documents.keys():
                documents[key] = gone(key)
            for key, want in documents.items():
                found = converge(reconciler, key, want)
                self.inner.report(reconciler.kind, key, want["generation"], found.seen, found.fault)


@pytest.fixture
def ceph() -> FakeCeph:
    return FakeCeph(pools=POOLS)


@pytest.fixture
def api(tmp_path: Path) -> Client:
    found = client(tmp_path, {"image_files": ImageFiles(tmp_path / "images")})

    def seed(tx: Any) -> None:
        types.seed(tx, "11111111-1111-1111-1111-111111111111")
        row = register(tx, "h1", "22222222-2222-2222-2222-222222222222", ["storage", "compute"], "nova")
        tx.update(HOST, row, seen_at_s=4e9)
        shared_storage.declare(tx, "33333333-3333-3333-3333-333333333333", POOLS)

    found.app.store.run(seed)
    return found


@pytest.fixture
def controller(api: Client, tmp_path: Path, ceph: FakeCeph) -> Controller:
    return Controller(api, tmp_path, ceph)


def lying(ceph: FakeCeph, pool: str) -> dict[str, Image]:
    """What is in the pool but the sign of whose it is."""
    return {name: image for name, image in ceph.images(pool).items() if not name.startswith(MARK)}


def create(api: Client, **body: Any) -> str:
    answer = api.post(f"{V3}/volumes", {"volume": {"size": 1, **body}}, at=NEW)
    assert answer.status == 202, answer.json
    return str(answer.json["volume"]["id"])


def show(api: Client, volume_id: str, who: str = MEMBER) -> Any:
    return api.get(f"{V3}/volumes/{volume_id}", who, at=NEW).json["volume"]


def upload_image(api: Client, content: bytes = b"golden".ljust(MIB, b"\0")) -> str:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    image_id = api.post("/image/v2/images", body).json["id"]
    octets = "application/octet-stream"
    assert api("PUT", f"/image/v2/images/{image_id}/file", raw=content, media=octets).status == 204
    return str(image_id)


def test_a_volume_is_made_by_a_controller_and_belongs_to_no_host(
    api: Client, controller: Controller, ceph: FakeCeph
) -> None:
    volume_id = create(api)
    assert show(api, volume_id)["status"] == "creating"
    assert api.app.store.read(lambda tx: wants(tx, "h1")) == []
    controller.work()
    assert show(api, volume_id)["status"] == "available"
    assert show(api, volume_id, ADMIN)["os-vol-host-attr:host"] == f"ceph@ceph#{VOLUMES}"
    assert lying(ceph, VOLUMES) == {volume_id: Image(GIB)}
    assert api.post(f"{V3}/volumes/{volume_id}/action", {"os-extend": {"new_size": 3}}, at=NEW).status == 202
    assert show(api, volume_id)["status"] == "extending"
    controller.work()
    assert (show(api, volume_id)["status"], show(api, volume_id)["size"]) == ("available", 3)
    assert lying(ceph, VOLUMES) == {volume_id: Image(3 * GIB)}
    assert api("DELETE", f"{V3}/volumes/{volume_id}", at=NEW).status == 202
    controller.work()
    assert lying(ceph, VOLUMES) == {}
    assert api.get(f"{V3}/volumes/{volume_id}", at=NEW).status == 404


def test_from_an_image_to_a_volume_to_its_snapshot_to_a_volume(
    api: Client, controller: Controller, ceph: FakeCeph
) -> None:
    image_id = upload_image(api)
    first = create(api, imageRef=image_id)
    for _ in range(2):
        controller.work()
    assert lying(ceph, IMAGES) == {image_id: Image(MIB, ("whole",))}
    assert show(api, first)["status"] == "available"
    assert lying(ceph, VOLUMES)[first] == Image(GIB, (), f"{IMAGES}/{image_id}")
    answer = api.post(f"{V3}/snapshots", {"snapshot": {"volume_id": first}}, at=NEW)
    snapshot_id = answer.json["snapshot"]["id"]
    controller.work()
    assert api.get(f"{V3}/snapshots/{snapshot_id}", at=NEW).json["snapshot"]["status"] == "available"
    second, third = create(api, snapshot_id=snapshot_id), create(api, source_volid=first)
    controller.work()
    found = lying(ceph, VOLUMES)
    assert found[second].parent == found[third].parent == f"{VOLUMES}/{first}"
    assert found[first].snapshots == (snapshot_id,), "what was there for the copy only is gone"
    assert api("DELETE", f"{V3}/snapshots/{snapshot_id}", at=NEW).status == 202
    controller.work()
    assert api("DELETE", f"{V3}/volumes/{first}", at=NEW).status == 202
    assert api("DELETE", f"/image/v2/images/{image_id}").status == 204
    controller.work()
    assert set(lying(ceph, VOLUMES)) == {second, third}
    assert lying(ceph, IMAGES) == {}


def test_a_machine_of_any_host_opens_the_volume(api: Client, controller: Controller) -> None:
    volume_id = create(api)
    store = api.app.store

    def document() -> Any:
        return store.read(lambda tx: disk_document(tx.get(VOLUME, volume_id), "a", "whichever"))

    assert document()["rbd"] is None
    controller.work()
    told = document()
    assert told["rbd"] == {"pool": VOLUMES, "image": volume_id}
    assert (told["shared"], told["path"], told["nbd"], told["format"]) == (True, None, None, "raw")


def test_a_volume_becomes_an_image(api: Client, controller: Controller, ceph: FakeCeph) -> None:
    volume_id = create(api)
    controller.work()
    body = {"os-volume_upload_image": {"image_name": "made", "disk_format": "raw", "container_format": "bare"}}
    answer = api.post(f"{V3}/volumes/{volume_id}/action", body, at=NEW)
    image_id = answer.json["os-volume_upload_image"]["image_id"]
    assert show(api, volume_id)["status"] == "uploading"
    for _ in range(2):
        controller.work()
    assert show(api, volume_id)["status"] == "available"
    image = api.get(f"/image/v2/images/{image_id}").json
    assert (image["status"], image["size"]) == ("active", GIB)
    assert lying(ceph, VOLUMES)[volume_id].snapshots == ()


def test_what_nobody_asked_to_delete_is_put_aside_and_what_is_not_ours_stays(
    api: Client, controller: Controller, ceph: FakeCeph
) -> None:
    stray = "99999999-9999-9999-9999-999999999999"
    controller.work()
    for pool in POOLS:
        ceph.create(pool, stray if pool != MACHINES else f"{stray}_root-0", GIB)
        ceph.create(pool, "somebody-elses", GIB)
    for pool in controller.inner._pools.values():
        pool.look_again()
    controller.work()
    assert all(set(lying(ceph, pool)) == {"somebody-elses"} for pool in POOLS)
    for pool in (VOLUMES, MACHINES):
        ceph.empty_trash(pool)
        assert len(ceph._trash[pool]) == 1, "an operator can have it back"


def test_only_who_holds_the_lease_touches_anything(
    api: Client, controller: Controller, ceph: FakeCeph, tmp_path: Path
) -> None:
    volume_id = create(api)
    other = Controller(api, tmp_path, ceph, "c2")
    controller.work()
    other.work()
    assert set(lying(ceph, VOLUMES)) == {volume_id}
    assert show(api, volume_id)["status"] == "available"


def test_while_ceph_is_away_volumes_wait(api: Client, controller: Controller, ceph: FakeCeph) -> None:
    ceph.away = True
    volume_id = create(api)
    with pytest.raises(Exception, match="Ceph does not answer"):
        controller.work()
    ceph.away = False
    controller.work()
    assert show(api, volume_id)["status"] == "available"


def test_pools_are_told_with_what_is_free(api: Client, controller: Controller) -> None:
    create(api)
    controller.work()
    (pool,) = api.get(f"{V3}/scheduler-stats/get_pools?detail=true", ADMIN, at=NEW).json["pools"]
    assert pool["name"] == f"ceph@ceph#{VOLUMES}"
    told = pool["capabilities"]
    assert (told["total_capacity_gb"], told["free_capacity_gb"]) == (1024, 2 * 1024 // 3)
    assert (told["allocated_capacity_gb"], told["storage_protocol"]) == (1, "ceph")


def test_without_a_storage_of_the_cluster_file_volumes_are_files(api: Client) -> None:
    api.app.store.run(lambda tx: shared_storage.declare(tx, "x", None))
    volume_id = create(api)
    assert [want["id"] for want in api.app.store.read(lambda tx: wants(tx, "h1"))] == [volume_id]


def test_a_bad_zone_is_refused(api: Client) -> None:
    answer = api.post(f"{V3}/volumes", {"volume": {"size": 1, "availability_zone": "nowhere"}}, at=NEW)
    assert answer.status == 400
    assert api.get(f"{V3}/volumes", at=NEW).json["volumes"] == []


def test_a_volume_survives_every_crash(api: Client, tmp_path: Path) -> None:
    ceph = FakeCeph(pools=POOLS)
    source = "55555555-5555-5555-5555-555555555555"
    key = "44444444-4444-4444-4444-444444444444"
    store, files = api.app.store, api.app.settings["image_files"]
    want = {
        "id": key, "generation": 1, "present": True, "size_gib": 1, "format": "raw", "snapshots": ["s1"], "uploads": [],
        "source": {"kind": "volume", "volume_id": source}, "attached_server": None, "export": None,
    }  # fmt: skip

    def left() -> object:
        kept = ceph.image(VOLUMES, source)
        return kept is not None and [name for name in kept.snapshots if not name.startswith("copy-")]

    class Alone(CephVolumes):
        def known(self) -> set[str]:
            return super().known() - {source}

    def make() -> CephVolumes:
        ceph.create(VOLUMES, source, GIB)
        return Alone(Pool(ceph, VOLUMES), IMAGES, store, files, tmp_path)

    grown = want | {"generation": 2, "size_gib": 2, "snapshots": ["s1", "s2"]}
    fewer = grown | {"generation": 3, "snapshots": ["s2"]}
    converges(make, [want, grown, fewer], left)


def test_a_pool_of_others_is_not_touched(api: Client, controller: Controller, ceph: FakeCeph) -> None:
    theirs = "66666666-6666-6666-6666-666666666666"
    ceph.create(IMAGES, theirs, GIB)
    create(api)
    with pytest.raises(NotOurs, match="trilith-images is not this cloud's"):
        controller.work()
    assert ceph.images(IMAGES) == {theirs: Image(GIB)}
    assert ceph.images(VOLUMES) == {}
    row = api.app.store.read(lambda tx: tx.one(shared_storage.STORAGE))
    assert row is not None
    assert "has 66666666" in row["problems"][0]


def test_a_pool_of_another_cloud_is_not_touched(api: Client, controller: Controller, ceph: FakeCeph) -> None:
    create(api)
    controller.work()
    there = ceph.images(VOLUMES)
    with pytest.raises(NotOurs):
        Pool(ceph, VOLUMES).claim("another")
    assert ceph.images(VOLUMES) == there


def test_the_example_has_the_pools_of_this_test() -> None:
    assert read(EXAMPLE).ceph is not None
    assert msgspec.to_builtins(read(EXAMPLE).ceph)["volumes_pool"] == VOLUMES
