"""Credentials of the cloud's own processes, and how a host gets its own."""

import time
from typing import Any

import pytest

from tests.client import Answer
from tests.identity.conftest import Cloud
from trilith.identity import tokens
from trilith.identity.credentials import digest, new_join_token, register
from trilith.placement.hosts import register as register_host

AGENT = "/agent/v1"


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def name_of(cloud: Cloud, secret: str) -> Any:
    answer = cloud.get(f"{AGENT}/whoami", None, headers=bearer(secret))
    return answer.json["name"] if answer.status == 200 else answer.status


@pytest.fixture
def tokens_file(cloud: Cloud) -> dict[str, Any]:
    """What a deployment left for the API."""
    found: dict[str, Any] = {}
    cloud.app.settings = {"join_tokens": lambda: found}
    cloud.app.store.run(lambda tx: register(tx, {"hub": "s2", "controller": "s3"}))
    for host in ("c1", "c2"):
        cloud.app.store.run(lambda tx, name=host: register_host(tx, name, f"id-{name}", ["compute"], "nova"))  # type: ignore[misc]
    return found


def join(cloud: Cloud, host: str, token: str, secret: str) -> Answer:
    return cloud.post(f"{AGENT}/join", {"host": host, "token": token, "digest": digest(secret)}, None)


def test_who_is_who(cloud: Cloud, tokens_file: dict[str, Any], admin: str, demo: str) -> None:
    cloud.app.store.run(lambda tx: register(tx, {"host-c1": "s1"}))
    assert [name_of(cloud, secret) for secret in ("s1", "s2", "s3", "s4")] == ["host-c1", "hub", "controller", 401]
    found = cloud.app.store.read(lambda tx: tokens.authenticate(tx, {"authorization": "Bearer s1"}))
    assert (found.host, found.roles) == ("c1", frozenset())
    assert cloud.get(f"{AGENT}/whoami", demo).status == 403
    cloud.app.store.run(lambda tx: register(tx, {"host-c1": "s5"}))
    assert [name_of(cloud, secret) for secret in ("s1", "s5")] == [401, "host-c1"]


def test_a_host_joins_once_and_may_repeat_itself(cloud: Cloud, tokens_file: dict[str, Any]) -> None:
    token, tokens_file["c1"] = new_join_token()
    assert join(cloud, "c2", token, "mine").status == 401
    for _ in range(2):  # the first answer was lost
        assert join(cloud, "c1", token, "mine").json == {"name": "host-c1"}
    assert join(cloud, "c1", token, "a thief's").status == 401
    assert name_of(cloud, "mine") == "host-c1"
    assert name_of(cloud, "a thief's") == 401


def test_tokens_that_are_not_taken(cloud: Cloud, tokens_file: dict[str, Any]) -> None:
    token, tokens_file["c1"] = new_join_token()
    assert join(cloud, "c1", "another", "mine").status == 401
    assert join(cloud, "c9", token, "mine").status == 401
    tokens_file["c1"]["expires_at_s"] = time.time() - 1
    assert join(cloud, "c1", token, "mine").status == 401
    stray, tokens_file["c9"] = new_join_token()
    assert join(cloud, "c9", stray, "mine").status == 404


def test_a_host_that_was_taken_out_needs_a_new_token(cloud: Cloud, tokens_file: dict[str, Any]) -> None:
    token, tokens_file["c1"] = new_join_token()
    join(cloud, "c1", token, "mine")
    assert cloud.delete(f"{AGENT}/credentials/host-c1", None, headers=bearer("mine")).status == 403
    assert cloud.delete(f"{AGENT}/credentials/host-c1", None, headers=bearer("s3")).status == 204
    assert name_of(cloud, "mine") == 401
    assert join(cloud, "c1", token, "mine").status == 401
    again, tokens_file["c1"] = new_join_token()
    assert join(cloud, "c1", again, "mine").status == 200
    assert name_of(cloud, "mine") == "host-c1"
