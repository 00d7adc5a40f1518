"""Rows for measurements inside one process: a cloud of any size, its servers copied from one that was really made.

Everything is the program's own: schema, tokens, application, and the first server, its port and addresses, which the
API makes and a host's report makes ACTIVE. Copies differ in what has to differ.
"""

import itertools
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.client import Client
from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.cluster.schema import migrate
from trilith.compute.flavors import FLAVOR
from trilith.compute.scheduler import recount
from trilith.compute.server_wants import report
from trilith.compute.servers import SERVER
from trilith.identity import passwords, tokens
from trilith.identity.fernet import make_keys
from trilith.identity.projects import PROJECT
from trilith.identity.seed import fixed_id, seed
from trilith.image.images import IMAGE
from trilith.kernel.declare import Noun
from trilith.kernel.http import App
from trilith.kernel.store import Store, Tx
from trilith.network.allocations import ALLOCATION
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT
from trilith.placement.hosts import HOST, register
from trilith.volume import types

Row = dict[str, Any]
COMPUTE, NETWORKING = "/compute/v2.1", "/networking/v2.0"
AT = "compute 2.79"
INVENTORY = {"vcpus": 64, "ram_mib": 262144, "disk_gib": 4000, "overcommit": {"vcpus": 16.0}}
PASSWORD = "a-bench-password"
BATCH = 2_000


@dataclass
class Region:
    """A cloud inside this process. `admin` and `member` are tokens; the member's project owns the servers."""

    store: Store
    client: Client
    admin: str
    member: str
    project_id: str
    network_id: str
    image_id: str
    server_id: str

    def server_body(self, name: str = "bench") -> Row:
        wanted = {"name": name, "imageRef": self.image_id, "flavorRef": "1", "networks": [{"uuid": self.network_id}]}
        return {"server": wanted}


def make(url: str, hosts: int = 10, settings: Row | None = None) -> Region:
    """A new cloud with so many hosts and one ACTIVE server."""
    passwords.set_rounds(4)
    tokens.use_keys("bench-cluster-key")
    store = Store(url)
    migrate.prepare(store, "bench", "h00001")
    migrate.contract(store, ["h00001"])
    store.run(lambda tx: _first_rows(tx, hosts))
    client = Client(App(store, tokens.authenticate, settings or {}))
    admin, member = _token(client, "admin"), _token(client, "demo")
    network = client.post(f"{NETWORKING}/networks", {"network": {"name": "bench"}}, member).json["network"]["id"]
    subnet = {"network_id": network, "cidr": "10.16.0.0/12", "ip_version": 4}
    client.post(f"{NETWORKING}/subnets", {"subnet": subnet}, member)
    project_id = fixed_id("project:demo")
    _unlimited(client, admin, project_id)
    image_id = store.read(lambda tx: str(tx.rows(IMAGE)[0]["id"]))
    region = Region(store, client, admin, member, project_id, network, image_id, "")
    region.server_id = client.post(f"{COMPUTE}/servers", region.server_body(), member, at=AT).json["server"]["id"]
    store.run(lambda tx: activate(tx, region.server_id))
    return region


def _token(client: Client, name: str) -> str:
    user = {"name": name, "domain": {"id": "default"}, "password": PASSWORD}
    scope = {"project": {"name": name, "domain": {"id": "default"}}}
    body = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    return str(client.post("/identity/v3/auth/tokens", {"auth": body}, None).headers["x-subject-token"])


def _unlimited(client: Client, admin: str, project_id: str) -> None:
    quotas = {"quota_set": dict.fromkeys(("instances", "cores", "ram"), -1)}
    client.put(f"{COMPUTE}/os-quota-sets/{project_id}", quotas, admin)
    client.put(f"{NETWORKING}/quotas/{project_id}", {"quota": {"port": -1, "network": -1}}, admin)


def _first_rows(tx: Tx, hosts: int) -> None:
    make_keys(tx, "bench-cluster-key")
    seed(tx, admin_password=PASSWORD, demo_password=PASSWORD)
    types.seed(tx, str(uuid.uuid4()))
    size = {"vcpus": 1, "ram_mib": 128, "disk_gib": 1, "swap_mib": 0, "ephemeral_gib": 0}
    tx.insert(FLAVOR, {"id": "1", "name": "m1.nano", "is_public": True, "extra_specs": {}, **size})
    image: Row = {"id": str(uuid.uuid4()), "name": "guest", "project_id": fixed_id("project:admin")}
    image |= {"visibility": "public", "phase": "active", "disk_format": "qcow2", "container_format": "bare"}
    image |= {"size_bytes": 1 << 24, "checksum": "0" * 32, "os_hash_algo": "sha512", "os_hash_value": "0" * 128}
    tx.insert(IMAGE, image | {"tags": [], "extra": {"os_distro": "debian"}})
    register(tx, name_of(0), str(uuid.uuid4()), ["control", "compute", "storage"], "nova")
    first = tx.get(HOST, name_of(0))
    first = tx.update(HOST, first, inventory=INVENTORY, seen_at_s=tx.now_s(), boot_id="b", epoch=1)
    more = ({"id": str(uuid.uuid4()), "name": name_of(n), "number": n + 1} for n in range(1, hosts))
    _copies(tx, HOST, first, more)
    for host in tx.rows(HOST):
        recount(tx, host)


