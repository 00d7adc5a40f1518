"""RabbitMQ over all controllers: the bus for hints and notifications. What to do when is in `rabbitmq_plan`."""

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

from trilith.cluster.cluster_file import Host
from trilith.cluster.engines import rabbitmq_plan
from trilith.cluster.engines.engine import (
    HostView,
    ServiceUnit,
    Status,
    UnitEngine,
    make_want,
    plan_absent,
    plan_files,
)
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.engines.rabbitmq_plan import Node, Sight
from trilith.cluster.state import write_file
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

PORT = 5671
USER = "trilith"
UNIT = "rabbitmq-server.service"
HOME = "/var/lib/rabbitmq"
CONF, ADVANCED, ENV = "/etc/rabbitmq/rabbitmq.conf", "/etc/rabbitmq/advanced.config", "/etc/rabbitmq/rabbitmq-env.conf"
DEFINITIONS, PEERS_TLS = "/etc/rabbitmq/definitions.json", "/etc/rabbitmq/inter_node_tls.config"
TLS = "/etc/rabbitmq/tls"
COOKIE = f"{HOME}/.erlang.cookie"
MARK = f"{HOME}/trilith-incarnation"
CTL_S = 60.0
ASK_MEMBERS_S = 300.0  # each question starts an Erlang machine
ASK_AGAIN_S = 20.0
CTL_NICENESS = 5
SETTLED_S = 4.0  # after a change: several often come together
MEMORY_MB, DISK_FREE_MB = 400, 200  # absolute: a container sees the memory of all
TICK_S = 4  # until a silent node counts as gone
LEADER_POLL_MS = 1000
FRUGAL = "+S 1:1 +SDcpu 1:1 +SDio 1 +A 8 +sbwt none +sbwtdcpu none +sbwtdio none"  # no spinning between messages


