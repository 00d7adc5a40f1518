"""The cloud's API as a plain client asks it: one try, no retries of its own, any number of threads."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Doc = dict[str, Any]
DOMAIN = {"id": "default"}
TOKENS = "/identity/v3/auth/tokens"


@dataclass
class Answer:
    """`headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Api:
    """`url`: without a path; `ca`: the certificate that an https one is checked with."""

    def __init__(self, url: str, ca: Path | None = None) -> None:
        self.url, self._ca = url, ca
        self._address = urllib.parse.urlsplit(url)
        self._tls = ssl.create_default_context(cafile=ca) if self._address.scheme == "https" else None

    def at(self, url: str) -> "Api":
        """The same cloud at another address: of a service that has its own."""
        return Api(url, self._ca)

    def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: Any = None,
        at: str = "",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout_s: float = 15.0,
    ) -> Answer:
        """One try. Raises OSError or HTTPException where there is nobody, or the connection breaks."""
        sent = {"Accept": "application/json", **(headers or {})}
        if token:
            sent["X-Auth-Token"] = token
        if at:
            sent["OpenStack-API-Version"] = at
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, found, reply.read())
        finally:
            connection.close()

    def sign_in(self, name: str, password: str, project: str) -> str:
        """A token for the project; names are of the default domain. Raises OSError when there is none."""
        answer = self.call("POST", TOKENS, body=password_request(name, password, project))
        if answer.status != 201:
            raise OSError(f"signing in as {name}: {answer.status}")
        return answer.headers["x-subject-token"]

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)


def password_request(name: str, password: str, project: str) -> Doc:
    user = {"name": name, "domain": DOMAIN, "password": password}
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": DOMAIN}}}}
