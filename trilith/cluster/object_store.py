"""Which object store a cloud has."""

from trilith.cluster import ceph_access
from trilith.cluster.state import Settings, State
from trilith.drivers.durable import make_directory
from trilith.drivers.object_files import ObjectFiles
from trilith.drivers.rados import Rados
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Store


def store_for(state: State, settings: Settings) -> Store | None:
    """For one process: any number of processes may have it open. On one machine: files; in a cluster with Ceph, where
    only controllers may, that; None where the cloud has none, because its controllers share no storage."""
    if not settings.clustered:
        directory = make_directory(state.objects, 0o700)
        return FilesStore(directory, ObjectFiles(directory))
    access, ceph = ceph_access.access(state, settings, control=True), settings.cluster.ceph
    return RadosStore(Rados(access, ceph.objects_pool)) if access is not None and ceph is not None else None
