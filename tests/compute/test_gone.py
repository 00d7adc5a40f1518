"""What upstream took back at every version, each line of the ledger that says so: 410 in compute's shape, and before
that the token, the version and the body."""

import pytest

from tests.client import ADMIN, READER, Answer, token
from tests.compute.conftest import BASE, Cloud
from tools import ledger
from tools.ledger import Operation

GONE = [row.operation for row in ledger.rows() if row.service == "compute" and row.reason.endswith(": 410")]
MESSAGE = "This resource is no longer available.  No forwarding address is given."
UNSCOPED = token("member", None)
FLOATING_IPS = f"{BASE}/os-floating-ips-bulk"
NETWORK = f"{BASE}/os-networks/some"


@pytest.fixture
def server(cloud: Cloud) -> str:
    return cloud.server(settled=False)


def ask(cloud: Cloud, operation: Operation, server: str, who: str | None, at: str = "") -> Answer:
    body = {operation.action: {"host": "h"}} if operation.action else None
    return cloud.api(operation.method, operation.path.replace("{}", server), who, body, at)


def test_all_that_upstream_took_back_is_asked() -> None:
    """Its route table has 46 such operations; seven more are actions."""
    assert len(GONE) == 53
    assert len([operation for operation in GONE if operation.action]) == 7


@pytest.mark.parametrize("at", ["", "compute 2.35", "compute 2.36", "compute 2.104"])
def test_gone(cloud: Cloud, server: str, at: str) -> None:
    """The same to each role: nothing is there that one may have and another not."""
    for operation in GONE:
        for who in (READER, ADMIN):
            answer = ask(cloud, operation, server, who, at)
            assert answer.status == 410, operation
            assert answer.json == {"computeFault": {"code": 410, "message": MESSAGE}}, operation
            assert answer.headers["openstack-api-version"] == (at or "compute 2.1"), operation


def test_without_a_token(cloud: Cloud, server: str) -> None:
    for operation in GONE:
        answer = ask(cloud, operation, server, None)
        assert answer.status == 401, operation
        assert answer.json["error"]["code"] == 401, operation


def test_with_a_token_of_no_project(cloud: Cloud) -> None:
    assert cloud.api.get(f"{BASE}/os-agents", UNSCOPED).status == 410


def test_without_a_server(cloud: Cloud) -> None:
    """Paths below a server that never was are gone too; an action asks for its server first."""
    assert cloud.get("/servers/nosuch/consoles").status == 410
    assert cloud.get("/servers/nosuch/os-virtual-interfaces").status == 410
    assert cloud.act("nosuch", "resetNetwork", who=ADMIN).status == 404


def test_version_comes_first(cloud: Cloud) -> None:
    assert cloud.get("/os-agents", at="2.9999").status == 406
    assert cloud.get("/os-agents", at="two").status == 400


def test_body_comes_first(cloud: Cloud) -> None:
    assert cloud.api("POST", FLOATING_IPS, raw=b"{").status == 400
    assert cloud.api("POST", FLOATING_IPS, raw=b"<a/>", media="text/xml").status == 415
    assert cloud.api("POST", FLOATING_IPS, body={"anything": [1]}).status == 410


@pytest.mark.parametrize(
    "body", [None, [], {}, {"no_such_action": None}, {"disassociate": None, "associate_host": "h"}]
)
def test_action_has_to_be_one_of_those(cloud: Cloud, body: object) -> None:
    assert cloud.api.post(f"{NETWORK}/action", body).status == 400
    assert cloud.api.post(f"{NETWORK}/action", {"disassociate": None}).status == 410


def test_neighbours_live_on(cloud: Cloud) -> None:
    """The proxies at the same paths, up to their last version."""
    assert cloud.get("/os-networks", at="2.35").status == 200
    assert cloud.get(f"/os-networks/{cloud.network_id}", at="2.35").status == 200
    assert cloud.get("/os-networks", at="2.36").status == 404
    assert cloud.delete(f"/os-networks/{cloud.network_id}", at="2.36").status == 410
    assert cloud.get(f"/os-tenant-networks/{cloud.network_id}").status == 200
    assert cloud.put("/os-agents", {}).status == 405
