"""Domains, projects, users, groups: life cycles, and what is irregular about each."""

import pytest

from tests.identity.conftest import Cloud, project

V3 = "/identity/v3"


def made(cloud: Cloud, who: str, noun: str, **fields: object) -> str:
    answer = cloud.post(f"{V3}/{noun}s", {noun: fields}, who)
    assert answer.status == 201, answer.content
    return str(answer.json[noun]["id"])


def test_life_of_a_user(cloud: Cloud, admin: str) -> None:
    new = {"name": "ann", "domain_id": "default", "password": "one", "email": "ann@example.org", "enabled": True}
    answer = cloud.post(f"{V3}/users", {"user": new}, admin)
    user = answer.json["user"]
    assert answer.status == 201
    assert set(user) == {"id", "name", "domain_id", "enabled", "options", "password_expires_at", "email", "links"}
    assert len(user["id"]) == 32
    url = f"{V3}/users/{user['id']}"
    assert user["links"] == {"self": f"http://cloud.test{url}"}
    assert cloud.get(url, admin).json["user"] == user
    changed = cloud.patch(url, {"user": {**user, "email": "a@example.org", "colour": "red"}}, admin).json["user"]
    assert (changed["email"], changed["colour"]) == ("a@example.org", "red")
    assert cloud.patch(url, {"user": {"id": "other"}}, admin).status == 400
    assert cloud.patch(url, {"user": {"domain_id": "other"}}, admin).status == 400
    assert cloud.post(f"{V3}/users", {"user": new}, admin).status == 409
    token = cloud.token("ann", password="one")
    assert cloud.get(url, token).status == 200
    assert cloud.get(f"{V3}/users", token).status == 403
    assert cloud.patch(url, {"user": {"password": "two"}}, admin).status == 200
    assert cloud.get(url, token).status == 401
    token = cloud.token("ann", password="two")
    assert cloud.delete(url, admin).status == 204
    assert cloud.get(url, token).status == 401
    assert cloud.get(url, admin).json["error"] == {
        "code": 404,
        "message": f"Could not find user: {user['id']}.",
        "title": "Not Found",
    }


def test_no_password_in_an_answer(cloud: Cloud, admin: str) -> None:
    answer = cloud.post(f"{V3}/users", {"user": {"name": "x", "password": 12345678}}, admin)
    assert answer.status == 400
    assert b"12345678" not in answer.content
    answer = cloud.post(f"{V3}/users", {"user": {"name": "x", "password": "12345678"}}, admin)
    assert b"12345678" not in answer.content
    assert b"$2b$" not in answer.content


def test_filters(cloud: Cloud, admin: str) -> None:
    for name in ("anna", "annb", "carl"):
        made(cloud, admin, "user", name=name, enabled=name != "annb")

    def names(query: str) -> list[str]:
        return sorted(user["name"] for user in cloud.get(f"{V3}/users?{query}", admin).json["users"])

    assert names("name=carl") == ["carl"]
    assert names("name__contains=nn") == ["anna", "annb"]
    assert names("name__istartswith=AN&enabled=true") == ["anna"]
    assert names("enabled=False") == ["annb"]
    assert names("domain_id=nowhere") == []
    page = cloud.get(f"{V3}/users?limit=2", admin).json
    assert len(page["users"]) == 2
    assert page["links"]["next"]


def test_the_tree_of_projects(cloud: Cloud, admin: str) -> None:
    top = made(cloud, admin, "project", name="top")
    mid = made(cloud, admin, "project", name="mid", parent_id=top)
    low = made(cloud, admin, "project", name="low", parent_id=mid)
    shown = cloud.get(f"{V3}/projects/{low}?parents_as_ids", admin).json["project"]
    assert shown["parents"] == {mid: {top: {"default": None}}}
    assert shown["domain_id"] == "default"
    shown = cloud.get(f"{V3}/projects/{top}?subtree_as_ids&parents_as_list", admin).json["project"]
    assert (shown["subtree"], shown["parents"]) == ({mid: {low: None}}, [])
    shown = cloud.get(f"{V3}/projects/{top}?subtree_as_list", admin).json["project"]
    assert [entry["project"]["id"] for entry in shown["subtree"]] == [mid, low]
    assert cloud.delete(f"{V3}/projects/{mid}", admin).status == 403
    assert cloud.patch(f"{V3}/projects/{mid}", {"project": {"enabled": False}}, admin).status == 403
    assert cloud.patch(f"{V3}/projects/{low}", {"project": {"parent_id": top}}, admin).status == 403
    assert cloud.patch(f"{V3}/projects/{low}", {"project": {"enabled": False}}, admin).status == 200
    assert cloud.post(f"{V3}/projects", {"project": {"name": "x", "parent_id": low}}, admin).status == 403
    assert cloud.post(f"{V3}/projects", {"project": {"name": "x", "parent_id": "none"}}, admin).status == 404
    deep = made(cloud, admin, "project", name="3", parent_id=mid)
    deeper = made(cloud, admin, "project", name="5", parent_id=made(cloud, admin, "project", name="4", parent_id=deep))
    assert cloud.post(f"{V3}/projects", {"project": {"name": "6", "parent_id": deeper}}, admin).status == 403
    above = cloud.get(f"{V3}/projects/{deeper}", admin).json["project"]["parent_id"]
    for one in (deeper, above, deep, low, mid, top):
        assert cloud.delete(f"{V3}/projects/{one}", admin).status == 204


