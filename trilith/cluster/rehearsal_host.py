"""One host of a rehearsal: a systemd container with a disk of its own, and the faults that can happen to it.

What it is doing is read from the kernel (its control group), never from a file. Every act may be killed and done again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from trilith.cluster import proc, rehearsal_boot
from trilith.cluster.cluster_file import Host
from trilith.cluster.rehearsal_fabric import Fabric, answers_ssh, port_is_up, set_port
from trilith.cluster.state import Problem, locked, write_file
from trilith.drivers import linux_net

Condition = Literal["running", "booting", "paused", "off"]

CGROUPS = Path("/sys/fs/cgroup")
# Those that a host needs of its own; all hosts would share the caller's otherwise.
HIERARCHIES = ("freezer", "memory", "cpuacct", "systemd", "unified", "pids", "cpu")
# Of this machine's processors, when they are short. Where those have a tree of their own, a cluster's hosts are one
# group in it, so that what comes first on one host (its database) comes before what yields on another (a machine that
# boots): real hosts do not share theirs. In the one tree of newer kernels hosts have weights instead.
SHARED = ("cpu",)
CPU_WEIGHT, CPU_WEIGHT_OF_MACHINES = 200, 60
SHARED_CPU_WEIGHT = 100  # as much as a client has that measures it
# Beyond nspawn's own: links and rules, locked memory, the kernel's log. None that could set this machine's clock.
CAPABILITIES = "CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_SYSLOG"
SYSTEMD_REBOOT = signal.SIGRTMIN + 5  # what PID 1 understands as "reboot in good order"
START_LIMIT_S = 30
DEATH_LIMIT_S = 30
BOOT_LIMIT_S = 120
REBOOT_LIMIT_S = 150  # services may take 90 s to stop
POLL_S = 0.05
GRACE_S = 1.0
WORK, MOUNT = "work", "root"  # beside a host's disk: what an overlay needs, and where its own namespace has it


class SimulatedHost:
    """A host by its name. Faults return when they have happened; `Problem` when they did not within their time."""

    def __init__(self, host: Host, fabric: Fabric, place: Path, image: Path | None, ssh_port: int = 22) -> None:
        self.name = host.name
        self.place = place
        self._host = host
        self._fabric = fabric
        self._image = image
        self._ssh_port = ssh_port
        self._group = fabric.host_netns(host.name)
        self._networks = [wire.name for wire in fabric.wires]

    # --- what it is

    @property
    def condition(self) -> Condition:
        pid = self.pid1
        if pid is None:
            return "off" if self._runner() is None else "booting"
        if _is_frozen(self._group):
            return "paused"
        return "running" if _has_booted(pid) else "booting"

    @property
    def pid1(self) -> int | None:
        """This machine's number for the host's first process."""
        depth = len(_pid_in_namespaces(os.getpid())) + 1
        for pid in self.pids():
            numbers = _pid_in_namespaces(pid)
            if len(numbers) == depth and numbers[-1] == 1:
                return pid
        return None

    def pids(self) -> list[int]:
        """This machine's numbers for all of the host's processes."""
        return [pid for group in _groups(self._group)[:1] for pid in _pids_below(group)]

    def cut_networks(self) -> list[str]:
        return rehearsal_boot.cut_networks(self.place)

    def boot_s(self) -> float | None:
        """How long the last boot took, in seconds from PID 1 to the end of its jobs; None while it boots or is off."""
        pid = self.pid1
        if pid is None or (ended := _booted_at(pid)) is None:
            return None
        ticks = proc.start_ticks(pid)
        return None if ticks is None else round(ended - ticks / os.sysconf("SC_CLK_TCK"), 2)

    def files(self) -> Path:
        """The host's file system as it sees it; of a host that is off, only what it has written itself."""
        pid = self.pid1
        return self.place / "upper" if pid is None else Path(f"/proc/{pid}/root")

    def run(self, argv: Sequence[str], text: str | None = None, timeout_s: float = 60) -> str:
        """Run a program inside, by no network. Raises `Problem` with what it said when it fails or takes too long."""
        pid = self.pid1
        if pid is None:
            raise Problem(f"{self.name} is off. To switch it on: trilith rehearse power-on {self.name}")
        # With the host's own capabilities: root who merely enters could set the clock of this machine.
        enter = ["setpriv", f"--bounding-set={_not_allowed(pid)}", "nsenter", f"--target={pid}", "--all"]
        enter = [*self._beside_its_own(), *enter, "--root", "--wd", "--", *argv]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        try:
            done = subprocess.run(
                enter, input=text, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Problem(f"{self.name}: {argv[0]} took longer than {timeout_s} s.") from error
        if done.returncode != 0:
            raise Problem(f"{self.name}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _beside_its_own(self) -> list[str]:
        """Words before a command: it gets processor time as the hosts' own processes do, not what they leave."""
        shared = next(filter(_is_shared, _groups(self._group)), None)
        enter = 'echo $$ > "$0" && exec "$@"'
        return [] if shared is None else ["sh", "-c", enter, str(shared / "cgroup.procs")]

    # --- power

    def power_on(self, wait: bool = True) -> None:
        """Boot it; with `wait`, until it answers by SSH (on a network that is not cut)."""
        with self._power_switch():
            if self.condition == "off":
                self._end()
                self._prepare_boot()
                self._start_runner()
        if wait:
            self.wait_ready()

    def power_off(self) -> None:
        """A power cut: it falls silent first, then nothing of it lives. Its disk stays."""
        with self._power_switch():
            self._end()

    def _end(self) -> None:
        with rehearsal_boot.wiring(self.place):
            self._silence()
        self._kill_runner()
        own_depth = len(_pid_in_namespaces(os.getpid()))
        began = time.monotonic()
        deadline = began + DEATH_LIMIT_S
        while pids := self.pids():
            for pid in pids:
                inside = len(_pid_in_namespaces(pid)) > own_depth
                if inside or time.monotonic() > began + GRACE_S:  # nspawn tidies up after itself when its host dies
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            _freeze(self._group, False)  # the frozen do not even die
            if time.monotonic() > deadline:
                raise Problem(f"{self.name}: these processes do not end: {pids}. Type the same again.")
            time.sleep(0.01)
        self._sweep()

    def reboot(self, wait: bool = True) -> None:
        """In good order, as `systemctl reboot` does it. `Problem` when it does not come back within its time."""
        before = self.pid1
        if before is None:
            raise Problem(f"{self.name} is off. To switch it on: trilith rehearse power-on {self.name}")
        os.kill(before, SYSTEMD_REBOOT)
        _wait(lambda: self.pid1 not in (before, None), REBOOT_LIMIT_S, f"{self.name} does not reboot")
        if wait:
            self.wait_ready()

    def pause(self) -> None:
        """Freeze all its processes; its links stay up."""
        if self.pid1 is None:
            raise Problem(f"{self.name} is off.")
        _freeze(self._group, True)
        _wait(lambda: _is_frozen(self._group), DEATH_LIMIT_S, f"{self.name} does not freeze")

    def resume(self) -> None:
        _freeze(self._group, False)

    def wait_ready(self) -> None:
        """Until it answers by SSH, or, where its management cable is cut, until it has booted."""

        def ready() -> bool:
            if "management" in self.cut_networks():
                return self.condition == "running"
            return answers_ssh(self._host.address, self._ssh_port)

        _wait(ready, BOOT_LIMIT_S, f"{self.name} does not answer; its console: {self.place}/console.log")

    # --- cables

    def cut(self, network: str = "all") -> None:
        """Pull the cable of a network; it stays pulled until it is healed, whatever happens to the host."""
        self._rewire(network, cut=True)

    def heal(self, network: str = "all") -> None:
        self._rewire(network, cut=False)

    def _rewire(self, network: str, cut: bool) -> None:
        named = self._networks if network == "all" else [network]
        if not set(named) <= set(self._networks):
            raise Problem(f"There is no network {network}; there are: {', '.join(self._networks)}, all.")
        with rehearsal_boot.wiring(self.place):
            others = [name for name in self.cut_networks() if name not in named]
            write_file(self.place / "cut.json", json.dumps(sorted(others + named * cut)).encode())
            for name in named:
                set_port(self._fabric, self.name, name, not cut)

    def is_plugged(self, network: str) -> bool:
        """What the kernel says about its cable."""
        return port_is_up(self._fabric, self.name, network)

    # --- its disk

    def make_disk(self, authorized_key: str, hosts_file: str) -> None:
        """What makes the image this host: its name, its keys, who may enter. Once made, only /etc/hosts is renewed."""
        upper = self.place / "upper"
        for directory, mode in (
            (".", 0o755),
            ("etc", 0o755),
            ("etc/ssh", 0o755),
            ("root", 0o700),
            ("root/.ssh", 0o700),
        ):
            (upper / directory).mkdir(parents=True, exist_ok=True)
            (upper / directory).chmod(mode)
        for beside in (WORK, MOUNT):
            (self.place / beside).mkdir(exist_ok=True)
        key = upper / "etc/ssh/ssh_host_ed25519_key"
        if not key.exists() or not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            linux_net.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key)])
        if not (upper / "etc/machine-id").exists():
            identity = hashlib.sha256(self._group.encode()).hexdigest()[:32]
            write_file(upper / "etc/hostname", f"{self.name}\n".encode(), mode=0o644)
            write_file(upper / "root/.ssh/authorized_keys", authorized_key.encode())
            write_file(upper / "etc/machine-id", f"{identity}\n".encode(), mode=0o644)
        hosts = self.files() / "etc/hosts"
        if not hosts.exists() or hosts.read_text() != hosts_file:
            write_file(hosts, hosts_file.encode(), mode=0o644)

    def public_key(self) -> str:
        """Its SSH host key, as ``ssh-ed25519 AAAA...``."""
        text = (self.place / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text()
        return " ".join(text.split()[:2])

    def delete(self) -> None:
        """Power cut, and its disk is thrown away."""
        self.power_off()
        shutil.rmtree(self.place)

    # --- inside

    def _cpu_weight(self, group: Path) -> int:
        if _is_shared(group):
            return SHARED_CPU_WEIGHT
        return CPU_WEIGHT if {"control", "network"} & {*self._host.roles} else CPU_WEIGHT_OF_MACHINES

    def _prepare_boot(self) -> None:
        if self._image is None or not self._image.is_dir():
            raise Problem(f"The image of {self.name} is gone. To make it again: trilith rehearse up FILE")
        machine = _machine_name(self._fabric.cluster.name, self.name)
        document = {
            "netns": self._group,
            "fabric": self._fabric.netns,
            "links": self._fabric.links(self._host),
            "groups": {str(path): self._cpu_weight(path) for path in _groups(self._group)},
            "overlay": f"lowerdir={self._image},upperdir={self.place}/upper,workdir={self.place / WORK}",
            "root": str(self.place / MOUNT),
            "nspawn": [
                "systemd-nspawn",
                "--quiet",
                "--boot",
                f"--directory={self.place / MOUNT}",
                f"--machine={machine}",
                f"--hostname={self.name}",
                f"--network-namespace-path=/run/netns/{self._group}",
                f"--capability={CAPABILITIES}",
                "--register=no",
                "--keep-unit",
                "--link-journal=no",
                "--console=passive",
                "--resolv-conf=off",
                "--timezone=off",
                "--notify-ready=no",
                "--kill-signal=SIGRTMIN+3",
            ],
        }
        write_file(self.place / "boot.json", json.dumps(document, indent=1).encode())

    def _start_runner(self) -> None:
        argv = [sys.executable, "-I", "-S", rehearsal_boot.__file__, str(self.place / "boot.json")]
        with open(self.place / "console.log", "ab") as console:
            began = console.tell()
            runner = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True, cwd="/"
            )
        deadline = time.monotonic() + START_LIMIT_S
        while self.pid1 is None:
            ended = runner.poll() is not None
            if ended or time.monotonic() > deadline:
                with open(self.place / "console.log", errors="replace") as console:
                    console.seek(began)
                    said = console.read()[-1500:].strip()
                raise Problem(f"{self.name} {'did not start' if ended else 'does not start'}: {said}")
            time.sleep(0.02)

    def _silence(self) -> None:
        """Pull all cables before anything dies: the kernel says goodbye on behalf of the dead, a power cut does not."""
        if linux_net.usable(self._fabric.netns):
            for name in self._networks:
                set_port(self._fabric, self.name, name, False)

    @contextlib.contextmanager
    def _power_switch(self) -> Iterator[None]:
        """One at a time switches it on or off."""
        self.place.mkdir(parents=True, exist_ok=True)
        with locked(self.place / "power.lock", wait_s=START_LIMIT_S + DEATH_LIMIT_S) as mine:
            if not mine:
                raise Problem(f"{self.name} is being switched on or off. Wait for that, then type the same again.")
            yield

    def _runner(self) -> int | None:
        """The process of `rehearsal_boot`, if it lives."""
        try:
            runner: dict[str, Any] = json.loads((self.place / "runner.json").read_text())
        except (OSError, ValueError):
            return None
        same = runner["boot_id"] == proc.boot_id() and proc.start_ticks(runner["pid"]) == runner["ticks"]
        return int(runner["pid"]) if same else None

    def _kill_runner(self) -> None:
        pid = self._runner()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait(lambda: self._runner() is None, DEATH_LIMIT_S, f"{self.name} is not let go")
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # it may have been ours

    def _sweep(self) -> None:
        """What a life that has ended leaves in the kernel."""
        with rehearsal_boot.wiring(self.place):
            document = {
                "netns": self._group,
                "fabric": self._fabric.netns,
                "links": self._fabric.links(self._host),
            }
            rehearsal_boot.unplug(document)
        for group in _groups(self._group):
            if not _is_shared(group):
                _remove_group(group)
        machine = _machine_name(self._fabric.cluster.name, self.name)
        with contextlib.suppress(OSError):
            Path(f"/run/systemd/nspawn/propagate/{machine}").rmdir()


