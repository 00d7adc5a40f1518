"""Ceph: a monitor on each controller, a manager on two of them, an OSD on each storage host. What to do when is in
`ceph_plan`; every key follows from one secret (`trilith.cluster.ceph_access`).

    /var/lib/ceph/mon/trilith    a monitor's data; there when it is whole
    /var/lib/ceph/osd/trilith    an OSD's: its uuid and key first, then its id, then its data
"""

import contextlib
import json
import os
import pwd
import shutil
import time
import uuid
from pathlib import Path

from trilith.cluster import ceph_access
from trilith.cluster.cluster_file import Ceph as CephFile
from trilith.cluster.cluster_file import Host
from trilith.cluster.engines import ceph_plan
from trilith.cluster.engines.ceph_config import (
    MAKE_S,
    MGR_DATA,
    MON_DATA,
    OSD_DATA,
    RUN,
    TOOL_S,
    ask_daemon,
    bracketed,
    configuration,
    keyring,
    new_key,
    quorum,
    rights,
    run,
)
from trilith.cluster.engines.engine import (
    HostView,
    ServiceUnit,
    Status,
    UnitEngine,
    make_want,
    plan_absent,
    plan_files,
)
from trilith.cluster.engines.files import ConfigFile, below
from trilith.cluster.engines.galera_plan import Step
from trilith.cluster.state import write_file
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

CONF, ADMIN_KEYRING = "/etc/ceph/ceph.conf", "/etc/ceph/ceph.client.admin.keyring"
OSD_UNIT = "ceph-osd@trilith.service"
MONITOR_PORT = 3300
MANAGERS = 2
PLACEMENT_GROUPS = 32
BLANK_BYTES = 1 << 22  # of a device, where whoever uses it has left a sign
LOOK_S = 20.0  # between looks at the cluster's health: each takes half a second of a processor
LOOK_AT_ALL_S = 300.0  # at pools and users, which nobody else changes
UNSAID_MONITOR: Doc = {"store": False, "running": False, "quorum": [], "known": [], "stale": False}
UNSAID_OSD: Doc = {"data": "none", "running": False, "serves": False, "stale": False, "id": None, "obstacle": None}
UNKNOWN: Doc = {"pools": None, "users": None, "health": None}
FIRST = "Nice=-10\nOOMScoreAdjust=-500\n"  # disks of machines wait for these
AGAIN = "Restart=always\nRestartSec=2\n[Unit]\nStartLimitIntervalSec=0\n"


