"""The bare handler's documents are Trilith's: else what the two cost says nothing."""

from pathlib import Path

import pytest

from tests.bench import region as regions
from tests.bench.bare import Bare
from tests.bench.cost import CASES, caller
from tests.client import Client


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> regions.Region:
    found = regions.make(regions.sqlite_url(tmp_path_factory.mktemp("bare")), hosts=3)
    regions.add_servers(found, 7, 3)
    regions.add_networks(found, 2)
    regions.add_projects(found, 2)
    regions.add_images(found, 2)
    return found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bare])
def test_both_answer_the_same(region: regions.Region, name: str, tmp_path: Path) -> None:
    ours = caller(region, region.client, CASES[name])().json
    bare = caller(region, Client(Bare(region.store)), CASES[name])().json  # type: ignore[arg-type]
    assert bare == ours
