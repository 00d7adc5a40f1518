"""Machines that write to their volumes, and what is found there afterwards.

Each record has its place's number and the stamp of the life that wrote it: a machine has a new one whenever it starts.
Was a machine ever run twice, both wrote to the same places, and a stamp comes again after another one. Was a record
lost that had been written with fsync, there are fewer than the machine had told.
"""

import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilith.cluster.drill.load import COMPUTE, Broken, User
from trilith.cluster.drill.stage import Stage

Doc = dict[str, Any]
SCRIPT = Path(__file__).with_name("stamps.sh")
BOOTS_S = 300.0  # of all machines, where processors are pretended
LOOK_EACH_S = 2.0
WROTE = re.compile(r"stamps: wrote (\d+), slowest (\d+) s")
FOUND = re.compile(r"stamps: found (\d+) records of (\d+) lives, (\d+) out of order")
FAILED = "stamps: failed"
BEGAN = re.compile(r"stamps: begins|trilith-guest: Linux|[Pp]anic|Oops|BUG:|RIP:|fault|exception|Out of memory|rcu:")


@dataclass(frozen=True)
class Told:
    """What a machine says on its console: records written so far (at their highest), and seconds that the slowest took
    in this life."""

    wrote: int
    slowest_s: int
    failed: bool


class Writers:
    """`count` machines with a volume each, on `host` (None: on any), that answer at `addresses`."""

    def __init__(self, stage: Stage, user: User, count: int, host: str | None = None) -> None:
        self._stage, self._user = stage, user
        things = user.things
        volumes = [user.create("volume", {"size": 1}) for _ in range(count)]
        for volume in volumes:
            user.wait("volume", volume, "available")
        script = base64.b64encode(SCRIPT.read_bytes()).decode()
        root: Doc = {"uuid": things.image, "source_type": "image", "destination_type": "local", "boot_index": 0}
        body: Doc = {"flavorRef": things.flavor, "imageRef": things.image, "user_data": script}
        body["networks"] = [{"uuid": things.network}]
        self.servers = []
        with stage.only(host):
            for volume in volumes:
                disk: Doc = {"uuid": volume, "source_type": "volume", "destination_type": "volume", "boot_index": -1}
                disks = [root | {"delete_on_termination": True}, disk | {"delete_on_termination": False}]
                self.servers.append(user.create("server", {**body, "block_device_mapping_v2": disks}))
            for server in self.servers:
                user.wait("server", server, "ACTIVE")
        self.addresses = [stage.give_address(server) for server in self.servers]
        self._until("writes nothing", self.servers, lambda server: self.told(server) is not None)

    def told(self, server: str) -> Told | None:
        """None: nothing yet."""
        text = self._console(server)
        found = WROTE.findall(text)
        if not found:
            return None
        return Told(int(found[-1][0]), max(int(slowest) for _, slowest in found), FAILED in text)

    def all_told(self) -> dict[str, Told]:
        return {server: told for server in self.servers if (told := self.told(server)) is not None}

    def slowest_s(self) -> float | None:
        """Of all writes of the machines' present lives."""
        return max((float(told.slowest_s) for told in self.all_told().values()), default=None)

    def wrong(self, before: dict[str, Told], lived_on: bool = False) -> list[str]:
        """Sentences. Every machine is started once more, to say what it finds. `before`: what they told before the
        fault. `lived_on`: none has been started again since it was made."""
        began = {server: self._began(server) for server in self.servers} if lived_on else {}
        lost = [f"machine {server} had an I/O error" for server, told in self.all_told().items() if told.failed]
        for server in self.servers:
            answer = self._user.ask("POST", f"{COMPUTE}/servers/{server}/action", {"reboot": {"type": "HARD"}})
            if answer.status != 202:
                raise Broken(f"starting {server} again: {answer.status} {answer.content[:200]!r}")
        for server in self.servers:
            self._user.wait("server", server, "ACTIVE")
        told = {server: told.wrote for server, told in before.items()}
        self._until("does not say what it finds", self.servers, lambda server: self._found(server, told) is not None)
        for server in self.servers:
            found = self._found(server, told)
            assert found is not None
            records, lives, disorder = found
            if records < told.get(server, 0):
                lost.append(f"machine {server} had written {told[server]} records, and {records} are there")
            if lived_on and lives > 1:
                lost.append(f"machine {server} was started again: it has written in {lives} lives; {began[server]}")
            if disorder:
                lost.append(f"machine {server} ran twice: {disorder} of {records} records, of {lives} lives, say so")
        return lost

    def clear(self) -> None:
        """Their addresses; the rest is a user's, who takes it away."""
        for address in self.addresses:
            self._stage.take_address(address)
        self.addresses = []

    def _found(self, server: str, told: dict[str, int]) -> tuple[int, int, int] | None:
        """Records, lives and records out of order, as it said when it started last."""
        found = FOUND.findall(self._console(server))
        if not found or (int(found[-1][0]) == 0 and told.get(server)):
            return None
        records, lives, disorder = found[-1]
        return int(records), int(lives), int(disorder)

    def _began(self, server: str) -> str:
        """What its console, as far as this host has it, says of how it began, or ended."""
        lines = [line.strip() for line in self._console(server).splitlines() if BEGAN.search(line)]
        return "; ".join(lines[-6:]) or "its console tells nothing of it"

    def _console(self, server: str) -> str:
        path = f"{COMPUTE}/servers/{server}/action"
        answer = self._user.ask("POST", path, {"os-getConsoleOutput": {"length": None}})
        return str(answer.json["output"]) if answer.status == 200 else ""

    def _until(self, what: str, servers: list[str], holds: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + BOOTS_S
        for server in servers:
            while not holds(server):
                if time.monotonic() > deadline:
                    raise Broken(f"machine {server} {what} within {BOOTS_S:.0f} s: {self._console(server)[-200:]!r}")
                time.sleep(LOOK_EACH_S)
