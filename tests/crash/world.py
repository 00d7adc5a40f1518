"""What there is outside SQL: machines, their interfaces, volumes. Read past every driver of the cloud."""

import json
import subprocess
from pathlib import Path
from typing import Any, Protocol

from tests.crash.cloud import Cloud
from trilith.cluster import proc
from trilith.cluster.up import ovn_host


class World(Protocol):
    """`starts`: server id -> what changes whenever the machine starts anew. The others: ids of what exists."""

    def starts(self) -> dict[str, str]: ...
    def interfaces(self) -> set[str]: ...
    def volumes(self) -> set[str]: ...
    def images(self) -> set[str]: ...
    def logical_ports(self) -> set[str] | None: ...


def world_of(cloud: Cloud) -> World:
    return RealWorld(cloud) if cloud.real else FakeWorld(cloud)


class FakeWorld:
    """The notes that the fakes keep below the host's directory; images are real."""

    def __init__(self, cloud: Cloud) -> None:
        self.machines, self.disks = cloud.state.host / "machines", cloud.state.host / "volumes"
        self.published = cloud.state.images / "data"

    def starts(self) -> dict[str, str]:
        return {server: str(note["console"].count("Booted ")) for server, note in self._notes().items()}

    def interfaces(self) -> set[str]:
        return {nic["port_id"] for note in self._notes().values() for nic in note["nics"]}

    def volumes(self) -> set[str]:
        return {path.name.partition(".")[0] for path in self.disks.iterdir()}

    def images(self) -> set[str]:
        return {path.name for path in self.published.iterdir()}

    def logical_ports(self) -> set[str] | None:
        return None  # the fake's are in its controller's memory

    def _notes(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for home in self.machines.iterdir():
            try:
                found[home.name] = json.loads((home / "world.json").read_text())
            except (FileNotFoundError, NotADirectoryError):
                found[home.name] = {"console": "", "nics": []}
        return found


class RealWorld:
    """QEMU processes, links and the databases of Open vSwitch and OVN."""

    def __init__(self, cloud: Cloud) -> None:
        self.directory, self.published = cloud.state.host, cloud.state.images / "data"
        self.ovn = ovn_host(cloud.state, cloud.state.settings())

    def starts(self) -> dict[str, str]:
        """A machine's process, by its number and its time of birth."""
        found = {home.name: "" for home in (self.directory / "machines").iterdir()}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for server in found:
                if any(word.startswith(f"guest={server},".encode()) for word in words):
                    found[server] = f"{entry.name} {proc.start_ticks(int(entry.name))}"
        return found

    def interfaces(self) -> set[str]:
        """Ports that the switch has an interface for."""
        listed = self._run("ovs-vsctl", f"--db={self.ovn.remote}", "--columns=external_ids", "list", "Interface")
        pairs = (word for interface in listed for word in interface[0][1])
        return {value for name, value in pairs if name == "iface-id" and not value.startswith("provnet")}

    def volumes(self) -> set[str]:
        return {path.name for path in (self.directory / "volumes").iterdir() if not path.name.startswith(".")}

    def images(self) -> set[str]:
        return {path.name for path in self.published.iterdir()}

    def logical_ports(self) -> set[str] | None:
        listed = self._run("ovn-nbctl", f"--db={self.ovn.remote}", "--columns=name", "list", "Logical_Switch_Port")
        return {row[0] for row in listed}

    def _run(self, command: str, *words: str) -> list[Any]:
        argv = [command, "--timeout=10", "--format=json", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        rows: list[Any] = json.loads(done.stdout)["data"]
        return rows
