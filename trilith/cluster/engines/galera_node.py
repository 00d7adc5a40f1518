"""This host's MariaDB: its files, its processes, what it answers. Everything here returns in a bounded time."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from trilith.cluster import proc
from trilith.cluster.engines.files import ConfigFile, put
from trilith.cluster.state import write_file
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Doc

DATA = Path("/var/lib/mysql")
SOCKET = "/run/mysqld/mysqld.sock"
START_FILE = Path("/run/mariadb-wsrep-new-cluster")
"Debian's unit reads it: how the next start shall be. Removed when the server has started."
NO_UUID = "00000000-0000-0000-0000-000000000000"
PROBE_S = 0.3
ANSWER_S = 1.0
FRESH_S = 1.5
POSITION_S = 300.0  # InnoDB replays its log first
INSTALL_S = 120.0
SIZE_S = 60.0
NOT_COPIED = ("galera.cache", "gcache.page", "ib_logfile")
SYNCED, DONOR = "4", "2"

_STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_local_state', 'wsrep_ready', "
    "'wsrep_cluster_size', 'wsrep_last_committed')"
)


@dataclass(frozen=True)
class Answer:
    """What the running server said. `synced`: it serves; a donor does unless it copies by rsync. `size`: members of its
    component, which has the quorum when `primary`."""

    primary: bool = False
    synced: bool = False
    size: int = 0
    committed: int = -1


class Probe:
    """Asks the server on ONE connection, for as long as that holds. A connection for each check would be a storm."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._lock = threading.Lock()
        self._answer = Answer()
        self._at = 0.0

    def watch(self) -> None:
        """Ask for ever, in a thread, so that `last` is always fresh."""
        threading.Thread(target=self._watch, name="database probe", daemon=True).start()

    def last(self) -> Answer:
        """At most `FRESH_S` old; an older one counts as no answer. Returns at once when `watch` runs."""
        if time.monotonic() - self._at > FRESH_S and not self._lock.locked():
            self.ask()
        return self._answer if time.monotonic() - self._at <= FRESH_S else Answer()

    def page(self) -> tuple[int, str]:
        """For HAProxy."""
        fresh = time.monotonic() - self._at <= FRESH_S
        return (200, "synced") if fresh and self._answer.synced else (503, "not synced")

    def ask(self) -> Answer:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = connect()
                with self._connection.cursor() as cursor:
                    cursor.execute(_STATUS)
                    self._answer = _answer(dict(cursor.fetchall()))
            except (pymysql.Error, OSError):
                self._answer = Answer()
                with contextlib.suppress(pymysql.Error, OSError, AttributeError):
                    self._connection.close()
                self._connection = None
            self._at = time.monotonic()
            return self._answer

    def _watch(self) -> None:
        while True:
            self.ask()
            time.sleep(PROBE_S)


def _answer(status: dict[str, str]) -> Answer:
    primary = status.get("wsrep_cluster_status") == "Primary"
    state = status.get("wsrep_local_state")
    serves = state == SYNCED or (state == DONOR and "rsync" not in transfers())
    size, committed = int(status.get("wsrep_cluster_size", "0")), int(status.get("wsrep_last_committed", "-1"))
    return Answer(primary, primary and serves and status.get("wsrep_ready") == "ON", size, committed)


def connect() -> Any:
    """As the server's root, through its socket; TLS would cost more than the question."""
    return pymysql.connect(
        unix_socket=SOCKET, user="root", connect_timeout=1, read_timeout=ANSWER_S, write_timeout=ANSWER_S,
        ssl_disabled=True, autocommit=True,
    )  # fmt: skip


def transfers() -> set[str]:
    """How data are being copied to or from this node right now: ``rsync``, ``mariabackup``."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            name = path.read_text()
            if name.startswith("wsrep_sst_"):
                found.add("rsync" if "rsync" in name else "mariabackup")
    return found


def stored() -> Doc:
    """What lies on disk: data, uuid, seqno (null unless it was stopped in order), view, members, member, data_mib."""
    state = _fields(DATA / "grastate.dat")
    uuid = next(iter(state.get("uuid", [])), NO_UUID)
    seqno = int(next(iter(state.get("seqno", [])), "-1"))
    view = _fields(DATA / "gvwstate.dat")
    return {
        "data": uuid != NO_UUID,
        "uuid": uuid if uuid != NO_UUID else None,
        "seqno": seqno if seqno >= 0 else None,
        "view": next(iter(view.get("view_id", [])), None),
        "members": sorted(member.split()[0] for member in view.get("member", [])),
        "member": next(iter(view.get("my_uuid", [])), None),
    }


class Size:
    """How large the data are: looked at once in a while."""

    def __init__(self) -> None:
        self._mib = 0
        self._at = -SIZE_S

    def mib(self) -> int:
        """To the next power of two, so that it does not change all the time."""
        if time.monotonic() - self._at >= SIZE_S:
            total = 0
            for path in DATA.rglob("*"):
                if path.name.startswith(NOT_COPIED):
                    continue
                with contextlib.suppress(OSError):
                    total += path.stat().st_size
            self._mib, self._at = 1 << (total >> 20).bit_length(), time.monotonic()
        return self._mib


def _fields(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith("#"):
                found.setdefault(name.strip(), []).append(value.strip())
    return found


class Position:
    """The last transaction of a server that did not stop in order: found by letting InnoDB replay its log, and noted,
    because that takes seconds. The note is void as soon as the server was started since."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def read(self, invocation: str) -> Doc | None:
        """{"uuid", "seqno"}"""
        try:
            note: Doc = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return None
        return note["position"] if note["of"] == [invocation, proc.boot_id()] else None

    def find(self, invocation: str) -> None:
        """Raises `Unavailable` when the server cannot tell."""
        log = _run(["/usr/sbin/mariadbd", "--user=mysql", "--wsrep-recover", "--disable-log-error"], POSITION_S)
        found = re.findall(r"Recovered position:?\s*([0-9a-f-]{36}):(-?\d+)", log)
        if not found:
            raise Unavailable(f"mariadbd --wsrep-recover tells no position: {log.strip()[-300:]}")
        uuid, seqno = found[-1]
        note = {"of": [invocation, proc.boot_id()], "position": {"uuid": uuid, "seqno": int(seqno)}}
        write_file(self._note, json.dumps(note).encode())


