"""How a database cluster is founded, joined, formed again and recovered: each situation is a row."""

from typing import Any

import pytest

from trilith.cluster.engines.galera_plan import FORM_ATTEMPTS, FORM_S, JOIN_S, MERGE_S, RSYNC_BELOW_MIB, next_step

Doc = dict[str, Any]

STOPPED: Doc = {
    "phase": "stopped",
    "candidate": True,
    "data": False,
    "uuid": None,
    "seqno": None,
    "primary": False,
    "synced": False,
    "size": 0,
    "transfer": False,
    "view": None,
    "members": [],
    "member": None,
    "waited_s": 0,
    "committed": -1,
    "steady": False,
    "attempts": 0,
    "stale": False,
    "data_mib": 0,
    "lost": [],
}
AWAY = None


def empty(**more: Any) -> Doc:
    return {**STOPPED, **more}


def stopped(seqno: int | None = None, uuid: str = "u", **more: Any) -> Doc:
    return {**STOPPED, "data": True, "uuid": uuid, "seqno": seqno, **more}


def cut_off(member: str, view: str = "v3", members: str = "123", **more: Any) -> Doc:
    """It lost its power as a member of a quorum."""
    return stopped(view=view, members=list(members), member=member, **more)


def synced(**more: Any) -> Doc:
    return {
        **STOPPED,
        "data": True,
        "uuid": "u",
        "phase": "running",
        "primary": True,
        "synced": True,
        "size": 3,
        **more,
    }


def waiting(**more: Any) -> Doc:
    """It runs and has no quorum."""
    return {**STOPPED, "data": True, "uuid": "u", "phase": "running", **more}


def split(committed: int = 5, waited_s: int = MERGE_S, size: int = 2, **more: Any) -> Doc:
    """It lost its quorum and has run on."""
    last = {"view": "v3", "members": ["1", "2", "3"], "steady": True, "size": size}
    return waiting(committed=committed, waited_s=waited_s, **(last | more))


def step(me: str, c1: Doc | None, c2: Doc | None, c3: Doc | None, **more: Any) -> Any:
    want = {"me": me, "order": ["c1", "c2", "c3"]}
    return next_step(want, {"nodes": {"c1": c1, "c2": c2, "c3": c3}, "installed": True, "accounts_right": True, **more})


def acts(c1: Doc | None, c2: Doc | None, c3: Doc | None, **more: Any) -> str:
    """What each of the three does: ``found - -``; x for one that is away."""
    names = []
    for name, node in (("c1", c1), ("c2", c2), ("c3", c3)):
        found = step(name, c1, c2, c3, **more) if node else None
        names.append("x" if found is None else found.act.do if found.act else "-")
    return " ".join(names)


