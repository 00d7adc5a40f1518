"""What keystone's listeners are told: ids, and nothing else."""

from tests.identity.conftest import Cloud
from tests.identity.test_people import made
from tests.identity.test_roles import V3, role_ids
from tests.notices import Told


def test_people_and_projects(cloud: Cloud, admin: str) -> None:
    told = Told(cloud.app.store)
    for kind in ("user", "project", "role", "group", "domain"):
        more = {"password": "top-secret-word"} if kind == "user" else {}
        key = made(cloud, admin, kind, name=f"new-{kind}", **more)
        assert told() == [(f"identity.{kind}.created", {"resource_info": key})]
        change = {"enabled": False} if kind == "domain" else {"description": "d"}
        assert cloud("PATCH", f"{V3}/{kind}s/{key}", admin, {kind: change}).status == 200
        assert told() == [(f"identity.{kind}.updated", {"resource_info": key})]
        assert cloud.delete(f"{V3}/{kind}s/{key}", admin).status == 204
        assert told() == [(f"identity.{kind}.deleted", {"resource_info": key})]


def test_roles_given_and_taken(cloud: Cloud, admin: str) -> None:
    user, project = made(cloud, admin, "user", name="ann"), made(cloud, admin, "project", name="x")
    role, told = role_ids(cloud, admin)["member"], Told(cloud.app.store)
    url = f"{V3}/projects/{project}/users/{user}/roles/{role}"
    payload = {"role": role, "user": user, "project": project, "inherited_to_projects": False}
    assert cloud.put(url, None, admin).status == 204
    assert told() == [("identity.role_assignment.created", payload)]
    assert cloud.put(url, None, admin).status == 204
    assert told() == []
    assert cloud.delete(url, admin).status == 204
    assert told() == [("identity.role_assignment.deleted", payload)]
    assert cloud.delete(url, admin).status == 404
    assert told() == []


def test_signing_in_is_not_told(cloud: Cloud) -> None:
    told = Told(cloud.app.store)
    cloud.token("admin")
    assert told() == []
