"""`trilith up` and `trilith down`: from a state directory to a running cloud and back.

`up` leaves one supervisor behind, which keeps the processes that `units` lists. All of it can be killed at any moment,
and typed again.
"""

import contextlib
import functools
import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trilith.agent.settings import AgentSettings
from trilith.cluster import clouds_yaml, proc, supervisor
from trilith.cluster.cluster_file import ClusterFile, all_in_one, read
from trilith.cluster.ovn_engine import OvnHost, processes, remove_host
from trilith.cluster.state import (
    DEFAULT_PORT,
    SOCKET_BELOW_BYTES,
    SOCKET_PATH_BYTES,
    Problem,
    Settings,
    State,
    default_root,
    locked,
    write_file,
)
from trilith.cluster.supervisor import Unit, ask

READY_S = 60.0
STOP_S = 30.0
FAILURES = 4  # of one process in a row, before `up` gives up
PROGRAMS = (
    "ovsdb-server",
    "ovs-vswitchd",
    "ovn-northd",
    "ovn-controller",
    "qemu-system-x86_64",
    "qemu-img",
    "nft",
    "ip",
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What was given on the command line; None where nothing was."""

    listen: str | None = None
    port: int | None = None
    workers: int | None = None
    fake: bool = False
    cluster: Path | None = None
    no_tls: bool = False
    database: str | None = None
    "Of a new cloud: the URL of an empty MariaDB database, for SQLAlchemy."


def up(state: State, asked: Asked, say: Say) -> Settings:
    """Returns when the cloud is ready. Raises `Problem`."""
    begun = time.monotonic()
    if asked.listen is not None:
        _check_address(asked.listen)
    _check_place(state)
    state.make_directories()
    with _commanding(state):
        if running := ask(state, "status"):
            settings = _same(state, asked)
            say(f"The cloud at {state.root} already runs (supervisor {running['pid']}).")
            _wait_ready(state, begun, lambda line: None)
        else:
            settings = _settled(state, asked)
            say(f"Trilith cloud {settings.cloud_id} at {state.root}")
            _check_machine(state, settings, patience_s=_end_leftovers(state, settings))
            if asked.database is not None:
                _take_database(state, asked.database)
            state.write_settings(settings)
            state.make_secrets(settings)
            if settings.tls:
                _make_certificate(state, settings)
            _start_supervisor(state)
            try:
                _wait_ready(state, begun, say)
            except Problem:
                ask(state, "stop")
                raise
        clouds_yaml.merge(state, settings)
    return settings


def down(state: State, destroy: bool, stop_machines: Callable[[AgentSettings], int], say: Say) -> None:
    """Stops everything; data stays, unless `destroy`. `stop_machines` ends the machines and returns how many."""
    if not state.exists():
        if destroy:
            shutil.rmtree(state.root, ignore_errors=True)
            return
        raise Problem(f"There is no cloud at {state.root}. To make one: trilith up --state {state.root}")
    settings = state.settings()
    state.run.mkdir(exist_ok=True)
    with _commanding(state):
        stopped = ask(state, "stop")
        since_ticks = proc.start_ticks(stopped["pid"]) if stopped else None
        with locked(state.supervisor_lock, STOP_S) as ours:
            if not ours:
                pid = state.supervisor_lock.read_text().strip()
                raise Problem(f"The supervisor does not end. Type: kill -9 {pid}, then: trilith down")
            if stopped and since_ticks is not None:  # it lets go of its lock a moment before it is gone
                proc.wait_ended(stopped["pid"], since_ticks, STOP_S)
            supervisor.sweep(state)
            count = stop_machines(agent_settings(state, settings))
            if not settings.fake:
                remove_host(ovn_host(state, settings))
        say("Stopped." if stopped else "It was not running; what was left of it is gone.")
        if count and not destroy:
            say(f"{count} machine(s) stopped; they start again with the next `trilith up`.")
        if destroy:
            clouds_yaml.remove(settings)
            shutil.rmtree(state.root)
            say(f"{state.root} is deleted.")


@contextlib.contextmanager
def _commanding(state: State) -> Iterator[None]:
    """One `up` or `down` at a time."""
    lock = state.run / "command.lock"
    with locked(lock, 2 * READY_S) as ours:
        if not ours:
            raise Problem(
                f"Another trilith command works on {state.root} (process {lock.read_text().strip()}); wait for it."
            )
        yield


# --- what runs


def ovn_host(state: State, settings: Settings) -> OvnHost:
    prefix = ipaddress.ip_network(settings.public_cidr).prefixlen
    return OvnHost(
        cloud=settings.cloud_id,
        host=settings.host,
        directory=state.ovn,
        gateway_address=f"{settings.public_gateway}/{prefix}",
        tunnel_address=settings.this_host.address,
    )


def agent_settings(state: State, settings: Settings) -> AgentSettings:
    ovn = None if settings.fake else ovn_host(state, settings)
    return AgentSettings(
        host=settings.host,
        api_url=settings.api_url,
        hub_url=settings.hub_url,
        credential_file=state.secrets / f"host-{settings.host}",
        directory=state.host,
        heartbeat_file=state.heartbeat_file,
        fake=settings.fake,
        netns=ovn.netns if ovn else None,
        ovs_socket=str(ovn.socket) if ovn else "",
        datapath=ovn.datapath if ovn else "netdev",
        accelerator=settings.cluster.engines.accelerator,
        overcommit=msgspec.to_builtins(settings.cluster.overcommit),
        ca_file=state.ca_file(settings),
    )


def units(state: State, settings: Settings) -> list[Unit]:
    """Every process of a cloud on one machine, in start order."""
    engines: list[Unit] = []
    if not settings.fake:
        engines.append(_ours(state, "network", once=True))
        for process in processes(ovn_host(state, settings)):
            given = {name: getattr(process, name) for name in ("name", "argv", "env", "netns", "ready")}
            engines.append(Unit(**given, after=(*process.after, "network"), survives=True))
    return [
        _ours(state, "api", ready=lambda: _answers(settings.address, settings.port, state.ca_file(settings))),
        *engines,
        _ours(state, "hub", ready=lambda: _answers(settings.address, settings.hub_port, state.ca_file(settings))),
        *_objects(state, settings),
        _ours(state, "agent", ready=lambda: heartbeat_age_s(state) < 2.0),
        _ours(state, "controller", after=("api",)),
    ]


def _objects(state: State, settings: Settings) -> list[Unit]:
    if not settings.stores_objects:
        return []
    answers = functools.partial(_answers, settings.address, settings.objects_port, state.ca_file(settings))
    return [_ours(state, "objects", ready=answers)]


def _ours(
    state: State, name: str, ready: Callable[[], bool] = lambda: True, after: tuple[str, ...] = (), once: bool = False
) -> Unit:
    argv = [sys.executable, "-m", "trilith.cli.main", "serve", name, "--state", str(state.root)]
    return Unit(name=name, argv=argv, ready=ready, after=after, once=once)


def _answers(address: str, port: int, ca_file: Path | None) -> bool:
    """Whether ``/healthz`` says 200. By hand: an HTTP library would be the largest part of the supervisor."""
    try:
        plain = socket.create_connection((address, port), timeout=1)
        with plain, _wrapped(plain, address, ca_file) if ca_file else plain as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _wrapped(plain: socket.socket, address: str, ca_file: Path) -> socket.socket:
    from trilith.kernel.tls import client_context  # here, because a supervisor without TLS does not need it

    return client_context(ca_file).wrap_socket(plain, server_hostname=address)


def heartbeat_age_s(state: State) -> float:
    """Since the API last took a heartbeat of this machine's agent."""
    try:
        return time.time() - state.heartbeat_file.stat().st_mtime
    except OSError:
        return float("inf")


# --- settling what is asked


def _settled(state: State, asked: Asked) -> Settings:
    """The settings of a stopped cloud, changed as asked, or those of a new one."""
    if not state.exists():
        host = socket.gethostname().partition(".")[0] or "host1"
        cluster = read(asked.cluster) if asked.cluster else all_in_one(host)
        return Settings(
            cloud_id=secrets.token_hex(2),
            cluster=cluster,
            host=_this_host(cluster, host),
            listen=asked.listen or "127.0.0.1",
            port=asked.port or DEFAULT_PORT,
            workers=asked.workers or 2,
            fake=asked.fake,
            public_cidr=_free_public_cidr(),
            tls=not asked.no_tls and not is_loopback(asked.listen or "127.0.0.1"),
        )
    settings = state.settings()
    if asked.fake and not settings.fake:
        raise Problem(
            f"The cloud at {state.root} was made without --fake. "
            f"For a fake one beside it: trilith up --fake --state OTHER --port {settings.port + 10}"
        )
    if asked.cluster:
        settings.cluster = read(asked.cluster)
        settings.host = _this_host(settings.cluster, settings.host)
    before = settings.api_url
    settings.tls = not asked.no_tls and not is_loopback(asked.listen or settings.listen)
    settings.listen = asked.listen or settings.listen
    settings.port = asked.port or settings.port
    settings.workers = asked.workers or settings.workers
    if settings.api_url != before:
        clouds_yaml.remove(state.settings())
    return settings


def _take_database(state: State, url: str) -> None:
    """The URL holds a password: it is kept as the other secrets are."""
    if not url.startswith("mysql+pymysql://"):
        raise Problem(f"{url.partition(':')[0]} is not known. Type: --database mysql+pymysql://USER:PASSWORD@HOST/NAME")
    file = state.secrets / "database-url"
    if state.exists() and not (file.exists() and file.read_text().strip() == url):
        raise Problem(f"The cloud at {state.root} has another database already. Give a new one another --state.")
    write_file(file, f"{url}\n".encode())


def _this_host(cluster: ClusterFile, hostname: str) -> str:
    if len(cluster.hosts) == 1:
        return cluster.hosts[0].name
    raise Problem(
        f"The cluster file has {len(cluster.hosts)} hosts, `trilith up` makes a cloud on one machine. "
        "Leave one host in the file, then: trilith up --cluster FILE"
    )


def _same(state: State, asked: Asked) -> Settings:
    """The settings of a running cloud; `Problem` when other ones are asked for."""
    settings = state.settings()
    for name in ("listen", "port", "workers"):
        wanted = getattr(asked, name)
        if wanted is not None and wanted != getattr(settings, name):
            raise Problem(
                f"The cloud at {state.root} runs with {name} {getattr(settings, name)}. "
                f"To change it: trilith down --state {state.root}, then trilith up again."
            )
    if asked.database is not None:
        _take_database(state, asked.database)
    if asked.no_tls and settings.tls:
        raise Problem(
            f"The cloud at {state.root} runs with TLS. To change it: trilith down --state {state.root} first."
        )
    return settings


def _free_public_cidr() -> str:
    """The first of 172.24.4.0/24, 172.24.5.0/24, ... that no interface of this machine has an address in."""
    used = [address for _, address in _addresses()]
    for third in range(4, 256):
        network = ipaddress.ip_network(f"172.24.{third}.0/24")
        if not any(address in network for address in used):
            return str(network)
    raise Problem("Every network of 172.24.0.0/16 is in use on this machine. Free one, then: trilith up")


def _addresses() -> list[tuple[str, ipaddress.IPv4Address]]:
    shown = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True, check=False)
    links = json.loads(shown.stdout or "[]")
    return [
        (link.get("ifname", ""), ipaddress.IPv4Address(address["local"]))
        for link in links
        for address in link.get("addr_info", [])
    ]


