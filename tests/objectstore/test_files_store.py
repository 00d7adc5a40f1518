"""What is special about a store of files: what is left over, what is lost, and what is made anew."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.full_disk import full_disk
from tests.objectstore.killing import ROOT
from tests.objectstore.stores import content, files_store, names, put
from trilith.drivers.object_files import SESSION_SLOTS, SLOTS
from trilith.kernel.errors import Unavailable
from trilith.objectstore.files_store import FilesStore
from trilith.objectstore.store import Page, Put, StorageFull

MIB = 1 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(directory: Path) -> Iterator[FilesStore]:
    made = files_store(directory)
    made.create_container("a", "c", {"k": "1"})
    yield made
    made.close()


def on_disk(directory: Path) -> set[str]:
    """Files that are used or were."""
    paths = (path for path in (directory / "data").glob("*/*") if path.name != "lock" and path.stat().st_size)
    return {path.relative_to(directory / "data").as_posix() for path in paths}


def in_process(directory: Path, code: str) -> None:
    """Runs in a process that dies at the end without closing anything."""
    text = "import os\nfrom pathlib import Path\nfrom tests.objectstore.stores import *\n"
    text += f"store = files_store(Path({str(directory)!r}))\n{code}\nos.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", text], check=False, cwd=ROOT)


def rebuilt(directory: Path) -> FilesStore:
    (directory / "index.sqlite").unlink()
    return files_store(directory)


def test_several_processes_see_each_other_at_once(store: FilesStore, directory: Path) -> None:
    other = files_store(directory)
    put(store, "o", b"1")
    assert content(other, "o") == b"1"
    other.delete_object("a", "c", "o")
    assert names(store) == []
    other.close()


def test_what_a_dead_writer_left_is_swept_and_what_it_finished_stays(store: FilesStore, directory: Path) -> None:
    in_process(directory, "put(store, 'done', b'1'); store.write('a', 'c', 'half').write(b'x' * 100_000)")
    writer = store.write("a", "c", "living")
    writer.write(b"y" * 100_000)
    assert len(on_disk(directory)) == 3
    assert store.sweep() > 0
    assert len(on_disk(directory)) == 2
    writer.commit(Put("x/y"))
    assert content(store, "living") == b"y" * 100_000
    assert content(store, "done") == b"1"
    assert store.sweep() == 0


def test_overwritten_and_deleted_bytes_leave_the_disk(store: FilesStore, directory: Path) -> None:
    for _ in range(3):
        put(store, "o", b"1")
    put(store, "p", b"2")
    store.delete_object("a", "c", "p")
    assert len(on_disk(directory)) == 1


def test_bytes_that_a_power_cut_brought_back_are_removed_again(
    store: FilesStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(store, "o", b"1")
    put(store, "o", b"2")
    (directory / "data" / old.blob).write_bytes(b"1")
    assert store.sweep() == 0, "too early"
    monkeypatch.setattr("trilith.objectstore.files_store.REMOVED_S", -1.0)
    assert store.sweep() == 1
    assert len(on_disk(directory)) == 1
    assert store.sweep() == 0


def test_a_session_that_was_closed_leaves_nothing_to_look_through(directory: Path) -> None:
    store = files_store(directory)
    store.create_container("a", "c", {})
    put(store, "o", b"1")
    store.write("a", "c", "never").write(b"small")
    store.close()
    assert len(list((directory / "data").glob("*/*"))) == len(on_disk(directory)) == 1
    store = files_store(directory)
    assert store.sweep() == 0
    store.delete_object("a", "c", "o")
    store.sweep()
    assert list((directory / "data").iterdir()) == []
    store.close()


def test_a_session_ends_when_it_is_full(store: FilesStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SLOTS < SESSION_SLOTS
    monkeypatch.setattr("trilith.drivers.object_files.SESSION_SLOTS", SLOTS)
    slow = store.write("a", "c", "slow")
    slow.write(b"x" * 100_000)
    for number in range(2 * SLOTS):
        put(store, f"{number}", b"1")
    sessions = {store.object("a", "c", name).blob.partition("/")[0] for name in names(store)}  # type: ignore[union-attr]
    assert len(sessions) >= 2
    assert len(list((directory / "data").glob("*/lock"))) == 2, "the newest, and the one of the slow writer"
    slow.commit(Put("x/y"))
    assert len(list((directory / "data").glob("*/lock"))) == 1


def test_a_lost_index_is_made_anew_from_the_files(store: FilesStore, directory: Path) -> None:
    store.update_account("a", {"k": "2"})
    for name in ("gone", "empty"):
        store.create_container("a", name, {"k": name})
    store.delete_container("a", "gone")
    put(store, "old", b"1")
    put(store, "old", b"22", Put("x/y", {"h": "1"}, {"hash": "2"}, 99))
    put(store, "posted", b"3", Put("x/y", {"h": "1"}))
    store.update_object("a", "c", "posted", lambda before: Put("x/z", {"h": "2"}))
    put(store, "deleted", b"4")
    store.delete_object("a", "c", "deleted")
    store.write("a", "c", "half").write(b"x" * 100_000)
    told = [store.account("a"), *store.list_containers("a", Page()), *store.list_objects("a", "c", Page())]
    more = [store.container("a", "c"), store.container("a", "empty"), store.object("a", "c", "old")]
    store.close()
    again = rebuilt(directory)
    assert [again.account("a"), *again.list_containers("a", Page()), *again.list_objects("a", "c", Page())] == told
    assert [again.container("a", "c"), again.container("a", "empty"), again.object("a", "c", "old")] == more
    assert content(again, "posted") == b"3"
    assert len(on_disk(directory)) == 2
    again.close()


def test_an_index_that_is_lost_under_users_is_not_replaced(store: FilesStore, directory: Path) -> None:
    put(store, "o", b"1")
    (directory / "index.sqlite").unlink()
    with pytest.raises(Unavailable, match="end them all"):
        files_store(directory)


def test_bytes_that_look_like_a_note_are_no_note(store: FilesStore, directory: Path) -> None:
    """A user cannot have an object made for others when an index is made anew."""
    other = files_store(directory.with_name("other"))
    other.create_container("a", "c", {})
    forged = put(other, "forged", b"mine")
    file = (directory.with_name("other") / "data" / forged.blob).read_bytes()
    own = (directory / "data" / put(store, "own", b"1").blob).read_bytes()
    store.write("a", "c", "half").write(file + own[:-1] + bytes(100_000) + file)
    store.close()
    again = rebuilt(directory)
    assert names(again) == ["own"]
    again.close()
    other.close()


def test_a_torn_note_leaves_the_one_before_it(store: FilesStore, directory: Path) -> None:
    made = put(store, "o", b"1", Put("x/y", {"h": "1"}))
    store.update_object("a", "c", "o", lambda before: Put("x/y", {"h": "2"}))
    path = directory / "data" / made.blob
    store.close()
    path.write_bytes(path.read_bytes()[:-3])
    again = rebuilt(directory)
    assert again.object("a", "c", "o") == made
    again.close()


def test_a_full_disk_is_said_and_leaves_nothing(store: FilesStore, directory: Path) -> None:
    writer = store.write("a", "c", "big")
    writer.write(bytes(MIB // 2))
    with full_disk(MIB), pytest.raises(StorageFull, match="object store is full"):
        writer.write(bytes(MIB))
    writer.abandon()
    assert names(store) == []
    assert on_disk(directory) == set()
    put(store, "o", b"1")
    with full_disk(1), pytest.raises(StorageFull):
        put(store, "p", b"2")
    with full_disk(1), pytest.raises(StorageFull):
        store.update_object("a", "c", "o", lambda before: Put("x/y", {"h": "2"}))
    assert names(store) == ["o"]
    assert content(store, "o") == b"1"


def test_memory_stays_flat(store: FilesStore) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writer, chunk = store.write("a", "c", "big"), bytes(MIB)
    for _ in range(200):
        writer.write(chunk)
    writer.commit(Put("x/y"))
    reader = store.open("a", "c", "big")
    assert reader is not None
    assert sum(len(part) for part in reader.chunks()) == 200 * MIB
    reader.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 30 * 1024


def test_nobody_else_may_read_the_files(store: FilesStore, directory: Path) -> None:
    put(store, "o", b"1")
    for path in directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
