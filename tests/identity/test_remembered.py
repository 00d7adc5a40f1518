"""What is remembered of identity ends with any change of it, in every process."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.identity.conftest import Cloud
from trilith.identity import relations, remembered
from trilith.identity.seed import fixed_id
from trilith.identity.tokens import authenticate
from trilith.identity.users import USER
from trilith.kernel.errors import Fault
from trilith.kernel.store import Store, Tx

DEMO = {"actor_id": fixed_id("user:demo"), "target_id": fixed_id("project:demo")}


def roles(store: Store, token: str) -> set[str]:
    return set(store.read(lambda tx: authenticate(tx, {"x-auth-token": token})).roles)


def queries(store: Store, work: Callable[[Tx], Any]) -> list[str]:
    """What SQLite is asked meanwhile."""
    seen: list[str] = []

    def watched(tx: Tx) -> None:
        connection: Any = tx.connection.connection.dbapi_connection
        connection.set_trace_callback(seen.append)
        work(tx)
        connection.set_trace_callback(None)

    store.read(watched)
    return seen


def test_a_token_that_is_known_costs_one_small_row(cloud: Cloud, demo: str) -> None:
    store = cloud.app.store
    if not store.url.startswith("sqlite"):
        pytest.skip("what is asked of MariaDB is the same")
    roles(store, demo)
    (look,) = queries(store, lambda tx: authenticate(tx, {"x-auth-token": demo}))
    assert look.startswith("SELECT stamps.value")


def test_a_change_by_another_process_counts_at_once(cloud: Cloud, demo: str) -> None:
    store = cloud.app.store
    other = Store(store.url)  # has no memory in common with this one's transactions but SQL
    assert "member" in roles(store, demo)
    other.run(lambda tx: relations.forget(tx, relations.ASSIGNMENT, **DEMO))
    with pytest.raises(Fault, match="requires authentication"):
        roles(store, demo)
    row = {"role_id": fixed_id("role:reader"), "inherited": False, "actor": "user", "target": "project"}
    other.run(lambda tx: relations.add(tx, relations.ASSIGNMENT, **DEMO, **row))
    assert roles(store, demo) == {"reader"}
    other.close()


def test_what_was_rolled_back_is_not_remembered(cloud: Cloud, demo: str) -> None:
    store = cloud.app.store
    before = roles(store, demo)

    def work(tx: Tx) -> None:
        relations.forget(tx, relations.ASSIGNMENT, **DEMO)
        with pytest.raises(Fault):
            authenticate(tx, {"x-auth-token": demo})
        raise KeyError

    with pytest.raises(KeyError):
        store.run(work)
    assert roles(store, demo) == before


def test_each_change_leaves_another_stamp(cloud: Cloud) -> None:
    store = cloud.app.store

    def stamp() -> str | None:
        return store.read(lambda tx: tx.stamp(remembered.NAME))

    found = [stamp()]
    user = store.read(lambda tx: tx.rows(USER)[0])
    for name in ("a", "b", "a"):
        user = store.run(lambda tx: tx.update(USER, user, name=name))  # noqa: B023
        found.append(stamp())
    store.run(lambda tx: tx.delete(USER, user))
    assert len({*found, stamp()}) == 5
    assert store.read(lambda tx: tx.stamp("nothing")) == ""


def test_every_table_that_tokens_depend_on_is_stamped() -> None:
    from trilith.identity.application_credentials import APPLICATION_CREDENTIAL
    from trilith.identity.domains import DOMAIN
    from trilith.identity.endpoints import ENDPOINT
    from trilith.identity.projects import PROJECT
    from trilith.identity.roles import ROLE
    from trilith.identity.services import SERVICE

    nouns = (USER, DOMAIN, PROJECT, ROLE, APPLICATION_CREDENTIAL, SERVICE, ENDPOINT)
    joins = (relations.ASSIGNMENT, relations.IMPLICATION, relations.MEMBERSHIP, relations.REVOKED)
    assert all(table.info["stamp"] == remembered.NAME for table in (*(noun.table for noun in nouns), *joins))
