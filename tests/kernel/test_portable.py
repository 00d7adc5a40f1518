"""Both databases compare, search, order and count alike."""

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.database import url_for
from trilith.kernel import quota
from trilith.kernel.declare import Noun, Quota, Service, flag, json, listing, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Decimal, Text
from trilith.kernel.store import COMMITS, KEEP_COMMITS_S, WRITE_QUEUE, Store, forget_commits
from trilith.kernel.wire import ComputeWire

SHELF = Service("shelf", "shelf", "/shelf", ComputeWire(), listed=False)
BOOK = Noun(
    SHELF,
    "book",
    "/books",
    dict(
        id=text(36),
        title=text(255),
        body=text(10_000_000),
        pages=whole(0, 2**62),
        weight=whole(null=True),
        price=text(20).but(kind=Decimal()),
        lent=flag(default=False),
        tags=listing(Text(60)),
        notes=json(default=dict),
    ),
    {},
    quota=Quota("books", 5),
    unique=[("project_id", "title")],
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(url_for(tmp_path))
    found.create()
    return found


def put(store: Store, *titles: str, **more: Any) -> None:
    def work(tx: Any) -> None:
        for title in titles:
            tx.insert(BOOK, {"id": f"id-{title}"[:36], "title": title, "project_id": "p"} | more)

    store.run(work)


def found(store: Store, *where: Any) -> list[str]:
    return sorted(row["title"] for row in store.read(lambda tx: tx.rows(BOOK, *where)))


def test_strings_are_equal_only_when_they_are_the_same(store: Store) -> None:
    titles = ["book", "Book", "book ", "böok", "boök", "\N{BOOKS}", "\N{CAT}"]
    put(store, *titles)
    assert [found(store, BOOK.c.title == title) for title in titles] == [[title] for title in titles]
    with pytest.raises(Fault, match="already exists"):
        put(store, "Book")
    ordered = sa.select(BOOK.c.title).order_by(BOOK.c.title)
    assert [row["title"] for row in store.read(lambda tx: tx.select(ordered))] == sorted(titles)


def test_searching_a_string(store: Store) -> None:
    put(store, "alpha", "Alpha", "al_ha", "al%ha", "al\\ha", "a/lpha")
    title = BOOK.c.title
    assert found(store, title.startswith("Al", autoescape=True)) == ["Alpha"]
    assert found(store, title.contains("l_h", autoescape=True)) == ["al_ha"]
    assert found(store, title.contains("l%h", autoescape=True)) == ["al%ha"]
    assert found(store, title.contains("l\\h", autoescape=True)) == ["al\\ha"]
    assert found(store, title.contains("a/l", autoescape=True)) == ["a/lpha"]
    assert found(store, sa.func.lower(title) == "alpha") == ["Alpha", "alpha"]
    assert found(store, title.regexp_match("^AL.HA$", flags="i")) == ["Alpha", "al%ha", "al\\ha", "al_ha", "alpha"]


def test_a_pattern_that_is_none(store: Store, database: str) -> None:
    put(store, "a")
    if database == "sqlite":
        assert found(store, BOOK.c.title.regexp_match("(", flags="i")) == []
    else:
        with pytest.raises(Fault, match="Invalid regular expression"):
            found(store, BOOK.c.title.regexp_match("(", flags="i"))


def test_what_is_written_is_read(store: Store) -> None:
    row = {"body": "ä" * 1_000_000, "pages": 2**62, "price": 1_795_300_000.123456, "lent": True, "weight": None}
    row |= {"tags": ["a", "b,c", 'say "x"'], "notes": {"b": [1, None, {"c": 2.5}], "a": "\N{CAT}"}}
    put(store, "a", **row)
    assert store.read(lambda tx: tx.one(BOOK, title="a")) | row == store.read(lambda tx: tx.one(BOOK, title="a"))
    assert found(store, BOOK.c.notes["a"].as_string() == "\N{CAT}") == ["a"]
    assert found(store, BOOK.c.notes["A"].as_string() == "\N{CAT}") == []
    assert found(store, sa.cast(BOOK.c.tags, sa.Text).contains('"b,c"', autoescape=True)) == ["a"]
    assert found(store, sa.cast(BOOK.c.tags, sa.Text).contains('"B,c"', autoescape=True)) == []
    assert found(store, BOOK.c.lent.is_(True)) == ["a"]


def test_nothing_comes_first_and_sums_are_whole(store: Store) -> None:
    put(store, "a", weight=3)
    put(store, "b", weight=None)
    put(store, "c", weight=-1)
    ordered = sa.select(BOOK.c.title).order_by(BOOK.c.weight)
    assert [row["title"] for row in store.read(lambda tx: tx.select(ordered))] == ["b", "c", "a"]
    total = store.read(lambda tx: tx.scalar(sa.select(sa.func.sum(BOOK.c.weight))))
    assert (type(total), total) == (int, 2)
    assert store.read(lambda tx: tx.scalar(sa.select(sa.func.sum(BOOK.c.price)))) is None
    mean = store.read(lambda tx: tx.scalar(sa.select(sa.func.avg(BOOK.c.weight))))
    assert (type(mean), mean) == (float, 1.0)


def test_an_update_that_changes_nothing_found_its_row(store: Store) -> None:
    put(store, "a")
    query = BOOK.table.update().where(BOOK.c.title == "a").values(lent=False)
    assert store.run(lambda tx: tx.execute(query).rowcount) == 1


def test_a_transaction_sees_one_moment(store: Store) -> None:
    put(store, "a")

    def work(tx: Any) -> tuple[int, int]:
        before = tx.count(BOOK)
        put(store, "b")
        return before, tx.count(BOOK)

    assert store.read(work) == (1, 1)
    assert store.read(lambda tx: tx.count(BOOK)) == 2


def test_a_writer_sees_what_those_before_it_wrote(store: Store) -> None:
    """It waits for its turn before it reads anything, so a quota that it counts stays as counted."""
    refused = []

    def work(number: int) -> None:
        def make(tx: Any) -> None:
            quota.check(tx, SHELF, "p", books=1)
            tx.insert(BOOK, {"id": str(number), "title": str(number), "project_id": "p"})

        try:
            Store(store.url).run(make)
        except Fault as fault:
            refused.append(fault.message)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(lambda tx: tx.count(BOOK)) == 5
    assert refused == ["Quota exceeded for books: asked 1, used 5 of 5."] * 11


def test_old_commits_are_forgotten(store: Store) -> None:
    def work(tx: Any) -> None:
        for number, age_s in enumerate((0, KEEP_COMMITS_S - 60, KEEP_COMMITS_S + 60)):
            tx.execute(COMMITS.insert().values(tx_id=str(number), attempt=1, at_s=int(tx.now_s() - age_s)))

    store.run(work)
    store.run(forget_commits)
    left = {row["tx_id"] for row in store.read(lambda tx: tx.select(sa.select(COMMITS.c.tx_id)))}
    assert "2" not in left
    assert left >= {"0", "1"}
    assert len(store.read(lambda tx: tx.select(sa.select(WRITE_QUEUE)))) == 1
