"""Every field of every body: what its kind does not take is refused, and nothing that is sent does any harm."""

from typing import Any

import msgspec
import pytest

from tests.contract import samples
from tests.contract.cloud import Cloud, at
from tests.contract.declared import Operation, accepted_fields, operations
from tests.contract.test_policy import body_of
from trilith.kernel.declare import Field, Route, Verb
from trilith.kernel.kinds import Json, Object

BODIES = [o for o in operations() if o.kind in ("create", "update")]
FIELDS = [
    (operation, name, item)
    for operation in BODIES
    if operation.noun is not None
    for name, item in accepted_fields(operation.noun, operation.kind).items()
]
ids = [f"{operation.id}:{item.wire or name}" for operation, name, item in FIELDS]


def with_value(cloud: Cloud, operation: Operation, label: str, value: object) -> object:
    """The operation's usual body with this in it."""
    noun = operation.noun
    assert noun is not None
    body = body_of(cloud, operation)
    inner = body if noun.envelope is None else body[noun.envelope]
    inner = ({} if operation.kind == "update" else inner) | {label: value}
    return inner if noun.envelope is None else {noun.envelope: inner}


@pytest.mark.parametrize(("operation", "name", "item"), FIELDS, ids=ids)
def test_hostile_values(cloud: Cloud, operation: Operation, name: str, item: Field) -> None:
    """400 for what its kind refuses; for the rest a proper answer (`Cloud.ask` looks at each)."""
    label, last = item.wire or name, item.until if item.accept_until is None else item.accept_until
    version = operation.version if item.accepted(operation.version) else min(last, operation.version)
    if not item.accepted(version) or version < operation.since:
        return  # the noun ends before the field begins
    for value in samples.hostile(item.kind, version):
        answer = cloud.ask(
            operation.method,
            cloud.url(operation),
            "owner",
            with_value(cloud, operation, label, value),
            at(operation.service, version),
            operation.service,
        )
        fits = (value is None and item.null) or samples.takes(item.kind, value, version)
        assert fits or answer.status == 400, f"{samples.text_of(value)}: {answer.status} {answer.content[:300]!r}"
        cloud.restore()


VERSIONED = [
    (operation, name, item)
    for operation, name, item in FIELDS
    if (item.since if item.accept_since is None else item.accept_since) > (1, 0)
]


@pytest.mark.parametrize(
    ("operation", "name", "item"), VERSIONED, ids=[f"{o.id}:{item.wire or name}" for o, name, item in VERSIONED]
)
def test_below_its_version(cloud: Cloud, operation: Operation, name: str, item: Field) -> None:
    """A field is unknown before the version that brought it."""
    major, minor = item.since if item.accept_since is None else item.accept_since
    noun, label = operation.noun, item.wire or name
    assert noun is not None
    versions = operation.service.versions
    assert versions is not None
    if (major, minor - 1) < max(operation.since, versions.oldest) or (major, minor) > operation.version:
        return
    same = [other for n, other in noun.fields.items() if (other.wire or n) == label and other is not item]
    if any(other.accepted((major, minor - 1)) for other in same):
        return
    body = with_value(cloud, operation, label, samples.good(item.kind, operation.version))
    before = at(operation.service, (major, minor - 1))
    answer = cloud.ask(operation.method, cloud.url(operation), "owner", body, before, operation.service)
    assert answer.status == 400
    after = cloud.ask(operation.method, cloud.url(operation), "owner", body, at(operation.service, (major, minor)))
    assert b"Additional properties" not in after.content or answer.content != after.content


@pytest.mark.parametrize("operation", BODIES, ids=lambda o: o.id)
def test_unknown_field(cloud: Cloud, operation: Operation) -> None:
    noun = operation.noun
    assert noun is not None
    answer = cloud.perform(operation, "owner", with_value(cloud, operation, "no_such_field", "x"))
    assert answer.status == 400 or noun.extra is not None


