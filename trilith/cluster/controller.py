"""The controller process: what no host owns. The network's northbound database, images, deadlines."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trilith.cluster import image_store
from trilith.cluster.api import open_store
from trilith.cluster.network_controller import NetworkController
from trilith.cluster.state import Settings, State
from trilith.compute import server_wants
from trilith.drivers.image_files import ImageFiles
from trilith.identity.fernet import rotate_keys
from trilith.image import images
from trilith.kernel.hints import Wake
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Reconciler, Runner
from trilith.kernel.sql_source import SqlSource
from trilith.kernel.store import Store, Tx
from trilith.volume import volumes

log = logging.getLogger(__name__)
SWEEP_S = 5.0
RESYNC_S = 2.0
ROTATE_KEYS_S = 7 * 24 * 3600.0
SWEEPS: tuple[Callable[[Tx], None], ...] = (images.sweep, volumes.sweep, server_wants.sweep)


def run(state: State, settings: Settings) -> None:
    """Returns after SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    store = open_store(state)
    kinds: dict[str, Any] = image_store.kinds()
    reconcilers: list[Reconciler] = [image_store.ImageBytes(store, ImageFiles(state.images))]
    network = NetworkController(state, settings, store)
    runner = Runner(SqlSource(store, kinds), reconcilers, RESYNC_S, workers=4)

    def on_wake(message: dict[str, Any]) -> None:
        runner.wake()
        network.wake()

    wake = Wake(settings.hub_url, state.secret("controller"), ["images", "northbound"], on_wake)
    threads = [threading.Thread(target=work, daemon=True) for work in (runner.run, network.run)]
    for thread in [wake, *threads]:
        thread.start()
    _sweep(state, settings, store, ended)
    runner.stop()
    network.stop()
    wake.stop()


def _sweep(state: State, settings: Settings, store: Store, ended: threading.Event) -> None:
    """Deadlines, by whoever holds the lease."""
    lease = Holder(store, "sweep", f"controller:{settings.host}")
    while not ended.wait(SWEEP_S):
        if lease.held() is None:
            continue
        for work in SWEEPS:
            store.run(work)
        if keys_age_s(state.fernet_keys) > ROTATE_KEYS_S:
            rotate_keys(state.fernet_keys)
            log.info("token keys rotated")


def keys_age_s(directory: Path) -> float:
    """Since the last rotation: the staged key was made then."""
    return time.time() - (directory / "0").stat().st_mtime
