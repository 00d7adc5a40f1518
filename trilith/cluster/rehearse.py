"""A rehearsal: the hosts of a cluster file on one machine, as containers with a network of their own, and what can
happen to them.

`up` makes them and then deploys to them as to any hosts, by SSH. Everything in the kernel is found again by the
cluster's name, everything on disk lies below one state directory; `down` leaves nothing.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from trilith.cluster import clouds_yaml, proc, rehearsal_fabric, rehearsal_power
from trilith.cluster.cluster_file import ClusterFile, Host, read
from trilith.cluster.rehearsal_fabric import Fabric
from trilith.cluster.rehearsal_host import SimulatedHost, leftovers, remove_shared_groups
from trilith.cluster.rehearsal_image import host_image
from trilith.cluster.state import Problem, locked, write_file
from trilith.drivers import linux_net

DEFAULT_STATE = Path("/var/lib/trilith-rehearsal")
OWNERS = Path("/run/trilith-rehearsal")  # a cluster's name -> the state directory whose rehearsal has it
PROGRAMS = {"systemd-nspawn": "systemd-container", "nft": "nftables", "ssh-keygen": "openssh-client"}

Say = Callable[[str], None]
Document = dict[str, Any]


class Plan(msgspec.Struct, kw_only=True):
    """What was asked for (``rehearsal.json``). Written before anything is made in the kernel."""

    cluster: ClusterFile
    image: str


class Rehearsal:
    """One that exists, by its state directory. Raises `Problem` when there is none."""

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()
        try:
            plan = msgspec.json.decode((self.state / "rehearsal.json").read_bytes(), type=Plan)
        except OSError as error:
            raise Problem(f"There is no rehearsal at {state}. To make one: trilith rehearse up FILE") from error
        self.cluster = plan.cluster
        self.fabric = Fabric(plan.cluster)
        self._image = Path(plan.image)

    @property
    def key(self) -> Path:
        """The private SSH key that every host lets in as root."""
        return self.state / "ssh/id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state / "ssh/known_hosts"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: knows every host by its name."""
        return self.state / "ssh/config"

    @property
    def deployment(self) -> Path:
        """What the deploying machine keeps of the cluster: authority, secrets."""
        return self.state / "deployment"

    @property
    def hosts(self) -> list[SimulatedHost]:
        return [self._host(host) for host in self.cluster.hosts]

    def host(self, name: str) -> SimulatedHost:
        for host in self.cluster.hosts:
            if host.name == name:
                return self._host(host)
        names = ", ".join(host.name for host in self.cluster.hosts)
        raise Problem(f"This rehearsal has no host {name}; it has: {names}.")

    def _host(self, host: Host) -> SimulatedHost:
        place = self.state / "hosts" / host.name
        return SimulatedHost(host, self.fabric, place, self._image, self.cluster.ssh.port)

    # --- partitions

    def blocked(self) -> list[tuple[str, str]]:
        """Pairs of hosts that do not reach each other."""
        try:
            return [(one, other) for one, other in json.loads((self.state / "blocked.json").read_bytes())]
        except FileNotFoundError:
            return []

    def block(self, one: str, other: str) -> None:
        """These two do not reach each other on any network any more; everybody else does."""
        self._set_blocked({*self.blocked(), self._pair(one, other)})

    def unblock(self, one: str, other: str) -> None:
        self._set_blocked({*self.blocked()} - {self._pair(one, other)})

    def _pair(self, one: str, other: str) -> tuple[str, str]:
        first, second = sorted((self.host(one).name, self.host(other).name))
        return first, second

    def _set_blocked(self, pairs: set[tuple[str, str]]) -> None:
        write_file(self.state / "blocked.json", json.dumps(sorted(pairs)).encode())
        rehearsal_fabric.block(self.fabric, sorted(pairs))

    # --- all of it

    def make_hosts(self, say: Say) -> None:
        """Fabric, disks, power. Hosts that run are left alone."""
        self.fabric.make()
        rehearsal_fabric.block(self.fabric, self.blocked())
        self._make_key()
        key = self.key.with_suffix(".pub").read_text()
        hosts = self.hosts
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: host.make_disk(key, _hosts_file(self.cluster)), hosts))
            self._write_ssh_files()
            for name in pool.map(_switched_on, hosts):
                say(f"{name} answers")

    def status(self) -> Document:
        """What the kernel says about every host; memory in MiB, times in seconds."""
        return {
            "name": self.cluster.name,
            "state": str(self.state),
            "hosts": [
                {
                    "name": host.name,
                    "condition": host.condition,
                    "address": declared.address,
                    "tunnel_address": declared.tunnel_address,
                    "roles": list(declared.roles),
                    "cut": host.cut_networks(),
                    "memory_mib": round(proc.pss_mib(host.pids())),
                    "boot_s": host.boot_s(),
                }
                for host, declared in zip(self.hosts, self.cluster.hosts, strict=True)
            ],
            "blocked": self.blocked(),
        }

    def remove(self) -> None:
        """Everything: hosts, their disks, networks, the state directory."""
        self._delete_hosts(self._all_names())
        remove_shared_groups(self.fabric.host_prefix)
        self.fabric.remove()
        shutil.rmtree(self.state)

    def remove_strangers(self) -> None:
        """Hosts that the cluster file has no more."""
        self._delete_hosts(self._all_names() - {host.name for host in self.cluster.hosts})

    def _delete_hosts(self, names: set[str]) -> None:
        if names:
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(lambda name: self._host(Host(name=name)).delete(), names))

    def _all_names(self) -> set[str]:
        """Hosts that have a disk, or anything in the kernel."""
        places = self.state / "hosts"
        on_disk = {path.name for path in places.iterdir()} if places.is_dir() else set()
        return on_disk | leftovers(self.fabric.host_prefix)

    def _make_key(self) -> None:
        public = self.key.with_suffix(".pub")
        if not public.exists():
            self.key.parent.mkdir(mode=0o700, exist_ok=True)
            self.key.unlink(missing_ok=True)
            linux_net.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", str(self.key)])

    def _write_ssh_files(self) -> None:
        known, config = "", ""
        for host, declared in zip(self.hosts, self.cluster.hosts, strict=True):
            known += f"{declared.address},{host.name} {host.public_key()}\n"
            config += f"Host {host.name}\n  HostName {declared.address}\n"
        config += (
            f"Host *\n  User root\n  Port {self.cluster.ssh.port}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        )
        write_file(self.known_hosts, known.encode())
        write_file(self.ssh_config, config.encode())


def up(file: Path, state: Path | None, say: Say, bare: bool = False) -> Rehearsal:
    """Make what is missing of a rehearsal and go on where an earlier call was stopped. With `bare`, stop when all hosts
    answer by SSH; else deploy to them. Raises `Problem`; `ClusterFileError` for the file."""
    cluster = read(file)
    _check_machine()
    root = (state or DEFAULT_STATE / cluster.name).absolute()
    _check_path(root)
    image = host_image(say)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(root), _owning(cluster.name, root):
        _check_moved(root, cluster)
        rehearsal_power.make_password(root)
        switched = rehearsal_power.with_switches(cluster, root, Fabric(cluster).operator)
        plan = Plan(cluster=_entered_by_key(switched, root), image=str(image))
        write_file(root / "rehearsal.json", msgspec.json.format(msgspec.json.encode(plan)))
        rehearsal = Rehearsal(root)
        rehearsal.remove_strangers()
        rehearsal.make_hosts(say)
        if not bare:
            deploy_to(rehearsal, say)
        return rehearsal


def down(state: Path) -> None:
    """Leave nothing of it, whatever state it is in. Raises `Problem` when there is none."""
    rehearsal = Rehearsal(state)
    name = rehearsal.cluster.name
    with _alone(rehearsal.state):
        rehearsal_power.stop(rehearsal.state)
        clouds_yaml.take_out({name, f"{name}-demo"}, f"https://{rehearsal.cluster.vip}/identity")
        rehearsal.remove()
        _owner_file(name).unlink(missing_ok=True)


def the_only_state(given: Path | None) -> Path:
    """The state directory that is meant when none is given: of the only rehearsal."""
    if given is not None:
        return given
    there = sorted(path.parent for path in DEFAULT_STATE.glob("*/rehearsal.json"))
    if len(there) == 1:
        return there[0]
    if not there:
        raise Problem("There is no rehearsal. To make one: trilith rehearse up FILE")
    raise Problem(f"Which one? Say --state with one of: {', '.join(map(str, there))}")


def deploy_to(rehearsal: Rehearsal, say: Say) -> None:
    """By the same path as to any hosts. Their SSH keys are known here, so none is taken on trust."""
    from trilith.cluster.deploy import deploy  # here, because faults and status need none of it
    from trilith.cluster.deploy_directory import Deployment

    deployment = Deployment(rehearsal.deployment)
    deployment.directory.mkdir(mode=0o700, exist_ok=True)
    write_file(deployment.known_hosts, rehearsal.known_hosts.read_bytes())
    deployment.prepare(rehearsal.cluster)
    rehearsal_power.start(rehearsal.state, deployment.tls, rehearsal.fabric.operator)
    deploy(rehearsal.cluster, deployment, say)


def _switched_on(host: SimulatedHost) -> str:
    host.power_on()
    return host.name


def _hosts_file(cluster: ClusterFile) -> str:
    lines = [f"{host.address} {host.name}" for host in cluster.hosts]
    return "\n".join(["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", *lines]) + "\n"


def _entered_by_key(cluster: ClusterFile, root: Path) -> ClusterFile:
    """Hosts let in root, by the key that is made for them."""
    ssh = msgspec.structs.replace(cluster.ssh, user="root", key=str(root / "ssh/id_ed25519"), port=22)
    return msgspec.structs.replace(cluster, ssh=ssh)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Problem("A rehearsal makes containers and networks: type it as root, or with sudo.")
    missing = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if missing:
        raise Problem(f"Programs are missing. Type: apt-get install --no-install-recommends {' '.join(missing)}")


def _check_path(root: Path) -> None:
    if set(":,\\ ") & set(str(root)):
        raise Problem(f"{root}: a rehearsal's directory has no colon, comma, backslash or blank in its path.")


def _check_moved(root: Path, cluster: ClusterFile) -> None:
    """Networks of hosts that run are not changed under them."""
    try:
        before = Rehearsal(root)
    except Problem:
        return
    if before.cluster.name != cluster.name:
        raise Problem(
            f"{root} is the rehearsal of {before.cluster.name}. To end it: trilith rehearse down --state {root}"
        )
    old = {host.name: host.addresses for host in before.cluster.hosts}
    moved = [host.name for host in cluster.hosts if old.get(host.name, host.addresses) != host.addresses]
    if moved or before.cluster.networks != cluster.networks or before.cluster.public != cluster.public:
        what = ", ".join(moved) or "networks"
        raise Problem(f"Addresses have changed ({what}). Begin anew: trilith rehearse down --state {root}")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    with locked(root / "lock") as mine:
        if not mine:
            pid = (root / "lock").read_text().strip()
            raise Problem(f"Process {pid} is working on {root} now. Wait for it, then type the same again.")
        yield


@contextmanager
def _owning(name: str, root: Path) -> Iterator[None]:
    """One cluster name is one rehearsal on this machine: its networks are called by it."""
    OWNERS.mkdir(mode=0o700, exist_ok=True)
    file = _owner_file(name)
    owner = Path(file.read_text()) if file.exists() else root
    if owner != root and (owner / "rehearsal.json").exists():
        raise Problem(f"{name} is rehearsed at {owner}. To end that: trilith rehearse down --state {owner}")
    write_file(file, str(root).encode())
    yield


def _owner_file(name: str) -> Path:
    return OWNERS / name
