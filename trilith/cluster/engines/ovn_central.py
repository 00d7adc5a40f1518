"""OVN's northbound and southbound database on the controllers, one RAFT cluster each, and ovn-northd.

Debian's units with their commands replaced: who makes or joins a database is decided by the plan and done by an act,
never by a start script. Neither database is precious: the northbound one is computed from SQL, the southbound one from
the northbound one.
"""

import contextlib
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from trilith.cluster.cluster_file import Host
from trilith.cluster.engines import ovn_central_plan as plans
from trilith.cluster.engines.engine import (
    HostView,
    ServiceUnit,
    Status,
    UnitEngine,
    make_want,
    plan_absent,
    plan_files,
)
from trilith.cluster.engines.files import below
from trilith.drivers import linux_net, unixctl
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Act, Doc

DIRECTORY, RUN = "/var/lib/ovn", "/run/ovn"
SILENT_MS = 3000  # a member that its leader has not heard for so long
TOOL_S = 20.0


@dataclass(frozen=True)
class Database:
    """`port` is for clients, `raft_port` for the other members."""

    name: str
    title: str
    schema: str
    schema_file: str
    port: int
    raft_port: int
    unit: str

    @property
    def file(self) -> str:
        return f"{DIRECTORY}/trilith-{self.name}.db"

    @property
    def control(self) -> str:
        return f"{RUN}/ovn{self.name}_db.ctl"

    @property
    def socket(self) -> str:
        return f"{RUN}/ovn{self.name}_db.sock"


NORTHBOUND = Database(
    "nb", "northbound", "OVN_Northbound", "/usr/share/ovn/ovn-nb.ovsschema", 6641, 6643, "ovn-ovsdb-server-nb.service"
)
SOUTHBOUND = Database(
    "sb", "southbound", "OVN_Southbound", "/usr/share/ovn/ovn-sb.ovsschema", 6642, 6644, "ovn-ovsdb-server-sb.service"
)
DATABASES = {"nb": NORTHBOUND, "sb": SOUTHBOUND}
NORTHD = "ovn-northd.service"


def remotes(database: Database, controllers: list[Host]) -> str:
    """Where clients find a database: on every controller."""
    return ",".join(_endpoint(host.address, database.port) for host in controllers)


