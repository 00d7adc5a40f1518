"""A client of the object store's ASGI application for tests: the real application and store, no sockets.

A token is its principal, as JSON, as in `tests.client`.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from tests.client import MEMBER, Answer, authenticate
from trilith.kernel.errors import Fault
from trilith.kernel.policy import Principal
from trilith.objectstore.application import Application
from trilith.objectstore.messages import Request
from trilith.objectstore.pipeline import Front
from trilith.objectstore.store import Store

BASE = "/object-store/v1/AUTH_p1"
CUT = object()  # in a body: here the client is gone


class People:
    """Tokens of the tests; projects of ids that begin with ``x`` are of another domain."""

    def caller(self, request: Request) -> Principal | None:
        try:
            return authenticate(None, request.headers)  # type: ignore[arg-type]
        except Fault:
            return None

    def domain_of(self, project_id: str) -> str | None:
        return "elsewhere" if project_id.startswith("x") else "default"


class Objects:
    """``objects.put("/c/o", b"bytes", MEMBER, x_object_meta_a="1")``. Paths are of project p1's account."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.application = Application(Front(store, People()), threads=4)

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[Any] = b"",
        who: str | None = MEMBER,
        base: str = BASE,
        raw: bool = False,
        more: Mapping[str, str] | None = None,
        **headers: str,
    ) -> Answer:
        """`body` as pieces is sent in chunks. `raw`: the path is percent-encoded already."""
        path, _, query = path.partition("?")
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | dict(more or {})
        sent.setdefault("host", "cloud.test")
        if who is not None:
            sent["x-auth-token"] = who
        if not isinstance(body, bytes):
            sent.setdefault("transfer-encoding", "chunked")
        elif method in ("PUT", "POST") or body:
            sent.setdefault("content-length", str(len(body)))
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "raw_path": (base + (path if raw else quote(path))).encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("192.0.2.7", 4711),
        }
        return asyncio.run(self._exchange(scope, [body] if isinstance(body, bytes) else list(body)))

    async def _exchange(self, scope: dict[str, Any], pieces: list[Any]) -> Answer:
        rest, told = list(pieces), []

        async def receive() -> dict[str, Any]:
            if not rest and told:  # it stays and listens
                await asyncio.Event().wait()
            if not rest or rest[0] is CUT:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        await self.application(scope, receive, send)
        headers = {name.decode(): value.decode("latin-1") for name, value in told[0]["headers"]}
        content = b"".join(each.get("body", b"") for each in told[1:])
        return Answer(told[0]["status"], headers, content)

    def get(self, path: str, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("GET", path, who=who, **more)

    def head(self, path: str, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("HEAD", path, who=who, **more)

    def put(self, path: str, body: bytes | Iterable[Any] = b"", who: str | None = MEMBER, **more: Any) -> Answer:
        return self("PUT", path, body, who, **more)

    def post(self, path: str, body: bytes | Iterable[Any] = b"", who: str | None = MEMBER, **more: Any) -> Answer:
        return self("POST", path, body, who, **more)

    def delete(self, path: str, who: str | None = MEMBER, **more: Any) -> Answer:
        return self("DELETE", path, who=who, **more)

    def names(self, path: str, **more: Any) -> list[str]:
        """What a listing as JSON shows: names, and subdirs."""
        found = self.get(f"{path}{'&' if '?' in path else '?'}format=json", **more)
        assert found.status == 200, found
        return [each.get("name", each.get("subdir")) for each in msgspec.json.decode(found.content)]
