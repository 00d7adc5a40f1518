"""What a drill needs in the cloud before it begins: a project of its own without quotas, a network, machines to ping.

Everything has the drill's name and goes again with `clear`.
"""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from trilith.cluster.drill import guest
from trilith.cluster.drill.api import Answer, Api
from trilith.cluster.drill.load import COMPUTE, NETWORK, PATHS, VOLUME, Broken, Promises, Things, User, prepare
from trilith.cluster.drill.meter import Target
from trilith.cluster.drill.objects import Place, place_in
from trilith.cluster.drill.site import Site
from trilith.cluster.drill.streams import ECHO_PORT

Doc = dict[str, Any]
IDENTITY = "/identity/v3"
PINGED = 2  # machines
QUOTAS = {
    f"{COMPUTE}/os-quota-sets": {"quota_set": dict.fromkeys(("instances", "cores", "ram", "key_pairs"), -1)},
    f"{VOLUME}/os-quota-sets": {"quota_set": dict.fromkeys(("volumes", "gigabytes", "snapshots"), -1)},
    f"{NETWORK}/quotas": {"quota": dict.fromkeys(("port", "network", "subnet", "router", "floatingip"), -1)},
}


class Stage:
    """`things`: what servers are made of; `addresses`: of machines that answer pings; `router`, `gateway_port`: what
    their traffic goes through, or ""."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.api = Api(site.url, site.ca)
        self.name = f"drill-{secrets.token_hex(3)}"
        self.password = secrets.token_urlsafe(12)
        self.addresses: list[str] = []
        self.router = self.gateway_port = ""
        self._admin = self.api.sign_in("admin", site.password("admin"), "admin")
        self._floating: dict[str, str] = {}  # address -> id
        self._pinged = Promises()
        self._people()
        self.things: Things = prepare(self.api, self.api.sign_in(self.name, self.password, self.name))
        self._images = Promises()
        uploading = User(0, self.api, self._images, threading.Event(), self.things)
        if not site.fake and (own := guest.upload(uploading)) is not None:
            self.things = replace(self.things, image=own)
        self.subnet = self._ask("GET", f"{NETWORK}/subnets?network_id={self.things.network}")["subnets"][0]["id"]

    def target(self, rate: float, *more: str, streams: bool = False) -> Target:
        """`rate`: requests a second. `more`: addresses that are pinged too; with `streams`, those machines answer on a
        TCP connection too."""
        ca = None if self.site.ca is None else str(self.site.ca)
        url, image = self.site.url, self.things.image
        addresses = [*self.addresses, *more]
        return Target(
            url, ca, self.name, self.password, self.name, image, rate, addresses, list(more) if streams else []
        )

    def user(self, number: int, promises: Promises, ended: threading.Event, rest_s: float = 0.0) -> User:
        return User(number, self.api, promises, ended, self.things, rest_s=rest_s)

    def object_place(self) -> Place | None:
        """Where the users' objects are; None where the catalogue offers no object store."""
        answer = self._patient("GET", f"{IDENTITY}/auth/catalog", None, self.things.token)
        if answer.status != 200:
            raise Broken(f"reading the catalogue: {answer.status} {answer.content[:200]!r}")
        return place_in(answer.json["catalog"], self.api)

    @property
    def standing(self) -> set[str]:
        """Servers and images that stand from the first drill to the last."""
        return {*self.servers, *self._images.made}

    @property
    def servers(self) -> list[str]:
        """Those that only answer pings."""
        return [key for key, kind in self._pinged.made.items() if kind == "server"]

    def make_machines(self) -> None:
        """Machines with floating addresses that answer pings. Raises `Broken` when they do not come."""
        self._public = self._ask("GET", f"{NETWORK}/networks?router:external=true")["networks"][0]["id"]
        gateway = {"external_gateway_info": {"network_id": self._public}}
        self.router = self._ask("POST", f"{NETWORK}/routers", {"router": {"name": self.name, **gateway}})["router"][
            "id"
        ]
        self._ask("PUT", f"{NETWORK}/routers/{self.router}/add_router_interface", {"subnet_id": self.subnet})
        owner = "network:router_gateway"
        listed = self._ask("GET", f"{NETWORK}/ports?device_id={self.router}&device_owner={owner}")
        self.gateway_port = listed["ports"][0]["id"]
        group = self._ask("GET", f"{NETWORK}/security-groups?name=default&project_id={self.project}")
        rule: Doc = {"direction": "ingress", "security_group_id": group["security_groups"][0]["id"]}
        echo = {"protocol": "tcp", "port_range_min": ECHO_PORT, "port_range_max": ECHO_PORT}
        for more in ({"protocol": "icmp"}, echo):
            self._ask("POST", f"{NETWORK}/security-group-rules", {"security_group_rule": rule | more})
        user = self.user(0, self._pinged, threading.Event())
        nics = [{"uuid": self.things.network}]
        body = {"flavorRef": self.things.flavor, "imageRef": self.things.image, "networks": nics}
        for server in [user.create("server", body) for _ in range(PINGED)]:
            user.wait("server", server, "ACTIVE")
            self.addresses.append(self.give_address(server))

    def give_address(self, server: str) -> str:
        """A floating one; it goes with `clear`, or by `take_address`."""
        port = self._ask("GET", f"{NETWORK}/ports?device_id={server}")["ports"][0]["id"]
        floating = {"floating_network_id": self._public, "port_id": port}
        made = self._ask("POST", f"{NETWORK}/floatingips", {"floatingip": floating})["floatingip"]
        self._floating[made["floating_ip_address"]] = made["id"]
        return str(made["floating_ip_address"])

    def take_address(self, address: str) -> None:
        self._remove(f"{NETWORK}/floatingips/{self._floating.pop(address)}")

    @contextmanager
    def only(self, host: str | None) -> Iterator[None]:
        """Meanwhile new servers come to that compute host alone; None: to any."""
        found = self._ask("GET", f"{COMPUTE}/os-services?binary=nova-compute")["services"]
        others = [row["id"] for row in found if host is not None and row["host"] != host and row["status"] == "enabled"]
        try:
            for key in others:
                self._ask("PUT", f"{COMPUTE}/os-services/{key}", {"status": "disabled"})
            yield
        finally:
            for key in others:
                self._ask("PUT", f"{COMPUTE}/os-services/{key}", {"status": "enabled"})

    def live_migrate(self, server: str) -> str:
        """Asks for it; "" or the refusal."""
        body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
        answer = self._patient("POST", f"{COMPUTE}/servers/{server}/action", body, self._admin)
        return "" if answer.status == 202 else f"{answer.status} {answer.content[:200]!r}"

    def last_move(self, server: str) -> Doc | None:
        """The newest migration of a server: ``id status source_compute dest_compute``, among others."""
        found: list[Doc] = self._ask("GET", f"{COMPUTE}/os-migrations?instance_uuid={server}")["migrations"]
        return max(found, key=lambda row: row["id"], default=None)

    def host_of(self, server: str) -> str:
        return str(self._server(server)["OS-EXT-SRV-ATTR:host"])

    def is_idle(self, server: str) -> bool:
        row = self._server(server)
        return row["status"] == "ACTIVE" and row["OS-EXT-STS:task_state"] is None

    def clear(self) -> None:
        """Everything goes; what is gone already is fine."""
        for key in self._floating.values():
            self._remove(f"{NETWORK}/floatingips/{key}")
        for server in self.servers:
            self._remove(f"{COMPUTE}/servers/{server}")
            self._until_gone(f"{COMPUTE}/servers/{server}")
        if self.router:
            path = f"{NETWORK}/routers/{self.router}"
            self.api.call("PUT", f"{path}/remove_router_interface", self._admin, {"subnet_id": self.subnet})
            self._remove(path)
        for port in self._ask("GET", f"{NETWORK}/ports?network_id={self.things.network}")["ports"]:
            if not port["device_owner"]:
                self._remove(f"{NETWORK}/ports/{port['id']}")
        self._remove(f"{NETWORK}/networks/{self.things.network}")
        for image in self._images.made:
            self._remove(f"{PATHS['image']}/{image}")
        self._remove(f"{IDENTITY}/users/{self._user}")
        self._remove(f"{IDENTITY}/projects/{self.project}")

    def keypairs(self) -> set[str]:
        """Names of those that there are."""
        answer = self._patient("GET", f"{COMPUTE}/os-keypairs", None, self.things.token)
        return {row["keypair"]["name"] for row in answer.json["keypairs"]}

    def remove_keypair(self, name: str) -> None:
        self._patient("DELETE", f"{COMPUTE}/os-keypairs/{name}", None, self.things.token)

    def remove_leftovers(self) -> None:
        """Volumes of the measuring client whose deletion failed in the outage: it promised nothing about them."""
        found = self._patient("GET", f"{VOLUME}/volumes", None, self.things.token).json["volumes"]
        for volume in found:
            if volume["name"].startswith("drill-"):
                self._patient("DELETE", f"{VOLUME}/volumes/{volume['id']}", None, self.things.token)

    def _server(self, server: str) -> Doc:
        found: Doc = self._ask("GET", f"{COMPUTE}/servers/{server}")["server"]
        return found

    def _people(self) -> None:
        new = {"name": self.name, "domain_id": "default"}
        self.project = self._ask("POST", f"{IDENTITY}/projects", {"project": new})["project"]["id"]
        body = {"user": {**new, "password": self.password}}
        self._user = self._ask("POST", f"{IDENTITY}/users", body)["user"]["id"]
        role = self._ask("GET", f"{IDENTITY}/roles?name=member")["roles"][0]["id"]
        self._ask("PUT", f"{IDENTITY}/projects/{self.project}/users/{self._user}/roles/{role}")
        for path, quotas in QUOTAS.items():
            self._ask("PUT", f"{path}/{self.project}", quotas)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._patient(method, path, body, self._admin)
        if answer.status >= 300:
            raise Broken(f"{method} {path}: {answer.status} {answer.content[:200]!r}")
        return answer.json if answer.content else None

    def _patient(self, method: str, path: str, body: Any, token: str) -> Answer:
        """Some tries: a cloud that has just been broken may need a moment."""
        for pause_s in (0.5, 1.0, 2.0, 4.0):
            answer = self.api.call(method, path, token, body, "compute 2.90,volume 3.70", timeout_s=30)
            if answer.status < 500:
                return answer
            time.sleep(pause_s)
        return answer

    def _remove(self, path: str) -> None:
        self._patient("DELETE", path, None, self._admin)

    def _until_gone(self, path: str) -> None:
        deadline = time.monotonic() + 60
        while self._patient("GET", path, None, self._admin).status != 404:
            if time.monotonic() > deadline:
                raise Broken(f"{path} does not go")
            time.sleep(0.3)
