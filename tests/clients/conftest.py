from collections.abc import Iterator

import pytest

from tests.clients.cloud import Cloud


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """A cloud with real QEMU and real OVN."""
    found = Cloud(port=18774)
    try:
        found.up()
        yield found
    finally:
        found.down()