class CephPart(UnitEngine):
    """What monitor, manager and OSD of a host have in common: configuration, keys, programs."""

    @property
    def file(self) -> CephFile:
        assert self.view.settings.cluster.ceph is not None
        return self.view.settings.cluster.ceph

    @property
    def ours(self) -> bool:
        """Whether this cluster runs a Ceph of its own."""
        return self.view.settings.cluster.own_ceph is not None

    def files(self) -> list[ConfigFile]:
        return [ConfigFile(CONF, configuration(self.view, self._fsid()))]

    def _fsid(self) -> str:
        control = self.view.has_role("control")
        return ceph_access.cluster_id(self.view.secret("ceph")) if control else self.view.secret("ceph-id")

    def _key(self, entity: str) -> str:
        return ceph_access.derived_key(self.view.secret("ceph"), entity)

    def _below(self, path: str) -> Path:
        return below(self.view.root, path)

    def _told(self, host: Host, kind: str, unsaid: Doc) -> Doc | None:
        """A peer's document of its monitor or OSD; None when its keeper does not answer or does not know yet."""
        document = self.view.ask_peer(host) or {}
        detail = document.get("engines", {}).get(kind, {}).get("detail", {}).get("node")
        return {**unsaid, **detail} if detail else None

    def _osds(self, own: Doc | None = None) -> dict[str, Doc | None]:
        found: dict[str, Doc | None] = {}
        for host in self.view.settings.cluster.with_role("storage"):
            is_me = host.name == self.view.host.name
            found[host.name] = own if is_me and own else self._told(host, CephOsd.kind, UNSAID_OSD)
        return found

    def _has_quorum(self) -> bool:
        """Whether some controller's monitor says so."""
        for host in self.view.controllers:
            if host.name == self.view.host.name:
                told = self._ask_daemon(f"mon.{host.name}", "mon_status") or {}
                found = quorum(told, host.name)
            else:
                found = (self._told(host, CephMon.kind, UNSAID_MONITOR) or UNSAID_MONITOR)["quorum"]
            if found:
                return True
        return False

    def _run(self, *words: str, stdin: str = "", limit_s: float = TOOL_S) -> str:
        return run([*words, "--conf", str(self._below(CONF))], stdin, limit_s)

    def _admin(self, *words: str, stdin: str = "") -> str:
        """As the administrator, who is known on controllers only."""
        own = str(self._below(ADMIN_KEYRING))
        return self._run("ceph", "--connect-timeout=10", "--id=admin", f"--keyring={own}", *words, stdin=stdin)

    def _give(self, path: Path) -> None:
        """To the user that Ceph's programs run as."""
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam("ceph")
            for each in (path, *path.rglob("*")):
                os.chown(each, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def _ask_daemon(self, name: str, command: str) -> Doc | None:
        return ask_daemon(self._below(f"{RUN}/{name}.asok"), command)

    def _is_stale(self, want: Doc, seen: Doc, unit: str) -> bool:
        state = seen["units"][unit]
        return bool(state["active"] == "active" and state["runs_with"] != want["units"][unit]["digest"])

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None:
            return []
        if not want["present"]:
            return plan_absent(seen)
        if acts := plan_files(want, seen):
            return acts
        step = self.step(want, seen)
        return [step.act] if step.act else []

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"]:
            return Status(seen is not None and not plan_absent(seen))
        step = self.step(want, seen)
        ready = step.act is None and not plan_files(want, seen) and self.serves(seen)
        told = step.why if step.problem or not ready else None
        return Status(ready and not step.problem, told or None, {"node": seen["node"]})

    def step(self, want: Doc, seen: Doc) -> Step:
        raise AssertionError("said by each part")

    def serves(self, seen: Doc) -> bool:
        raise AssertionError("said by each part")


class CephMon(CephPart):
    kind = "ceph_mon"

    def present(self) -> bool:
        return self.ours and self.view.has_role("control")

    @property
    def unit(self) -> str:
        return f"ceph-mon@{self.view.host.name}.service"

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit(self.unit, (CONF,), FIRST + AGAIN)]

    def files(self) -> list[ConfigFile]:
        own = keyring({"client.admin": self._key("client.admin")})
        return [*super().files(), ConfigFile(ADMIN_KEYRING, own, 0o600)]

    def want(self) -> Doc:
        want = super().want()
        if not want["present"]:
            return want
        order = [host.name for host in self.view.controllers]
        return make_want(True, files=want["files"], units=want["units"], me=self.view.host.name, order=order)

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is None or not self.present():
            return seen
        name = self.view.host.name
        running = seen["units"][self.unit]["active"] not in ("inactive", "failed")
        told = (self._ask_daemon(f"mon.{name}", "mon_status") or {}) if running else {}
        node = {
            "store": self._below(MON_DATA).is_dir(),
            "running": running,
            "quorum": quorum(told, name),
            "known": [each["name"] for each in told.get("monmap", {}).get("mons", [])],
            "stale": self._is_stale(self.want(), seen, self.unit),
        }
        seen["node"] = node
        others = {host.name: self._told(host, self.kind, UNSAID_MONITOR) for host in self.view.peers("control")}
        seen["monitors"] = {name: node, **others}
        seen["osds"] = {} if node["store"] else self._osds()
        return seen

    def step(self, want: Doc, seen: Doc) -> Step:
        return ceph_plan.monitor_step(want, seen)

    def serves(self, seen: Doc) -> bool:
        return self.view.host.name in seen["node"]["quorum"]

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "found":
                self._found()
            case "join":
                self._join()
            case "start_monitor":
                self.view.units.enable(self.unit)
                self.view.units.start(self.unit)
            case "restart_monitor":
                self.view.units.restart(self.unit)
            case "forget_monitor":
                self._admin("mon", "rm", act.args["name"])
            case _:
                super().perform(key, act)

    def _found(self) -> None:
        part = self._begin()
        host, monmap = self.view.host, part / "monmap"
        address = f"[v2:{bracketed(host)}:{MONITOR_PORT}]"
        words = ["--create", "--addv", host.name, address, "--fsid", self._fsid(), "--set-min-mon-release", "pacific"]
        run(["monmaptool", *words, str(monmap)])
        self._make(part, monmap)

    def _join(self) -> None:
        part = self._begin()
        monmap = part / "monmap"
        self._admin("mon", "getmap", "-o", str(monmap))
        self._make(part, monmap)

    def _begin(self) -> Path:
        part = self._below(f"{MON_DATA}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700, parents=True)
        return part

    def _make(self, part: Path, monmap: Path) -> None:
        """The whole store under another name first: one that is there is whole."""
        all_keys = part / "all-keys"
        caps = {"mon.": {"mon": "allow *"}, "client.admin": dict.fromkeys(("mon", "mgr", "osd"), "allow *")}
        write_file(all_keys, keyring({entity: self._key(entity) for entity in caps}, caps).encode())
        store = part / "store"
        words = ["--mkfs", f"--id={self.view.host.name}", f"--monmap={monmap}", f"--keyring={all_keys}"]
        self._run("ceph-mon", "-f", *words, f"--mon-data={store}", limit_s=MAKE_S)
        keys = keyring({"mon.": self._key("mon.")}, {"mon.": {"mon": "allow *"}})
        write_file(store / "keyring", keys.encode())
        self._give(store)
        os.sync()
        store.rename(self._below(MON_DATA))
        shutil.rmtree(part)


class CephMgr(CephPart):
    """A manager: without one the cloud works, but nobody counts what is used, and nothing is rebalanced."""

    kind = "ceph_mgr"

    def present(self) -> bool:
        return self.ours and self.view.host in self.view.controllers[:MANAGERS]

    @property
    def unit(self) -> str:
        return f"ceph-mgr@{self.view.host.name}.service"

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit(self.unit, (CONF,), AGAIN)]

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is not None and self.present():
            unit = seen["units"][self.unit]
            seen["node"] = {"running": unit["active"] not in ("inactive", "failed"), "keyed": self._keyring.exists()}
            seen["quorum"] = self._has_quorum()
        return seen

    def step(self, want: Doc, seen: Doc) -> Step:
        if not seen["node"]["keyed"]:
            return Step(
                Act("make_manager") if seen["quorum"] else None, "It is registered when the monitors have a quorum."
            )
        if not seen["node"]["running"]:
            return Step(Act("start_manager"), "It starts.")
        stale = self._is_stale(want, seen, self.unit)
        return Step(Act("restart_manager") if stale else None, "It takes its new configuration." if stale else "")

    def serves(self, seen: Doc) -> bool:
        return bool(seen["units"][self.unit]["active"] == "active")

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "make_manager":
                entity = f"mgr.{self.view.host.name}"
                caps = {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"}
                text = keyring({entity: self._key(entity)}, {entity: caps})
                self._admin("auth", "import", "-i", "-", stdin=text)
                self._keyring.parent.mkdir(parents=True, exist_ok=True)
                write_file(self._keyring, keyring({entity: self._key(entity)}).encode())
                self._give(self._keyring.parent)
            case "start_manager":
                self.view.units.enable(self.unit)
                self.view.units.start(self.unit)
            case "restart_manager":
                self.view.units.restart(self.unit)
            case _:
                super().perform(key, act)

    @property
    def _keyring(self) -> Path:
        return self._below(f"{MGR_DATA}/keyring")


class CephOsd(CephPart):
    kind = "ceph_osd"

    def present(self) -> bool:
        return self.ours and self.view.has_role("storage")

    def units(self) -> list[ServiceUnit]:
        """Debian's unit, but for the id, which is known only when there is an OSD."""
        command = f'exec /usr/bin/ceph-osd -f --id "$$(cat {OSD_DATA}/whoami)" --setuser ceph --setgroup ceph'
        dropin = f"ExecStartPre=\nExecStart=\nExecStart=/bin/sh -c '{command}'\n{FIRST}{AGAIN}"
        return [ServiceUnit(OSD_UNIT, (CONF,), dropin)]

    def want(self) -> Doc:
        want = super().want()
        if not want["present"]:
            return want
        order = [host.name for host in self.view.settings.cluster.with_role("storage")]
        return make_want(True, files=want["files"], units=want["units"], me=self.view.host.name, order=order)

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is None or not self.present():
            return seen
        running = seen["units"][OSD_UNIT]["active"] not in ("inactive", "failed")
        told = (self._ask_daemon("osd", "status") or {}) if running else {}
        data, number = self._data()
        node = {
            "data": data,
            "id": number,
            "running": running,
            "serves": told.get("state") == "active",
            "stale": self._is_stale(self.want(), seen, OSD_UNIT),
            "obstacle": None if data == "made" else self._obstacle(),
        }
        seen["node"] = node
        seen["osds"] = self._osds(node)
        seen["quorum"] = data == "made" or self._has_quorum()
        return seen

    def _data(self) -> tuple[str, int | None]:
        home = self._below(OSD_DATA)
        try:
            number = int((home / "whoami").read_text())
        except (FileNotFoundError, ValueError):
            number = None
        if not home.is_dir() or not any(home.iterdir()):
            return "none", number
        if not (home / "trilith").exists():
            return "foreign", number  # not ours to touch
        return ("made" if (home / "mkfs_done").exists() and number is not None else "unfinished"), number

    def _obstacle(self) -> str | None:
        device = self.file.osd_devices.get(self.view.host.name)
        if device is None or (self._below(OSD_DATA) / "block").exists():
            return None
        try:
            with open(device, "rb") as read:
                blank = not any(read.read(BLANK_BYTES))
        except OSError as error:
            return f"{device} cannot be read: {error.strerror}."
        return None if blank else f"{device} is not blank. If its data may go, type on this host: wipefs -a {device}"

    def step(self, want: Doc, seen: Doc) -> Step:
        return ceph_plan.osd_step(want, seen)

    def serves(self, seen: Doc) -> bool:
        return bool(seen["node"]["serves"])

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "make_osd":
                self._make()
            case "start_osd":
                self.view.units.enable(OSD_UNIT)
                self.view.units.start(OSD_UNIT)
            case "restart_osd":
                self.view.units.restart(OSD_UNIT)
            case _:
                super().perform(key, act)

    def _make(self) -> None:
        """Its uuid and key are on disk before Ceph hears of them, so that a second try asks for the same OSD."""
        home = self._below(OSD_DATA)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark = home / "trilith"
        if not mark.exists():
            fresh = new_key()
            write_file(mark, json.dumps({"uuid": str(uuid.uuid4()), "key": fresh}).encode())
        made = json.loads(mark.read_bytes())
        bootstrap = self.view.state.secrets / "ceph-bootstrap"
        self.view.secret("ceph-bootstrap")
        words = ["--connect-timeout=10", "--id=bootstrap-osd", f"--keyfile={bootstrap}", "osd", "new", made["uuid"]]
        number = int(self._run("ceph", *words, "-i", "-", stdin=json.dumps({"cephx_secret": made["key"]})))
        write_file(home / "keyring", keyring({f"osd.{number}": made["key"]}).encode())
        device, block = self.file.osd_devices.get(self.view.host.name), home / "block"
        if device is not None and not block.is_symlink():
            block.symlink_to(device)
        self._give(home)
        self._run("ceph-osd", f"--id={number}", "--mkfs", f"--osd-uuid={made['uuid']}", limit_s=MAKE_S)
        write_file(home / "whoami", f"{number}\n".encode(), 0o644)
        self._give(home)
        os.sync()


class CephCluster(CephPart):
    """Pools and users, and how the cluster is; the first controller in the quorum does and tells it."""

    kind = "ceph"

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self._looked_at_s = self._looked_at_all_s = -LOOK_AT_ALL_S
        self._cluster = UNKNOWN

    def present(self) -> bool:
        return self.ours and self.view.has_role("control")

    def units(self) -> list[ServiceUnit]:
        return []

    def files(self) -> list[ConfigFile]:
        return []

    def want(self) -> Doc:
        if not self.present():
            return make_want(False, files={}, units={})
        uses = {**dict.fromkeys(self.file.pools, "rbd"), self.file.objects_pool: "trilith"}
        sizes = {"size": self.file.size, "min_size": self.file.min_size}
        pools = {name: {**sizes, "use": use} for name, use in uses.items()}
        users = ceph_access.users(self.view.settings.cluster)
        digests = {entity: rights(self._key(entity), caps) for entity, caps in users.items()}
        order = [host.name for host in self.view.controllers]
        return make_want(True, files={}, units={}, pools=pools, users=digests, me=self.view.host.name, order=order)

    def observe(self, key: str) -> Doc | None:
        if not self.present():
            return {"units": {}}
        told = self._ask_daemon(f"mon.{self.view.host.name}", "mon_status") or {}
        node = {"quorum": quorum(told, self.view.host.name)}
        order = [host.name for host in self.view.controllers]
        leads = ceph_plan.leader(order, node) == self.view.host.name
        if leads and time.monotonic() - self._looked_at_s > LOOK_S:
            try:
                if time.monotonic() - self._looked_at_all_s > LOOK_AT_ALL_S:
                    self._cluster = self._look()
                    self._looked_at_all_s = time.monotonic()
                self._cluster = self._cluster | {"health": self._health()}
                self._looked_at_s = time.monotonic()
            except Unavailable as error:
                self._looked_at_all_s = -LOOK_AT_ALL_S
                self._cluster = UNKNOWN | {"health": {"status": "HEALTH_ERR", "problems": [str(error)]}}
        return {"files": {}, "units": {}, "node": {"leads": leads}, "leads": leads, **self._cluster}

    def _look(self) -> Doc:
        pools = json.loads(self._admin("osd", "pool", "ls", "detail", "--format=json"))
        known = json.loads(self._admin("auth", "ls", "--format=json"))["auth_dump"]
        return {
            "pools": {
                pool["pool_name"]: {
                    "size": pool["size"],
                    "min_size": pool["min_size"],
                    "uses": sorted(pool.get("application_metadata", {})),
                }
                for pool in pools
            },
            "users": {each["entity"]: rights(each["key"], each["caps"]) for each in known},
        }

    def _health(self) -> Doc:
        health = json.loads(self._admin("health", "--format=json"))
        problems = [check["summary"]["message"] for check in health.get("checks", {}).values()]
        return {"status": health["status"], "problems": problems}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None or not want["present"] or not seen["leads"] or seen["pools"] is None:
            return []
        return ceph_plan.cluster_acts(want, seen)

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"] or not seen["leads"]:
            return Status(seen is not None)
        health = seen["health"] or {"status": "HEALTH_ERR", "problems": ["nobody has looked yet"]}
        problem = None if health["status"] == "HEALTH_OK" else f"{health['status']}: {'; '.join(health['problems'])}"
        return Status(not self.plan(want, seen) and problem is None, problem, {"node": {"health": health}})

    def perform(self, key: str, act: Act) -> None:
        self._looked_at_s = self._looked_at_all_s = -LOOK_AT_ALL_S
        args, groups = act.args, str(PLACEMENT_GROUPS)
        match act.do:
            case "create_pool":
                sizes = ["--size", str(self.file.size)]
                self._admin("osd", "pool", "create", args["pool"], groups, groups, "replicated", *sizes)
            case "use_pool":
                self._admin("osd", "pool", "application", "enable", args["pool"], args["use"])
            case "set_pool":
                self._admin("osd", "pool", "set", args["pool"], args["name"], str(args["value"]))
            case "grant":
                users = ceph_access.users(self.view.settings.cluster)
                self._admin(
                    "auth", "import", "-i", "-", stdin=keyring({name: self._key(name) for name in users}, users)
                )
            case "revoke":
                self._admin("auth", "rm", args["user"])
            case _:
                raise AssertionError(act.do)
