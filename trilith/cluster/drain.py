"""`trilith host drain NAME`: takes a host out of service and moves all of its servers away.

It speaks the public API as the administrator, and remembers nothing: typed once more, it goes on. Servers that run move
while they run; stopped ones are copied, and the move is confirmed. What cannot move stays, and is named with why.
"""

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trilith.cluster.drill.api import Answer, Api
from trilith.cluster.state import Problem

Doc = dict[str, Any]
AT = "compute 2.80"
AT_ONCE = 2  # moves, so that neither network nor disks are taken from those who serve
LOOK_S = 1.0
MOVED_LIVE = ("ACTIVE", "PAUSED")
IN_BETWEEN = ("MIGRATING", "RESIZE", "REVERT_RESIZE", "BUILD", "REBUILD", "REBOOT", "HARD_REBOOT")
TRIES = 3
AWAY_S = 60.0  # that the API may be away, while it moves itself


@dataclass
class Progress:
    """`tries` by server; `stay`: of those that do not move, why."""

    tries: dict[str, int] = field(default_factory=dict)
    stay: dict[str, str] = field(default_factory=dict)


def next_steps(servers: list[Doc], unconfirmed: set[str], progress: Progress) -> list[tuple[str, str]]:
    """Pure: (server, verb) to ask for now. `servers`: those on the host; `unconfirmed`: those that were copied away
    from it, whose disks it still keeps."""
    steps = [(key, "confirmResize") for key in sorted(unconfirmed)]
    busy = len(unconfirmed) + sum(server["status"] in IN_BETWEEN for server in servers)
    for server in servers:
        key, status = server["id"], server["status"]
        if key in progress.stay or server["OS-EXT-STS:task_state"] is not None or status in IN_BETWEEN:
            continue
        verb = "os-migrateLive" if status in MOVED_LIVE else "migrate" if status == "SHUTOFF" else None
        if verb is None:
            progress.stay[key] = f"it is {status}: only running, paused and stopped servers move"
        elif progress.tries.get(key, 0) >= TRIES:
            progress.stay[key] = f"{TRIES} moves of it failed; see: openstack server event list {key}"
        elif busy < AT_ONCE:
            busy += 1
            steps.append((key, verb))
    return steps


class Drain:
    """`token`: the administrator's; `say` is given a line whenever there is something new."""

    def __init__(self, api: Api, token: str, host: str, as_json: bool, say: Callable[[str], None]) -> None:
        self.host, self.as_json, self.say = host, as_json, say
        self.api, self.token = api, token
        self.progress = Progress()
        self._told: Doc = {}

    def run(self) -> int:
        """0 when the host is empty, 1 when something stays on it."""
        self._disable()
        heard = time.monotonic()
        while True:
            try:
                left = self._round()
                heard = time.monotonic()
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() - heard > AWAY_S:
                    raise Problem(f"The API is away: {error}. Type it once more when it is back.") from error
                left = True
            if not left:
                return self._end()
            time.sleep(LOOK_S)

    def _round(self) -> bool:
        """One look and what follows from it; False when nothing moves any more."""
        servers, unconfirmed = self._servers(), self._unconfirmed()
        steps = next_steps(servers, unconfirmed, self.progress)
        for key, verb in steps:
            self._ask(key, verb)
        left = [server for server in servers if server["id"] not in self.progress.stay]
        self._tell({"left": len(left), "stay": len(self.progress.stay), "unconfirmed": len(unconfirmed)})
        return bool(left or unconfirmed)

    def _ask(self, key: str, verb: str) -> None:
        body = {"host": None, "block_migration": "auto"} if verb == "os-migrateLive" else None
        at = "compute 2.30" if verb == "os-migrateLive" else AT
        answer = self._call("POST", f"/servers/{key}/action", {verb: body}, at)
        if verb == "confirmResize" or answer.status == 409:
            return  # it is busy: the next look tells
        if answer.status != 202:
            self.progress.stay[key] = _reason(answer)
            return
        self.progress.tries[key] = self.progress.tries.get(key, 0) + 1

    def _disable(self) -> None:
        services = self._call("GET", f"/os-services?host={self.host}&binary=nova-compute").json["services"]
        if not services:
            raise Problem(f"There is no compute host {self.host}. To see them: openstack compute service list")
        body = {"status": "disabled", "disabled_reason": "drained"}
        if services[0]["status"] != "disabled":
            self._call("PUT", f"/os-services/{services[0]['id']}", body)

    def _servers(self) -> list[Doc]:
        found: list[Doc] = self._call("GET", f"/servers/detail?all_tenants=1&host={self.host}").json["servers"]
        return found

    def _unconfirmed(self) -> set[str]:
        path = f"/os-migrations?source_compute={self.host}&status=finished&migration_type=migration"
        return {each["instance_uuid"] for each in self._call("GET", path).json["migrations"]}

    def _call(self, method: str, path: str, body: Any = None, at: str = AT) -> Answer:
        answer = self.api.call(method, f"/compute/v2.1{path}", self.token, body, at)
        if answer.status in (401, 503) or (method != "POST" and answer.status >= 400):
            raise OSError(f"{method} {path}: {answer.status} {_reason(answer)}")
        return answer

    def _tell(self, now: Doc) -> None:
        if now == self._told:
            return
        self._told = now
        if self.as_json:
            self.say(json.dumps({"host": self.host, **now}))
        else:
            stay = f", {now['stay']} stay" if now["stay"] else ""
            self.say(f"{self.host}: {now['left']} to move, {now['unconfirmed']} to confirm{stay}")

    def _end(self) -> int:
        stay = self.progress.stay
        if self.as_json:
            self.say(json.dumps({"host": self.host, "left": 0, "stays": stay}))
            return 1 if stay else 0
        for key, reason in sorted(stay.items()):
            self.say(f"stays  {key}  {reason}")
        back = f"openstack compute service set --enable {self.host} nova-compute"
        self.say(f"{self.host} {'is not empty' if stay else 'is empty'}. To use it again: {back}")
        return 1 if stay else 0


def _reason(answer: Answer) -> str:
    try:
        (inner,) = answer.json.values()
        return str(inner["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the API answered {answer.status}"
