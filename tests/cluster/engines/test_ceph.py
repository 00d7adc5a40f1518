"""Three hosts' keepers and a real Ceph: founded once, joined, restarted, found again after a power cut."""

import dataclasses
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.engines.fake_units import FakeUnits
from trilith.cluster import ceph_access
from trilith.cluster.cluster_file import Ceph as CephFile
from trilith.cluster.cluster_file import ClusterFile, Host, Networks
from trilith.cluster.engines.ceph import CephCluster, CephMgr, CephMon, CephOsd, CephPart
from trilith.cluster.engines.engine import KEY, HostView, Status
from trilith.cluster.engines.files import below
from trilith.cluster.engines.systemd import UnitState
from trilith.cluster.state import Settings, State
from trilith.drivers.ceph import Ceph
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Doc, converge

NAMES = ("c1", "c2", "c3")
GIB = 1 << 30


@dataclass
class RealUnits(FakeUnits):
    """Units whose main process is really Ceph's."""

    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def state(self, name: str) -> UnitState:
        process = self.processes.get(name)
        if process is not None and process.poll() is not None and super().state(name).active == "active":
            self.die(name)
        return super().state(name)

    def start(self, name: str, wait: bool = True) -> None:
        kind, _, instance = name.removesuffix(".service").partition("@")
        number = (
            (below(self.root, "/var/lib/ceph/osd/trilith/whoami")).read_text().strip() if kind == "ceph-osd" else ""
        )
        argv = [kind, "-f", "--id", number or instance, "--conf", str(below(self.root, "/etc/ceph/ceph.conf"))]
        argv += ["--setuser", "ceph", "--setgroup", "ceph"]
        null = subprocess.DEVNULL
        self.processes[name] = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null)
        super().start(name, wait)

    def stop(self, name: str, patience_s: float = 0.0) -> None:
        self.kill(name)
        super().stop(name, patience_s)

    def kill(self, name: str) -> None:
        if (process := self.processes.pop(name, None)) is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()


class Cloud:
    """Three hosts that are controllers and storage hosts, and what their keepers say."""

    def __init__(self, directory: Path) -> None:
        hosts = [
            Host(name=name, address=f"127.77.0.1{number}", roles=["control", "storage", "compute", "network"])
            for number, name in enumerate(NAMES, 1)
        ]
        self.cluster = ClusterFile(
            hosts=hosts, networks=Networks(management="127.77.0.0/24"), ceph=CephFile(osd_size_gib=6)
        )
        self.silent: set[str] = set()
        self.told: dict[str, Doc] = {}
        self.views = {host.name: self._view(directory / host.name, host) for host in hosts}
        self.engines: dict[str, list[CephPart]] = {
            name: [kind(view) for kind in (CephMon, CephMgr, CephOsd, CephCluster)] for name, view in self.views.items()
        }

    def _view(self, directory: Path, host: Host) -> HostView:
        state = State(directory / "state")
        state.make_directories()
        secrets = {"ceph": "the-secret", **ceph_access.host_secrets(self.cluster, host, "the-secret")}
        for name, text in secrets.items():
            (state.secrets / name).touch(mode=0o600)
            (state.secrets / name).write_text(f"{text}\n")
        root = directory / "root"
        for path in ("run/ceph", "var/lib/ceph/crash", "var/lib/ceph/mon", "var/lib/ceph/osd"):
            (root / path).mkdir(parents=True)
        subprocess.run(["chown", "-R", "ceph:ceph", root / "run/ceph", root / "var/lib/ceph"], check=True)
        settings = Settings(cloud_id="x", host=host.name, cluster=self.cluster, listen=host.address)

        def ask(peer: Host) -> Doc | None:
            return None if peer.name in self.silent else self.told.get(peer.name)

        return HostView(state, settings, ask, RealUnits(root), root)

    def units(self, name: str) -> RealUnits:
        units = self.views[name].units
        assert isinstance(units, RealUnits)
        return units

    def round(self) -> dict[str, dict[str, Status]]:
        """One round of every keeper that is there."""
        found: dict[str, dict[str, Status]] = {}
        for name in NAMES:
            if name in self.silent:
                continue
            found[name] = {}
            for engine in self.engines[name]:
                try:
                    want = engine.want()
                    seen = converge(engine, KEY, want).seen
                    found[name][engine.kind] = engine.status(want, seen)
                except Unavailable as error:
                    found[name][engine.kind] = Status(False, str(error))
            details = {kind: {"detail": status.detail} for kind, status in found[name].items()}
            self.told[name] = json.loads(json.dumps({"engines": details}))
        return found

    def settle(self, until: Callable[[dict[str, dict[str, Status]]], bool], limit_s: float = 300.0) -> None:
        deadline = time.monotonic() + limit_s
        while not until(found := self.round()):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)

    def whole(self, found: dict[str, dict[str, Status]]) -> bool:
        return all(status.ready for host in found.values() for status in host.values())

    def driver(self, name: str = "c1", control: bool = True) -> Ceph:
        view = self.views[name]
        access = ceph_access.access(view.state, view.settings, control)
        assert access is not None
        return Ceph(access)

    def power_cut(self, name: str) -> None:
        units = self.units(name)
        for unit in list(units.processes):
            units.kill(unit)
            units.states[unit] = dataclasses.replace(units.states[unit], active="inactive", started_with=None, pid=0)
        self.silent.add(name)

    def end(self) -> None:
        for name in NAMES:
            for unit in list(self.units(name).processes):
                self.units(name).kill(unit)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    # not below pytest's own directory: a socket's name has room for 107 bytes
    with tempfile.TemporaryDirectory(prefix="ceph-") as directory:
        Path(directory).chmod(0o755)
        made = Cloud(Path(directory))
        try:
            yield made
        finally:
            made.end()