class RabbitMq(UnitEngine):
    kind = "rabbitmq"

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self._members: tuple[str, ...] = ()
        self._ask_at = 0.0
        self._still: object = None  # what has not changed since `_still_since`
        self._still_since = 0.0
        self._asked_about: object = None

    def present(self) -> bool:
        return self.view.has_role("control")

    def units(self) -> list[ServiceUnit]:
        read = (CONF, ADVANCED, ENV, DEFINITIONS, PEERS_TLS, COOKIE, f"{TLS}/host.crt")
        return [ServiceUnit(UNIT, read)]  # its start costs seconds of a processor: at no priority, as it only wakes

    # configuration

    def files(self) -> list[ConfigFile]:
        address = self.view.host.address
        conf = [
            "listeners.tcp = none",
            f"listeners.ssl.default = {address}:{PORT}",
            f"ssl_options.cacertfile = {TLS}/ca.crt",
            f"ssl_options.certfile = {TLS}/host.crt",
            f"ssl_options.keyfile = {TLS}/host.key",
            "ssl_options.verify = verify_none",  # clients give a password
            "ssl_options.fail_if_no_peer_cert = false",
            f"load_definitions = {DEFINITIONS}",
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{n} = {node}" for n, node in enumerate(self._nodes(), 1)),
            "cluster_formation.discovery_retry_limit = 5",
            "cluster_formation.discovery_retry_interval = 500",
            "cluster_partition_handling = pause_minority",
            f"vm_memory_high_watermark.absolute = {MEMORY_MB}MB",
            f"disk_free_limit.absolute = {DISK_FREE_MB}MB",
            f"net_ticktime = {TICK_S}",
            "raft.wal_max_size_bytes = 16777216",
            "log.console = false",
        ]
        env = [
            f"NODENAME={_node(self.view.host.name)}",
            "ERL_SSL_PATH=$(echo /usr/lib/erlang/lib/ssl-*/ebin)",
            f'TLS_DIST="-pa $ERL_SSL_PATH -proto_dist inet_tls -ssl_dist_optfile {PEERS_TLS}"',
            f'SERVER_ADDITIONAL_ERL_ARGS="{FRUGAL} $TLS_DIST"',
            'CTL_ERL_ARGS="$TLS_DIST"',
            f"export ERL_EPMD_ADDRESS={address}",
        ]
        own = {"owner": "rabbitmq", "group": "rabbitmq"}
        return [
            ConfigFile(CONF, _text(conf)),
            ConfigFile(ADVANCED, f"[{{aten, [{{poll_interval, {LEADER_POLL_MS}}}]}}].\n"),
            ConfigFile(ENV, _text(env)),
            ConfigFile(PEERS_TLS, _peers_tls()),
            ConfigFile(DEFINITIONS, _definitions(self.view.secret("rabbitmq")), 0o400, **own),
            ConfigFile(COOKIE, self.view.secret("erlang-cookie"), 0o400, **own),
            *(
                ConfigFile(f"{TLS}/{name}", self._tls_text(name), 0o400, **own)
                for name in ("ca.crt", "host.crt", "host.key")
            ),
        ]

    def _nodes(self) -> list[str]:
        return [_node(host.name) for host in self.view.controllers]

    def _tls_text(self, name: str) -> str:
        try:
            return self.view.tls(name).read_text()
        except FileNotFoundError as error:
            raise Unavailable(f"The certificate {name} is not on this host yet.") from error

    # the engine

    def want(self) -> Doc:
        want = super().want()
        if not want["present"]:
            return want
        own = {"me": self.view.host.name, "controllers": [host.name for host in self.view.controllers]}
        return make_want(True, files=want["files"], units=want["units"], **own)

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is None or not self.present():
            return seen
        node = self._own(seen["units"][UNIT]["active"])
        peers = self._peers()
        seen["node"] = asdict(self._with_members(node, peers))
        seen["peers"] = {name: peer and asdict(peer) for name, peer in peers.items()}
        return seen

    def _own(self, active: str) -> Node:
        mark = _read_mark(self.view.root)
        return Node(
            has_data=(self.view.root / f"{HOME}/mnesia".lstrip("/")).exists(),
            incarnation=mark["incarnation"],
            founder=mark["founder"],
            unit_active=active not in ("inactive", "failed"),
            running=active == "active" and self.answers(),
        )

    def answers(self) -> bool:
        """Its listeners are open: they open last, and close while it is in a minority."""
        try:
            with socket.create_connection((self.view.host.address, PORT), timeout=1.0):
                return True
        except OSError:
            return False

    def _peers(self) -> dict[str, Node | None]:
        return {host.name: self._peer(host) for host in self.view.peers("control")}

    def _peer(self, host: Host) -> Node | None:
        """The node of another controller, as its keeper tells; None when that does not answer or does not know yet."""
        document = self.view.ask_peer(host) or {}
        detail = document.get("engines", {}).get(self.kind, {}).get("detail")
        return Node(**{**detail["node"], "members": tuple(detail["node"]["members"])}) if detail else None

    def _with_members(self, node: Node, peers: dict[str, Node | None]) -> Node:
        """Members are asked for when something may have changed: each question costs a second of a processor."""
        now = time.monotonic()
        running = tuple(sorted(name for name, peer in peers.items() if peer and peer.running))
        reachable = tuple(sorted(name for name, peer in peers.items() if peer))
        blank = tuple(sorted(name for name, peer in peers.items() if peer and not peer.incarnation))
        if (still := (node.running, node.unit_active, running, reachable)) != self._still:
            self._still, self._still_since = still, now
        if not node.running:
            self._ask_at, self._members = 0.0, ()
            return replace(node, stuck_s=round(now - self._still_since, 1))
        # a member that was away and runs again has not changed the list
        new = tuple(name for name in running if name not in self._members)
        if (now >= self._ask_at or (blank, new) != self._asked_about) and now - self._still_since >= SETTLED_S:
            self._ask_at = now + ASK_AGAIN_S  # when there is no answer: on a busy host each question makes it worse
            with contextlib.suppress(Unavailable):
                self._members = self.members()
                self._ask_at = now + ASK_MEMBERS_S
            self._asked_about = blank, tuple(name for name in running if name not in self._members)
        return replace(node, members=self._members)

    def members(self) -> tuple[str, ...]:
        answer = json.loads(self._ctl("--formatter=json", "cluster_status"))
        return tuple(sorted(name.partition("@")[2] for name in answer["disk_nodes"]))

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None:
            return []
        if not want["present"]:
            return plan_absent(seen)
        if acts := plan_files(want, seen):
            return acts
        if acts := rabbitmq_plan.plan(_sight(want, seen)):
            return acts
        unit = seen["units"][UNIT]
        outdated = unit["active"] == "active" and unit["runs_with"] != want["units"][UNIT]["digest"]
        return [Act("restart", {"unit": UNIT})] if outdated else []

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"]:
            return Status(seen is not None and not plan_absent(seen))
        sight = _sight(want, seen)
        whole = set(sight.node.members) == set(sight.controllers)
        problem = rabbitmq_plan.waiting_for(sight)
        if sight.node.running and sight.node.members and not whole:
            missing = sorted(set(sight.controllers) - set(sight.node.members))
            problem = f"Not in the cluster: {', '.join(missing)}." if missing else None
        ready = sight.node.running and bool(sight.node.incarnation) and not self.plan(want, seen)
        return Status(ready, problem, {"node": seen["node"]})

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "wipe":
                self._wipe()
            case "found":
                self._require_nobody_runs()
                newer = max(int(time.time()), act.args["after"] + 1)  # whatever the clock did
                self._enter(rabbitmq_plan.mark(newer, self.view.host.name))
            case "join":
                self._enter(act.args)
            case "adopt":
                self._mark(act.args)
            case "start_node":
                self.view.units.start(UNIT, wait=False)
            case "forget":
                self._ctl("forget_cluster_node", _node(act.args["node"]))
                self._ask_at = 0.0
            case _:
                super().perform(key, act)

    def _wipe(self) -> None:
        """The mark goes last: as long as it is there, what is here belongs to something."""
        self.view.units.stop(UNIT)
        shutil.rmtree(self.view.root / f"{HOME}/mnesia".lstrip("/"), ignore_errors=True)
        self.view.root.joinpath(MARK.lstrip("/")).unlink(missing_ok=True)

    def _require_nobody_runs(self) -> None:
        """A blank node joins whatever runs. Wiping takes seconds, and somebody may have come up meanwhile."""
        if running := sorted(name for name, node in self._peers().items() if node and node.running):
            raise Unavailable(f"RabbitMQ runs on {', '.join(running)} now.")

    def _enter(self, mark: Doc) -> None:
        self._mark(mark)
        self.view.units.start(UNIT, wait=False)

    def _mark(self, mark: Doc) -> None:
        write_file(self.view.root / MARK.lstrip("/"), json.dumps(mark).encode(), 0o644)

    def _ctl(self, *words: str) -> str:
        argv = ["nice", "-n", str(CTL_NICENESS), "/usr/sbin/rabbitmqctl", "--quiet", *words]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=CTL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"rabbitmqctl {words[0]} did not end within {CTL_S:.0f} s.") from error
        if done.returncode:
            raise Unavailable(f"rabbitmqctl {words[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout


def _node(host: str) -> str:
    return f"rabbit@{host}"


def _sight(want: Doc, seen: Doc) -> Sight:
    def node(doc: Doc | None) -> Node | None:
        return Node(**{**doc, "members": tuple(doc["members"])}) if doc else None

    own = node(seen["node"])
    assert own is not None
    return Sight(want["me"], tuple(want["controllers"]), own, {name: node(doc) for name, doc in seen["peers"].items()})


def _read_mark(root: Path) -> Doc:
    try:
        mark: Doc = json.loads((root / MARK.lstrip("/")).read_bytes())
        return mark
    except (FileNotFoundError, ValueError):
        return {"incarnation": 0, "founder": ""}


def _definitions(password: str) -> str:
    """The user, and how much nobody's notifications may take; the rest is declared by who uses it. The salt follows
    from the password, so that the file stays the same."""
    salt = hashlib.sha256(b"salt" + password.encode()).digest()[:4]
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    user = {"name": USER, "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ""}
    everything = {"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    bounds = {"max-length": 100_000, "max-length-bytes": 200_000_000}  # then the oldest go
    policy = {"vhost": "/", "name": "notifications", "pattern": "^notifications[.]", "apply-to": "queues"}
    found = {"users": [user], "vhosts": [{"name": "/"}], "permissions": [everything]}
    return json.dumps(found | {"policies": [policy | {"priority": 0, "definition": bounds}]}, indent=1)


def _peers_tls() -> str:
    """TLS between nodes, both sides verified, as an Erlang term."""
    files = f'{{cacertfile, "{TLS}/ca.crt"}}, {{certfile, "{TLS}/host.crt"}}, {{keyfile, "{TLS}/host.key"}}'
    server = (
        f"{{server, [{files}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}, {{secure_renegotiate, true}}]}}"
    )
    client = f"{{client, [{files}, {{verify, verify_peer}}, {{secure_renegotiate, true}}]}}"
    return f"[{server},\n {client}].\n"


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
