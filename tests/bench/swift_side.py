"""Swift from PyPI on this machine: one replica on one disk, tokens from its own ``tempauth`` in memcached, and the
filters of its sample that do what Trilith does too, so that both offer the same: manifests, versions, links, quotas,
signed URLs, forms, bulk. Nothing of its own runs beside its servers: no replicators, auditors, updaters. It
waits for memcached, which it would else forget about on a busy machine, and with it every token.
"""

import os
import shutil
import time
from pathlib import Path

from tests.bench.api import Api
from tests.bench.sessions import START_S, Failed, Sessions

ACCOUNT, USER, PASSWORD = "bench", "clerk", "bench"
RINGS = ("account", "container", "object")
PORT_NAMES = ("memcached", *RINGS, "proxy")
PART_POWER, REPLICAS, MIN_HOURS = 8, 1, 0
DISK = "disk"
SWIFT_CONF = """[swift-hash]
swift_hash_path_prefix = bench
swift_hash_path_suffix = bench
[storage-policy:0]
name = only
default = yes
"""
SERVER_CONF = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = {workers}
user = {user}
swift_dir = {etc}
devices = {data}
mount_check = false
recon_cache_path = {root}/recon
log_address = {root}/nobody-listens
log_level = WARNING
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
log_requests = false
"""
PROXY_CONF = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = {workers}
user = {user}
swift_dir = {etc}
log_address = {root}/nobody-listens
log_level = WARNING
[pipeline:main]
pipeline = catch_errors {filters}
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{clerk} = {password} .admin
storage_url_scheme = http
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
connect_timeout = 20
pool_timeout = 20
io_timeout = 20
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
"""
PIPELINE = (
    "gatekeeper healthcheck proxy-logging cache listing_formats bulk tempurl formpost tempauth staticweb copy "
    "container-quotas account-quotas slo dlo versioned_writes symlink proxy-server"
)
PLAIN_FILTERS = (
    "gatekeeper", "proxy-logging", "listing_formats", "bulk", "tempurl", "formpost", "staticweb", "copy",
    "container-quotas", "account-quotas", "slo", "dlo", "versioned_writes", "symlink",
)  # fmt: skip
FILTER = """[filter:{name}]
use = egg:swift#{egg}
"""
VERSIONS = "allow_versioned_writes = true\nallow_object_versioning = true\n"


class Swift:
    """`directory` holds all that it writes, on a file system with user attributes; `venv` its programs. It takes five
    ports from `first_port` on. After `start`, `api` has a token and knows the account's address as ``objects``."""

    name, is_cloud = "upstream", True

    def __init__(self, directory: Path, venv: Path, first_port: int, workers: int) -> None:
        self.directory, self.venv, self.workers = directory, venv, workers
        self.ports = {name: first_port + number for number, name in enumerate(PORT_NAMES)}
        self.etc, self.data = directory / "etc", directory / "data"
        self.sessions = Sessions(directory / "log")
        self.schema_s = self.start_s = 0.0
        self.url = f"http://127.0.0.1:{self.ports['proxy']}"
        self.api = Api(f"{self.url}/auth/v1.0", f"{ACCOUNT}:{USER}", PASSWORD)
        # without the last one, a machine without name servers waits for them at each start
        self.env = {"PATH": f"{venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "EVENTLET_NO_GREENDNS": "yes"}

    def make(self) -> None:
        """Its files and rings."""
        for directory in (self.etc, self.data / DISK, self.directory / "recon"):
            directory.mkdir(parents=True, exist_ok=True)
        user = "root" if os.geteuid() == 0 else os.environ.get("USER", "")
        words = {"root": self.directory, "etc": self.etc, "data": self.data, "user": user, "workers": self.workers}
        (self.etc / "swift.conf").write_text(SWIFT_CONF)
        begun = time.monotonic()
        for name in RINGS:
            port = self.ports[name]
            (self.etc / f"{name}-server.conf").write_text(SERVER_CONF.format(**words, name=name, port=port))
            self._ring(name, "create", *map(str, (PART_POWER, REPLICAS, MIN_HOURS)))
            self._ring(name, "add", f"r1z1-127.0.0.1:{port}/{DISK}", "1")
            self._ring(name, "rebalance")
        self.schema_s = time.monotonic() - begun
        who = {"account": ACCOUNT, "clerk": USER, "password": PASSWORD, "memcached": self.ports["memcached"]}
        proxy = PROXY_CONF.format(**words, **who, port=self.ports["proxy"], filters=PIPELINE)
        for name in PLAIN_FILTERS:
            proxy += FILTER.format(name=name, egg=name.replace("-", "_"))
            proxy += VERSIONS if name == "versioned_writes" else ""
        (self.etc / "proxy-server.conf").write_text(proxy)

    def _ring(self, name: str, *words: str) -> None:
        self.sessions.run("rings", [f"{self.venv}/bin/swift-ring-builder", f"{self.etc}/{name}.builder", *words])

    def start(self) -> None:
        """All at once, until somebody could sign in."""
        begun = time.monotonic()
        memcached = ["memcached", "-l", "127.0.0.1", "-p", str(self.ports["memcached"]), "-m", "256"]
        self.sessions.start("memcached", [*memcached, *(["-u", "memcache"] if os.geteuid() == 0 else [])])
        for name in (*RINGS, "proxy"):
            program, file = f"{self.venv}/bin/swift-{name}-server", f"{self.etc}/{name}-server.conf"
            self.sessions.start(name, [program, file], self.env)
        for name in PORT_NAMES:
            self.sessions.wait_port(name, self.ports[name])
        self._sign_in()
        self.start_s = time.monotonic() - begun

    def _sign_in(self) -> None:
        asked = {"X-Auth-User": self.api.user, "X-Auth-Key": self.api.password}
        give_up = time.monotonic() + START_S
        while not self.api.answers(f"{self.url}/healthcheck"):
            self.sessions.alive("proxy")
            if time.monotonic() > give_up:
                raise Failed(f"swift does not answer:\n{self.sessions.last_words('proxy')}")
            time.sleep(0.1)
        status, headers, content = self.api.exchange("GET", self.api.auth_url, None, asked)
        if status != 200:
            raise Failed(f"signing in to swift: {status} {content[:300]!r}\n{self.sessions.last_words('proxy')}")
        self.api.token, self.api.endpoints["objects"] = headers["x-auth-token"], headers["x-storage-url"]

    def leaders(self) -> dict[str, int]:
        return self.sessions.leaders()

    def data_directories(self) -> list[Path]:
        return [self.data]

    def stop(self) -> None:
        self.sessions.stop_all()
        shutil.rmtree(self.directory, ignore_errors=True)
