"""A process with Ceph's bindings (`ceph_bindings`), that is started when it is first asked and whenever it has died."""

import json
import subprocess
import threading
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from pathlib import Path
from typing import IO, Any

from trilith.kernel.errors import Unavailable

PROGRAM = Path(__file__).with_name("ceph_bindings.py")
SYSTEM_PYTHON = "/usr/bin/python3"
END_S = 5.0
Doc = dict[str, Any]
Waiting = dict[int, "Future[Doc]"]


class CephFault(Exception):
    """Ceph said no. `errno` as it gave it, 0: none."""

    def __init__(self, errno: int, said: str) -> None:
        super().__init__(said)
        self.errno = errno


class CephProcess:
    """`argv`: of `ceph_bindings`, from the Python on. Of any thread; acts run beside each other."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._argv, self._environment = argv, environment
        self._process: subprocess.Popen[str] | None = None
        self._waiting: Waiting = {}
        self._number = 0
        self._ended: weakref.finalize[..., CephProcess] | None = None
        self._lock = threading.Lock()

    def call(self, do: str, limit_s: float, **args: Any) -> Any:
        """The act's answer. `CephFault` when Ceph refuses, `Unavailable` when none comes within `limit_s`; the process
        is ended then, because whatever it waits for may hold others up."""
        asked: Future[Doc] = Future()
        with self._lock:
            process, waiting = self._running()
            self._number += 1
            waiting[self._number] = asked
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"number": self._number, "do": do, "args": args}) + "\n")
                process.stdin.flush()
            except OSError as error:
                raise Unavailable(f"rbd {do}: the process with Ceph's bindings has ended.") from error
        try:
            answer = asked.result(limit_s)
        except NoAnswer:
            process.kill()
            raise Unavailable(f"rbd {do} did not end within {limit_s:.0f} s.") from None
        if "said" in answer:
            raise CephFault(answer["errno"], answer["said"])
        return answer["answer"]

    def _running(self) -> tuple["subprocess.Popen[str]", Waiting]:
        if self._process is None or self._process.poll() is not None:
            pipe = subprocess.PIPE
            try:
                self._process = subprocess.Popen(
                    self._argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", env=self._environment
                )
            except FileNotFoundError as error:
                raise Unavailable(f"{error.filename} is not installed; install python3-rbd and util-linux.") from error
            if self._ended is not None:
                self._ended.detach()
            self._ended = weakref.finalize(self, _end, self._process)
            self._waiting = {}
            reader = threading.Thread(target=_read, args=(self._process, self._waiting), daemon=True)
            reader.start()
        return self._process, self._waiting


def _read(process: "subprocess.Popen[str]", waiting: Waiting) -> None:
    """Gives answers to whoever waits for them; when the process ends, that."""
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    complaints = threading.Thread(target=_keep_last, args=(process.stderr, said), daemon=True)
    complaints.start()
    for line in process.stdout:
        answer: Doc = json.loads(line)
        waiting.pop(answer["number"]).set_result(answer)
    code = process.wait()
    complaints.join(END_S)
    why = said[-1].strip() if said else f"code {code}"
    while waiting:
        _, asked = waiting.popitem()
        asked.set_exception(Unavailable(f"The process with Ceph's bindings ended: {why[-300:]}"))


def _keep_last(stream: IO[str], said: list[str]) -> None:
    for line in stream:
        said[:] = [line] if line.strip() else said


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(END_S)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
