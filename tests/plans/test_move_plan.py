"""A server that moves, as each of its two hosts sees it: what is wanted, what is seen, what comes next."""

from typing import Any

import pytest

from tests.plans.test_server_plan import HAS_VOLUME, PENDING, ROOT, SWAP, VOLUME, off, seen, want
from trilith.compute.server_plan import plan, shut_down_by_guest

Doc = dict[str, Any]

M = {"id": "m1", "key": "0" * 64}
SOURCE, TARGET = {"role": "source", **M}, {"role": "target", **M}
OFFER = {"move": "m1", "address": "a", "port": 1, "disks": {"root": {}}, "running": True}
OUT = {"move": "m1", "status": "none", "mirrors": {"root": True}}
IN = {"move": "m1", "address": "a", "port": 1, "disks_port": 2, "arrived": False}
LAYOUT = {"disks": {}, "nics": {}}

copying = {"move": {**SOURCE, "phase": "copying"}}
coming = {"move": {**TARGET, "phase": "copying", "from": OFFER}}
preparing = {"move": {**SOURCE, "phase": "preparing", "to": None, "force": False}}
moving = {"move": {**SOURCE, "phase": "moving", "to": IN, "force": False}}
forced = {"move": {**SOURCE, "phase": "moving", "to": IN, "force": True}}
switching = {"move": {**SOURCE, "phase": "switching", "to": IN, "force": False}}
kept = {"move": {"role": "source", "phase": "kept"}}
receiving = {"move": {**TARGET, "phase": "preparing", "layout": LAYOUT}}

