"""What a host shall have, what it lacks of that, and in which order hosts are touched. Pure."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from trilith.cluster.ceph_access import host_secrets
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.deploy_directory import CONTROLLER_SECRETS, HOST_SECRETS, Deployment, has_agent
from trilith.cluster.deploy_on_host import DEPLOYED, KEEPER, PROGRAMS, STATE
from trilith.cluster.host_packages import host_packages
from trilith.cluster.state import FENCE_PASSWORDS

Facts = dict[str, Any]
Step = Literal["packages", "program", "secrets", "certificates", "files", "switch", "keeper", "traffic"]
HARMLESS: tuple[Step, ...] = ("packages", "program", "traffic")  # nothing that runs notices them

UNIT = f"/etc/systemd/system/{KEEPER}"
DROPIN = f"{UNIT}.d/10-deploy.conf"
GUESTS = Path("/var/cache/trilith/guest")
TOGETHER = 5  # compute hosts that are changed at the same time


@dataclass(frozen=True)
class WantedFile:
    path: str
    content: bytes
    step: Step = "files"
    mode: int = 0o644

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class HostWant:
    """`deployed`: digest of what the keeper is started with; another one means that it has to be started anew."""

    host: Host
    packages: list[str]
    program: str
    wheels: str
    files: dict[str, WantedFile]
    deployed: str


@dataclass(frozen=True)
class Change:
    """One step on one host. `what` is shown: names only, never a secret."""

    step: Step
    what: str
    names: tuple[str, ...] = ()


def wanted(
    cluster: ClusterFile,
    deployment: Deployment,
    host: Host,
    program: str,
    wheels: str,
    unit: str,
    joined: bool,
    guest: Path | None = None,
) -> HostWant:
    """`unit`: the keeper's. `joined`: the host has its own credential, so it needs no token. `guest`: the image that a
    new cloud has; the first controller gets it, and gives it to the others."""
    settings = msgspec.json.format(msgspec.json.encode(deployment.settings(cluster, host.name)))
    files = [WantedFile(str(STATE / "cloud.json"), settings), *_secrets(cluster, deployment, host, joined)]
    files += _certificates(cluster, deployment, host)
    started_with = hashlib.sha256(f"{program} {hashlib.sha256(settings).hexdigest()} {unit}".encode()).hexdigest()[:20]
    files.append(WantedFile(UNIT, unit.encode()))
    files.append(WantedFile(DROPIN, f"[Service]\nEnvironment={DEPLOYED}={started_with}\n".encode()))
    if guest and not cluster.fake and host == cluster.with_role("control")[0]:
        files.append(WantedFile(str(GUESTS / guest.parent.name / guest.name), guest.read_bytes()))
    packages = host_packages(host.roles, cluster.ceph is not None)
    return HostWant(host, packages, program, wheels, {file.path: file for file in files}, started_with)


def _secrets(cluster: ClusterFile, deployment: Deployment, host: Host, joined: bool) -> Iterator[WantedFile]:
    control = "control" in host.roles
    texts = {name: deployment.secret(name) for name in (*HOST_SECRETS, *(CONTROLLER_SECRETS if control else ()))}
    if has_agent(host) and not joined:
        texts["join-token"] = deployment.join_token(host.name)
    texts |= host_secrets(cluster, host, deployment.secret("ceph"))
    for name, text in texts.items():
        yield WantedFile(str(STATE / "secrets" / name), f"{text}\n".encode(), "secrets", 0o600)
    if control:
        passwords = (deployment.secrets / FENCE_PASSWORDS).read_bytes()
        yield WantedFile(str(STATE / "secrets" / FENCE_PASSWORDS), passwords, "secrets", 0o600)
        yield WantedFile(str(STATE / "secrets/join-tokens.json"), deployment.join_tokens(), "secrets", 0o600)


def _certificates(cluster: ClusterFile, deployment: Deployment, host: Host) -> Iterator[WantedFile]:
    own = deployment.tls / f"host-{host.name}"
    contents = {
        "ca.crt": deployment.ca_file.read_bytes(),
        "host.crt": own.with_name(f"{own.name}.crt").read_bytes(),
        "host.key": own.with_name(f"{own.name}.key").read_bytes(),
    }
    if "control" in host.roles and cluster.vip:
        contents["vip.pem"] = b"".join((deployment.tls / f"vip.{end}").read_bytes() for end in ("crt", "key"))
    for name, content in contents.items():
        yield WantedFile(str(STATE / "secrets/tls" / name), content, "certificates", 0o600)


def changes(want: HostWant, facts: Facts) -> list[Change]:
    """What the host lacks, in the order in which it is made; [] when nothing."""
    found = []
    if missing := sorted(set(want.packages) - set(facts["packages"])):
        found.append(Change("packages", f"installs {_counted(missing)}", tuple(missing)))
    if lacking := [name for name in (want.wheels, want.program) if name not in facts["programs"]]:
        found.append(Change("program", f"unpacks {', '.join(lacking)}", tuple(lacking)))
    steps: tuple[Step, ...] = ("secrets", "certificates", "files")
    for step in steps:
        differ = [
            file
            for file in want.files.values()
            if file.step == step and facts["files"].get(file.path) != {"digest": file.digest, "mode": file.mode}
        ]
        if differ:
            names = ", ".join(file.path.removeprefix(f"{STATE}/") for file in differ)
            found.append(Change(step, f"writes {names}", tuple(file.path for file in differ)))
    if facts["current"] != want.program or facts["command"] != str(PROGRAMS / "current/bin/trilith"):
        found.append(Change("switch", f"makes {want.program} the current program"))
    keeper = facts["keeper"]
    if keeper["started_with"] != want.deployed or keeper["active"] != "active" or not keeper["enabled"]:
        found.append(
            Change("keeper", "starts the keeper anew" if keeper["active"] == "active" else "starts the keeper")
        )
    if facts["drained"]:  # a deploy was killed while it changed these
        found.append(
            Change("traffic", f"sends requests to {', '.join(facts['drained'])} again", tuple(facts["drained"]))
        )
    return found


def _counted(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{len(names)} packages: {shown}, ..." if len(names) > 6 else f"{len(names)} packages: {shown}"


def restarts(planned: Iterable[Change]) -> bool:
    """Whether what runs on the host is disturbed."""
    return any(change.step == "keeper" for change in planned)


def runs(facts: Facts) -> bool:
    """Whether the host has been part of the cloud."""
    return bool(facts["keeper"]["active"] == "active")


def groups(cluster: ClusterFile, fresh: set[str], careful: bool, ready: set[str]) -> list[list[str]]:
    """Names of hosts, in groups that are changed one after another. A new cluster: all at once. Later: controllers one
    by one, network hosts one by one, the others few at a time, and fresh hosts last, when all others know them. Among
    those, a host that is not ready comes first: a change may be what mends it."""
    names = [host.name for host in cluster.hosts]
    if not careful:
        return [names]
    one_by_one: list[str] = []
    others: list[str] = []
    for host in sorted(cluster.hosts, key=lambda host: host.name in ready):
        if host.name in fresh:
            continue
        (one_by_one if {"control", "network"} & set(host.roles) else others).append(host.name)
    found = [[name] for name in one_by_one]
    found += [others[at : at + TOGETHER] for at in range(0, len(others), TOGETHER)]
    return [*found, [name for name in names if name in fresh]] if fresh else found


def refusal(cluster: ClusterFile, order: Iterable[str], ready: set[str]) -> str | None:
    """Why these hosts must not be changed one after another, each ready again before the next; None when they may."""
    ready = set(ready)
    for name in order:
        if refused := quorum_lost(cluster, name, ready):
            return refused
        ready.add(name)
    return None


def quorum_lost(cluster: ClusterFile, touched: str, ready: set[str]) -> str | None:
    """Why a controller must not be touched now: without it, too few would be left. None when it may be."""
    controllers = [host.name for host in cluster.with_role("control")]
    if touched not in controllers or len(controllers) < 3:
        return None
    others = [name for name in controllers if name != touched]
    if sum(name in ready for name in others) > len(controllers) // 2:
        return None
    missing = ", ".join(name for name in others if name not in ready)
    return f"Changing {touched} now would lose the quorum, because {missing} is not ready."