def count(region: Region) -> None:
    """The sums of every host anew: copies are made behind the back of what keeps them."""
    for host in region.store.read(lambda tx: tx.rows(HOST)):
        region.store.run(lambda tx, host=host: recount(tx, host))  # type: ignore[misc]


def name_of(host: int) -> str:
    return f"h{host + 1:05d}"


def beat(store: Store) -> None:
    """Every host was heard of now."""
    store.run(lambda tx: tx.execute(HOST.table.update().values(seen_at_s=time.time())))


def activate(tx: Tx, server_id: str) -> None:
    """As its host reports that it runs."""
    row = tx.get(SERVER, server_id)
    seen = {"power": "running", "volumes": [], **{name: row[name] for name in ("vcpus", "ram_mib")}}
    seen |= {name: row[name] for name in ("boot_epoch", "soft_reboot_epoch", "root_epoch")}
    report(tx, row["host"], server_id, row["wanted"], seen, None)


def add_servers(region: Region, amount: int, hosts: int) -> None:
    """Copies of the first server over so many hosts, each with a port and an address."""
    copy_servers(region.store, region.server_id, amount, hosts)


def copy_servers(store: Store, server_id: str, amount: int, hosts: int) -> None:
    """The same of any server in any cloud; its subnet has to be 10.16.0.0/12."""
    server, port = store.read(lambda tx: (tx.get(SERVER, server_id), tx.rows(PORT)))
    first = next(row for row in port if row["machine_id"] == server_id)
    for start in range(0, amount, BATCH):
        numbers = range(start, min(start + BATCH, amount))
        store.run(lambda tx, numbers=numbers: _add_servers(tx, server, first, numbers, hosts))  # type: ignore[misc]


def _add_servers(tx: Tx, server: Row, port: Row, numbers: range, hosts: int) -> None:
    servers, ports, addresses = [], [], []
    subnet_id = port["fixed_ips"][0]["subnet_id"]
    for n in numbers:
        server_id, port_id, host = str(uuid.uuid4()), str(uuid.uuid4()), name_of(n % hosts)
        address = f"10.{16 + n // 65000}.{1 + n % 65000 // 250}.{1 + n % 250}"
        created = f"2026-01-{1 + n % 28:02d}T{n % 24:02d}:00:00.{n % 1_000_000:06d}"
        more: Row = {"id": server_id, "name": f"copy-{n}", "number": n + 2, "host": host, "created_at": created}
        servers.append(more | {"nics": [server["nics"][0] | {"port_id": port_id}]})
        place: Row = {"device_id": server_id, "machine_id": server_id, "binding_host": host}
        mac = f"fa:{n >> 24 & 255:02x}:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}:01"
        fixed = [{"subnet_id": subnet_id, "ip_address": address}]
        ports.append({"id": port_id, "mac_address": mac, "fixed_ips": fixed, "dns_name": f"copy-{n}", **place})
        addresses.append(fixed[0] | {"port_id": port_id, "network_id": port["network_id"]})
    _copies(tx, SERVER, server, servers)
    _copies(tx, PORT, port, ports)
    tx.connection.execute(ALLOCATION.insert(), addresses)


def add_networks(region: Region, amount: int) -> None:
    """Copies of the first network, without subnets."""
    first = region.store.read(lambda tx: tx.get(NETWORK, region.network_id))
    more = (
        {"id": str(uuid.uuid4()), "name": f"net-{n}", "segmentation_id": 1000 + n, "segment_key": f"geneve:{1000 + n}"}
        for n in range(amount)
    )
    region.store.run(lambda tx: _copies(tx, NETWORK, first, more))


def add_projects(region: Region, amount: int) -> None:
    first = region.store.read(lambda tx: tx.get(PROJECT, region.project_id))
    more = ({"id": uuid.uuid4().hex, "name": f"project-{n}"} for n in range(amount))
    region.store.run(lambda tx: _copies(tx, PROJECT, first, more))


def add_images(region: Region, amount: int) -> None:
    first = region.store.read(lambda tx: tx.get(IMAGE, region.image_id))
    more = ({"id": str(uuid.uuid4()), "name": f"image-{n}"} for n in range(amount))
    region.store.run(lambda tx: _copies(tx, IMAGE, first, more))


def _copies(tx: Tx, noun: Noun, first: Row, changes: Iterable[Row]) -> None:
    changes = iter(changes)
    while batch := [first | more for more in itertools.islice(changes, BATCH)]:
        tx.connection.execute(noun.table.insert(), batch)


def sqlite_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'cloud.db'}"
