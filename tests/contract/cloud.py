"""One cloud for all contract tests: every service over real SQL, real tokens, and one specimen of each noun.

A request that was refused must have written nothing; what a granted one wrote is undone after each test.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import event

from tests.client import Answer, Client
from tests.contract import declared, samples, specimens
from tests.contract.declared import Operation, name_of
from trilith.cluster.api import open_store
from trilith.cluster.bootstrap import bootstrap
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.state import Settings, State
from trilith.drivers.image_files import ImageFiles
from trilith.identity import passwords, tokens
from trilith.identity.seed import DEFAULT_DOMAIN, fixed_id
from trilith.kernel.declare import Noun, Route, Service
from trilith.kernel.http import App
from trilith.kernel.policy import Principal
from trilith.kernel.request import Ctx
from trilith.kernel.store import Store
from trilith.kernel.versions import text
from trilith.placement.hosts import HOST

Row = dict[str, Any]
PASSWORD = "a-contract-password"
NOBODY = "http://127.0.0.1:1"  # no one listens there
PEOPLE = {  # name: (project, role)
    "reader": ("mine", "reader"),
    "member": ("mine", "member"),
    "manager": ("mine", "manager"),
    "owner": ("mine", "admin"),  # an administrator whose own project has the specimens
    "admin": ("admin", "admin"),
    "stranger": ("theirs", "member"),
}


@dataclass
class Cloud:
    """`ask` sends a request and checks what holds for every reply."""

    client: Client
    store: Store
    database: Path
    tokens: dict[str, str] = field(default_factory=dict)
    people: dict[str, Principal] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._watch = sqlite3.connect(self.database, isolation_level=None)
        self._image = sqlite3.connect(":memory:")
        self._last = 0

    # requests
    def ask(
        self,
        method: str,
        url: str,
        who: str | None = "owner",
        body: Any = None,
        at: str = "",
        service: Service | None = None,
        **more: Any,
    ) -> Answer:
        before = self.version()
        answer = self.client(method, url, self.tokens[who] if who else None, body, at, **more)
        what = f"{method} {url} at {at or 'no version'} by {who}: {answer.status} {answer.content[:600]!r}"
        away = answer.status == 503 and "retry-after" in answer.headers  # there is no hub here
        assert answer.status < 500 or away, what
        assert answer.headers["x-openstack-request-id"].startswith("req-"), what
        if service is not None and service.versions is not None:
            assert answer.headers["openstack-api-version"].startswith(service.versions.kind), what
        if answer.status >= 400:
            assert self.version() == before, f"a refused request has written: {what}"
            if service is not None and method != "HEAD":
                check_error(service, answer, what)
        return answer

    def perform(self, operation: Operation, who: str | None, body: Any = None, row: Row | None = None) -> Answer:
        url = self.url(operation, row)
        more: Row = {"raw": b"x", "media": "application/octet-stream"} if operation.id in specimens.BYTES else {}
        if isinstance(operation.declared, Route) and operation.declared.media:
            more |= {"media": operation.declared.media[0]}
        return self.ask(operation.method, url, who, body, operation.at, operation.service, **more)

    def url(self, operation: Operation, row: Row | None = None) -> str:
        noun = operation.noun
        if noun is not None and row is None and "{" in operation.path:
            row = self.specimen(noun)
        return fill(self, operation.path, noun, row, operation.id)

    # specimens
    def specimen(self, noun: Noun) -> Row:
        """The row of the one that stands in the cloud from the beginning."""
        name = name_of(noun)
        assert name in self.rows, f"there is no {name}: {self.broken.get(name, 'nobody says how to make one')}"
        return self.rows[name]

    def make(self, noun: Noun, number: int) -> Row:
        """Another one."""
        made = specimens.SPECIMENS[name_of(noun)].make(self, noun, number)
        assert made is not None
        return made

    def make_all(self) -> None:
        for name, specimen in specimens.SPECIMENS.items():
            try:
                noun = declared.nouns()[name]
                self.rows[name] = specimen.make(self, noun, 0)
            except (AssertionError, KeyError) as error:
                self.broken[name] = f"{type(error).__name__}: {error}"
        self.keep()

    def row(self, noun: Noun, key: Any) -> Row | None:
        return self.store.read(lambda tx: tx.one(noun, noun.c[noun.key] == key))

    def visible(self, operation: Operation, row: Row, who: str) -> bool:
        """Whether the row, or for a list what it is below, is in the caller's scope, as declared."""
        noun = operation.noun
        assert noun is not None

        def look(tx: Any) -> bool:
            ctx = Ctx(self.store, noun.service, operation.method, operation.path, "", f"req-{samples.SOME_ID}")
            ctx.who, ctx.at = self.people[who], operation.version
            ctx.enter(tx)
            if noun.parent is not None:
                variable = [part[1:-1] for part in noun.path.split("/") if part.startswith("{")][-1]
                parent = noun.parent
                if variable in row and tx.one(parent, parent.c[parent.key] == row[variable], parent.scope(ctx)) is None:
                    return False
            if not operation.about_a_row:
                return True
            return tx.one(noun, noun.c[noun.identity] == row[noun.identity], noun.scope(ctx)) is not None

        return self.store.read(look)

    # what SQL holds
    def version(self) -> int:
        """Changes with every commit that wrote anything."""
        return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def keep(self) -> None:
        """From here on `restore` comes back to the present."""
        self._watch.backup(self._image)
        self._last = self.version()

    def restore(self) -> None:
        if self.version() != self._last:
            with sqlite3.connect(self.database, isolation_level=None) as writer:
                self._image.backup(writer)
            writer.close()
            self._last = self.version()

    def close(self) -> None:
        self.store.close()
        self._watch.close()
        self._image.close()


