"""What an engine is to the keeper: a reconciler of this host's part of one program that others wrote.

The want is computed from the cluster file and the host's secrets, so that an engine comes up with no database, no API
and no bus. The world is the host itself: files, units, what the engine answers. Nothing is remembered elsewhere, so the
keeper can be killed at any moment. Wants and what is seen are told to peers and operators: no secret stands in them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from trilith.cluster.cluster_file import Host, Role
from trilith.cluster.engines.files import ConfigFile, put, seen_digest
from trilith.cluster.engines.systemd import DIGEST_VARIABLE, Systemd, Units
from trilith.cluster.state import Settings, State, write_file
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

KEY = "host"  # an engine's one row


@dataclass(frozen=True)
class HostView:
    """What an engine may know: the whole cluster file, this host's state directory, its units, and its peers' keepers.

    `ask_peer(host)` is the state document of another host's keeper (see `trilith.cluster.keeper`), at most a second
    old; None when that keeper does not answer within a second. `root` is where the host's file system begins.
    """

    state: State
    settings: Settings
    ask_peer: Callable[[Host], Doc | None] = lambda host: None
    units: Units = field(default_factory=Systemd)
    root: Path = Path("/")

    @property
    def host(self) -> Host:
        return self.settings.this_host

    @property
    def controllers(self) -> list[Host]:
        """In the order of the file: the first is the one who founds what has to be founded."""
        return self.settings.controllers

    def has_role(self, *roles: Role) -> bool:
        return any(role in self.host.roles for role in roles)

    def peers(self, role: Role) -> list[Host]:
        """The other hosts of a role, in the order of the file."""
        return [host for host in self.settings.cluster.with_role(role) if host.name != self.host.name]

    def secret(self, name: str) -> str:
        """Raises `Unavailable` while deploy has not brought it."""
        try:
            return self.state.secret(name)
        except FileNotFoundError as error:
            raise Unavailable(f"The secret {name} is not on this host yet.") from error

    def tls_text(self, name: str) -> str:
        """The content of a file of `tls`, for engines that run as another user. Raises `Unavailable` as `secret`."""
        try:
            return self.tls(name).read_text()
        except FileNotFoundError as error:
            raise Unavailable(f"{self.tls(name)} is not on this host yet.") from error

    def tls(self, name: str) -> Path:
        """``ca.crt``, ``host.crt``, ``host.key``; on controllers ``vip.pem``."""
        return self.state.secrets / "tls" / name


@dataclass(frozen=True)
class Status:
    """What the keeper tells about an engine. `problem`: a sentence for the operator. `detail`: plain JSON for peers."""

    ready: bool
    problem: str | None = None
    detail: Doc = field(default_factory=dict)


class Engine(Protocol):
    """A reconciler (see `trilith.kernel.reconcile`) with one key, `KEY`, that makes its own want."""

    kind: str
    "The engine's name in states, plans and logs."

    def want(self) -> Doc:
        """See `make_want`. Raises `Unavailable` while a secret is missing."""

    def status(self, want: Doc, seen: Doc | None) -> Status:
        """Pure."""

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]: ...

    def observe(self, key: str) -> Doc | None: ...

    def perform(self, key: str, act: Act) -> None: ...

    def known(self) -> set[str]: ...


def make_want(present: bool, **rest: object) -> Doc:
    """A want whose generation is a digest of it: what was refused is tried again when the want is another."""
    text = json.dumps([present, rest], sort_keys=True)
    return {
        "id": KEY,
        "generation": int(hashlib.sha256(text.encode()).hexdigest()[:12], 16),
        "present": present,
        **rest,
    }


@dataclass(frozen=True)
class ServiceUnit:
    """A systemd service that an engine consists of.

    `reads`: paths of the engine's files that it reads when it starts; when one changes, it is restarted, or reloaded
    where `reloads`. `dropin` is added to a drop-in file of the unit (``[Service]`` and so on), which also takes part.
    """

    name: str
    reads: tuple[str, ...] = ()
    dropin: str = ""
    reloads: bool = False


class UnitEngine(ABC):
    """An engine that is nothing but files and units: say which, and whether it answers. Others may build on its steps.

    Which configuration a process runs with stands in its own environment, so that it is restarted exactly when it
    runs with another, whoever started it and whenever the keeper died.
    """

    kind = ""

    def __init__(self, view: HostView) -> None:
        self.view = view

    @abstractmethod
    def present(self) -> bool:
        """Whether this host shall run it."""

    def files(self) -> list[ConfigFile]:
        """Its configuration. May raise `Unavailable`. Not asked for where it shall not be present."""
        return []

    @abstractmethod
    def units(self) -> list[ServiceUnit]:
        """In the order in which they are started."""

    def complaint(self) -> str | None:
        """Why it does not serve, though its units run; None when it does. Asked at every round: bounded and cheap."""
        return None

    def detail(self, seen: Doc) -> Doc:
        """What peers shall know of it."""
        return {}

    # what follows is the engine

    def known(self) -> set[str]:
        return set()

    def want(self) -> Doc:
        if not self.present():
            return make_want(False, units=[unit.name for unit in self.units()])
        files = self._all_files()
        digests = {path: file.digest for path, file in files.items()}
        units = {unit.name: {"digest": self._digest(unit, files), "reloads": unit.reloads} for unit in self.units()}
        return make_want(True, files=digests, units=units)

    def observe(self, key: str) -> Doc | None:
        units = {unit.name: asdict(self.view.units.state(unit.name)) for unit in self.units()}
        if not self.present():
            return {"units": units}
        for name, unit in units.items():
            unit["runs_with"] = self._reloaded(name, unit["invocation"]) or unit["started_with"]
        files = {path: seen_digest(path, self.view.root) for path in self._all_files()}
        running = all(unit["active"] == "active" for unit in units.values())
        return {"files": files, "units": units, "complaint": self.complaint() if running else None}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        seen = seen or {"files": {}, "units": {}}
        if not want["present"]:
            return plan_absent(seen)
        return plan_files(want, seen) or plan_units(want, seen)

    def status(self, want: Doc, seen: Doc | None) -> Status:
        return unit_status(want, seen, self.detail(seen) if seen and want["present"] else {})

    def perform(self, key: str, act: Act) -> None:
        units, name = self.view.units, act.args.get("unit", "")
        match act.do:
            case "write_file":
                put(self._all_files()[act.args["path"]], self.view.root)
            case "daemon_reload":
                units.daemon_reload()
            case "enable":
                units.enable(name)
            case "start":
                units.start(name)
            case "restart":
                units.restart(name)
            case "reload":
                digest = self._digest(self._unit(name), self._all_files())
                units.reload(name)
                self._note_reloaded(name, digest)
            case "stop":
                units.stop(name)
            case "disable":
                units.disable(name)
            case _:
                raise AssertionError(act.do)

    def _unit(self, name: str) -> ServiceUnit:
        return next(unit for unit in self.units() if unit.name == name)

    def _all_files(self) -> dict[str, ConfigFile]:
        """The engine's own, and the drop-in of each unit."""
        files = {file.path: file for file in self.files()}
        for unit in self.units():
            text = f"[Service]\nEnvironment={DIGEST_VARIABLE}={self._digest(unit, files)}\n{unit.dropin}"
            files[dropin_path(unit.name)] = ConfigFile(dropin_path(unit.name), text)
        return files

    def _digest(self, unit: ServiceUnit, files: dict[str, ConfigFile]) -> str:
        parts = [unit.dropin, *(f"{path} {files[path].digest}" for path in unit.reads)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]

    def _reload_note(self, name: str) -> Path:
        return self.view.state.run / f"reloaded-{name}"

    def _note_reloaded(self, name: str, digest: str) -> None:
        note = json.dumps({"invocation": self.view.units.state(name).invocation, "digest": digest})
        write_file(self._reload_note(name), note.encode(), sync=False)

    def _reloaded(self, name: str, invocation: str) -> str | None:
        """The digest that this very process took by a reload."""
        try:
            note = json.loads(self._reload_note(name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return str(note["digest"]) if note.get("invocation") == invocation else None


def dropin_path(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.d/50-trilith.conf"


def plan_absent(seen: Doc) -> list[Act]:
    acts = []
    for name, unit in reversed(seen["units"].items()):
        if unit["enabled"]:
            acts.append(Act("disable", {"unit": name}))
        if unit["active"] not in ("inactive", "failed"):
            acts.append(Act("stop", {"unit": name}))
    return acts


def plan_files(want: Doc, seen: Doc) -> list[Act]:
    acts = [
        Act("write_file", {"path": path}) for path, digest in want["files"].items() if seen["files"].get(path) != digest
    ]
    if acts:
        return acts
    if any(unit["needs_daemon_reload"] for unit in seen["units"].values()):
        return [Act("daemon_reload")]
    return []


def plan_units(want: Doc, seen: Doc) -> list[Act]:
    acts = []
    for name, wanted in want["units"].items():
        unit = seen["units"][name]
        if not unit["enabled"]:
            acts.append(Act("enable", {"unit": name}))
        if unit["active"] in ("inactive", "failed"):
            acts.append(Act("start", {"unit": name}))
        elif unit["active"] == "active" and unit["runs_with"] != wanted["digest"]:
            reloads = wanted["reloads"] and unit["runs_with"] is not None
            acts.append(Act("reload" if reloads else "restart", {"unit": name}))
    return acts


def unit_status(want: Doc, seen: Doc | None, detail: Doc | None = None) -> Status:
    """Ready when every file is right, every unit runs with it, and nothing complains; absent: when nothing runs."""
    if seen is None:
        return Status(False)
    if not want["present"]:
        return Status(not plan_absent(seen))
    idle = [name for name, unit in seen["units"].items() if unit["active"] != "active"]
    failed = [name for name in idle if seen["units"][name]["active"] == "failed"]
    problem = seen.get("complaint")
    if failed:
        problem = f"{', '.join(failed)} failed. See: journalctl -u {failed[0]}"
    ready = not idle and not problem and not plan_files(want, seen) and not plan_units(want, seen)
    return Status(ready, problem, detail or {})
