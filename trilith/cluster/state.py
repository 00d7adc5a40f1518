"""A cloud's state directory: where everything of it lies, its settings and its secrets.

Everything that survives a restart is below this one directory, and nothing is anywhere else, except the entries in
the user's ``clouds.yaml``. Every process of a cloud is given the directory and finds the rest here.
"""

import contextlib
import fcntl
import ipaddress
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from trilith.cluster.cluster_file import ClusterFile, Host

DEFAULT_PORT = 8774
WRITER_PORT = 3307  # of the local HAProxy, for SQL
KEEPER_PORT = 9200
FENCE_PASSWORDS = "fencing.json"  # among controllers' secrets: host -> password of its power switch
SOCKET_PATH_BYTES = (
    107  # of a unix socket's name; the longest of ours is `SOCKET_BELOW_BYTES` below the state directory
)
SOCKET_BELOW_BYTES = 64


class Problem(Exception):
    """What the user must know, as a sentence that ends with what to type next."""


def default_root() -> Path:
    """Where a cloud's state lies when nobody says anything."""
    if given := os.environ.get("TRILITH_STATE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/trilith")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "trilith"


class Settings(msgspec.Struct, kw_only=True):
    """What was decided when the cloud was made (``cloud.json``). `host`: this machine's name in the cluster file."""

    cloud_id: str
    host: str
    cluster: ClusterFile
    listen: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 2
    fake: bool = False
    public_cidr: str = "172.24.4.0/24"
    tls: bool = False
    "On one machine: whether API and hub speak TLS. In a cluster they always do."
    program: str = "trilith.cluster"
    "The package with ``api.app``, ``bootstrap.bootstrap`` and ``controller.run``."

    @property
    def clustered(self) -> bool:
        """Whether other hosts belong to this cloud: then it is entered by its VIP, and SQL is Galera."""
        return self.cluster.clustered

    @property
    def encrypted(self) -> bool:
        return self.tls or self.clustered

    @property
    def controllers(self) -> list[Host]:
        return self.cluster.with_role("control")

    @property
    def hub_port(self) -> int:
        return self.port + 1

    @property
    def objects_port(self) -> int:
        return self.port + 2

    @property
    def stores_objects(self) -> bool:
        """Whether this cloud has an object store: its controllers share one where they have Ceph."""
        return not self.clustered or self.cluster.ceph is not None

    @property
    def address(self) -> str:
        """An address of this cloud that this machine can connect to."""
        unspecified = ipaddress.ip_address(self.listen).is_unspecified
        loopback = "::1" if ":" in self.listen else "127.0.0.1"
        return loopback if unspecified else self.listen

    @property
    def api_url(self) -> str:
        if self.clustered:
            return f"https://{_bracketed(self.cluster.vip or self.address)}"
        return f"{self._scheme}://{_bracketed(self.address)}:{self.port}"

    @property
    def hub_url(self) -> str:
        if self.clustered:
            return self.api_url
        return f"{self._scheme}://{_bracketed(self.address)}:{self.hub_port}"

    def url_of(self, host: Host) -> str:
        """Of the API on another controller, past the VIP."""
        return f"https://{_bracketed(host.address)}:{self.port}"

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def public_gateway(self) -> str:
        """The public network's gateway; on one machine, the address that this machine itself has on it."""
        if self.cluster.public.gateway:
            return self.cluster.public.gateway
        return str(next(ipaddress.ip_network(self.public_cidr).hosts()))

    @property
    def this_host(self) -> Host:
        return next(host for host in self.cluster.hosts if host.name == self.host)


class State:
    """The paths of one state directory, and the small files in it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self.database = self.root / "db.sqlite"
        self.settings_file = self.root / "cloud.json"
        self.secrets = self.root / "secrets"
        self.tls = self.secrets / "tls"
        "``ca.crt``, ``host.crt``, ``host.key``; on controllers ``vip.pem``."
        self.join_tokens = self.secrets / "join-tokens.json"
        self.run = self.root / "run"
        self.log = self.root / "log"
        self.images = self.root / "images"
        self.objects = self.root / "objects"
        self.host = self.root / "host"
        self.ovn = self.root / "ovn"
        self.hints_socket = self.run / "hints.sock"
        self.control_socket = self.run / "control.sock"
        self.supervisor_lock = self.run / "supervisor.pid"
        self.processes_file = self.run / "processes.json"
        self.heartbeat_file = self.run / "heartbeat.json"
        "Written by the agent after each heartbeat that the API took."

    def exists(self) -> bool:
        return self.settings_file.exists()

    def database_url(self, settings: Settings) -> str:
        """For SQLAlchemy. In a cluster: this controller's own HAProxy, which knows the node that is written to; it must
        have a certificate of the cluster's authority, whichever it is. On one machine: SQLite, or the MariaDB server
        that the cloud was made with."""
        if not settings.clustered:
            given = self.secrets / "database-url"
            return given.read_text().strip() if given.exists() else f"sqlite:///{self.database}"
        secured = f"ssl_ca={quote(str(self.tls / 'ca.crt'))}&ssl_check_hostname=false"
        place = f"127.0.0.1:{WRITER_PORT}/trilith?charset=utf8mb4&{secured}"
        return f"mysql+pymysql://trilith:{self.secret('database')}@{place}"

    def ca_file(self, settings: Settings) -> Path | None:
        """The authority that this cloud's own addresses are verified against; None where they speak no TLS."""
        return self.tls / "ca.crt" if settings.encrypted else None

    def make_directories(self) -> None:
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        for directory in (self.run, self.log, self.images, self.host, self.ovn):
            directory.mkdir(mode=0o755, exist_ok=True)
        if self.root.stat().st_uid == os.geteuid():
            for directory in (self.root, self.host):
                directory.chmod(0o755)  # whatever the umask: machines run as another user
        self.secrets.mkdir(mode=0o700, exist_ok=True)

    def settings(self) -> Settings:
        """Raises FileNotFoundError when no cloud was ever made here."""
        return msgspec.json.decode(self.settings_file.read_bytes(), type=Settings)

    def write_settings(self, settings: Settings) -> None:
        write_file(self.settings_file, msgspec.json.format(msgspec.json.encode(settings)), mode=0o644)

    def secret(self, name: str) -> str:
        """A secret by name. Passwords: ``admin``, ``demo``; credentials: ``hub``, ``controller``, ``host-NAME``;
        ``cluster-key`` seals what is secret in SQL."""
        return (self.secrets / name).read_text().strip()

    def make_secrets(self, settings: Settings) -> None:
        """Make those that are missing; those that are there stay."""
        processes = ["hub", "controller", *(f"host-{host.name}" for host in settings.cluster.hosts)]
        for name in ("admin", "demo", "cluster-key", *processes):
            if not (self.secrets / name).exists():
                write_file(self.secrets / name, (secrets.token_urlsafe(24) + "\n").encode())


def write_file(path: Path, content: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """Whole or not at all; with `sync` also across a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    temporary.rename(path)
    if sync:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)


@contextlib.contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold an exclusive lock on a file, in which our pid then stands; yields False when somebody else has had it for
    `wait_s`. The kernel releases it when the process dies, however it dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        mine = _lock(descriptor, time.monotonic() + wait_s)
        if mine:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield mine
    finally:
        os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
