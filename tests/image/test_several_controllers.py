"""Images through any of several controllers: what is acknowledged is on two of them, and all of them can give it."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import free_port
from tests.image.several import Controllers, until
from trilith.image.images import IMAGE, sweep
from trilith.kernel.kinds import now
from trilith.kernel.store import Tx

V2 = "/image/v2/images"
CHUNK = 64 * 1024
DATA = random.Random(1).randbytes(40 * CHUNK)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controllers]:
    made = Controllers(tmp_path_factory.mktemp("controllers"), free_port())
    made.start("c1", "c2", "c3")
    yield made
    made.close()


@pytest.fixture
def controllers(running: Controllers) -> Controllers:
    """All three are up, whatever the test before did."""
    running.start(*({"c1", "c2", "c3"} - running.processes.keys()))
    return running


def make(controllers: Controllers) -> str:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    answer = controllers.ask("c1", "POST", V2, body)
    assert answer.status == 201, answer.content
    return str(answer.json["id"])


def status(controllers: Controllers, image_id: str) -> str:
    return str(controllers.ask("c1", "GET", f"{V2}/{image_id}").json["status"])


def chunks(data: bytes = DATA, pause_s: float = 0.0) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
        time.sleep(pause_s)


def send(controllers: Controllers, name: str, image_id: str, where: str = "file", pause_s: float = 0.0) -> int:
    return controllers.ask(name, "PUT", f"{V2}/{image_id}/{where}", data=chunks(pause_s=pause_s)).status


def test_an_upload_is_on_two_and_all_give_it(controllers: Controllers) -> None:
    image_id = make(controllers)
    assert send(controllers, "c2", image_id) == 204
    has = controllers.who_has(image_id)
    assert ("c2" in has, len(has)) == (True, 2)
    for name in ("c1", "c2", "c3"):
        assert controllers.ask(name, "GET", f"{V2}/{image_id}/file").content == DATA
    for name in ("c1", "c2", "c3"):
        controllers.round(name)
    assert controllers.who_has(image_id) == {"c1", "c2", "c3"}
    assert controllers.ask("c3", "DELETE", f"{V2}/{image_id}").status == 204
    for name in ("c1", "c2", "c3"):
        controllers.round(name)
        assert controllers.files(name).known() == set()


def test_a_peer_that_dies_in_the_middle_is_replaced(controllers: Controllers) -> None:
    image_id, answers = make(controllers), list[int]()
    upload = threading.Thread(target=lambda: answers.append(send(controllers, "c1", image_id, pause_s=0.05)))
    upload.start()

    def receiving() -> list[str]:
        return [name for name in ("c2", "c3") if list((controllers.root / name / "images/incoming").iterdir())]

    until(receiving, "a peer receives")
    (victim,) = receiving()
    controllers.power_off(victim)
    upload.join()
    assert answers == [204]
    assert controllers.who_has(image_id) == {"c1", "c2", "c3"} - {victim}
    controllers.power_off("c1")
    other = ({"c2", "c3"} - {victim}).pop()
    assert controllers.ask(other, "GET", f"{V2}/{image_id}/file").content == DATA


def test_one_copy_alone_is_never_acknowledged(controllers: Controllers) -> None:
    image_id = make(controllers)
    for name in ("c2", "c3"):
        controllers.power_off(name)
    small = controllers.ask("c1", "PUT", f"{V2}/{image_id}/file", data=[b"x" * 1000])
    assert (small.status, small.headers["retry-after"]) == (503, "1")
    assert status(controllers, image_id) == "queued"
    assert controllers.who_has(image_id) == set()


def test_the_taker_is_cut_off_in_the_middle(controllers: Controllers) -> None:
    image_id = make(controllers)

    def send_in_vain() -> None:
        with pytest.raises(OSError):
            send(controllers, "c2", image_id, pause_s=0.05)

    upload = threading.Thread(target=send_in_vain)
    upload.start()
    until(lambda: status(controllers, image_id) == "saving", "it is being sent")
    time.sleep(0.5)
    controllers.power_off("c2")
    upload.join()

    def time_is_up(tx: Tx) -> None:
        tx.update(IMAGE, tx.get(IMAGE, image_id), busy_until=now())
        sweep(tx)

    controllers.store.run(time_is_up)
    assert status(controllers, image_id) == "queued"
    assert send(controllers, "c3", image_id) == 204
    assert controllers.ask("c1", "GET", f"{V2}/{image_id}/file").content == DATA
    for name in ("c1", "c2", "c3"):
        controllers.round(name)
        assert controllers.files(name).names(image_id) == {hashlib.sha512(DATA).hexdigest()}


def test_what_is_staged_on_one_is_imported_by_one_that_has_it(controllers: Controllers) -> None:
    image_id = make(controllers)
    assert send(controllers, "c1", image_id, "stage") == 204
    has = controllers.who_has(image_id, "staging")
    assert ("c1" in has, len(has)) == (True, 2)
    body = {"method": {"name": "glance-direct"}}
    assert controllers.ask("c3", "POST", f"{V2}/{image_id}/import", body).status == 202
    controllers.power_off("c1")
    controllers.start("c1")
    controllers.round(({"c1", "c2", "c3"} - has).pop())  # it has nothing to import from
    assert status(controllers, image_id) == "importing"
    threads = [threading.Thread(target=controllers.round, args=(name,)) for name in has]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert status(controllers, image_id) == "active"
    (task,) = controllers.ask("c2", "GET", f"{V2}/{image_id}/tasks").json["tasks"]
    assert task["status"] == "success"
    for name in ("c1", "c2", "c3"):
        controllers.round(name)
    assert controllers.who_has(image_id) == {"c1", "c2", "c3"}
    assert controllers.who_has(image_id, "staging") == set()


def test_copies_are_for_controllers_only(controllers: Controllers) -> None:
    image_id = make(controllers)
    path = f"/agent/v1/copies/{image_id}/data"
    assert controllers.ask("c1", "PUT", path, data=[b"x"]).status == 403
    assert controllers.ask("c1", "PUT", path, data=[b"x"], headers={"Authorization": "Bearer wrong"}).status == 401
    assert controllers.ask("c1", "GET", f"{path}/{'0' * 128}").status == 403


def test_a_copy_that_arrives_damaged_is_not_taken(controllers: Controllers, monkeypatch: Any) -> None:
    image_id = make(controllers)
    assert send(controllers, "c1", image_id) == 204
    sha512 = hashlib.sha512(DATA).hexdigest()
    for name in controllers.who_has(image_id):
        path: Path = controllers.root / name / "images/data" / image_id / sha512
        path.write_bytes(DATA[:-1] + b"?")
    (last,) = {"c1", "c2", "c3"} - controllers.who_has(image_id)
    controllers.round(last)
    assert last not in controllers.who_has(image_id)
