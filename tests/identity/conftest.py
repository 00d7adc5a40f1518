"""A cloud with identity alone: real tokens, quick passwords."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.database import url_for
from trilith.identity import passwords, role_assignments, sign_in, tokens  # noqa: F401 - declares every noun
from trilith.identity.fernet import make_keys
from trilith.identity.seed import seed
from trilith.kernel.http import App
from trilith.kernel.store import Store

PASSWORDS = {"admin": "admin-secret", "demo": "demo-secret"}


class Cloud(Client):
    """`sign_in` gives a token; `as_` paths are below ``/identity/v3``."""

    def auth(self, user: dict[str, Any], scope: Any = None, **more: Any) -> Any:
        body: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope is not None:
            body["scope"] = scope
        return self.post("/identity/v3/auth/tokens", {"auth": body}, None, **more)

    def token(self, name: str, scope: Any = None, password: str = "", domain: str = "default") -> str:
        user = {"name": name, "domain": {"id": domain}, "password": password or PASSWORDS[name]}
        answer = self.auth(user, scope)
        assert answer.status == 201, answer.content
        return str(answer.headers["x-subject-token"])


def project(name: str) -> dict[str, Any]:
    return {"project": {"name": name, "domain": {"id": "default"}}}


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    passwords.set_rounds(4)
    tokens.use_keys("cluster-key")
    store = Store(url_for(tmp_path))
    store.create()
    store.run(lambda tx: make_keys(tx, "cluster-key"))
    store.run(lambda tx: seed(tx, admin_password=PASSWORDS["admin"], demo_password=PASSWORDS["demo"]))
    return Cloud(App(store, tokens.authenticate))


@pytest.fixture
def admin(cloud: Cloud) -> str:
    return cloud.token("admin", project("admin"))


@pytest.fixture
def demo(cloud: Cloud) -> str:
    return cloud.token("demo", project("demo"))
