"""A rehearsal's cluster as the place of a drill: its hosts are asked and broken past their networks."""

import itertools
import json
import logging
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trilith.cluster.drill import upgrade
from trilith.cluster.drill.site import Process
from trilith.cluster.engines.keepalived import GIVE_WAY
from trilith.cluster.rehearsal_host import SimulatedHost
from trilith.cluster.rehearse import Rehearsal
from trilith.cluster.state import Problem, write_file

log = logging.getLogger(__name__)
Doc = dict[str, Any]
T = TypeVar("T")
STATE, TRILITH = "/var/lib/trilith", "/usr/local/bin/trilith"
OWN_UNITS = ("api", "objects", "hub", "controller", "agent", "keeper")
HEALTH_S = 3.0
QMP_S = 2.0
MOVE_S, MOVE_EACH_S = 30.0, 2.0
# Erlang: every quorum queue's leader comes to the node that is asked
TRANSFER = """[begin {Name, _} = Leader = amqqueue:get_pid(Q), ra:transfer_leadership(Leader, {Name, node()}) end
 || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) == rabbit_quorum_queue]."""


class Rehearsed:
    """`gateway_port`: of the router that machines' traffic goes through; the drill says it once it has made one."""

    def __init__(self, state: Path) -> None:
        self._rehearsal = Rehearsal(state)
        cluster = self._rehearsal.cluster
        if cluster.vip is None:
            raise Problem(f"The rehearsal at {state} has one host and no VIP. Drill a larger cluster file.")
        self.name, self.fake, self.url, self.vip = cluster.name, cluster.fake, f"https://{cluster.vip}", cluster.vip
        self.hosts = [host.name for host in cluster.hosts]
        self.controllers = [host.name for host in cluster.with_role("control")]
        self.computes = [host.name for host in cluster.with_role("compute")]
        self.storages = [host.name for host in cluster.with_role("storage")]
        self._gateways = [host.name for host in cluster.with_role("network")]
        self.ca: Path | None = self._rehearsal.state / "drill-ca.crt"
        write_file(self.ca, self._first(["cat", f"{STATE}/secrets/tls/ca.crt"]).encode())
        self.gateway_port = ""

    # --- asking

    def password(self, user: str) -> str:
        return self._first(["cat", f"{STATE}/secrets/{user}"]).strip()

    def looks(self) -> list[Doc]:
        def look(name: str) -> Doc:
            words = [TRILITH, "audit", "--state", STATE, *(["--rows"] if name == self.controllers[0] else [])]
            document: Doc = json.loads(self._run(name, words))
            return document

        return self._all(self.hosts, look)

    def problems(self) -> list[str]:
        away = [host.name for host in self._rehearsal.hosts if host.condition != "running"]
        if away:
            return [f"{', '.join(away)}: not running"]
        if not self._answers():
            return [f"{self.url} does not answer"]
        if unready := [name for name in self.hosts if not self._keeper_is_ready(name)]:
            return [f"{', '.join(unready)}: not ready yet. See: trilith status"]
        said = self._first(["sh", "-c", f"{TRILITH} status --json --state {STATE} || true"])
        try:
            document: Doc = json.loads(said)
        except ValueError:
            return ["`trilith status` says nothing"]
        return [f"{wrong['what']}: {wrong['why']}" for wrong in document["degraded"]]

    def _keeper_is_ready(self, name: str) -> bool:
        """As it wrote down lately. To ask `trilith status` each time would cost what the cluster needs to heal."""
        try:
            return bool(json.loads(self._run(name, ["cat", f"{STATE}/run/keeper.json"]))["ready"])
        except (Problem, ValueError):
            return False

    def _answers(self) -> bool:
        try:
            tls = ssl.create_default_context(cafile=self.ca)
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=HEALTH_S, context=tls) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def processes(self) -> list[Process]:
        """Of hosts that run."""
        ask = ["systemctl", "show", "--property=Id,MainPID", *(f"trilith-{name}" for name in OWN_UNITS)]

        def of(name: str) -> list[Process]:
            found: list[Process] = []
            for block in self._run(name, ask).split("\n\n"):
                values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
                if int(values.get("MainPID", 0)):
                    unit = values["Id"].removeprefix("trilith-").removesuffix(".service")
                    found.append(Process(name, unit, int(values["MainPID"])))
            return found

        return [process for found in self._all(self._running(self.hosts), of) for process in found]

    def _holder(self) -> str | None:
        shown = ["ip", "-json", "address", "show", "to", self.vip]
        for name in self._running(self.controllers):
            if any(link.get("addr_info") for link in json.loads(self._run(name, shown) or "[]")):
                return name
        return None

    def vip_holder(self) -> str:
        """Raises `Problem` when nobody has it."""
        if (holder := self._holder()) is not None:
            return holder
        raise Problem(f"No controller has the VIP {self.vip}. See: trilith status on a controller")

    def database_writer(self) -> str:
        """The node that the program's sessions are on."""
        count = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'trilith'"
        running = self._running(self.controllers)
        sessions = self._all(running, lambda name: int(self._run(name, ["mariadb", "-N", "-e", count])))
        return max(zip(sessions, running, strict=True))[1]

    def gateway_host(self) -> str:
        """Where the drill's router meets the provider network now."""
        south = ["ovn-sbctl", "--no-leader-only", "--timeout=10", "--format=json"]
        find = ["--columns=logical_port,chassis", "find", "Port_Binding", "type=chassisredirect"]
        bound = json.loads(self._first([*south, *find]))["data"]
        chassis = json.loads(self._first([*south, "--columns=_uuid,hostname", "list", "Chassis"]))["data"]
        hosts = {row[0][1]: row[1] for row in chassis}
        holders = [hosts.get(where[1], "") for port, where in bound if self.gateway_port in port and where[0] == "uuid"]
        found = next((name for name in self._gateways if name in holders), None)
        if found is None:
            raise Problem(f"No network host is gateway for port {self.gateway_port}. There: ovn-sbctl show")
        return found

    def machines(self) -> dict[str, set[str]]:
        """Host -> servers that have a QEMU process there, as this machine's kernel says it: no host is asked."""
        found: dict[str, set[str]] = {}
        for name in self.computes:
            found[name] = {guest for pid in self._host(name).pids() if (guest := _guest(_command_line(pid)))}
        return found

    def there_twice(self) -> dict[str, list[str]]:
        """Servers that have a QEMU process on more than one host -> those."""
        return _on_several(self.machines())

    def running_twice(self) -> dict[str, list[str]]:
        """Servers that run on more than one host, as their QEMU processes say. The hosts are asked one after the other,
        and a machine that was seen on two may have gone from one to the other: so they are asked once more."""
        first = self.there_twice()
        again = [self._running_there(first), self._running_there(first)] if first else []
        return {key: hosts for key, hosts in first.items() if again and all(set(hosts) <= it[key] for it in again)}

    def _running_there(self, servers: dict[str, list[str]]) -> dict[str, set[str]]:
        return {
            server: {host for host in hosts if any(_says_it_runs(pid, server) for pid in self._pids_of(host, server))}
            for server, hosts in servers.items()
        }

    def _pids_of(self, host: str, server: str) -> list[int]:
        return [pid for pid in self._host(host).pids() if _guest(_command_line(pid)) == server]

    @property
    def computes_alone(self) -> list[str]:
        """Compute hosts that are no controllers: one at least, or `Problem`."""
        alone = [name for name in self.computes if name not in self.controllers]
        if not alone:
            raise Problem("Every compute host of this rehearsal is a controller too. Drill a larger cluster file.")
        return alone

    def busiest(self) -> str:
        """The compute host, no controller, that runs most machines."""
        running = self.machines()
        return max(self.computes_alone, key=lambda name: len(running[name]))

    # --- breaking

    def kill(self, process: Process) -> None:
        self._run(process.host, ["sh", "-c", f"kill -9 {process.pid} || true"])

    def kill_unit(self, name: str, unit: str) -> None:
        """kill -9 of all of its processes; what starts it again is its affair."""
        self._run(name, ["systemctl", "kill", "--kill-who=all", "--signal=KILL", unit])

    def power_off(self, names: list[str]) -> None:
        self._all(names, lambda name: self._host(name).power_off())

    def power_on(self, names: list[str]) -> None:
        self._all(names, lambda name: self._host(name).power_on(wait=False))

    def cut(self, name: str, network: str) -> None:
        self._host(name).cut(network)

    def part(self, names: list[str]) -> None:
        """Those hosts reach each other, and nobody else."""
        for one in names:
            for other in self.hosts:
                if other not in names:
                    self._rehearsal.block(one, other)

    def pause(self, name: str) -> None:
        self._host(name).pause()

    def restore(self) -> None:
        """Every cable in, nobody apart, everything on, nobody asleep."""
        for host in self._rehearsal.hosts:
            if host.condition == "paused":
                host.resume()
            if host.cut_networks():
                host.heal()
        for pair in self._rehearsal.blocked():
            self._rehearsal.unblock(*pair)
        off = [host.name for host in self._rehearsal.hosts if host.condition == "off"]
        self.power_on(off)

    def gather(self) -> None:
        """The VIP goes to the SQL writer's host, and the leaders of RabbitMQ's queues too."""
        writer = self.database_writer()
        deadline = time.monotonic() + MOVE_S
        while self._holder() != writer:
            if time.monotonic() > deadline:
                raise Problem(f"The VIP does not go to {writer}, though the others give way.")
            for name in self.controllers:
                if name != writer:
                    self._run(name, ["touch", GIVE_WAY])  # its keeper takes that away soon
            time.sleep(MOVE_EACH_S)
        self._run(writer, ["sh", "-c", 'rabbitmqctl --timeout 20 eval "$0" || true', TRANSFER])

    def roll(self, version: Path) -> None:
        """Deploys another version of the program, host by host. `Problem` where a host does not run it then."""
        before = set(self._all(self.hosts, self._program))
        wanted = upgrade.roll(self._rehearsal.state, version)
        after = dict(zip(self.hosts, self._all(self.hosts, self._program), strict=True))
        if wanted in before or set(after.values()) != {wanted}:
            raise Problem(f"Hosts ran {before} and run {after}, after {wanted} was deployed.")

    def _program(self, name: str) -> str:
        return str(json.loads(self._run(name, ["cat", f"{STATE}/run/keeper.json"]))["program"])

    @property
    def scratch(self) -> Path:
        """A directory that goes with the rehearsal."""
        return self._rehearsal.state / "drill"

    # --- hosts

    def _host(self, name: str) -> SimulatedHost:
        return self._rehearsal.host(name)

    def _running(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self._host(name).condition == "running"]

    def _run(self, name: str, argv: list[str]) -> str:
        return self._host(name).run(argv)

    def _first(self, argv: list[str]) -> str:
        """What the first controller that can, answers."""
        last: Problem | None = None
        for name in self._running(self.controllers):
            try:
                return self._run(name, argv)
            except Problem as problem:
                last = problem
        raise last or Problem(f"No controller of {self.name} runs. To switch them on: trilith rehearse power-on NAME")

    def _all(self, names: Sequence[str], work: Callable[[str], T]) -> list[T]:
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            return list(pool.map(work, names))


