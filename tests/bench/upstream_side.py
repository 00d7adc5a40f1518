"""Upstream on this machine: databases made, 17 programs started, users and endpoints entered, all of it ended again."""

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from tests.bench.api import Api
from tests.bench.mariadb import MariaDb
from tests.bench.sessions import Failed, Sessions
from tests.bench.upstream_config import DATABASES, HOST, MODULES, PASSWORD, REGION, Config, Ports
from tests.bench.upstream_copies import copy_servers

READY_S = 600.0
ENDPOINTS = {  # user and service: type, port's name, path
    "placement": ("placement", "placement", ""),
    "glance": ("image", "glance", ""),
    "nova": ("compute", "nova", "/v2.1"),
    "neutron": ("network", "neutron", ""),
    "cinder": ("block-storage", "cinder", "/v3"),
}
DAEMONS = (
    "neutron-rpc-server", "neutron-periodic-workers", "nova-scheduler", "nova-conductor",
    "cinder-scheduler", "cinder-volume",
)  # fmt: skip


class Upstream:
    """`directory` holds all that it writes; `venv` its programs. Start it once on a new directory."""

    name, is_cloud = "upstream", True

    def __init__(self, directory: Path, venv: Path, first_port: int) -> None:
        self.directory, self.venv, self.ports = directory, venv, Ports(first_port)
        self.sessions = Sessions(directory / "log")
        self.database = MariaDb(self.sessions, directory / "mariadb", self.ports.mariadb)
        self.config = Config(directory, venv, self.ports, self.database)
        self.schema_s = self.start_s = 0.0
        self.env = self._environment()
        self.api = Api(f"http://127.0.0.1:{self.ports.keystone}/v3", "admin", PASSWORD)

    def _environment(self) -> dict[str, str]:
        kept = ("HOME", "LANG", "TMPDIR")
        found = {name: os.environ[name] for name in kept if name in os.environ}
        found["PATH"] = f"{self.venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        etc = self.config.etc
        for service in ("keystone", "placement", "nova", "glance", "neutron"):
            found[f"OS_{service.upper()}_CONFIG_DIR"] = str(etc / service)
        found["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf;ml2_conf.ini"
        return found

    # --- from nothing to a cloud

    def make(self) -> None:
        """Databases and their schemas. `schema_s`: the commands' time, without the engines' own."""
        self.config.write()
        self._start_engines()
        for name in DATABASES:
            self.database.make(name, "utf8mb3_general_ci")
        begun = time.monotonic()
        keystone = ("keystone-manage", "keystone")
        self._manage(*keystone, "db_sync")
        owner = ["--keystone-user", "root", "--keystone-group", "root"] if os.geteuid() == 0 else []
        for keys in ("fernet", "credential"):
            (self.config.data / f"keystone/{keys}-keys").mkdir(parents=True, mode=0o700)
            self._manage(*keystone, f"{keys}_setup", *owner)
        places = [w for kind in ("admin", "internal", "public") for w in (f"--bootstrap-{kind}-url", self.api.auth_url)]
        self._manage(*keystone, "bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION, *places)
        self._manage("placement-manage", "placement", "db", "sync")
        self._manage("glance-manage", "glance", "db_sync")
        for words in ("api_db sync", "cell_v2 map_cell0", "db sync", "cell_v2 create_cell --name cell1"):
            self._manage("nova-manage", "nova", *words.split())
        self._manage("neutron-db-manage", "neutron", "upgrade", "heads")
        self._manage("cinder-manage", "cinder", "db", "sync")
        self.schema_s = time.monotonic() - begun
        self._register()

    def _manage(self, program: str, service: str, *words: str) -> None:
        argv = [f"{self.venv}/bin/{program}", *self.config.arguments(service), *words]
        self.sessions.run(program, argv, self.env)

    def _start_engines(self) -> None:
        ports, data = self.ports, self.config.data
        self.database.start()
        memcached = ["memcached", "-l", "127.0.0.1", "-p", str(ports.memcached), "-m", "256", "-c", "1024"]
        self.sessions.start("memcached", [*memcached, *(["-u", "memcache"] if os.geteuid() == 0 else [])])
        rabbit = self.env | {
            "HOME": str(data / "rabbitmq"),
            "RABBITMQ_NODENAME": f"bench{ports.rabbitmq}@localhost",
            "RABBITMQ_DIST_PORT": str(ports.rabbitmq_peers),
            "RABBITMQ_CONFIG_FILE": str(self.config.etc / "rabbitmq/rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.config.etc / "rabbitmq/enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_MNESIA_BASE": str(data / "rabbitmq"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self.sessions.start("epmd", ["epmd", "-port", str(ports.epmd), "-address", "127.0.0.1"], rabbit)
        self.sessions.wait_port("epmd", ports.epmd)
        self.sessions.start("rabbitmq", ["/usr/lib/rabbitmq/bin/rabbitmq-server"], rabbit)
        for name in ("memcached", "rabbitmq"):
            self.sessions.wait_port(name, getattr(ports, name))

    def _register(self) -> None:
        """Service users, endpoints, and a network agent that is always alive: without one no port is bound."""
        self._serve("keystone")
        self._answers("keystone")
        self.api.sign_in()
        call = self.api.call
        domain = "default"
        service = call("identity", "POST", "/projects", {"project": {"name": "service", "domain_id": domain}})
        roles = {role["name"]: role["id"] for role in call("identity", "GET", "/roles")["roles"]}
        for name, (kind, port, path) in ENDPOINTS.items():
            user = {"name": name, "password": PASSWORD, "domain_id": domain}
            user_id = call("identity", "POST", "/users", {"user": user})["user"]["id"]
            for role in ("admin", "service"):
                place = f"/projects/{service['project']['id']}/users/{user_id}/roles/{roles[role]}"
                call("identity", "PUT", place)
            made = call("identity", "POST", "/services", {"service": {"name": name, "type": kind}})["service"]
            url = f"http://127.0.0.1:{getattr(self.ports, port)}{path}"
            for interface in ("public", "internal", "admin"):
                endpoint = {"service_id": made["id"], "interface": interface, "url": url, "region_id": REGION}
                call("identity", "POST", "/endpoints", {"endpoint": endpoint})
        self.database.execute(AGENT, database="neutron")
        self.sessions.stop_all()

    # --- running

    def start(self) -> None:
        """All at once, until a server could be made; `start_s` is how long that took."""
        begun = time.monotonic()
        self._start_engines()
        for name in MODULES:
            self._serve(name)
        for name in DAEMONS:
            service = name.partition("-")[0]
            self.sessions.start(name, [f"{self.venv}/bin/{name}", *self.config.arguments(service)], self.env)
        for name in MODULES:
            self._answers(name)
        self._start_compute()
        self.start_s = time.monotonic() - begun
        self.api.sign_in()

    def _start_compute(self) -> None:
        argv = [f"{self.venv}/bin/nova-compute", *self.config.arguments("nova")]
        self.sessions.start("nova-compute", argv, self.env)
        self.api.sign_in()
        give_up = time.monotonic() + READY_S
        while not self.api.call("placement", "GET", f"/resource_providers?name={HOST}")["resource_providers"]:
            self.sessions.alive("nova-compute")
            if time.monotonic() > give_up:
                raise Failed(f"nova-compute offers nothing:\n{self.sessions.last_words('nova-compute')}")
            time.sleep(0.2)
        self._manage("nova-manage", "nova", "cell_v2", "discover_hosts")

    def _serve(self, name: str) -> None:
        argv = [f"{self.venv}/bin/uwsgi", "--ini", str(self.config.etc / f"uwsgi/{name}.ini")]
        self.sessions.start(name, argv, self.env)

    def _answers(self, name: str) -> None:
        """Until the service has loaded all that it is made of."""
        port = getattr(self.ports, name.removesuffix("-api"))
        self.sessions.wait_port(name, port)
        give_up = time.monotonic() + READY_S
        while not self.api.answers(f"http://127.0.0.1:{port}/"):
            self.sessions.alive(name)
            if time.monotonic() > give_up:
                raise Failed(f"{name} does not answer:\n{self.sessions.last_words(name)}")
            time.sleep(0.1)

    def data_directories(self) -> list[Path]:
        return [self.config.data, self.database.directory]

    def copy_servers(self, server_id: str, count: int) -> None:
        """Rows as if so many servers more had been made, on a host of their own; they share one server's port."""
        with contextlib.closing(self.database.connect()) as connection:
            copy_servers(connection, server_id, count)

    def leaders(self) -> dict[str, int]:
        return self.sessions.leaders()

    def stop(self) -> None:
        self.sessions.stop_all()
        shutil.rmtree(self.directory, ignore_errors=True)


AGENT = f"""REPLACE INTO agents (id, agent_type, `binary`, topic, host, admin_state_up, created_at, started_at,
heartbeat_timestamp, configurations, `load`) VALUES ('{uuid.uuid5(uuid.NAMESPACE_DNS, HOST)}', 'Open vSwitch agent',
'neutron-openvswitch-agent', 'N/A', '{HOST}', 1, now(), now(), '2037-01-01 00:00:00', '{{"bridge_mappings": {{}},
"tunnel_types": ["vxlan"], "tunneling_ip": "127.0.0.1", "datapath_type": "system", "ovs_hybrid_plug": false,
"extensions": [], "ovs_capabilities": {{"datapath_types": ["netdev", "system"]}}}}', 0)"""
