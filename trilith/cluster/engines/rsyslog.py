"""rsyslog: every host sends everything that its programs say to the logging hosts, over TLS, and loses nothing while
one of these is away; a logging host keeps it by host, day and program, as JSON lines, for a bounded time.

Files are the first buffer: what Trilith and the engines write there is read from where rsyslog was the last time. The
second is a queue on disk for each logging host, out of which goes what that host has acknowledged. That is why it is
RELP: plain syslog over TCP loses what lies in the socket (1,500 lines in a trial) when a logging host loses its power.
"""

import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any

from trilith.cluster.cluster_file import Host
from trilith.cluster.engines.engine import ServiceUnit, UnitEngine, make_want
from trilith.cluster.engines.files import ConfigFile, below
from trilith.kernel.reconcile import Act, Doc

PORT = 6514
CONF = "/etc/rsyslog.conf"
STORE = "/var/log/trilith"
SPOOL = "/var/spool/rsyslog"
QUEUE_DISK_MIB, QUEUE_LINES = 1024, 2_000_000  # for each logging host that is away
KEPT_DAYS = 30
KEPT_MIB = 10 * 1024
ROTATE_MIB = 32  # a process's own file; as much again lies beside it
LOOK_EACH_S = 60.0
# Where engines write files instead of talking to syslog: path, and the program that it is
FILES = (
    ("/var/log/ovn/ovn-controller*.log", "ovn-controller"),
    ("/var/log/ovn/ovn-northd*.log", "ovn-northd"),
    ("/var/log/ovn/ovsdb-server-nb*.log", "ovsdb-server-nb"),
    ("/var/log/ovn/ovsdb-server-sb*.log", "ovsdb-server-sb"),
    ("/var/log/openvswitch/ovs-vswitchd*.log", "ovs-vswitchd"),
    ("/var/log/openvswitch/ovsdb-server*.log", "ovsdb-server"),
    ("/var/log/rabbitmq/*.log", "rabbitmq"),
    ("/var/log/mysql/error*.log", "mariadbd"),
)


class Rsyslog(UnitEngine):
    kind = "rsyslog"
    _looked_at_s = float("-inf")
    _stored: Doc = {"today": "", "days": {}}
    _grown: list[str] = []

    def present(self) -> bool:
        """Where there is no logging host, the host's own journal has to do."""
        return bool(self._stores())

    def files(self) -> list[ConfigFile]:
        host, stores = self.view.host, self._stores()
        tls = self.view.state.secrets / "tls"
        parts = [_beginning(host)]
        parts += [_input(f"{self.view.state.log}/*.jsonl", "trilith")]
        parts += [_input(path, program) for path, program in FILES]
        if self.view.has_role("logging"):
            parts.append(_store(host, tls, [each.name for each in self.view.settings.cluster.hosts]))
        parts += [_forward(store, tls) for store in stores]
        return [ConfigFile(CONF, "\n".join(parts))]

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit("rsyslog.service", (CONF,), "Nice=10\n")]

    def want(self) -> Doc:
        want = super().want()
        if want["present"]:
            given = {name: value for name, value in want.items() if name not in ("id", "generation", "present")}
            kept = {"days": KEPT_DAYS, "mib": KEPT_MIB} if self.view.has_role("logging") else None
            return make_want(True, **given, kept=kept)
        return want

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is not None and self.present():
            self._look()
            seen |= {"stored": self._stored, "grown": self._grown}
        return seen

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return super().plan(want, seen) or plan_files_kept(want, seen or {})

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "rotate":
                path = self.view.state.log / act.args["file"]
                if path.exists():
                    path.rename(path.with_name(f"{path.name}.1"))
            case "remove_day":
                for host in _directories(self._store):
                    shutil.rmtree(host / act.args["day"], ignore_errors=True)
            case _:
                super().perform(key, act)
                return
        self._looked_at_s = float("-inf")

    def detail(self, seen: Doc) -> Doc:
        stored = seen.get("stored", {}).get("days", {})
        return {"stored_mib": round(sum(stored.values()) / 1024), "stored_days": len(stored)} if stored else {}

    def _stores(self) -> list[Host]:
        return self.view.settings.cluster.with_role("logging")

    @property
    def _store(self) -> Path:
        return below(self.view.root, STORE)

    def _look(self) -> None:
        """At sizes; each minute is enough."""
        if time.monotonic() < self._looked_at_s + LOOK_EACH_S:
            return
        self._looked_at_s = time.monotonic()
        days: dict[str, int] = {}
        for host in _directories(self._store):
            for day in _directories(host):
                kib = sum(file.stat().st_size for file in day.iterdir() if file.is_file()) // 1024 + 1
                days[day.name] = days.get(day.name, 0) + kib
        self._stored = {"today": date.today().isoformat(), "days": days}
        logs = self.view.state.log.glob("*.jsonl")
        self._grown = sorted(path.name for path in logs if path.stat().st_size > ROTATE_MIB << 20)


