"""The supervisor: starts a list of processes, starts them again when they end, and can itself be killed at any moment.

Each process leads a session of its own, so that whatever it leaves behind can be found and ended. Pids and start times
stand in ``run/processes.json``. Our own processes die with the supervisor (PR_SET_PDEATHSIG); those marked `survives`
live on and are taken over by the next supervisor through their pid, so that the data plane does not notice.
"""

import contextlib
import hashlib
import json
import logging
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trilith.cluster import proc
from trilith.cluster.process import Process
from trilith.cluster.state import Problem, State, locked, write_file

log = logging.getLogger(__name__)

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HEALTHY_AFTER_S = 10.0  # running this long, the next failure is a first one
STOP_S = 3.0  # between SIGTERM and SIGKILL
READY_POLL_S = 0.02
IDLE_POLL_S = 0.2  # while none is starting
LOG_BYTES = 20 * 1024 * 1024
LOGS_KEPT = 3
ONCE_KNOWN = ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh"]
"""Runs what follows it when it is given a line. At the end of its input, that is without us, it ends instead."""

Condition = Literal["waiting", "starting", "ready", "done", "backoff", "stopped"]


@dataclass(frozen=True)
class Unit(Process):
    """A process, and how the supervisor treats it. `once`: it does its work and ends, and is ready when it has
    ended well. `survives`: it lives on when the supervisor dies."""

    once: bool = False
    survives: bool = False

    @property
    def fingerprint(self) -> str:
        """Changes with what is run: a surviving process is taken over only where this is the same."""
        text = json.dumps([self.argv, sorted(self.env.items()), self.netns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Child:
    """What the supervisor knows about one unit."""

    unit: Unit
    condition: Condition = "waiting"
    pid: int = 0
    pidfd: int = -1
    started_at: float = 0.0  # wall clock
    started: float = 0.0  # monotonic
    restarts: int = 0
    failures: int = 0  # in a row
    start_at: float = 0.0  # monotonic: not before
    last_exit: str = ""
    popen: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def running(self) -> bool:
        return self.pid != 0

    def report(self) -> dict[str, Any]:
        return {
            "name": self.unit.name,
            "pid": self.pid or None,
            "since": self.started_at if self.pid else None,
            "restarts": self.restarts,
            "failures": self.failures if time.monotonic() - self.started < HEALTHY_AFTER_S else 0,
            "state": self.condition,
            "once": self.unit.once,
            "last_exit": self.last_exit,
        }


class Supervisor:
    """Runs `units` until it is told to stop. Unit order is start order; they are stopped in the opposite order."""

    def __init__(self, state: State, units: list[Unit]) -> None:
        self.state = state
        self.children = {unit.name: Child(unit) for unit in units}
        self._stopping = False
        self._since = time.time()
        self._selector = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._nudge_in, self._nudge_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Returns after `stop`, or SIGTERM, with every process ended. `Problem` when there already is a supervisor."""
        with locked(self.state.supervisor_lock) as mine:
            if not mine:
                raise Problem(f"{self.state.root} already has a supervisor; see: trilith status")
            self._take_over()
            listener = self._listen()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
            self._selector.register(self._nudge_in, selectors.EVENT_READ, self._nudged)
            self._selector.register(listener, selectors.EVENT_READ, lambda: self._answer(listener))
            watcher = threading.Thread(target=self._watch_readiness, name="readiness", daemon=True)
            watcher.start()
            rotate_at = 0.0
            while not self._stopping:
                timeout_s = self._start_due()
                for key, _ in self._selector.select(timeout_s):
                    key.data()
                if time.monotonic() >= rotate_at:
                    rotate_at = time.monotonic() + 10
                    rotate_logs(self.state.log)
                    rotate_logs(self.state.ovn)
            self._ended.set()
            self._stop_all()
            listener.close()
            self.state.control_socket.unlink(missing_ok=True)

    def stop(self) -> None:
        self._stopping = True
        self._nudge()

    # --- starting

    def _start_due(self) -> float:
        """Start what may start; returns how long nothing more can happen by the clock, in seconds."""
        now = time.monotonic()
        wait_s = 5.0
        for child in self.children.values():
            if child.running or child.condition in ("done", "stopped"):
                continue
            if not all(self._is_ready(name) for name in child.unit.after):
                child.condition = "waiting"
                continue
            if child.start_at > now:
                wait_s = min(wait_s, child.start_at - now)
                continue
            self._start(child)
        return wait_s

    def _is_ready(self, name: str) -> bool:
        child = self.children.get(name)
        return child is None or child.condition in ("ready", "done")

    def _start(self, child: Child) -> None:
        unit = child.unit
        argv = list(unit.argv)
        if unit.netns:
            argv = ["ip", "netns", "exec", unit.netns, *argv]
        if not unit.survives:
            argv = [shutil.which("setpriv") or "/usr/bin/setpriv", "--pdeathsig", "TERM", "--", *argv]
        environment = {**os.environ, **unit.env, "TRILITH_STATE": str(self.state.root)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without cached byte code every start costs seconds
        descriptor = os.open(
            self.state.log / f"{unit.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            popen = subprocess.Popen(
                [*ONCE_KNOWN, *argv],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            child.last_exit = str(error)
            self._failed(child)
            return
        finally:
            os.close(descriptor)
        child.popen = popen
        self._running(child, popen.pid, time.time())
        self._remember()
        assert popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), popen.stdin:  # only now: the next supervisor would know of it
            popen.stdin.write(b"\n")
        log.info("started", extra={"unit": unit.name, "pid": popen.pid})

    def _running(self, child: Child, pid: int, started_at: float) -> None:
        child.pidfd = os.pidfd_open(pid)
        child.pid = pid
        child.started_at, child.started = started_at, time.monotonic()
        child.condition = "starting"
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._exited(child))

    def _watch_readiness(self) -> None:
        """A thread: asks the starting ones whether they serve, because asking may block for a moment."""
        while not self._ended.wait(READY_POLL_S if self._starting() else IDLE_POLL_S):
            for child in self.children.values():
                pid = child.pid
                if child.condition == "starting" and not child.unit.once and child.unit.ready() and child.pid == pid:
                    child.condition = "ready"
                    log.info(
                        "ready", extra={"unit": child.unit.name, "after_s": round(time.monotonic() - child.started, 2)}
                    )
                    self._nudge()

    def _starting(self) -> bool:
        return any(child.condition == "starting" and not child.unit.once for child in self.children.values())

    # --- ending

    def _exited(self, child: Child) -> None:
        code = child.popen.wait() if child.popen is not None else None
        self._forget(child)
        lived_s = time.monotonic() - child.started
        if child.unit.once and code == 0:
            child.condition = "done"
            child.failures = 0
        else:
            child.last_exit = _exit_words(code)
            log.warning("ended: %s", child.last_exit, extra={"unit": child.unit.name, "lived_s": round(lived_s, 1)})
            if lived_s >= HEALTHY_AFTER_S:
                child.failures = 0
            self._failed(child)
        self._remember()

    def _failed(self, child: Child) -> None:
        child.start_at = time.monotonic() + BACKOFF_S[min(child.failures, len(BACKOFF_S) - 1)]
        child.failures += 1
        child.restarts += 1
        child.condition = "backoff"

    def _forget(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        # workers of a killed parent would keep its port and its locks
        proc.end_session(child.pid, self.state.root, grace_s=0)
        child.pid, child.pidfd, child.popen = 0, -1, None

    def _stop_all(self) -> None:
        """Our own processes at once, then the engines one after the other, last started first."""
        children = [child for child in reversed(self.children.values()) if child.running]
        self._stop_some([child for child in children if not child.unit.survives])
        for child in children:
            if child.unit.survives:
                self._stop_some([child])
        self.state.processes_file.unlink(missing_ok=True)

    def _stop_some(self, children: list[Child]) -> None:
        for child in children:
            _signal(child.pidfd, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in children:
            if not select.select([child.pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                _signal(child.pidfd, signal.SIGKILL)
                select.select([child.pidfd], [], [], 5)
            if child.popen is not None:
                child.popen.wait()
            self._forget(child)
            child.condition = "stopped"

    # --- the next supervisor

    def _remember(self) -> None:
        records = [
            {
                "name": c.unit.name,
                "pid": c.pid,
                "ticks": proc.start_ticks(c.pid),
                "at": c.started_at,
                "is": c.unit.fingerprint,
            }
            for c in self.children.values()
            if c.running
        ]
        document = {"boot_id": proc.boot_id(), "supervisor": os.getpid(), "processes": records}
        write_file(self.state.processes_file, json.dumps(document).encode(), sync=False)

    def _take_over(self) -> None:
        """Of what an earlier supervisor left: keep surviving processes that are what we want, end the rest."""
        for record in remembered(self.state):
            child = self.children.get(record["name"])
            alive = proc.start_ticks(record["pid"]) == record["ticks"]
            if alive and child and child.unit.survives and child.unit.fingerprint == record["is"]:
                with contextlib.suppress(ProcessLookupError):  # it has ended just now
                    self._running(child, record["pid"], record["at"])
                    log.info("taken over", extra={"unit": child.unit.name, "pid": child.pid})
            else:
                proc.end_session(record["pid"], self.state.root, grace_s=STOP_S)
        self._remember()

    # --- control

    def _listen(self) -> socket.socket:
        path = self.state.control_socket
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(16)
        return listener

    def _answer(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(1)
            request = json.loads(connection.makefile("rb").readline() or b"{}")
            if not isinstance(request, dict):
                return
            connection.sendall(json.dumps(self._do(request)).encode() + b"\n")

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "stop":
                self._stopping = True
            case "signal":
                child = self.children.get(request.get("name", ""))
                number = signal.Signals.__members__.get(request.get("signal", "SIGHUP"))
                if child is None or not child.running or number is None:
                    return {"error": "no such process or signal"}
                _signal(child.pidfd, number)
        return {
            "pid": os.getpid(),
            "since": self._since,
            "processes": [child.report() for child in self.children.values()],
        }

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._nudge_out, b".")

    def _nudged(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._nudge_in, 4096)


def ask(state: State, do: str, timeout_s: float = 5.0, **more: str) -> dict[str, Any] | None:
    """Talk to the supervisor of a cloud. None when there is none. `do`: status, stop, signal (name=, signal=)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(state.control_socket))
            connection.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile("rb").readline() or b"null")
        except PermissionError as error:
            raise Problem(
                f"The cloud at {state.root} is another user's. Type it as that user, or with sudo."
            ) from error
        except (OSError, ValueError):
            return None
        return answer


