"""One suite for a pool of a real Ceph and for the fake of it; then the object store on the real one."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.drivers.ceph_lab import CephLab, ceph_lab
from tests.objectstore.killing import check, kill_again_and_again
from tests.objectstore.stores import content, names, put
from trilith.drivers.ceph import Access
from trilith.drivers.rados import Rados
from trilith.drivers.rados_fake import FakeRados
from trilith.kernel.errors import Unavailable
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Put

__all__ = ["ceph_lab"]
POOL = "volumes"
Driver = Rados | FakeRados


@pytest.fixture(params=["real", "fake"])
def rados(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Empty."""
    if request.param == "fake":
        yield FakeRados()
        return
    lab: CephLab = request.getfixturevalue("ceph_lab")
    made = Rados(lab.ceph.access, POOL, f"test-{uuid.uuid4()}")
    yield made
    made.close()


def test_keys_are_set_and_removed_in_one_step(rados: Driver) -> None:
    assert rados.values("o", [b"a"]) is None
    assert not rados.change("o", {b"a": b"1"})
    assert rados.create("o", {b"a": b"1", b"b": b"2", b"empty": b""})
    assert not rados.create("o", {b"a": b"other"})
    found = rados.values("o", [b"a", b"b", b"c", b"empty"])
    assert found is not None
    assert found[0] == {b"a": b"1", b"b": b"2", b"empty": b""}
    assert rados.change("o", {b"a": None, b"c": b"3", b"none": None})
    again = rados.values("o", [b"a", b"b", b"c"])
    assert again is not None
    assert again[0] == {b"b": b"2", b"c": b"3"}
    assert rados.values("o", []) == ({}, again[1])
    assert rados.remove("o")
    assert not rados.remove("o")
    assert rados.values("o", [b"b"]) is None


def test_a_change_is_bound_to_the_version_that_was_read(rados: Driver) -> None:
    rados.create("o", {b"a": b"1"})
    first = rados.values("o", [b"a"])
    assert first is not None
    assert rados.change("o", {b"b": b"1"}, first[1])
    assert not rados.change("o", {b"b": b"2"}, first[1])
    second = rados.values("o", [b"b"])
    assert second is not None
    assert second[0] == {b"b": b"1"}
    rados.remove("o")
    assert not rados.change("o", {b"b": b"3"}, second[1])
    rados.create("o", {b"a": b"new"})
    assert not rados.change("o", {b"b": b"4"}, second[1])


def test_of_many_who_count_none_is_lost(rados: Driver) -> None:
    rados.create("o", {b"n": b"0"})

    def count(_: int) -> None:
        while True:
            found = rados.values("o", [b"n"])
            assert found is not None
            if rados.change("o", {b"n": str(int(found[0][b"n"]) + 1).encode()}, found[1]):
                return
            time.sleep(random.random() / 50)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    found = rados.values("o", [b"n"])
    assert found is not None
    assert found[0] == {b"n": b"40"}


def test_keys_are_told_in_the_order_of_their_bytes(rados: Driver) -> None:
    assert rados.range("o", b"", b"", 10) is None
    keys = [b"o", b"o\x01", b"o\x7f", "oé".encode(), "o\U0010ffff".encode(), b"p"]
    rados.create("o", {key: key * 2 for key in reversed(keys)})
    assert rados.range("o", b"", b"", 10) == ([(key, key * 2) for key in keys], False)
    assert rados.range("o", b"o", b"o", 2) == ([(key, key * 2) for key in keys[1:3]], True)
    assert rados.range("o", b"o\x7f", b"o", 10) == ([(key, key * 2) for key in keys[3:5]], False)
    assert rados.range("o", b"q", b"", 10) == ([], False)


