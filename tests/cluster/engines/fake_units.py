"""systemd of a host that is only pretended: units start when they are told to, with the drop-in that lies there."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from trilith.cluster.cluster_file import ClusterFile, Host, Networks
from trilith.cluster.engines.engine import HostView, dropin_path
from trilith.cluster.engines.files import below
from trilith.cluster.engines.systemd import DIGEST_VARIABLE, UnitState
from trilith.cluster.state import Settings, State


@dataclass
class FakeUnits:
    """`calls`: every act on a unit, in order."""

    root: Path
    states: dict[str, UnitState] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def state(self, name: str) -> UnitState:
        return self.states.get(name, UnitState(name, loaded=True))

    def daemon_reload(self) -> None:
        self.calls.append("daemon-reload")

    def enable(self, name: str) -> None:
        self._change(f"enable {name}", name, enabled=True)

    def disable(self, name: str) -> None:
        self._change(f"disable {name}", name, enabled=False)

    def start(self, name: str, wait: bool = True) -> None:
        lines = below(self.root, dropin_path(name)).read_text().splitlines()
        prefix = f"Environment={DIGEST_VARIABLE}="
        digest = next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), None)
        invocation = f"{len(self.calls)}"
        self._change(
            f"start {name}", name, active="active", sub="running", pid=1, started_with=digest, invocation=invocation
        )

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def reload(self, name: str) -> None:
        self.calls.append(f"reload {name}")

    def stop(self, name: str, patience_s: float = 0.0) -> None:
        self._change(f"stop {name}", name, active="inactive", sub="dead", pid=0, started_with=None)

    def die(self, name: str) -> None:
        self.states[name] = dataclasses.replace(self.state(name), active="failed", pid=0, started_with=None)

    def _change(self, call: str, name: str, **changes: object) -> None:
        self.calls.append(call)
        self.states[name] = dataclasses.replace(self.state(name), **changes)  # type: ignore[arg-type]


def three_controllers(**more: object) -> ClusterFile:
    hosts = [
        Host(name=f"c{number}", address=f"10.0.0.1{number}", roles=["control", "network", "compute"])
        for number in (1, 2, 3)
    ]
    networks = Networks(management="10.0.0.0/24")
    return ClusterFile(hosts=hosts, vip="10.0.0.100", networks=networks, **more)  # type: ignore[arg-type]


def host_view(directory: Path, cluster: ClusterFile | None = None, name: str = "c1") -> HostView:
    """A host below `directory`: its state, its root, units that obey. Files belong to whoever runs the test."""
    state = State(directory / "state")
    state.make_directories()
    (state.secrets / "tls").mkdir(exist_ok=True)
    for secret in ("database", "keeper", "rabbitmq"):
        (state.secrets / secret).write_text(f"{secret}-secret\n")
    for part in ("ca.crt", "host.crt", "host.key", "vip.pem"):
        (state.secrets / "tls" / part).write_text(f"{part}\n")
    cluster = cluster or three_controllers()
    settings = Settings(cloud_id="x", host=name, cluster=cluster, listen="10.0.0.11")
    root = directory / "root"
    return HostView(state, settings, units=FakeUnits(root), root=root)