def test_tags(cloud: Cloud, admin: str) -> None:
    first = made(cloud, admin, "project", name="first", tags=["a", "b"])
    second = made(cloud, admin, "project", name="second", tags=["b"])
    url = f"{V3}/projects/{first}/tags"

    def listed(query: str) -> set[str]:
        found = {row["id"] for row in cloud.get(f"{V3}/projects?{query}", admin).json["projects"]}
        return found & {first, second}

    assert listed("tags=a,b") == {first}
    assert listed("tags-any=a,b") == {first, second}
    assert listed("not-tags=a") == {second}
    assert listed("not-tags-any=a,b") == set()
    assert cloud.put(f"{url}/c", None, admin).status == 201
    assert cloud("HEAD", f"{url}/c", admin).status == 204
    assert cloud.delete(f"{url}/a", admin).status == 204
    assert cloud.get(f"{url}/a", admin).status == 404
    assert cloud.get(url, admin).json["tags"] == ["b", "c"]
    assert cloud.put(url, {"tags": ["z"]}, admin).json["tags"] == ["z"]
    assert cloud.put(url, {"tags": ["z", "z"]}, admin).status == 400
    assert cloud.put(f"{url}/a,b", None, admin).status == 400
    assert cloud.delete(url, admin).status == 204
    assert cloud.get(url, admin).json["tags"] == []


def test_groups(cloud: Cloud, admin: str) -> None:
    group = made(cloud, admin, "group", name="g")
    user = made(cloud, admin, "user", name="ann", password="p")
    url = f"{V3}/groups/{group}/users/{user}"
    assert cloud("HEAD", url, admin).status == 404
    for _ in range(2):
        assert cloud.put(url, None, admin).status == 204
    assert cloud("HEAD", url, admin).status == 204
    assert [row["id"] for row in cloud.get(f"{V3}/groups/{group}/users", admin).json["users"]] == [user]
    own = cloud.get(f"{V3}/users/{user}/groups", cloud.token("ann", password="p"))
    assert [row["id"] for row in own.json["groups"]] == [group]
    assert cloud.put(f"{V3}/groups/{group}/users/none", None, admin).status == 404
    assert cloud.delete(url, admin).status == 204
    assert cloud.delete(url, admin).status == 404
    assert cloud.delete(f"{V3}/groups/{group}", admin).status == 204


def test_a_domain_takes_all_with_it(cloud: Cloud, admin: str) -> None:
    domain = made(cloud, admin, "domain", name="acme")
    user = made(cloud, admin, "user", name="u", password="p", domain_id=domain)
    group = made(cloud, admin, "group", name="g", domain_id=domain)
    tenant = made(cloud, admin, "project", name="p", domain_id=domain)
    role = made(cloud, admin, "role", name="r", domain_id=domain)
    member = cloud.get(f"{V3}/roles?name=member", admin).json["roles"][0]["id"]
    assert cloud.put(f"{V3}/projects/{tenant}/users/{user}/roles/{member}", None, admin).status == 204
    token = cloud.token("u", {"project": {"id": tenant}}, "p", domain)
    url = f"{V3}/domains/{domain}"
    assert cloud.get(url, token).status == 200
    assert cloud.delete(url, admin).status == 403
    assert cloud.patch(url, {"domain": {"enabled": False}}, admin).status == 200
    assert cloud.get(url, token).status == 401
    assert cloud.auth({"id": user, "password": "p"}).status == 401
    assert cloud.delete(url, admin).status == 204
    gone = (("users", user), ("groups", group), ("projects", tenant), ("roles", role), ("domains", domain))
    for noun, id_ in gone:
        assert cloud.get(f"{V3}/{noun}/{id_}", admin).status == 404
    assert cloud.get(f"{V3}/role_assignments?user.id={user}", admin).json["role_assignments"] == []


