"""The pipeline over three small nouns: versions, policy, paging, quota, filters, errors."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import ADMIN, MEMBER, READER, STRANGER, Client, client, token
from trilith.kernel.declare import SERVICES, Noun, Quota, Service, choice, flag, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.versions import VersionRange, v
from trilith.kernel.wire import ComputeWire, NetworkWire

ZOO = Service(
    "zoo", "zoo", "/zoo/v1", ComputeWire(), VersionRange("zoo", (1, 0), (1, 9), "X-Zoo-Version"), listed=False
)
PARK = Service("park", "park", "/park", NetworkWire(), listed=False)
CAT = Noun(
    ZOO,
    "cat",
    "/cats",
    dict(
        id=text(36, brief=True),
        name=text(20, create="required", update=True, filter=True, sort=True, brief=True),
        mood=choice("calm", "wild", create="optional", update=True, default="calm", since=v("1.2"), filter=True),
        lives=whole(1, 9, create="optional", default=9, until=v("1.5")),
        keeper=text(20, create="optional", policy="admin", see="admin"),
        created_at=time(wire="created"),
    ),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
    quota=Quota("cats", 3),
    status=dict(create=[(v("1.0"), 200), (v("1.3"), 201)], delete=204),
    unique=[("project_id", "name")],
    detail=True,
)


@CAT.verb("pet", policy="member", since=v("1.1"))
def pet(ctx, row, body):  # type: ignore[no-untyped-def]
    if row["mood"] == "wild":
        raise Fault("conflict", f"Cat {row['id']} does not want it.")
    return {"sound": "purr"}


TREE = Noun(
    PARK,
    "tree",
    "/trees",
    dict(id=text(), name=text(create="optional", update=True, default="", filter=True), shared=flag(filter=True)),
    dict(list="reader", show="reader", create="member", update="member", delete="member"),
)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    """Of a cloud that has these services too; no other test's cloud does."""
    SERVICES.extend((ZOO, PARK))
    yield client(tmp_path)
    SERVICES.remove(ZOO)
    SERVICES.remove(PARK)


def cat(api: Client, name: str, **more: object) -> str:
    return str(api.post("/zoo/v1/cats", {"cat": {"name": name, **more}}).json["cat"]["id"])


def test_without_a_token(api: Client) -> None:
    answer = api.get("/zoo/v1/cats", None)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Keystone uri="http://cloud.test/identity"'
    assert api.get("/zoo/v1/nothing", None).status == 401
    assert api.get("/zoo/v1/nothing").status == 404


def test_versions_of_fields_verbs_and_codes(api: Client) -> None:
    old = api.post("/zoo/v1/cats", {"cat": {"name": "a"}})
    assert old.status == 200
    assert set(old.json["cat"]) == {"id", "name", "lives", "created"}
    assert api.post("/zoo/v1/cats", {"cat": {"name": "b", "mood": "wild"}}).status == 400
    new = api.post("/zoo/v1/cats", {"cat": {"name": "b", "mood": "wild"}}, at="zoo latest")
    assert new.status == 201
    assert set(new.json["cat"]) == {"id", "name", "mood", "created"}
    assert new.headers["openstack-api-version"] == "zoo 1.9"
    assert api.get("/zoo/v1/cats", at="zoo 1.99").status == 406
    assert api.get("/zoo/v1/cats", at="zoo 1.x").status == 400
    wild = f"/zoo/v1/cats/{new.json['cat']['id']}/action"
    assert api.post(wild, {"pet": None}).status == 400
    assert api.post(wild, {"pet": None}, at="zoo 1.1").status == 409
    assert api.post(wild, {"kick": None}, at="zoo 1.1").status == 400


def test_bad_input_changes_nothing(api: Client) -> None:
    for body in (
        {"cat": {}},
        {"cat": {"name": "x" * 21}},
        {"cat": {"name": 7}},
        {"cat": {"name": "x", "colour": "red"}},
        [],
        {},
    ):
        answer = api.post("/zoo/v1/cats", body)
        assert answer.status == 400, body
        assert answer.json["badRequest"]["code"] == 400
    assert api.post("/zoo/v1/cats", raw=b"{not json").status == 400
    assert api.post("/zoo/v1/cats", raw=b"<cat/>", media="text/xml").status == 415
    assert api.post("/zoo/v1/cats", raw=b"x" * (2 << 20)).status == 413
    assert api("PUT", "/zoo/v1/cats").status == 405
    assert api.get("/zoo/v1/cats").json == {"cats": []}


