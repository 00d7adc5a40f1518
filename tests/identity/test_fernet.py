"""Keys in SQL: every process opens what any other has sealed, also right after a rotation."""

import base64
from pathlib import Path

import pytest

from trilith.identity.fernet import KEYS, Keys, Letter, make_keys, rotate_keys
from trilith.kernel.store import Store

LETTER = Letter("u", ("password",), "project", "p", 1, 2, ("a",), (0, 0))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path}/db.sqlite")
    store.create()
    return store


def make(store: Store, old_files: Path | None = None) -> None:
    store.run(lambda tx: make_keys(tx, "k", old_files))


def seal(store: Store, keys: Keys) -> str:
    return store.read(lambda tx: keys.seal(tx, LETTER))


def opens(store: Store, keys: Keys, token: str) -> bool:
    return store.read(lambda tx: keys.open(tx, token)) == LETTER


def test_two_processes_and_rotations(store: Store) -> None:
    for _ in range(2):  # the second time by another controller
        make(store)
    first, second = Keys("k"), Keys("k")
    early = seal(store, first)
    assert opens(store, second, early)
    store.run(lambda tx: rotate_keys(tx, "k"))
    assert opens(store, first, seal(store, Keys("k")))
    assert opens(store, Keys("k"), early)
    store.run(lambda tx: rotate_keys(tx, "k"))
    late = seal(store, Keys("k"))  # by a key that neither has read yet
    assert opens(store, first, late)
    assert opens(store, second, late)
    assert not opens(store, first, early)
    assert not opens(store, first, "gAAAAAnonsense")


def test_what_lies_in_sql_is_sealed(store: Store) -> None:
    make(store)
    with pytest.raises(RuntimeError, match="cluster-key"):
        seal(store, Keys("another"))


def test_old_files_are_taken_over(store: Store, tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    contents = {name: base64.urlsafe_b64encode(bytes([number]) * 32) for number, name in enumerate("017")}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    make(store, tmp_path)
    token = seal(store, Keys("k"))
    Fernet(contents["7"]).decrypt(token + "=" * (-len(token) % 4))
    assert store.read(lambda tx: len(tx.select(KEYS.select()))) == 3