def installed() -> bool:
    return (DATA / "mysql").is_dir()


def install() -> None:
    """Make the system's own tables: aside, so that half of them is never taken for all."""
    aside = DATA.with_name("mysql.new")
    shutil.rmtree(aside, ignore_errors=True)
    _run(
        ["/usr/bin/mariadb-install-db", "--user=mysql", f"--datadir={aside}", "--skip-test-db",
         "--auth-root-authentication-method=socket", "--skip-log-bin", "--wsrep-on=OFF"],
        INSTALL_S,
    )  # fmt: skip
    if not (aside / "mysql").is_dir():
        raise Unavailable("mariadb-install-db made no database.")
    shutil.chown(aside, "mysql", "mysql")
    for flag in DATA.glob("debian-*.flag"):
        flag.rename(aside / flag.name)
    if DATA.is_dir():
        try:
            DATA.rmdir()
        except OSError:  # something is in it, which may be dear to somebody
            DATA.rename(DATA.with_name(f"mysql.before-{int(time.time())}"))
    aside.rename(DATA)


def allow_bootstrap() -> None:
    """Tell the data that this is the node to begin with."""
    path = DATA / "grastate.dat"
    if path.exists():
        text = re.sub(r"^safe_to_bootstrap:.*$", "safe_to_bootstrap: 1", path.read_text(), flags=re.M)
        put(ConfigFile(str(path), text, 0o660, "mysql", "mysql"))


def view_is_of_process_since(started_s: float) -> bool:
    """Whether the last quorum was noted by a process that began then (monotonic clock), not by one before it."""
    try:
        written_at = (DATA / "gvwstate.dat").stat().st_mtime
    except FileNotFoundError:
        return False
    return written_at > time.time() - (time.monotonic() - started_s)


def revive() -> None:
    """Make the component that this node is in the one with the quorum."""
    with _asking() as cursor:
        cursor.execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")


def forget_view() -> None:
    with contextlib.suppress(FileNotFoundError):
        (DATA / "gvwstate.dat").unlink()


def how_to_start(new_cluster: bool = False, method: str | None = None) -> None:
    """For the next start only. It is written before each start, so that an old word never counts."""
    lines = ["_WSREP_NEW_CLUSTER=--wsrep-new-cluster"] if new_cluster else []
    lines += [f"MYSQLD_OPTS=--wsrep-sst-method={method}"] if method else []
    write_file(START_FILE, "".join(f"{line}\n" for line in lines).encode(), 0o644, sync=False)


@dataclass(frozen=True)
class Accounts:
    """The SQL accounts that shall be: one of the program, from each controller. root comes in by the socket only."""

    name: str
    password: str
    addresses: tuple[str, ...]
    database: str

    def right(self) -> bool:
        """Whether all of it is there; a server that does not tell just now is asked again later."""
        try:
            return self._right()
        except Unavailable:
            return True

    def _right(self) -> bool:
        with _asking() as cursor:
            cursor.execute("SELECT User, Host, authentication_string FROM mysql.user WHERE User IN (%s, '')", self.name)
            found = {(user, host): password for user, host, password in cursor.fetchall()}
            cursor.execute("SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", self.database)
            ((databases,),) = cursor.fetchall()
            cursor.execute("SELECT Host FROM mysql.db WHERE User = %s AND Db = %s", (self.name, self.database))
            granted = {host for (host,) in cursor.fetchall()}
        wanted = {(self.name, address): _scrambled(self.password) for address in self.addresses}
        return found == wanted and databases == 1 and granted == set(self.addresses)

    def make(self) -> None:
        with _asking() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {self.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            cursor.execute("SELECT User, Host FROM mysql.user WHERE User IN (%s, '')", self.name)
            for user, host in cursor.fetchall():
                if user != self.name or host not in self.addresses:
                    cursor.execute("DROP USER IF EXISTS %s@%s", (user, host))
            for address in self.addresses:
                account = (self.name, address)
                cursor.execute("CREATE USER IF NOT EXISTS %s@%s IDENTIFIED VIA mysql_native_password", account)
                scrambled = _scrambled(self.password)  # so that no statement holds the password itself
                cursor.execute("ALTER USER %s@%s IDENTIFIED BY PASSWORD %s", (*account, scrambled))
                cursor.execute(f"GRANT ALL ON {self.database}.* TO %s@%s", account)


@contextlib.contextmanager
def _asking() -> Any:
    try:
        connection = connect()
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()
    except (pymysql.Error, OSError) as error:
        raise Unavailable(f"MariaDB: {error}") from error


def _scrambled(password: str) -> str:
    """As MariaDB keeps it."""
    inner = hashlib.sha1(password.encode()).digest()  # not our choice; the password is random
    return "*" + hashlib.sha1(inner).hexdigest().upper()


def _run(words: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{words[0]} took longer than {timeout_s:.0f} s.") from error
    if done.returncode:
        raise Unavailable(f"{words[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout + done.stderr
