"""What the deploying machine keeps of one cluster: its authority, its secrets, its hosts' SSH keys. Nobody else has all
of these, so the directory is worth a backup.

    DIRECTORY/cloud_id  members.json     the cloud's id; every host that was ever deployed to and not retired
    DIRECTORY/secrets/                   one file each, as on controllers
    DIRECTORY/tls/                       ca.crt ca.key, NAME.crt NAME.key of each host, vip.crt vip.key
    DIRECTORY/known_hosts                SSH host keys: pinned here before, or accepted at the first connection
    DIRECTORY/join/NAME  join-tokens.json
    DIRECTORY/ready                      exists once the cluster has been ready

All is made before anything is sent, so that a deploy that was cut short sends the same the next time.
"""

import json
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from trilith.cluster import certificates
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.state import DEFAULT_PORT, FENCE_PASSWORDS, Problem, Settings, write_file
from trilith.identity.credentials import new_join_token

CONTROLLER_SECRETS = (
    "admin",
    "demo",
    "hub",
    "controller",
    "cluster-key",
    "database",
    "database-root",
    "replication",
    "rabbitmq",
    "erlang-cookie",
    "vrrp",
    "ceph",
)
HOST_SECRETS = ("keeper",)
AGENT_ROLES = frozenset({"compute", "network"})
TOKEN_SPARE_S = 600  # a join token that is sent is valid for this long at least


def has_agent(host: Host) -> bool:
    return bool(AGENT_ROLES & set(host.roles))


class Deployment:
    """The directory of one cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.secrets = self.directory / "secrets"
        self.tls = self.directory / "tls"
        self.known_hosts = self.directory / "known_hosts"
        self.lock = self.directory / "lock"
        self._join = self.directory / "join"
        self._join_tokens = self.directory / "join-tokens.json"
        self._members = self.directory / "members.json"
        self._ready = self.directory / "ready"

    def prepare(self, cluster: ClusterFile) -> None:
        """Make what is missing: secrets, authority, certificates (renewed in time). What is there stays."""
        for directory in (self.directory, self.secrets, self.tls, self._join):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        _once(self.directory / "cloud_id", lambda: uuid.uuid4().hex[:8])
        for name in (*CONTROLLER_SECRETS, *HOST_SECRETS):
            _once(self.secrets / name, lambda: secrets.token_urlsafe(24))
        write_file(self.secrets / FENCE_PASSWORDS, _fence_passwords(cluster))
        authority = certificates.make_ca(self.tls, cluster.name)
        for host in cluster.hosts:
            names = [host.name, *host.addresses, "localhost", "127.0.0.1"]
            certificates.keep_certificate(authority, self.tls, f"host-{host.name}", names)
        if cluster.vip:
            certificates.keep_certificate(authority, self.tls, "vip", [cluster.vip])

    @property
    def ca_file(self) -> Path:
        return self.tls / "ca.crt"

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def settings(self, cluster: ClusterFile, host: str) -> Settings:
        """``cloud.json`` of a host. How one reaches hosts from here is nobody else's business, so `ssh` stays here."""
        return Settings(
            cloud_id=(self.directory / "cloud_id").read_text().strip(),
            host=host,
            cluster=msgspec.structs.replace(cluster, ssh=type(cluster.ssh)()),
            listen=next(entry.address for entry in cluster.hosts if entry.name == host),
            port=DEFAULT_PORT,
            fake=cluster.fake,
            public_cidr=cluster.public.cidr,
        )

    # one-time tokens

    def join_token(self, host: str) -> str:
        """The token of a host that has not joined: the one it was given before while that is valid, else a new one."""
        entries = self._entries()
        path = self._join / host
        if path.exists() and entries.get(host, {}).get("expires_at_s", 0) > time.time() + TOKEN_SPARE_S:
            return path.read_text().strip()
        token, entries[host] = new_join_token()
        write_file(path, f"{token}\n".encode())
        write_file(self._join_tokens, json.dumps(entries, indent=1).encode())
        return token

    def forget_token(self, host: str) -> None:
        """It has joined. The controllers' list keeps its entry: a token that was used is void."""
        (self._join / host).unlink(missing_ok=True)

    def join_tokens(self) -> bytes:
        """``join-tokens.json`` of controllers: digests only."""
        return self._join_tokens.read_bytes() if self._join_tokens.exists() else b"{}"

    def _entries(self) -> dict[str, dict[str, float]]:
        return dict(json.loads(self.join_tokens()))

    # who belongs to it

    def members(self) -> dict[str, Host]:
        """Every host that anything was sent to and that was not retired."""
        if not self._members.exists():
            return {}
        return {host.name: host for host in msgspec.json.decode(self._members.read_bytes(), type=list[Host])}

    def remember(self, hosts: list[Host]) -> None:
        known = self.members() | {host.name: host for host in hosts}
        write_file(self._members, msgspec.json.format(msgspec.json.encode(list(known.values()))))

    def forget(self, name: str) -> None:
        known = self.members()
        known.pop(name, None)
        write_file(self._members, msgspec.json.format(msgspec.json.encode(list(known.values()))))
        self.forget_token(name)

    @property
    def was_ready(self) -> bool:
        """Whether the cluster has ever been ready: before that, there is nothing to be careful with."""
        return self._ready.exists()

    def note_ready(self) -> None:
        if not self._ready.exists():
            write_file(self._ready, b"")


def _fence_passwords(cluster: ClusterFile) -> bytes:
    """Of the hosts' power switches, by host, as JSON. Raises `Problem` where a file cannot be read."""
    found = {}
    for host in cluster.hosts:
        if (file := cluster.fencing_of(host).password_file) is not None and "compute" in host.roles:
            try:
                found[host.name] = Path(file).expanduser().read_text().strip()
            except OSError as error:
                words = f"The password of {host.name}'s power switch, {file}, cannot be read: {error.strerror}."
                raise Problem(f"{words} See `fencing` in the cluster file.") from error
    return json.dumps(found).encode()


def _once(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        write_file(path, f"{make()}\n".encode())