class OvnCentral(UnitEngine):
    kind = "ovn_central"

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self._since: dict[str, float] = {}

    def present(self) -> bool:
        return self.view.has_role("control") and not self.view.settings.fake

    def units(self) -> list[ServiceUnit]:
        servers = [ServiceUnit(each.unit, dropin=self._server(each)) for each in DATABASES.values()]
        return [*servers, ServiceUnit(NORTHD, dropin=self._northd())]

    def want(self) -> Doc:
        base = super().want()
        if not base["present"]:
            return base
        of_unit = {each.unit: name for name, each in DATABASES.items()}
        databases = {name: self._wanted(each) for name, each in DATABASES.items()}
        chassis = [host.name for host in self.view.settings.cluster.hosts if {"network", "compute"} & set(host.roles)]
        units = {unit: doc | {"database": of_unit.get(unit)} for unit, doc in base["units"].items()}
        files, host = base["files"], self.view.host.name
        return make_want(True, files=files, units=units, databases=databases, host=host, chassis=chassis)

    def _wanted(self, database: Database) -> Doc:
        return {
            "title": database.title,
            "address": _endpoint(self.view.host.address, database.raft_port),
            "controllers": [host.name for host in self.view.controllers],
            "members": {host.name: _endpoint(host.address, database.raft_port) for host in self.view.controllers},
        }

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is None:
            return None
        if not self.present():
            return seen | {"left": [name for name, each in DATABASES.items() if self._has_file(each)]}
        databases = {name: self._database(each) for name, each in DATABASES.items()}
        settled = all(plans.is_settled(own, self._wanted(DATABASES[name])) for name, own in databases.items())
        peers = {
            host.name: None if settled else _detail(self.view.ask_peer(host)) for host in self.view.peers("control")
        }
        seen |= {"databases": databases, "peers": peers, "northd": self._northd_seen()}
        seen["mute_s"] = {
            name: self._lasting(f"mute {name}", own["file"] and own["status"] is None)
            for name, own in databases.items()
        }
        seen["leaderless_s"] = {
            name: self._lasting(f"leaderless {name}", _leaderless(seen, name)) for name in DATABASES
        }
        seen["chassis"] = self._chassis() if databases["sb"]["role"] == plans.LEADER else []
        return seen

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None:
            return []
        if not want["present"]:
            return plan_absent(seen) or [Act("discard", {"database": name}) for name in seen.get("left", [])]
        if acts := plan_files(want, seen):
            return acts
        acts = [act for name in want["databases"] for act in plans.plan_database(name, want, seen)]
        strays = [name for name in seen["chassis"] if name not in want["chassis"]]
        return acts or plans.plan_daemons(want, seen) or [Act("forget_chassis", {"name": name}) for name in strays]

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"]:
            return Status(seen is not None and not self.plan(want, seen))
        problem = plans.problem(want, seen)
        return Status(not problem and not self.plan(want, seen), problem, plans.detail(want, seen))

    def perform(self, key: str, act: Act) -> None:
        database = DATABASES.get(act.args.get("database", ""))
        match act.do, database:
            case "found", Database():
                self._found(database)
            case "join", Database():
                self._join(database, act.args["cluster"], act.args["remotes"])
            case "discard", Database():
                self._discard(database)
            case "kick", Database():
                with contextlib.suppress(Refused):  # it is gone already
                    unixctl.ask(Path(database.control), "cluster/kick", database.schema, act.args["member"])
            case "follow", Database():
                unixctl.ask(self._northd_control(), f"{database.name}-cluster-state-reset")
            case "forget_chassis", _:
                self._ovn_sbctl("--if-exists", "chassis-del", act.args["name"])
            case _:
                super().perform(key, act)

    # --- making a database; each ends with one rename

    def _found(self, database: Database) -> None:
        """A cluster of one. What this host has of an older one is kept: no flow goes that comes back later."""
        self.view.units.stop(database.unit)
        file, aside, old = self._paths(database)
        source = database.schema_file
        if file.exists():
            with contextlib.suppress(Unavailable):
                _tool("cluster-to-standalone", str(old), str(file))
                source = str(old)
        _tool("create-cluster", str(aside), source, _endpoint(self.view.host.address, database.raft_port))
        aside.rename(file)
        old.unlink(missing_ok=True)
        self._since.pop(f"leaderless {database.name}", None)  # now it gets its time

    def _join(self, database: Database, cluster: str, others: list[str]) -> None:
        self.view.units.stop(database.unit)
        file, aside, _ = self._paths(database)
        own = _endpoint(self.view.host.address, database.raft_port)
        _tool(f"--cid={cluster}", "join-cluster", str(aside), database.schema, own, *others)
        aside.rename(file)

    def _discard(self, database: Database) -> None:
        self.view.units.stop(database.unit)
        self._paths(database)[0].unlink(missing_ok=True)

    def _paths(self, database: Database) -> tuple[Path, Path, Path]:
        """The file, where a new one is made, and where an old one is read; nothing lies at the last two."""
        file = below(self.view.root, database.file)
        file.parent.mkdir(parents=True, exist_ok=True)
        for lock in file.parent.glob(f".{file.stem}.*.~lock~"):
            lock.unlink(missing_ok=True)
        aside, old = file.with_suffix(".new"), file.with_suffix(".old")
        for path in (aside, old):
            path.unlink(missing_ok=True)
        return file, aside, old

    # --- looking

    def _has_file(self, database: Database) -> bool:
        return below(self.view.root, database.file).exists()

    def _database(self, database: Database) -> Doc:
        nothing: Doc = dict.fromkeys(("cid", "sid", "role", "status", "address"))
        nothing |= {"file": self._has_file(database), "members": []}
        if not nothing["file"]:
            return nothing
        try:
            return nothing | parse_status(unixctl.ask(Path(database.control), "cluster/status", database.schema))
        except Unavailable:
            return nothing
        except Refused:  # it has no such database any more: the cluster has put this member out
            return nothing | {"status": "left"}

    def _northd_control(self) -> Path:
        try:
            pid = Path(f"{RUN}/ovn-northd.pid").read_text().strip()
        except OSError as error:
            raise Unavailable("ovn-northd does not run.") from error
        return Path(f"{RUN}/ovn-northd.{pid}.ctl")

    def _northd_seen(self) -> Doc:
        try:
            control = self._northd_control()
            found = {name: unixctl.ask(control, f"{name}-connection-status").strip() for name in DATABASES}
            return found | {"role": unixctl.ask(control, "status").rpartition(":")[2].strip()}
        except (Unavailable, Refused):
            return {}

    def _chassis(self) -> list[str]:
        try:
            return self._ovn_sbctl("--bare", "--columns=name", "list", "Chassis").split()
        except Unavailable:
            return []

    def _ovn_sbctl(self, *words: str) -> str:
        return linux_net.run(["ovn-sbctl", f"--db=unix:{SOUTHBOUND.socket}", "--timeout=3", *words])

    def _lasting(self, what: str, holds: bool) -> float:
        """For how many seconds this has been so."""
        if not holds:
            self._since.pop(what, None)
            return 0.0
        return time.monotonic() - self._since.setdefault(what, time.monotonic())

    # --- what the units run

    def _tls_words(self) -> str:
        tls = self.view.tls
        return f"--private-key={tls('host.key')} --certificate={tls('host.crt')} --ca-cert={tls('ca.crt')}"

    def _server(self, database: Database) -> str:
        listen = _endpoint(self.view.host.address, database.port, scheme="pssl", port_first=True)
        words = (
            f"/usr/sbin/ovsdb-server -vconsole:off -vsyslog:info -vfile:off --remote=punix:{database.socket} "
            f"--remote={listen} --unixctl={database.control} {self._tls_words()} {database.file}"
        )
        return f"{foreground(words)}\n[Unit]\nStartLimitIntervalSec=0\nConditionPathExists={database.file}\n"

    def _northd(self) -> str:
        ends = " ".join(f"--ovn{name}-db={remotes(each, self.view.controllers)}" for name, each in DATABASES.items())
        words = (
            f"/usr/bin/ovn-northd -vconsole:off -vsyslog:info -vfile:off --pidfile={RUN}/ovn-northd.pid "
            f"{ends} {self._tls_words()}"
        )
        return f"{foreground(words)}\n[Unit]\nStartLimitIntervalSec=0\n"


