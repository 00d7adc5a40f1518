"""A host that was not heard for a while is heard at once, however many others write: on MariaDB, where beats can."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests.client import Answer, token
from tests.compute.conftest import Cloud
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, is_up

AGENT = token("host", host="c1")


@pytest.mark.usefixtures("mariadb")
def test_a_late_beat_waits_for_no_writer(cloud: Cloud) -> None:
    row = cloud.store.read(lambda tx: tx.get(HOST, "c1"))
    body = {"boot_id": "b1", "inventory": row["inventory"], "versions": row["versions"], "epoch": row["epoch"]}

    def beat() -> Answer:
        return cloud.api.post("/agent/v1/hosts/c1/heartbeat", body, AGENT)

    body["epoch"] = beat().json["epoch"]  # the first one is a change, and queues
    cloud.beat_was(30)
    inside, goes_on = threading.Event(), threading.Event()

    def write(tx: Tx) -> None:
        while not goes_on.is_set():
            tx.execute(sa.text("SELECT SLEEP(0.1)"))
            inside.set()

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(cloud.store.run, write)
        try:
            assert inside.wait(30)
            assert pool.submit(beat).result(timeout=8).json["epoch"] == body["epoch"]
            assert is_up(cloud.store.read(lambda tx: tx.get(HOST, "c1")))
            assert not writer.done()
        finally:
            goes_on.set()
        writer.result()
