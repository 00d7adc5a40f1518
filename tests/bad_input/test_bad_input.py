"""Whatever is sent: a clear error in the service's own shape, nothing changed, nothing left over, nobody harmed."""

import json
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.conftest import Target
from tests.bad_input.raw import send

MIB = 1 << 20
CREATE = {  # service: where it creates something, and inside what
    "identity": ("/identity/v3/projects", "project"),
    "image": ("/image/v2/images", None),
    "compute": ("/compute/v2.1/os-keypairs", "keypair"),
    "network": ("/networking/v2.0/networks", "network"),
    "volume": ("/volume/v3/volumes", "volume"),
}
VERSIONED = {"compute": "compute", "volume": "volume"}
every_service = pytest.mark.parametrize("service", CREATE)


def check(service: str, status: int, content: bytes) -> None:
    """The shape that clients of this service expect of an error."""
    body = json.loads(content)
    if status == 401:
        assert body["error"]["code"] == 401
    elif service == "network":
        assert body["NeutronError"].keys() == {"type", "message", "detail"}
    elif service == "identity":
        assert body["error"]["code"] == status
    elif service == "image":
        assert body["code"].startswith(str(status))
    else:
        (inner,) = body.values()
        assert inner["code"] == status
        assert inner["message"]


def head(method: str, path: str, target: Target, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: cloud", f"X-Auth-Token: {target.admin}", "Accept: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")


def count(target: Target, service: str) -> int:
    path, _ = CREATE[service]
    found = target.cloud.api.call("GET", path, target.admin).json
    return len(next(value for value in found.values() if isinstance(value, list)))


@pytest.fixture(autouse=True)
def unchanged(target: Target, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that is refused makes anything."""
    before = {service: count(target, service) for service in CREATE}
    yield
    assert {service: count(target, service) for service in CREATE} == before
    assert target.cloud.api.call("GET", "/healthz").status == 200


# bodies


@every_service
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\x00",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b"'a'",
        b"[]",
        b"7",
        b"null",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"n": ' + b"9" * 100_000 + b"}",
    ],
    ids=lambda data: f"{data[:8]!r}x{len(data)}",
)
def test_what_is_no_json_object(target: Target, service: str, data: bytes) -> None:
    path, _ = CREATE[service]
    answer = target.cloud.api.call("POST", path, target.admin, data=data)
    assert answer.status == 400, answer.content
    check(service, answer.status, answer.content)


@every_service
@pytest.mark.parametrize("media", ["text/xml", "application/x-www-form-urlencoded", "multipart/form-data", "x" * 500])
def test_another_content_type(target: Target, service: str, media: str) -> None:
    path, _ = CREATE[service]
    answer = target.cloud.api.call("POST", path, target.admin, data=b"<a/>", headers={"Content-Type": media})
    assert answer.status == 415
    check(service, answer.status, answer.content)


@every_service
def test_the_same_key_twice(target: Target, service: str) -> None:
    """One of both counts: here the last, which is refused."""
    path, envelope = CREATE[service]
    inner = b'{"name": "a", "name": {"not": "a name"}, "size": 1}'
    data = inner if envelope is None else b'{"%s": %s}' % (envelope.encode(), inner)
    answer = target.cloud.api.call("POST", path, target.admin, data=data)
    assert answer.status == 400
    check(service, answer.status, answer.content)


@every_service
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_100_mib_where_none_belong(target: Target, service: str, method: str) -> None:
    """Answered before it was sent, without holding it in memory."""
    path, _ = CREATE[service]
    before_mib = memory_mib(target)
    announced = head(method, path, target, "Content-Type: application/json", f"Content-Length: {100 * MIB}")
    sent = send(target.cloud.port, announced, (b"x" * MIB for _ in range(100)))
    assert sent.answer is not None, "the connection ended without an answer"
    assert sent.answer.status in (413, 405)
    check(service, sent.answer.status, sent.answer.content)
    assert sent.body_bytes < 50 * MIB, "most of it was read"
    assert memory_mib(target) < before_mib + 20


def test_a_body_without_end(target: Target) -> None:
    """Chunks without a length: it is cut off at the limit."""
    before_mib = memory_mib(target)
    announced = head("POST", "/compute/v2.1/os-keypairs", target, "Transfer-Encoding: chunked")
    chunk = b"%x\r\n%s\r\n" % (MIB, b"x" * MIB)
    sent = send(target.cloud.port, announced, (chunk for _ in range(100)))
    assert sent.answer is not None
    assert sent.answer.status == 413
    assert sent.body_bytes < 50 * MIB
    assert memory_mib(target) < before_mib + 20


def memory_mib(target: Target) -> int:
    """Of the API's workers."""
    kib = 0
    for pid in target.workers():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                kib += int(line.split()[1])
    return kib // 1024


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, nonsense"],
        ["Expect: 200-nothing"],
        ["X-Long: " + "x" * 1_000_000],
        ["no colon at all"],
        ["X-Nul: a\x00b"],
    ],
    ids=lambda headers: headers[0][:24],
)
def test_strange_headers(target: Target, headers: list[str]) -> None:
    """An error or an end of the connection; and the next caller is served."""
    sent = send(
        target.cloud.port, head("POST", "/compute/v2.1/os-keypairs", target, *headers), [b"zzzzz\r\n0\r\n\r\n"], 3
    )
    assert sent.answer is None or 400 <= sent.answer.status < 500