def plan_files_kept(want: Doc, seen: Doc) -> list[Act]:
    """What has grown is renamed, so that its writer begins anew; of what is stored, the oldest days go. `days`: KiB."""
    acts = [Act("rotate", {"file": name}) for name in seen.get("grown", [])]
    kept: dict[str, Any] | None = want.get("kept")
    if not kept or not seen.get("stored"):
        return acts
    days, today = seen["stored"]["days"], seen["stored"]["today"]
    left_kib = sum(days.values())
    for day in sorted(days):
        if day >= today or (_age_days(day, today) <= kept["days"] and left_kib <= kept["mib"] * 1024):
            continue
        left_kib -= days[day]
        acts.append(Act("remove_day", {"day": day}))
    return acts


def _age_days(day: str, today: str) -> int:
    try:
        return (date.fromisoformat(today) - date.fromisoformat(day)).days
    except ValueError:
        return 0  # no day of ours: stays


def _directories(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


# --- the configuration's text


def _beginning(host: Host) -> str:
    """The journal has what programs and the kernel say; where it was read to stands in a file: no restart loses it."""
    return f"""# Made by Trilith; changes are overwritten.
global(localHostname="{host.name}" workDirectory="{SPOOL}" maxMessageSize="64k" preserveFQDN="on")
module(load="imjournal" stateFile="journal" persistStateInterval="20" rateLimit.interval="0")
module(load="imfile" mode="inotify")
module(load="omrelp" tls.tlslib="gnutls")
"""


def _input(path: str, program: str) -> str:
    return (
        f'input(type="imfile" file="{path}" tag="{program}:" severity="info" facility="local0" '
        'persistStateInterval="50" reopenOnTruncate="on")'
    )


def _tls(tls: Path, peers: list[str]) -> str:
    names = ", ".join(f'"{name}"' for name in peers)
    files = f'tls.caCert="{tls}/ca.crt" tls.myCert="{tls}/host.crt" tls.myPrivKey="{tls}/host.key"'
    return f'tls="on" tls.authMode="name" tls.permittedPeer=[{names}]\n  {files}'


def _forward(store: Host, tls: Path) -> str:
    """The queue lies on disk, so that it outlives rsyslog however that ends; when it is full, the newest go."""
    return f"""action(
  type="omrelp" target="{store.address}" port="{PORT}" template="RSYSLOG_SyslogProtocol23Format"
  conn.timeout="3" timeout="10" windowSize="16" {_tls(tls, [store.name])}
  action.resumeRetryCount="-1" action.resumeInterval="1" action.resumeIntervalMax="5"
  queue.type="Disk" queue.filename="to-{store.name}" queue.maxDiskSpace="{QUEUE_DISK_MIB}m" queue.maxFileSize="16m"
  queue.size="{QUEUE_LINES:d}" queue.saveOnShutdown="on" queue.checkpointInterval="1" queue.timeoutEnqueue="1"
)
"""


def _store(host: Host, tls: Path, names: list[str]) -> str:
    day = "%timegenerated:1:10:date-rfc3339%"
    place = f"{STORE}/%hostname:::secpath-replace%/{day}/%programname:::secpath-replace%.jsonl"
    return f"""
module(load="imrelp" tls.tlslib="gnutls")
template(name="place" type="string" string="{place}")
template(name="whole" type="string" string="%msg%\\n")
template(name="line" type="list" option.jsonf="on") {{
  property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="level" name="syslogseverity-text" format="jsonf")
  property(outname="process" name="programname" format="jsonf")
  property(outname="message" name="msg" format="jsonf")
}}
ruleset(name="store") {{
  if $programname == "trilith" and $msg startswith "{{" then {{
    action(type="omfile" dynaFile="place" template="whole" fileCreateMode="0640" dirCreateMode="0750" closeTimeout="5")
  }} else {{
    action(type="omfile" dynaFile="place" template="line" fileCreateMode="0640" dirCreateMode="0750" closeTimeout="5")
  }}
}}
input(type="imrelp" port="{PORT}" address="{host.address}" ruleset="store" maxDataSize="64k" keepAlive="on"
  {_tls(tls, names)})
"""
