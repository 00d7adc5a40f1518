"""Roles, what they imply, and where they are given."""

import pytest

from tests.identity.conftest import Cloud, project
from tests.identity.test_people import made

V3 = "/identity/v3"


def role_ids(cloud: Cloud, admin: str) -> dict[str, str]:
    return {role["name"]: role["id"] for role in cloud.get(f"{V3}/roles", admin).json["roles"]}


def test_roles_of_a_domain(cloud: Cloud, admin: str) -> None:
    own = made(cloud, admin, "role", name="member", domain_id="default")
    assert own not in role_ids(cloud, admin).values()
    listed = cloud.get(f"{V3}/roles?domain_id=default", admin).json["roles"]
    assert [(role["id"], role["domain_id"]) for role in listed] == [(own, "default")]
    assert cloud.post(f"{V3}/roles", {"role": {"name": "member"}}, admin).status == 409
    other = made(cloud, admin, "domain", name="other")
    user = made(cloud, admin, "user", name="ann")
    assert cloud.put(f"{V3}/domains/{other}/users/{user}/roles/{own}", None, admin).status == 403
    assert cloud.put(f"{V3}/domains/default/users/{user}/roles/{own}", None, admin).status == 204


def test_implications(cloud: Cloud, admin: str) -> None:
    ids = role_ids(cloud, admin)
    new = made(cloud, admin, "role", name="operator")
    url = f"{V3}/roles/{new}/implies/{ids['member']}"
    assert cloud("HEAD", url, admin).status == 404
    answer = cloud.put(url, None, admin)
    assert answer.status == 201
    assert answer.json["role_inference"]["implies"]["name"] == "member"
    assert cloud("HEAD", url, admin).status == 204
    assert cloud.get(url, admin).status == 200
    assert cloud.put(f"{V3}/roles/{ids['reader']}/implies/{new}", None, admin).status == 403
    assert cloud.put(f"{V3}/roles/{new}/implies/{ids['admin']}", None, admin).status == 403
    inferences = cloud.get(f"{V3}/role_inferences", admin).json["role_inferences"]
    found = {rule["prior_role"]["name"]: [r["name"] for r in rule["implies"]] for rule in inferences}
    assert found == {"admin": ["manager"], "manager": ["member"], "member": ["reader"], "operator": ["member"]}
    assert cloud.get(f"{V3}/roles/{new}/implies", admin).json["role_inference"]["implies"][0]["id"] == ids["member"]
    assert cloud.delete(url, admin).status == 204
    assert cloud.delete(url, admin).status == 404


@pytest.mark.parametrize("actor", ["user", "group"])
@pytest.mark.parametrize("target", ["project", "domain", "system"])
def test_grants(cloud: Cloud, admin: str, actor: str, target: str) -> None:
    role = role_ids(cloud, admin)["reader"]
    place = "system" if target == "system" else f"{target}s/{made(cloud, admin, target, name='x')}"
    url = f"{V3}/{place}/{actor}s/{made(cloud, admin, actor, name='y')}/roles"
    assert cloud("HEAD", f"{url}/{role}", admin).status == 404
    for _ in range(2):
        assert cloud.put(f"{url}/{role}", None, admin).status == 204
    assert cloud("HEAD", f"{url}/{role}", admin).status == 204
    assert cloud.get(f"{url}/{role}", admin).status == 204
    assert [r["id"] for r in cloud.get(url, admin).json["roles"]] == [role]
    assert cloud.put(f"{url}/none", None, admin).status == 404
    assert cloud.delete(f"{url}/{role}", admin).status == 204
    assert cloud.delete(f"{url}/{role}", admin).status == 404
    demo = cloud.token("demo", project("demo"))
    assert cloud.put(f"{url}/{role}", None, demo).status == 403


def test_roles_by_group_and_from_above(cloud: Cloud, admin: str) -> None:
    ids = role_ids(cloud, admin)
    user = made(cloud, admin, "user", name="ann", password="p")
    group = made(cloud, admin, "group", name="g")
    top = made(cloud, admin, "project", name="top")
    low = made(cloud, admin, "project", name="low", parent_id=top)
    assert cloud.put(f"{V3}/groups/{group}/users/{user}", None, admin).status == 204
    url = f"{V3}/OS-INHERIT/projects/{top}/groups/{group}/roles/{ids['member']}/inherited_to_projects"
    assert cloud.put(url, None, admin).status == 204
    assert cloud("HEAD", url, admin).status == 204
    ann = {"id": user, "password": "p"}
    assert cloud.auth(ann, {"project": {"id": top}}).status == 401
    token = cloud.auth(ann, {"project": {"id": low}})
    assert [role["name"] for role in token.json["token"]["roles"]] == ["member", "reader"]
    mine = cloud.get(f"{V3}/auth/projects", token.headers["x-subject-token"]).json["projects"]
    assert [row["id"] for row in mine] == [low]
    lines = cloud.get(f"{V3}/role_assignments?user.id={user}&effective&include_names", admin).json["role_assignments"]
    assert [line["role"]["name"] for line in lines] == ["member", "reader"]
    scope = {"id": low, "name": "low", "domain": {"id": "default", "name": "Default"}}
    assert lines[0]["scope"] == {"project": scope, "OS-INHERIT:inherited_to": "projects"}
    assert lines[0]["links"] == {
        "assignment": f"http://cloud.test{url}",
        "membership": f"http://cloud.test{V3}/groups/{group}/users/{user}",
    }
    assert lines[1]["links"]["prior_role"].endswith(ids["member"])
    assert cloud.delete(f"{V3}/groups/{group}/users/{user}", admin).status == 204
    assert cloud.get(f"{V3}/auth/projects", token.headers["x-subject-token"]).status == 401


def test_inherited_on_a_domain(cloud: Cloud, admin: str) -> None:
    reader = role_ids(cloud, admin)["reader"]
    user = made(cloud, admin, "user", name="ann", password="p")
    url = f"{V3}/OS-INHERIT/domains/default/users/{user}/roles/{reader}/inherited_to_projects"
    assert cloud.put(url, None, admin).status == 204
    assert cloud.token("ann", project("demo"), "p")
    assert cloud.auth({"id": user, "password": "p"}, {"domain": {"id": "default"}}).status == 401
    listed = f"{V3}/OS-INHERIT/domains/default/users/{user}/roles/inherited_to_projects"
    assert [role["id"] for role in cloud.get(listed, admin).json["roles"]] == [reader]


def test_list_of_assignments(cloud: Cloud, admin: str) -> None:
    def count(query: str) -> int:
        answer = cloud.get(f"{V3}/role_assignments?{query}", admin)
        assert answer.status == 200, answer.content
        return len(answer.json["role_assignments"])

    ids = role_ids(cloud, admin)
    tenant = cloud.get(f"{V3}/projects?name=demo", admin).json["projects"][0]["id"]
    assert count("") == 4
    assert count(f"role.id={ids['admin']}") == 3
    assert count("scope.system=all") == 1
    assert count("scope.domain.id=default") == 1
    assert count(f"scope.project.id={tenant}") == 1
    assert count(f"scope.project.id={tenant}&effective&include_subtree=true") == 2
    assert count("scope.OS-INHERIT:inherited_to=projects") == 0
    for bad in ("user.id=a&group.id=b", "scope.project.id=a&scope.domain.id=b", "group.id=a&effective"):
        assert cloud.get(f"{V3}/role_assignments?{bad}", admin).status == 400
