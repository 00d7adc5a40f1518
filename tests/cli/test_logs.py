import itertools
import json
import threading
from pathlib import Path

import pytest

from trilith.cli import logs
from trilith.cli.main import main


def line(second: int, process: str, message: str, **more: object) -> str:
    time = f"2026-01-01T00:00:{second:02}.000+00:00"
    return (
        json.dumps({"time": time, "level": "info", "process": process, "request_id": None, "message": message, **more})
        + "\n"
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "api.jsonl.1").write_text(line(1, "api", "first"))
    (tmp_path / "api.jsonl").write_text(line(3, "api", "third", request_id="req-1") + "{broken\n")
    (tmp_path / "agent.jsonl").write_text(line(4, "agent", "fourth", request_id="req-1", traceback="Trace\n  back\n"))
    (tmp_path / "ovs-vswitchd.log").write_text("2026-01-01T00:00:02.500Z|00007|bridge|WARN|second\nnot a line\n")
    return tmp_path


def shown(directory: Path, request_id: str | None = None) -> list[str]:
    found: list[str] = []
    logs.show(logs.LocalLogs([directory]), logs.Asked(request_id), found.append)
    return found


def test_all_processes_in_the_order_of_time(directory: Path) -> None:
    words = [[word for word in ("first", "second", "third", "fourth") if word in text] for text in shown(directory)]
    assert list(itertools.chain(*words)) == ["first", "second", "third", "fourth"]
    assert "warning ovs-vswitchd" in shown(directory)[1]
    assert shown(directory)[3].endswith("Trace\n  back")


def test_one_request(directory: Path) -> None:
    assert ["third" in shown(directory, "req-1")[0], "fourth" in shown(directory, "req-1")[1]] == [True, True]
    assert len(shown(directory, "req-1")) == 2
    assert shown(directory, "req-2") == []


def test_follow(directory: Path) -> None:
    found: list[str] = []
    enough = threading.Event()

    def write(text: str) -> None:
        found.append(text)
        if "sixth" in text:
            enough.set()
            raise EOFError

    def follow() -> None:
        try:
            logs.show(logs.LocalLogs([directory]), logs.Asked(follow=True), write)
        except EOFError:
            return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    while len(found) < 4:
        enough.wait(0.01)
    with open(directory / "api.jsonl", "a") as file:
        text = line(5, "api", "fifth")
        file.write(text[:20])
        file.flush()
        enough.wait(0.5)
        file.write(text[20:])
    (directory / "hub.jsonl").write_text(line(6, "hub", "sixth"))
    assert enough.wait(5)
    assert sum("fifth" in text for text in found) == 1


@pytest.mark.parametrize("words", [["up", "--port", "0"], ["up", "--workers", "x"], ["dance"], []])
def test_wrong_words(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_a_bad_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--fake", "--listen", "localhost", "--state", str(tmp_path / "c")]) == 1
    assert "localhost is no IP address" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.fixture
def store(tmp_path: Path) -> logs.StoredLogs:
    """What a logging host has of two hosts and two days."""
    for host, day, process, text in (
        ("c1", "2026-01-01", "trilith", line(1, "api", "first", request_id="req-1")),
        ("n1", "2026-01-01", "trilith", line(2, "agent", "second", request_id="req-1")),
        ("n1", "2026-01-02", "trilith", line(9, "agent", "fourth", request_id="req-2")),
    ):
        (tmp_path / host / day).mkdir(parents=True, exist_ok=True)
        (tmp_path / host / day / f"{process}.jsonl").write_text(text)
    words = {"time": "2026-01-01T00:00:04+00:00", "level": "err", "process": "ovn-northd"}
    words["message"] = "2026-01-01T00:00:03.500Z|00007|raft|WARN|third"
    (tmp_path / "c1/2026-01-01/ovn-northd.jsonl").write_text(json.dumps(words) + "\n")
    return logs.StoredLogs(tmp_path)


def told(store: logs.StoredLogs, asked: logs.Asked) -> list[str]:
    found: list[str] = []
    logs.show(store, asked, found.append)
    return found


def test_one_request_over_all_hosts(store: logs.StoredLogs) -> None:
    first, second = told(store, logs.Asked("req-1"))
    assert "c1/api" in first
    assert "n1/agent" in second


def test_all_hosts_in_the_order_of_time(store: logs.StoredLogs) -> None:
    lines = told(store, logs.Asked())
    assert [word for text in lines for word in ("first", "second", "third", "fourth") if word in text] == [
        "first",
        "second",
        "third",
        "fourth",
    ]
    assert lines[2].startswith("2026-01-01T00:00:03.500 warning c1/ovn-northd")


def test_one_host_and_since(store: logs.StoredLogs) -> None:
    assert len(told(store, logs.Asked(host="n1"))) == 2
    assert len(told(store, logs.Asked(since="2026-01-01T00:00:05"))) == 1
    assert json.loads(told(store, logs.Asked("req-2", json=True))[0])["host"] == "n1"


def test_times_that_people_type() -> None:
    assert logs.since("2026-01-31T10:20") == "2026-01-31T10:20:00.000+00:00"
    assert logs.since("2h") < logs.since("10m")
    with pytest.raises(ValueError):
        logs.since("yesterday")
