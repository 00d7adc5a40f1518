"""A client of the WSGI application for tests: real pipeline and SQL, no sockets. A token is its principal, as JSON."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.database import url_for
from trilith.kernel.errors import Fault
from trilith.kernel.http import App
from trilith.kernel.policy import Principal
from trilith.kernel.store import Store, Tx

IMPLIED = {
    "admin": {"admin", "manager", "member", "reader"},
    "manager": {"manager", "member", "reader"},
    "member": {"member", "reader"},
    "reader": {"reader"},
    "service": {"service"},
}


def token(role: str, project_id: str | None = "p1", user_id: str = "u1", **more: Any) -> str:
    return msgspec.json.encode({"role": role, "project_id": project_id, "user_id": user_id, **more}).decode()


ADMIN, MANAGER, MEMBER, READER = token("admin", "pa", "ua"), token("manager"), token("member"), token("reader")
STRANGER = token("member", "p2", "u2")
SERVICE = token("service", "ps", "us")


def authenticate(tx: Tx, headers: Mapping[str, str]) -> Principal:
    try:
        given = msgspec.json.decode(headers["x-auth-token"])
    except (KeyError, msgspec.DecodeError):
        raise Fault("unauthenticated", "The request you have made requires authentication.") from None
    role = given.pop("role")
    return Principal(roles=frozenset(IMPLIED.get(role, {role})), **given)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.content)


class Client:
    """``client.get("/compute/v2.1/servers", MEMBER, at="compute 2.60")``"""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(
        self,
        method: str,
        url: str,
        who: str | None = MEMBER,
        body: Any = None,
        at: str = "",
        headers: Mapping[str, str] | None = None,
        raw: bytes | Iterable[bytes] | None = None,
        media: str = "application/json",
    ) -> Answer:
        path, _, query = url.partition("?")
        data = raw if raw is not None else (msgspec.json.encode(body) if body is not None else b"")
        data = data if isinstance(data, bytes) else b"".join(data)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "wsgi.input": io.BytesIO(data),
            "wsgi.url_scheme": "http",
            "HTTP_HOST": "cloud.test",
            "HTTP_ACCEPT": "application/json",
        }
        if data:
            environ |= {"CONTENT_TYPE": media, "CONTENT_LENGTH": str(len(data))}
        if who is not None:
            environ["HTTP_X_AUTH_TOKEN"] = who
        if at:
            environ["HTTP_OPENSTACK_API_VERSION"] = at
        for name, value in (headers or {}).items():
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        seen: list[Any] = []
        content = b"".join(self.app(environ, lambda status, found: seen.extend((status, found))))
        return Answer(int(seen[0].split()[0]), {k.lower(): v for k, v in seen[1]}, content)

    def get(self, url: str, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("GET", url, who, **more)

    def post(self, url: str, body: Any = None, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("POST", url, who, body, **more)

    def put(self, url: str, body: Any = None, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("PUT", url, who, body, **more)

    def patch(self, url: str, body: Any = None, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("PATCH", url, who, body, **more)

    def delete(self, url: str, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("DELETE", url, who, **more)


def client(directory: Path, settings: Mapping[str, Any] | None = None) -> Client:
    """An application over a fresh database with every table of the services imported by then."""
    store = Store(url_for(directory))
    store.create()
    return Client(App(store, authenticate, settings))