@pytest.mark.parametrize("operation", BODIES, ids=lambda o: o.id)
def test_no_object_at_all(cloud: Cloud, operation: Operation) -> None:
    noun = operation.noun
    assert noun is not None
    wrong: list[Any] = [[], "x", 7, None, {}] if noun.envelope is not None else [[], "x", 7]
    if noun.envelope is not None:
        wrong += [{noun.envelope: value} for value in (None, "x", 7, [], [7])]
    for body in wrong:
        answer = cloud.ask(
            operation.method,
            cloud.url(operation),
            "owner",
            at=operation.at,
            service=operation.service,
            raw=msgspec.json.encode(body),
        )
        assert answer.status == 400, f"{body!r}: {answer.status}"


@pytest.mark.parametrize("operation", BODIES, ids=lambda o: o.id)
def test_no_json(cloud: Cloud, operation: Operation) -> None:
    url, service = cloud.url(operation), operation.service
    for raw in (b"{", b"\xff\xfe", b'{"a": 1,}', b"[" * 100_000, b"nul", b'"\\ud800"'):
        answer = cloud.ask(operation.method, url, "owner", at=operation.at, service=service, raw=raw)
        assert answer.status == 400, raw[:20]
    answer = cloud.ask(operation.method, url, "owner", None, operation.at, service, raw=b"<a/>", media="text/xml")
    assert answer.status == 415


VERBS = [o for o in operations() if o.kind == "verb"]


@pytest.mark.parametrize("operation", VERBS, ids=lambda o: o.id)
def test_verb(cloud: Cloud, operation: Operation) -> None:
    """One at a time, at its versions, with what it declares."""
    verb, service = operation.declared, operation.service
    assert isinstance(verb, Verb)
    url, body = cloud.url(operation), body_of(cloud, operation)
    bodies: tuple[Any, ...] = (body | {"other": None}, {}, [], {f"{operation.verb}-not": None}, None)
    for wrong in bodies:
        assert cloud.ask("POST", url, "owner", wrong, operation.at, service).status == 400, wrong
    if isinstance(verb.body, Object):
        if not verb.body.open_ended:
            inner = body[operation.verb] | {"no_such_key": 1}
            assert cloud.ask("POST", url, "owner", {operation.verb: inner}, operation.at, service).status == 400
        values: tuple[Any, ...] = ("x", 7, [], [{}])
        for value in values:
            assert cloud.ask("POST", url, "owner", {operation.verb: value}, operation.at, service).status == 400
    if service.versions is not None and operation.since > service.versions.oldest:
        before = at(service, (operation.since[0], operation.since[1] - 1))
        assert cloud.ask("POST", url, "owner", body, before, service).status in (400, 404)
    if service.versions is not None and operation.until < service.versions.newest:
        after = at(service, (operation.until[0], operation.until[1] + 1))
        assert cloud.ask("POST", url, "owner", body, after, service).status in (400, 404)


ROUTES = [
    operation
    for operation in operations()
    if isinstance(operation.declared, Route) and operation.method in ("POST", "PUT", "PATCH")
    if not operation.declared.stream and "host" not in operation.policy
]


@pytest.mark.parametrize("operation", VERBS + ROUTES, ids=lambda o: o.id)
def test_hostile_bodies(cloud: Cloud, operation: Operation) -> None:
    """Each member of a body with each hostile value: never our fault."""
    declared, service = operation.declared, operation.service
    assert declared is not None
    kind, url = declared.body or Json(), cloud.url(operation)
    media = next(iter(declared.media), "application/json") if isinstance(declared, Route) else "application/json"
    for value in samples.hostile(kind, operation.version):
        body = {operation.verb: value} if operation.verb else value
        raw = msgspec.json.encode(body)
        answer = cloud.ask(operation.method, url, "owner", None, operation.at, service, raw=raw, media=media)
        fits = samples.takes(kind, value, operation.version)
        assert fits or answer.status == 400, f"{samples.text_of(value)}: {answer.status} {answer.content[:300]!r}"
        cloud.restore()
