"""The database that a test's cloud is in: a SQLite file of its own, or one on a MariaDB server of the test session.

`url_for(directory)` is what a test gives to `Store`; which kind it is, `tests/conftest.py` decides.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import sqlalchemy as sa
from sqlalchemy import event

from trilith.kernel.mariadb import COLLATION

START_S = 60.0


class Server:
    """A MariaDB server on a unix socket in a directory of its own, as quick as it can be: nothing is synced."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="trilith-mariadb-", dir="/var/tmp"))
        self.socket = self.directory / "socket"
        data, user = self.directory / "data", f"--user={'mysql' if os.geteuid() == 0 else os.environ.get('USER', '')}"
        if os.geteuid() == 0:
            shutil.chown(self.directory, "mysql")
        make = ["mariadb-install-db", "--no-defaults", user, f"--datadir={data}", "--skip-test-db"]
        options = "--auth-root-authentication-method=normal"
        subprocess.run([*make, options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        argv = ["/usr/sbin/mariadbd", "--no-defaults", user, f"--datadir={data}", f"--socket={self.socket}"]
        argv += ["--skip-networking", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--max-connections=400"]
        argv += [
            "--innodb-flush-method=nosync",
            "--debug-no-sync",
            "--sync-frm=0",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            f"--log-error={self.directory}/log",
        ]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect().close()
                return
            except pymysql.err.OperationalError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.05)

    def connect(self, name: str | None = None) -> Any:
        """A plain connection of the superuser."""
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=name, autocommit=True)

    def url(self, name: str) -> str:
        return f"mysql+pymysql://root@localhost/{name}?unix_socket={self.socket}"

    def make(self, name: str) -> str:
        """A new empty database; its URL."""
        with contextlib.closing(self.connect()) as connection:
            connection.cursor().execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE {COLLATION}")
        return self.url(name)

    def drop(self, name: str) -> None:
        with contextlib.closing(self.connect()) as connection:
            connection.cursor().execute(f"DROP DATABASE {name}")

    def stop(self) -> None:
        self.process.kill()  # nobody needs what it holds
        self.process.wait()
        shutil.rmtree(self.directory)


@dataclass
class Databases:
    """Databases of one server, used again and again: their tables stay, their rows go. Tests know directories only."""

    kind: str = "sqlite"
    server: Server | None = None
    names: list[str] = field(default_factory=list)
    used: dict[Path, str] = field(default_factory=dict)  # by the present test
    written: dict[str, set[str]] = field(default_factory=dict)  # tables by database

    def url(self, directory: Path) -> str:
        if self.kind == "sqlite":
            return f"sqlite:///{directory}/db.sqlite"
        server = self.running()
        if directory not in self.used:
            free = [name for name in self.names if name not in self.used.values()]
            if not free:
                free = [f"trilith{len(self.names)}"]
                server.make(free[0])
                self.names += free
            self.used[directory] = free[0]
        return server.url(self.used[directory])

    def running(self) -> Server:
        if self.server is None:
            self.server = Server()
            event.listen(sa.Engine, "before_cursor_execute", self._note)
        return self.server

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if found := re.match(r"INSERT INTO `?(\w+)", statement):
            self.written.setdefault(connection.engine.url.database, set()).add(found[1])

    def wrote(self, directory: Path, *tables: str) -> None:
        """What processes of a test's own have written."""
        self.written.setdefault(self.used[directory], set()).update(tables)

    def forget(self) -> None:
        """After each test: what it wrote goes."""
        for name in self.used.values():
            assert self.server is not None
            with contextlib.closing(self.server.connect(name)) as connection:
                cursor = connection.cursor()
                for table in self.written.pop(name, set()) - {"write_queue"}:
                    cursor.execute(f"DELETE FROM {table}")
        self.used.clear()

    def stop(self) -> None:
        if self.server is not None:
            event.remove(sa.Engine, "before_cursor_execute", self._note)
            self.server.stop()
            self.server = None


DATABASES = Databases()


def url_for(directory: Path) -> str:
    """What the present test's `Store` is opened with; the same directory is the same database."""
    return DATABASES.url(directory)
