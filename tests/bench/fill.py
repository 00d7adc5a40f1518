"""The same things in every cloud, made through its API: what the cases list, show and add to."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.bench.api import Api

IMAGES, PROJECTS, NETWORKS = 25, 50, 10
NETWORK, FLAVOR = "bench", "bench"
ACTIVE_S = 600.0
BULK = 50
Doc = dict[str, Any]


class Started(Protocol):
    """One of those that are compared. `make` once, then `start`; `stop` leaves nothing. `api`: its administrator's.
    `is_cloud`: else it only answers what cases ask that are meant for it."""

    name: str
    is_cloud: bool
    api: Api
    schema_s: float
    start_s: float

    def make(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def leaders(self) -> dict[str, int]: ...


class Side(Started, Protocol):
    """A whole cloud."""

    def copy_servers(self, server_id: str, count: int) -> None: ...


@dataclass
class Filled:
    """What later requests name. `member`: who asks, where no administrator is needed, in the project that has all
    of this; `users`: (name, password) of others, each of whom signs in once."""

    image_id: str
    flavor_id: str
    network_id: str
    server_id: str
    member: Api
    users: list[tuple[str, str]] = field(default_factory=list)

    def server_body(self, name: str) -> Doc:
        return {
            "server": {
                "name": name,
                "imageRef": self.image_id,
                "flavorRef": self.flavor_id,
                "networks": [{"uuid": self.network_id}],
            }
        }


def fill(side: Side, ports: int, servers: int, users: int) -> Filled:
    api = side.api
    images = [_image(api, number) for number in range(IMAGES)]
    for number in range(PROJECTS):
        api.call("identity", "POST", "/projects", {"project": {"name": f"bench-{number}", "domain_id": "default"}})
    flavor = {"name": FLAVOR, "ram": 64, "vcpus": 1, "disk": 1}
    flavor_id = api.call("compute", "POST", "/flavors", {"flavor": flavor})["flavor"]["id"]
    for number in range(NETWORKS - 2):
        api.call("network", "POST", "/networks", {"network": {"name": f"other-{number}"}})
    network_id = _network(api, NETWORK, "10.64.0.0/16")
    for begin in range(0, ports, BULK):
        some = [{"network_id": network_id, "name": f"p-{n}"} for n in range(begin, min(begin + BULK, ports))]
        api.call("network", "POST", "/ports", {"ports": some})
    member = Api(api.auth_url, *_user(api, "bench"), api.project)
    member.sign_in()
    filled = Filled(images[0], flavor_id, network_id, "", member)
    filled.server_id = _server(api, filled.server_body("first"))
    copied = filled.server_body("copied")
    copied["server"]["networks"] = [{"uuid": _network(api, "copies", "10.16.0.0/12")}]
    side.copy_servers(_server(api, copied), servers - 2)
    filled.users = [_user(api, f"bench-{number}") for number in range(users)]
    return filled


def _server(api: Api, body: Doc) -> str:
    made = str(api.call("compute", "POST", "/servers", body)["server"]["id"])
    api.until("compute", f"/servers/{made}", lambda found: found["server"]["status"] == "ACTIVE", ACTIVE_S)
    return made


def _image(api: Api, number: int) -> str:
    new = {"name": f"bench-{number}", "disk_format": "raw", "container_format": "bare", "visibility": "public"}
    made = str(api.call("image", "POST", "/images", new)["id"])
    headers = api.headers("image") | {"Content-Type": "application/octet-stream"}
    api.exchange("PUT", f"{api.endpoints['image']}/images/{made}/file", b"x" * 1024, headers)
    return made


def _network(api: Api, name: str, cidr: str) -> str:
    made = str(api.call("network", "POST", "/networks", {"network": {"name": name}})["network"]["id"])
    subnet = {"network_id": made, "cidr": cidr, "ip_version": 4}
    api.call("network", "POST", "/subnets", {"subnet": subnet})
    return made


def _user(api: Api, name: str) -> tuple[str, str]:
    """A member of the project; (name, password)."""
    password = f"secret-{name}"
    new = {"name": name, "password": password, "domain_id": "default"}
    user_id = api.call("identity", "POST", "/users", {"user": new})["user"]["id"]
    role = api.call("identity", "GET", "/roles?name=member")["roles"][0]["id"]
    api.call("identity", "PUT", f"/projects/{api.project_id}/users/{user_id}/roles/{role}")
    return name, password
