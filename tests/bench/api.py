"""A cloud's API as any client finds it: a password, a token, and the addresses in the catalogue."""

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from tests.bench.sessions import Failed

Doc = dict[str, Any]
COMPUTE_VERSION = "2.79"
TIMEOUT_S = 600.0
BUSY_S = 120.0
TYPES = {
    "identity": "identity", "image": "image", "compute": "compute", "network": "network",
    "placement": "placement", "volume": "block-storage", "objects": "object-store",
}  # fmt: skip
SUFFIXES = {"identity": "/v3", "image": "/v2", "network": "/v2.0"}  # which catalogues may leave out


class Api:
    """`auth_url` ends with ``/v3``. Calls are made one after the other; connections are kept where the server does."""

    def __init__(self, auth_url: str, user: str, password: str, project: str = "admin") -> None:
        self.auth_url, self.user, self.password, self.project = auth_url, user, password, project
        self.token = ""
        self.project_id = self.user_id = ""
        self.endpoints: dict[str, str] = {"identity": auth_url}
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def password_body(self) -> Doc:
        domain = {"name": "Default"}
        user = {"name": self.user, "domain": domain, "password": self.password}
        identity = {"methods": ["password"], "password": {"user": user}}
        return {"auth": {"identity": identity, "scope": {"project": {"name": self.project, "domain": domain}}}}

    def sign_in(self) -> None:
        """Takes a token; it serves for hours."""
        status, headers, content = self.exchange("POST", f"{self.auth_url}/auth/tokens", self.password_body(), {})
        if status != 201:
            raise Failed(f"POST {self.auth_url}/auth/tokens: {status} {content[:300]!r}")
        self.token = headers["x-subject-token"]
        found = json.loads(content)["token"]
        self.project_id, self.user_id = found["project"]["id"], found["user"]["id"]
        urls = {
            entry["type"]: endpoint["url"].rstrip("/")
            for entry in found["catalog"]
            for endpoint in entry["endpoints"]
            if endpoint["interface"] == "public"
        }
        for name, kind in TYPES.items():
            if kind in urls:
                suffix = SUFFIXES.get(name, "")
                self.endpoints[name] = urls[kind] if urls[kind].endswith(suffix) else urls[kind] + suffix

    def headers(self, service: str) -> dict[str, str]:
        found = {"X-Auth-Token": self.token, "Accept": "application/json"}
        if service == "compute":
            found["OpenStack-API-Version"] = f"compute {COMPUTE_VERSION}"
        if service == "placement":
            found["OpenStack-API-Version"] = "placement 1.36"
        return found

    def call(self, service: str, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer; what is busy is asked again. Raises `Failed` from status 400 on."""
        url = self.endpoints[service] + path
        give_up = time.monotonic() + BUSY_S
        while True:
            status, _, content = self.exchange(method, url, body, self.headers(service))
            if status != 503 or time.monotonic() > give_up:
                break
            time.sleep(1.0)
        if status >= 400:
            raise Failed(f"{method} {url}: {status} {content[:500].decode(errors='replace')}")
        return json.loads(content) if content else {}

    def exchange(self, method: str, url: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """(status, headers with small letters, content)."""
        parts = urlsplit(url)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        for last in (False, True):
            kept = self._connections.pop(parts.netloc, None)
            connection = kept or http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
            try:
                connection.request(method, path, data, sent)
                answer = connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError):
                connection.close()
                if last or kept is None:  # a kept connection may have been closed since
                    raise
                continue
            if not answer.will_close:
                self._connections[parts.netloc] = connection
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
        raise AssertionError("unreachable")

    def answers(self, url: str) -> bool:
        """Whether anything is served there yet."""
        try:
            return self.exchange("GET", url, None, {})[0] < 500
        except (http.client.HTTPException, OSError):
            return False

    def until(self, service: str, path: str, is_so: Any, within_s: float, poll_s: float = 0.05) -> Any:
        """The first answer of which it is so. Raises `Failed`."""
        give_up = time.monotonic() + within_s
        while not is_so(found := self.call(service, "GET", path)):
            if time.monotonic() > give_up:
                raise Failed(f"{path}: not within {within_s:.0f} s: {str(found)[:300]}")
            time.sleep(poll_s)
        return found
