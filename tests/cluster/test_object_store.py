"""Which cloud gets which object store."""

from pathlib import Path

import msgspec
import pytest

from trilith.cluster.cluster_file import all_in_one, read
from trilith.cluster.object_store import store_for
from trilith.cluster.repair import repair_objects
from trilith.cluster.state import Problem, Settings, State
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Put

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