SITUATIONS = {
    "nothing anywhere: the first one founds": (empty(), empty(), empty(), "found - -"),
    "nothing anywhere, one is away: nobody founds": (empty(), empty(), AWAY, "- - x"),
    "nothing anywhere, the first is away": (AWAY, empty(), empty(), "x - -"),
    "the founder is not up yet": (waiting(data=False), empty(), empty(), "- - -"),
    "the founder is up: one joins, in order": (synced(), empty(), empty(), "- join -"),
    "one is joining: the next waits": (synced(), waiting(), empty(), "- - -"),
    "one receives the data: the next waits": (synced(), waiting(transfer=True), empty(), "- - -"),
    "a donor that is blocked: the next waits": (synced(synced=False), synced(), empty(), "- - -"),
    "the second has joined: the third": (synced(), synced(), empty(), "- - join"),
    "all there": (synced(), synced(), synced(), "- - -"),
    "who fails to join lets the others pass": (synced(), empty(attempts=1), empty(), "- - join"),
    "who cannot be started yet lets the others pass": (synced(), empty(candidate=False), empty(), "- join join"),
    "one died": (synced(), cut_off("2"), synced(), "- join -"),
    "one died, and the others have not noticed": (
        synced(members=list("123")),
        cut_off("2"),
        synced(members=list("13")),
        "- - -",
    ),
    "one died, and both others go on without it": (
        synced(members=list("13")),
        cut_off("2"),
        synced(members=list("13")),
        "- join -",
    ),
    "one died and lost its disk": (synced(), empty(), synced(), "- join -"),
    "one is away: the others do not mind": (synced(), AWAY, synced(), "- x -"),
    "the first was away and comes back to the others' quorum": (cut_off("1"), synced(), synced(), "join - -"),
    "all lost their power at once: they form again": (cut_off("1"), cut_off("2"), cut_off("3"), "form form form"),
    "two of them are forming already": (
        cut_off("1"), waiting(view="v3", member="2"), waiting(view="v3", member="3"), "form - -",
    ),
    "all lost their power, one is not back": (cut_off("1"), cut_off("2"), AWAY, "- - x"),
    "the last quorum was without the first": (
        cut_off("1"), cut_off("2", "v4", "23"), cut_off("3", "v4", "23"), "recover_position form form",
    ),
    "the last quorum was without the first, who is away": (
        AWAY, cut_off("2", "v4", "23"), cut_off("3", "v4", "23"), "x form form",
    ),
    "lost one after the other: each looks for its position": (
        cut_off("1"), cut_off("2", "v4", "23"), cut_off("3", "v5", "3x"),
        "recover_position recover_position recover_position",
    ),
    "positions known: the highest begins": (stopped(5), stopped(7), stopped(6), "- bootstrap -"),
    "two are equally far: the first of them": (stopped(5), stopped(7), stopped(7), "- bootstrap -"),
    "one position is not known yet": (stopped(5), stopped(7), stopped(), "- - recover_position"),
    "one has lost its disk": (stopped(5), empty(), stopped(6), "- - bootstrap"),
    "highest known, one is away": (stopped(5), stopped(7), AWAY, "- - x"),
    "different databases": (stopped(5), stopped(7, uuid="w"), stopped(6), "- - -"),
    "only the founder has data, and is down": (stopped(5), empty(), empty(), "bootstrap - -"),
    "one still waits for a quorum": (stopped(5), stopped(7), waiting(), "- - -"),
    "and gives up": (stopped(5), stopped(7), waiting(waited_s=FORM_S), "- - give_up"),
    "all wait in vain": (*[waiting(waited_s=FORM_S)] * 3, "give_up give_up give_up"),
    "all wait, one not yet long enough": (waiting(waited_s=FORM_S), waiting(waited_s=FORM_S), waiting(), "- - -"),
    "two wait in vain, the third is away": (waiting(waited_s=FORM_S), waiting(waited_s=FORM_S), AWAY, "- - x"),
    "two of three were split for a moment, the third is away": (AWAY, split(6), split(7), "x - revive"),
    "equally far: the first of them": (AWAY, split(7), split(7), "x revive -"),
    "they may still find together": (AWAY, split(6), split(7, waited_s=0), "x - -"),
    "they are not connected": (AWAY, split(6, size=1), split(7, size=1), "x - -"),
    "one of them has lost what it had in memory": (AWAY, split(6), split(7, steady=False), "x - -"),
    "the third is there too, but not connected": (split(9, size=1), split(6), split(7), "- - revive"),
    "the minority waits": (waiting(), AWAY, AWAY, "- x x"),
    "one is outside a quorum that it can reach": (synced(), synced(), waiting(waited_s=FORM_S), "- - -"),
    "and does not find in": (synced(), synced(), waiting(waited_s=JOIN_S), "- - stop"),
    "but never while it receives data": (synced(), synced(), waiting(waited_s=JOIN_S, transfer=True), "- - -"),
    "it catches up": (synced(), synced(), synced(synced=False, waited_s=JOIN_S), "- - -"),
    "the last quorum does not form again": (
        *[cut_off(str(n), attempts=FORM_ATTEMPTS) for n in (1, 2, 3)], "forget_view forget_view forget_view",
    ),
    "new configuration: one after another": (synced(stale=True), synced(stale=True), synced(), "stop - -"),
    "new configuration, but one is away": (synced(stale=True), synced(stale=True), AWAY, "- - x"),
    "new configuration, but one is joining": (synced(stale=True), synced(stale=True), synced(synced=False), "- - -"),
    "new configuration for one without a quorum": (synced(), synced(), waiting(stale=True), "- - stop"),
}  # fmt: skip


@pytest.mark.parametrize(("c1", "c2", "c3", "expected"), SITUATIONS.values(), ids=SITUATIONS)
def test_situations(c1: Doc | None, c2: Doc | None, c3: Doc | None, expected: str) -> None:
    assert acts(c1, c2, c3) == expected


@pytest.mark.parametrize(("c1", "c2", "c3", "expected"), SITUATIONS.values(), ids=SITUATIONS)
def test_never_two_begin(c1: Doc | None, c2: Doc | None, c3: Doc | None, expected: str) -> None:
    begun = [word for word in acts(c1, c2, c3).split() if word in ("found", "bootstrap")]
    assert len(begun) <= 1
    if begun:
        assert None not in (c1, c2, c3)


def test_the_founder_makes_the_systems_tables_first() -> None:
    assert acts(empty(), empty(), empty(), installed=False) == "install - -"


def test_a_node_that_joins_needs_no_tables() -> None:
    assert acts(synced(), empty(), synced(), installed=False) == "- join -"


def test_accounts_are_made_by_who_serves() -> None:
    assert acts(synced(), waiting(), empty(), accounts_right=False) == "accounts - -"


def test_a_controller_that_is_lost_for_good_is_done_without() -> None:
    assert acts(stopped(5, lost=["c3"]), stopped(7), AWAY) == "- bootstrap x"
    assert acts(cut_off("1"), cut_off("2", lost=["c3"]), AWAY) == "recover_position recover_position x"
    assert acts(stopped(5, lost=["c3"]), stopped(7), stopped(9)) == "- bootstrap -"
    assert acts(synced(lost=["c3"]), synced(), stopped(9)) == "forget_lost - join"


def test_small_data_come_by_rsync_and_large_data_without_stopping_writes() -> None:
    small = step("c2", synced(data_mib=RSYNC_BELOW_MIB // 2), empty(), empty())
    large = step("c2", synced(data_mib=RSYNC_BELOW_MIB), empty(), empty())
    assert small.act.args == {"method": "rsync"}
    assert large.act.args == {"method": "mariabackup"}


def test_what_must_be_decided_by_people_is_said() -> None:
    missing = step("c1", stopped(5), stopped(7), AWAY)
    assert missing.problem
    assert "c3 does not answer and may hold newer data" in missing.why
    assert "trilith host database-without c3" in missing.why
    mixed = step("c1", stopped(5), stopped(7, uuid="w"), stopped(6))
    assert mixed.problem
    assert "c2: w" in mixed.why
