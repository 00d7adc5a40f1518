"""What a row looks like: exactly the declared fields, at every version at which that changes."""

from typing import Any

import pytest

from tests.contract.cloud import Cloud, at
from tests.contract.declared import Operation, boundaries, operations
from tests.contract.test_lists import lister
from trilith.kernel.declare import Noun
from trilith.kernel.versions import OLDEST, Version, text

VIEWS = [
    (operation, version)
    for operation in operations()
    if operation.kind in ("show", "list", "detail") and operation.noun is not None
    for version in boundaries(operation.noun)
]
ids = [f"{operation.id}@{text(version) if version else 'any'}" for operation, version in VIEWS]


def expected(noun: Noun, version: Version, brief: bool) -> tuple[set[str], set[str]]:
    """The names that must be there, and those that may."""
    must, may = set(), set()
    for name, item in noun.fields.items():
        if item.visible(version) and (item.brief or not brief):
            label = item.wire or name
            may.add(label)
            if item.show is None and not item.optional_in_view:
                must.add(label)
    return must, may


@pytest.mark.parametrize(("operation", "version"), VIEWS, ids=ids)
def test_view(cloud: Cloud, operation: Operation, version: Version | None) -> None:
    noun = operation.noun
    assert noun is not None
    row = cloud.specimen(noun)
    who = "member" if noun.owner == "user_id" else lister(noun)
    answer = cloud.ask("GET", cloud.url(operation), who, at=at(operation.service, version))
    assert answer.status == 200, answer.content
    body = answer.json
    brief = operation.kind == "list" and noun.detail
    if operation.kind == "show":
        views: list[dict[str, Any]] = [body if noun.envelope is None else body[noun.envelope]]
        assert noun.envelope is None or set(body) == {noun.envelope}
    else:
        views = [item[noun.name] if set(item) == {noun.name} else item for item in body[noun.plural]]
    must, may = expected(noun, version or OLDEST, brief)
    for view in views:
        unknown = set(view) - may
        assert not unknown or noun.extra is not None, f"not declared: {sorted(unknown)}"
        assert not must - set(view), f"missing: {sorted(must - set(view))}"
    hidden = [name for name, item in noun.fields.items() if item.hidden and isinstance(row.get(name), str)]
    for name in hidden:
        if name.endswith(("hash", "salt", "password", "key")) and row[name]:
            assert str(row[name]).encode() not in answer.content, f"{name} is shown"


@pytest.mark.parametrize(
    "operation", [o for o in operations() if o.kind == "show" and o.service.versions], ids=lambda o: o.id
)
def test_versions_of_a_service(cloud: Cloud, operation: Operation) -> None:
    """Both ends are exact, and each reply says what it was given at."""
    versions, url = operation.service.versions, cloud.url(operation)
    assert versions is not None
    for asked, status in (
        (f"{versions.newest[0]}.{versions.newest[1] + 1}", 406),
        ("99.1", 406),
        ("1.0" if versions.oldest > (1, 0) else "0.9", 406 if versions.oldest > (1, 0) else 400),
        ("2", 400),
        ("2.x", 400),
        ("-1.0", 400),
        ("2.1.1", 400),
    ):
        answer = cloud.ask("GET", url, "owner", at=f"{versions.kind} {asked}", service=operation.service)
        assert answer.status == status, f"{asked}: {answer.status}"
    newest = cloud.ask("GET", url, "owner", at=f"{versions.kind} latest")
    assert newest.headers["openstack-api-version"] == f"{versions.kind} {text(versions.newest)}"
    assert "OpenStack-API-Version" in newest.headers["vary"] or versions.legacy_header
