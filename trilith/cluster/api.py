"""The API process: the WSGI application over every service, and the paths of the program itself."""

import json
import os
from typing import Any

import sqlalchemy as sa

from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.cluster.chunked_bodies import ChunkedBody
from trilith.cluster.lanes import Lanes
from trilith.cluster.shared_images import SharedImages, image_files
from trilith.cluster.state import Settings, State
from trilith.drivers.memcached import Memcached
from trilith.identity.passwords import Known, OwnMemory, remember
from trilith.identity.tokens import authenticate, keys, use_keys
from trilith.kernel import notices
from trilith.kernel.declare import SERVICES, Service
from trilith.kernel.hints import Hints
from trilith.kernel.http import App
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Store
from trilith.kernel.wire import PlainWire
from trilith.network.networks import use_tunnel_mtu
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


def open_store(state: State, settings: Settings) -> Store:
    """Notices are recorded where there is a bus to publish them on."""
    url, hints = state.database_url(settings), Hints(state.hints_socket)
    return Store(url, hints.send, notices.record if settings.clustered else None)


def read_join_tokens(state: State) -> dict[str, dict[str, Any]]:
    """By host: digest and end of the token that a deployment gave it. Read at each join: it may be new."""
    try:
        found: dict[str, dict[str, Any]] = json.loads(state.join_tokens.read_bytes())
    except FileNotFoundError:
        return {}
    return found


def app() -> Lanes:
    """For the API server's workers; the cloud is the one of ``TRILITH_STATE``."""
    state = State(os.environ["TRILITH_STATE"])
    settings = state.settings()
    use_keys(state.secret("cluster-key"))
    cache = Memcached([host.address for host in settings.controllers]) if settings.clustered else OwnMemory()
    remember(Known(keys().derived("passwords"), cache))
    use_tunnel_mtu(settings.cluster.networks.tunnel_mtu)
    images = image_files(state, settings)
    given: dict[str, Any] = {
        "image_files": images,
        "own_image_files": images.own if isinstance(images, SharedImages) else None,
        "hub_url": settings.hub_url,
        "hub_port": None if settings.clustered else settings.hub_port,
        "objects_port": None if settings.clustered else settings.objects_port,
        "ca_file": state.ca_file(settings),
        "controller_credential": state.secret("controller"),
        "chunked_body": ChunkedBody,
        "join_tokens": lambda: read_join_tokens(state),
    }
    return Lanes(App(open_store(state, settings), authenticate, given))