def remembered(state: State) -> list[dict[str, Any]]:
    """The processes that the last supervisor wrote down, if this machine has not been booted since."""
    try:
        document = json.loads(state.processes_file.read_bytes())
    except (OSError, ValueError):
        return []
    records: list[dict[str, Any]] = document["processes"] if document["boot_id"] == proc.boot_id() else []
    return records


def sweep(state: State) -> None:
    """End whatever a dead supervisor left running, engines too. Only while holding the supervisor's lock."""
    for record in reversed(remembered(state)):
        proc.end_session(record["pid"], state.root, grace_s=STOP_S)
    state.processes_file.unlink(missing_ok=True)


def rotate_logs(directory: Path, limit_bytes: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """Full JSON logs are renamed (their writers notice); full raw logs, which writers hold open, are copied and cut."""
    for path in [*directory.glob("*.jsonl"), *directory.glob("*.log")]:
        if path.stat().st_size <= limit_bytes:
            continue
        for number in range(kept - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.rename(path.with_name(f"{path.name}.{number + 1}"))
        first = path.with_name(f"{path.name}.1")
        if path.suffix == ".jsonl":
            path.rename(first)
        else:
            shutil.copyfile(path, first)
            os.truncate(path, 0)


def _signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _exit_words(code: int | None) -> str:
    if code is None:
        return "ended"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
