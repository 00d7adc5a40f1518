"""The runner: one worker a key, backoff, faults reported once, leftovers of nobody taken away."""

import threading
import time
from typing import Any

from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Act, Doc, Runner


class Lamps:
    """A world of lamps that are on or off."""

    kind = "lamp"

    def __init__(self) -> None:
        self.world: dict[str, bool] = {}
        self.fail: dict[str, Exception] = {}
        self.acts: list[tuple[str, str]] = []
        self.at_once = 0
        self.most_at_once = 0

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if not want["present"]:
            return [Act("remove")] if seen else []
        if seen is None:
            return [Act("make")]
        return [] if seen["on"] == want["on"] else [Act("switch", {"on": want["on"]})]

    def observe(self, key: str) -> Doc | None:
        return {"on": self.world[key]} if key in self.world else None

    def known(self) -> set[str]:
        return set(self.world)

    def perform(self, key: str, act: Act) -> None:
        self.acts.append((key, act.do))
        if error := self.fail.get(key):
            raise error
        if act.do == "remove":
            del self.world[key]
        else:
            self.world[key] = bool(act.args.get("on", False))


class Rows:
    def __init__(self) -> None:
        self.rows: dict[str, Doc] = {}
        self.reports: list[tuple[str, Any, str | None]] = []
        self.away = False

    def wants(self, kind: str) -> dict[str, Doc]:
        if self.away:
            raise Unavailable("no rows now")
        return dict(self.rows)

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        self.reports.append((key, seen, fault))


def until(condition: Any, for_s: float = 5) -> None:
    give_up = time.monotonic() + for_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def want(key: str, on: bool = True, generation: int = 1) -> Doc:
    return {"id": key, "generation": generation, "present": True, "on": on}


def run(lamps: Lamps, rows: Rows, work: Any, resync_s: float = 0.05) -> None:
    runner = Runner(rows, [lamps], resync_s)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        work(runner)
    finally:
        runner.stop()
        thread.join()


def test_converges_and_reports_once() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a")

    def work(runner: Runner) -> None:
        until(lambda: rows.reports)
        time.sleep(0.2)

    run(lamps, rows, work)
    assert lamps.world == {"a": True}
    assert rows.reports == [("a", {"on": True}, None)]


def test_what_nobody_wants_goes() -> None:
    lamps, rows = Lamps(), Rows()
    lamps.world["stray"] = True
    run(lamps, rows, lambda runner: until(lambda: not lamps.world))


def test_refused_is_reported_and_not_tried_again_until_the_want_changes() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a")
    lamps.fail["a"] = Refused("no such bulb")

    def work(runner: Runner) -> None:
        until(lambda: rows.reports)
        time.sleep(0.3)
        assert lamps.acts == [("a", "make")]
        assert rows.reports[0][2] == "no such bulb"
        del lamps.fail["a"]
        rows.rows["a"] = want("a", generation=2)
        runner.wake()
        until(lambda: lamps.world == {"a": True})

    run(lamps, rows, work)


def test_unavailable_is_tried_again_with_pauses_and_holds_up_nobody() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows |= {"a": want("a"), "b": want("b")}
    lamps.fail["a"] = Unavailable("no current")

    def work(runner: Runner) -> None:
        until(lambda: lamps.world == {"b": True})
        time.sleep(0.4)
        assert 2 <= len([act for act in lamps.acts if act[0] == "a"]) <= 4
        del lamps.fail["a"]
        until(lambda: lamps.world == {"a": True, "b": True})

    run(lamps, rows, work)


def test_who_waits_for_his_turn_asks_as_often_as_before() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a")
    lamps.fail["a"] = Unavailable("others first", again_s=0.1)
    run(lamps, rows, lambda runner: until(lambda: len(lamps.acts) >= 8, for_s=30))
    assert rows.reports == [("a", None, None)]


def test_when_the_source_is_back_nothing_waits_for_its_pause_to_end() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a")
    lamps.fail["a"] = Unavailable("the source is away")

    def work(runner: Runner) -> None:
        until(lambda: ("lamp", "a") in runner._not_before)
        runner._not_before["lamp", "a"] = time.monotonic() + 60  # as after many tries
        rows.away = True
        until(lambda: not runner._not_before)
        del lamps.fail["a"]
        rows.away = False
        until(lambda: lamps.world == {"a": True})

    run(lamps, rows, work)


def test_an_unknown_error_of_one_key_is_tried_again_and_never_reported_as_nothing_there() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a", on=False)
    lamps.world["a"] = True
    lamps.fail["a"] = ZeroDivisionError()

    def work(runner: Runner) -> None:
        until(lambda: len(lamps.acts) == 2)
        assert rows.reports == []
        del lamps.fail["a"]
        until(lambda: rows.reports == [("a", {"on": False}, None)])

    run(lamps, rows, work)


def test_a_change_while_its_key_is_busy_is_seen_at_once() -> None:
    lamps, rows = Lamps(), Rows()
    rows.rows["a"] = want("a")
    gate = threading.Event()
    switch = lamps.perform

    def slow(key: str, act: Act) -> None:
        gate.wait(5)
        switch(key, act)

    lamps.perform = slow  # type: ignore[method-assign]

    def work(runner: Runner) -> None:
        time.sleep(0.1)
        rows.rows["a"] = want("a", on=False, generation=2)
        runner.wake()
        time.sleep(0.1)
        gate.set()
        until(lambda: rows.reports and rows.reports[-1][1] == {"on": False})

    run(lamps, rows, work, resync_s=60)
