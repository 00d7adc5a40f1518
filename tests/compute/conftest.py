"""An API with every service, one compute host whose agent is stepped by hand, a network and an image."""

import time
from pathlib import Path
from typing import Any

import pytest

import trilith.cluster.services  # noqa: F401 - every noun of every service
from tests.client import ADMIN, MEMBER, Answer, Client, client, token
from trilith.agent.machines import Machines
from trilith.agent.volumes import Volumes
from trilith.compute.flavors import FLAVOR
from trilith.compute.server_wants import sweep
from trilith.drivers.ovs_fake import FakeHostNetwork
from trilith.drivers.qemu_fake import FakeQemu
from trilith.drivers.volume_files_fake import FakeVolumeFiles, empty_disk
from trilith.identity.tokens import use_keys
from trilith.image.images import IMAGE
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Reconciler, converge, gone
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, HOSTED, register
from trilith.volume import types

Doc = dict[str, Any]
BASE = "/compute/v2.1"
NETWORK = "/networking/v2.0"
VOLUME = "/volume/v3"
IMAGE_ID = "11111111-1111-4111-8111-111111111111"
INVENTORY = {"vcpus": 8, "ram_mib": 16384, "disk_gib": 200}
ELSE = token("member", "p1", "u9")


class StillImages:
    """Images as the agent's cache would give them: one file, and uploads that are only remembered."""

    def __init__(self, directory: Path, cloud: "Cloud") -> None:
        self.file = directory / "image"
        self.away = ""  # why images cannot be had
        self.file.write_bytes(empty_disk("qcow2", 1 << 30))
        self.cloud = cloud

    def path(self, image_id: str) -> Path:
        if self.away:
            raise Unavailable(self.away)
        return self.file

    def upload(self, image_id: str, path: Path) -> None:
        def done(tx: Tx) -> None:
            tx.update(IMAGE, tx.get(IMAGE, image_id), phase="active", size_bytes=1000)

        self.cloud.store.run(done)


