"""A region for measurements is one in which everything works: requests are answered, storms come to rest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import region as regions
from tests.bench.fleet import Fleet
from tests.bench.region import AT, COMPUTE, Region
from tests.bench.scale import calls_of, make_region, waiting_hosts

HOSTS, SERVERS = 3, 1200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("region")


@pytest.fixture(scope="module")
def region(place: Path) -> Iterator[Region]:
    found = make_region(regions.sqlite_url(place), HOSTS, SERVERS)
    yield found
    found.store.close()


def _listed(region: Region, path: str, who: str) -> int:
    return len(region.client.get(f"{COMPUTE}/servers{path}", who, at=AT).json["servers"])


def test_servers_are_spread_over_projects(region: Region) -> None:
    own = _listed(region, "?limit=1000", region.member)
    assert own == 1000
    rest = region.client.get(f"{COMPUTE}/servers?all_tenants=1&project_id=project-1", region.admin, at=AT).json
    assert len(rest["servers"]) + own == SERVERS


def test_all_that_is_measured_is_answered(region: Region) -> None:
    for call in calls_of(region).values():
        call()  # raises where it is not


def test_a_storm_comes_to_rest(region: Region, place: Path) -> None:
    with Fleet(regions.sqlite_url(place), region, place) as fleet:
        assert fleet.create(5).count == 5
        assert waiting_hosts(region)
        fleet.settle(waiting_hosts(region))
        assert waiting_hosts(region) == []
        assert _listed(region, "?name=storm&status=ACTIVE", region.member) == 5
        spent = fleet.resync([regions.name_of(number) for number in range(HOSTS)])
        assert (spent.count, spent.cpu_s > 0) == (HOSTS, True)
