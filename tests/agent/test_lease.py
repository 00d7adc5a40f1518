"""The lease of a host as its agent counts it: across agents that are killed, boots, and answers that are late."""

from pathlib import Path

import pytest

from trilith.agent.lease import WITHIN_S, HostLease, SelfFence


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(directory: Path, clock: Clock, boot_id: str = "b1", stop_after_s: float | None = 20.0) -> HostLease:
    return HostLease(directory / "lease.json", boot_id, stop_after_s, clock)


def test_it_ends_and_is_renewed(tmp_path: Path, clock: Clock) -> None:
    own = lease(tmp_path, clock)
    assert not own.ended
    clock.now_s += 20
    assert own.ended
    own.renewed(clock.now_s)
    assert not own.ended


def test_it_counts_from_before_the_heartbeat_was_sent(tmp_path: Path, clock: Clock) -> None:
    own = lease(tmp_path, clock)
    asked_at_s = clock()
    clock.now_s += 15  # the answer takes so long
    own.renewed(asked_at_s)
    clock.now_s += 5
    assert own.ended


def test_who_comes_after_a_killed_agent_counts_on(tmp_path: Path, clock: Clock) -> None:
    lease(tmp_path, clock).renewed(clock())
    clock.now_s += 15
    second = lease(tmp_path, clock)
    assert not second.ended
    clock.now_s += 5
    assert second.ended


def test_a_boot_begins_anew(tmp_path: Path, clock: Clock) -> None:
    lease(tmp_path, clock).renewed(clock())
    clock.now_s = 3.0
    assert not lease(tmp_path, clock, "b2").ended


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"boot_id": "b1", "heard_s": null}'])
def test_a_note_that_cannot_be_read(tmp_path: Path, clock: Clock, content: str) -> None:
    (tmp_path / "lease.json").write_text(content)
    own = lease(tmp_path, clock)
    assert not own.ended
    clock.now_s += 20
    assert own.ended


def test_where_agents_are_not_trusted_it_never_ends(tmp_path: Path, clock: Clock) -> None:
    own = lease(tmp_path, clock, stop_after_s=None)
    own.renewed(clock())
    clock.now_s += 10_000
    assert not own.ended
    assert own.told() == {}
    assert list(tmp_path.iterdir()) == []


def test_the_fence_goes_on_until_nothing_runs(tmp_path: Path, clock: Clock) -> None:
    own = lease(tmp_path, clock)
    running = [{"a", "b"}, {"a"}, set()]
    fence = SelfFence(own, lambda: running.pop(0))
    assert fence.look()
    assert len(running) == 3
    clock.now_s += 20
    assert [fence.look(), fence.look(), fence.look()] == [False, False, True]
    assert own.told() == {"self_fence": {"stopped_after_s": 20.0 + WITHIN_S}}
