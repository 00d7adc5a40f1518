"""What the measuring client makes of a volume whose fate it does not know."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from trilith.cluster.drill import meter
from trilith.cluster.drill.meter import Meter, Target

Doc = dict[str, Any]
TARGET = Target("http://127.0.0.1:1", None, "u", "p", "p", "i", 20.0, [])
LIST, MAKE, LOOK, DELETE = "GET ?", "POST", "GET", "DELETE"
Answer = tuple[int, Any] | Exception
AFTER: dict[str, Answer] = {LIST: (200, {"volumes": [{"id": "v"}]}), LOOK: (404, None)}


class Scripted(Meter):
    """Answers as `script` says: what is asked, and the answer; an exception is raised. Then: as `AFTER` does."""

    def __init__(self, script: list[tuple[str, Answer]]) -> None:
        super().__init__(TARGET, None, self.samples_append)  # type: ignore[arg-type]
        self.script, self.samples = script, []

    samples: list[Doc]

    def samples_append(self, document: Doc) -> None:
        self.samples.append(document)

    async def _call(self, method: str, path: str, body: Any = None, well: set[int] = meter.WELL) -> tuple[int, bytes]:
        asking = LIST if "?" in path else method
        asked, answer = self.script.pop(0) if self.script else (asking, AFTER[asking])
        assert asked == asking
        if isinstance(answer, Exception):
            raise answer
        status, document = answer
        if status not in well:
            raise aiohttp.ClientError(f"answered {status}")
        return status, json.dumps(document).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "RETRY_S", 0.0)
    monkeypatch.setattr(meter, "WORK_S", 0.9)


def work(*script: tuple[str, Answer]) -> Doc:
    scripted = Scripted(list(script))
    asyncio.run(scripted._measure("work", 0.0))
    assert scripted.script == []
    (sample,) = scripted.samples
    return sample


def volume(status: str) -> tuple[int, Doc]:
    return 200, {"volume": {"id": "v", "status": status}}


MADE = (MAKE, volume("creating"))
AWAY = TimeoutError()


def test_a_volume_that_is_made() -> None:
    sample = work(MADE, (LOOK, volume("creating")), (LOOK, AWAY), (LOOK, volume("available")), (DELETE, (202, None)))
    assert (sample["problem"], len(sample["tries"])) == (None, 1)


def test_one_that_fails() -> None:
    sample = work(MADE, (LOOK, volume("error")), (LIST, (200, {"volumes": [{"id": "v"}]})), (LOOK, volume("error")))
    assert sample["problem"] == "a volume became error"


@pytest.mark.parametrize("then", [(LOOK, (404, None)), (LOOK, volume("deleting"))])
def test_one_whose_deletion_was_not_answered(then: tuple[str, Answer]) -> None:
    script = [MADE, (LOOK, volume("available")), (DELETE, AWAY), (LIST, (200, {"volumes": [{"id": "v"}]})), then]
    sample = work(*script, *([] if then[1] == (404, None) else [(LOOK, (404, None))]))
    assert (sample["problem"], len(sample["tries"])) == (None, 2)


def test_one_that_had_gone_already() -> None:
    sample = work(MADE, (LOOK, volume("available")), (DELETE, AWAY), (LIST, (200, {"volumes": []})))
    assert (sample["problem"], len(sample["tries"])) == (None, 2)


def test_one_that_is_lost() -> None:
    """Nobody asked for its deletion."""
    sample = work(MADE, (LOOK, volume("creating")))
    assert sample["problem"] == "a volume was not available within 1 s"
