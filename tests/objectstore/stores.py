"""The stores that there are, for tests that run on each."""

from pathlib import Path

from trilith.drivers.ceph import Access
from trilith.drivers.object_files import ObjectFiles
from trilith.drivers.rados import Rados
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Check, Object, Page, Put, Store


def files_store(directory: Path) -> FilesStore:
    directory.mkdir(exist_ok=True)
    return FilesStore(directory, ObjectFiles(directory))


def put(store: Store, name: str, content: bytes = b"", put: Put | None = None, check: Check | None = None) -> Object:
    """Into the account "a", container "c"."""
    writer = store.write("a", "c", name)
    writer.write(content)
    return writer.commit(put or Put("text/plain"), check)


def content(store: Store, name: str) -> bytes:
    reader = store.open("a", "c", name)
    assert reader is not None
    with_all = b"".join(reader.chunks())
    reader.close()
    return with_all


def names(store: Store, **words: object) -> list[str]:
    return [entry.name for entry in store.list_objects("a", "c", Page(**words))]  # type: ignore[arg-type]


def opened(kind: str) -> Store:
    """Of another process: ``files:DIRECTORY`` or ``rados:MONITOR,USER,KEY_FILE,POOL,NAMESPACE``."""
    what, _, where = kind.partition(":")
    if what == "files":
        return files_store(Path(where))
    monitor, user, key_file, pool, namespace = where.split(",")
    return RadosStore(Rados(Access((monitor,), user, Path(key_file)), pool, namespace))