@pytest.mark.parametrize(
    ("noun", "body"),
    [
        ("users", {"user": {}}),
        ("users", {"user": {"name": ""}}),
        ("users", {"user": {"name": "x" * 256}}),
        ("users", {"user": {"name": "x", "enabled": "yes"}}),
        ("users", {"user": {"name": "x", "options": {"cat": True}}}),
        ("projects", {"project": {"name": "x" * 65}}),
        ("projects", {"project": {"name": "x", "tags": ["a/b"]}}),
        ("projects", {}),
        ("domains", {"domain": {"name": 7}}),
        ("groups", {"group": {"name": None}}),
    ],
)
def test_bad_input(cloud: Cloud, admin: str, noun: str, body: object) -> None:
    answer = cloud.post(f"{V3}/{noun}", body, admin)
    assert answer.status == 400
    assert answer.json["error"]["title"] == "Bad Request"


def test_a_default_project(cloud: Cloud, admin: str) -> None:
    tenant = cloud.get(f"{V3}/projects?name=demo", admin).json["projects"][0]["id"]
    user = cloud.get(f"{V3}/users?name=demo", admin).json["users"][0]["id"]
    assert cloud.patch(f"{V3}/users/{user}", {"user": {"default_project_id": tenant}}, admin).status == 200
    demo = {"id": user, "password": "demo-secret"}
    assert cloud.auth(demo).json["token"]["project"]["id"] == tenant
    assert "project" not in cloud.auth(demo, "unscoped").json["token"]
    assert cloud.patch(f"{V3}/users/{user}", {"user": {"default_project_id": "none"}}, admin).status == 200
    assert "project" not in cloud.auth(demo).json["token"]


def test_people_of_one_domain(cloud: Cloud, admin: str) -> None:
    domain = made(cloud, admin, "domain", name="acme")
    boss = made(cloud, admin, "user", name="boss", password="p", domain_id=domain)
    roles = {role["name"]: role["id"] for role in cloud.get(f"{V3}/roles", admin).json["roles"]}
    assert cloud.put(f"{V3}/domains/{domain}/users/{boss}/roles/{roles['manager']}", None, admin).status == 204
    manager = cloud.token("boss", {"domain": {"id": domain}}, "p", domain)
    user = made(cloud, manager, "user", name="ann")
    tenant = made(cloud, manager, "project", name="p")
    shown = cloud.get(f"{V3}/users", manager).json["users"]
    assert {row["id"] for row in shown} == {boss, user}
    assert [row["id"] for row in cloud.get(f"{V3}/domains", manager).json["domains"]] == [domain]
    assert cloud.post(f"{V3}/users", {"user": {"name": "x", "domain_id": "default"}}, manager).status == 403
    theirs = cloud.get(f"{V3}/users?name=demo", admin).json["users"][0]["id"]
    for method in ("GET", "DELETE"):
        assert cloud(method, f"{V3}/users/{theirs}", manager).status == 403
    grant = f"{V3}/projects/{tenant}/users/{user}/roles"
    assert cloud.put(f"{grant}/{roles['member']}", None, manager).status == 204
    assert cloud.put(f"{grant}/{roles['admin']}", None, manager).status == 403
    assert cloud.put(f"{V3}/projects/{tenant}/users/{theirs}/roles/{roles['member']}", None, manager).status == 403
    assert cloud.put(f"{V3}/system/users/{user}/roles/{roles['reader']}", None, manager).status == 403
    seen = cloud.get(f"{V3}/role_assignments", manager).json["role_assignments"]
    assert {next(iter(line["scope"].values()))["id"] for line in seen} == {domain, tenant}
    assert cloud.post(f"{V3}/domains", {"domain": {"name": "y"}}, manager).status == 403


def test_a_reader_of_the_system(cloud: Cloud, admin: str) -> None:
    user = made(cloud, admin, "user", name="auditor", password="p")
    reader = cloud.get(f"{V3}/roles?name=reader", admin).json["roles"][0]["id"]
    assert cloud.put(f"{V3}/system/users/{user}/roles/{reader}", None, admin).status == 204
    token = cloud.token("auditor", {"system": {"all": True}}, "p")
    for noun in ("users", "projects", "domains", "groups", "roles", "services", "endpoints", "role_assignments"):
        assert cloud.get(f"{V3}/{noun}", token).status == 200, noun
    assert cloud.post(f"{V3}/users", {"user": {"name": "x"}}, token).status == 403
    assert cloud.get(f"{V3}/auth/system", token).json["system"] == [{"all": True}]
    plain = cloud.token("demo", project("demo"))
    for noun in ("users", "projects", "domains", "groups", "roles", "services", "endpoints", "role_assignments"):
        assert cloud.get(f"{V3}/{noun}", plain).status == 403, noun
