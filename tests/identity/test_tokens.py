"""Signing in, what a token shows, and what ends it."""

from typing import Any

import pytest

from tests.identity.conftest import Cloud, project
from trilith.identity import tokens
from trilith.identity.fernet import rotate_keys

V3 = "/identity/v3"
DEMO = {"name": "demo", "domain": {"name": "Default"}, "password": "demo-secret"}


def shown(cloud: Cloud, token: str, who: str | None = None) -> Any:
    return cloud.get(f"{V3}/auth/tokens", who or token, headers={"X-Subject-Token": token})


def test_version_documents(cloud: Cloud) -> None:
    root = cloud.get("/identity", None)
    assert root.status == 300
    assert root.headers["location"] == "http://cloud.test/identity/v3/"
    assert root.json["versions"]["values"][0]["id"] == "v3.14"
    v3 = cloud.get("/identity/v3/", None)
    assert v3.status == 200
    assert v3.json["version"]["links"][0]["href"] == "http://cloud.test/identity/v3/"


def test_a_project_token(cloud: Cloud) -> None:
    answer = cloud.auth(DEMO, project("demo"))
    assert answer.status == 201
    assert answer.headers["vary"] == "X-Auth-Token"
    assert len(answer.headers["x-subject-token"]) < 300
    token = answer.json["token"]
    assert set(token) == {
        "methods", "user", "audit_ids", "expires_at", "issued_at", "project", "is_domain", "roles", "catalog",
    }  # fmt: skip
    assert token["methods"] == ["password"]
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["user"]["password_expires_at"] is None
    assert token["project"]["domain"]["name"] == "Default"
    assert [role["name"] for role in token["roles"]] == ["member", "reader"]
    assert token["is_domain"] is False
    endpoint = next(e for e in token["catalog"] if e["type"] == "identity")["endpoints"][0]
    assert set(endpoint) == {"id", "interface", "region", "region_id", "url"}
    assert endpoint["url"] == "http://cloud.test/identity"
    again = shown(cloud, answer.headers["x-subject-token"])
    assert again.status == 200
    assert again.json == answer.json
    assert again.headers["x-subject-token"] == answer.headers["x-subject-token"]


def test_the_other_scopes(cloud: Cloud) -> None:
    admin = {"name": "admin", "domain": {"id": "default"}, "password": "admin-secret"}
    unscoped = cloud.auth(admin).json["token"]
    assert "catalog" not in unscoped
    assert "roles" not in unscoped
    system = cloud.auth(admin, {"system": {"all": True}}).json["token"]
    assert system["system"] == {"all": True}
    assert [role["name"] for role in system["roles"]] == ["admin", "manager", "member", "reader"]
    domain = cloud.auth(admin, {"domain": {"name": "Default"}}).json["token"]
    assert domain["domain"] == {"id": "default", "name": "Default"}
    bare = cloud.post(
        f"{V3}/auth/tokens?nocatalog",
        {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": admin}},
                "scope": project("admin"),
            }
        },
        None,
    )
    assert "catalog" not in bare.json["token"]


@pytest.mark.parametrize(
    ("user", "scope"),
    [
        ({**DEMO, "password": "wrong"}, None),
        ({**DEMO, "name": "nobody"}, None),
        ({**DEMO, "domain": {"id": "nowhere"}}, None),
        ({"id": "0" * 32, "password": "x"}, None),
        (DEMO, project("admin")),
        (DEMO, project("nothing")),
        (DEMO, {"domain": {"id": "default"}}),
        (DEMO, {"system": {"all": True}}),
    ],
)
def test_every_failure_is_the_same(cloud: Cloud, user: Any, scope: Any) -> None:
    answer = cloud.auth(user, scope)
    assert answer.status == 401
    message = "The request you have made requires authentication."
    assert answer.json == {"error": {"code": 401, "message": message, "title": "Unauthorized"}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"auth": {}},
        {"auth": {"identity": {}}},
        {"auth": {"identity": {"methods": ["password"]}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "x", "password": "x"}}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": DEMO}}, "scope": {"project": {}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": DEMO}}, "scope": {"cat": {}}}},
        {"auth": {"identity": {"methods": ["token"], "token": {}}}},
    ],
)
def test_malformed_requests(cloud: Cloud, body: Any) -> None:
    assert cloud.post(f"{V3}/auth/tokens", body, None).status == 400


def test_unsupported_method(cloud: Cloud) -> None:
    body = {"auth": {"identity": {"methods": ["magic"], "magic": {}}}}
    assert cloud.post(f"{V3}/auth/tokens", body, None).status == 401


def rescope(cloud: Cloud, token: str, scope: Any) -> Any:
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}}
    return cloud.post(f"{V3}/auth/tokens", body, None)


def test_a_token_for_a_token(cloud: Cloud) -> None:
    first = cloud.auth(DEMO)
    second = rescope(cloud, first.headers["x-subject-token"], project("demo"))
    assert second.status == 201
    assert set(second.json["token"]["methods"]) == {"token", "password"}
    assert second.json["token"]["expires_at"] == first.json["token"]["expires_at"]
    assert second.json["token"]["audit_ids"][1] == first.json["token"]["audit_ids"][0]
    assert rescope(cloud, "gAAAAAnonsense", project("demo")).status == 404


