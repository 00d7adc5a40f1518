"""Every store, one after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectstore.model import ModelStore
from tests.objectstore.stores import files_store
from trilith.drivers.rados_fake import FakeRados
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Store


@pytest.fixture(params=["model", "files", "rados"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """With the container "c" in the account "a"."""
    makers = {
        "model": ModelStore,
        "files": lambda: files_store(tmp_path / "objects"),
        "rados": lambda: RadosStore(FakeRados()),
    }
    made: Store = makers[request.param]()
    made.create_container("a", "c", {})
    yield made
    made.close()
