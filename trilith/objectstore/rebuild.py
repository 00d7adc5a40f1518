"""Makes the index of a files store anew from the notes in its files, where it was lost.

Each object's newest file wins, with the last note in it; so a change of metadata that was never acknowledged, because
its writer died between note and index, counts. An object whose DELETE was acknowledged seconds before a power cut may
be back. Nobody may use the store meanwhile: whoever does holds its door (`Door`) open.
"""

import contextlib
import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trilith.objectstore import index
from trilith.objectstore.files_note import BoxNote, Files, Note
from trilith.objectstore.group_commit import told

INDEX = "index.sqlite"
FILES_A_COMMIT = 10_000


@dataclass(frozen=True)
class Rebuilt:
    """What was found; `removed`: files that are no object's."""

    containers: int
    objects: int
    removed: int


class Door:
    """Who uses the store in `directory`: many at once, or one that makes its index anew."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory / "door", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self) -> None:
        """Waits for whoever is alone in there."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def enter_alone(self) -> bool:
        """False if somebody is in there."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def rebuild(path: Path, files: Files) -> Rebuilt:
    """The index at `path`, from `files`; the one that was there is kept beside it. Alone only. Dying in the middle does
    no harm: it is begun anew."""
    fresh = path.with_name(f"{path.name}.fresh")
    _remove(fresh)
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=OFF")
            db.executescript(index.SCHEMA)
            rebuilt = _read_in(db, files)
            db.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error as error:
        raise told(error) from error
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    _set_aside(path)
    fresh.rename(path)
    _sync(path.parent)
    return rebuilt


def _read_in(db: sqlite3.Connection, files: Files) -> Rebuilt:
    db.execute("BEGIN")
    for box in files.notes():
        _put_box(db, msgspec.json.decode(box, type=BoxNote))
    removed = 0
    for number, (blob, note) in enumerate(files.blobs(), 1):
        if note is None or not _put(db, blob, msgspec.json.decode(note, type=Note)):
            files.remove([blob])
            removed += 1
        if number % FILES_A_COMMIT == 0:
            db.execute("COMMIT")
            db.execute("BEGIN")
    db.execute("COMMIT")
    containers, objects = (
        db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("containers", "objects")
    )
    return Rebuilt(containers, objects, removed)


def _put_box(db: sqlite3.Connection, note: BoxNote) -> None:
    if note.container:
        index.put_container(db, note.account, note.container, note.headers)
        index.set_container_times(db, note.account, note.container, note.timestamp_us, note.changed_us)
    else:
        index.update_account(db, note.account, note.headers)
        db.execute("UPDATE accounts SET timestamp_us = ? WHERE name = ?", (note.timestamp_us, note.account))


def _put(db: sqlite3.Connection, blob: str, note: Note) -> bool:
    """False if a newer one is known. What loses becomes garbage."""
    if index.container(db, note.account, note.container) is None:
        index.put_container(db, note.account, note.container, {})
    at = index.place(db, note.account, note.container)
    before = index.object_at(db, at, note.name)
    if before is not None and before.timestamp_us >= note.timestamp_us:
        return False
    index.put_object(db, at, note.described(blob), before)
    return True


def _set_aside(path: Path) -> None:
    lost = path.with_name(f"{path.name}.lost")
    _remove(lost)
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{lost}{suffix}")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
