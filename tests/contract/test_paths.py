"""Paths and methods: 405 with `Allow` for what is not declared, HEAD as GET without a body, 404 for the rest."""

from collections import defaultdict

import pytest

from tests.contract.cloud import Cloud
from tests.contract.declared import READS, Operation, operations

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def by_path() -> dict[str, list[Operation]]:
    found = defaultdict(list)
    for operation in operations():
        found["/".join("{}" if p.startswith("{") else p for p in operation.path.split("/"))].append(operation)
    return found


PATHS = by_path()


@pytest.mark.parametrize("path", sorted(PATHS))
def test_undeclared_methods(cloud: Cloud, path: str) -> None:
    here = PATHS[path]
    declared = {o.method for o in here}
    overlapping = {o.method for other, ops in PATHS.items() if fits(path, other) for o in ops}
    url, service = cloud.url(here[0]), here[0].service
    for method in METHODS:
        if method in declared | overlapping or (method == "HEAD" and "GET" in declared | overlapping):
            continue
        answer = cloud.ask(method, url, "owner", service=service)
        assert answer.status == 405, f"{method}: {answer.status}"
        assert declared <= set(answer.headers["allow"].replace(",", " ").split())


def fits(path: str, other: str) -> bool:
    """Whether a concrete path of one pattern may be a path of another."""
    ours, theirs = path.split("/"), other.split("/")
    if "{}" in theirs and len(theirs) <= len(ours) and other != path and other.endswith("{}") and ":path" in other:
        return True
    return len(ours) == len(theirs) and all(a == b or a == "{}" or b == "{}" for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("operation", [o for o in operations() if o.method == "GET"], ids=lambda o: o.id)
def test_head(cloud: Cloud, operation: Operation) -> None:
    """As GET, without the body."""
    url = cloud.url(operation)
    got, head = (cloud.ask(method, url, "owner", at=operation.at) for method in READS)
    assert head.content == b""
    if not any(o.method == "HEAD" for o in operations() if o.path == operation.path):
        assert head.status == got.status


def test_nowhere(cloud: Cloud) -> None:
    for service in sorted({o.service.prefix for o in operations()} | {"/nowhere", "/identity/v2.0", "/compute/v2"}):
        for path in (f"{service}/no-such-thing", f"{service}/no/such/thing/at/all/here"):
            status = cloud.ask("GET", path, "owner").status
            assert status == 404 or (status in (200, 400, 405) and service == ""), path
            assert cloud.ask("GET", path, None).status == 401


@pytest.mark.parametrize("operation", [o for o in operations() if o.about_a_row], ids=lambda o: o.id)
def test_strange_ids(cloud: Cloud, operation: Operation) -> None:
    """What nobody can have made does not exist."""
    noun = operation.noun
    assert noun is not None
    cloud.specimen(noun)
    for strange in (
        "00000000-0000-0000-0000-000000000000",
        "..",
        "%2e%2e",
        "a\x00b",
        "x" * 3000,
        "\u00e9\u2028",
        "' or 1=1",
    ):
        latin = strange.encode().decode("latin-1")
        url = cloud.url(operation, {**cloud.specimen(noun), noun.key: latin})
        answer = cloud.ask(operation.method, url, "owner", at=operation.at, service=operation.service)
        assert answer.status in (400, 403, 404, 415), f"{strange[:30]!r}: {answer.status} {answer.content[:200]!r}"
