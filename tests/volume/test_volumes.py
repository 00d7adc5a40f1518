"""Volumes through HTTP; the storage host's agent is played by the real reconciler over the fake files."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, MEMBER, READER, STRANGER, Client, client
from trilith.agent.volumes import Volumes
from trilith.drivers.image_files import ImageFiles
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.image import image_data  # noqa: F401 - its routes
from trilith.image.images import IMAGE
from trilith.kernel.reconcile import converge
from trilith.placement.hosts import HOST, register
from trilith.volume import limits, transfers, types, volume_actions  # noqa: F401 - their routes
from trilith.volume.attachments import ATTACHMENT, attach, attached, begin_detach, detached
from trilith.volume.volumes import VOLUME, report, sweep, wants

V3 = "/volume/v3"
NEW = "volume 3.71"


class Images:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sent: list[str] = []

    def path(self, image_id: str) -> Path:
        path = self.directory / image_id
        path.touch()
        return path

    def upload(self, image_id: str, path: Path) -> None:
        self.sent.append(image_id)


class Host:
    """One round of the agent after the other."""

    def __init__(self, api: Client, directory: Path) -> None:
        self.store, self.images = api.app.store, Images(directory)
        self.reconciler = Volumes(FakeVolumeFiles(directory / "volumes"), self.images)

    def work(self) -> None:
        documents = {doc["id"]: doc | {"generation": 1} for doc in self.store.read(lambda tx: wants(tx, "h1"))}
        for key in self.reconciler.known() | documents.keys():
            want = documents.get(key, {"id": key, "generation": 0, "present": False})
            outcome = converge(self.reconciler, key, want)
            self.store.run(lambda tx, k=key, o=outcome: report(tx, "h1", k, 1, o.seen, o.fault))  # type: ignore[misc]


@pytest.fixture
def api(tmp_path: Path) -> Client:
    found = client(tmp_path, {"image_files": ImageFiles(tmp_path / "images")})

    def seed(tx: Any) -> None:
        types.seed(tx, "11111111-1111-1111-1111-111111111111")
        row = register(tx, "h1", "22222222-2222-2222-2222-222222222222", ["storage", "compute"], "nova")
        tx.update(HOST, row, seen_at_s=4e9)

    found.app.store.run(seed)
    return found


@pytest.fixture
def host(api: Client, tmp_path: Path) -> Host:
    return Host(api, tmp_path)


def make(api: Client, **more: Any) -> dict[str, Any]:
    answer = api.post(f"{V3}/volumes", {"volume": {"size": 1, "name": "v"} | more}, at=NEW)
    assert answer.status == 202, answer.json
    return dict(answer.json["volume"])


def show(api: Client, volume: dict[str, Any], at: str = NEW) -> dict[str, Any]:
    return dict(api.get(f"{V3}/volumes/{volume['id']}", at=at).json["volume"])


def act(
    api: Client, volume: dict[str, Any], verb: str, body: Any = None, who: str = MEMBER, kind: str = "volumes"
) -> int:
    return api.post(f"{V3}/{kind}/{volume['id']}/action", {verb: body}, who, at=NEW).status


def test_life(api: Client, host: Host) -> None:
    nulls = dict.fromkeys(("volume_type", "backup_id", "snapshot_id", "source_volid", "metadata", "availability_zone"))
    volume = make(api, **nulls)
    assert volume["status"] == "creating"
    assert volume["volume_type"] == "__DEFAULT__"
    assert "os-vol-tenant-attr:tenant_id" not in volume
    host.work()
    shown = show(api, volume)
    assert shown["status"] == "available"
    assert shown["bootable"] == "false"
    assert shown["os-vol-tenant-attr:tenant_id"] == "p1"
    assert "volume_type_id" not in show(api, volume, "volume 3.62")
    assert api.get(f"{V3}/volumes/{volume['id']}", STRANGER).status == 404
    assert api.delete(f"{V3}/volumes/{volume['id']}", READER).status == 403
    assert api.delete(f"{V3}/volumes/{volume['id']}").status == 202
    assert show(api, volume)["status"] == "deleting"
    host.work()
    host.work()
    assert api.get(f"{V3}/volumes/{volume['id']}").status == 404
    assert not host.reconciler.known()


def test_extend_snapshot_clone_and_upload(api: Client, host: Host) -> None:
    volume = make(api)
    assert act(api, volume, "os-extend", {"new_size": 2}) == 400
    host.work()
    assert act(api, volume, "os-extend", {"new_size": 1}) == 400
    assert act(api, volume, "os-extend", {"new_size": 2}) == 202
    assert show(api, volume)["status"] == "extending"
    host.work()
    assert show(api, volume)["size"] == 2
    snapshot = api.post(
        f"{V3}/snapshots", {"snapshot": {"volume_id": volume["id"], "name": "s", "metadata": None}}, at=NEW
    )
    assert snapshot.status == 202
    one = snapshot.json["snapshot"]
    assert one["status"] == "creating"
    host.work()
    assert api.get(f"{V3}/snapshots/{one['id']}").json["snapshot"]["status"] == "available"
    assert api.delete(f"{V3}/volumes/{volume['id']}").status == 400
    clone = make(api, snapshot_id=one["id"], size=None)
    assert clone["size"] == 2
    assert api.delete(f"{V3}/snapshots/{one['id']}").status == 202
    for _ in range(3):
        host.work()
    assert show(api, clone)["status"] == "available"
    assert api.get(f"{V3}/snapshots/{one['id']}").status == 404
    sent = api.post(
        f"{V3}/volumes/{clone['id']}/action",
        {"os-volume_upload_image": {"image_name": "i", "disk_format": "qcow2"}},
        at=NEW,
    )
    image_id = sent.json["os-volume_upload_image"]["image_id"]
    assert show(api, clone)["status"] == "uploading"
    host.work()
    assert host.images.sent == [image_id]

    def active(tx: Any) -> None:
        tx.update(IMAGE, tx.get(IMAGE, image_id), phase="active")

    api.app.store.run(active)
    host.work()
    assert show(api, clone)["status"] == "available"


def test_attachments(api: Client, host: Host) -> None:
    volume = make(api)
    host.work()
    store, server = api.app.store, "33333333-3333-3333-3333-333333333333"

    def begin(tx: Any) -> Any:
        return attach(tx, lambda: "44444444-4444-4444-4444-444444444444", tx.get(VOLUME, volume["id"]),
                      server_id=server, host="h1", device="/dev/vdb")  # fmt: skip

    row = store.run(begin)
    assert show(api, volume)["status"] == "attaching"
    store.run(lambda tx: attached(tx, tx.get(ATTACHMENT, row["id"])))
    shown = show(api, volume)
    assert shown["status"] == "in-use"
    assert shown["attachments"][0]["device"] == "/dev/vdb"
    assert api.delete(f"{V3}/volumes/{volume['id']}").status == 400
    assert len(api.get(f"{V3}/attachments", at=NEW).json["attachments"]) == 1
    assert api.get(f"{V3}/attachments").status == 404
    store.run(lambda tx: begin_detach(tx, volume["id"], server))
    assert show(api, volume)["status"] == "detaching"
    store.run(lambda tx: detached(tx, volume["id"], server))
    assert show(api, volume)["status"] == "available"


def test_errors_quota_and_deadline(api: Client, host: Host) -> None:
    for bad in ({"size": 0}, {"size": "x"}, {"size": None}, {"name": "x" * 256}, {"colour": 1}, {"snapshot_id": "zzz"}):
        assert api.post(f"{V3}/volumes", {"volume": {"size": 1} | bad}, at=NEW).status == 400, bad
    unknown = "99999999-9999-9999-9999-999999999999"
    assert api.post(f"{V3}/volumes", {"volume": {"size": 1, "snapshot_id": unknown}}, at=NEW).status == 404
    assert api.post(f"{V3}/volumes", {"volume": {"size": 1, "volume_type": "gold"}}, at=NEW).status == 404
    over = api.post(f"{V3}/volumes", {"volume": {"size": 2000}}, at=NEW)
    assert over.status == 413
    assert "gigabytes" in over.json["overLimit"]["message"]
    volume = make(api)

    def late(tx: Any) -> None:
        tx.execute(VOLUME.table.update().values(transient_since="2020-01-01T00:00:00.000000"))
        sweep(tx)

    api.app.store.run(late)
    assert show(api, volume)["status"] == "error"
    assert api.delete(f"{V3}/volumes/{volume['id']}").status == 202
    assert api.get(f"{V3}/limits").json["limits"]["absolute"]["maxTotalVolumes"] == 10
    assert api.get(f"{V3}/os-quota-sets/p1?usage=true").json["quota_set"]["volumes"]["limit"] == 10
    assert api.put(f"{V3}/os-quota-sets/p1", {"quota_set": {"volumes": 1}}, ADMIN).json["quota_set"]["volumes"] == 1
    assert api.put(f"{V3}/os-quota-sets/p1", {"quota_set": {"cats": 1}}, ADMIN).status == 400


def test_types_metadata_and_lists(api: Client, host: Host) -> None:
    made = api.post(f"{V3}/types", {"volume_type": {"name": "gold", "os-volume-type-access:is_public": False}}, ADMIN)
    assert made.status == 200
    gold = made.json["volume_type"]["id"]
    assert api.get(f"{V3}/types/{gold}").status == 404
    assert len(api.get(f"{V3}/types?is_public=none").json["volume_types"]) == 1
    assert act(api, {"id": gold}, "addProjectAccess", {"project": "p1"}, ADMIN, "types") == 202
    assert api.get(f"{V3}/types/{gold}").status == 200
    volume = make(api, volume_type="gold", metadata={"a": "b"})
    url = f"{V3}/volumes/{volume['id']}/metadata"
    assert api.post(url, {"metadata": {"c": "d"}}).json["metadata"] == {"a": "b", "c": "d"}
    assert api.put(f"{url}/a", {"meta": {"x": "y"}}).status == 400
    assert api.delete(f"{url}/a").status == 200
    assert api.delete(f"{url}/a").status == 404
    assert [v["id"] for v in api.get(f"{V3}/volumes?metadata={{'c':'d'}}").json["volumes"]] == [volume["id"]]
    assert api.get(f"{V3}/volumes/detail?name~=V", at=NEW).status == 200
    assert api.get(f"{V3}/p1/volumes").status == 200
    assert api.get(f"{V3}/p2/volumes").status == 400
    assert api.get(f"{V3}/volumes/summary", at=NEW).json["volume-summary"]["total_count"] == 1


def test_transfer(api: Client, host: Host) -> None:
    volume = make(api)
    host.work()
    made = api.post(f"{V3}/os-volume-transfer", {"transfer": {"volume_id": volume["id"], "name": None}})
    assert made.status == 202
    transfer = made.json["transfer"]
    assert show(api, volume)["status"] == "awaiting-transfer"
    url = f"{V3}/os-volume-transfer/{transfer['id']}/accept"
    assert api.post(url, {"accept": {"auth_key": "wrong"}}, STRANGER).status == 400
    assert api.post(url, {"accept": {"auth_key": transfer["auth_key"]}}, STRANGER).status == 202
    assert api.get(f"{V3}/volumes/{volume['id']}").status == 404
    assert api.get(f"{V3}/volumes/{volume['id']}", STRANGER).json["volume"]["status"] == "available"