@pytest.mark.parametrize("line", ["FOO / HTTP/1.1", "GET", "GET / HTTP/9.9", "\x16\x03\x01\x02\x00", "PRI * HTTP/2.0"])
def test_strange_requests(target: Target, line: str) -> None:
    sent = send(target.cloud.port, f"{line}\r\nHost: cloud\r\n\r\n".encode("latin-1"), timeout_s=3)
    assert sent.answer is None or 400 <= sent.answer.status < 500


@pytest.mark.parametrize(
    "token", ["x", "", "g" * 8000, "gAAAAAB" + "A" * 200, "\xff\xfe", "null", "../../secrets/admin"]
)
def test_strange_tokens(target: Target, token: str) -> None:
    request = f"GET /compute/v2.1/servers HTTP/1.1\r\nHost: c\r\nX-Auth-Token: {token}\r\n\r\n".encode("latin-1")
    sent = send(target.cloud.port, request)
    assert sent.answer is not None
    assert sent.answer.status == 401
    assert token == "" or len(token) < 9 or token.encode("latin-1") not in sent.answer.content


# versions, paths, names


@pytest.mark.parametrize("service", VERSIONED)
@pytest.mark.parametrize(
    ("version", "status"),
    [("1.0", 406), ("99.9", 406), ("2", 400), ("a.b", 400), ("3.0.1", 400), ("9" * 5000 + ".1", 400), ("-1.1", 400)],
    ids=lambda value: str(value)[:12],
)
def test_versions(target: Target, service: str, version: str, status: int) -> None:
    path, _ = CREATE[service]
    answer = target.cloud.api.call("GET", path, target.token, at=f"{VERSIONED[service]} {version}")
    assert answer.status in ((status, 406) if len(version) > 100 else (status,)), answer.content
    check(service, answer.status, answer.content)


@pytest.mark.parametrize("service", [name for name in CREATE if name not in VERSIONED])
def test_versions_of_services_that_have_none(target: Target, service: str) -> None:
    """Somebody else's version is not their business."""
    path, _ = CREATE[service]
    answer = target.cloud.api.call("GET", path, target.admin, at="compute 99.9, volume x")
    assert answer.status == 200


TRAVERSALS = [
    "../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "%00",
    "a%00b",
    "%ff%fe",
    "x" * 20_000,
    "%",
    "%zz",
    ";id",
    "$(id)",
    "{id}",
    "%0d%0aX-Injected:%201",
]


