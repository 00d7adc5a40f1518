"""One cloud of fakes behind real HTTP for all that is sent here; at the end it must be as it was."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.cloud import Cloud
from trilith.cluster import proc


@dataclass
class Target:
    cloud: Cloud
    token: str
    admin: str

    def workers(self) -> list[int]:
        api = self.cloud.processes()["api"]
        return sorted(pid for pid in proc.session_members(api) if pid != api)

    def uploads(self) -> list[str]:
        """What lies in the image store besides what is published."""
        places = [self.cloud.state.images / name for name in ("incoming", "staging")]
        return [path.name for place in places for path in place.iterdir()]


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    directory = Path(tempfile.mkdtemp(prefix="trilith-", dir="/var/tmp"))
    cloud = Cloud(directory)
    try:
        cloud.up()
        found = Target(cloud, cloud.sign_in("demo"), cloud.sign_in("admin"))
        workers = found.workers()
        yield found
        assert found.workers() == workers, f"a worker of the API has died\n{cloud.logs()}"
        assert found.uploads() == []
    finally:
        cloud.down()
        shutil.rmtree(directory, ignore_errors=True)