def test_many_keys_are_told_in_parts(rados: Driver) -> None:
    wanted = [f"{number:05d}".encode() for number in range(3000)]
    rados.create("o", dict.fromkeys(wanted, b"x" * 100))
    met: list[bytes] = []
    while True:
        part = rados.range("o", met[-1] if met else b"", b"", 5000)
        assert part is not None
        met += [key for key, _ in part[0]]
        if not part[1]:
            break
    assert met == wanted


def test_bytes_are_put_whole_with_their_note(rados: Driver) -> None:
    assert rados.get("o", 0, 10) is None
    assert rados.note("o") is None
    rados.put("o", bytes(range(256)) * 20_000, b"mine")
    assert rados.get("o", 1_000_000, 6) == (bytes(range(256)) * 20_000)[1_000_000:1_000_006]
    assert rados.get("o", 5_119_990, 100) == bytes(range(246, 256))
    assert rados.get("o", 9_000_000, 100) == b""
    assert rados.note("o") == b"mine"
    rados.put("o", b"")
    assert rados.get("o", 0, 10) == b""
    rados.create("p", {})
    assert rados.note("p") == b""


def test_a_lock_has_one_owner_until_its_time_is_over(rados: Driver) -> None:
    assert rados.lock("o", "me", 2)
    assert rados.lock("o", "me", 2)
    assert not rados.lock("o", "you", 2)
    deadline = time.monotonic() + 30
    while not rados.lock("o", "you", 60):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not rados.lock("o", "me", 2)


def test_it_is_of_any_thread(rados: Driver) -> None:
    rados.create("o", {})

    def work(number: int) -> None:
        for turn in range(10):
            assert rados.change("o", {f"{number}-{turn}".encode(): b"x"})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = rados.range("o", b"", b"", 1000)
    assert found is not None
    assert len(found[0]) == 80


# the real one


def test_a_cluster_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==")
    with pytest.raises(Unavailable, match="connect"):
        Rados(Access(("127.0.0.1:1",), "admin", tmp_path / "key"), POOL).values("o", [b"a"])


def test_a_pool_that_is_not_there_is_named(ceph_lab: CephLab) -> None:
    rados = Rados(ceph_lab.ceph.access, "nowhere")
    with pytest.raises(Unavailable, match="nowhere"):
        rados.values("o", [b"a"])
    rados.close()


def test_what_a_silent_process_left_is_swept(ceph_lab: CephLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trilith.objectstore.rados_blobs.LEASE_S", 3)
    access, namespace = ceph_lab.ceph.access, f"sweep-{uuid.uuid4()}"
    silent, other = (RadosStore(Rados(access, POOL, namespace)) for _ in range(2))
    silent.create_container("a", "c", {})
    put(silent, "done", b"1" * 5_000_000)
    late = silent.write("a", "c", "late")
    late.write(bytes(9_000_000))
    assert len(pieces(ceph_lab, namespace)) == 4
    assert other.sweep() == 0
    time.sleep(4)
    assert other.sweep() == 1
    assert len(pieces(ceph_lab, namespace)) == 2
    with pytest.raises(Unavailable, match="stood still"):
        late.commit(Put("x/y"))
    assert names(other) == ["done"]
    assert content(other, "done") == b"1" * 5_000_000
    silent.close()
    other.close()


def pieces(lab: CephLab, namespace: str) -> list[str]:
    words = ("rados", "--id=admin", f"--keyfile={lab.ceph.access.key_file}", "-p", POOL, "-N", namespace, "ls")
    return [name for name in lab.run(*words).split() if name.startswith("d.")]


def test_writers_may_be_killed_at_any_moment(ceph_lab: CephLab) -> None:
    access, namespace = ceph_lab.ceph.access, f"kill-{uuid.uuid4()}"
    store = RadosStore(Rados(access, POOL, namespace))
    store.create_container("a", "c", {})
    kind = f"rados:{access.monitors[0]},{access.user},{access.key_file},{POOL},{namespace}"
    check(store, kill_again_and_again(kind, acknowledged=100))
    store.close()
