"""What `trilith deploy` runs on a host: answers facts and does single steps, as asked over one SSH connection.

Sent as text to the host's own Python before anything of ours is there, so it imports the standard library only. Reads
requests from stdin, each a line of JSON ``{"do", "args", "size"}`` and `size` bytes, and answers each with lines
``{"say": text}`` and a last ``{"answer": document}`` or ``{"problem": sentence}``. Every step may be cut short anywhere
and be done again. It ends with the connection; with it ends the lock.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

Doc = dict[str, Any]

PROGRAMS = Path("/opt/trilith")
STATE = Path("/var/lib/trilith")
KEEPER = "trilith-keeper.service"
DEPLOYED = "TRILITH_DEPLOYED"  # in the keeper's environment: digest of what it was started with
STATS_SOCKET = Path("/run/haproxy/admin.sock")
FORCED_DRAIN = 0x08  # in the column srv_admin_state
LOCK = Path("/run/trilith-deploy.lock")
COMMAND_S = 30
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}
KEPT_PROGRAMS = 3


class Problem(Exception):
    """What is told to the deploying machine, as a sentence."""


def run(*argv: str, limit_s: float = COMMAND_S, check: bool = True, stdin: bytes = b"") -> str:
    """Output of a command; `Problem` when it fails or takes too long."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=limit_s, env=ENVIRONMENT, check=False)
    except subprocess.TimeoutExpired as error:
        raise Problem(f"`{' '.join(argv[:3])}` did not end within {limit_s:.0f} s.") from error
    except FileNotFoundError as error:
        raise Problem(f"{argv[0]} is not installed.") from error
    if check and done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-600:]
        raise Problem(f"`{' '.join(argv[:3])}` failed: {words}")
    return done.stdout.decode(errors="replace")


# --- facts


def facts(args: Doc, _: bytes) -> Doc:
    """Everything that checks and the plan want to know. Changes nothing."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.M))
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "os": f"{release.get('ID', '?')} {release.get('VERSION_ID', '?')}",
        "python": sys.version_info[:3],
        "machine": os.uname().machine,
        "systemd": run("systemctl", "is-system-running", check=False).strip() or "absent",
        "host_name": socket.gethostname(),
        "memory_mib": int(memory.group(1)) // 1024 if memory else 0,
        "free_mib": {place: free_mib(place) for place in ("/var/lib", "/opt")},
        "interfaces": interfaces(),
        "addresses_of": {name: addresses_of(name) for name in args["names"]},
        "name_of": {address: name_of(address) for address in args["addresses"]},
        "listening": listening(args["ports"]),
        "foreign": [] if (STATE / "cloud.json").exists() else foreign_data(),
        "kvm": kvm(args["kvm_probe"]) if args["kvm_probe"] else None,
        "packages": installed(args["packages"]),
        "files": {path: seen_file(Path(path)) for path in args["files"]},
        "programs": sorted(entry.name for entry in PROGRAMS.glob("*") if entry.is_dir() and not entry.is_symlink()),
        "current": link_target(PROGRAMS / "current"),
        "command": link_target(Path("/usr/local/bin/trilith")),
        "joined": (STATE / "secrets" / f"host-{args['host']}").exists() and not (STATE / "secrets/join-token").exists(),
        "drained": drained(),
        "keeper": keeper({}, b""),
    }


def free_mib(place: str) -> int:
    there = next(path for path in (Path(place), *Path(place).parents) if path.exists())
    return shutil.disk_usage(there).free >> 20


def interfaces() -> dict[str, Doc]:
    found = json.loads(run("ip", "-json", "address"))
    return {
        link["ifname"]: {
            "mtu": link["mtu"],
            "up": "UP" in link["flags"],
            "addresses": [entry["local"] for entry in link["addr_info"] if entry.get("scope") != "link"],
        }
        for link in found
    }


def addresses_of(name: str) -> list[str]:
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def name_of(address: str) -> list[str]:
    try:
        name, others, _ = socket.gethostbyaddr(address)
    except OSError:
        return []
    return [name, *others]


def listening(ports: list[int]) -> dict[str, str]:
    """Who listens on which of these TCP ports: the name of the process."""
    found = {}
    for line in run("ss", "-Htlnp").splitlines():
        columns = line.split()
        port = columns[3].rpartition(":")[2]
        if int(port) in ports:
            owner = re.search(r'users:\(\("([^"]+)"', line)
            found[port] = owner.group(1) if owner else "an unknown process"
    return found


def foreign_data() -> list[str]:
    """Data of others in the places where our engines would put theirs. What a fresh package brings is nobody's."""
    found = []
    fresh = {"mysql", "performance_schema", "sys", "test", "lost+found"}
    databases = [entry.name for entry in Path("/var/lib/mysql").glob("*/") if entry.name not in fresh]
    if databases:
        found.append(f"/var/lib/mysql has databases ({', '.join(sorted(databases)[:5])})")
    if any(Path("/var/lib/rabbitmq").glob("mnesia/*/msg_stores/vhosts/*/queues/*")):
        found.append("/var/lib/rabbitmq has queues")
    return found