@every_service
@pytest.mark.parametrize("part", TRAVERSALS, ids=lambda part: part[:20])
def test_paths(target: Target, service: str, part: str) -> None:
    """Nothing but 404 (or 400) is found there, whatever is done to it."""
    path, _ = CREATE[service]
    for method in ("GET", "DELETE", "PUT"):
        sent = send(target.cloud.port, head(method, f"{path}/{part}", target))
        assert sent.answer is not None
        assert sent.answer.status in (400, 403, 404, 405, 414, 415, 431), sent.answer.content
        assert b"root:" not in sent.answer.content
        assert "x-injected" not in sent.answer.headers


@pytest.mark.parametrize("part", TRAVERSALS, ids=lambda part: part[:20])
def test_paths_to_bytes(target: Target, part: str) -> None:
    for place in ("file", "stage"):
        announced = head("PUT", f"/image/v2/images/{part}/{place}", target, "Content-Type: application/octet-stream")
        sent = send(target.cloud.port, announced[:-2] + b"Content-Length: 1\r\n\r\n", [b"x"])
        assert sent.answer is not None
        assert sent.answer.status in (400, 404, 405, 414, 431)
    assert target.uploads() == []


NAMES = [
    "../../etc/passwd",
    "\u202egnp.exe",
    "\U0001f4a9" * 50,
    "' OR 1=1; --",
    "<script>alert(1)</script>",
    "%s%n",
    "\u0000"[:0] + "a\tb",
]


@every_service
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_only_names(target: Target, service: str, name: str) -> None:
    """What a service takes as a name comes back as it was given, and does nothing else."""
    path, envelope = CREATE[service]
    inner: dict[str, Any] = {"name": name}
    inner |= {"size": 1} if service == "volume" else {}
    body = inner if envelope is None else {envelope: inner}
    answer = target.cloud.api.call("POST", path, target.admin, body)
    if answer.status == 400:
        check(service, answer.status, answer.content)
        return
    assert answer.status in (200, 201, 202), answer.content
    made = answer.json if envelope is None else answer.json[envelope]
    assert made["name"] == name
    key = made["name"] if service == "compute" else made["id"]
    remove(target, f"{path}/{key}")


def remove(target: Target, path: str) -> None:
    deadline = time.monotonic() + 10
    while target.cloud.api.call("DELETE", path, target.admin).status not in (404,):
        assert time.monotonic() < deadline, f"{path} does not go"
        time.sleep(0.05)


# bytes of images


@pytest.fixture
def image(target: Target) -> Iterator[Callable[[str], str]]:
    """Makes a queued image of a format; it is gone at the end."""
    made = []

    def make(disk_format: str = "qcow2") -> str:
        body = {"name": "bad", "disk_format": disk_format, "container_format": "bare"}
        made.append(target.cloud.api.call("POST", "/image/v2/images", target.token, body).json["id"])
        return str(made[-1])

    yield make
    for key in made:
        assert target.cloud.api.call("DELETE", f"/image/v2/images/{key}", target.token).status == 204
    assert target.uploads() == []


def status_of(target: Target, key: str) -> str:
    return str(target.cloud.api.call("GET", f"/image/v2/images/{key}", target.token).json["status"])


def upload(target: Target, key: str, data: bytes, where: str = "file") -> Any:
    octets = {"Content-Type": "application/octet-stream"}
    path = f"/image/v2/images/{key}/{where}"
    return target.cloud.api.call("PUT", path, target.token, data=data, headers=octets, timeout_s=60)


def qcow2(backing: bytes = b"", incompatible: int = 0) -> bytes:
    """A header of version 3, with a backing file's name behind it."""
    fields = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 512 if backing else 0, len(backing), 16, 1 << 30, 0, 1, 0, 0, 0, 0, 0
    )
    more = struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return (fields + more).ljust(512, b"\0") + backing.ljust(65536, b"\0")


