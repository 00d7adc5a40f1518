"""`trilith deploy`: from a cluster file to hosts that are what it says, over SSH.

    connect -> lock -> facts -> checks -> plan -> (asked) -> prepare -> activate -> watch

Deploy brings the program, the cluster file, secrets, certificates and packages, and starts each host's keeper; the
keepers do the rest, and deploy only watches them. Nothing is changed before every check has passed on every host. It
may be killed anywhere and typed again.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trilith.cluster import clouds_yaml, deploy_plan, host_checks
from trilith.cluster.bootstrap import guest_file
from trilith.cluster.bundle import Bundle, bundle
from trilith.cluster.cluster_file import ClusterFile
from trilith.cluster.deploy_apply import Applier, Deployed, find_facts, lock_owner
from trilith.cluster.deploy_directory import Deployment, has_agent
from trilith.cluster.deploy_on_host import PROGRAMS, STATE
from trilith.cluster.deploy_packages import PackageRelay
from trilith.cluster.deploy_plan import Change
from trilith.cluster.deploy_watch import Watch, holds_quorum
from trilith.cluster.engines.own_units import keeper_unit
from trilith.cluster.ssh import HostProblem, Session, forget_host
from trilith.cluster.state import Problem, default_root, locked

READY_S = 300.0
HOST_READY_S = 300.0
DRAINED_S = 1.0  # for requests that are under way
AT_ONCE = 32
BACKENDS = ("api", "hubs", "objects")

Say = Callable[[str], None]
Confirm = Callable[[], bool]


@dataclass(frozen=True)
class Asked:
    """`confirm`: asked when the plan has been shown; None: go on. `replaced`: hosts whose SSH key may be another now.
    `force`: change controllers even where that costs the quorum."""

    dry_run: bool = False
    confirm: Confirm | None = None
    replaced: tuple[str, ...] = ()
    force: bool = False
    ready_s: float = READY_S


@dataclass
class Result:
    """`changes`: by host, what was done (or would be). `changed`: whether anything was."""

    changed: bool
    changes: dict[str, list[Change]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    took_s: float = 0.0


def default_directory(name: str) -> Path:
    """Where the deploying machine keeps what it made for a cluster."""
    root = default_root()
    return root.with_name(f"{root.name}-deploy") / name


def cache_directory() -> Path:
    """For bundles and packages: can be deleted at any time."""
    if os.geteuid() == 0:
        return Path("/var/cache/trilith")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trilith"


def deploy(cluster: ClusterFile, deployment: Deployment, say: Say, asked: Asked | None = None) -> Result:
    """Returns when every host is ready (with `dry_run`: when it is known what would be done). Raises `Problem` with
    everything that is wrong."""
    if not cluster.clustered:
        raise Problem("This file has one host. On that host, type: trilith up --cluster FILE")
    deployment.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(deployment.lock) as ours:
        if not ours:
            pid = deployment.lock.read_text().strip()
            raise Problem(f"Another deploy of this cluster runs on this machine (process {pid}); wait for its end.")
        deployment.prepare(cluster)
        for host in cluster.hosts:
            if host.name in asked.replaced if asked else ():
                forget_host(deployment.known_hosts, host.address, cluster.ssh.port)
        result = _Deploy(cluster, deployment, say, asked or Asked()).run()
        if not (asked and asked.dry_run):
            _merge_clouds(cluster, deployment)
        return result


def _merge_clouds(cluster: ClusterFile, deployment: Deployment) -> None:
    """The user's clients know the cloud by its name, and as its member by NAME-demo."""
    settings = deployment.settings(cluster, cluster.hosts[0].name)
    users = {cluster.name: "admin", f"{cluster.name}-demo": "demo"}
    clouds_yaml.put(
        {
            name: clouds_yaml.entry(settings, user, deployment.secret(user), deployment.ca_file)
            for name, user in users.items()
        }
    )


