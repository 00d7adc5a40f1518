"""Every store, one after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectstore.model import ModelStore
from tests.objectstore.stores import files_store
from trilith.objectstore.store import Store


@pytest.fixture(params=["model", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """With the container "c" in the account "a"."""
    made: Store = ModelStore() if request.param == "model" else files_store(tmp_path / "objects")
    made.create_container("a", "c", {})
    yield made
    made.close()
