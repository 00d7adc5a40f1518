"""What the demo project needs for a server, made through the API; and a kept connection to it."""

import http.client
import json
import subprocess
import time
from typing import Any

from tests.clients.cloud import SSH, Cloud

Doc = dict[str, Any]
POLL_S = 0.05
GIVE_UP_S = 180


class Project:
    """`call` is one request over a kept connection; an answer of 400 or more ends the run."""

    def __init__(self, cloud: Cloud, who: str = "demo") -> None:
        self.cloud = cloud
        self._connection = http.client.HTTPConnection("127.0.0.1", cloud.port, timeout=60)
        self.token = cloud.token(who)

    def call(self, method: str, path: str, body: Any = None) -> Doc:
        data = None if body is None else json.dumps(body)
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content.decode()}")
        return dict(json.loads(content)) if content else {}

    def network(self, cidr: str = "10.9.0.0/16") -> str:
        network = self.call("POST", "/networking/v2.0/networks", {"network": {"name": "bench"}})["network"]["id"]
        subnet = {"network_id": network, "cidr": cidr, "ip_version": 4}
        self.subnet_id = self.call("POST", "/networking/v2.0/subnets", {"subnet": subnet})["subnet"]["id"]
        return str(network)

    def way_out(self) -> None:
        """A router to the public network, ssh allowed, a key pair."""
        public = self.call("GET", "/networking/v2.0/networks?router:external=true")["networks"][0]["id"]
        self.public_id = public
        wanted = {"name": "bench", "external_gateway_info": {"network_id": public}}
        router = self.call("POST", "/networking/v2.0/routers", {"router": wanted})["router"]["id"]
        path = f"/networking/v2.0/routers/{router}/add_router_interface"
        self.call("PUT", path, {"subnet_id": self.subnet_id})
        group = self.call("GET", "/networking/v2.0/security-groups?name=default")["security_groups"][0]["id"]
        rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
        rule |= {"port_range_min": 22, "port_range_max": 22}
        self.call("POST", "/networking/v2.0/security-group-rules", {"security_group_rule": rule})
        self.key = self.cloud.state / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        pair = {"name": "bench", "public_key": self.key.with_suffix(".pub").read_text()}
        self.call("POST", "/compute/v2.1/os-keypairs", {"keypair": pair})

    def server_body(self, network_id: str, **more: Any) -> Doc:
        image = self.call("GET", "/image/v2/images?name=trilith-guest")["images"]
        if not image:
            raise SystemExit("There is no guest image to start. Build it: make guest")
        flavors = self.call("GET", "/compute/v2.1/flavors")["flavors"]
        flavor = next(each["id"] for each in flavors if each["name"] == "m1.nano")
        wanted = {"name": "bench", "imageRef": image[0]["id"], "flavorRef": flavor, "networks": [{"uuid": network_id}]}
        return {"server": wanted | more}

    def active(self, server_id: str) -> None:
        """Waits for it."""
        give_up = time.monotonic() + GIVE_UP_S
        while True:
            server = self.call("GET", f"/compute/v2.1/servers/{server_id}")["server"]
            if server["status"] == "ACTIVE":
                return
            if server["status"] == "ERROR" or time.monotonic() > give_up:
                raise SystemExit(f"Server {server_id} is {server['status']}: {server.get('fault')}")
            time.sleep(POLL_S)

    def address(self, server_id: str) -> str:
        """A floating address of a server."""
        port = self.call("GET", f"/networking/v2.0/ports?device_id={server_id}")["ports"][0]["id"]
        wanted = {"floating_network_id": self.public_id, "port_id": port}
        made = self.call("POST", "/networking/v2.0/floatingips", {"floatingip": wanted})["floatingip"]
        return str(made["floating_ip_address"])

    def login(self, address: str) -> None:
        """Waits until it lets us in."""
        give_up = time.monotonic() + GIVE_UP_S
        words = ["ssh", "-i", str(self.key), *SSH, "-o", "ConnectTimeout=1", f"root@{address}", "true"]
        while (done := subprocess.run(words, capture_output=True, text=True)).returncode != 0:
            if time.monotonic() > give_up:
                raise SystemExit(f"No login at {address}: {done.stderr}")
            time.sleep(POLL_S)

    def gone(self, server_id: str) -> None:
        """Deletes it and waits for it."""
        self.call("DELETE", f"/compute/v2.1/servers/{server_id}")
        while any(row["id"] == server_id for row in self.call("GET", "/compute/v2.1/servers")["servers"]):
            time.sleep(POLL_S)
