"""First rows: by several controllers at once, and over what an earlier version left."""

import base64
import threading
from pathlib import Path

import sqlalchemy as sa

from trilith.cluster.api import open_store
from trilith.cluster.bootstrap import bootstrap, named_id
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.state import Settings, State
from trilith.drivers.image_files import ImageFiles
from trilith.identity import passwords
from trilith.identity.fernet import KEYS
from trilith.identity.seed import MADE
from trilith.image.images import IMAGE

SETTINGS = Settings(cloud_id="c", host="h1", cluster=all_in_one("h1"), fake=True)
GUEST_ID = named_id("image:guest")


def state_of(directory: Path) -> State:
    passwords.set_rounds(4)
    state = State(directory)
    state.make_directories()
    state.make_secrets(SETTINGS)
    return state


def test_three_at_once_make_one_cloud(tmp_path: Path) -> None:
    states = [state_of(tmp_path / name) for name in ("c1", "c2", "c3")]
    for state in states:
        state.database = tmp_path / "db.sqlite"
        for path in states[0].secrets.iterdir():
            (state.secrets / path.name).write_bytes(path.read_bytes())
    ended: list[int] = []

    def start(number: int) -> None:
        settings = Settings(cloud_id="c", host=f"h{number}", cluster=all_in_one(f"h{number}"), fake=True)
        (states[number].secrets / f"host-h{number}").write_text(f"secret {number}")
        bootstrap(states[number], settings)
        ended.append(number)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [0, 1, 2]
    store = open_store(states[0], SETTINGS)
    row = store.read(lambda tx: tx.get(IMAGE, GUEST_ID))
    assert row["phase"] == "active"
    has = [state for state in states if ImageFiles(state.images).size_bytes(GUEST_ID, row["os_hash_value"])]
    assert len(has) == 1
    assert store.read(lambda tx: tx.scalar(sa.select(sa.func.count()).select_from(KEYS))) == 2
    store.close()


def test_a_deleted_guest_image_stays_deleted(tmp_path: Path) -> None:
    state = state_of(tmp_path / "s")
    bootstrap(state, SETTINGS)
    store = open_store(state, SETTINGS)
    store.run(lambda tx: tx.delete(IMAGE, tx.get(IMAGE, GUEST_ID)))
    bootstrap(state, SETTINGS)
    assert store.read(lambda tx: tx.one(IMAGE, id=GUEST_ID)) is None
    store.close()


def test_an_earlier_versions_state_goes_on(tmp_path: Path) -> None:
    state = state_of(tmp_path / "s")
    bootstrap(state, SETTINGS)
    store = open_store(state, SETTINGS)
    row = store.read(lambda tx: tx.get(IMAGE, GUEST_ID))
    path = state.images / "data" / GUEST_ID / row["os_hash_value"]
    path.rename(state.images / "aside")
    path.parent.rmdir()
    (state.images / "aside").rename(path.parent)  # one file for each image
    (state.images / ".seeded").touch()
    (state.secrets / "fernet").mkdir()
    for name in "01":
        (state.secrets / "fernet" / name).write_bytes(base64.urlsafe_b64encode(name.encode() * 32))
    for table in (MADE, KEYS):
        store.run(lambda tx, which=table: tx.execute(which.delete()))  # type: ignore[misc]
    bootstrap(state, SETTINGS)
    assert ImageFiles(state.images).size_bytes(GUEST_ID, row["os_hash_value"]) == row["size_bytes"]
    assert store.read(lambda tx: tx.get(IMAGE, GUEST_ID)) == row
    assert not (state.secrets / "fernet").exists()
    assert not (state.images / ".seeded").exists()
    store.close()
