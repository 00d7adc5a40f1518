"""What cinder's listeners are told of volumes and snapshots."""

from tests.client import Client
from tests.notices import Told
from tests.volume.test_volumes import NEW, V3, Host, act, api, host, make  # noqa: F401 - fixtures
from trilith.volume.attachments import ATTACHMENT, attach, attached, begin_detach, detached
from trilith.volume.volumes import VOLUME

SERVER_ID = "44444444-4444-4444-8444-444444444444"


def test_a_volumes_life(api: Client, host: Host) -> None:  # noqa: F811
    told = Told(api.app.store)
    volume = make(api, metadata={"k": "v"})
    assert told.types() == ["volume.create.start"]
    host.work()
    ((name, made),) = told()
    assert name == "volume.create.end"
    assert (made["volume_id"], made["tenant_id"], made["size"]) == (volume["id"], "p1", 1)
    assert (made["status"], made["metadata"]) == ("available", [{"key": "k", "value": "v"}])
    assert act(api, volume, "os-extend", {"new_size": 2}) == 202
    assert told.types() == ["volume.resize.start"]
    host.work()
    ((name, grown),) = told()
    assert (name, grown["size"], grown["status"]) == ("volume.resize.end", 2, "available")
    assert api.put(f"{V3}/volumes/{volume['id']}", {"volume": {"name": "w"}}, at=NEW).status == 200
    assert told.types() == ["volume.update.end"]
    assert api.delete(f"{V3}/volumes/{volume['id']}").status == 202
    assert told.types() == ["volume.delete.start"]
    host.work()
    assert told.types() == ["volume.delete.end"]
    host.work()
    assert told() == []


def test_a_snapshots_life(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    told = Told(api.app.store)
    answer = api.post(f"{V3}/snapshots", {"snapshot": {"volume_id": volume["id"], "name": "s"}}, at=NEW)
    assert answer.status == 202
    host.work()
    found = told()
    assert [name for name, _ in found] == ["snapshot.create.start", "snapshot.create.end"]
    assert found[1][1]["status"] == "available"
    assert found[1][1]["volume_id"] == volume["id"]
    assert api.delete(f"{V3}/snapshots/{answer.json['snapshot']['id']}").status == 202
    host.work()
    assert told.types() == ["snapshot.delete.start", "snapshot.delete.end"]


def test_attaching_and_detaching(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    store, key = api.app.store, volume["id"]
    told = Told(store)
    place = {"server_id": SERVER_ID, "host": "h1", "device": "/dev/vdb"}
    store.run(lambda tx: attach(tx, lambda: "a1", tx.get(VOLUME, key), **place))
    assert told.types() == ["volume.attach.start"]
    store.run(lambda tx: attached(tx, tx.get(ATTACHMENT, "a1")))
    ((name, payload),) = told()
    assert (name, payload["status"]) == ("volume.attach.end", "in-use")
    assert payload["volume_attachment"][0]["server_id"] == SERVER_ID
    store.run(lambda tx: begin_detach(tx, key, SERVER_ID))
    assert told.types() == ["volume.detach.start"]
    store.run(lambda tx: detached(tx, key, SERVER_ID))
    ((name, payload),) = told()
    assert (name, payload["status"]) == ("volume.detach.end", "available")
    assert payload["volume_attachment"][0]["server_id"] == SERVER_ID
