"""Trilith on this machine, over SQLite or a MariaDB server of its own; machines are pretended, as upstream's are."""

import shutil
import time
import uuid
from pathlib import Path

from tests.bench import region as regions
from tests.bench.api import Api
from tests.bench.mariadb import MariaDb
from tests.bench.meter import leaders_of
from tests.bench.sessions import Sessions
from tests.clients.cloud import Cloud
from trilith.cluster import services  # noqa: F401 - declares everything
from trilith.cluster.state import State
from trilith.kernel.mariadb import COLLATION
from trilith.kernel.store import Store
from trilith.placement.hosts import register

CLUSTER = """name: bench
hosts:
  - {name: compute1, address: 127.0.0.1, roles: [control, network, compute, storage, logging]}
overcommit: {vcpus: 100, ram: 10, disk: 10}
"""


class Trilith:
    """`first_port` and the two after it are the cloud's; the fourth is its MariaDB's."""

    def __init__(self, directory: Path, first_port: int, workers: int, on_mariadb: bool) -> None:
        self.is_cloud = True
        self.name = "trilith-mariadb" if on_mariadb else "trilith-sqlite"
        self.directory, self.first_port, self.workers = directory, first_port, workers
        self.sessions = Sessions(directory / "log")
        self.database = MariaDb(self.sessions, directory / "mariadb", first_port + 3) if on_mariadb else None
        self.schema_s = self.start_s = 0.0

    def make(self) -> None:
        """There is nothing to make: the schema is made when the cloud first starts, and `start_s` holds it."""
        if self.database is not None:
            self.database.start()
            self.database.make("trilith", COLLATION)
        cluster = self.directory / "cluster.yaml"
        cluster.write_text(CLUSTER)
        url = self.database.url("trilith") if self.database else ""
        self.cloud = Cloud(self.first_port, fake=True, database=url, workers=self.workers)
        self.cloud.words += ["--cluster", str(cluster)]
        self.state = State(self.cloud.state / "cloud")

    def start(self) -> None:
        begun = time.monotonic()
        self.cloud.up()
        self.start_s = time.monotonic() - begun
        auth = self.cloud.clouds()[self.cloud.names["admin"]]["auth"]
        self.api = Api(f"{self.cloud.url}/identity/v3", auth["username"], auth["password"], auth["project_name"])
        self.api.sign_in()
        own = self.api.project_id
        unlimited = {"quota_set": dict.fromkeys(("instances", "cores", "ram"), -1)}
        self.api.call("compute", "PUT", f"/os-quota-sets/{own}", unlimited)
        self.api.call("network", "PUT", f"/quotas/{own}", {"quota": {"port": -1, "network": -1, "subnet": -1}})

    def leaders(self) -> dict[str, int]:
        return leaders_of(self.state)() | self.sessions.leaders()

    def data_directories(self) -> list[Path]:
        return [self.state.root, *([self.database.directory] if self.database else [])]

    def stop(self) -> None:
        if hasattr(self, "cloud"):
            self.cloud.down()
        self.sessions.stop_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def copy_servers(self, server_id: str, count: int) -> None:
        """Rows as if so many servers more had been made, each with its port, on a host of their own."""
        store = Store(self.state.database_url(self.state.settings()))
        store.run(lambda tx: register(tx, regions.name_of(0), str(uuid.uuid4()), ["compute"], "nova"))
        regions.copy_servers(store, server_id, count, hosts=1)
        store.close()
