"""Who founds, joins, kicks and discards a database: table tests, and whole clusters that lose what can be lost."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from trilith.cluster.engines import ovn_central_plan as plans
from trilith.cluster.engines.ovn_central import parse_status
from trilith.kernel.reconcile import Act, Doc

ADDRESS = {f"c{number}": f"ssl:10.0.0.{number}:6643" for number in range(1, 6)}
NOTHING: Doc = {"file": False, "members": [], **dict.fromkeys(("cid", "sid", "role", "status", "address"))}


def want(host: str, controllers: list[str]) -> Doc:
    members = {name: ADDRESS[name] for name in controllers}
    database = {"title": "northbound", "address": ADDRESS[host], "controllers": controllers, "members": members}
    return {"host": host, "databases": {"nb": database}}


@dataclass
class Member:
    """A file on a host's disk."""

    cid: str
    sid: str
    address: str
    serves: bool = False
    left: bool = False


@dataclass
class World:
    """RAFT as far as the plan sees it: a cluster has a leader while most of its members serve."""

    controllers: list[str]
    disks: dict[str, Member] = field(default_factory=dict)
    members: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # cid -> (sid, address)
    away: set[str] = field(default_factory=set)
    stalled_s: float = 0.0
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    acts: list[tuple[str, str]] = field(default_factory=list)

    def serving(self, cid: str) -> list[str]:
        """Hosts that serve as one of its members, in the order of their names."""
        sids = {sid for sid, _ in self.members[cid]}
        disks = self.disks.items()
        return sorted(h for h, m in disks if m.cid == cid and m.serves and m.sid in sids and h not in self.away)

    def leader(self, cid: str) -> str | None:
        there = self.serving(cid)
        return there[0] if 2 * len(there) > len(self.members[cid]) else None

    def view(self, host: str) -> Doc:
        member = self.disks.get(host)
        if member is None:
            return NOTHING
        if not member.serves:
            return NOTHING | {"file": True}
        if member.sid not in {sid for sid, _ in self.members[member.cid]}:
            return NOTHING | {"file": True, "status": "left"}
        leader = self.leader(member.cid)
        role = None if leader is None else "leader" if leader == host else "follower"
        heard = {self.disks[name].sid for name in self.serving(member.cid)}
        members = [{"sid": s, "address": a, "silent": s not in heard} for s, a in self.members[member.cid]]
        own = {"cid": member.cid, "sid": member.sid, "role": role, "status": plans.MEMBER, "address": member.address}
        return {"file": True, "members": members, **own}

    def seen(self, host: str) -> Doc:
        peers = {name: None if name in self.away else {"nb": self.view(name)} for name in self.controllers}
        del peers[host]
        clocks = {"leaderless_s": {"nb": self.stalled_s}, "mute_s": {"nb": 0.0}}
        return {"databases": {"nb": self.view(host)}, "peers": peers, **clocks}

    def act(self, host: str, act: Act) -> None:
        self.acts.append((host, act.do))
        match act.do:
            case "found":
                cid, sid = f"cluster-{next(self.numbers)}", f"s{next(self.numbers)}"
                self.members[cid] = [(sid, ADDRESS[host])]
                self.disks[host] = Member(cid, sid, ADDRESS[host])
                self.stalled_s = 0.0
            case "join":
                cid, sid = act.args["cluster"], f"s{next(self.numbers)}"
                assert self.leader(cid) is not None
                self.members[cid].append((sid, ADDRESS[host]))
                self.disks[host] = Member(cid, sid, ADDRESS[host])
            case "discard":
                del self.disks[host]
            case "kick":
                cid = self.disks[host].cid
                self.members[cid] = [each for each in self.members[cid] if each[0] != act.args["member"]]
            case _:
                raise AssertionError(act.do)

    def run(self, rounds: int = 40) -> None:
        """Each host in its turn looks, and does the first of what it wants."""
        for _ in range(rounds):
            for host in [name for name in self.controllers if name not in self.away]:
                if host in self.disks:
                    self.disks[host].serves = True
                for act in plans.plan_database("nb", want(host, self.controllers), self.seen(host))[:1]:
                    self.act(host, act)
            self.stalled_s += 2.0

    def is_whole(self) -> bool:
        """One cluster of exactly these controllers, and nothing left to do."""
        cids = {member.cid for member in self.disks.values()}
        if len(cids) != 1 or set(self.disks) != set(self.controllers):
            return False
        addresses = sorted(address for _, address in self.members[cids.pop()])
        return addresses == sorted(ADDRESS[name] for name in self.controllers)


def formed(count: int = 3) -> World:
    world = World([f"c{number}" for number in range(1, count + 1)])
    world.run()
    assert world.is_whole()
    world.acts.clear()
    world.stalled_s = 0.0
    return world


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_first_founds_and_the_others_join(count: int) -> None:
    world = World([f"c{number}" for number in range(1, count + 1)])
    world.run()
    assert world.is_whole()
    assert sorted(world.acts) == [("c1", "found"), *[(f"c{number}", "join") for number in range(2, count + 1)]]
    world.acts.clear()
    world.run()
    assert world.acts == []


def test_nobody_founds_while_somebody_is_not_heard() -> None:
    world = World(["c1", "c2", "c3"], away={"c3"})
    world.run(200)
    assert world.acts == []
    world.away.clear()
    world.run()
    assert world.is_whole()


@pytest.mark.parametrize("lost", [["c1"], ["c2"], ["c3"]])
def test_a_disk_is_lost(lost: list[str]) -> None:
    world = formed()
    for host in lost:
        del world.disks[host]
    world.run()
    assert world.is_whole()
    assert {what for _, what in world.acts} == {"kick", "join"}