def test_a_ceph_is_founded_and_survives_what_hosts_do(cloud: Cloud) -> None:
    cloud.silent = {"c3"}
    for _ in range(3):
        found = cloud.round()
    assert "c3 does not answer" in str(found["c1"]["ceph_mon"].problem), "no Ceph without every host of it"
    assert not (cloud.views["c1"].root / "var/lib/ceph/mon/trilith").exists()
    cloud.silent = set()
    cloud.settle(cloud.whole)

    ceph = cloud.driver()
    host = cloud.driver("c2", control=False)
    ceph.create("trilith-volumes", "v1", GIB)
    assert set(host.images("trilith-volumes")) == {"v1"}
    health = ceph.health()
    assert (health.osds, health.osds_up) == (3, 3)
    identity = cloud.views["c1"].state.secret("ceph")
    assert identity not in json.dumps([[engine.want() for engine in engines] for engines in cloud.engines.values()])

    cloud.power_cut("c1")
    with_two = time.monotonic()
    ceph = cloud.driver("c2")
    while True:
        try:
            ceph.create("trilith-volumes", "v2", GIB)
            break
        except Unavailable:
            assert time.monotonic() < with_two + 60
    cloud.settle(lambda found: found["c2"]["ceph_mon"].problem == "Without c1.")
    cloud.silent = set()
    cloud.settle(cloud.whole)

    # a disk that was lost: its monitor joins anew, its OSD is made anew, and nobody founds anything
    cloud.power_cut("c2")
    root = cloud.views["c2"].root
    subprocess.run(["rm", "-rf", root / "var/lib/ceph/mon/trilith"], check=True)
    cloud.silent = set()
    cloud.settle(lambda found: all(host["ceph_mon"].ready for host in found.values()))
    assert set(cloud.driver("c3").images("trilith-volumes")) == {"v1", "v2"}

    for name in NAMES:
        cloud.power_cut(name)
    cloud.silent = set()
    cloud.settle(cloud.whole)
    assert set(cloud.driver("c3").images("trilith-volumes")) == {"v1", "v2"}
