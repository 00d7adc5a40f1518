"""A host's end of `trilith deploy`: one SSH connection a host, over which `deploy_on_host` is sent and then asked.

OpenSSH's own client does the rest: keys, agents, jump hosts and names as the user's configuration says. Nothing secret
is in an argument; everything travels on standard input.
"""

import contextlib
import json
import queue
import shlex
import subprocess
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from trilith.cluster.cluster_file import Host, Ssh
from trilith.cluster.state import Problem

CONNECT_S = 10
ASK_S = 60.0
END_S = 3.0
Doc = dict[str, Any]

LOADER = (
    "import sys; there = sys.stdin.buffer; exec(compile(there.read(int(there.readline())), 'trilith-deploy', 'exec'))"
)


class HostProblem(Problem):
    """What a host cannot do, or that it cannot be reached; the sentence does not name the host."""


class Session:
    """The conversation with one host; requests one after another. Raises `HostProblem`."""

    def __init__(self, host: Host, ssh: Ssh, known_hosts: Path, say: Callable[[str], None]) -> None:
        self.host = host
        self.say = say
        self._process = subprocess.Popen(
            command(host, ssh, known_hosts),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        self._answers: queue.SimpleQueue[Doc | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()
        program = resources.files("trilith.cluster").joinpath("deploy_on_host.py").read_bytes()
        self._send(f"{len(program)}\n".encode() + program)
        self._answer(CONNECT_S + ASK_S)

    def ask(self, do: str, args: Doc | None = None, content: bytes = b"", limit_s: float = ASK_S) -> Doc:
        """One step of `deploy_on_host`."""
        head = json.dumps({"do": do, "args": args or {}, "size": len(content)})
        self._send(head.encode() + b"\n" + content)
        return self._answer(limit_s)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(END_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _send(self, content: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost() from error

    def _answer(self, limit_s: float) -> Doc:
        while True:
            try:
                told = self._answers.get(timeout=limit_s)
            except queue.Empty:
                self._process.kill()
                raise HostProblem(f"did not answer within {limit_s:.0f} s.") from None
            if told is None:
                raise self._lost()
            if "say" in told:
                self.say(told["say"])
            elif "problem" in told:
                raise HostProblem(told["problem"])
            else:
                answer: Doc = told["answer"]
                return answer

    def _lost(self) -> HostProblem:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._threads[1].join(END_S)
        return HostProblem(explained("\n".join(self._errors)))

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                self._answers.put(json.loads(line))
            except ValueError:
                self._errors.append(line.decode(errors="replace").strip())  # a shell's greeting
        self._answers.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._errors.append(line.decode(errors="replace").strip())


def command(host: Host, ssh: Ssh, known_hosts: Path, forward: str | None = None) -> list[str]:
    """OpenSSH's argv. `forward`: a ``-R`` that goes along."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": str(known_hosts),
        "HashKnownHosts": "no",
        "ControlPath": "none",
        "LogLevel": "ERROR" if forward is None else "INFO",
    }
    if ssh.key:
        options["IdentitiesOnly"] = "yes"
    argv = ["ssh", "-T", "-p", str(ssh.port), "-l", ssh.user]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    if ssh.key:
        argv += ["-i", str(Path(ssh.key).expanduser())]
    if forward:
        argv += ["-R", forward]
    remote = ["/usr/bin/python3", "-I", "-c", LOADER]
    if ssh.user != "root":
        remote = ["sudo", "-n", *remote]
    return [*argv, host.address, shlex.join(remote)]


def explained(said: str) -> str:
    """What SSH said, as a sentence that says what to do."""
    last = said.strip().splitlines()[-1] if said.strip() else "the connection ended"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said:
        return "its SSH host key is another than before. If it was installed anew: trilith deploy FILE --replace NAME"
    if "Permission denied" in said:
        return f"SSH refuses us ({last}). Put your public key into its authorized_keys, or name a key in `ssh.key`."
    if "sudo:" in said:
        return f"its user may not become root without a password ({last})."
    if "python3: not found" in said or "python3: No such file" in said or "python3: command not found" in said:
        return "python3 is not installed. On that host, type: apt-get install python3"
    return f"cannot be reached over SSH: {last}."


def forget_host(known_hosts: Path, address: str, port: int) -> None:
    """Its key is another now, and taken at the next connection."""
    if known_hosts.exists():
        name = address if port == 22 else f"[{address}]:{port}"
        subprocess.run(["ssh-keygen", "-q", "-R", name, "-f", str(known_hosts)], capture_output=True, check=False)
