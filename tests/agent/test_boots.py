"""How many machines boot at once."""

import logging

import pytest

from trilith.agent.boots import BEGINS_S, BEGUN_CPU_S, BOOT_CPU_S, BOOT_S, IDLE_CPU_S, LOOK_S, START_S, Boots


class Host:
    """Its clock and its processes."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.used_s: dict[str, float] = {}
        self.boots = Boots(2, self.used_s.get, lambda: self.now_s)

    def may_begin(self, *servers: str) -> list[bool]:
        return [self.boots.may_begin(server) for server in servers]


def test_so_many_boot_at_once_and_the_next_when_one_has() -> None:
    host = Host()
    assert host.may_begin("a", "b", "c") == [True, True, False]
    host.used_s |= {"a": BOOT_CPU_S / 2, "b": BOOT_CPU_S / 2}
    assert host.may_begin("c", "a") == [False, True]
    host.used_s["b"] = BOOT_CPU_S
    assert host.may_begin("c", "d") == [True, False]


def test_who_never_starts_or_never_boots_holds_nobody_up_for_long() -> None:
    host = Host()
    assert host.may_begin("a", "b", "c") == [True, True, False]
    host.used_s["a"] = 0.1
    host.now_s += START_S
    assert host.may_begin("c", "d") == [True, False]
    host.used_s["c"] = 0.1
    host.now_s += BOOT_S - START_S
    assert host.may_begin("d", "e") == [True, False]


def test_who_has_little_to_do_has_booted() -> None:
    host = Host()
    assert host.may_begin("a", "b") == [True, True]
    host.used_s |= {"a": BEGUN_CPU_S, "b": BEGUN_CPU_S}
    assert host.may_begin("c") == [False]
    host.now_s += LOOK_S / 2
    assert host.may_begin("c") == [False]  # too soon to tell
    host.now_s += LOOK_S / 2
    host.used_s |= {"a": BEGUN_CPU_S + IDLE_CPU_S / 2, "b": BEGUN_CPU_S + LOOK_S / 2}
    assert host.may_begin("c", "d") == [True, False]


def test_who_waits_for_its_disks_or_a_processor_has_not() -> None:
    host = Host()
    assert host.may_begin("a", "b") == [True, True]
    host.used_s |= {"a": 0.5, "b": 0.5}
    assert host.may_begin("c") == [False]
    for _ in range(3):
        host.now_s += LOOK_S
        assert host.may_begin("c") == [False]
    host.used_s["b"] = 0.5 + LOOK_S / 4  # it goes on
    host.now_s += LOOK_S
    assert host.may_begin("c") == [False]
    host.now_s += BEGINS_S - 4 * LOOK_S
    assert host.may_begin("c", "d") == [True, False]  # but not for ever: what waited all the time had nothing to do


def test_who_waits_says_so_once_each_time_it_begins_to(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    with caplog.at_level(logging.INFO):
        host.may_begin("a", "b")
        for _ in range(5):
            host.may_begin("c", "d")
    assert [(record.message, vars(record)["key"]) for record in caplog.records] == [
        ("waits to boot", "c"),
        ("waits to boot", "d"),
    ]
    caplog.clear()
    host.used_s |= {"a": BOOT_CPU_S, "b": BOOT_CPU_S}
    with caplog.at_level(logging.INFO):
        assert host.may_begin("c", "d") == [True, True]
        host.may_begin("c", "c")  # it boots once more
        assert host.may_begin("a", "a") == [False, False]
    assert [vars(record)["key"] for record in caplog.records] == ["a"]
