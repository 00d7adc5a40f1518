"""Application credentials: what they lend, what ends them, and the rules that bind them."""

from typing import Any

from tests.identity.conftest import Cloud, project

V3 = "/identity/v3"


def own_id(cloud: Cloud, token: str) -> str:
    shown = cloud.get(f"{V3}/auth/tokens", token, headers={"X-Subject-Token": token})
    return str(shown.json["token"]["user"]["id"])


def lend(cloud: Cloud, token: str, **fields: Any) -> Any:
    url = f"{V3}/users/{own_id(cloud, token)}/application_credentials"
    return cloud.post(url, {"application_credential": {"name": "ac", **fields}}, token)


def enter(cloud: Cloud, scope: Any = None, **given: Any) -> Any:
    auth: dict[str, Any] = {"identity": {"methods": ["application_credential"], "application_credential": given}}
    if scope:
        auth["scope"] = scope
    return cloud.post(f"{V3}/auth/tokens", {"auth": auth}, None)


def test_life(cloud: Cloud, demo: str, admin: str) -> None:
    answer = lend(cloud, demo, secret=None)
    assert answer.status == 201
    made = answer.json["application_credential"]
    assert len(made["secret"]) > 60
    assert {role["name"] for role in made["roles"]} == {"member", "reader"}
    url = f"{V3}/users/{made['user_id']}/application_credentials/{made['id']}"
    shown = cloud.get(url, demo).json["application_credential"]
    assert "secret" not in shown
    assert "secret_hash" not in shown
    token = enter(cloud, id=made["id"], secret=made["secret"])
    assert token.status == 201
    assert token.json["token"]["methods"] == ["application_credential"]
    assert token.json["token"]["application_credential"] == {"id": made["id"], "name": "ac", "restricted": True}
    by_name = enter(cloud, name="ac", user={"id": made["user_id"]}, secret=made["secret"])
    assert by_name.status == 201
    assert enter(cloud, id=made["id"], secret="wrong").status == 401
    assert enter(cloud, id="none", secret="wrong").status == 401
    assert enter(cloud, project("admin"), id=made["id"], secret=made["secret"]).status == 401
    assert lend(cloud, demo).status == 409
    assert cloud.get(url.rsplit("/", 1)[0], cloud.token("admin", project("admin"))).status == 200
    limited = token.headers["x-subject-token"]
    assert lend(cloud, limited, name="other").status == 403
    assert cloud.delete(url, limited).status == 403
    assert cloud.delete(url, demo).status == 204
    assert cloud.get(f"{V3}/auth/projects", limited).status == 401


def test_of_others(cloud: Cloud, demo: str, admin: str) -> None:
    made = lend(cloud, admin).json["application_credential"]
    url = f"{V3}/users/{made['user_id']}/application_credentials"
    assert cloud.get(url, demo).json["application_credentials"] == []
    assert cloud.get(f"{url}/{made['id']}", demo).status == 404
    assert cloud.post(url, {"application_credential": {"name": "x"}}, demo).status == 403


def test_lent_roles_bring_what_they_imply_and_no_more(cloud: Cloud, admin: str) -> None:
    made = lend(cloud, admin, roles=[{"name": "member"}], unrestricted=True).json["application_credential"]
    token = enter(cloud, id=made["id"], secret=made["secret"])
    assert [role["name"] for role in token.json["token"]["roles"]] == ["member", "reader"]
    again = {"identity": {"methods": ["token"], "token": {"id": token.headers["x-subject-token"]}}}
    rescoped = cloud.post(f"{V3}/auth/tokens", {"auth": again}, None)
    assert [role["name"] for role in rescoped.json["token"]["roles"]] == ["member", "reader"]
    wider = again | {"scope": {"system": {"all": True}}}
    assert cloud.post(f"{V3}/auth/tokens", {"auth": wider}, None).status == 401


def test_roles_that_one_has_not_got(cloud: Cloud, demo: str) -> None:
    assert lend(cloud, demo, roles=[{"name": "admin"}]).status == 400
    assert lend(cloud, demo, roles=[{"name": "nothing"}]).status == 404


def test_it_ends(cloud: Cloud, demo: str, admin: str) -> None:
    assert lend(cloud, demo, expires_at="2020-01-01T00:00:00").status == 400
    made = lend(cloud, demo, expires_at="2999-01-01T00:00:00.000000").json["application_credential"]
    token = enter(cloud, id=made["id"], secret=made["secret"]).headers["x-subject-token"]
    member = cloud.get(f"{V3}/roles?name=member", admin).json["roles"][0]["id"]
    url = f"{V3}/projects/{made['project_id']}/users/{made['user_id']}/roles/{member}"
    assert cloud.delete(url, admin).status == 204
    assert cloud.get(f"{V3}/auth/projects", token).status == 401
    assert enter(cloud, id=made["id"], secret=made["secret"]).status == 401


def test_access_rules_bind(cloud: Cloud, demo: str) -> None:
    rules = [
        {"service": "identity", "method": "GET", "path": "/v3/auth/projects"},
        {"service": "identity", "method": "GET", "path": "/identity/v3/users/*/groups"},
    ]
    made = lend(cloud, demo, access_rules=rules).json["application_credential"]
    token = enter(cloud, id=made["id"], secret=made["secret"]).headers["x-subject-token"]
    user = f"{V3}/users/{made['user_id']}"
    assert cloud.get(f"{V3}/auth/projects", token).status == 200
    assert cloud.get(f"{user}/groups", token).status == 200
    for other in (f"{V3}/auth/catalog", user, f"{user}/groups/x"):
        assert cloud.get(other, token).status == 403
    listed = cloud.get(f"{user}/access_rules", demo).json["access_rules"]
    assert {rule["path"] for rule in listed} == {"/v3/auth/projects", "/identity/v3/users/*/groups"}
    one = f"{user}/access_rules/{listed[0]['id']}"
    assert cloud.delete(one, demo).status == 403
    assert lend(cloud, demo, name="again", access_rules=[{"id": listed[0]["id"]}]).status == 201
    assert len(cloud.get(f"{user}/access_rules", demo).json["access_rules"]) == 2
    for credential in cloud.get(f"{user}/application_credentials", demo).json["application_credentials"]:
        assert cloud.delete(f"{user}/application_credentials/{credential['id']}", demo).status == 204
    assert cloud.delete(one, demo).status == 204
    assert lend(cloud, demo, access_rules=[{"path": "/x"}]).status == 400
