"""Who may do what: for every operation, nobody, each role of the project, and a member of another one."""

from typing import Any

import pytest

from tests.contract import samples, specimens
from tests.contract.cloud import Cloud
from tests.contract.declared import Operation, accepted_fields, name_of, operations
from trilith.kernel.declare import Route, Verb
from trilith.kernel.policy import allowed

ROLES = ("reader", "member", "manager", "owner", "admin", "stranger")
CLOSED = [o for o in operations() if o.policy != "public"]
OWN_THINGS = {  # what anybody may do, for it is theirs alone
    "compute.keypairs:create",
    "compute.keypairs:delete",
    "identity.application_credentials:create",
    "identity.application_credentials:delete",
    "identity:DELETE /identity/v3/auth/tokens",
}
every = pytest.mark.parametrize("operation", CLOSED, ids=lambda o: o.id)


def body_of(cloud: Cloud, operation: Operation) -> Any:
    """A body that the operation takes."""
    noun = operation.noun
    if own := specimens.BODIES.get(operation.id):
        return own(cloud)
    if operation.kind == "create":
        assert noun is not None
        specimen = specimens.SPECIMENS.get(name_of(noun))
        assert specimen is not None, f"nobody says how to make a {name_of(noun)}"
        content = specimen.body(cloud, 77)
        return content if noun.envelope is None else {noun.envelope: content}
    if operation.kind == "update":
        assert noun is not None
        fields = accepted_fields(noun, "update")
        for name, item in fields.items():
            if not item.policy and item.accepted(operation.version):
                value = samples.good(item.kind, operation.version)
                change = {item.wire or name: value}
                return change if noun.envelope is None else {noun.envelope: change}
        return {noun.envelope: {}}
    if operation.kind == "verb":
        assert isinstance(operation.declared, Verb)
        return {operation.verb: samples.good(operation.declared.body, operation.version)}
    if operation.kind == "route":
        assert isinstance(operation.declared, Route)
        kind = operation.declared.body
        return samples.good(kind, operation.version) if kind is not None else None
    return None


@every
def test_without_a_token(cloud: Cloud, operation: Operation) -> None:
    answer = cloud.perform(operation, None, body_of(cloud, operation))
    assert answer.status == 401


@every
@pytest.mark.parametrize("who", ROLES)
def test_role(cloud: Cloud, operation: Operation, who: str) -> None:
    """403 where the declared policy says so, 404 for what is not the caller's, and neither where all is well."""
    body = body_of(cloud, operation)
    person = cloud.people[who]
    row = None
    if operation.noun is not None and (operation.about_a_row or operation.noun.parent is not None):
        row = cloud.specimen(operation.noun)
    seen = row is None or cloud.visible(operation, row, who)
    status = cloud.perform(operation, who, body).status
    streams = isinstance(operation.declared, Route) and operation.declared.stream
    if streams:  # they find their row by themselves
        assert (status in (403, 404)) or allowed(operation.policy, person, None)
        return
    at_once = operation.kind in ("create", "update", "list", "detail") or not operation.about_a_row
    if at_once and not allowed(operation.policy, person, None):
        assert status == 403
    elif not seen:
        assert status == 404
    elif operation.about_a_row and not allowed(operation.policy, person, row):
        assert status == 403
    elif operation.kind in ("list", "detail", "show"):
        assert status == 200
    elif "anyone" in operation.policy or (who == "stranger" and row is None and "{" in operation.path):
        assert status != 401  # the operation itself decides
    else:
        assert status not in (401, 403, 405), "the declared policy allows it"


WRITES = [o for o in CLOSED if not o.reads and o.id not in OWN_THINGS]


@pytest.mark.parametrize("operation", WRITES, ids=lambda o: o.id)
def test_a_reader_changes_nothing(cloud: Cloud, operation: Operation) -> None:
    body = body_of(cloud, operation)
    before = cloud.version()
    cloud.perform(operation, "reader", body)
    assert cloud.version() == before


ABOUT_ROWS = [o for o in CLOSED if o.about_a_row and o.noun is not None]


@pytest.mark.parametrize("operation", ABOUT_ROWS, ids=lambda o: o.id)
def test_a_stranger_neither_changes_nor_reads(cloud: Cloud, operation: Operation) -> None:
    noun = operation.noun
    assert noun is not None
    row = cloud.specimen(noun)
    body = body_of(cloud, operation)
    before = cloud.version()
    status = cloud.perform(operation, "stranger", body).status
    assert cloud.version() == before
    if row.get("project_id") == cloud.people["member"].project_id and noun.owner == "project_id":
        assert status in (403, 404), "it is of another project"


LISTS = [o for o in CLOSED if o.kind in ("list", "detail") and o.noun is not None]


@pytest.mark.parametrize("operation", LISTS, ids=lambda o: o.id)
def test_a_list_has_ones_own_only(cloud: Cloud, operation: Operation) -> None:
    noun = operation.noun
    assert noun is not None
    row = cloud.specimen(noun)
    if row.get("project_id", "") != cloud.people["member"].project_id or noun.owner != "project_id":
        return
    theirs = cloud.perform(operation, "stranger")
    assert str(row[noun.key]).encode() not in theirs.content
    if noun.fields and operation.kind == "list":
        mine = cloud.perform(operation, "reader")
        assert mine.status != 200 or str(row[noun.key]).encode() in mine.content


@pytest.mark.parametrize("operation", [o for o in CLOSED if o.kind == "create"], ids=lambda o: o.id)
def test_who_may_make_can_make_and_take_away(cloud: Cloud, operation: Operation) -> None:
    noun = operation.noun
    assert noun is not None
    row = cloud.make(noun, 78)
    maker = specimens.SPECIMENS[name_of(noun)].who
    url = f"{cloud.url(operation)}/{row[noun.key]}"
    if "show" in noun.policy:
        shown = cloud.ask("GET", url, maker, at=operation.at)
        assert shown.status == 200, shown.content
    if "delete" in noun.policy:
        gone = cloud.ask("DELETE", url, maker, at=operation.at)
        assert gone.status in (200, 202, 204), gone.content


def test_own_things_are_declared() -> None:
    known = {o.id for o in CLOSED}
    assert known >= OWN_THINGS
