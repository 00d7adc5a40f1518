"""Regions, services, endpoints, and the catalogue that they make."""

from tests.identity.conftest import Cloud, project
from tests.identity.test_people import made

V3 = "/identity/v3"


def test_an_endpoint_of_ones_own(cloud: Cloud, admin: str, demo: str) -> None:
    region = cloud.put(f"{V3}/regions/north", {"region": {"description": "cold"}}, admin)
    assert (region.status, region.json["region"]["id"]) == (201, "north")
    assert cloud.post(f"{V3}/regions", {"region": {"id": "north"}}, admin).status == 409
    service = made(cloud, admin, "service", type="object-store", name="swift")
    new = {"service_id": service, "interface": "public", "region_id": "north", "url": "http://o/v1/$(project_id)s"}
    endpoint = cloud.post(f"{V3}/endpoints", {"endpoint": new}, admin).json["endpoint"]
    assert endpoint["url"] == new["url"]
    assert endpoint["region"] == "north"
    tenant = cloud.get(f"{V3}/projects?name=demo", admin).json["projects"][0]["id"]
    shown = {e["type"]: e for e in cloud.get(f"{V3}/auth/catalog", demo).json["catalog"]}
    assert shown["object-store"]["endpoints"][0]["url"] == f"http://o/v1/{tenant}"
    domain = cloud.token("admin", {"domain": {"id": "default"}})
    assert {e["type"]: e for e in cloud.get(f"{V3}/auth/catalog", domain).json["catalog"]}["object-store"][
        "endpoints"
    ] == []
    assert cloud.delete(f"{V3}/regions/north", admin).status == 403
    url = f"{V3}/endpoints/{endpoint['id']}"
    assert cloud.patch(url, {"endpoint": {"enabled": False}}, admin).status == 200
    shown = {e["type"]: e for e in cloud.get(f"{V3}/auth/catalog", demo).json["catalog"]}
    assert shown["object-store"]["endpoints"] == []
    assert cloud.delete(f"{V3}/services/{service}", admin).status == 204
    assert cloud.get(url, admin).status == 404
    assert cloud.delete(f"{V3}/regions/north", admin).status == 204


def test_endpoints_are_checked(cloud: Cloud, admin: str) -> None:
    service = made(cloud, admin, "service", type="x")
    good = {"service_id": service, "interface": "public", "url": "http://x"}
    for bad in ({"service_id": "none"}, {"region_id": "none"}, {"interface": "x"}, {"url": "http://$(secret)s"}):
        assert cloud.post(f"{V3}/endpoints", {"endpoint": good | bad}, admin).status == 400, bad
    assert cloud.post(f"{V3}/endpoints", {"endpoint": good | {"region": "made"}}, admin).status == 201
    assert cloud.get(f"{V3}/regions/made", admin).status == 200


def test_regions_are_a_tree(cloud: Cloud, admin: str) -> None:
    made(cloud, admin, "region", id="a")
    made(cloud, admin, "region", id="b", parent_region_id="a")
    assert cloud.delete(f"{V3}/regions/a", admin).status == 403
    assert cloud.patch(f"{V3}/regions/a", {"region": {"parent_region_id": "b"}}, admin).status == 400
    assert cloud.post(f"{V3}/regions", {"region": {"parent_region_id": "none"}}, admin).status == 404
    assert [r["id"] for r in cloud.get(f"{V3}/regions?parent_region_id=a", admin).json["regions"]] == ["b"]


def test_seeding_again_changes_nothing(cloud: Cloud, admin: str) -> None:
    from trilith.identity.seed import seed

    user = cloud.get(f"{V3}/users?name=demo", admin).json["users"][0]["id"]
    assert cloud.delete(f"{V3}/users/{user}", admin).status == 204
    before = cloud.get(f"{V3}/endpoints", admin).json
    cloud.app.store.run(lambda tx: seed(tx, admin_password="other", demo_password="other"))
    assert cloud.get(f"{V3}/endpoints", admin).json == before
    assert cloud.get(f"{V3}/users/{user}", admin).status == 404
    assert cloud.token("admin", project("admin"))