def test_revocation_ends_one_token(cloud: Cloud, demo: str) -> None:
    other = cloud.token("demo", project("demo"))
    assert cloud("HEAD", f"{V3}/auth/tokens", demo, headers={"X-Subject-Token": demo}).status == 200
    assert cloud.delete(f"{V3}/auth/tokens", other, headers={"X-Subject-Token": demo}).status == 204
    assert cloud.get(f"{V3}/auth/projects", demo).status == 401
    assert shown(cloud, demo, other).status == 404
    assert cloud.get(f"{V3}/auth/projects", other).status == 200


def test_who_may_validate(cloud: Cloud, admin: str, demo: str) -> None:
    assert shown(cloud, demo, admin).status == 200
    assert shown(cloud, admin, demo).status == 403
    assert shown(cloud, "nonsense", admin).status == 404
    assert cloud.get(f"{V3}/auth/tokens", admin).status == 404


def demo_id(cloud: Cloud, admin: str) -> str:
    return str(cloud.get(f"{V3}/users?name=demo", admin).json["users"][0]["id"])


def test_disabling_ends_tokens_for_good(cloud: Cloud, admin: str, demo: str) -> None:
    user = f"{V3}/users/{demo_id(cloud, admin)}"
    project_id = cloud.get(f"{V3}/projects?name=demo", admin).json["projects"][0]["id"]
    for url, name in ((user, "user"), (f"{V3}/projects/{project_id}", "project")):
        token = cloud.token("demo", project("demo"))
        assert cloud.patch(url, {name: {"enabled": False}}, admin).status == 200
        assert cloud.get(f"{V3}/auth/projects", token).status == 401
        assert cloud.auth(DEMO, project("demo")).status == 401
        assert cloud.patch(url, {name: {"enabled": True}}, admin).status == 200
        assert cloud.get(f"{V3}/auth/projects", token).status == 401
        assert cloud.auth(DEMO, project("demo")).status == 201


def test_a_new_password_ends_tokens(cloud: Cloud, admin: str, demo: str) -> None:
    url = f"{V3}/users/{demo_id(cloud, admin)}/password"
    wrong = {"user": {"original_password": "no", "password": "new"}}
    assert cloud.post(url, wrong, None).status == 401
    assert cloud.get(f"{V3}/auth/projects", demo).status == 200
    right = {"user": {"original_password": "demo-secret", "password": "new"}}
    assert cloud.post(url, right, demo).status == 204
    assert cloud.get(f"{V3}/auth/projects", demo).status == 401
    assert cloud.auth(DEMO).status == 401
    assert cloud.auth({**DEMO, "password": "new"}).status == 201


def test_roles_of_a_token_are_those_of_now(cloud: Cloud, admin: str, demo: str) -> None:
    user_id = demo_id(cloud, admin)
    roles = {role["name"]: role["id"] for role in cloud.get(f"{V3}/roles", admin).json["roles"]}
    project_id = cloud.get(f"{V3}/projects?name=demo", admin).json["projects"][0]["id"]
    grant = f"{V3}/projects/{project_id}/users/{user_id}/roles"
    assert cloud.put(f"{grant}/{roles['manager']}", None, admin).status == 204
    assert [role["name"] for role in shown(cloud, demo).json["token"]["roles"]] == ["manager", "member", "reader"]
    for name in ("manager", "member"):
        assert cloud.delete(f"{grant}/{roles[name]}", admin).status == 204
    assert cloud.get(f"{V3}/auth/projects", demo).status == 401


def test_keys_rotate(cloud: Cloud, demo: str) -> None:
    store = cloud.app.store

    def rotate() -> None:
        assert store.run(lambda tx: rotate_keys(tx, "cluster-key"))

    rotate()
    assert cloud.get(f"{V3}/auth/projects", demo).status == 200
    tokens.use_keys("cluster-key")  # as another process: it has read none of the keys before
    later = cloud.token("demo", project("demo"))
    rotate()
    tokens.use_keys("cluster-key")
    assert cloud.get(f"{V3}/auth/projects", demo).status == 401
    assert cloud.get(f"{V3}/auth/projects", later).status == 200
    assert not store.run(lambda tx: rotate_keys(tx, "cluster-key", if_older_s=60))


def test_a_token_ends(cloud: Cloud) -> None:
    cloud.app.settings = {"token_lifetime_s": 0}
    token = cloud.auth(DEMO, project("demo")).headers["x-subject-token"]
    assert cloud.get(f"{V3}/auth/projects", token).status == 401
    cloud.app.settings = {}
    admin = cloud.token("admin", project("admin"))
    assert shown(cloud, token, admin).status == 404
    url = f"{V3}/auth/tokens?allow_expired=1"
    assert cloud.get(url, admin, headers={"X-Subject-Token": token}).status == 200
