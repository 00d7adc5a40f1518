"""The object store of a real cloud: catalogue, token, process, sockets. What only these can show."""

import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.clients.cloud import Cloud, until
from tests.cluster.conftest import free_port
from trilith.cluster import proc

MIB = 1 << 20
MAY_GROW_KIB = 32 * 1024  # of a worker that took and gave 128 MiB; what it holds of one body is far below


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    found = Cloud(port=free_port(), fake=True)
    try:
        found.up()
        yield found
    finally:
        found.down()


class Account:
    """The demo project's."""

    def __init__(self, cloud: Cloud) -> None:
        catalog = cloud.get("/identity/v3/auth/catalog", "demo")["catalog"]
        service = next(each for each in catalog if each["type"] == "object-store")
        self.url = urlsplit(next(each["url"] for each in service["endpoints"] if each["interface"] == "public"))
        self.token = cloud.token("demo")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=60)

    def __call__(self, method: str, path: str, body: Any = b"", token: str | None = None) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request(method, self.url.path + path, body, {"X-Auth-Token": token or self.token})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content


@pytest.fixture(scope="module")
def account(cloud: Cloud) -> Account:
    return Account(cloud)


def workers(cloud: Cloud) -> list[int]:
    status = json.loads(cloud.trilith("status", "--json").stdout)
    leader = next(each["pid"] for each in status["processes"] if each["name"] == "objects")
    return [pid for pid in proc.session_members(leader) if pid != leader]


def peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def test_a_token_counts_until_it_is_revoked(cloud: Cloud, account: Account) -> None:
    assert account.url.path.startswith("/object-store/v1/AUTH_")
    assert account("PUT", "/c")[0] == 201
    assert account("PUT", "/c", token="nonsense")[0] == 401
    token = cloud.http("POST", "/identity/v3/auth/tokens", _by_token(account.token), token="")[1]["X-Subject-Token"]
    assert account("PUT", "/c/o", b"x", token)[0] == 201
    assert cloud.http("DELETE", "/identity/v3/auth/tokens", X_Subject_Token=token)[0] == 204
    assert account("GET", "/c/o", token=token)[0] == 401
    assert account("GET", "/c/o") == (200, b"x")


def _by_token(token: str) -> dict[str, object]:
    scope = {"project": {"name": "demo", "domain": {"name": "Default"}}}
    return {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}}


def test_memory_stays_flat(cloud: Cloud, account: Account) -> None:
    """One piece of a body after the other: 128 MiB need no more than 8 MiB."""
    account("PUT", "/c")
    for name, size_mib in (("small", 8), ("large", 128)):
        before = {pid: peak_kib(pid) for pid in workers(cloud)}
        piece = os.urandom(MIB)
        status, _ = account("PUT", f"/c/{name}", (piece for _ in range(size_mib)))
        assert status == 201
        connection = account.connect()
        connection.request("GET", f"{account.url.path}/c/{name}", headers={"X-Auth-Token": account.token})
        answer, seen = connection.getresponse(), 0
        while data := answer.read(MIB):
            assert data == piece
            seen += len(data)
        assert seen == size_mib * MIB
    grown = {pid: peak_kib(pid) - peak for pid, peak in before.items()}
    assert max(grown.values()) < MAY_GROW_KIB, grown


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: 10", b"12345"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhel"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\nzz\r\n"),
    ],
)
def test_a_body_that_is_cut_short_is_no_object(account: Account, headers: str, body: bytes) -> None:
    account("PUT", "/cut")
    lines = [f"PUT {account.url.path}/cut/o HTTP/1.1", "Host: x", f"X-Auth-Token: {account.token}", headers, "", ""]
    with socket.create_connection((account.url.hostname, account.url.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(64).split()[1] == b"499"
    assert account("GET", "/cut") == (204, b"")


def test_a_worker_is_killed_while_it_takes_a_body(cloud: Cloud, account: Account) -> None:
    account("PUT", "/killed")
    connection = account.connect()
    connection.putrequest("PUT", f"{account.url.path}/killed/o")
    connection.putheader("X-Auth-Token", account.token)
    connection.putheader("Content-Length", str(64 * MIB))
    connection.endheaders(b"x" * MIB)
    before = workers(cloud)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        connection.send(b"x" * 63 * MIB)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    until(lambda: len(workers(cloud)) == len(before), 30, "new workers")
    assert account("GET", "/killed") == (204, b"")
    assert account("PUT", "/killed/o", b"whole")[0] == 201


def test_the_stock_client(cloud: Cloud, account: Account) -> None:
    data = os.urandom(1000)
    (cloud.state / "bytes").write_bytes(data)
    cloud.openstack("container", "create", "box", who="demo")
    cloud.openstack("object", "create", "box", "bytes", who="demo")
    cloud.openstack("object", "save", "box", "bytes", "--file", "back", who="demo")
    assert (cloud.state / "back").read_bytes() == data
    cloud.openstack("container", "delete", "--recursive", "box", who="demo")
    assert account("GET", "/box")[0] == 404
