"""The disk that every host of a rehearsal begins with: a Debian with the packages of all roles, none of them started.

Built once by mmdebstrap from the mirrors that this machine's own apt knows, and kept by a digest of what it is made of.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from trilith.cluster.host_packages import all_packages
from trilith.cluster.state import Problem

CACHE = Path("/var/cache/trilith/rehearsal")
RELEASE = "bookworm"
BUILD_LIMIT_S = 1200
RETRIES = 'Acquire::Retries "3";'

# A container shares the kernel's view of /sys with the machine, whose links are not the host's.
SYSNET_UNIT = """\
[Unit]
Description=Show this host's interfaces in /sys/class/net
DefaultDependencies=no
Before=sysinit.target systemd-sysctl.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /run/sysfs
ExecStart=/bin/mount -t sysfs sysfs /run/sysfs
ExecStart=/bin/mount --bind /run/sysfs/devices/virtual/net /sys/devices/virtual/net
ExecStart=/bin/mount --bind /run/sysfs/class/net /sys/class/net
[Install]
WantedBy=sysinit.target
"""
# What a deployment does not enable does not run.
PRESET = "enable ssh.service\nenable sysnet.service\ndisable *\n"
# The clock and the kernel are the machine's.
MASKED = ("systemd-modules-load.service", "systemd-udevd.service", "systemd-udev-trigger.service")
SSHD = "UseDNS no\nPrintMotd no\n"
# Each host makes its own.
FORGOTTEN = (
    "etc/ssh/ssh_host_*",
    "etc/openvswitch/*",
    "var/lib/openvswitch/*",
    "var/lib/rabbitmq/.erlang.cookie",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "usr/sbin/policy-rc.d",
    "etc/rc[0-6S].d/*",
)


def host_image(say: Callable[[str], None], cache: Path = CACHE) -> Path:
    """The root of the image's file system, never to be written to. Built if it is not there; who comes during a build
    waits. Raises `Problem` with apt's reason."""
    place = cache / _digest()
    if place.is_dir():
        return place / "root"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            _build(place, lock.fileno(), say)
    return place / "root"


def _digest() -> str:
    recipe = [RELEASE, *all_packages(), SYSNET_UNIT, PRESET, SSHD, *MASKED, *FORGOTTEN]
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]


def _build(place: Path, lock: int, say: Callable[[str], None]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise Problem("mmdebstrap is missing. Type: apt-get install --no-install-recommends mmdebstrap")
    say(f"Building the hosts' image ({len(all_packages())} packages; once, about two minutes) ...")
    aside = place.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)  # what a build that was killed left
    aside.mkdir()
    root = aside / "root"
    _run_mmdebstrap(root, aside / "build.log", lock)
    _finish(root)
    os.sync()  # a build costs minutes, and half an image would cost hours
    aside.rename(place)


def _run_mmdebstrap(root: Path, log: Path, lock: int) -> None:
    """In namespaces of its own, so that what it starts and mounts goes with us, however we end: whoever removes half an
    image must not find this machine's /proc below it. It holds the lock too, until the last of it has gone."""
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
    argv += ["--pid", "--fork", "--kill-child", "--mount-proc"]
    argv += ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(all_packages())}"]
    argv += ["--dpkgopt=force-unsafe-io", "--aptopt=APT::Install-Recommends false", f"--aptopt={RETRIES}"]
    argv += [f"--aptopt={line}" for line in _apt_access()]
    if (merged := Path("/usr/share/mmdebstrap/hooks/merged-usr")).is_dir():
        argv.append(f"--hook-dir={merged}")
    with open(log, "wb") as output:
        try:
            done = subprocess.run(
                [*argv, RELEASE, str(root), *_mirrors()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=BUILD_LIMIT_S,
                pass_fds=[lock],
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Problem(f"Building the hosts' image took longer than {BUILD_LIMIT_S} s; see {log}.") from error
    if done.returncode != 0:
        last = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
        raise Problem(f"The hosts' image cannot be built:\n  {last}\nAll of it: {log}. Then type the same again.")


def _mirrors() -> list[str]:
    """apt source lines of Debian's archives, as this machine reaches them."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)|$(ORIGIN)|$(CODENAME)"
    argv = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    lines = parsed_mirrors(subprocess.run(argv, capture_output=True, text=True, check=False).stdout)
    if not lines:
        raise Problem(
            f"This machine's apt knows no archive of Debian {RELEASE}; name one in /etc/apt, then: apt-get update"
        )
    return lines


def parsed_mirrors(told: str) -> list[str]:
    """Of apt's ``SOURCE|ORIGIN|CODENAME`` lines, the sources of the release that hosts have; each once."""
    lines: list[str] = []
    for source, origin, codename in (line.split("|") for line in told.splitlines()):
        if origin == "Debian" and codename.split("-")[0] == RELEASE and source not in lines:
            lines.append(source)
    return lines


def _apt_access() -> list[str]:
    """How this machine's apt reaches its mirrors: proxies, certificates."""
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in told.splitlines() if line.lower().startswith(("acquire::http", "acquire::https"))]


def _finish(root: Path) -> None:
    """Make a host's disk of the file system that mmdebstrap left."""
    for pattern in FORGOTTEN:
        for path in root.glob(pattern):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    units = root / "etc/systemd/system"
    (units / "sysnet.service").write_text(SYSNET_UNIT)
    preset = root / "etc/systemd/system-preset/00-rehearsal.preset"
    preset.parent.mkdir(exist_ok=True)
    preset.write_text(PRESET)
    subprocess.run(["chroot", root, "systemctl", "preset-all"], capture_output=True, check=True)
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (root / "etc/ssh/sshd_config.d/rehearsal.conf").write_text(SSHD)
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/fstab"):
        (root / name).unlink(missing_ok=True)
        (root / name).touch(mode=0o644)
    shutil.rmtree(root / "root/.ssh", ignore_errors=True)
