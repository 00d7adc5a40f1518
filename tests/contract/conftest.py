"""The cloud of the contract, and the list of what cannot be derived from declarations.

Each line of ``not_derived.txt`` names a test and why it cannot hold. It is expected to fail: one that passes, and one
that no test has, fails the suite, so that the list can only shrink.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.cloud import Cloud, open_cloud

HERE = Path(__file__).parent


def not_derived() -> tuple[int, dict[str, str]]:
    """What the first line counts, and the reasons by test."""
    first, *lines = (HERE / "not_derived.txt").read_text().splitlines()
    entries = [line.partition(" | ") for line in lines if line and not line.startswith("#")]
    return int(first.removeprefix("count: ")), {name: reason for name, _, reason in entries}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _, reasons = not_derived()
    for item in items:
        if HERE in item.path.parents and (reason := reasons.get(item.name)) is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def whole_cloud() -> Iterator[Cloud]:
    directory = Path(tempfile.mkdtemp(prefix="trilith-contract-", dir="/var/tmp"))
    made = open_cloud(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


@pytest.fixture
def cloud(whole_cloud: Cloud) -> Iterator[Cloud]:
    yield whole_cloud
    whole_cloud.restore()
