"""The schema over several versions, on both databases: two versions side by side, several starters, cut short."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.database import DATABASES
from trilith.cluster.schema import migrate, steps
from trilith.cluster.schema.migrate import Revision, contract, prepare
from trilith.cluster.state import Problem
from trilith.kernel.store import Store

NUMBERS = itertools.count()
OLD = sa.Table("boats", sa.MetaData(), sa.Column("id", sa.String(8), primary_key=True), sa.Column("sail", sa.String(8)))
NEW = sa.Table(
    "boats", sa.MetaData(), sa.Column("id", sa.String(8), primary_key=True), sa.Column("motor", sa.Integer())
)


class Cut(Exception):
    """The process is gone in the middle of a revision."""


def first() -> None:
    steps.create_table(
        "boats", sa.Column("id", sa.String(8), nullable=False), sa.Column("sail", sa.String(8)),
        sa.PrimaryKeyConstraint("id"),
    )  # fmt: skip
    steps.create_index("ix_boats_sail", "boats", ["sail"])


def motors() -> None:
    steps.add_column("boats", sa.Column("motor", sa.Integer()))
    steps.create_index("ix_boats_motor", "boats", ["motor"])


def no_sails() -> None:
    steps.drop_column("boats", "sail")


VERSION_1 = [Revision("r0001_first", "expand", first)]
VERSION_2 = [*VERSION_1, Revision("r0002_motors", "expand", motors), Revision("r0003_no_sails", "contract", no_sails)]
VERSION_3 = [*VERSION_2, Revision("r0004_nothing", "expand", lambda: None)]


@pytest.fixture
def store(tmp_path: Path, database: str) -> Iterator[Store]:
    """A database without any table."""
    name = f"empty{next(NUMBERS)}"
    found = Store(f"sqlite:///{tmp_path}/db.sqlite" if database == "sqlite" else DATABASES.running().make(name))
    yield found
    found.close()
    if database == "mariadb":
        DATABASES.running().drop(name)


def columns(store: Store, table: str = "boats") -> set[str]:
    return store.read(lambda tx: {found["name"] for found in sa.inspect(tx.connection).get_columns(table)})


def sails(store: Store, key: str) -> list[Any]:
    """What the older version does."""
    store.run(lambda tx: tx.execute(OLD.insert().values(id=key, sail="red")))
    store.run(lambda tx: tx.execute(OLD.update().where(OLD.c.id == key).values(sail="blue")))
    return store.read(lambda tx: tx.select(sa.select(OLD).order_by(OLD.c.id)))


def motor(store: Store, key: str) -> list[Any]:
    """What the newer version does."""
    store.run(lambda tx: tx.execute(NEW.insert().values(id=key, motor=1)))
    return store.read(lambda tx: tx.select(sa.select(NEW).order_by(NEW.c.id)))


def test_a_rolling_upgrade(store: Store) -> None:
    for host in ("c1", "c2"):
        for process in ("api", "controller"):
            prepare(store, process, host, VERSION_1)
    assert columns(store) == {"id", "sail"}
    sails(store, "a")

    prepare(store, "api", "c1", VERSION_2)
    assert columns(store) == {"id", "sail", "motor"}
    assert sails(store, "b")[-1] == {"id": "b", "sail": "blue"}
    assert motor(store, "c")[-1] == {"id": "c", "motor": 1}
    prepare(store, "controller", "c2", VERSION_1)  # of the older version, started again: it may

    for process, host in (("controller", "c1"), ("api", "c2")):
        prepare(store, process, host, VERSION_2)
        assert contract(store, ["c1", "c2"], VERSION_2) == []
    prepare(store, "controller", "c2", VERSION_2)
    assert contract(store, ["c1", "c2"], VERSION_2) == ["r0003_no_sails"]
    assert columns(store) == {"id", "motor"}
    assert contract(store, ["c1", "c2"], VERSION_2) == []
    assert [row["id"] for row in motor(store, "d")] == ["a", "b", "c", "d"]
    with pytest.raises(Problem, match="newer version"):
        prepare(store, "api", "c2", VERSION_1)


def test_a_host_that_was_removed_holds_up_nobody(store: Store) -> None:
    for host in ("c1", "gone"):
        prepare(store, "api", host, VERSION_1)
    prepare(store, "api", "c1", VERSION_2)
    assert contract(store, ["c1", "gone"], VERSION_2) == []
    assert contract(store, ["c1"], VERSION_2) == ["r0003_no_sails"]


def test_a_new_database_takes_everything_and_a_later_version_waits_for_nothing(store: Store) -> None:
    prepare(store, "api", "c1", VERSION_2)
    assert columns(store) == {"id", "motor"}
    prepare(store, "api", "c1", VERSION_3)
    assert list(store.read(migrate._applied)) == [revision.name for revision in VERSION_3]


def test_it_is_cut_short_and_begun_anew(store: Store) -> None:
    def cut() -> None:
        steps.add_column("boats", sa.Column("motor", sa.Integer()))
        raise Cut

    prepare(store, "api", "c1", VERSION_1)
    sails(store, "a")
    with pytest.raises(Cut):
        prepare(store, "api", "c1", [*VERSION_1, Revision("r0002_motors", "expand", cut), VERSION_2[2]])
    prepare(store, "api", "c1", VERSION_2)  # the same host does not wait for its own lease
    assert columns(store) == {"id", "sail", "motor"}
    assert sails(store, "b") == [{"id": "a", "sail": "blue"}, {"id": "b", "sail": "blue"}]


def test_three_controllers_start_at_once(store: Store) -> None:
    ran: list[str] = []
    problems: list[BaseException] = []

    def noted() -> None:
        ran.append("first")
        first()

    def start(host: str) -> None:
        other = Store(store.url)
        try:
            prepare(other, "api", host, [Revision("r0001_first", "expand", noted), *VERSION_2[1:]])
        except (Problem, sa.exc.DBAPIError) as error:
            problems.append(error)
        other.close()

    threads = [threading.Thread(target=start, args=(f"c{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert ran == ["first"]
    assert columns(store) == {"id", "motor"}


def test_tables_that_were_made_before_there_were_revisions(store: Store) -> None:
    """What is missing is added, rows stay."""
    old = sa.Table(
        "compute_keypairs",
        sa.MetaData(),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer(), nullable=False),
    )
    old.create(store.engine)
    store.run(lambda tx: tx.execute(old.insert().values(id="a", generation=1)), queue=False)
    prepare(store, "api", "c1")
    assert {"fingerprint", "public_key", "generation"} <= columns(store, "compute_keypairs")
    assert store.read(lambda tx: tx.select(sa.select(old))) == [{"id": "a", "generation": 1}]


def check(*url: str) -> str:
    argv = [sys.executable, "-m", "tools.revision", "--check", *url]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]).stdout


def test_the_revisions_make_what_the_declarations_say(store: Store) -> None:
    """Else: python -m tools.revision 'what changes'."""
    assert check(store.url) == ""


def test_every_revision_has_a_number_of_its_own() -> None:
    numbers = [revision.name[:5] for revision in migrate.known()]
    assert numbers == [f"r{number:04}" for number in range(1, len(numbers) + 1)]
