"""Which cloud gets which object store."""

from pathlib import Path

import msgspec

from trilith.cluster.cluster_file import all_in_one, read
from trilith.cluster.object_store import store_for
from trilith.cluster.state import Settings, State
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.rados_store import RadosStore

WITH_CEPH = read(Path(__file__).parents[2] / "examples/ceph.yaml")


def test_one_machine_has_files(tmp_path: Path) -> None:
    state, settings = State(tmp_path), Settings(cloud_id="x", host="host1", cluster=all_in_one("host1"))
    store = store_for(state, settings)
    assert isinstance(store, FilesStore)
    store.create_container("a", "c", {})
    store.close()
    assert state.objects.stat().st_mode & 0o077 == 0


def test_controllers_share_ceph_or_have_none(tmp_path: Path) -> None:
    settings = Settings(cloud_id="x", host="c1", cluster=WITH_CEPH)
    store = store_for(State(tmp_path), settings)
    assert isinstance(store, RadosStore)
    store.close()
    without = msgspec.structs.replace(WITH_CEPH, ceph=None)
    assert store_for(State(tmp_path), msgspec.structs.replace(settings, cluster=without)) is None
