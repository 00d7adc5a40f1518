"""The API process: the WSGI application over every service, and the paths of the program itself."""

import os
from typing import Any

import sqlalchemy as sa

from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.cluster.state import Settings, State
from trilith.drivers.image_files import ImageFiles
from trilith.identity.credentials import set_credentials
from trilith.identity.tokens import authenticate, use_keys
from trilith.kernel.declare import SERVICES, Service
from trilith.kernel.hints import Hints
from trilith.kernel.http import App
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Store
from trilith.kernel.wire import PlainWire
from trilith.placement.hosts import HOST, is_up

SYSTEM = Service("system", "system", "", PlainWire())


@SYSTEM.route("GET", "/healthz", "public")
def healthz(ctx: Ctx) -> dict[str, str]:
    """Ready to serve: the database answers."""
    ctx.tx.scalar(sa.select(1))
    return {"status": "ok"}


@SYSTEM.route("GET", "/metrics", "public")
def metrics(ctx: Ctx) -> Reply:
    """Prometheus: how many rows there are of each noun, and which hosts are up."""
    lines = ["# TYPE trilith_rows gauge"]
    for service in SERVICES:
        for noun in service.nouns:
            lines.append(f'trilith_rows{{service="{service.name}",noun="{noun.plural}"}} {ctx.tx.count(noun)}')
    lines.append("# TYPE trilith_host_up gauge")
    lines += [f'trilith_host_up{{host="{row["name"]}"}} {int(is_up(row))}' for row in ctx.tx.rows(HOST)]
    text = "\n".join(lines) + "\n"
    return Reply(text.encode(), 200, [("Content-Type", "text/plain; version=0.0.4")])


def open_store(state: State) -> Store:
    return Store(f"sqlite:///{state.database}", Hints(state.hints_socket).send)


def open_identity(state: State, settings: Settings) -> None:
    """Gives this process the keys that tokens are made with, and the credentials of the cloud's own processes."""
    names = ["hub", "controller", *(f"host-{host.name}" for host in settings.cluster.hosts)]
    set_credentials({name: state.secret(name) for name in names})
    use_keys(state.fernet_keys)


def app() -> App:
    """For the API server's workers; the cloud is the one of ``TRILITH_STATE``."""
    state = State(os.environ["TRILITH_STATE"])
    settings = state.settings()
    open_identity(state, settings)
    given: dict[str, Any] = {
        "image_files": ImageFiles(state.images),
        "hub_url": settings.hub_url,
        "hub_port": settings.hub_port,
        "controller_credential": state.secret("controller"),
    }
    return App(open_store(state), authenticate, given)
