"""The requests that are compared. A case is a name, the requests of one side, and how many clients may send them."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.bench.api import Api
from tests.bench.fill import Filled
from tests.bench.load import COUNTER, Operation, Request

CLIENTS = (1, 8, 32)
PAGE = 1000


@dataclass(frozen=True)
class Case:
    """`bar`: how many times less CPU time than upstream it shall take. `once`: each operation can be done only once, so
    that so many are done as there are, not for so long. `bare`: the bare handler answers it too.
    `ports`: so many have to be there."""

    key: str
    title: str
    operations: Callable[[Api, Filled], Iterator[Operation]]
    bar: float | None = None
    clients: tuple[int, ...] = CLIENTS
    once: bool = False
    bare: bool = False
    ports: int = 0


def _repeated(api: Api, service: str, method: str, path: str, body: object = None) -> Iterator[Operation]:
    return itertools.repeat([_request(api, service, method, path, body)])


def _request(api: Api, service: str, method: str, path: str, body: object = None) -> Request:
    data = b"" if body is None else json.dumps(body).encode()
    return Request(method, api.endpoints[service] + path, api.headers(service), data)


def _get(service: str, path: str) -> Callable[[Api, Filled], Iterator[Operation]]:
    """By the administrator only where nobody else may."""
    return lambda api, filled: _repeated(api if service == "identity" else filled.member, service, "GET", path)


def _sign_in(api: Api, body: object) -> Request:
    headers = {"Accept": "application/json"}
    return Request("POST", f"{api.auth_url}/auth/tokens", headers, json.dumps(body).encode())


def by_password(api: Api, filled: Filled) -> Iterator[Operation]:
    return itertools.repeat([_sign_in(api, api.password_body())])


def by_new_password(api: Api, filled: Filled) -> Iterator[Operation]:
    """Each by a user who has not signed in before: nobody can remember that the password is right."""
    while filled.users:
        name, password = filled.users.pop()
        yield [_sign_in(api, Api(api.auth_url, name, password, api.project).password_body())]


def by_token(api: Api, filled: Filled) -> Iterator[Operation]:
    scope = {"project": {"id": api.project_id}}
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": api.token}}, "scope": scope}}
    return itertools.repeat([_sign_in(api, body)])


def validate(api: Api, filled: Filled) -> Iterator[Operation]:
    request = _request(api, "identity", "GET", "/auth/tokens")
    request.headers["X-Subject-Token"] = api.token
    return itertools.repeat([request])


def one_server(api: Api, filled: Filled) -> Iterator[Operation]:
    return _repeated(filled.member, "compute", "GET", f"/servers/{filled.server_id}")


def new_port(api: Api, filled: Filled) -> Iterator[Operation]:
    body = {"port": {"network_id": filled.network_id, "name": f"new-{COUNTER.decode()}"}}
    return _repeated(filled.member, "network", "POST", "/ports", body)


def all_servers(api: Api, filled: Filled) -> Iterator[Operation]:
    """In pages, as every client has to: the marker of each is the last server of the one before."""
    pages, marker = [], ""
    while True:
        path = "/servers/detail?" + urlencode({"limit": PAGE} | ({"marker": marker} if marker else {}))
        plain = path.replace("/detail", "")
        found = filled.member.call("compute", "GET", plain)["servers"]
        pages.append(_request(filled.member, "compute", "GET", path))
        if len(found) < PAGE:
            return itertools.repeat(pages)
        marker = found[-1]["id"]


CASES = (
    Case("token_new_password", "token by password (bcrypt)", by_new_password, clients=(1, 8), once=True),
    Case("token_password", "token by password, again", by_password),
    Case("token_token", "token by token", by_token, 15),
    Case("token_validate", "validate a token", validate, 15),
    Case("projects", "50 projects", _get("identity", "/projects"), 40, bare=True),
    Case("images", "25 images", _get("image", "/images?limit=25"), 40, bare=True),
    Case("networks", "10 networks", _get("network", "/networks"), 40, bare=True),
    Case("ports_100", "100 ports", _get("network", "/ports?limit=100"), 50, bare=True),
    Case("ports_1000", "1,000 ports", _get("network", "/ports?limit=1000"), 50, (1, 8), bare=True, ports=1000),
    Case("server", "one server", one_server, 80, bare=True),
    Case("servers_100", "100 servers in detail", _get("compute", "/servers/detail?limit=100"), 100, bare=True),
    Case(
        "servers_1000", "1,000 servers in detail", _get("compute", "/servers/detail?limit=1000"), 100, (1, 8), bare=True
    ),
    Case("servers_all", "all servers in detail, in pages", all_servers, None, (1,)),
    Case("port_create", "create a port", new_port, 80),
)