def _command_line(pid: int) -> list[str]:
    """[] of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _guest(words: list[str]) -> str | None:
    """The server whose QEMU has this command line."""
    return next((m[1] for word in words if (m := re.fullmatch(r"guest=([0-9a-f-]{36}),.*", word))), None)


def _on_several(machines: dict[str, set[str]]) -> dict[str, list[str]]:
    everywhere = sorted(server for servers in machines.values() for server in servers)
    twice = {server for server, next_one in itertools.pairwise(everywhere) if server == next_one}
    return {server: sorted(host for host, servers in machines.items() if server in servers) for server in twice}


def _says_it_runs(pid: int, server: str) -> bool:
    """What the process says on the monitor that is for diagnosis; False where it says nothing."""
    try:
        run = os.open(f"/proc/{pid}/root{STATE}/host/machines/{server}/run", os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(QMP_S)
                link.connect(f"/proc/self/fd/{run}/qmp2")  # a socket's path is short
                lines = link.makefile("rwb")
                lines.readline()
                for command in ("qmp_capabilities", "query-status"):
                    lines.write(json.dumps({"execute": command, "id": command}).encode() + b"\n")
                    lines.flush()
                    while (answer := json.loads(lines.readline())).get("id") != command:
                        pass
                return bool(answer["return"]["running"])
        finally:
            os.close(run)
    except (OSError, ValueError, KeyError):
        return False
