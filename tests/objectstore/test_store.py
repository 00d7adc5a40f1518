"""What every object store does: one suite for all of them and for the model that explains them."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.objectstore.stores import content, names, put
from trilith.kernel.errors import Fault
from trilith.objectstore.store import CHUNK_BYTES, Account, Container, Due, Object, Page, Put, Store, Subdir


def refused(kind: str, message: str = "") -> "pytest.RaisesContext[Fault]":
    return pytest.raises(Fault, match=message or None, check=lambda fault: fault.kind == kind)


def absent(before: Object | None) -> None:
    if before is not None:
        raise Fault("precondition", "It is there.")


# accounts and containers


def test_an_account_comes_with_its_first_container_and_goes_when_it_has_none(store: Store) -> None:
    assert store.account("b") is None
    assert store.list_containers("b", Page()) == []
    store.update_account("b", {"x-account-meta-colour": "red", "y": "1"})
    found = store.update_account("b", {"y": None, "z": "2"})
    assert (
        found
        == store.account("b")
        == Account("b", found.timestamp_us, {"x-account-meta-colour": "red", "z": "2"}, 0, 0, 0)
    )
    store.create_container("b", "c", {})
    with refused("conflict"):
        store.delete_account("b")
    store.delete_container("b", "c")
    store.delete_account("b")
    assert store.account("b") is None
    with refused("missing"):
        store.delete_account("b")


def test_a_container_is_made_updated_and_deleted(store: Store) -> None:
    assert store.create_container("a", "d", {"x-container-read": ".r:*", "k": "1"})
    made = store.container("a", "d")
    assert made is not None
    assert made == Container(
        "a", "d", made.timestamp_us, made.timestamp_us, {"x-container-read": ".r:*", "k": "1"}, 0, 0
    )
    assert not store.create_container("a", "d", {"k": None, "l": "2"})
    changed = store.update_container("a", "d", {"x-container-read": None})
    assert changed == store.container("a", "d")
    assert changed.headers == {"l": "2"}
    assert changed.timestamp_us == made.timestamp_us < changed.changed_us
    store.delete_container("a", "d")
    assert store.container("a", "d") is None
    for act in (
        store.delete_container,
        lambda a, c: store.update_container(a, c, {}),
        lambda a, c: store.list_objects(a, c, Page()),
    ):
        with refused("missing"):
            act("a", "d")


def test_a_container_with_objects_stays(store: Store) -> None:
    put(store, "o")
    with refused("conflict"):
        store.delete_container("a", "c")
    store.delete_object("a", "c", "o")
    store.delete_container("a", "c")
    assert store.create_container("a", "c", {})
    assert names(store) == []


def test_containers_are_listed_with_their_counts_and_without_headers(store: Store) -> None:
    for name in ("b", "d/1", "d/2", "é"):
        store.create_container("a", name, {"k": "1"})
    put(store, "o", b"12345")
    every = store.list_containers("a", Page())
    assert [entry.name for entry in every] == ["b", "c", "d/1", "d/2", "é"]
    assert isinstance(every[1], Container)
    assert (every[1].object_count, every[1].size_bytes, every[1].headers, every[0].headers) == (1, 5, {}, {})
    assert [entry.name for entry in store.list_containers("a", Page(prefix="d", delimiter="/"))] == ["d/"]
    assert [entry.name for entry in store.list_containers("a", Page(marker="b", end_marker="d/2"))] == ["c", "d/1"]


# objects


def test_an_object_is_what_was_put(store: Store) -> None:
    said = Put("text/x; charset=utf-8", {"x-object-meta-a": "é", "x-object-sysmeta-slo": "1"}, {"hash": "h"}, 17)
    made = put(store, "o", b"content", said)
    assert made == Object(
        "o",
        7,
        hashlib.md5(b"content").hexdigest(),
        said.content_type,
        made.timestamp_us,
        17,
        said.headers,
        said.listed,
        made.blob,
    )
    assert made.timestamp_us % 10 == 0
    assert store.object("a", "c", "o") == made
    assert content(store, "o") == b"content"
    assert store.list_objects("a", "c", Page()) == [replace(made, headers={})]
    for place in (("a", "c", "none"), ("a", "none", "o"), ("none", "c", "o")):
        assert store.object(*place) is None
        assert store.open(*place) is None


def test_counts_follow_puts_overwrites_and_deletes(store: Store) -> None:
    def counted() -> tuple[int, ...]:
        account, container = store.account("a"), store.container("a", "c")
        assert account is not None
        assert container is not None
        assert (account.object_count, account.size_bytes) == (container.object_count, container.size_bytes)
        return account.container_count, account.object_count, account.size_bytes

    assert counted() == (1, 0, 0)
    put(store, "o", b"12345")
    put(store, "p", b"1")
    assert counted() == (1, 2, 6)
    put(store, "o", b"123456789")
    assert counted() == (1, 2, 10)
    store.update_object("a", "c", "o", lambda before: Put("x/y"))
    assert counted() == (1, 2, 10)
    store.delete_object("a", "c", "o")
    assert counted() == (1, 1, 1)


def test_bytes_are_read_in_parts(store: Store) -> None:
    whole = bytes(range(256)) * (CHUNK_BYTES * 5 // 2 // 256)
    writer = store.write("a", "c", "big")
    for start in range(0, len(whole), 100_000):
        writer.write(whole[start : start + 100_000])
    assert (writer.size_bytes, writer.etag) == (len(whole), hashlib.md5(whole).hexdigest())
    writer.commit(Put("x/y"))
    reader = store.open("a", "c", "big")
    assert reader is not None
    assert b"".join(reader.chunks()) == whole
    assert max(len(chunk) for chunk in reader.chunks()) <= CHUNK_BYTES
    assert reader.read(5, 10) == whole[5:15]
    assert reader.read(len(whole) - 3, 10) == whole[-3:]
    assert reader.read(len(whole), 10) == b""
    assert b"".join(reader.chunks(CHUNK_BYTES - 1, CHUNK_BYTES + 1)) == whole[CHUNK_BYTES - 1 : CHUNK_BYTES + 1]
    assert b"".join(reader.chunks(len(whole) - 1, len(whole) + 99)) == whole[-1:]
    reader.close()


def test_an_empty_object_is_an_object(store: Store) -> None:
    writer = store.write("a", "c", "empty")
    made = writer.commit(Put("x/y"))
    assert (made.size_bytes, made.etag) == (0, hashlib.md5(b"").hexdigest())
    assert content(store, "empty") == b""


def test_nothing_of_an_abandoned_writer_is_there(store: Store) -> None:
    for size_bytes in (5, 300_000):
        writer = store.write("a", "c", "o")
        writer.write(b"x" * size_bytes)
        writer.abandon()
        writer.abandon()
    assert names(store) == []
    kept = put(store, "o", b"kept")
    writer = store.write("a", "c", "o")
    writer.write(b"other")
    writer.abandon()
    assert store.object("a", "c", "o") == kept


def test_a_put_without_its_container_is_refused(store: Store) -> None:
    writer = store.write("a", "none", "o")
    writer.write(b"x")
    with refused("missing"):
        writer.commit(Put("x/y"))
    assert store.container("a", "none") is None


def test_a_check_sees_what_is_there_and_may_refuse(store: Store) -> None:
    seen: list[Object | None] = []
    first = put(store, "o", b"1", check=seen.append)
    second = put(store, "o", b"2", check=seen.append)
    assert seen == [None, first]
    with refused("precondition", "It is there"):
        put(store, "o", b"3", check=absent)
    with refused("precondition"):
        store.update_object("a", "c", "o", lambda before: Put("x/y"), absent)
    with refused("precondition"):
        store.delete_object("a", "c", "o", absent)
    assert store.object("a", "c", "o") == second
    assert content(store, "o") == b"2"


def test_of_many_who_put_what_must_not_be_there_one_wins(store: Store) -> None:
    together = threading.Barrier(8)

    def try_it(number: int) -> int:
        writer = store.write("a", "c", "o")
        writer.write(b"%d" % number)
        together.wait(30)
        try:
            writer.commit(Put("x/y"), absent)
        except Fault:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(8))) == 1
    assert names(store) == ["o"]


def test_of_many_puts_of_one_name_the_newest_stays_and_times_grow(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: put(store, "o", b"%d" % number), range(40)))
    newest = max(made, key=lambda each: each.timestamp_us)
    assert len({each.timestamp_us for each in made}) == len({each.blob for each in made}) == 40
    assert store.object("a", "c", "o") == newest
    assert hashlib.md5(content(store, "o")).hexdigest() == newest.etag
    container = store.container("a", "c")
    assert container is not None
    assert (container.object_count, container.size_bytes) == (1, newest.size_bytes)


def test_a_given_time_loses_against_a_newer_one(store: Store) -> None:
    assert put(store, "o", b"1", Put("x/y", timestamp_us=2_000)).timestamp_us == 2_000
    for late_us in (1_000, 2_000):
        with refused("conflict"):
            put(store, "o", b"2", Put("x/y", timestamp_us=late_us))
        with refused("conflict"):
            store.update_object("a", "c", "o", lambda before, late_us=late_us: Put("x/y", timestamp_us=late_us))
    assert put(store, "o", b"3", Put("x/y", timestamp_us=3_000)).timestamp_us == 3_000
    far_us = 9_000_000_000_000_000
    put(store, "o", b"4", Put("x/y", timestamp_us=far_us))
    assert put(store, "o", b"5").timestamp_us == far_us + 10
    assert store.update_object("a", "c", "o", lambda before: Put("x/y")).timestamp_us == far_us + 20
    assert content(store, "o") == b"5"


def test_metadata_are_replaced_and_bytes_stay(store: Store) -> None:
    made = put(store, "o", b"bytes", Put("x/y", {"a": "1", "b": "2"}, {"hash": "h"}, 99))
    changed = store.update_object(
        "a", "c", "o", lambda before: Put(before.content_type, {"b": before.headers["b"], "c": "3"})
    )
    assert changed == replace(
        made, headers={"b": "2", "c": "3"}, listed={}, delete_at_s=None, timestamp_us=changed.timestamp_us
    )
    assert changed.timestamp_us > made.timestamp_us
    assert store.object("a", "c", "o") == changed
    assert content(store, "o") == b"bytes"
    for place in (("a", "c", "none"), ("a", "none", "o")):
        with refused("missing"):
            store.update_object(*place, lambda before: Put("x/y"))


def test_no_change_of_metadata_is_lost(store: Store) -> None:
    put(store, "o", b"bytes")

    def add(number: int) -> None:
        store.update_object("a", "c", "o", lambda before: Put("x/y", {**before.headers, f"k{number}": "1"}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    found = store.object("a", "c", "o")
    assert found is not None
    assert len(found.headers) == 12


def test_a_deleted_object_is_gone(store: Store) -> None:
    made = put(store, "o", b"bytes")
    assert store.delete_object("a", "c", "o") == made
    assert store.object("a", "c", "o") is None
    assert names(store) == []
    for place in (("a", "c", "o"), ("a", "none", "o")):
        with refused("missing"):
            store.delete_object(*place)


@pytest.mark.parametrize("end", ["overwritten", "deleted"])
def test_a_reader_reads_what_it_opened(store: Store, end: str) -> None:
    old = bytes(1000) * 3000
    put(store, "o", old)
    reader = store.open("a", "c", "o")
    assert reader is not None
    if end == "deleted":
        store.delete_object("a", "c", "o")
    else:
        put(store, "o", b"new")
    assert b"".join(reader.chunks()) == old
    reader.close()


def test_objects_that_are_due_are_told_in_order(store: Store) -> None:
    for name, delete_at_s in (("late", 30), ("soon", 10), ("never", None), ("now", 20)):
        put(store, name, b"", Put("x/y", delete_at_s=delete_at_s))
    assert store.due(9) == []
    assert store.due(20) == [Due("a", "c", "soon", 10), Due("a", "c", "now", 20)]
    assert store.due(20, limit=1) == [Due("a", "c", "soon", 10)]
    put(store, "soon", b"", Put("x/y"))
    store.update_object("a", "c", "now", lambda before: Put("x/y", delete_at_s=25))
    store.delete_object("a", "c", "late")
    assert store.due(99) == [Due("a", "c", "now", 25)]


# names and lists

NAMES = [
    "a", "a/", "a/b", "a/b/c", "a//b", "/", "//", "/etc/passwd", "..", "../..", "./x", ".", "a\0b", "\0", " ", "\t",
    "%2e%2e", "é", "日本", "\U0010ffff", "\U0001f600/x", "\ud7ff", "\ue000", "~", "A", "CON",
    "x" * 1024, "a\nb", "'", '"', "%", "_",
]  # fmt: skip


def test_any_name_is_a_name(store: Store) -> None:
    for name in NAMES:
        put(store, name, name.encode())
        store.create_container(name, name, {})
        assert store.container(name, name) is not None
    assert names(store) == sorted(NAMES, key=str.encode)
    for name in NAMES:
        assert content(store, name) == name.encode()
        store.delete_object("a", "c", name)
    assert names(store) == []


def test_pages_by_marker_meet_every_name_once(store: Store) -> None:
    for name in NAMES:
        put(store, name)
    for reverse in (False, True):
        met: list[str] = []
        while part := names(store, marker=met[-1] if met else "", limit=3, reverse=reverse):
            met += part
        assert met == sorted(NAMES, reverse=reverse)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (dict(), "a b/ b/c b/d/1 b/d/2 b0 c"),
        (dict(limit=0), ""),
        (dict(limit=2), "a b/"),
        (dict(prefix="b"), "b/ b/c b/d/1 b/d/2 b0"),
        (dict(prefix="b/", delimiter="/"), "b/ b/c b/d/"),
        (dict(delimiter="/"), "a b/ b0 c"),
        (dict(delimiter="/", limit=2), "a b/"),
        (dict(delimiter="/", marker="b/"), "b0 c"),
        (dict(delimiter="/", marker="b/c"), "b/ b0 c"),
        (dict(delimiter="/", marker="a", end_marker="b0"), "b/"),
        (dict(delimiter="/", reverse=True), "c b0 b/ a"),
        (dict(delimiter="/", reverse=True, marker="b0"), "b/ a"),
        (dict(delimiter="/", reverse=True, marker="b/"), "a"),
        (dict(delimiter="/", reverse=True, end_marker="b/"), "c b0"),
        (dict(reverse=True, marker="b/d/2", end_marker="b/"), "b/d/1 b/c"),
        (dict(prefix="b/d/", marker="b/c"), "b/d/1 b/d/2"),
        (dict(prefix="b/d/", marker="c"), ""),
        (dict(prefix="b/d/", end_marker="b/d/2"), "b/d/1"),
        (dict(prefix="none"), ""),
        (dict(delimiter="/d"), "a b/ b/c b/d b0 c"),
        (dict(prefix="b/", delimiter="/d/"), "b/ b/c b/d/1 b/d/2"),
        (dict(delimiter="0"), "a b/ b/c b/d/1 b/d/2 b0 c"),
    ],
)
def test_lists_are_rolled_up_and_cut_as_asked(store: Store, words: dict[str, object], told: str) -> None:
    for name in ("a", "b/", "b/c", "b/d/1", "b/d/2", "b0", "c"):
        put(store, name)
    found = store.list_objects("a", "c", Page(**words))  # type: ignore[arg-type]
    assert [entry.name for entry in found] == told.split()
    delimiter = str(words.get("delimiter", ""))
    for entry in found:
        is_rolled_up = bool(delimiter) and delimiter in entry.name[len(str(words.get("prefix", ""))) :]
        assert isinstance(entry, Subdir) == is_rolled_up
