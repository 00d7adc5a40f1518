"""One host's part of a deploy: what its session is asked, in which order. Each step may be cut short and done again."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilith.cluster import ceph_access, host_checks
from trilith.cluster.bootstrap import guest_file
from trilith.cluster.bundle import Bundle
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.deploy_directory import CONTROLLER_SECRETS, HOST_SECRETS
from trilith.cluster.deploy_on_host import STATE
from trilith.cluster.deploy_packages import PackageRelay
from trilith.cluster.deploy_plan import DROPIN, GUESTS, HARMLESS, UNIT, Change, HostWant
from trilith.cluster.host_packages import host_packages
from trilith.cluster.ssh import HostProblem, Session
from trilith.cluster.state import FENCE_PASSWORDS
from trilith.drivers import kvm

Facts = dict[str, Any]

CLOCK_SAMPLES = 4
FACTS_S = 90.0
UNPACK_S = 300.0
INSTALL_S = 1800.0
START_S = 120.0


@dataclass
class Deployed:
    """A host that is being deployed to: its session, and what was found, wanted and planned. `problem`: why it is not
    reached."""

    host: Host
    session: Session | None = None
    problem: str | None = None
    facts: Facts = field(default_factory=dict)
    want: HostWant | None = None
    planned: list[Change] = field(default_factory=list)
    keeper_plan: list[str] = field(default_factory=list)
    clock_offset_s: float = 0.0

    @property
    def name(self) -> str:
        return self.host.name

    def ask(self, do: str, args: Facts | None = None, content: bytes = b"", limit_s: float = 60.0) -> Facts:
        """Raises `HostProblem`, also where there is no session."""
        if self.session is None:
            raise HostProblem(self.problem or "is not connected.")
        return self.session.ask(do, args, content, limit_s)


def managed_files(host: Host) -> list[str]:
    """Every path that a deploy may write on a host, whatever its roles were before."""
    secrets = [
        *CONTROLLER_SECRETS,
        *HOST_SECRETS,
        *ceph_access.SECRETS,
        FENCE_PASSWORDS,
        "join-token",
        "join-tokens.json",
    ]
    certificates = [f"tls/{name}" for name in ("ca.crt", "host.crt", "host.key", "vip.pem")]
    paths = ["cloud.json", *(f"secrets/{name}" for name in (*secrets, *certificates))]
    guest = guest_file()
    guests = [str(GUESTS / guest.parent.name / guest.name)] if guest else []
    return [UNIT, DROPIN, *guests, *(str(STATE / path) for path in paths)]


def find_facts(cluster: ClusterFile, deployed: Deployed) -> None:
    """Ask the host for everything that checks and the plan need, and its clock."""
    host = deployed.host
    probe = "" if cluster.fake or "compute" not in host.roles else Path(kvm.__file__).read_text()
    asked = {
        "host": host.name,
        "names": [other.name for other in cluster.hosts],
        "addresses": [other.address for other in cluster.hosts],
        "ports": list(host_checks.ports(cluster, host)),
        "packages": host_packages(host.roles, cluster.ceph is not None),
        "files": managed_files(host),
        "kvm_probe": probe if cluster.engines.accelerator != "tcg" else "",
    }
    deployed.facts = deployed.ask("facts", asked, limit_s=FACTS_S)
    deployed.clock_offset_s = clock_offset_s(lambda: float(deployed.ask("clock")["time_s"]))


def clock_offset_s(ask: Callable[[], float]) -> float:
    """How far the host's clock is ahead of ours: of several samples, the one that took least time. What the asking
    itself took is not held against the clock."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        begun = time.time()
        there = ask()
        ended = time.time()
        samples.append((ended - begun, there - (begun + ended) / 2))
    took_s, offset_s = min(samples)
    return 0.0 if abs(offset_s) <= took_s / 2 else offset_s


class Applier:
    """Does the planned steps of hosts; several hosts at the same time. `say(host, step, text)`."""

    def __init__(self, bundle: Bundle, relay: PackageRelay, say: Callable[[str, str, str], None]) -> None:
        self._bundle = bundle
        self._relay = relay
        self._say = say
        self._packing = threading.Lock()

    def prepare(self, deployed: Deployed) -> None:
        """The steps that nothing running notices."""
        for change in deployed.planned:
            if change.step in HARMLESS:
                self._do(deployed, change)

    def activate(self, deployed: Deployed) -> None:
        """The others."""
        for change in deployed.planned:
            if change.step not in HARMLESS:
                self._do(deployed, change)

    def _do(self, deployed: Deployed, change: Change) -> None:
        want = deployed.want
        assert want is not None
        self._say(deployed.name, change.step, shortened(change.what))
        match change.step:
            case "packages":
                self._relay.install(deployed.host, deployed.ask, list(change.names))
            case "program":
                self._unpack(deployed, change.names)
            case "secrets" | "certificates" | "files":
                files = [want.files[path] for path in change.names]
                heads = [{"path": file.path, "mode": file.mode, "size": len(file.content)} for file in files]
                deployed.ask("put_files", {"files": heads}, b"".join(file.content for file in files))
            case "switch":
                deployed.ask("switch", {"program": want.program})
            case "keeper":
                deployed.ask("start_keeper", limit_s=START_S)
            case "traffic":
                deployed.ask("drain", {"servers": list(change.names), "state": "ready"})

    def _unpack(self, deployed: Deployed, names: Iterable[str]) -> None:
        for name in names:
            with self._packing:  # one archive is made once
                made = self._bundle.wheels_archive if name == self._bundle.wheels else None
                archive = made(lambda text: self._say("", "program", text)) if made else self._bundle.program_archive()
            arguments = {"name": archive.name, "digest": archive.digest}
            deployed.ask("unpack", arguments, archive.content, limit_s=UNPACK_S)


def shortened(text: str, letters: int = 80) -> str:
    return text if len(text) <= letters else f"{text[: letters - 4]} ..."


def lock_owner() -> str:
    """Who we are, for the other who finds our lock."""
    return json.dumps({"machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")})
