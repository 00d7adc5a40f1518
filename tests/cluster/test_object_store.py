"""Which cloud gets which object store."""

import time
from pathlib import Path

import msgspec
import pytest

from tests.bench import region as regions
from trilith.cluster import objects
from trilith.cluster.cluster_file import all_in_one, read
from trilith.cluster.object_store import store_for
from trilith.cluster.repair import repair_objects
from trilith.cluster.state import Problem, Settings, State
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.messages import Request
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Put
from trilith.placement.hosts import register

WITH_CEPH = read(Path(__file__).parents[2] / "examples/ceph.yaml")


def test_one_machine_has_files(tmp_path: Path) -> None:
    state, settings = State(tmp_path), Settings(cloud_id="x", host="host1", cluster=all_in_one("host1"))
    store = store_for(state, settings)
    assert isinstance(store, FilesStore)
    store.create_container("a", "c", {})
    store.close()
    assert state.objects.stat().st_mode & 0o077 == 0


def test_an_index_is_repaired_while_the_store_does_not_run(tmp_path: Path) -> None:
    state, settings = State(tmp_path), Settings(cloud_id="x", host="host1", cluster=all_in_one("host1"))
    with pytest.raises(Problem, match="no cloud"):
        repair_objects(state)
    state.write_settings(settings)
    store = store_for(state, settings)
    assert store is not None
    store.create_container("a", "c", {"k": "1"})
    writer = store.write("a", "c", "o")
    writer.write(b"content")
    writer.commit(Put("text/plain"))
    with pytest.raises(Problem, match="trilith down"):
        repair_objects(state)
    store.close()
    (state.objects / "index.sqlite").write_bytes(b"damaged" * 1000)
    assert "1 containers, 1 objects; 0 files" in repair_objects(state)
    again = store_for(state, settings)
    assert again is not None
    found = again.object("a", "c", "o")
    assert found is not None
    assert found.etag == writer.etag
    assert again.container("a", "c").headers == {"k": "1"}  # type: ignore[union-attr]
    again.close()


def test_controllers_share_ceph_or_have_none(tmp_path: Path) -> None:
    settings = Settings(cloud_id="x", host="c1", cluster=WITH_CEPH)
    store = store_for(State(tmp_path), settings)
    assert isinstance(store, RadosStore)
    store.close()
    without = msgspec.structs.replace(WITH_CEPH, ceph=None)
    assert store_for(State(tmp_path), msgspec.structs.replace(settings, cluster=without)) is None


def test_a_caller_is_read_again_when_anything_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = regions.make(regions.sqlite_url(tmp_path), 1)
    reads, read = [], region.store.read
    monkeypatch.setattr(region.store, "read", lambda work: [reads.append(work), read(work)][1])
    changes = objects.Changes(Path(str(region.store.engine.url.database)))
    identity = objects.SqlIdentity(region.store, changes)
    request = Request("GET", "/v1/AUTH_x", headers={"x-auth-token": region.member})

    who = identity.caller(request)
    assert who is not None
    assert who.project_id == region.project_id
    assert identity.caller(request) is who
    assert len(reads) == 1

    region.store.run(lambda tx: register(tx, "h2", "id-of-h2", ["compute"], "nova"))  # anything
    assert identity.caller(request) == who
    assert len(reads) == 2

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * objects.KNOWN_S)  # its time may be over
    assert identity.caller(request) == who
    assert len(reads) == 3
    monkeypatch.undo()

    subject = {"X-Subject-Token": region.member}
    assert region.client("DELETE", "/identity/v3/auth/tokens", region.admin, None, "", subject).status == 204
    assert identity.caller(request) is None
    assert identity.caller(Request("GET", "/v1/AUTH_x", headers={"x-auth-token": "nonsense"})) is None
    region.store.close()


def test_without_word_of_changes_a_caller_is_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = regions.make(regions.sqlite_url(tmp_path), 1)
    reads, read = [], region.store.read
    monkeypatch.setattr(region.store, "read", lambda work: [reads.append(work), read(work)][1])
    identity = objects.SqlIdentity(region.store)
    request = Request("GET", "/v1/AUTH_x", headers={"x-auth-token": region.member})
    assert identity.caller(request) == identity.caller(request)
    assert len(reads) == 2
    region.store.close()