def fill(cloud: Cloud, path: str, noun: Noun | None, row: Row | None, operation_id: str = "") -> str:
    """A path with values for what stands in braces: columns of the row, else the specimens' own table."""
    parts = []
    for part in path.split("/"):
        if not part.startswith("{"):
            parts.append(part)
            continue
        name = part[1:-1].removesuffix(":path")
        own = specimens.PATHS.get((operation_id, name))
        if own is not None:
            parts.append(str(own(cloud)))
        elif name == "id" and noun is not None and row is not None:
            parts.append(str(row[noun.key]))
        elif row is not None and noun is not None and name in noun.table.c and row.get(name) is not None:
            parts.append(str(row[name]))
        else:
            found = specimens.PATHS.get(("", name))
            parts.append(str(found(cloud)) if found else samples.SOME_ID)
    return "/".join(parts)


def check_error(service: Service, answer: Answer, what: str) -> None:
    """Every service has one shape for its errors."""
    if answer.status == 401:
        assert answer.json["error"]["code"] == 401, what
        assert answer.headers["www-authenticate"].startswith("Keystone uri="), what
        return
    body = answer.json
    if service.prefix.startswith("/networking"):
        assert set(body) == {"NeutronError"}, what
        assert set(body["NeutronError"]) == {"type", "message", "detail"}, what
        message = body["NeutronError"]["message"]
        assert body["NeutronError"]["type"], what
    elif service.prefix.startswith("/identity"):
        assert set(body["error"]) == {"code", "message", "title"}, what
        assert body["error"]["code"] == answer.status, what
        message = body["error"]["message"]
    elif service.prefix.startswith("/image"):
        assert set(body) == {"message", "code", "title"}, what
        assert body["code"].startswith(str(answer.status)), what
        message = body["message"]
    elif service.prefix.startswith("/placement"):
        assert body["errors"][0]["status"] == answer.status, what
        message = body["errors"][0]["detail"]
    elif service.prefix.startswith(("/compute", "/volume")):
        assert len(body) == 1, what
        inner = next(iter(body.values()))
        assert inner["code"] == answer.status, what
        message = inner["message"]
    else:
        message = body["error"]["message"]
    assert message, what


def at(service: Service, version: Any) -> str:
    return f"{service.versions.kind} {text(version)}" if service.versions and version else ""


def path_of(url: str) -> str:
    """An absolute URL of a reply as a path with its query."""
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def open_cloud(directory: Path) -> Cloud:
    """A new cloud with people of every role and a specimen of each noun."""
    passwords.set_rounds(4)
    state = State(directory)
    settings = Settings(cloud_id="c0de", host="h1", cluster=all_in_one("h1"), fake=True)
    state.make_directories()
    state.make_secrets(settings)
    bootstrap(state, settings)
    tokens.use_keys(state.secret("cluster-key"))
    store = open_store(state, settings)
    event.listen(store.engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))
    given: Mapping[str, Any] = {
        "image_files": ImageFiles(state.images),
        "controller_credential": "none",
        "hub_url": NOBODY,
        "hub_port": 1,
    }
    cloud = Cloud(Client(App(store, tokens.authenticate, given)), store, state.database)
    _people(cloud, state)
    inventory = {"vcpus": 64, "ram_mib": 262144, "disk_gib": 4096}

    def host_lives(tx: Any) -> None:
        tx.update(HOST, tx.get(HOST, "h1"), seen_at_s=4e9, inventory=inventory, epoch=1)

    store.run(host_lives)
    cloud.make_all()
    return cloud


def _people(cloud: Cloud, state: State) -> None:
    cloud.tokens["root"] = _sign_in(cloud, "admin", state.secret("admin"), fixed_id("project:admin"))
    identity = "/identity/v3"
    projects = {"admin": fixed_id("project:admin")}
    for name in ("mine", "theirs"):
        body = {"project": {"name": name, "domain_id": DEFAULT_DOMAIN}}
        projects[name] = cloud.ask("POST", f"{identity}/projects", "root", body).json["project"]["id"]
    for name, (project, role) in PEOPLE.items():
        user = {"name": f"the-{name}", "domain_id": DEFAULT_DOMAIN, "password": PASSWORD}
        answer = cloud.ask("POST", f"{identity}/users", "root", {"user": user})
        assert answer.status == 201, answer.content
        made = answer.json["user"]["id"]
        grant = f"{identity}/projects/{projects[project]}/users/{made}/roles/{fixed_id(f'role:{role}')}"
        assert cloud.ask("PUT", grant, "root").status == 204
        cloud.tokens[name] = _sign_in(cloud, f"the-{name}", PASSWORD, projects[project])
        headers = {"x-auth-token": cloud.tokens[name]}
        cloud.people[name] = cloud.store.read(lambda tx, h=headers: tokens.authenticate(tx, h))  # type: ignore[misc]


def _sign_in(cloud: Cloud, name: str, password: str, project_id: str) -> str:
    user = {"name": name, "domain": {"id": DEFAULT_DOMAIN}, "password": password}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    body["auth"]["scope"] = {"project": {"id": project_id}}
    answer = cloud.ask("POST", "/identity/v3/auth/tokens", None, body)
    assert answer.status == 201, answer.content
    return answer.headers["x-subject-token"]