class _Deploy:
    """One run."""

    def __init__(self, cluster: ClusterFile, deployment: Deployment, say: Say, asked: Asked) -> None:
        self.cluster = cluster
        self.deployment = deployment
        self.asked = asked
        self._print = say
        self._begun = time.monotonic()
        self._width = max(len(host.name) for host in cluster.hosts)
        self.bundle: Bundle = bundle(cache_directory() / "bundles")
        self.unit = keeper_unit(str(PROGRAMS / "current/bin/trilith"), str(STATE))
        self.hosts = [Deployed(host) for host in cluster.hosts]
        gone = [
            host for name, host in deployment.members().items() if name not in {host.name for host in cluster.hosts}
        ]
        self.removed = [Deployed(host) for host in gone]
        self.watch = Watch(self.say)

    def say(self, host: str, step: str, text: str) -> None:
        self._print(f"{self.spent_s:6.1f} s  {host:{self._width}}  {step:12}  {text}".rstrip())

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._begun

    def run(self) -> Result:
        with self._sessions():
            self._check()
            self._make_tokens()
            result = Result(False, {d.name: self._plan(d) for d in self.hosts}, self._warnings())
            self._show(result)
            if self.asked.dry_run:
                return result
            pending = any(result.changes.values()) or bool(self.removed)
            if pending:
                if self.asked.confirm and not self.asked.confirm():
                    raise Problem("Nothing was changed.")
                self._apply()
            self._wait()
            self._retire_credentials()
            result.changed = pending
            result.took_s = self.spent_s
            return result

    # --- connections

    @contextlib.contextmanager
    def _sessions(self) -> Iterator[None]:
        """One for each host, at the same time; those of hosts that are removed may fail."""
        known = self._known_hosts()
        try:
            self._each(self._connect, [*self.hosts, *self.removed])
            for line in sorted(self._known_hosts() - known):
                self._print(
                    f"SSH host key of {line.split()[0]} accepted at first use: {line.split(maxsplit=1)[1][:60]}..."
                )
            yield
        finally:
            for deployed in (*self.hosts, *self.removed):
                if deployed.session:
                    deployed.session.close()

    def _connect(self, deployed: Deployed) -> None:
        try:
            deployed.session = Session(
                deployed.host,
                self.cluster.ssh,
                self.deployment.known_hosts,
                lambda text: self.say(deployed.name, "", text),
            )
            if not self.asked.dry_run:
                deployed.ask("lock", {"owner": lock_owner()})
        except HostProblem as problem:
            deployed.problem = str(problem)

    def _known_hosts(self) -> set[str]:
        path = self.deployment.known_hosts
        return set(path.read_text().splitlines()) if path.exists() else set()

    def _each(self, work: Callable[[Deployed], None], hosts: Iterable[Deployed]) -> None:
        """Work on hosts at the same time. A `HostProblem` becomes one `Problem` of all."""
        problems: dict[str, list[str]] = {}

        def one(deployed: Deployed) -> None:
            try:
                work(deployed)
            except HostProblem as problem:
                problems[deployed.name] = [str(problem)]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, hosts))
        if problems:
            raise Problem(_listed("Stopped; type the same again to go on.", problems))

    # --- checks

    def _check(self) -> None:
        """Everything that is wrong on any host, at once."""
        reached = [deployed for deployed in self.hosts if deployed.problem is None]
        failed = {deployed.name: [deployed.problem] for deployed in self.hosts if deployed.problem is not None}

        def ask(deployed: Deployed) -> None:
            try:
                find_facts(self.cluster, deployed)
            except HostProblem as problem:
                failed[deployed.name] = [str(problem)]

        self._each(ask, reached)
        for deployed in reached:
            if deployed.name not in failed:
                found = host_checks.problems(self.cluster, deployed.host, deployed.facts, deployed.clock_offset_s)
                failed |= {deployed.name: [*found]} if found else {}
        if failed:
            raise Problem(_listed("Nothing was changed, because:", failed))

    def _warnings(self) -> dict[str, list[str]]:
        found = {d.name: host_checks.warnings(self.cluster, d.host, d.facts) for d in self.hosts}
        return {name: texts for name, texts in found.items() if texts}

    # --- plan

    def _make_tokens(self) -> None:
        """Before any controller's list of tokens is looked at."""
        for deployed in self.hosts:
            if deployed.facts["joined"]:
                self.deployment.forget_token(deployed.name)
            elif has_agent(deployed.host):
                self.deployment.join_token(deployed.name)

    def _plan(self, deployed: Deployed) -> list[Change]:
        joined = deployed.facts["joined"]
        deployed.want = deploy_plan.wanted(
            self.cluster,
            self.deployment,
            deployed.host,
            self.bundle.program,
            self.bundle.wheels,
            self.unit,
            joined,
            guest_file(),
        )
        deployed.planned = deploy_plan.changes(deployed.want, deployed.facts)
        return deployed.planned

    def _show(self, result: Result) -> None:
        """Hosts of which the same is said share a line."""
        lines: dict[tuple[str, str], list[str]] = {}
        for name, texts in result.warnings.items():
            for text in texts:
                lines.setdefault(("warning", text), []).append(name)
        for deployed in self.hosts:
            for change in deployed.planned:
                lines.setdefault((change.step, change.what), []).append(deployed.name)
        if self.asked.dry_run or self.asked.confirm:  # else nobody reads it before it is done
            self._each(self._ask_keeper_plan, self.hosts)
        for deployed in self.hosts:
            for text in deployed.keeper_plan:
                lines.setdefault(("keeper", text), []).append(deployed.name)
        for deployed in self.removed:
            lines.setdefault(("retire", "its units stop, its secrets go"), []).append(deployed.name)
        for (step, text), names in lines.items():
            self._print(f"  {step:12}  {text}  [{', '.join(names)}]")
        if not any(result.changes.values()) and not self.removed:
            self._print("Nothing to change.")

    def _ask_keeper_plan(self, deployed: Deployed) -> None:
        """What the host's keeper would do, where the new program is there already and the host is part of the cloud."""
        there = self.bundle.program in deployed.facts["programs"] and deploy_plan.runs(deployed.facts)
        if not deployed.planned or not there:
            return
        try:
            found = deployed.ask("would_do", {"program": self.bundle.program}, limit_s=90)["plan"]
            deployed.keeper_plan = _keeper_lines(found)
        except HostProblem as problem:
            deployed.keeper_plan = [f"its plan is not known: {problem}"]

    # --- changes

    def _apply(self) -> None:
        fresh = {deployed.name for deployed in self.hosts if not deploy_plan.runs(deployed.facts)}
        careful = self.deployment.was_ready
        touched = [d.name for d in self.hosts if deploy_plan.restarts(d.planned) and d.name not in fresh]
        ready = self._ready_hosts() if careful else set()
        order = deploy_plan.groups(self.cluster, fresh, careful, ready)
        refused = deploy_plan.refusal(
            self.cluster, [name for group in order for name in group if name in touched], ready
        )
        if careful and refused and not self.asked.force:
            raise Problem(f"{refused} Nothing was changed. Repair it first (trilith status), or type --force.")
        self.deployment.remember([deployed.host for deployed in self.hosts])
        relay = PackageRelay(cache_directory() / "packages", self.cluster.ssh, self.deployment.known_hosts)
        with relay:
            applier = Applier(self.bundle, relay, self.say)
            self._each(applier.prepare, self.hosts)
            self._each(self._retire, self.removed)
            by_name = {deployed.name: deployed for deployed in self.hosts}
            for group in order:
                members = [by_name[name] for name in group if by_name[name].planned]
                if careful and any(d.name in touched for d in members):
                    self._roll(applier, members)
                else:
                    self._each(applier.activate, members)

    def _ready_hosts(self) -> set[str]:
        found = set()
        for deployed in self.hosts:
            if holds_quorum(deployed.ask("keeper")):
                found.add(deployed.name)
        return found

    def _roll(self, applier: Applier, members: list[Deployed]) -> None:
        """A group of hosts that run: emptied, changed, waited for."""
        control = [d.name for d in members if "control" in d.host.roles]
        for name in control:
            if (refused := deploy_plan.quorum_lost(self.cluster, name, self._ready_hosts())) and not self.asked.force:
                raise Problem(f"{refused} Stopped; type the same again when it is.")
        self._drain(control, "drain")
        try:
            self._each(applier.activate, members)
            if lacking := self.watch.wait(members, HOST_READY_S):
                raise Problem(_listed("Stopped, because these do not become ready again:", lacking))
        finally:
            self._drain(control, "ready")

    def _drain(self, names: list[str], state: str) -> None:
        """No controller's HAProxy sends new requests to these (or does so again)."""
        if not names:
            return
        servers = [f"{backend}/{name}" for name in names for backend in BACKENDS]
        for deployed in self.hosts:
            if "control" in deployed.host.roles:
                with contextlib.suppress(HostProblem):
                    deployed.ask("drain", {"servers": servers, "state": state})
        for name in names:
            self.say(name, "traffic", "away from it" if state == "drain" else "back")
        if state == "drain":
            time.sleep(DRAINED_S)

    # --- hosts that leave

    def _retire(self, deployed: Deployed) -> None:
        if deployed.problem:
            text = f"cannot be reached ({deployed.problem}) Its units may still run there: switch it off."
            self.say(deployed.name, "retire", text)
            return
        self.say(deployed.name, "retire", "its units stop, its secrets go")
        deployed.ask("retire", limit_s=300)

    def _retire_credentials(self) -> None:
        """When the others are ready: the credential of a host that left opens nothing any more."""
        controllers = [deployed for deployed in self.hosts if "control" in deployed.host.roles]
        for deployed in self.removed:
            url = f"https://{self.cluster.vip}/agent/v1/credentials/host-{deployed.name}"
            status = controllers[0].ask("http_status", {"url": url, "method": "DELETE", "bearer": "controller"})[
                "status"
            ]
            if status not in (200, 204, 404):
                raise Problem(f"{deployed.name}'s credential could not be voided ({status}); type the same again.")
            self.deployment.forget(deployed.name)
            self.say(deployed.name, "retire", "its credential is void; next: openstack compute service delete")

    # --- the end

    def _wait(self) -> None:
        if lacking := self.watch.wait(self.hosts, self.asked.ready_s):
            raise Problem(_listed(f"Not ready after {self.asked.ready_s:.0f} s:", lacking))
        self.deployment.note_ready()


def _keeper_lines(plan: dict[str, Any]) -> list[str]:
    """``trilith host plan --json`` as lines."""
    lines = [f"{engine}: {act}" for engine, acts in plan["acts"].items() for act in acts]
    return [*lines, *(f"{engine}: cannot tell: {why}" for engine, why in plan["problems"].items())]


def _listed(head: str, problems: dict[str, list[str]]) -> str:
    lines = [f"  {name}: {text}" for name, texts in problems.items() for text in texts]
    return "\n".join([head, *lines])
