"""Debian packages for hosts that have no way to the internet.

A host installs with its own apt, which knows best what depends on what. Where it has no mirror of its own, this machine
lends it its own: a small HTTP proxy on this machine's loopback, which apt reaches through SSH (``ssh -R``), and which
goes to the mirrors of this machine's own apt configuration and to nowhere else. Downloads are kept, so that ten hosts
cost as much as one. What is downloaded is verified by the host's apt with the distribution's key.
"""

import contextlib
import hashlib
import http.client
import http.server
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trilith.cluster.cluster_file import Host, Ssh
from trilith.cluster.ssh import HostProblem, command
from trilith.cluster.state import write_file

INSTALL_S = 1800.0
CONNECT_S = 15
SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

Ask = Callable[..., dict[str, Any]]


def mirrors() -> dict[str, list[str]]:
    """Debian 12's suites and where this machine's apt gets them: {suite: [address]}."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(CODENAME) $(SUITE) $(RELEASE) $(REPO_URI)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        words = line.split()
        address = words[-1].rstrip("/")
        for suite in SUITES:
            if words[0] == "Packages" and suite in words and address not in found.setdefault(suite, []):
                found[suite].append(address)
    return found


def sources(found: dict[str, list[str]]) -> str:
    """An apt sources file of these mirrors. https becomes http: apt verifies signatures, and the proxy can keep it."""
    parts = [
        f"Types: deb\nURIs: {_plain(address)}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        for suite, addresses in found.items()
        for address in addresses[:1]
    ]
    return "\n".join(parts)


def _plain(address: str) -> str:
    return re.sub("^https:", "http:", address)


class PackageRelay:
    """Installs packages on hosts. The proxy runs while the context lasts, and only if somebody needed it."""

    def __init__(self, cache: Path, ssh: Ssh, known_hosts: Path) -> None:
        self._cache = cache
        self._ssh = ssh
        self._known_hosts = known_hosts
        self._starting = threading.Lock()
        self._server: http.server.ThreadingHTTPServer | None = None
        self._mirrors: dict[str, list[str]] = {}

    def __enter__(self) -> "PackageRelay":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def install(self, host: Host, ask: Ask, packages: list[str]) -> None:
        """Raises `HostProblem`, with apt's own words."""
        arguments: dict[str, Any] = {"packages": packages, "limit_s": INSTALL_S, "proxy": None, "sources": ""}
        port = self._port()
        if port is None:  # this machine has no mirror to lend: the host has to have its own
            ask("install", arguments, limit_s=2 * INSTALL_S)
            return
        with self._forwarded(host, port) as there:
            arguments |= {"proxy": f"http://127.0.0.1:{there}", "sources": sources(self._mirrors)}
            ask("install", arguments, limit_s=2 * INSTALL_S)

    def _port(self) -> int | None:
        with self._starting:
            if self._server is None:
                self._mirrors = mirrors() if shutil.which("apt-get") else {}
                if not self._mirrors:
                    return None
                allowed = {address for addresses in self._mirrors.values() for address in addresses}
                self._cache.mkdir(mode=0o755, parents=True, exist_ok=True)
                self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _proxy(self._cache, allowed))
                threading.Thread(target=self._server.serve_forever, daemon=True).start()
            return int(self._server.server_address[1])

    @contextlib.contextmanager
    def _forwarded(self, host: Host, port: int) -> Iterator[int]:
        """A port of the host's loopback that leads to ours; which one, the host's SSH server chooses."""
        argv = command(host, self._ssh, self._known_hosts, forward=f"127.0.0.1:0:127.0.0.1:{port}")[:-1]
        argv = [*argv[:-1], "-N", argv[-1]]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr
            watchdog = threading.Timer(CONNECT_S, process.kill)
            watchdog.start()
            for line in process.stderr:
                if found := re.search(r"Allocated port (\d+)", line):
                    watchdog.cancel()
                    yield int(found.group(1))
                    return
            raise HostProblem("its SSH server does not forward ports, so it cannot get packages from here.")
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()


def _proxy(cache: Path, allowed: set[str]) -> type[http.server.BaseHTTPRequestHandler]:
    """A handler for GET of what lies below the allowed mirrors. What has its hash or version in its name is kept."""
    plain = {_plain(address): address for address in allowed}

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            mirror = next((known for known in plain if self.path.startswith(f"{known}/")), None)
            path = urllib.parse.unquote(self.path)
            if mirror is None or "/../" in path:
                self.send_error(403, "Not one of the mirrors")
                return
            lasting = path.endswith(".deb") or "/by-hash/" in path
            kept = cache / hashlib.sha256(self.path.encode()).hexdigest()
            if lasting and kept.exists():
                self._reply(200, {}, kept.read_bytes())
                return
            self._fetch(plain[mirror] + self.path[len(mirror) :], kept if lasting else None)

        def _fetch(self, address: str, keep: Path | None) -> None:
            passed = {name: self.headers[name] for name in ("If-Modified-Since", "Range") if name in self.headers}
            request = urllib.request.Request(address, headers=passed if keep is None else {})
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    content = reply.read()
                    if keep:
                        write_file(keep, content, 0o644, sync=False)
                    self._reply(reply.status, dict(reply.headers), content)
            except urllib.error.HTTPError as error:
                self._reply(error.code, dict(error.headers), error.read())
            except (OSError, http.client.HTTPException):
                self.send_error(502, "The mirror does not answer")

        def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name in ("Last-Modified", "Content-Type", "Content-Range"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the host's apt says what went wrong."""

    return Proxy
