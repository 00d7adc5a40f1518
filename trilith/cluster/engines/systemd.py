"""systemd's units: what they do now, and acts on them that always end in a bounded time."""

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trilith.kernel.errors import Unavailable

START_S = 10.0
BEGUN_S = 3.0
STOP_S = 10.0  # then SIGKILL: a mariadbd that waits for others ignores SIGTERM
FRESH_S = 1.0
DIGEST_VARIABLE = "TRILITH_CONFIG"
"In the environment of each unit that is ours to configure: the digest of the files that it was started with."

_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,MainPID,InvocationID,NeedDaemonReload,Result,"
    "ExecMainStartTimestampMonotonic"
)


@dataclass(frozen=True)
class UnitState:
    """One unit. `active`: active, inactive, failed, activating, deactivating or reloading. `invocation` changes with
    each start. `started_with`: the digest in the main process's environment, None when it has none.
    `started_s`: when the main process was started, by the monotonic clock."""

    name: str
    loaded: bool = False
    active: str = "inactive"
    sub: str = "dead"
    enabled: bool = False
    pid: int = 0
    invocation: str = ""
    needs_daemon_reload: bool = False
    result: str = "success"
    started_s: float = 0.0
    started_with: str | None = None

    @property
    def stopped(self) -> bool:
        return self.active in ("inactive", "failed")


class Units(Protocol):
    """What engines do to units. All return in a bounded time; `Unavailable` when it did not come to pass."""

    def state(self, name: str) -> UnitState: ...

    def daemon_reload(self) -> None: ...

    def enable(self, name: str) -> None: ...

    def disable(self, name: str) -> None: ...

    def start(self, name: str, wait: bool = True) -> None:
        """With `wait`, at most START_S: a unit that is still activating then is left at it. Else until it has begun."""

    def restart(self, name: str) -> None: ...

    def reload(self, name: str) -> None: ...

    def stop(self, name: str, patience_s: float = STOP_S) -> None:
        """Ends with nothing of the unit running: what does not stop in time is killed."""


class Systemd:
    """The real ones. One `systemctl show` tells about every unit that anybody has asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._states: dict[str, UnitState] = {}
        self._at = 0.0

    def state(self, name: str) -> UnitState:
        with self._lock:
            if name not in self._names or time.monotonic() - self._at > FRESH_S:
                self._names.add(name)
                self._states = _show(sorted(self._names))
                self._at = time.monotonic()
            return self._states.get(name, UnitState(name))

    def daemon_reload(self) -> None:
        self._do("daemon-reload", timeout_s=30)

    def enable(self, name: str) -> None:
        self._do("enable", "--quiet", name, timeout_s=30)

    def disable(self, name: str) -> None:
        self._do("disable", "--quiet", name, timeout_s=30)

    def start(self, name: str, wait: bool = True) -> None:
        self._do("reset-failed", name, timeout_s=5, check=False)
        if wait:
            self._do("start", name, timeout_s=START_S, patient=True)
            return
        self._do("start", "--no-block", name, timeout_s=START_S)
        deadline = time.monotonic() + BEGUN_S
        while self._fresh(name).stopped and time.monotonic() < deadline:
            time.sleep(0.05)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def reload(self, name: str) -> None:
        self._do("reload", name, timeout_s=START_S)

    def stop(self, name: str, patience_s: float = STOP_S) -> None:
        self._do("stop", name, timeout_s=patience_s, check=False, patient=True)
        if not self._fresh(name).stopped:
            self._do("kill", "--signal=KILL", name, timeout_s=5, check=False)
            self._do("stop", name, timeout_s=STOP_S, check=False, patient=True)
        if not self._fresh(name).stopped:
            raise Unavailable(f"{name} does not stop, though it was killed.")

    def _fresh(self, name: str) -> UnitState:
        self._at = 0.0
        return self.state(name)

    def _do(self, *words: str, timeout_s: float, check: bool = True, patient: bool = False) -> None:
        """`patient`: when the time is over, the job goes on and that is well."""
        try:
            done = subprocess.run(
                ["/usr/bin/systemctl", *words], capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            if patient:
                return
            raise Unavailable(f"systemctl {' '.join(words)} took longer than {timeout_s:.0f} s.") from error
        finally:
            self._at = 0.0
        if check and done.returncode:
            raise Unavailable(f"systemctl {' '.join(words)}: {done.stderr.strip()[-300:] or done.returncode}")


def _show(names: list[str]) -> dict[str, UnitState]:
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "show", f"--property={_PROPERTIES}", *names],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unavailable("systemd does not answer.") from error
    blocks = [block for block in done.stdout.split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise Unavailable(f"systemctl show: {done.stderr.strip()[-300:]}")
    return {name: _parse(name, block) for name, block in zip(names, blocks, strict=True)}


def _parse(name: str, block: str) -> UnitState:
    fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    pid = int(fields.get("MainPID", "0"))
    started_s = int(fields.get("ExecMainStartTimestampMonotonic", "0")) / 1e6
    environment = _environment(pid) if pid else {}
    active = fields.get("ActiveState", "inactive")
    if active == "active" and pid and not environment:
        active = "activating"  # or it just ends
    return UnitState(
        name=name,
        loaded=fields.get("LoadState") == "loaded",
        active=active,
        sub=fields.get("SubState", "dead"),
        enabled=fields.get("UnitFileState") == "enabled",
        pid=pid,
        invocation=fields.get("InvocationID", ""),
        needs_daemon_reload=fields.get("NeedDaemonReload") == "yes",
        result=fields.get("Result", "success"),
        started_s=started_s,
        started_with=environment.get(DIGEST_VARIABLE),
    )


def _environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty while it begins, and when it ends."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}
