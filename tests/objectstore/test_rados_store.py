"""What is special about a store in RADOS: processes that die between two changes, or stand still; other controllers."""

from collections.abc import Callable

import pytest

from tests.objectstore.stores import content, names, put
from trilith.drivers.rados_fake import FakeRados
from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore import rados_store
from trilith.objectstore.listing import each
from trilith.objectstore.rados_blobs import LEASE_S, PIECE_BYTES, RUN_BLOBS
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Container, Page, Put, StorageFull, Store

BIG = bytes(range(256)) * (PIECE_BYTES * 5 // 2 // 256)


class Died(BaseException):
    """The process ended here."""


@pytest.fixture
def rados(monkeypatch: pytest.MonkeyPatch) -> FakeRados:
    monkeypatch.setattr(rados_store, "READERS_S", -1.0)  # nobody reads what was replaced
    return FakeRados()


@pytest.fixture
def store(rados: FakeRados) -> RadosStore:
    made = RadosStore(rados)
    made.create_container("a", "c", {})
    return made


def pieces(rados: FakeRados) -> list[str]:
    return sorted(name for name in rados.held if name.startswith("d."))


def dying_at(number: int, rados: FakeRados) -> Callable[[str], None]:
    left = number

    def count(name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died(name)

    rados.before_change = count
    return count


def overwrite(store: Store) -> None:
    put(store, "old", BIG[::-1])


def put_new(store: Store) -> None:
    put(store, "new", BIG, Put("x/y", delete_at_s=7))


def delete(store: Store) -> None:
    store.delete_object("a", "c", "old")


def post(store: Store) -> None:
    store.update_object("a", "c", "old", lambda before: Put("x/z", delete_at_s=9))


def make_container(store: Store) -> None:
    store.create_container("b", "d", {})


def delete_container(store: Store) -> None:
    store.delete_container("a", "empty")


def told(store: Store) -> list[object]:
    """Everything that users can see, but times."""
    seen: list[object] = []
    for account in ("a", "b"):
        found = store.account(account)
        seen.append((found.container_count, found.object_count, found.size_bytes) if found else None)
        for container in store.list_containers(account, Page()):
            seen += [container.name, store.container(account, container.name) is not None]
            for entry in each(Page(), lambda page: store.list_objects(account, container.name, page)):  # noqa: B023
                reader = store.open(account, container.name, entry.name)
                assert reader is not None
                seen += [entry.name, reader.object.content_type, b"".join(reader.chunks())]
    return seen + [(due.name, due.delete_at_s) for due in store.due(99)]


def begun(rados: FakeRados) -> RadosStore:
    store = RadosStore(rados)
    for container in ("c", "empty"):
        store.create_container("a", container, {})
    put(store, "old", BIG, Put("x/y", delete_at_s=5))
    return store


@pytest.mark.parametrize("act", [overwrite, put_new, delete, post, make_container, delete_container])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_process_may_die_before_any_change(
    act: Callable[[Store], None], is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all of the act is seen or nothing of it, it can be done again, and in the end nothing is left over."""
    monkeypatch.setattr(rados_store, "READERS_S", -1.0)
    whole = begun(FakeRados())
    before = told(whole)
    act(whole)
    done = told(whole)
    number, has_died = 0, True
    while has_died:
        rados = FakeRados()
        first = begun(rados)
        victim = first if is_known else RadosStore(rados)
        dying_at(number, rados)
        try:
            act(victim)
            has_died = False
        except Died:
            number += 1
        rados.before_change = lambda name: None
        other = RadosStore(rados)
        after = told(other)
        assert after in ((before, done) if has_died else (done,))
        rados.skip_s = LEASE_S + 1.0
        other.sweep()
        assert told(other) == after
        if has_died and (after == before or act not in (delete, delete_container)):
            act(other)
            assert told(other) == done
        clean_up(other, rados)
    assert number >= 1


def clean_up(store: RadosStore, rados: FakeRados) -> None:
    """Take everything away; nothing may be left."""
    for account in ("a", "b"):
        for container in store.list_containers(account, Page()):
            for entry in store.list_objects(account, container.name, Page()):
                store.delete_object(account, container.name, entry.name)
            store.delete_container(account, container.name)
    store.sweep()
    store.close()
    rados.skip_s += LEASE_S + 1.0
    RadosStore(rados).sweep()
    left = {name: held.values for name, held in rados.held.items() if not name.startswith("a.")}
    assert left.keys() <= {"containers", "orphans", "sessions", "endings"}, left
    RadosStore(rados).due(8 * 86400)
    assert not any(left.values()), left


def test_states_in_between_are_never_seen(store: RadosStore, rados: FakeRados) -> None:
    put(store, "old", BIG)
    other, seen = RadosStore(rados), []

    def look(name: str) -> None:
        rados.before_change = lambda name: None
        seen.append((content(other, "old") in (BIG, BIG[::-1]), other.account("a")))
        rados.before_change = look

    rados.before_change = look
    overwrite(store)
    assert len(seen) > 3
    assert all(is_whole for is_whole, _ in seen)
    assert len({str(account) for _, account in seen}) == 1


def test_who_stood_still_cannot_put_what_was_swept_away(store: RadosStore, rados: FakeRados) -> None:
    late = store.write("a", "c", "late")
    late.write(BIG)
    other = RadosStore(rados)
    assert other.sweep() == 0
    rados.skip_s = LEASE_S + 1.0
    assert other.sweep() == 1
    with pytest.raises(Unavailable, match="stood still"):
        late.commit(Put("x/y"))
    assert names(other) == []
    put(other, "late", b"other")
    assert content(store, "late") == b"other"


def test_a_lease_that_is_renewed_is_not_swept(
    store: RadosStore, rados: FakeRados, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("trilith.objectstore.rados_blobs.awake_s", lambda: now_s)
    slow = store.write("a", "c", "slow")
    for _ in range(8):
        slow.write(BIG[: PIECE_BYTES // 2])
        now_s += LEASE_S * 0.6
        rados.skip_s += LEASE_S * 0.6
        slow.write(b"x")
        assert RadosStore(rados).sweep() == 0
    slow.commit(Put("x/y"))
    assert len(content(store, "slow")) == 4 * PIECE_BYTES + 8


def test_an_answer_that_is_lost_keeps_the_bytes_until_it_is_known(store: RadosStore, rados: FakeRados) -> None:
    """The change of the container was made, and nobody told."""
    change = rados.change

    def lossy(name: str, *words: object) -> bool:
        change(name, *words)  # type: ignore[arg-type]
        if name.startswith("c."):
            raise Unavailable("no answer")
        return True

    rados.change = lossy  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="no answer"):
        put(store, "o", b"bytes")
    rados.change = change  # type: ignore[method-assign]
    rados.skip_s = LEASE_S + 1.0
    other = RadosStore(rados)
    other.sweep()
    assert content(other, "o") == b"bytes"


def test_a_full_pool_is_said_and_leaves_nothing(store: RadosStore, rados: FakeRados) -> None:
    def full(name: str) -> None:
        if name.startswith("d.") and name.endswith(".2"):
            error = Unavailable("Ceph is full.")
            error.kind = "too_large"
            raise error

    writer = store.write("a", "c", "big")
    writer.write(BIG)
    rados.before_change = full
    with pytest.raises(StorageFull):
        writer.commit(Put("x/y"))
    rados.before_change = lambda name: None
    writer.abandon()
    store.close()
    rados.skip_s = LEASE_S + 1.0
    RadosStore(rados).sweep()
    assert pieces(rados) == []


def test_replaced_bytes_stay_for_their_readers(
    store: RadosStore, rados: FakeRados, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rados_store, "READERS_S", 3600.0)
    put(store, "o", b"1")
    put(store, "o", b"2")
    store.delete_object("a", "c", "o")
    store.delete_container("a", "c")
    assert store.sweep() == 0
    assert len(pieces(rados)) == 2
    monkeypatch.setattr(rados_store, "READERS_S", -1.0)
    assert store.sweep() == 2
    assert pieces(rados) == []


def test_controllers_see_each_others_containers_come_and_go(store: RadosStore, rados: FakeRados) -> None:
    other = RadosStore(rados)
    put(store, "o", b"1")
    assert content(other, "o") == b"1"
    other.delete_object("a", "c", "o")
    other.delete_container("a", "c")
    with pytest.raises(Fault, match="no container"):
        put(store, "o", b"2")
    other.create_container("a", "c", {"k": "new"})
    put(store, "o", b"3")
    assert content(other, "o") == b"3"
    found = store.container("a", "c")
    assert isinstance(found, Container)
    assert (found.headers, found.object_count) == ({"k": "new"}, 1)


def test_only_containers_in_which_something_ends_are_asked(store: RadosStore, rados: FakeRados) -> None:
    put(store, "o", b"", Put("x/y", delete_at_s=100))
    store.update_object("a", "c", "o", lambda before: Put("x/y", delete_at_s=9_000))
    assert store.due(200) == []
    assert len(rados.held["endings"].values) == 2
    assert store.due(8_000) == []
    assert len(rados.held["endings"].values) == 1
    assert [due.name for due in RadosStore(rados).due(20_000)] == ["o"]
    store.delete_object("a", "c", "o")
    assert store.due(20_000) == []
    assert rados.held["endings"].values == {}


def test_long_lists_are_read_in_parts(store: RadosStore) -> None:
    wanted = [f"{number:04d}" for number in range(2500)]
    for name in wanted:
        put(store, name)
    assert names(store) == wanted
    assert names(store, reverse=True, limit=3) == wanted[:-4:-1]
    assert names(store, marker="1999", limit=2) == ["2000", "2001"]
    assert names(store, prefix="24", reverse=True, marker="2405") == wanted[2404:2399:-1]


def test_a_session_forgets_runs_that_are_over(store: RadosStore, rados: FakeRados) -> None:
    for number in range(3 * RUN_BLOBS + 1):
        put(store, f"{number % 5}")
    (session,) = (held.values for name, held in rados.held.items() if name.startswith("s."))
    assert len(session) == 1
