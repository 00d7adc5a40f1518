"""Tempest's own entry points pass, with logins into real machines (run_validation) and dynamic credentials."""

import re
from pathlib import Path

import pytest

from tests.clients import tempest
from tests.clients.cloud import Cloud


@pytest.fixture(scope="module")
def workspace(cloud: Cloud) -> Path:
    return tempest.prepare(cloud)


@pytest.mark.parametrize("name", tempest.ENTRY)
def test_entry_point(cloud: Cloud, workspace: Path, name: str) -> None:
    pattern = "^" + name.replace(".", "\\.")
    done = tempest.run(cloud, workspace, "--regex", pattern, "--concurrency", "1")
    assert done.returncode == 0, done.stdout[-6000:]
    passed = re.search(r"- Passed: (\d+)", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) > 0, done.stdout[-2000:]
