"""Watches the compute hosts and brings back elsewhere what a lost one ran; see `compute.takeover_plan` for the rules.

One controller at a time does it, by lease. Everything that counts is in SQL and changes there under the lease; what
this process remembers (since when it sees a host silent, what others said of it, what a power switch answered) is worth
nothing after a pause: whoever slept, or whose clocks jumped, looks anew. Whatever waits for somebody else runs in
threads beside, so that a look takes no longer because a switch does not answer.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from trilith.compute import takeover, takeover_plan, takeovers
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Act, Doc, Runner
from trilith.kernel.store import Row, Tx
from trilith.placement.hosts import CLOCKS_S, HOST, LEASE_S, lapsed_s

log = logging.getLogger(__name__)

KEY = "takeover"
LOOK_S = 1.0
LEADS_S = 6.0  # after which another controller goes on when this one is gone
GAP_S = 5.0  # between two looks: more means that we slept
UNWATCHED_S = 10.0  # without any looker, the database or all controllers were away, and no host could be heard
JUMP_S = 2.0  # between our clock and the database's
FENCE_AGAIN_S = 3.0
WORKERS = 8


class Fence(Protocol):
    """A host's power switch; `drivers.fence_redfish` is one."""

    def power_off(self) -> None:
        """Returns when the switch says that the host is off. `Unavailable` or `Refused` say why it is not."""

    def power_on(self) -> None: ...


@dataclass(frozen=True)
class Switch:
    """A host's power switch; `driver`: redfish or ipmi. `power_on`: whether it is switched on again afterwards."""

    driver: str
    switch: Fence
    power_on: bool = False


NO_SWITCH: Doc = {"driver": "none", "power_on": False}


class SharedStorage(Protocol):
    """What shared storage does for a takeover; `drivers.ceph` is one."""

    def watches(self, host: str) -> bool | None:
        """Whether a client on that host has been heard of lately; None: nobody knows."""

    def cut_off(self, host: str) -> None:
        """From when this returns, nothing of what that host has open can be written any more. Idempotent."""

    def let_in(self, host: str) -> None:
        """The host is back, and runs nothing of before."""


class NoSharedStorage:
    """Volumes of storage hosts alone: each attachment has a key of its own, and a machine that goes gets new ones."""

    def watches(self, host: str) -> bool | None:
        return None

    def cut_off(self, host: str) -> None: ...

    def let_in(self, host: str) -> None: ...


class Witnesses(Protocol):
    """`cluster.second_opinion.Witnesses` is one."""

    def ask(self, suspect: str) -> Doc:
        """Name of a host -> ``management tunnel``: whether it reaches the suspect there; None: it does not answer."""


@dataclass(frozen=True)
class Policy:
    """Of the cluster file (`cluster_file.Takeover`)."""

    brake_share: float = 0.34
    window_s: float = 300.0
    confirm_s: float = 3.0
    reserve_hosts: int = 0
    priority: int = 50


@dataclass
class Work:
    """What runs in a thread beside, and when it began, by `clock`."""

    begun_s: float
    future: "Future[Any]"