def remove_shared_groups(prefix: str) -> None:
    """When no host of the cluster is left."""
    for group in filter(_is_shared, _groups(prefix)):
        _remove_group(group)


def leftovers(prefix: str) -> set[str]:
    """Names of hosts' namespaces and control groups in the kernel that begin with `prefix`, without the prefix."""
    names = set(linux_net.namespaces(prefix))
    for hierarchy in _hierarchies():
        names |= {path.name for path in hierarchy.glob(f"{prefix}*") if path.is_dir()}
    return {name.removeprefix(prefix) for name in names}


def _machine_name(cluster: str, host: str) -> str:
    """For nspawn: its machines are one list, whatever cluster they are of."""
    return f"{cluster}-{host}".replace("_", "-")[:64]


def _hierarchies() -> list[Path]:
    """Where a host's control groups belong: the one tree, or several trees, of which the first can freeze."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [CGROUPS / name for name in HIERARCHIES if (CGROUPS / name / "cgroup.procs").exists()]


def _groups(name: str) -> list[Path]:
    return [hierarchy / _group_in(hierarchy, name) for hierarchy in _hierarchies()]


def _group_in(hierarchy: Path, name: str) -> str:
    return name.partition("@")[0] if hierarchy.name in SHARED else name


def _is_shared(group: Path) -> bool:
    """Whether all hosts of a cluster are in it."""
    return group.parent.name in SHARED


def _pids_below(group: Path) -> list[int]:
    pids: list[int] = []
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            pids += [int(line) for line in Path(directory, "cgroup.procs").read_text().split()]
    return pids


def _remove_group(group: Path) -> None:
    """With all below it. The dead leave it a moment after they died."""
    deadline = time.monotonic() + DEATH_LIMIT_S
    for directory, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(directory)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Problem(f"{directory} cannot be removed: {error.strerror}. Type the same again.") from error
                time.sleep(0.02)


def _freeze(name: str, frozen: bool) -> None:
    group = _groups(name)[0]
    file, words = group / "cgroup.freeze", ("0", "1")
    if (group / "freezer.state").exists():
        file, words = group / "freezer.state", ("THAWED", "FROZEN")
    with contextlib.suppress(FileNotFoundError):
        file.write_text(words[frozen])


def _is_frozen(name: str) -> bool:
    group = _groups(name)[0]
    with contextlib.suppress(FileNotFoundError):
        if (group / "freezer.state").exists():
            return (group / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (group / "cgroup.events").read_text()
    return False


def _pid_in_namespaces(pid: int) -> list[int]:
    """The process's number in each namespace from this machine's to its own; none when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return []


def _not_allowed(pid: int) -> str:
    """The capabilities that the process can never have, as setpriv takes them away."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    allowed = int(status["CapBnd"], 16)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return ",".join(f"-cap_{number}" for number in range(last + 1) if not allowed >> number & 1)


def _has_booted(pid: int) -> bool:
    """Whether one can log in."""
    run = Path(f"/proc/{pid}/root/run")
    return (run / "sshd.pid").exists() and not (run / "nologin").exists()


def _booted_at(pid: int) -> float | None:
    """When its SSH server came up, in seconds since this machine's boot."""
    try:
        made = Path(f"/proc/{pid}/root/run/sshd.pid").stat().st_mtime
    except OSError:
        return None
    return made - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


def _wait(done: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise Problem(f"{otherwise} ({limit_s:.0f} s).")
        time.sleep(POLL_S)
