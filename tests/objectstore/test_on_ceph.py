"""What every object store does, on a real Ceph."""

import uuid
from collections.abc import Iterator

import pytest

from tests.drivers.ceph_lab import CephLab, ceph_lab
from tests.objectstore.test_store import *  # noqa: F403
from trilith.drivers.rados import Rados
from trilith.objectstore.rados_store import RadosStore

__all__ = ["ceph_lab"]


@pytest.fixture
def store(ceph_lab: CephLab) -> Iterator[RadosStore]:
    made = RadosStore(Rados(ceph_lab.ceph.access, "volumes", f"test-{uuid.uuid4()}"))
    made.create_container("a", "c", {})
    yield made
    made.close()
