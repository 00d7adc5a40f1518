"""Which object store a cloud has."""

from trilith.cluster.state import Settings, State
from trilith.drivers.durable import make_directory
from trilith.drivers.object_files import ObjectFiles
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.store import Store


def store_for(state: State, settings: Settings) -> Store | None:
    """For one process: any number of processes of this machine may have it open. None where the cloud has none: in a
    cluster, whose controllers share no files."""
    if settings.clustered:
        return None
    directory = make_directory(state.objects, 0o700)
    return FilesStore(directory, ObjectFiles(directory))
