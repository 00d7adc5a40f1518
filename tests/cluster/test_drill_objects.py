"""The drill's users who write objects: they find out what a store loses, brings back, changes or miscounts, and blame
nobody for what was never answered. Over the real front end and a store that does what the test says."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.client import MEMBER
from tests.objectstore.front.client import BASE, Objects
from tests.objectstore.model import ModelStore
from trilith.cluster.drill import load, objects, report
from trilith.cluster.drill.api import Answer, Api
from trilith.cluster.drill.drills import DRILLS
from trilith.cluster.drill.load import Broken, Promises, Things
from trilith.cluster.drill.objects import ObjectWriter, Place, Stored, place_in
from trilith.cluster.drill.run import Outcome
from trilith.objectstore.store import Put

ACCOUNT = "AUTH_p1"
ACTS = 60


class StandIn(Api):
    """Calls the application. `unheard`: how many requests are done and their answers lost; `away`: how many find
    nobody."""

    def __init__(self, store: ModelStore) -> None:
        super().__init__("http://objects.test:9000")
        self.client = Objects(store)
        self.unheard = self.away = 0
        self.asked: list[tuple[str, str]] = []

    def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: Any = None,
        at: str = "",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout_s: float = 15.0,
    ) -> Answer:
        self.asked.append((method, path))
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError("nobody")
        found = self.client(method, path.removeprefix(BASE), data or b"", token)
        if self.unheard:
            self.unheard -= 1
            raise ConnectionResetError("gone")
        return Answer(found.status, found.headers, found.content)


@pytest.fixture
def store() -> ModelStore:
    return ModelStore()


@pytest.fixture
def api(store: ModelStore) -> Iterator[StandIn]:
    found = StandIn(store)
    yield found
    found.client.application.close()


@pytest.fixture
def writer(api: StandIn) -> ObjectWriter:
    found = ObjectWriter(1, Place(api, BASE), Promises(), threading.Event(), Things(MEMBER, "", "", ""))
    found.begin()
    return found


def worked(writer: ObjectWriter) -> ObjectWriter:
    for _ in range(ACTS):
        writer.act()
    return writer


def container(writer: ObjectWriter) -> str:
    return writer.path.rpartition("/")[2]


def test_a_store_that_keeps_its_word(writer: ObjectWriter, store: ModelStore) -> None:
    worked(writer)
    assert writer.deleted, "none was deleted"
    assert writer.puts > len(writer.there) + len(writer.deleted), "none was written over"
    assert writer.wrong() == []
    writer.take_away()
    assert store.container(ACCOUNT, container(writer)) is None


def test_all_pages_of_a_list_are_read(writer: ObjectWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAGE", 7)
    assert worked(writer).wrong() == []


def lose(store: ModelStore, box: str, name: str) -> None:
    store.delete_object(ACCOUNT, box, name)


def change(store: ModelStore, box: str, name: str) -> None:
    written = store.write(ACCOUNT, box, name)
    written.write(b"other bytes")
    written.commit(Put("x/y"))


def add(store: ModelStore, box: str, name: str) -> None:
    change(store, box, "nobody-wrote-this")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lose, ["acknowledged, and not listed", "acknowledged, and not there as it was written"]),
        (change, ["listed as another", "acknowledged, and not there as it was written"]),
        (add, ["listed, and deleted or never written"]),
    ],
)
def test_what_a_store_does_wrong_is_said(
    writer: ObjectWriter, store: ModelStore, harm: Callable[[ModelStore, str, str], None], words: list[str]
) -> None:
    name = min(worked(writer).there)
    harm(store, container(writer), name)
    wrong = writer.wrong()
    assert [word in sentence for word, sentence in zip(words, wrong, strict=True)] == [True] * len(words), wrong


def test_what_was_deleted_and_came_back_is_said(writer: ObjectWriter, store: ModelStore) -> None:
    name = min(worked(writer).deleted)
    change(store, container(writer), name)
    wrong = writer.wrong()
    assert any(f"{name} are deleted, and there" in sentence for sentence in wrong), wrong


def test_a_list_that_says_something_else_than_the_counts(writer: ObjectWriter) -> None:
    worked(writer)
    listed = {**writer.there, "more": Stored("", 1)}
    assert "are listed" in writer._miscounted(listed)


def test_many_are_told_in_one_sentence(writer: ObjectWriter, store: ModelStore) -> None:
    for name in sorted(worked(writer).there):
        lose(store, container(writer), name)
    assert len(writer.wrong()) == 2
    assert f" and {len(writer.there) - objects.MOST_NAMED} more are" in writer.wrong()[0]


def test_a_name_whose_answer_was_lost_is_left_alone(writer: ObjectWriter, api: StandIn) -> None:
    api.unheard = 1
    writer.put("a")
    assert writer.promises.retries == 1
    writer.put("b")
    for _ in range(20):
        writer.act()
    assert [method for method, path in api.asked if path.endswith("/a") and method != "GET"] == ["PUT", "PUT"]
    assert writer.wrong() == []


def test_a_deletion_whose_answer_was_lost(writer: ObjectWriter, api: StandIn) -> None:
    writer.put("a")
    api.unheard = 1
    writer.delete_object("a")
    assert writer.wrong() == []


def test_a_request_that_is_never_answered_promises_nothing(
    writer: ObjectWriter, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked(writer)
    monkeypatch.setattr(load, "PATIENCE_S", 0.3)
    api.unheard = 1000
    with pytest.raises(Broken, match="no answer"):
        writer.put("late")
    assert writer.unsure == {"late"}
    api.unheard = 0
    assert writer.wrong() == []
    writer.take_away()


def test_an_outage_costs_time_only(writer: ObjectWriter, api: StandIn) -> None:
    api.away = 3
    writer.put("a")
    assert writer.waited_s > 0.3
    assert writer.wrong() == []


def test_a_wrong_etag_is_no_acknowledgement(writer: ObjectWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_sent", lambda *words: Answer(201, {"etag": "0" * 32}, b""))
    with pytest.raises(Broken, match="answered 201, 0000"):
        writer.put("a")


def test_where_the_objects_are() -> None:
    def service(kind: str, **urls: str) -> dict[str, Any]:
        return {"type": kind, "endpoints": [{"interface": name, "url": url} for name, url in urls.items()]}

    api = Api("http://cloud.test:8000")
    others = [service("image", public="http://cloud.test:8000/image"), service("object-store", admin="http://x/")]
    assert place_in(others, api) is None
    found = place_in([*others, service("object-store", public="http://cloud.test:8002/object-store/v1/AUTH_1")], api)
    assert found is not None
    assert (found.api.url, found.path) == ("http://cloud.test:8002", "/object-store/v1/AUTH_1")


def test_drills_about_objects_have_writers_and_the_report_counts_them() -> None:
    about = [drill for drill in DRILLS.values() if drill.about_objects]
    assert {drill.name for drill in about} == {"object-process", "object-controller", "object-storage"}
    assert all(drill.objects and drill.named for drill in about)
    outcome = Outcome("object-storage", "y", dict(outage_s=None, failed=None, ping_s=None, io_s=None))
    outcome.load = {"objects": 321, "objects_waited_s": 1.25}
    assert "object-storage: 321 objects were acknowledged; the slowest request took 1.2 s." in report.as_text([outcome])
