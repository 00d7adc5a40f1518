"""Downloads from users' URLs: they reach the public internet, or what a test allows, and nothing else."""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trilith.drivers import web_download
from trilith.kernel.errors import Refused, Unavailable

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
BODY = b"image bytes " * 10_000


class Site(BaseHTTPRequestHandler):
    """What the path says: a body, a redirect, an error, or a body that ends early."""

    def do_GET(self) -> None:
        verb, _, rest = self.path[1:].partition("/")
        if verb == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif verb == "status":
            self.send_error(int(rest))
        elif verb == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(65536))
        elif verb == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self.send_response(200)
            extra = 5 if verb == "short" else 0
            self.send_header("Content-Length", str(len(BODY) + extra))
            self.end_headers()
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients of these tests hang up on purpose

    with Quiet(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def download(url: str, max_bytes: int = 1 << 20, limit_s: float = 10.0) -> bytes:
    return b"".join(web_download.fetch(url, max_bytes, limit_s, allowed_networks=LOOPBACK))


def test_a_body_arrives_also_behind_redirects(site: str) -> None:
    assert download(f"{site}/file?x=1") == BODY
    assert download(f"{site}/to/{site}/file") == BODY
    assert download(f"{site}/to//file") == BODY


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://localhost/x",
        "http://10.0.0.1/x",
        "http://192.168.1.1/x",
        "http://169.254.169.254/openstack/latest/meta_data.json",
        "http://100.64.0.1/x",
        "http://0.0.0.0/x",
        "http://224.0.0.1/x",
        "http://255.255.255.255/x",
        "http://2130706433/x",
        "http://0x7f.1/x",
        "http://[::1]/x",
        "http://[::]/x",
        "http://[fe80::1]/x",
        "http://[fd00::1]/x",
        "http://[ff02::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[64:ff9b::7f00:1]/x",
        "http://[64:ff9b:1::1]/x",
        "http://[2002:7f00:1::]/x",
        "http://8.8.8.8:22/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "http:///x",
        "http://user:password@8.8.8.8/x",
        "http://8.8.8.8/a b",
        "http://8.8.8.8/\r\nX: y",
        "http://8.8.8.8:99999/x",
        "",
    ],
)
def test_nothing_private_is_reached(url: str) -> None:
    with pytest.raises(Refused):
        web_download.check_url(url)
    with pytest.raises(Refused):
        next(web_download.fetch(url, 1 << 20))


def test_public_addresses_may_be_reached() -> None:
    for address in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert web_download.is_public(ipaddress.ip_address(address)), address


def test_a_redirect_is_judged_like_a_first_url(site: str) -> None:
    for onward in ("http://10.0.0.1/", "http://[::1]/", "file:///etc/passwd"):
        with pytest.raises(Refused):
            download(f"{site}/to/{onward}")
    with pytest.raises(Refused, match="More than 5 redirects"):
        download(f"{site}/to/" * 7 + "x")


def test_the_name_is_resolved_once_and_the_judged_address_is_used(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    port = int(site.rpartition(":")[2])

    def rebinding(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: rebinding(host) if host == "evil.test" else real(host, *a, **k)
    )
    assert download(f"http://evil.test:{port}/file") == BODY
    assert asked == ["evil.test"]


def test_limits(site: str) -> None:
    with pytest.raises(Refused, match="announces"):
        download(f"{site}/file", max_bytes=1000)
    with pytest.raises(Refused, match="sends more than"):
        download(f"{site}/endless")
    with pytest.raises(Unavailable, match="took too long"):
        download(f"{site}/slow", limit_s=0.2)


def test_failures(site: str) -> None:
    with pytest.raises(Refused, match="404"):
        download(f"{site}/status/404")
    with pytest.raises(Unavailable, match="503"):
        download(f"{site}/status/503")
    with pytest.raises(Unavailable, match="broke off"):
        download(f"{site}/short")
    with pytest.raises(Unavailable, match="cannot be resolved"):
        download("http://does-not-exist.invalid/x")
    with pytest.raises(Unavailable, match="cannot be reached"):
        download("http://127.0.0.1:1/x")
