"""The drill of live migrations: TCP connections, downtime, and what it says of moves that end otherwise."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trilith.cluster.drill import moves, streams
from trilith.cluster.drill.moves import Move, Moves, with_downtime

Doc = dict[str, Any]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NODE, OTHER = "n1", "n2"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


def written(serve: Serve, count: int) -> list[Doc]:
    """The first lines of a stream to a server that does this."""

    async def talk() -> list[Doc]:
        found: list[Doc] = []
        enough = asyncio.Event()

        def write(document: Doc) -> None:
            found.append(document)
            if len(found) == count:
                enough.set()

        async with await asyncio.start_server(serve, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            task = asyncio.create_task(streams.stream("127.0.0.1", write, port))
            try:
                await asyncio.wait_for(enough.wait(), 20)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return found

    return asyncio.run(talk())


def test_lines_are_answered_on_one_connection() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await echo(reader, writer)

    found = written(serve, 3)
    assert [line["problem"] for line in found] == [None] * 3
    assert all(0 <= line["took_s"] < streams.WAIT_S for line in found)
    assert len(connections) == 1


def test_a_lost_connection_is_told_and_made_anew() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await reader.readline()
        writer.close()

    found = written(once, 3)
    assert [line["problem"] is None for line in found] == [True, False, True]
    assert found[1]["took_s"] is None


def test_a_wrong_answer_is_a_lost_connection() -> None:
    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"no\n")
        await reader.readline()

    assert written(liar, 1)[0]["problem"] == "it answered b'no\\n'"


def test_downtime_is_the_longest_silence_of_a_move() -> None:
    def answer(at_s: float) -> Doc:
        return {"ping": "a", "at_s": at_s, "took_s": 0.001}

    samples = [answer(at_s) for at_s in (8.0, 9.5, 10.0, 10.5, 12.0, 12.5, 30.0)]
    samples += [{"ping": "b", "at_s": 11.0, "took_s": 0.001}, {"ping": "a", "at_s": 11.0, "took_s": None}]
    samples += [{"op": "servers", "at_s": 11.0, "took_s": 0.1}]
    move = Move("s", NODE, OTHER, "completed", 10.0, 12.0)
    (found,) = with_downtime([move], {"s": "a"}, samples)
    assert found["downtime_s"] == pytest.approx(1.5)
    (found,) = with_downtime([move], {}, samples)
    assert found["downtime_s"] is None


class Cluster:
    """The stage and the site in one. Each migration ends as the next of `ends` says: completed, error, refused,
    never, or twice (the machine is left on both)."""

    def __init__(self, *ends: str) -> None:
        self.ends, self.where, self.rows = list(ends), {"s1": NODE, "s2": NODE}, {"s1": 0, "s2": 0}
        self.status: dict[str, str] = {}
        self.twice: set[str] = set()
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def live_migrate(self, server: str) -> str:
        with self.lock:
            end = self.ends.pop(0) if self.ends else "completed"
            if end == "refused":
                return "400 b'no'"
            self.rows[server] += 1
            self.status[server] = "running" if end == "never" else "error" if end == "error" else "completed"
            if end in ("completed", "twice"):
                self.where[server] = OTHER if self.where[server] == NODE else NODE
            if end == "twice":
                self.twice.add(server)
            return ""

    def last_move(self, server: str) -> Doc | None:
        return {"id": self.rows[server], "status": self.status[server]} if self.rows[server] else None

    def host_of(self, server: str) -> str:
        return self.where[server]

    def is_idle(self, server: str) -> bool:
        return True

    def machines(self) -> dict[str, set[str]]:
        there = {host: {key for key, at in self.where.items() if at == host} for host in (NODE, OTHER)}
        return {host: servers | self.twice for host, servers in there.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOVES_S", "SETTLES_S", "LOOK_EACH_S"):
        monkeypatch.setattr(moves, name, 0.01)


def moved(cluster: Any, count: int, servers: list[str], kills: bool = False) -> list[Move]:
    return Moves(cluster, cluster, servers).run(count, kills)


def test_all_complete_in_turn() -> None:
    cluster = Cluster()
    found = moved(cluster, 8, ["s1", "s2"])
    assert [(move.status, move.wrong) for move in found] == [("completed", ())] * 8
    assert cluster.rows == {"s1": 4, "s2": 4}
    assert {(move.source, move.target) for move in found} == {(NODE, OTHER), (OTHER, NODE)}


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("error", "moving s1: error"),
        ("refused", "moving s1: 400 b'no'"),
        ("never", "the migration of s1 does not end"),
        ("twice", "machine s1 is n2's after its move, and runs on ['n1', 'n2']"),
    ],
)
def test_what_is_wrong(end: str, words: str) -> None:
    cluster = Cluster(end, end)
    found = moved(cluster, 2, ["s1", "s2"])
    assert any(words in sentence for move in found for sentence in move.wrong), found


def test_a_move_may_be_undone_where_processes_die() -> None:
    cluster: Any = Cluster("error", "error")
    cluster.processes = list
    assert [(move.status, move.wrong) for move in moved(cluster, 2, ["s1", "s2"], kills=True)] == [("error", ())] * 2
