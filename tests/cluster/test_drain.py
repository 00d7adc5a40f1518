"""A host is emptied: over the API in process, with agents that are stepped at each request."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import Cloud
from tests.compute.conftest import cloud as cloud
from tests.compute.test_moves import host_of, machines, make, other, settle
from trilith.cluster import drain
from trilith.cluster.drain import Drain, Progress, next_steps
from trilith.cluster.drill.api import Answer
from trilith.cluster.state import Problem

Doc = dict[str, Any]


class InProcess:
    """`cluster.drill.api.Api` over a cloud in this process; `away` requests are not answered."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.away = cloud, 0

    def call(self, method: str, path: str, token: str, body: Any = None, at: str = "") -> Answer:
        for host in ("c1", "c2"):
            self.cloud.beat(host)
            self.cloud.settle(1, host)
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError("nobody is there")
        answer = self.cloud.api(method, path, token, body, at)
        return Answer(answer.status, answer.headers, answer.content)


@pytest.fixture
def two(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setattr(drain, "LOOK_S", 0.0)
    cloud.add_host(tmp_path, "c2", ["compute"])
    return cloud


def run(cloud: Cloud, host: str, as_json: bool = False, away: int = 0) -> tuple[int, list[str]]:
    said: list[str] = []
    api = InProcess(cloud)
    api.away = away
    return Drain(api, ADMIN, host, as_json, said.append).run(), said  # type: ignore[arg-type]


def test_a_host_is_emptied(two: Cloud) -> None:
    keys = [make(two, name=f"s{n}")[0] for n in range(4)]
    host = host_of(two, keys[0])
    two.act(keys[0], "os-stop")
    settle(two)
    code, said = run(two, host)
    assert (code, machines(two, host)) == (0, set())
    assert {host_of(two, key) for key in keys} == {other(host)}
    assert [two.status(key) for key in keys] == ["SHUTOFF", "ACTIVE", "ACTIVE", "ACTIVE"]
    assert said[-1].startswith(f"{host} is empty.")
    (service,) = two.get(f"/os-services?host={host}&binary=nova-compute", ADMIN).json["services"]
    assert service["status"] == "disabled"
    assert run(two, host)[0] == 0  # nothing left to do


def test_what_cannot_move_is_named(two: Cloud) -> None:
    key, host, _ = make(two)
    two.act(key, "suspend")
    settle(two)
    code, said = run(two, host, as_json=True)
    last = json.loads(said[-1])
    assert (code, set(last["stays"])) == (1, {key})
    assert "SUSPENDED" in last["stays"][key]


def test_there_is_no_such_host(two: Cloud) -> None:
    with pytest.raises(Problem, match="no compute host nowhere"):
        run(two, "nowhere")


def server(key: str, status: str, task: str | None = None) -> Doc:
    return {"id": key, "status": status, "OS-EXT-STS:task_state": task}


def test_few_at_once() -> None:
    servers = [server(f"s{n}", "ACTIVE") for n in range(4)]
    assert next_steps(servers, set(), Progress()) == [("s0", "os-migrateLive"), ("s1", "os-migrateLive")]
    servers[0] = server("s0", "MIGRATING", "migrating")
    assert next_steps(servers, {"x"}, Progress()) == [("x", "confirmResize")]
    progress = Progress(tries={"s1": 3})
    assert next_steps([server("s1", "SHUTOFF")], set(), progress) == []
    assert "3 moves of it failed" in progress.stay["s1"]