def boot_clock_s() -> float:
    """Seconds that go on while this machine sleeps, and never jump."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class TakeoverController:
    """`run()` is a thread's work until `stop()`. A reconciler of one key. `fences`: by host."""

    kind = KEY

    def __init__(
        self,
        lease: Holder,
        policy: Policy,
        witnesses: Witnesses,
        fences: Mapping[str, Switch],
        storage: SharedStorage | None = None,
        clock: Callable[[], float] = boot_clock_s,
        pool: Executor | None = None,
    ) -> None:
        self._lease, self._store, self.policy = lease, lease.store, policy
        self._witnesses, self._fences = witnesses, fences
        self._storage = storage or NoSharedStorage()
        self._clock = clock
        self._pool = pool or ThreadPoolExecutor(WORKERS, thread_name_prefix="takeover")
        self._last: tuple[float, float] | None = None  # our clock and the database's, at the look before
        self._epoch, self._unwatched = 0, False
        self._silent_since: dict[str, float] = {}
        self._heard_since: dict[str, float] = {}
        self._asked: dict[str, Work] = {}  # by host
        self._opinions: dict[str, tuple[float, Doc, bool | None]] = {}
        self._switched: dict[str, Work] = {}  # by takeover's id
        self._runner = Runner(self, [self], LOOK_S, workers=1, backoff_s=(0.2, 0.5, LOOK_S))

    def stop(self) -> None:
        self._runner.stop()

    def run(self) -> None:
        self._runner.run()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # where the runner gets its one want from
    def wants(self, kind: str) -> dict[str, Doc]:
        if (lease := self._lease.held()) is None:
            self._last = None
            return {}
        if lease.epoch != self._epoch:  # others may have done anything meanwhile
            self._epoch, self._last, self._unwatched = lease.epoch, None, lease.free_s > UNWATCHED_S
        return {KEY: self.want()}

    def want(self) -> Doc:
        policy = self.policy
        limits = {"lease_s": LEASE_S, "clocks_s": CLOCKS_S, "confirm_s": policy.confirm_s}
        brake = {"brake_share": policy.brake_share, "window_s": policy.window_s}
        return {"id": KEY, "generation": 1, **limits, **brake, "reserve_hosts": policy.reserve_hosts}

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        """Rows tell what there is to tell."""

    # the reconciler
    def known(self) -> set[str]:
        return set()

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return takeover_plan.plan(want, seen)

    def observe(self, key: str) -> Doc:
        begun_s = self._clock()
        seen = self._store.read(self._look)
        awake = self._is_awake(begun_s, seen["now_s"])
        if not awake:
            self._forget()
        self._collect()
        for host in seen["hosts"]:
            self._add_own(host, begun_s)
        return seen | {"awake": awake, "unwatched": self._unwatched}

    def _is_awake(self, clock_s: float, database_s: float) -> bool:
        last, self._last = self._last, (clock_s, database_s)
        if last is None:
            return False
        passed_s = clock_s - last[0]
        return passed_s <= GAP_S and abs(passed_s - (database_s - last[1])) <= JUMP_S

    def _forget(self) -> None:
        self._silent_since.clear()
        self._heard_since.clear()
        self._opinions.clear()
        self._asked.clear()
        self._switched.clear()

    def _collect(self) -> None:
        """Answers that have come."""
        for host, work in list(self._asked.items()):
            if work.future.done():
                del self._asked[host]
                if work.future.exception() is None:
                    self._opinions[host] = (work.begun_s, *work.future.result())

    def _add_own(self, host: Doc, now_s: float) -> None:
        """What this process knows of the host besides."""
        name, row = host["name"], host["takeover"]
        heard = host["silent_s"] is None or host["silent_s"] <= LEASE_S
        since, other = (self._heard_since, self._silent_since)[:: 1 if heard else -1]
        since.setdefault(name, now_s)
        other.pop(name, None)
        host["watched_s"] = now_s - self._silent_since.get(name, now_s)
        host["heard_s"] = now_s - self._heard_since.get(name, now_s)
        host["asking"] = name in self._asked
        told = self._opinions.get(name)
        host["opinion"] = {"age_s": now_s - told[0], "witnesses": told[1]} if told else None
        host["storage"] = told[2] if told else None
        fence = self._fences.get(name)
        host["fence"] |= {"driver": fence.driver, "power_on": fence.power_on} if fence else NO_SWITCH
        host["fencing"] = self._power(row["id"]) if row else None

    def _power(self, takeover_id: str) -> str | None:
        work = self._switched.get(takeover_id)
        if work is None:
            return None
        if not work.future.done():
            return "busy"
        error = work.future.exception()
        if error is None:
            return "off"
        if self._clock() - work.begun_s > FENCE_AGAIN_S:
            return str(error)
        return "busy"  # it is tried again in a moment

    def _look(self, tx: Tx) -> Doc:
        now_s, under_way = tx.now_s(), takeovers.under_way(tx)
        control = takeovers.control(tx)
        rows = sorted(tx.rows(HOST), key=_name)
        computes = [row for row in rows if "compute" in row["roles"]]
        hosts = [self._host(tx, row, under_way.get(row["name"]), now_s) for row in computes]
        silent = [lapsed_s(row, now_s) > LEASE_S for row in rows if row["epoch"]]
        told = {name: control[name] for name in ("brake", "calm_until_s", "reserve_hosts")}
        return {"now_s": now_s, "all_silent": all(silent), **told, "hosts": hosts}

    def _host(self, tx: Tx, row: Row, under_way: Row | None, now_s: float) -> Doc:
        barred_s = (under_way or {"times": {}})["times"].get("barred")
        stops = row["inventory"].get("self_fence") or {}
        host: Doc = {
            "name": row["name"],
            "maintenance": bool(row["maintenance"]),
            "silent_s": lapsed_s(row, now_s) if row["epoch"] else None,
            "knocked": barred_s is not None and (row["knocked_at_s"] or 0.0) > barred_s,
            "fence": {"stopped_after_s": stops.get("stopped_after_s")},
            "takeover": under_way,
            "movable": 0,
            "machines": [],
        }
        if under_way is not None and under_way["state"] in ("suspect", "down-unfenced") and barred_s is None:
            rows = takeover.machines(tx, under_way, self.policy.priority)
            host["movable"] = sum(takeover.stays(tx, each, self.policy.priority) is None for each in rows)
        if under_way is not None and under_way["state"] == "fenced":
            tried = {move["server_id"]: now_s - move["at_s"] for move in under_way["moves"]}
            left = takeover.machines(tx, under_way, self.policy.priority)
            host["machines"] = [{"server_id": each["id"], "again_s": tried.get(each["id"])} for each in left]
        return host

    def perform(self, key: str, act: Act) -> None:
        """Each under the lease, and only while the look that it follows from is fresh."""
        if self._last is None or self._clock() - self._last[0] > GAP_S:
            raise Unavailable("we were asleep; look anew")
        args = dict(act.args)
        if act.do in ("brake", "reserve", "calm"):
            self._lease.run(lambda tx: getattr(self, f"_{act.do}")(tx, **args))
            self._unwatched = self._unwatched and act.do != "calm"
            return
        host = args.pop("host")
        match act.do:
            case "ask":
                self._ask(host)
            case "fence":
                self._fence(host)
            case "switch_on":
                self._lease.run(lambda tx: self._note(tx, host, "power_on"))
                self._pool.submit(self._fences[host].switch.power_on)
            case "cut_storage":
                self._lease.run(lambda tx: self._under_way(tx, host, "fenced"))
                self._storage.cut_off(host)
                self._lease.run(lambda tx: self._note(tx, host, "storage"))
            case "returned":
                self._lease.run(lambda tx: self._under_way(tx, host, "taken-over"))
                self._storage.let_in(host)
                self._lease.run(lambda tx: self._returned(tx, host))
            case _:
                self._lease.run(lambda tx: getattr(self, f"_{act.do}")(tx, host, **args))
        if act.do not in ("ask", "fence", "say"):
            log.warning("takeover", extra={"act": act.do, "host": host})

    # beside: never waited for here

    def _ask(self, host: str) -> None:
        if host not in self._asked:
            work = self._pool.submit(lambda: (self._witnesses.ask(host), self._storage.watches(host)))
            self._asked[host] = Work(self._clock(), work)

    def _fence(self, host: str) -> None:
        def may(tx: Tx) -> str:
            row = takeovers.under_way(tx)[host]
            if row["state"] != "down-unfenced" or tx.get(HOST, host)["barred"] is None:
                raise Unavailable(f"host {host} is not to be fenced any more")
            return str(row["id"])

        takeover_id, switch = self._lease.run(may), self._fences[host].switch
        self._switched[takeover_id] = Work(self._clock(), self._pool.submit(_switch_off, switch))

    # in SQL: under the lease, each in one transaction that looks once more

    def _brake(self, tx: Tx, brake: Doc | None) -> None:
        row = takeovers.control(tx)
        if brake is not None and row["brake"] is not None:
            brake = brake | {"released_s": row["brake"]["released_s"]}
        takeovers.set_control(tx, brake=brake)
        if (brake is None) != (row["brake"] is None):
            log.error("storm brake: %s", brake or "it holds no more")

    def _calm(self, tx: Tx, until_s: float) -> None:
        takeovers.set_control(tx, calm_until_s=until_s)

    def _reserve(self, tx: Tx, amount: int) -> None:
        takeovers.set_control(tx, reserve_hosts=amount)

    def _under_way(self, tx: Tx, host: str, *states: str) -> tuple[Row, Row]:
        row = takeovers.under_way(tx).get(host)
        if row is None or row["state"] not in states:
            raise Unavailable(f"host {host} is {row['state'] if row else 'well'} now")
        return row, tx.get(HOST, host)

    def _lost(self, tx: Tx, host: Row) -> None:
        if lapsed_s(host, tx.now_s()) <= LEASE_S:
            raise Unavailable(f"host {host['name']} was heard again")

    def _suspect(self, tx: Tx, host: str) -> None:
        if host not in takeovers.under_way(tx):
            row = tx.insert(TAKEOVER, {"id": takeover.new_id(), "host": host})
            takeovers.advance(tx, row, "suspect")

    def _clear(self, tx: Tx, host: str) -> None:
        row, _ = self._under_way(tx, host, "suspect", "down-unfenced")
        takeovers.advance(tx, row, "false-alarm" if row["state"] == "suspect" else "returned")

    def _say(self, tx: Tx, host: str, why: str) -> None:
        row, _ = self._under_way(tx, host, "suspect", "down-unfenced")
        tx.update(TAKEOVER, row, why=why[:1024])

    def _give_up(self, tx: Tx, host: str, why: str, opinion: Doc) -> None:
        row, found = self._under_way(tx, host, "suspect")
        self._lost(tx, found)
        takeovers.advance(tx, row, "down-unfenced", why=why, opinion=opinion)

    def _condemn(self, tx: Tx, host: str, opinion: Doc | None = None) -> None:
        """From here on it gets no lease. What it was granted before is seen by the next look, and called off."""
        row, found = self._under_way(tx, host, "suspect", "down-unfenced")
        self._lost(tx, found)
        takeovers.change_host(tx, found, forced_down=True, barred="it is being fenced, because it was not heard.")
        row = self._note(tx, host, "barred")
        changes: Doc = {"opinion": row["opinion"] if opinion is None else opinion, "forced": not found["forced_down"]}
        takeovers.advance(tx, row, "down-unfenced", why="It is being fenced.", **changes)

    def _call_off(self, tx: Tx, host: str) -> None:
        row, found = self._under_way(tx, host, "down-unfenced")
        self._let_in(tx, row, found)
        takeovers.advance(tx, row, "false-alarm", why="It was heard again.")

    def _fenced(self, tx: Tx, host: str, by: str) -> None:
        row, found = self._under_way(tx, host, "down-unfenced")
        self._lost(tx, found)
        if found["barred"] is None or (found["knocked_at_s"] or 0.0) > row["times"]["barred"]:
            raise Unavailable(f"host {host} was heard again")
        takeovers.advance(tx, row, "fenced", why="", fenced_by=by)

    def _move(self, tx: Tx, host: str, server_id: str) -> None:
        row, found = self._under_way(tx, host, "fenced")
        if found["barred"] is None:
            raise Unavailable(f"host {host} gets leases again")
        takeover.move(tx, row, server_id, self.policy.priority)

    def _finish(self, tx: Tx, host: str) -> None:
        row, found = self._under_way(tx, host, "fenced")
        tx.update(HOST, found, barred=None)
        takeovers.advance(tx, row, "taken-over")

    def _returned(self, tx: Tx, host: str) -> None:
        row, found = self._under_way(tx, host, "taken-over")
        self._let_in(tx, row, found)
        takeovers.advance(tx, row, "returned")

    def _let_in(self, tx: Tx, row: Row, host: Row) -> None:
        down = bool(host["forced_down"] and not row["forced"])  # a client of the API had said so before: it stays
        takeovers.change_host(tx, host, forced_down=down, barred=None)

    def _note(self, tx: Tx, host: str, phase: str) -> Row:
        row = takeovers.under_way(tx)[host]
        return tx.update(TAKEOVER, row, times=row["times"] | {phase: tx.now_s()})


def _switch_off(switch: Fence) -> None:
    try:
        switch.power_off()
    except (Unavailable, Refused) as error:
        raise Unavailable(f"Its power switch: {error}") from error


def _name(row: Row) -> str:
    return str(row["name"])