# --- checks before anything starts


def _end_leftovers(state: State, settings: Settings) -> float:
    """What a killed supervisor left behind and the next would end, ends now: it may still hold a port. Returns how
    long, in seconds, a port may be waited for: none where nothing was left."""
    if not supervisor.remembered(state):
        return 0.0
    lasting = {unit.name for unit in units(state, settings) if unit.survives}
    with locked(state.supervisor_lock) as mine:
        for record in supervisor.remembered(state) if mine else []:
            if record["name"] not in lasting:
                proc.end_session(record["pid"], state.root, grace_s=supervisor.STOP_S)
    return supervisor.STOP_S + 1


def _check_place(state: State) -> None:
    longest = SOCKET_PATH_BYTES - SOCKET_BELOW_BYTES
    if len(str(state.root)) > longest:
        raise Problem(
            f"{state.root} is too long for sockets below it. Give a path of at most {longest} letters: --state"
        )
    if not state.root.exists():
        with contextlib.suppress(PermissionError):
            state.root.mkdir(mode=0o755, parents=True)
    if not os.access(state.root, os.W_OK):
        raise Problem(f"{state.root} cannot be written. Give a directory of yours: trilith up --state DIR")


def _check_machine(state: State, settings: Settings, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    for port in (settings.port, settings.hub_port, settings.objects_port):
        try:
            while not _is_free(settings.listen, port, deadline):
                time.sleep(0.05)
        except OSError as error:
            again = f"trilith up --port {settings.port + 10}"
            if state.root != default_root():
                again += f" --state {state.root}"
            raise Problem(
                f"{settings.listen} port {port}: {os.strerror(error.errno or 0)}. To use others: {again}"
            ) from error
    if settings.fake:
        return
    if os.geteuid() != 0:
        raise Problem("Machines and networks need root: sudo trilith up. Without root: trilith up --fake")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise Problem(f"Not installed: {', '.join(missing)}. Install them: make setup. Without them: trilith up --fake")
    for place in (state.root, *state.root.parents):
        if not place.stat().st_mode & 0o001:
            raise Problem(f"Machines run as another user, who cannot get through {place}. Type: chmod a+x {place}")
    own = ovn_host(state, settings).outer_link
    for link, address in _addresses():
        if link != own and address in ipaddress.ip_network(settings.public_cidr):
            raise Problem(
                f"Interface {link} has {address}, which is in this cloud's public network {settings.public_cidr}. "
                "If it is another cloud's, stop that with trilith down; then: trilith up"
            )


def _is_free(address: str, port: int, deadline: float) -> bool:
    """OSError where it is taken and time is up."""
    try:
        with socket.create_server((address, port), family=_family(address)):
            return True
    except OSError:
        if time.monotonic() > deadline:
            raise
        return False


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise Problem(f"{text} is no IP address. For all of this machine's: trilith up --listen 0.0.0.0") from error


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _make_certificate(state: State, settings: Settings) -> None:
    """This machine's, from an authority that lies beside it. It holds for every address that the cloud listens on."""
    from trilith.cluster.certificates import keep_certificate, make_ca  # here: the supervisor never makes any

    listen = ipaddress.ip_address(settings.listen)
    more = [str(address) for _, address in _addresses()] if listen.is_unspecified else [str(listen)]
    ca = make_ca(state.tls, settings.cluster.name)
    keep_certificate(ca, state.tls, "host", [settings.host, "localhost", "127.0.0.1", "::1", *more])


# --- starting


def _start_supervisor(state: State) -> None:
    state.heartbeat_file.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    argv = [sys.executable, "-m", "trilith.cli.main", "serve", "supervisor", "--state", str(state.root)]
    with open(state.log / "supervisor.log", "ab") as output:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            start_new_session=True,
        )