class Cloud:
    """``cloud.server()`` makes one; ``cloud.settle()`` lets the host's agent do all that there is to do."""

    def __init__(self, directory: Path) -> None:
        self.api: Client = client(directory)
        self.store = self.api.app.store
        self.network_id = ""
        self.images = StillImages(directory, self)
        self.taps = FakeHostNetwork()
        self.qemu = FakeQemu(directory)
        self.reconcilers: list[Reconciler] = [
            Volumes(FakeVolumeFiles(directory), self.images),
            Machines(self.qemu, self.taps, self.images),
        ]
        self.agents = {"c1": self.reconcilers}
        self.store.run(self._rows)
        use_keys("cluster-key")

    def add_host(self, directory: Path, name: str, roles: list[str]) -> None:
        """One more host, whose agent is stepped by ``settle(host=name)``."""
        key = f"22222222-2222-4222-8222-2222222222{len(self.agents):02d}"
        self.store.run(lambda tx: register(tx, name, key, roles, "nova"))
        self.beat(name)
        qemu = FakeQemu(directory / name)
        volumes = Volumes(FakeVolumeFiles(directory / name / "volumes"), self.images)
        self.agents[name] = [volumes, Machines(qemu, FakeHostNetwork(), self.images)]

    def _rows(self, tx: Tx) -> None:
        register(tx, "c1", "22222222-2222-4222-8222-222222222222", ["control", "compute", "storage"], "nova")
        types.seed(tx, "33333333-3333-4333-8333-333333333333")
        sizes = (("1", 1, 512, 1), ("2", 2, 1024, 2), ("3", 64, 512, 1), ("4", 1, 512, 2))
        for number, vcpus, ram_mib, disk_gib in sizes:
            size = {"vcpus": vcpus, "ram_mib": ram_mib, "disk_gib": disk_gib, "swap_mib": 0, "ephemeral_gib": 0}
            tx.insert(FLAVOR, {"id": number, "name": f"f{number}", "is_public": True, "extra_specs": {}, **size})
        image: Doc = {"id": IMAGE_ID, "name": "guest", "project_id": "pa", "visibility": "public", "phase": "active"}
        image |= {"disk_format": "qcow2", "container_format": "bare", "size_bytes": 1000, "tags": []}
        tx.insert(IMAGE, image | {"extra": {"os_distro": "debian"}})

    def beat(self, host: str = "c1", **changes: Any) -> None:
        def work(tx: Tx) -> None:
            tx.update(HOST, tx.get(HOST, host), seen_at_s=time.time(), inventory=INVENTORY, **changes)

        self.store.run(work)

    def beat_was(self, ago_s: float, host: str = "c1") -> None:
        """The host's last heartbeat was so long ago."""
        self.store.run(lambda tx: tx.update(HOST, tx.get(HOST, host), seen_at_s=time.time() - ago_s))

    def settle(self, rounds: int = 4, host: str = "c1") -> None:
        """What the agent of the host would do: wants in, acts, reports out, until nothing is left to do."""
        for _ in range(rounds):
            for reconciler in self.agents.get(host, self.reconcilers):
                entry = HOSTED[reconciler.kind]
                wants = {doc["id"]: doc for doc in self.store.read(lambda tx: entry.wants(tx, host))}  # noqa: B023
                for key in reconciler.known() - wants.keys():
                    wants[key] = gone(key)
                for key, want in wants.items():
                    outcome = converge(reconciler, key, want)
                    told = (want["generation"], outcome.seen, outcome.fault)
                    self.store.run(lambda tx: entry.report(tx, host, key, *told))  # noqa: B023

    def sweep(self) -> None:
        self.store.run(sweep)

    def server(self, who: str = MEMBER, at: str = "", settled: bool = True, **fields: Any) -> str:
        answer = self.try_server(who, at, **fields)
        assert answer.status == 202, answer.content
        if settled:
            self.settle()
        return str(answer.json["server"]["id"])

    def try_server(self, who: str = MEMBER, at: str = "", hints: Doc | None = None, **fields: Any) -> Answer:
        body: Doc = {"name": "s1", "flavorRef": "1", "imageRef": IMAGE_ID, "networks": [{"uuid": self.network_id}]}
        body |= fields
        body = {key: value for key, value in body.items() if value is not ...}
        return self.post("/servers", {"server": body} | ({"os:scheduler_hints": hints} if hints else {}), who, at=at)

    def show(self, server_id: str, who: str = MEMBER, at: str = "") -> Doc:
        answer = self.get(f"/servers/{server_id}", who, at=at)
        assert answer.status == 200, answer.content
        shown: Doc = answer.json["server"]
        return shown

    def status(self, server_id: str) -> str:
        return str(self.show(server_id)["status"])

    def act(self, server_id: str, verb: str, body: Any = None, who: str = MEMBER, at: str = "") -> Answer:
        return self.post(f"/servers/{server_id}/action", {verb: body}, who, at=at)

    def do(self, server_id: str, verb: str, body: Any = None, who: str = MEMBER, at: str = "") -> Answer:
        """The verb, taken and done."""
        answer = self.act(server_id, verb, body, who, at)
        assert answer.status in (200, 202, 204), answer.content
        self.settle()
        return answer

    def volume(self, size: int = 1, **fields: Any) -> str:
        answer = self.api.post(f"{VOLUME}/volumes", {"volume": {"size": size, **fields}})
        assert answer.status == 202, answer.content
        self.settle()
        return str(answer.json["volume"]["id"])

    def volume_status(self, volume_id: str) -> str:
        answer = self.api.get(f"{VOLUME}/volumes/{volume_id}")
        return str(answer.json["volume"]["status"]) if answer.status == 200 else "gone"

    def ports(self) -> list[Doc]:
        found: list[Doc] = self.api.get(f"{NETWORK}/ports", ADMIN).json["ports"]
        return [port for port in found if port["device_owner"].startswith("compute:") or not port["device_owner"]]

    def get(self, path: str, who: str = MEMBER, at: str = "") -> Answer:
        return self.api.get(BASE + path, who, at=_at(at))

    def post(self, path: str, body: Any, who: str = MEMBER, at: str = "") -> Answer:
        return self.api.post(BASE + path, body, who, at=_at(at))

    def put(self, path: str, body: Any, who: str = MEMBER, at: str = "") -> Answer:
        return self.api.put(BASE + path, body, who, at=_at(at))

    def delete(self, path: str, who: str = MEMBER, at: str = "") -> Answer:
        return self.api.delete(BASE + path, who, at=_at(at))

    def make_network(self, who: str = MEMBER, cidr: str = "10.0.0.0/24") -> str:
        network = self.api.post(f"{NETWORK}/networks", {"network": {"name": "net"}}, who)
        assert network.status == 201, network.content
        key = str(network.json["network"]["id"])
        subnet = {"network_id": key, "cidr": cidr, "ip_version": 4}
        answer = self.api.post(f"{NETWORK}/subnets", {"subnet": subnet}, who)
        assert answer.status == 201, answer.content
        return key


def _at(version: str) -> str:
    return f"compute {version}" if version else ""


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    found = Cloud(tmp_path)
    found.beat()
    found.network_id = found.make_network()
    return found