def foreground(command: str) -> str:
    """Lines that replace what Debian's unit runs: one process in the foreground, started again whatever happens."""
    lines = ["Type=simple", "PIDFile=", "ExecStart=", f"ExecStart={command}", "ExecStop="]
    lines += ["Restart=always", "RestartSec=0.3", "RuntimeDirectory=ovn", "RuntimeDirectoryPreserve=yes"]
    return "\n".join([*lines, "ProtectHome=yes", "PrivateTmp=yes", "NoNewPrivileges=yes"])


def _endpoint(address: str, port: int, scheme: str = "ssl", port_first: bool = False) -> str:
    bracketed = f"[{address}]" if ":" in address else address
    return f"{scheme}:{port}:{bracketed}" if port_first else f"{scheme}:{bracketed}:{port}"


def _tool(*words: str) -> None:
    try:
        done = subprocess.run(["ovsdb-tool", *words], capture_output=True, text=True, check=False, timeout=TOOL_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"ovsdb-tool {words[0]} takes longer than {TOOL_S:.0f} s.") from error
    if done.returncode:
        raise Unavailable(f"ovsdb-tool {words[0]}: {done.stderr.strip()[-300:]}")


def _detail(state: Doc | None) -> Doc | None:
    """What a peer's keeper says of its databases; None when it says nothing yet."""
    engine = ((state or {}).get("engines") or {}).get(OvnCentral.kind) or {}
    detail: Doc | None = engine.get("detail")
    return detail or None


def _leaderless(seen: Doc, name: str) -> bool:
    """Everybody has answered, and nobody leads."""
    if any(peer is None for peer in seen["peers"].values()):
        return False
    everyone = [seen["databases"][name], *(peer[name] for peer in seen["peers"].values())]
    return not any(view["role"] for view in everyone)


def parse_status(text: str) -> Doc:
    """The answer to ``cluster/status``."""
    fields = dict(re.findall(r"^(\w[\w ]*): (.*)$", text, re.MULTILINE))
    whole = r"\(([0-9a-f-]{36})\)"
    members = []
    for sid, address, rest in re.findall(r"^ +\w{4} \((\w{4}) at (\S+)\)(.*)$", text, re.MULTILINE):
        heard = re.search(r"last msg (\d+) ms ago", rest)
        silent = "(self)" not in rest and (heard is None or int(heard[1]) > SILENT_MS)
        members.append({"sid": sid, "address": address, "silent": silent})
    cid, sid = re.search(whole, fields.get("Cluster ID", "")), re.match(r"\w{4}", fields.get("Server ID", ""))
    followed = fields.get("Leader", "unknown") != "unknown"
    return {
        "cid": cid[1] if cid else None,
        "sid": sid[0] if sid else None,
        "role": fields.get("Role") if followed else None,
        "status": fields.get("Status"),
        "address": fields.get("Address"),
        "members": members,
    }
