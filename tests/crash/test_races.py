"""Many at once ask for what only one can have. SQL decides, once; nobody gets a 5xx."""

import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.crash.cloud import Cloud
from trilith.cluster.drill.api import Answer
from trilith.cluster.drill.load import AT, COMPUTE, NETWORK, PATHS, VOLUME, prepare

MANY = 16


class Crowd:
    """People who press the button at the same moment."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.things = cloud, prepare(cloud.api, cloud.sign_in("demo"))

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        answer = self.cloud.api.call(method, path, self.things.token, body, AT)
        assert answer.status < 500, f"{method} {path}: {answer.status} {answer.content!r}"
        return answer

    def at_once(self, asks: list[Callable[[], Answer]]) -> Counter[int]:
        """How often each status came."""
        gate = threading.Barrier(len(asks))

        def press(what: Callable[[], Answer]) -> int:
            gate.wait(10)
            return what().status

        with ThreadPoolExecutor(len(asks)) as pool:
            return Counter(pool.map(press, asks))

    def make(self, kind: str, **content: Any) -> str:
        answer = self.ask("POST", PATHS[kind], {kind: {"name": f"{kind}-{uuid.uuid4()}", **content}})
        assert answer.status in (200, 201, 202), answer.content
        return str(answer.json[kind]["id"])

    def server(self) -> Callable[[], Answer]:
        flavor, image = self.things.flavor, self.things.image
        body = {"server": {"name": "s", "flavorRef": flavor, "imageRef": image, "networks": "none"}}
        return lambda: self.ask("POST", PATHS["server"], body)

    def wait(self, kind: str, key: str, *statuses: str | None) -> None:
        deadline = time.monotonic() + 20
        while True:
            answer = self.ask("GET", f"{PATHS[kind]}/{key}")
            status = None if answer.status == 404 else answer.json[kind]["status"]
            if status in statuses:
                return
            assert time.monotonic() < deadline, f"{kind} {key} is {status}, not {statuses}"
            time.sleep(0.05)

    def clear(self) -> None:
        """Everything of the project goes."""
        for kind in ("server", "volume", "port"):
            keys = [row["id"] for row in self.ask("GET", PATHS[kind]).json[f"{kind}s"]]
            for key in keys:
                if kind == "volume":
                    self.wait(kind, key, "available", None)
                self.ask("DELETE", f"{PATHS[kind]}/{key}")
            for key in keys:
                self.wait(kind, key, None)


@pytest.fixture(scope="module")
def whole_crowd() -> Iterator[Crowd]:
    directory = Path(tempfile.mkdtemp(prefix="trilith-", dir="/var/tmp"))
    cloud = Cloud(directory)
    try:
        cloud.up()
        yield Crowd(cloud)
    finally:
        cloud.down()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def crowd(whole_crowd: Crowd) -> Iterator[Crowd]:
    yield whole_crowd
    whole_crowd.clear()


def test_one_name(crowd: Crowd) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMvQ0tSPxqF2jxOnzdUEJmNV3nM7sKDgNSdHLLsbuaCu me@here"
    body = {"keypair": {"name": "k", "public_key": key}}
    found = crowd.at_once([partial(crowd.ask, "POST", f"{COMPUTE}/os-keypairs", body)] * MANY)
    assert found == {200: 1, 409: MANY - 1} or found == {201: 1, 409: MANY - 1}


@pytest.mark.parametrize(("kind", "refused"), [("volume", 413), ("server", 403)])
def test_a_quota_of_ten(crowd: Crowd, kind: str, refused: int) -> None:
    body = {"volume": {"name": "v", "size": 1}}
    ask = crowd.server() if kind == "server" else partial(crowd.ask, "POST", PATHS["volume"], body)
    assert crowd.at_once([ask] * MANY) == {202: 10, refused: MANY - 10}
    assert len(crowd.ask("GET", PATHS[kind]).json[f"{kind}s"]) == 10


def test_one_volume_for_many_servers(crowd: Crowd) -> None:
    volume = crowd.make("volume", size=1)
    servers = [crowd.server()().json["server"]["id"] for _ in range(6)]
    for server in servers:
        crowd.wait("server", server, "ACTIVE")
    crowd.wait("volume", volume, "available")
    body = {"volumeAttachment": {"volumeId": volume}}

    def attach(server: str) -> Callable[[], Answer]:
        return partial(crowd.ask, "POST", f"{COMPUTE}/servers/{server}/os-volume_attachments", body)

    found = crowd.at_once([attach(server) for server in servers])
    assert found[200] == 1
    assert found[400] + found[409] == 5
    crowd.wait("volume", volume, "in-use")
    shown = crowd.ask("GET", f"{VOLUME}/volumes/{volume}").json["volume"]["attachments"]
    assert len(shown) == 1


def test_one_address(crowd: Crowd) -> None:
    network = crowd.things.network
    body = {"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.7.3.3"}]}}
    found = crowd.at_once([partial(crowd.ask, "POST", PATHS["port"], body)] * MANY)
    assert found == {201: 1, 409: MANY - 1}


def test_many_addresses(crowd: Crowd) -> None:
    body = {"port": {"network_id": crowd.things.network}}
    assert crowd.at_once([partial(crowd.ask, "POST", PATHS["port"], body)] * MANY) == {201: MANY}
    ports = crowd.ask("GET", PATHS["port"]).json["ports"]
    addresses = [ip["ip_address"] for port in ports for ip in port["fixed_ips"]]
    assert len(addresses) == len(set(addresses)) >= MANY
    assert len({port["mac_address"] for port in ports}) == len(ports)


def test_all_delete_the_same(crowd: Crowd) -> None:
    server, volume = crowd.server()().json["server"]["id"], crowd.make("volume", size=1)
    crowd.wait("server", server, "ACTIVE")
    crowd.wait("volume", volume, "available")
    for kind, key in (("server", server), ("volume", volume)):
        path = f"{PATHS[kind]}/{key}"
        found = crowd.at_once([partial(crowd.ask, "DELETE", path)] * MANY)
        assert found[202] + found[204] >= 1
        assert set(found) <= {202, 204, 400, 404, 409}
        crowd.wait(kind, key, None)


def test_a_network_goes_while_ports_come(crowd: Crowd) -> None:
    """The network goes and none of them came, or it stays: there is no port of a network that is gone."""
    for _ in range(3):
        network = crowd.make("network")
        ports = [partial(crowd.ask, "POST", PATHS["port"], {"port": {"network_id": network}})] * 7
        found = crowd.at_once([*ports, partial(crowd.ask, "DELETE", f"{PATHS['network']}/{network}")])
        there = crowd.ask("GET", f"{PATHS['network']}/{network}").status == 200
        left = crowd.ask("GET", f"{NETWORK}/ports?network_id={network}").json["ports"]
        assert len(left) == found[201]
        assert there or not left
        for port in left:
            crowd.ask("DELETE", f"{PATHS['port']}/{port['id']}")
        crowd.ask("DELETE", f"{PATHS['network']}/{network}")


def test_contradicting_acts(crowd: Crowd) -> None:
    """Stop, start, reboot, grow, rename, delete: any order may win, and in the end it is gone."""
    server = crowd.server()().json["server"]["id"]
    crowd.wait("server", server, "ACTIVE")
    path = f"{PATHS['server']}/{server}"
    verbs: list[dict[str, Any]] = [{"os-stop": None}, {"os-start": None}, {"reboot": {"type": "HARD"}}, {"pause": None}]
    verbs += [{"unpause": None}, {"lock": None}, {"unlock": None}]
    asks = [partial(crowd.ask, "POST", f"{path}/action", body) for body in verbs]
    found = crowd.at_once([*asks, partial(crowd.ask, "PUT", path, {"server": {"name": "renamed"}})])
    assert set(found) <= {200, 202, 409}
    found = crowd.at_once([*asks, partial(crowd.ask, "DELETE", path)])
    assert set(found) <= {202, 204, 404, 409}
    crowd.ask("POST", f"{path}/action", {"unlock": None})
    crowd.ask("DELETE", path)
    crowd.wait("server", server, None)