@pytest.mark.parametrize("lost", [["c1", "c2"], ["c2", "c3"], ["c1", "c3"], ["c1", "c2", "c3"]])
def test_most_disks_are_lost(lost: list[str]) -> None:
    world = formed()
    for host in lost:
        del world.disks[host]
    world.run()
    assert world.is_whole()
    assert world.acts.count(("c1", "found")) == 1


def test_a_lost_quorum_is_given_its_time() -> None:
    world = formed()
    del world.disks["c2"], world.disks["c3"]
    world.run(5)
    assert world.acts == []


def test_a_majority_that_is_only_away_comes_back_as_it_was() -> None:
    world = formed()
    before = set(world.members)
    world.away = {"c2", "c3"}
    world.run(200)
    assert world.acts == []
    world.away.clear()
    world.run()
    assert set(world.members) == before
    assert world.is_whole()


def test_one_that_stands_still_is_not_put_out() -> None:
    world = formed()
    world.away = {"c3"}
    world.run(100)
    assert world.acts == []


def test_a_controller_leaves_the_file() -> None:
    world = formed(5)
    world.controllers = ["c1", "c2", "c3"]
    del world.disks["c4"], world.disks["c5"]
    world.run()
    assert world.is_whole()


def test_of_two_clusters_the_larger_one_stays() -> None:
    world = formed()
    world.act("c1", Act("found"))
    world.acts.clear()
    world.run()
    assert world.is_whole()
    assert ("c1", "discard") in world.acts
    assert "found" not in {what for _, what in world.acts}


def test_a_member_that_was_kicked_joins_anew() -> None:
    world = formed()
    world.members[world.disks["c2"].cid] = [m for m in world.members[world.disks["c2"].cid] if m[1] != ADDRESS["c2"]]
    world.run()
    assert world.is_whole()
    assert world.acts == [("c2", "discard"), ("c2", "join")]


def test_one_whose_database_does_not_even_start() -> None:
    world = formed()
    seen = world.seen("c2")
    seen["databases"]["nb"] = NOTHING | {"file": True}
    assert plans.plan_database("nb", want("c2", world.controllers), seen) == []
    seen["mute_s"]["nb"] = plans.LOST_S
    assert [act.do for act in plans.plan_database("nb", want("c2", world.controllers), seen)] == ["discard"]


def test_in_the_steady_state_nobody_is_asked() -> None:
    world = formed()
    database = want("c1", world.controllers)["databases"]["nb"]
    assert all(plans.is_settled(world.view(host), database) for host in world.controllers)
    del world.disks["c3"]
    assert not plans.is_settled(world.view("c1"), database)
    assert plans.is_settled(world.view("c2"), database)  # the leader alone hears who is silent


UNIT = {"active": "active", "runs_with": "d1"}
UNITS = {"nb.service": {"digest": "d1", "database": "nb"}, "northd.service": {"digest": "d1", "database": None}}


def daemons(units: dict[str, Doc] | None = None, file: bool = True, northd: str = "connected") -> list[tuple[str, str]]:
    world = formed(1)
    seen = world.seen("c1")
    seen["databases"]["nb"] = {**seen["databases"]["nb"], "file": file}
    seen |= {"units": {"nb.service": UNIT, "northd.service": UNIT} | (units or {}), "northd": {"nb": northd}}
    acts = plans.plan_daemons(want("c1", ["c1"]) | {"units": UNITS}, seen)
    return [(act.do, next(iter(act.args.values()))) for act in acts]


def test_daemons() -> None:
    stopped, other = {"active": "failed", "runs_with": None}, {"active": "active", "runs_with": None}
    assert daemons() == []
    assert daemons({"nb.service": stopped}) == [("start", "nb.service")]
    assert daemons({"nb.service": stopped}, file=False) == []  # nothing to serve yet
    assert daemons({"nb.service": other}) == [("restart", "nb.service")]
    assert daemons(northd="not connected") == [("follow", "nb")]
    assert daemons({"northd.service": stopped}, northd="not connected") == [("start", "northd.service")]


STATUS = """\
7147
Name: OVN_Northbound
Cluster ID: 68c4 (68c43999-74c1-436b-b9c3-1d325a4ae0a4)
Server ID: 7147 (71473b18-e37e-42c1-933b-5eb0e84a3894)
Address: ssl:127.0.9.1:6643
Status: cluster member
Role: leader
Term: 1
Leader: self
Vote: self

Last Election started 2048 ms ago, reason: timeout
Election timer: 1000
Connections: <-43f8 ->43f8 <-8c56 ->8c56
Disconnections: 0
Servers:
    7147 (7147 at ssl:127.0.9.1:6643) (self) next_index=2 match_index=4
    8c56 (8c56 at ssl:127.0.9.2:6643) next_index=5 match_index=4 last msg 59 ms ago
    43f8 (43f8 at ssl:127.0.9.3:6643) next_index=5 match_index=4 last msg 5459 ms ago
"""


def test_what_a_member_says() -> None:
    found = parse_status(STATUS)
    assert found["cid"] == "68c43999-74c1-436b-b9c3-1d325a4ae0a4"
    assert (found["sid"], found["role"], found["status"]) == ("7147", "leader", "cluster member")
    assert [(each["sid"], each["silent"]) for each in found["members"]] == [
        ("7147", False),
        ("8c56", False),
        ("43f8", True),
    ]
    joining = "8c56\nCluster ID: not yet known\nServer ID: 8c56 (x)\nStatus: joining cluster\nRole: follower\n"
    found = parse_status(joining + "Leader: unknown\nServers:\n")
    assert (found["cid"], found["role"], found["status"], found["members"]) == (None, None, "joining cluster", [])
