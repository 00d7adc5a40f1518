"""A whole cloud for tests: `trilith up` in a state directory of its own, and ways to look at it."""

import json
import os
import shutil
import ssl as ssl_module
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trilith.cluster.rehearse import Rehearsal

ROOT = Path(__file__).resolve().parents[2]
OPENSTACK = ROOT / ".venv-clients/bin/openstack"
SSH: tuple[str, ...] = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
SSH += ("-o", "ConnectTimeout=3", "-o", "BatchMode=yes")


class Cloud:
    """A running cloud; `down()` takes everything of it away."""

    def __init__(self, port: int, fake: bool = False, database: str = "", workers: int = 2) -> None:
        """`database`: the URL of one on MariaDB; else SQLite."""
        self.port, self.fake = port, fake
        self.words = ["--port", str(port), "--workers", str(workers), *(["--fake"] if fake else [])]
        self.words += ["--database", database] if database else []
        self.state = Path(tempfile.mkdtemp(prefix="tri-", dir="/var/tmp"))
        self.state.chmod(0o711)  # machines run as another user
        self.home = self.state / "home"
        self.home.mkdir()
        self.env = {**os.environ, "HOME": str(self.home)}
        self.env.pop("XDG_CONFIG_HOME", None)
        cache = Path("/var/cache/trilith") if os.geteuid() == 0 else Path.home() / ".cache/trilith"
        self.env.setdefault("TRILITH_CACHE", str(cache))
        self.names = {"admin": f"trilith-{port}", "demo": f"trilith-{port}-demo"}
        self.url = f"http://127.0.0.1:{port}"
        self.ca_file: Path | None = None
        self.shares_disks = False
        self._tokens: dict[str, str] = {}

    def trilith(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trilith.cli.main", *words, "--state", str(self.state / "cloud")]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=180, cwd=ROOT)
        assert not check or done.returncode == 0, f"trilith {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def up(self) -> None:
        self.trilith("up", *self.words)

    def down(self) -> None:
        self.trilith("down", "--destroy")
        shutil.rmtree(self.state, ignore_errors=True)

    @property
    def tls(self) -> ssl_module.SSLContext | None:
        return ssl_module.create_default_context(cafile=self.ca_file) if self.ca_file else None

    def clouds(self) -> dict[str, Any]:
        import yaml

        text = (self.home / ".config/openstack/clouds.yaml").read_text()
        return dict(yaml.safe_load(text)["clouds"])

    def openstack(self, *words: str, who: str = "admin", check: bool = True) -> subprocess.CompletedProcess[str]:
        """The unmodified stock client."""
        command = [str(OPENSTACK), "--os-cloud", self.names[who], *words]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=150, cwd=self.state)
        assert not check or done.returncode == 0, f"openstack {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def osc(self, *words: str, who: str = "admin") -> Any:
        """The stock client's answer as JSON."""
        return json.loads(self.openstack(*words, "-f", "json", who=who).stdout)

    # plain HTTP, where a client process would only cost time
    def token(self, who: str = "admin") -> str:
        if who not in self._tokens:
            auth = self.clouds()[self.names[who]]["auth"]
            domain = {"name": auth.get("user_domain_name", "Default")}
            user = {"name": auth["username"], "password": auth["password"], "domain": domain}
            scope = {"project": {"name": auth["project_name"], "domain": {"name": "Default"}}}
            body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
            _, headers, _ = self.http("POST", "/identity/v3/auth/tokens", body, token="")
            self._tokens[who] = headers["X-Subject-Token"]
        return self._tokens[who]

    def http(
        self, method: str, path: str, body: Any = None, who: str = "admin", token: str | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """(status, headers, decoded body)."""
        sent = {"Content-Type": "application/json", "Accept": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if (found := self.token(who) if token is None else token) != "":
            sent["X-Auth-Token"] = found
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.tls) as answer:
                content = answer.read()
                return answer.status, answer.headers, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, error.headers, json.loads(content) if content[:1] in (b"{", b"[") else content

    def get(self, path: str, who: str = "admin", **headers: str) -> Any:
        status, _, body = self.http("GET", path, None, who, **headers)
        assert status < 300, (path, status, body)
        return body

    def named(self, path: str, name: str, who: str = "admin") -> dict[str, Any]:
        """The one thing of this name in a list: ``named("/networking/v2.0/networks", "net1")``."""
        rows = next(value for value in self.get(f"{path}?name={name}", who).values() if isinstance(value, list))
        found = [row for row in rows if row["name"] == name]
        assert len(found) == 1, (path, name, found)
        return dict(found[0])


class RehearsedCloud(Cloud):
    """The cluster of a rehearsal, which is there already and stays."""

    def __init__(self, rehearsal: Path) -> None:
        super().__init__(port=0)
        cluster = Rehearsal(rehearsal).cluster
        self.fake, self.home, self.shares_disks = cluster.fake, Path.home(), cluster.ceph is not None
        self.env["HOME"] = str(self.home)
        self.names = {"admin": cluster.name, "demo": f"{cluster.name}-demo"}
        self.url = f"https://{cluster.vip}"
        self.ca_file = Path(self.clouds()[cluster.name]["cacert"])

    def up(self) -> None:
        pass

    def down(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)


def until(condition: Callable[[], Any], for_s: float = 60, what: str = "") -> Any:
    """Waits until it is true; returns its value."""
    give_up = time.monotonic() + for_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < give_up, f"not within {for_s} s: {what or condition}"
        time.sleep(0.2)


def ssh(address: str, key: Path, command: str, for_s: float = 90, user: str = "root", proxy: str = "") -> str:
    """Runs a command in a machine, trying until it lets us in."""
    give_up = time.monotonic() + for_s
    extra = ["-o", f"ProxyCommand={proxy}"] if proxy else []
    while True:
        words = ["ssh", "-i", str(key), *SSH, *extra, f"{user}@{address}", command]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 255:
            assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
            return done.stdout.strip()
        assert time.monotonic() < give_up, f"no login at {address}: {done.stderr}"
        time.sleep(0.5)
