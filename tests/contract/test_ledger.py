"""That the ledger (`tools.ledger`) is true: what it calls done is declared, what is declared stands in it, and README
shows its totals."""

import re
from collections.abc import Iterator
from functools import cache
from typing import NoReturn

import pytest

from tests.contract import declared, samples
from tests.contract.cloud import Cloud
from tools import ledger
from tools.ledger import Operation, Row
from trilith.compute import hosts_proxy
from trilith.compute import services as compute_services
from trilith.image import schemas
from trilith.kernel.kinds import Object
from trilith.objectstore import messages, pipeline
from trilith.objectstore.information import information
from trilith.volume import services as volume_services

README = ledger.FOLDER.parents[2] / "README.md"

# The words that a variable part of a path may be, where upstream's references name them one by one.
WORDS = {
    "/compute/v2.1/os-certificates/{certificate}": ("root",),
    "/compute/v2.1/os-cloudpipe/{change}": ("configure-project",),
    "/compute/v2.1/os-floating-ips-bulk/{change}": ("delete",),
    "/compute/v2.1/os-hosts/{host_name}/{power_action}": hosts_proxy.POWER_ACTIONS,
    "/compute/v2.1/os-services/{action}": compute_services.ACTIONS,
    "/image/v2/schemas/{name}": tuple(schemas.SCHEMAS),
    "/volume/v3/os-services/{action}": volume_services.ACTIONS,
}
# The references name tags once, for all that can have them.
TAGS = re.compile(r"^/networking/v2\.0/[a-z-]+/{}/tags")
STORE = f"{messages.PREFIX}/v1"
LEVELS = {"account": f"{STORE}/{{}}", "container": f"{STORE}/{{}}/{{}}", "object": f"{STORE}/{{}}/{{}}/{{}}"}
# What an extension of the object store adds; ``/info`` says which there are.
EXTENSIONS = {
    "bulk_delete": (("account", "POST", "?bulk-delete"), ("account", "DELETE", "?bulk-delete")),
    "bulk_upload": (("container", "PUT", "?extract-archive"),),
    "formpost": (("object", "POST", "form"),),
    "slo": tuple(("object", method, f"?multipart-manifest={method.lower()}") for method in ("PUT", "GET", "DELETE")),
}


def bare(path: str) -> str:
    path = re.sub(r"{[^}]*}", "{}", path)
    return TAGS.sub("/networking/v2.0/{}/{}/tags", path)


def of_object_store() -> Iterator[Operation]:
    for kind, methods in pipeline.METHODS.items():
        for method in (*methods, "OPTIONS"):
            yield Operation(LEVELS[kind], method)
    for path in pipeline.OF_SERVICE:
        for method in pipeline.METHODS_OF_SERVICE:
            yield Operation(messages.PREFIX + path, method)
    for extension in information():
        for kind, method, action in EXTENSIONS.get(extension, ()):
            yield Operation(LEVELS[kind], method, action)


def _of(operation: declared.Operation) -> Iterator[Operation]:
    path, body = operation.path, getattr(operation.declared, "body", None)
    if operation.verb:
        yield Operation(bare(path), operation.method, operation.verb)
    elif path.endswith("/action") and isinstance(body, Object):
        yield from (Operation(bare(path), operation.method, action) for action in body.members)
    elif path in WORDS:
        yield from (Operation(bare(f"{path.rpartition('/')[0]}/{word}"), operation.method) for word in WORDS[path])
    else:
        yield Operation(bare(path), operation.method)


def refuses(operation: declared.Operation) -> bool:
    """Its function never returns: the type checker sees to that."""
    run = getattr(operation.declared, "run", None)
    return getattr(run, "__annotations__", {}).get("return") is NoReturn


@cache
def built() -> dict[Operation, bool]:
    """All that the tree answers, and whether it only ever refuses it."""
    found = dict.fromkeys(of_object_store(), False)
    for operation in declared.operations():
        found |= dict.fromkeys(_of(operation), refuses(operation))
    return found


def answered(operation: Operation) -> bool:
    """Where a GET is declared, HEAD is answered too (`kernel.http`)."""
    return operation in built() or (operation.method == "HEAD" and operation._replace(method="GET") in built())


def rows(*states: str) -> dict[Operation, Row]:
    return {row.operation: row for row in ledger.rows() if row.state in states}


def test_rows_are_sorted_and_unique() -> None:
    found = [(row.service, row.operation) for row in ledger.rows()]
    assert found == sorted(found)
    assert len({operation for _, operation in found}) == len(found)
    assert {row.state for row in ledger.rows()} <= set(ledger.STATES)
    assert all(row.operation.path == bare(row.operation.path) for row in ledger.rows())


def test_all_that_is_built_stands_in_the_ledger() -> None:
    assert sorted(map(str, built().keys() - rows("done", "refused", "own").keys())) == []


def test_all_that_the_ledger_calls_built_is_built() -> None:
    assert [str(operation) for operation in rows("done", "refused", "own") if not answered(operation)] == []


def test_what_is_missing_is_not_built() -> None:
    assert [str(operation) for operation in rows("missing") if answered(operation)] == []


@pytest.mark.parametrize("at", ["", "compute 2.104, volume 3.71"])
def test_what_is_missing_says_so(cloud: Cloud, at: str) -> None:
    """To an administrator, whom no policy stops: no such path, method, or action."""
    wrong = []
    for operation in rows("missing"):
        path, method, action = operation
        if path.startswith(messages.PREFIX):  # another application: `of_object_store` says what it knows
            continue
        body = {action: {}} if action else {"host": "nowhere"} if method in ("POST", "PUT", "PATCH") else None
        answer = cloud.ask(method, path.replace("{}", samples.SOME_ID), "owner", body, at)
        if answer.status not in (404, 405) and not (action and answer.status == 400):
            wrong.append(f"{operation}: {answer.status}")
    assert wrong == []


def test_what_is_refused_is_refused_always_and_for_a_reason() -> None:
    refused = {operation for operation, refuses in built().items() if refuses}
    assert rows("refused").keys() == refused
    assert all(row.reason for row in rows("refused").values())


def test_what_is_own_has_a_reason() -> None:
    assert [str(row) for row in rows("own").values() if not row.reason] == []


def test_every_extension_is_known() -> None:
    """One that adds operations must not be forgotten here: these add none, but headers and queries of others."""
    plain = {
        "swift",
        "account_quotas",
        "container_quotas",
        "dlo",
        "object_versioning",
        "staticweb",
        "symlink",
        "tempurl",
    }
    assert information().keys() == EXTENSIONS.keys() | plain | {"versioned_writes"}


def test_readme_shows_the_totals() -> None:
    """``python -m tools.ledger`` prints them."""
    assert ledger.table() in README.read_text()
