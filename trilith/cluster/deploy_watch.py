"""Waits until the keepers say that their hosts are what the cluster file says, and shows meanwhile what they do."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trilith.cluster.deploy_apply import Deployed
from trilith.cluster.ssh import HostProblem

ROUND_S = 0.5
FRESH_S = 30.0  # a keeper writes its state every 10 s at least
VITAL = ("galera", "ovn_central", "haproxy", "trilith")

Say = Callable[[str, str, str], None]


def readiness(found: dict[str, Any], program: str, deployed: str) -> list[str]:
    """What a host still lacks, from `deploy_on_host.keeper`; [] when it is ready. Pure."""
    state = found["state"]
    if found["active"] != "active":
        return [f"the keeper is {found['active']}; see there: journalctl -u trilith-keeper"]
    if found["started_with"] != deployed or state is None or state["program"] != program:
        return ["the keeper has not spoken yet"]
    if found["age_s"] > FRESH_S:
        return [f"the keeper has said nothing for {found['age_s']:.0f} s"]
    lacking = []
    for name, engine in state["engines"].items():
        if not engine["ready"]:
            why = engine.get("problem") or engine.get("doing") or "not ready"
            lacking.append(f"{name}: {why}")
    return lacking if lacking or state["ready"] else ["not ready"]


def holds_quorum(found: dict[str, Any]) -> bool:
    """Whether a controller counts, when another one is to be changed. The bus and the cache are not needed. Pure."""
    if found["active"] != "active" or found["state"] is None or found["age_s"] > FRESH_S:
        return False
    engines = found["state"]["engines"]
    return all(engines[name]["ready"] for name in VITAL if name in engines)


class Watch:
    """The readiness of some hosts over time; each change is said once."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told: dict[str, dict[str, str]] = {}

    def look(self, deployed: Deployed) -> list[str]:
        assert deployed.want is not None
        try:
            found = deployed.ask("keeper", limit_s=20)
        except HostProblem as problem:
            return [str(problem)]
        lacking = readiness(found, deployed.want.program, deployed.want.deployed)
        self._show(deployed.name, found)
        return lacking

    def wait(self, hosts: Iterable[Deployed], limit_s: float) -> dict[str, list[str]]:
        """Until all are ready; what is missing, by host, when the time is up ({} when all are)."""
        waiting = {deployed.name: deployed for deployed in hosts}
        deadline = time.monotonic() + limit_s
        with ThreadPoolExecutor(max(1, len(waiting))) as pool:
            while waiting:
                found = dict(zip(waiting, pool.map(self.look, waiting.values()), strict=True))
                for name in [name for name, lacking in found.items() if not lacking]:
                    self._say(name, "ready", "")
                    del waiting[name], found[name]
                if found and time.monotonic() > deadline:
                    return found
                if found:
                    time.sleep(ROUND_S)
        return {}

    def _show(self, host: str, found: dict[str, Any]) -> None:
        engines = (found["state"] or {"engines": {}})["engines"]
        told = self._told.setdefault(host, {})
        for name, engine in engines.items():
            text = "ready" if engine["ready"] else str(engine.get("doing") or engine.get("problem") or "")
            if text == "ready" and not engine.get("present", True):
                continue  # there is nothing of it there, as it should be
            if text and told.get(name) != text:
                told[name] = text
                self._say(host, name, text)
