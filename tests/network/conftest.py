"""An API over a fresh database with the network service's tables, and short ways to make things."""

from pathlib import Path
from typing import Any

import pytest

import trilith.network.topology  # noqa: F401 - every noun of the service
from tests.client import ADMIN, MEMBER, Answer, Client, client

BASE = "/networking/v2.0"


class Networking:
    """``net.make("port", network_id=...)`` answers the made thing; paths are below the service's prefix."""

    def __init__(self, api: Client) -> None:
        self.api = api

    def get(self, path: str, who: str = MEMBER, **more: Any) -> Answer:
        return self.api.get(BASE + path, who, **more)

    def post(self, path: str, body: Any, who: str = MEMBER, **more: Any) -> Answer:
        return self.api.post(BASE + path, body, who, **more)

    def put(self, path: str, body: Any = None, who: str = MEMBER, **more: Any) -> Answer:
        return self.api.put(BASE + path, body, who, **more)

    def delete(self, path: str, who: str = MEMBER) -> Answer:
        return self.api.delete(BASE + path, who)

    def path(self, name: str) -> str:
        return "/" + (name[:-1] + "ies" if name.endswith("y") else name + "s").replace("_", "-")

    def make(self, name: str, /, who: str = MEMBER, **fields: Any) -> dict[str, Any]:
        answer = self.post(self.path(name), {name: fields}, who)
        assert answer.status == 201, answer.content
        made: dict[str, Any] = answer.json[name]
        return made

    def refused(self, name: str, /, who: str = MEMBER, **fields: Any) -> tuple[int, str]:
        """The code and the type of the error that making it ends with."""
        return error(self.post(self.path(name), {name: fields}, who))

    def show(self, name: str, key: str, who: str = MEMBER) -> dict[str, Any]:
        answer = self.get(f"{self.path(name)}/{key}", who)
        assert answer.status == 200, answer.content
        shown: dict[str, Any] = answer.json[name]
        return shown

    def ids(self, path: str, who: str = MEMBER) -> set[str]:
        answer = self.get(path, who)
        assert answer.status == 200, answer.content
        (rows,) = (value for key, value in answer.json.items() if not key.endswith("_links"))
        return {row["id"] for row in rows}

    def network(self, cidr: str = "10.0.0.0/24", who: str = MEMBER, **subnet: Any) -> tuple[str, str]:
        """A network with a subnet; their ids."""
        network = self.make("network", who)["id"]
        version = 6 if ":" in cidr else 4
        return network, self.make("subnet", who, network_id=network, cidr=cidr, ip_version=version, **subnet)["id"]

    def outside(self, cidr: str = "172.24.4.0/24") -> str:
        """An external network with a subnet."""
        wanted = {"router:external": True, "provider:network_type": "flat", "provider:physical_network": "public"}
        network = self.make("network", ADMIN, **wanted)
        self.make("subnet", ADMIN, network_id=network["id"], cidr=cidr, ip_version=4, enable_dhcp=False)
        return str(network["id"])

    def reach(self, subnet_id: str, outside: str) -> str:
        """A router between a subnet and an external network."""
        router = self.make("router", external_gateway_info={"network_id": outside})
        assert self.put(f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet_id}).status == 200
        return str(router["id"])


def error(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["NeutronError"]["type"]


@pytest.fixture
def net(tmp_path: Path) -> Networking:
    return Networking(client(tmp_path))