def kvm(probe: str) -> Doc:
    """The answer of our own probe, which runs a guest's loop (its text is sent along)."""
    try:
        answer: Doc = json.loads(run(sys.executable, "-I", "-c", probe, limit_s=4))
    except (Problem, ValueError) as error:
        return {"usable": False, "reason": str(error)}
    return answer


def installed(packages: list[str]) -> list[str]:
    if not packages:
        return []
    text = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *packages, check=False)
    return [words[1] for words in map(str.split, text.splitlines()) if words[0] == "ii"]


def seen_file(path: Path) -> Doc | None:
    try:
        return {"digest": hashlib.sha256(path.read_bytes()).hexdigest(), "mode": path.stat().st_mode & 0o7777}
    except (FileNotFoundError, NotADirectoryError):
        return None


def link_target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def clock(_: Doc, __: bytes) -> Doc:
    return {"time_s": time.time()}


def keeper(_: Doc, __: bytes) -> Doc:
    """The keeper's unit, what it was started with, and what it has said since then."""
    words = ["ActiveState", "MainPID", "UnitFileState", "ExecMainStartTimestampMonotonic"]
    shown = run("systemctl", "show", KEEPER, "-p", ",".join(words), check=False)
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    pid = values.get("MainPID", "0")
    answer: Doc = {"active": values.get("ActiveState"), "enabled": values.get("UnitFileState") == "enabled"}
    answer |= {"started_with": environment_of(pid).get(DEPLOYED) if pid != "0" else None, "state": None, "age_s": None}
    try:
        written = (STATE / "run/keeper.json").stat().st_mtime
        state = json.loads((STATE / "run/keeper.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return answer
    running_s = time.monotonic() - int(values.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    age_s = time.time() - written
    if age_s < running_s:  # else an earlier keeper said it
        answer |= {"state": state, "age_s": age_s}
    return answer


def environment_of(pid: str) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


# --- steps


def lock(args: Doc, _: bytes) -> Doc:
    """Until this program ends, no other deploy works on this host; `owner` says to the other who does."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        raise Problem(f"Another deploy works on this host ({owner}); wait for its end.") from None
    os.set_inheritable(descriptor, True)  # an apt that outlives us still works here
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, args["owner"].encode(), 0)
    return {}


def put_files(args: Doc, content: bytes) -> Doc:
    """``files``: [{path, mode, size}], whose contents follow one after the other."""
    reader = io.BytesIO(content)
    for file in args["files"]:
        put(Path(file["path"]), reader.read(file["size"]), file["mode"])
    return {}


def put(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, also across a power cut."""
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700 if parent.name in ("secrets", "tls") else 0o755)
    temporary = path.with_name(f".{path.name}.deploy")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def remove_files(args: Doc, _: bytes) -> Doc:
    for path in args["paths"]:
        Path(path).unlink(missing_ok=True)
    return {}


def unpack(args: Doc, content: bytes) -> Doc:
    """A directory below /opt/trilith from a tar archive; `digest` is the archive's own."""
    if hashlib.sha256(content).hexdigest() != args["digest"]:
        raise Problem("The program did not arrive whole.")
    target = PROGRAMS / args["name"]
    if target.is_dir():
        return {}
    PROGRAMS.mkdir(mode=0o755, exist_ok=True)
    aside = PROGRAMS / f".{args['name']}.part"
    shutil.rmtree(aside, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(aside)
    aside.chmod(0o755)
    run("sync", "-f", str(aside))
    aside.rename(target)
    sync(PROGRAMS)
    return {}


def switch(args: Doc, _: bytes) -> Doc:
    """Makes a program the current one, and deletes those that nobody will go back to."""
    point(PROGRAMS / "current", args["program"])
    point(Path("/usr/local/bin/trilith"), str(PROGRAMS / "current/bin/trilith"))
    programs = [
        path for path in PROGRAMS.glob("*") if path.is_dir() and not path.is_symlink() and (path / "bin").is_dir()
    ]
    programs.sort(key=lambda path: path.stat().st_ctime, reverse=True)
    kept = [PROGRAMS / args["program"], *programs[:KEPT_PROGRAMS]]
    wheels = {link_target(path / "site-packages") for path in kept}
    for path in PROGRAMS.iterdir():
        if path.is_symlink() or path in kept or f"../{path.name}" in wheels:
            continue
        shutil.rmtree(path, ignore_errors=True)
    return {}


def point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.deploy")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)
    sync(link.parent)


def install(args: Doc, _: bytes) -> Doc:
    """Debian packages, from the sources that are given, through a proxy on this host's loopback. What they would start
    by themselves stays stopped: the keeper decides that."""
    folder = Path("/run/trilith-deploy-apt")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "parts").mkdir(parents=True)
    options = ["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]
    if args["proxy"]:
        (folder / "deploy.sources").write_text(args["sources"])
        for line in (
            f"Dir::Etc::sourcelist={folder}/deploy.sources",
            f"Dir::Etc::sourceparts={folder}/parts",
            f"Acquire::http::Proxy={args['proxy']}",
            f"Acquire::https::Proxy={args['proxy']}",
        ):
            options += ["-o", line]
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        put(policy, b"#!/bin/sh\n# made by trilith deploy, for the time of one installation\nexit 101\n", 0o755)
    try:
        run("dpkg", "--configure", "-a", limit_s=300)  # an installation that was cut short
        apt(["update"], options, args["limit_s"])
        apt(["install", "--yes", "--no-install-recommends", *args["packages"]], options, args["limit_s"])
    finally:
        if b"trilith deploy" in policy.read_bytes():
            policy.unlink()
        shutil.rmtree(folder, ignore_errors=True)
    return {}


def apt(words: list[str], options: list[str], limit_s: float) -> None:
    say(f"apt-get {words[0]}")
    os.environ["DEBIAN_FRONTEND"] = ENVIRONMENT["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "--quiet", *options, *words, limit_s=limit_s)


def start_keeper(_: Doc, __: bytes) -> Doc:
    """Started anew, with what now lies on the disk; also after the next boot."""
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", KEEPER)
    run("systemctl", "restart", KEEPER, limit_s=60)
    return {}


def would_do(args: Doc, _: bytes) -> Doc:
    """What the keeper of this program would do on this host now."""
    command = PROGRAMS / args["program"] / "bin/trilith"
    text = run(str(command), "host", "plan", "--json", "--state", str(STATE), limit_s=60, check=False)
    return {"plan": json.loads(text)}


def drain(args: Doc, _: bytes) -> Doc:
    """No new requests from this host's HAProxy to a server (``state``: drain or ready)."""
    for server in args["servers"]:
        haproxy(f"set server {server} state {args['state']}")
    return {}


def drained() -> list[str]:
    """Servers that this host's HAProxy sends nothing to because a deploy said so: ``backend/server``."""
    rows = [line.split() for line in haproxy("show servers state").splitlines()]
    return [f"{row[1]}/{row[3]}" for row in rows if len(row) > 6 and row[6].isdigit() and int(row[6]) & FORCED_DRAIN]


def haproxy(command: str) -> str:
    """Its answer; "" where there is no HAProxy, which then sends nothing anywhere."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(STATS_SOCKET))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except OSError:
        return ""


def retire(_: Doc, __: bytes) -> Doc:
    """A host that belongs to the cloud no more: nothing of ours runs, and it has no secrets."""
    machines = [path.name for path in (STATE / "host/machines").glob("*") if path.is_dir()]
    if machines:
        raise Problem(f"{len(machines)} machine(s) are on this host. Delete them or move them first.")
    units = run("systemctl", "list-unit-files", "--no-legend", "--plain", "trilith-*", check=False)
    own = [line.split()[0] for line in units.splitlines() if line]
    engines = [
        "haproxy",
        "keepalived",
        "memcached",
        "rabbitmq-server",
        "mariadb",
        "ovn-central",
        "ovn-host",
        "ovn-controller",
    ]
    for unit in [KEEPER, *sorted(set(own) - {KEEPER}), *engines]:
        run("systemctl", "disable", unit, check=False)
        say(f"stops {unit}")
        try:
            run("systemctl", "stop", unit, limit_s=20, check=False)
        except Problem:
            run("systemctl", "kill", "--signal=KILL", unit, check=False)
    shutil.rmtree(STATE / "secrets", ignore_errors=True)
    (STATE / "cloud.json").unlink(missing_ok=True)
    return {}


def http_status(args: Doc, _: bytes) -> Doc:
    """What an HTTPS request from this host gets: its status, 0 for none."""
    request = urllib.request.Request(args["url"], method=args.get("method", "GET"))
    if args.get("bearer"):
        request.add_header("Authorization", f"Bearer {(STATE / 'secrets' / args['bearer']).read_text().strip()}")
    try:
        context = ssl.create_default_context(cafile=str(STATE / "secrets/tls/ca.crt"))
        with urllib.request.urlopen(request, timeout=5, context=context) as reply:
            return {"status": reply.status}
    except urllib.error.HTTPError as error:
        return {"status": error.code}
    except OSError:
        return {"status": 0}


STEPS: dict[str, Callable[[Doc, bytes], Doc]] = {
    step.__name__: step
    for step in (
        facts, clock, keeper, lock, put_files, remove_files, unpack, switch, install, start_keeper, would_do, drain,
        retire, http_status,
    )
}  # fmt: skip


# --- the conversation


def say(text: str) -> None:
    tell({"say": text})


def tell(document: Doc) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def serve(requests: BinaryIO) -> None:
    tell({"answer": {"ready": True}})
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["size"])
        try:
            tell({"answer": STEPS[request["do"]](request["args"], content)})
        except Problem as problem:
            tell({"problem": str(problem)})
        except OSError as error:
            tell({"problem": f"{request['do']}: {error}"})


if __name__ == "__main__":
    os.umask(0o022)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(sys.stdin.buffer)
