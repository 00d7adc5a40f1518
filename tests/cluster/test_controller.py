"""The controller's deadlines."""

import threading
from pathlib import Path

from tests.client import client
from tests.cluster.conftest import eventually
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.controller import SWEEP_S, _sweep
from trilith.cluster.state import Settings, State
from trilith.image.images import IMAGE, make_image
from trilith.kernel.kinds import now


def test_what_is_overdue_ends_as_soon_as_a_controller_starts(tmp_path: Path) -> None:
    """One that is killed every few seconds would never get to it otherwise."""
    state, settings = State(tmp_path / "s"), Settings(cloud_id="0001", host="host1", cluster=all_in_one("host1"))
    state.make_directories()
    state.make_secrets(settings)
    store, ended = client(tmp_path).app.store, threading.Event()
    overdue = {"phase": "saving", "busy_until": now(), "busy_token": "of a dead stream"}
    new = {"project_id": "p1", "name": "i", "disk_format": "raw"}
    store.run(lambda tx: make_image(tx, lambda: "i1", **new, **overdue))

    def queued() -> bool:
        return bool(store.read(lambda tx: tx.get(IMAGE, "i1"))["status"] == "queued")

    work = threading.Thread(target=_sweep, args=(state, settings, store, ended))
    work.start()
    try:
        eventually(queued, "the image is free again", SWEEP_S - 2)
    finally:
        ended.set()
        work.join()