@pytest.mark.parametrize(
    ("disk_format", "data"),
    [
        ("qcow2", qcow2(b"/etc/passwd")),
        ("qcow2", qcow2(b'json:{"driver":"nbd"}')),
        ("qcow2", qcow2(incompatible=1 << 2)),  # an external data file
        ("raw", qcow2(b"/etc/passwd")),
        ("raw", qcow2()),
        ("qcow2", b"no qcow2 at all" * 10_000),
        ("vmdk", b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n'.ljust(4096, b"\0")),
        ("qcow2", b"QFI\xfb"),
    ],
    ids=["backing-file", "backing-json", "data-file", "backing-as-raw", "qcow2-as-raw", "no-qcow2", "vmdk", "cut-off"],
)
def test_attacks_by_format(target: Target, image: Callable[[str], str], disk_format: str, data: bytes) -> None:
    key = image(disk_format)
    answer = upload(target, key, data)
    assert answer.status == 415, answer.content
    check("image", answer.status, answer.content)
    assert status_of(target, key) == "queued"
    assert target.uploads() == []


@pytest.mark.parametrize("where", ["file", "stage"])
@pytest.mark.parametrize("half_close", [True, False])
def test_an_upload_that_breaks_off(target: Target, image: Callable[[str], str], where: str, half_close: bool) -> None:
    """The caller hangs up in the middle: the image is queued again, and nothing is left of it."""
    key = image("raw")
    octets = "Content-Type: application/octet-stream"
    announced = head("PUT", f"/image/v2/images/{key}/{where}", target, octets, f"Content-Length: {8 * MIB}")
    if half_close:
        sent = send(target.cloud.port, announced, [b"x" * MIB] * 3, 5, half_close=True)
        assert sent.answer is None or 400 <= sent.answer.status < 500
    else:
        with socket.create_connection(("127.0.0.1", target.cloud.port)) as connection:
            connection.sendall(announced + b"x" * MIB)
            time.sleep(0.2)
    deadline = time.monotonic() + 10
    while status_of(target, key) != "queued" or target.uploads():
        assert time.monotonic() < deadline, f"{status_of(target, key)}, {target.uploads()}"
        time.sleep(0.05)
    assert upload(target, key, b"x" * 1000).status == 204  # and it can be sent once more
    assert status_of(target, key) == "active"


@contextmanager
def no_file_larger(target: Target, limit_bytes: int) -> Iterator[None]:
    """For the API's workers it is as if the disk were full."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in target.workers()}
    try:
        for pid, (_, most) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, most))
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("where", ["file", "stage"])
def test_no_room(target: Target, image: Callable[[str], str], where: str) -> None:
    """The disk is full (no file may grow further): the caller is told, and nothing is left."""
    key = image("raw")
    with no_file_larger(target, 8 * MIB):
        answer = upload(target, key, b"x" * (12 * MIB), where)
        assert answer.status == 413, answer.content
        check("image", answer.status, answer.content)
    assert status_of(target, key) == "queued"
    assert target.uploads() == []
    assert upload(target, key, b"x" * 1000).status == 204


@every_service
def test_no_room_for_the_database(target: Target, service: str) -> None:
    """Nothing can be written at all: 503, try again; and as soon as there is room, all is well."""
    path, envelope = CREATE[service]
    inner: dict[str, Any] = {"name": "n"} | ({"size": 1} if service == "volume" else {})
    if service == "compute":
        inner["public_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMvQ0tSPxqF2jxOnzdUEJmNV3nM7sKDgNSdHLLsbuaCu me@here"
    body = inner if envelope is None else {envelope: inner}
    with no_file_larger(target, 1):
        answer = target.cloud.api.call("POST", path, target.admin, body, timeout_s=30)
        assert answer.status == 503, answer.content
        assert "retry-after" in answer.headers
        check(service, answer.status, answer.content)
        assert target.cloud.api.call("GET", path, target.admin).status == 200  # reading goes on
    answer = target.cloud.api.call("POST", path, target.admin, body)
    assert answer.status in (200, 201, 202), answer.content
    made = answer.json if envelope is None else answer.json[envelope]
    remove(target, f"{path}/{made['name'] if service == 'compute' else made['id']}")
