"""Trilith's own processes on this host, as systemd units: which of them, hardened how, and when they may start."""

import hashlib
import http.client
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

import trilith
from trilith.cluster.cluster_file import Role
from trilith.cluster.engines.engine import (
    ServiceUnit,
    Status,
    UnitEngine,
    plan_absent,
    plan_files,
    plan_units,
    unit_status,
)
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.state import WRITER_PORT
from trilith.kernel import tls
from trilith.kernel.reconcile import Act, Doc

GREETING_S = 1.0
ANSWER_S = 2.0
DATABASE_S = 15  # that an API waits for its own controller's database


@dataclass(frozen=True)
class Own:
    """One process: on hosts of which roles, whether it needs SQL to start, and what its unit says besides."""

    name: str
    about: str
    roles: tuple[Role, ...]
    needs_sql: bool = False
    settings: str = ""
    after: str = ""

    @property
    def waits(self) -> str:
        """A controller that boots brings its database back first: a node that is short of processor time while it
        joins disturbs the others. Where that takes long, the process starts and uses another controller's."""
        if not self.needs_sql:
            return ""
        look = "systemctl is-active --quiet mariadb.service"
        return f"ExecStartPre=-/bin/sh -c 'for i in $(seq {DATABASE_S}); do {look} && exit; sleep 1; done'\n"


# Root without any of its powers: it owns the state directory, and has nothing to do elsewhere.
_UNPRIVILEGED = """CapabilityBoundingSet=
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths={state}
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
LockPersonality=yes
KillMode=mixed
"""

# Requests and leases go before what only wakes or writes down.
_FIRST = "Nice=-5\n"

# Machines are children of the agent, and outlive it.
_AGENT = """KillMode=process
OOMScoreAdjust=-800
LimitNOFILE=65536
"""

HANDS: tuple[Role, ...] = ("compute", "network", "storage")  # whose hosts have an agent

OBJECTS = Own("objects", "object store", ("control",), True, _UNPRIVILEGED + _FIRST + "LimitNOFILE=65536\n")

OWN = (
    Own("api", "API", ("control",), True, _UNPRIVILEGED + _FIRST + "OOMScoreAdjust=-300\nLimitNOFILE=65536\n"),
    OBJECTS,
    Own("hub", "hub: wake-ups and consoles", ("control",), False, _UNPRIVILEGED + _FIRST + "LimitNOFILE=65536\n"),
    Own("controller", "controller", ("control",), True, _UNPRIVILEGED + _FIRST),
    Own("agent", "agent of this host", HANDS, settings=_AGENT + _FIRST, after="openvswitch-switch.service"),
)


class OwnUnits(UnitEngine):
    kind = "trilith"

    def present(self) -> bool:
        return any(self._here(own) for own in OWN)

    def files(self) -> list[ConfigFile]:
        command = str(program_directory() / "bin/trilith")
        texts = {unit_path(own): unit_text(own, command, self.view.state.root) for own in OWN if self._here(own)}
        return [ConfigFile(path, text) for path, text in texts.items()]

    def units(self) -> list[ServiceUnit]:
        """With a digest in each drop-in of what is read when a process starts: settings, this host's certificate."""
        read = msgspec.json.encode(self.view.settings) + self.view.tls_text("host.crt").encode()
        dropin = f"# settings {hashlib.sha256(read).hexdigest()[:20]}\n"
        return [ServiceUnit(unit_name(own), (unit_path(own),), dropin) for own in OWN if self._here(own)]

    def observe(self, key: str) -> Doc:
        seen = super().observe(key) or {}
        others = [unit_name(own) for own in OWN if not self._here(own)]
        seen["others"] = {name: asdict(self.view.units.state(name)) for name in others}
        idle = [own for own in OWN if own.needs_sql and self._here(own) and self._is_idle(seen, own)]
        seen["sql"] = not idle or _sql_answers()
        return seen

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return plan(want, seen or {"files": {}, "units": {}, "others": {}, "sql": False})

    def status(self, want: Doc, seen: Doc | None) -> Status:
        found = unit_status(want, seen)
        if seen and not seen["sql"] and not found.ready:
            return replace(found, problem="API and controller start when the database answers.")
        return found

    def complaint(self) -> str | None:
        """Whether API, hub and object store of this controller answer."""
        if not self.view.has_role("control"):
            return None
        settings = self.view.settings
        ports = {"API": settings.port, "hub": settings.hub_port}
        if settings.stores_objects:
            ports["object store"] = settings.objects_port
        for name, port in ports.items():
            if reason := _unhealthy(f"https://{self.view.host.address}:{port}", self.view.tls("ca.crt")):
                return f"The {name} is not ready: {reason}"
        return None

    def _is_idle(self, seen: Doc, own: Own) -> bool:
        return bool(seen["units"][unit_name(own)]["active"] != "active")

    def _here(self, own: Own) -> bool:
        return self.view.has_role(*own.roles) and (own is not OBJECTS or self.view.settings.stores_objects)


def plan(want: Doc, seen: Doc) -> list[Act]:
    """Pure. Processes that need SQL are started when it answers, so that they do not start in vain all the time."""
    acts = plan_absent({"units": seen["others"]})
    if not want["present"]:
        return acts + plan_absent(seen)
    waiting = set() if seen["sql"] else {unit_name(own) for own in OWN if own.needs_sql}
    rest = plan_files(want, seen) or plan_units(want, seen)
    return acts + [act for act in rest if act.do != "start" or act.args["unit"] not in waiting]


def unit_name(own: Own) -> str:
    return f"trilith-{own.name}.service"


def unit_path(own: Own) -> str:
    return f"/etc/systemd/system/{unit_name(own)}"


def unit_text(own: Own, command: str, state_root: Path) -> str:
    return f"""[Unit]
Description=Trilith {own.about}
After=network.target {own.after}
StartLimitIntervalSec=0

[Service]
Environment=TRILITH_STATE={state_root}
{own.waits}ExecStart={command} serve {own.name} --state {state_root}
Restart=always
RestartSec=0.5
TimeoutStopSec=20
{own.settings.format(state=state_root)}
[Install]
WantedBy=multi-user.target
"""


def keeper_unit(command: str, state_root: str) -> str:
    """The text of ``trilith-keeper.service``, which deploy writes; the keeper writes every other unit.

    `command`: ``/opt/trilith/current/bin/trilith``, so that a restart takes the newest program.
    """
    return f"""[Unit]
Description=Trilith keeper: brings this host's engines to what the cluster file says
After=network.target
StartLimitIntervalSec=0

[Service]
ExecStart={command} serve keeper --state {state_root}
Restart=always
RestartSec=0.5
KillMode=mixed
TimeoutStopSec=5
OOMScoreAdjust=-900
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""


def program_directory() -> Path:
    """Where this very program lies: ``/opt/trilith/DIGEST``. Units name it, so that a new program restarts them."""
    return Path(trilith.__file__).resolve().parents[1]


def _sql_answers() -> bool:
    """Whether a database server greets behind the local HAProxy."""
    try:
        with socket.create_connection(("127.0.0.1", WRITER_PORT), GREETING_S) as connection:
            connection.settimeout(GREETING_S)
            return bool(connection.recv(1))
    except OSError:
        return False


def _unhealthy(url: str, ca_file: Path) -> str | None:
    try:
        connection = tls.connect(url, ANSWER_S, ca_file)
        try:
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
            return None if status == 200 else f"{url}/healthz answers {status}."
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error or type(error).__name__}."
