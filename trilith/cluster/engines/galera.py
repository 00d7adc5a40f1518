"""The database: MariaDB with Galera on every controller. What happens when is in `galera_plan`; here is how.

mariadb.service is never enabled and never restarted by systemd: whether and how a node may start depends on the others,
and the keeper, which asks them, decides it each time.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from trilith.cluster.cluster_file import Host
from trilith.cluster.engines import galera_node as node
from trilith.cluster.engines.engine import HostView, ServiceUnit, Status, UnitEngine, plan_absent, plan_files
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.engines.galera_plan import UNIT, WAITS_S, next_step
from trilith.cluster.state import State
from trilith.kernel.reconcile import Act, Doc

PORT = 3306
CONF = "/etc/mysql/mariadb.conf.d/99-trilith.cnf"
TLS_DIRECTORY = "/etc/mysql/trilith"
TLS_FILES = ("ca.crt", "host.crt", "host.key")
BUFFER_POOL_MIB = 64
ORDERLY_STOP_S = 60.0

DROPIN = f"""Restart=no
TimeoutStopSec={ORDERLY_STOP_S:.0f}
SendSIGKILL=yes
OOMScoreAdjust=-600
Nice=-10
ExecStartPost=-+/bin/rm -f {node.START_FILE}
"""

# When a node vanishes, writes stall for suspect_timeout and about a second more. The other timeouts count when several
# are slow at once; where they are short too, a starved processor splits the survivors.
PROVIDER_OPTIONS = {
    "gcache.size": "64M",
    "gcache.page_size": "16M",
    "gcache.recover": "yes",
    "evs.keepalive_period": "PT0.3S",
    "evs.inactive_check_period": "PT0.2S",
    "evs.suspect_timeout": "PT1.5S",
    "evs.inactive_timeout": "PT5S",
    "evs.install_timeout": "PT5S",
    "repl.causal_read_timeout": "PT6S",  # less than a client waits for its answer
    "pc.recovery": "true",
    "socket.ssl": "yes",
    "socket.ssl_key": f"{TLS_DIRECTORY}/host.key",
    "socket.ssl_cert": f"{TLS_DIRECTORY}/host.crt",
    "socket.ssl_ca": f"{TLS_DIRECTORY}/ca.crt",
}

UNSAID: Doc = {
    "lost": [],
    "steady": False,
    "waited_s": 0.0,
    "transfer": False,
    "attempts": 0,
    "stale": False,
    "data_mib": 0,
}
"What the keeper of an older program, during a rolling upgrade, does not say of its node."


class Galera(UnitEngine):
    kind = "galera"

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self.probe = node.Probe()
        self._position = node.Position(view.state.run / "galera-position.json")
        self._lost_file = lost_file(view.state)
        self._size = node.Size()
        self._attempts = 0
        self._quorum_at = 0.0  # when it last was part of one, by the monotonic clock; as far as this process has seen

    def present(self) -> bool:
        return self.view.has_role("control")

    def pages(self) -> dict[str, Callable[[], tuple[int, str]]]:
        if self.present():
            self.probe.watch()
        return {"/galera": self.probe.page}

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit(UNIT, (CONF, *(f"{TLS_DIRECTORY}/{name}" for name in TLS_FILES)), DROPIN)]

    def files(self) -> list[ConfigFile]:
        text = self.view.tls_text
        keys = [ConfigFile(f"{TLS_DIRECTORY}/{name}", text(name), 0o640, "root", "mysql") for name in TLS_FILES]
        return [ConfigFile(CONF, configuration(self.view)), *keys]

    def want(self) -> Doc:
        order = [host.name for host in self.view.controllers]
        return {**super().want(), "me": self.view.host.name, "order": order}

    def observe(self, key: str) -> Doc:
        seen = super().observe(key) or {}
        if not self.present():
            return seen
        mine = self._mine(seen)
        nodes: dict[str, Doc | None] = {self.view.host.name: mine}
        calm = mine["primary"] and mine["synced"] and not mine["stale"]
        if not calm:
            nodes |= {peer.name: self._theirs(peer) for peer in self.view.peers("control")}
        serves = mine["primary"] and mine["synced"]
        right = serves and self._accounts().right()
        return {**seen, "nodes": nodes, "installed": node.installed(), "accounts_right": right}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return plan(want, seen or {"units": {}})

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"]:
            return Status(seen is not None and not plan_absent(seen))
        mine = seen["nodes"][want["me"]]
        step = next_step(want, seen)
        serves = mine["primary"] and mine["synced"] and not mine["stale"]
        ready = serves and step.act is None and not plan_files(want, seen)
        return Status(ready, step.why or None, mine)

    def perform(self, key: str, act: Act) -> None:
        units = self.view.units
        match act.do:
            case "install":
                node.install()
            case "found" | "bootstrap":
                if act.do == "bootstrap":
                    node.allow_bootstrap()
                node.how_to_start(new_cluster=True)
                units.start(UNIT, wait=False)
            case "form" | "join":
                self._attempts += 1
                node.how_to_start(method=act.args.get("method"))
                units.start(UNIT, wait=False)
            case "recover_position":
                self._position.find(units.state(UNIT).invocation)
            case "forget_view":
                node.forget_view()
            case "forget_lost":
                self._lost_file.unlink(missing_ok=True)
            case "revive":
                self._revive()
            case "give_up":
                units.stop(UNIT)
                node.forget_view()
            case "stop" if "unit" not in act.args:
                units.stop(UNIT, ORDERLY_STOP_S if act.args.get("orderly") else 10.0)
            case "accounts":
                self._accounts().make()
            case _:
                super().perform(key, act)

    def _mine(self, seen: Doc) -> Doc:
        """This host's node document (see `galera_plan`)."""
        unit = seen["units"][UNIT]
        answer = self.probe.last()
        running = unit["active"] not in ("inactive", "failed")
        if answer.primary:
            self._quorum_at = time.monotonic()
        if answer.synced:
            self._attempts = 0
        mine = node.stored()
        if not running and mine["data"] and mine["seqno"] is None:
            mine |= self._position.read(unit["invocation"]) or {}
        waited_s = time.monotonic() - max(self._quorum_at, unit["started_s"]) if running else 0.0
        want = self.want()
        return {
            **mine,
            "phase": "running" if running else "stopped",
            "candidate": not plan_files(want, seen),
            "primary": running and answer.primary,
            "synced": running and answer.synced,
            "size": answer.size,
            "transfer": running and not answer.synced and bool(node.transfers()),
            "committed": answer.committed,
            "steady": running and bool(mine["view"]) and node.view_is_of_process_since(unit["started_s"]),
            "waited_s": next(limit_s for limit_s in WAITS_S if waited_s >= limit_s),
            "attempts": self._attempts,
            "stale": unit["active"] == "active" and unit["runs_with"] != want["units"][UNIT]["digest"],
            "data_mib": self._size.mib() if answer.primary else 0,
            "lost": self._lost(),
        }

    def _revive(self) -> None:
        """Only if it still is connected with most of them: the plan may be a second old."""
        answer = self.probe.ask()
        if not answer.primary and 2 * answer.size > len(node.stored()["members"]):
            node.revive()

    def _theirs(self, peer: Host) -> Doc | None:
        document = self.view.ask_peer(peer) or {}
        detail: Doc = document.get("engines", {}).get(self.kind, {}).get("detail", {})
        return {**UNSAID, **detail} if detail else None

    def _accounts(self) -> node.Accounts:
        addresses = ("127.0.0.1", *(host.address for host in self.view.controllers))
        return node.Accounts("trilith", self.view.secret("database"), addresses, "trilith")

    def _lost(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(self._lost_file.read_text().split())
        return []


def lost_file(state: State) -> Path:
    """Names of controllers that are lost for good, and whose data need not be waited for."""
    return state.run / "database-without"


def plan(want: Doc, seen: Doc) -> list[Act]:
    """Pure."""
    if not want["present"]:
        return plan_absent(seen)
    unit = seen["units"][UNIT]
    if unit["enabled"]:
        return [Act("disable", {"unit": UNIT})]
    if acts := plan_files(want, seen):
        return acts
    if unit["active"] == "deactivating":
        return []
    step = next_step(want, seen)
    return [step.act] if step.act else []


def configuration(view: HostView) -> str:
    """my.cnf of this node."""
    addresses = ",".join(host.address for host in view.controllers)
    options = ";".join(f"{name}={value}" for name, value in PROVIDER_OPTIONS.items())
    return f"""# Written by Trilith's keeper; changes are overwritten.
[mysqld]
bind-address={view.host.address}
port={PORT}
skip-name-resolve
default_storage_engine=InnoDB
character-set-server=utf8mb4
collation-server=utf8mb4_bin
binlog_format=ROW
innodb_autoinc_lock_mode=2
# a commit is on this disk before it is acknowledged: the controllers may share one power feed
innodb_flush_log_at_trx_commit=1
innodb_buffer_pool_size={BUFFER_POOL_MIB}M
innodb_log_file_size=32M
innodb_log_buffer_size=4M
key_buffer_size=1M
aria_pagecache_buffer_size=1M
query_cache_size=0
table_open_cache=400
table_definition_cache=400
max_connections=500
# checks that connect and go away must not lock a controller out
max_connect_errors=1000000
max_allowed_packet=64M
performance_schema=OFF
# not pool-of-threads: it breaks large results off over TLS
thread_handling=one-thread-per-connection
# a client that vanished inside a writing transaction frees the queue of writers
idle_write_transaction_timeout=2
ssl_key={TLS_DIRECTORY}/host.key
ssl_cert={TLS_DIRECTORY}/host.crt
ssl_ca={TLS_DIRECTORY}/ca.crt
wsrep_on=ON
wsrep_provider=/usr/lib/galera/libgalera_smm.so
wsrep_cluster_name={view.settings.cluster.name}
wsrep_cluster_address=gcomm://{addresses}
wsrep_node_address={view.host.address}
wsrep_node_name={view.host.name}
wsrep_sst_method=mariabackup
wsrep_sst_auth=mysql:
wsrep_slave_threads=2
wsrep_retry_autocommit=4
wsrep_provider_options="{options}"
[sst]
ssl-mode=VERIFY_CA
"""
