"""That the contract is about the whole program, and that the list of what it cannot derive only shrinks."""

import subprocess
import sys
from typing import Any

import pytest

from tests.contract import declared, specimens
from tests.contract.cloud import Cloud
from tests.contract.conftest import not_derived


def test_every_module_is_part_of_the_program() -> None:
    """A module that nothing imports declares nothing."""
    code = "import sys, trilith.cluster.api, trilith.cluster.bootstrap, trilith.cluster.controller\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    forgotten = [name for name in declared.modules() if name not in loaded and not name.endswith("_plan")]
    assert forgotten == []


def test_every_noun_has_a_specimen(cloud: Cloud) -> None:
    assert cloud.broken == {}
    made_by_others = {name for name, noun in declared.nouns().items() if set(noun.policy) <= {"list"}}
    assert declared.nouns().keys() - specimens.SPECIMENS.keys() <= made_by_others
    assert specimens.SPECIMENS.keys() <= declared.nouns().keys()


def test_what_specimens_say_is_about_operations() -> None:
    known = {operation.id for operation in declared.operations()}
    assert specimens.BODIES.keys() | specimens.BYTES | {name for name, _ in specimens.PATHS if name} <= known


def test_ids_are_unique() -> None:
    ids = [operation.id for operation in declared.operations()]
    assert sorted(ids) == sorted(set(ids))


def test_not_derived_only_shrinks(request: pytest.FixtureRequest) -> None:
    """Its first line counts its entries, each has a reason, and each is the name of a test."""
    count, reasons = not_derived()
    assert len(reasons) == count
    assert all(reasons.values())
    collected: set[Any] = {item.name for item in request.session.items}
    if len(collected) > 2000:  # a run of the whole folder
        assert reasons.keys() <= collected
