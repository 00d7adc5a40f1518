from collections.abc import Iterator

import pytest

from tests.objectstore.front.client import Objects
from tests.objectstore.model import ModelStore


@pytest.fixture
def objects() -> Iterator[Objects]:
    client = Objects(ModelStore())
    yield client
    client.application.close()