def _wait_ready(state: State, begun: float, say: Say) -> None:
    told: set[str] = set()
    while True:
        spent_s = time.monotonic() - begun
        answer = ask(state, "status")
        children: list[dict[str, Any]] = answer["processes"] if answer else []
        for child in children:
            if child["state"] in ("ready", "done") and child["name"] not in told:
                told.add(child["name"])
                say(f"  {spent_s:5.2f} s  {child['name']}")
        if children and len(told) == len(children):
            say(f"  {spent_s:5.2f} s  ready")
            return
        failing = [child for child in children if child["restarts"] >= FAILURES and child["state"] != "ready"]
        if failing or spent_s > READY_S or (not answer and spent_s > 10):
            late = failing or [child for child in children if child["name"] not in told]
            names = [child["name"] for child in late] or ["supervisor"]
            raise Problem(f"{_not_ready(state, names)}\nThe whole story: trilith logs --state {state.root}")
        time.sleep(0.03)


def _not_ready(state: State, names: list[str]) -> str:
    lines = [f"Not ready: {', '.join(names)}."]
    for name in names:
        with contextlib.suppress(OSError):
            said = (state.log / f"{name}.log").read_text(errors="replace").splitlines()
            lines += [f"  {name}: {line}" for line in dict.fromkeys(said[-4:])]
    return "\n".join(lines)
