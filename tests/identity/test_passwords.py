"""What was right is known for a while, and nothing else is."""

from collections.abc import Iterator

import pytest

from tests.identity.conftest import Cloud, project
from trilith.identity import passwords
from trilith.identity.passwords import KNOWN_S, Known, OwnMemory, hash_password, is_password


class Written(OwnMemory):
    """A cache that says what was written to it."""

    def __init__(self) -> None:
        super().__init__(limit=3)
        self.names: list[str] = []

    def put(self, key: str, value: bytes, for_s: int) -> None:
        assert (value, for_s) == (b"1", KNOWN_S)
        self.names.append(key)
        super().put(key, value, for_s)


@pytest.fixture
def written() -> Iterator[Written]:
    passwords.set_rounds(4)
    made = Written()
    passwords.remember(Known("key", made))
    yield made
    passwords.remember(None)


def test_only_a_right_password_is_kept_and_none_can_be_read(written: Written) -> None:
    hashed = hash_password("right")
    assert not is_password("wrong", hashed)
    assert not is_password("right", None)
    assert written.names == []
    assert is_password("right", hashed)
    assert is_password("right", hashed)
    assert not is_password("wrong", hashed)
    (name,) = written.names
    assert "right" not in name
    assert hashed not in name


def test_what_is_known_costs_no_hashing(written: Written) -> None:
    no_hash = "bcrypt would not read this"
    Known("key", written).add(("right", no_hash))
    assert is_password("right", no_hash)
    with pytest.raises(ValueError, match="salt"):
        is_password("wrong", no_hash)


def test_who_has_another_key_can_teach_nothing(written: Written) -> None:
    hashed = hash_password("right")
    Known("other key", written).add(("guessed", hashed))
    assert not is_password("guessed", hashed)


def test_memory_is_bounded_and_ends() -> None:
    memory = OwnMemory(limit=2)
    for name in ("a", "b", "c"):
        memory.put(name, b"1", 60)
    assert [memory.get(name) for name in ("a", "b", "c")] == [None, None, b"1"]
    memory.put("c", b"2", 0)
    assert memory.get("c") is None


def test_a_new_password_and_a_disabled_user_count_at_once(cloud: Cloud, admin: str, written: Written) -> None:
    demo = cloud.token("demo", project("demo"))
    user_id = cloud.get("/identity/v3/auth/tokens", demo, headers={"x-subject-token": demo}).json["token"]["user"]["id"]
    assert written.names
    user = {"name": "demo", "domain": {"id": "default"}, "password": "demo-secret"}
    assert cloud.patch(f"/identity/v3/users/{user_id}", {"user": {"enabled": False}}, admin).status == 200
    assert cloud.auth(user).status == 401
    change = {"user": {"enabled": True, "password": "another"}}
    assert cloud.patch(f"/identity/v3/users/{user_id}", change, admin).status == 200
    assert cloud.auth(user).status == 401
    assert cloud.auth(user | {"password": "another"}).status == 201
