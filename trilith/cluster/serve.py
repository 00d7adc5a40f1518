"""What each of a cloud's own processes runs: ``python -m trilith.cli.main serve NAME``. All return on SIGTERM."""

import functools
import gc
import importlib
import logging
import os
import traceback
from collections.abc import Callable
from typing import Any

from trilith.cluster.state import Settings, State

log = logging.getLogger(__name__)

THREADS = 256  # of one API worker, made as they are needed; almost all of them only wait: see `lanes`
BODY_BYTES = 1 << 20  # that a worker takes from a socket at once, where there is so much
KILL_WORKER_S = 2
GARBAGE = (50_000, 20, 20)  # a list of 1,000 rows makes 30,000 objects and no cycle: looking for some took a third


def supervisor(state: State) -> None:
    from trilith.cluster.supervisor import Supervisor
    from trilith.cluster.up import units

    Supervisor(state, units(state, state.settings())).run()


def api(state: State) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    settings = state.settings()
    app = _entry(settings, "api", "app")
    _in_fork(lambda: _entry(settings, "bootstrap", "bootstrap")(state, settings))
    gc.set_threshold(*GARBAGE)
    wsgi: dict[str, Any] = {"interface": Interfaces.WSGI, "blocking_threads": THREADS, "http": HTTPModes.http1}
    wsgi["http1_settings"] = HTTP1Settings(max_buffer_size=BODY_BYTES)
    _granian(state, settings, f"{settings.program}.api:app", app, settings.port, wsgi)


def _granian(
    state: State, settings: Settings, target: str, app: Callable[[], Any], port: int, kind: dict[str, Any]
) -> None:
    """Serves until SIGTERM, with workers forked from one parent that has everything imported."""
    from granian.constants import SSLProtocols
    from granian.log import LogLevels
    from granian.server import Server

    gc.collect()
    gc.freeze()  # what is here now stays shared between the workers
    server = Server(
        target,
        address=settings.listen,
        port=port,
        workers=settings.workers,
        respawn_failed_workers=True,
        workers_kill_timeout=KILL_WORKER_S,
        ssl_cert=state.tls / "host.crt" if settings.encrypted else None,
        ssl_key=state.tls / "host.key" if settings.encrypted else None,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.error,
        log_dictconfig={"loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": False}}},
        **kind,
    )
    server.serve(target_loader=functools.partial(_load, app), wrap_loader=False)


def _load(app: Callable[[], Any]) -> Any:
    return app()


def _in_fork(work: Callable[[], None]) -> None:
    """What comes before the workers, in a fork: no connection to the database lives on in their parent."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                log.exception("the start failed")
                traceback.print_exc()
            logging.shutdown()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(1)


def objects(state: State) -> None:
    """ASGI: bodies stream both ways, and a slow client holds no thread."""
    from granian.constants import HTTPModes, Interfaces

    from trilith.cluster import objects

    settings = state.settings()
    _in_fork(lambda: objects.prepare(state, settings))
    asgi: dict[str, Any] = {"interface": Interfaces.ASGI, "http": HTTPModes.http1}
    _granian(state, settings, "trilith.cluster.objects:app", objects.app, settings.objects_port, asgi)


def hub(state: State) -> None:
    from trilith.cluster.hub import serve

    serve(state)


def controller(state: State) -> None:
    settings = state.settings()
    _entry(settings, "controller", "run")(state, settings)


def network(state: State) -> None:
    """Makes what the network engines need, and ends."""
    from trilith.cluster.ovn_engine import prepare_host
    from trilith.cluster.up import ovn_host

    prepare_host(ovn_host(state, state.settings()))


def agent(state: State) -> None:
    from trilith.agent.main import run
    from trilith.cluster import agent_place, up

    settings = state.settings()
    place = agent_place if settings.clustered else up
    run(place.agent_settings(state, settings))


def keeper(state: State) -> None:
    from trilith.cluster.keeper import run

    run(state)


def _entry(settings: Settings, module: str, function: str) -> Callable[..., Any]:
    entry: Callable[..., Any] = getattr(importlib.import_module(f"{settings.program}.{module}"), function)
    return entry


PROCESSES: dict[str, Callable[[State], None]] = {
    function.__name__: function for function in (supervisor, api, objects, hub, controller, network, agent, keeper)
}