MOVES: list[tuple[str, Doc, Doc | None, list[str]]] = [
    # cold: the source
    ("runs: its guest is asked to end", want(**copying), seen(), ["powerdown"]),
    ("its guest takes too long", want(**copying), seen(shutdown="overdue"), ["end"]),
    ("paused: ended", want(**copying), seen(power="paused"), ["end"]),
    ("shut down: its process goes", want(**copying), seen(power="stopped"), ["end"]),
    ("stopped: its disks are offered", want(**copying), off(), ["export"]),
    ("killed meanwhile: not started again", want(**copying), off("crashed"), ["export"]),
    ("offered", want(**copying), off(export=OFFER), []),
    ("offered, and the daemon died", want(**copying), off(export={**OFFER, "running": False}), ["export"]),
    ("offered for a move that is over", want(**copying), off(export={**OFFER, "move": "m0"}), ["export"]),
    ("a reboot asked for before does not start it", want(boot_epoch=9, **copying), off(export=OFFER), []),
    # cold: the target
    ("nothing is offered yet", want(move={**coming["move"], "from": None}), None, []),
    ("the disk is copied", want(**coming), None, ["fetch"]),
    ("both disks are", want(disks=[ROOT, SWAP], **coming), None, ["fetch", "fetch"]),
    ("a disk of a former move is none", want(**coming), off(fetched={"move": "m0", "keys": ["root"]}), ["fetch"]),
    ("copied: waits, and does not start", want(**coming), off(fetched={"move": "m1", "keys": ["root"]}), []),
    ("boots from a volume: nothing to copy", want(disks=[VOLUME], **coming), None, ["fetch"]),
    ("which is told", want(disks=[VOLUME], **coming), off(fetched={"move": "m1", "keys": []}), []),
    ("a shared disk is not copied", want(disks=[{**ROOT, "shared": True}], **coming), None, ["fetch"]),
    ("a machine that runs there is none of this", want(**coming), seen(), ["kill"]),
    # the source after it
    ("kept: does not run, has no port", want(**kept), seen(), ["end", "drop_nic"]),
    ("kept: offers nothing more", want(**kept), off(export=OFFER, taps=[]), ["end_export"]),
    ("kept", want(**kept), off(taps=[]), []),
    ("goes back: ended where it is", want(move={"role": "source", "phase": "returning"}), seen(), ["end", "drop_nic"]),
    ("came back: starts", want(boot_epoch=2), off(taps=[]), ["define", "start"]),
    ("undone while offered", want(boot_epoch=2), off(export=OFFER), ["end_export"]),
    # live: the target
    ("made ready", want(**receiving), None, ["receive"]),
    ("not before its volume can be opened", want(disks=[ROOT, PENDING], **receiving), None, []),
    ("not before the source told what it is", want(move={**receiving["move"], "layout": None}), None, []),
    ("ready: waits", want(**receiving), seen(power="incoming", incoming=IN), []),
    (
        "of a former move: made anew",
        want(**receiving),
        seen(power="incoming", incoming={**IN, "move": "m0"}),
        ["receive"],
    ),
    (
        "died while it waits: told, not made again",
        want(move={**receiving["move"], "phase": "moving"}),
        off("crashed"),
        [],
    ),
    (
        "has come: stands still until it is its own",
        want(**receiving),
        seen(power="incoming", incoming={**IN, "arrived": True}),
        [],
    ),
    ("paused on its way: not continued here", want(**receiving), seen(power="paused", incoming=IN), []),
    ("is its own: goes on", want(), seen(power="incoming", incoming={**IN, "arrived": True}), ["cont", "settle"]),
    ("goes on already", want(), seen(incoming={**IN, "arrived": True}), ["settle"]),
    ("shall stay paused", want(power="paused"), seen(power="incoming", incoming={**IN, "arrived": True}), ["settle"]),
    ("the last of it is on its way", want(), seen(power="incoming", incoming=IN), []),
    ("which nobody sends any more", want(boot_epoch=2), seen(power="incoming", incoming=IN), ["settle"]),
    ("so it boots", want(boot_epoch=2), seen(power="incoming"), ["kill", "define", "start"]),
    # live: the source
    ("waits for the target", want(**preparing), seen(), []),
    ("mirrors", want(**moving), seen(), ["mirror"]),
    ("mirrors what a former move began", want(**moving), seen(outgoing={**OUT, "move": "m0"}), ["mirror"]),
    ("a mirror broke before anything was sent", want(**moving), seen(outgoing={**OUT, "mirrors": {}}), ["mirror"]),
    ("not complete yet", want(**moving), seen(outgoing={**OUT, "mirrors": {"root": False}}), []),
    ("complete: memory is sent", want(**moving), seen(outgoing=OUT), ["send"]),
    ("no local disks: memory is sent", want(disks=[VOLUME], **moving), seen(**HAS_VOLUME), ["mirror"]),
    ("on its way", want(**moving), seen(outgoing={**OUT, "status": "active"}), []),
    ("shall stand still for it", want(**forced), seen(outgoing={**OUT, "status": "active"}), ["pause"]),
    (
        "stops before the last step",
        want(**moving),
        seen(power="paused", outgoing={**OUT, "status": "pre-switchover"}),
        [],
    ),
    (
        "takes the last step",
        want(**switching),
        seen(power="paused", outgoing={**OUT, "status": "pre-switchover"}),
        ["switch"],
    ),
    (
        "also when nobody waits any more, which fails",
        want(move={**switching["move"], "to": None}),
        seen(power="paused", outgoing={**OUT, "status": "pre-switchover"}),
        ["switch"],
    ),
    ("gone: never continued here", want(**switching), seen(power="moved", outgoing={**OUT, "status": "completed"}), []),
    ("killed in between: not started here", want(**switching), off("crashed"), []),
    ("killed before: not started while it moves", want(**moving), off("crashed"), []),
    ("undone: nothing is sent any more", want(), seen(outgoing=OUT), ["stop_sending"]),
    ("undone after it had paused", want(), seen(power="paused"), ["cont"]),
]


@pytest.mark.parametrize(("wanted", "found", "expected"), [case[1:] for case in MOVES], ids=[case[0] for case in MOVES])
def test_what_comes_next(wanted: Doc, found: Doc | None, expected: list[str]) -> None:
    assert [act.do for act in plan(wanted, found)] == expected


def test_a_machine_stopped_for_a_move_was_not_shut_down_by_its_guest() -> None:
    assert shut_down_by_guest(want(), off())
    assert not shut_down_by_guest(want(**copying), off())
