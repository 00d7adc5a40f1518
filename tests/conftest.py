"""Which database a test's cloud is in: SQLite for all, for some files MariaDB too. With ``--database=mariadb`` all run
there that neither look into SQLite's file nor start a whole cloud."""

from collections.abc import Iterator

import pytest

from tests.database import DATABASES, Server

ON_BOTH = (
    "tests/kernel/test_statements.py",
    "tests/kernel/test_store.py",
    "tests/kernel/test_pipeline.py",
    "tests/kernel/test_portable.py",
    "tests/kernel/test_processes.py",
    "tests/schema/test_migrate.py",
    "tests/compute/test_at_once.py",
    "tests/compute/test_servers.py",
    "tests/identity/test_people.py",
    "tests/image/test_images.py",
    "tests/network/test_ports.py",
    "tests/volume/test_volumes.py",
)
KINDS = ("sqlite", "mariadb")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=KINDS, default="sqlite", help="what tests that run on either run on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(metafunc.config.rootpath).as_posix()
    if path in ON_BOTH and metafunc.config.getoption("--database") == "sqlite":
        metafunc.parametrize("database", KINDS, indirect=True)


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kind of database of this test."""
    DATABASES.kind = getattr(request, "param", request.config.getoption("--database"))
    yield DATABASES.kind
    DATABASES.forget()


@pytest.fixture
def mariadb(database: str) -> Server:
    """The session's server, for tests of MariaDB alone."""
    DATABASES.kind = "mariadb"
    return DATABASES.running()


def pytest_sessionfinish() -> None:
    DATABASES.stop()