def test_policy_scope_and_quota(api: Client) -> None:
    mine = cat(api, "a")
    assert api.get(f"/zoo/v1/cats/{mine}", STRANGER).status == 404
    assert api.get(f"/zoo/v1/cats/{mine}", READER).status == 200
    assert api.delete(f"/zoo/v1/cats/{mine}", READER).status == 403
    assert api.post("/zoo/v1/cats", {"cat": {"name": "k", "keeper": "me"}}).status == 403
    assert "keeper" in api.get(f"/zoo/v1/cats/{mine}", ADMIN).json["cat"]
    assert api.post("/zoo/v1/cats", {"cat": {"name": "a"}}).status == 409
    cat(api, "b")
    cat(api, "c")
    full = api.post("/zoo/v1/cats", {"cat": {"name": "d"}})
    assert full.status == 403
    assert full.json["forbidden"]["message"] == "Quota exceeded for cats: asked 1, used 3 of 3."
    assert api.get("/zoo/v1/cats", ADMIN).json == {"cats": []}
    assert len(api.get("/zoo/v1/cats?all_tenants=1", ADMIN).json["cats"]) == 3
    assert api.delete(f"/zoo/v1/cats/{mine}").status == 204
    assert api.get(f"/zoo/v1/cats/{mine}").status == 404


def test_lists(api: Client) -> None:
    for name in "abc":
        cat(api, name)
    first = api.get("/zoo/v1/cats?limit=2&sort_key=name&sort_dir=asc").json
    assert [set(c) for c in first["cats"]] == [{"id", "name"}] * 2
    url = first["cats_links"][0]["href"].removeprefix("http://cloud.test")
    assert [c["name"] for c in api.get(url).json["cats"]] == ["c"]
    assert "cats_links" not in api.get(url).json
    assert [c["name"] for c in api.get("/zoo/v1/cats/detail?name=b").json["cats"]] == ["b"]
    for bad in ("limit=-1", "limit=x", "marker=nobody", "sort_key=mood", "sort_dir=up&sort_key=name"):
        assert api.get(f"/zoo/v1/cats?{bad}").status == 400, bad


def test_the_network_dialect(api: Client) -> None:
    many = api.post("/park/trees", {"trees": [{"name": "oak"}, {"name": "elm"}, {"name": "ash"}]})
    assert many.status == 201
    assert len(many.json["trees"]) == 3
    one = api.post("/park/trees", {"tree": {"height": 3}})
    assert one.json["NeutronError"]["message"] == "Unrecognized attribute(s) 'height'"
    names = api.get("/park/trees?name=oak&name=elm&fields=name&sort_key=id").json["trees"]
    assert sorted(n["name"] for n in names) == ["elm", "oak"]
    assert api.get("/park/trees?colour=red").status == 400
    page = api.get("/park/trees?limit=2").json
    assert [link["rel"] for link in page["trees_links"]] == ["next"]
    rest = api.get(page["trees_links"][0]["href"].removeprefix("http://cloud.test")).json
    assert len(rest["trees"]) == 1
    back = rest["trees_links"][0]["href"].removeprefix("http://cloud.test")
    assert api.get(back).json["trees"] == page["trees"]
    tree = many.json["trees"][0]["id"]
    assert (
        api.put(f"/park/trees/{tree}", {"tree": {"name": "x"}}, headers={"If-Match": "revision_number=4"}).status == 412
    )
    assert (
        api.put(f"/park/trees/{tree}", {"tree": {"name": "x"}}, headers={"If-Match": "revision_number=0"}).status == 200
    )


def test_member_sees_no_more_than_its_project(api: Client) -> None:
    api.post("/park/trees", {"tree": {"name": "theirs"}}, STRANGER)
    assert api.get("/park/trees", MEMBER).json["trees"] == []


def test_a_token_without_a_project_makes_nothing_in_one(api: Client) -> None:
    system = token("admin", None, "ua", system=True)
    assert api.post("/zoo/v1/cats", {"cat": {"name": "a"}}, system).status == 403
    assert api.post("/zoo/v1/cats", {"cat": {"name": "a"}}, token("member", None)).status == 403
