"""A MariaDB server of a side's own, set up as for production: nothing that was acknowledged may be lost."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pymysql

from tests.bench.sessions import Sessions

USER, PASSWORD = "bench", "bench"
BUFFER_POOL = "1G"


class MariaDb:
    """`sessions` keeps it under the name ``mariadb``; its data lie below `directory`."""

    def __init__(self, sessions: Sessions, directory: Path, port: int) -> None:
        self._sessions, self.directory, self.port = sessions, directory, port
        self.socket = directory / "socket"

    def start(self) -> None:
        """Returns when it answers. Makes the data directory and the account the first time."""
        data, user = self.directory / "data", "mysql" if os.geteuid() == 0 else os.environ.get("USER", "")
        new = not data.exists()
        if new:
            self.directory.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                shutil.chown(self.directory, "mysql")
            make = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}", "--skip-test-db"]
            make += ["--auth-root-authentication-method=normal"]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        argv = ["/usr/sbin/mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--socket={self.socket}"]
        argv += ["--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve", "--max-connections=500"]
        argv += [f"--innodb-buffer-pool-size={BUFFER_POOL}", "--innodb-log-file-size=256M"]
        argv += ["--innodb-flush-log-at-trx-commit=1", "--performance-schema=OFF"]
        self._sessions.start("mariadb", argv)
        self._sessions.wait_port("mariadb", self.port)
        if new:
            self.execute(f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'", f"GRANT ALL ON *.* TO '{USER}'@'%'")

    def connect(self, database: str | None = None) -> Any:
        """A plain connection of the superuser."""
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)

    def execute(self, *statements: str, database: str | None = None) -> None:
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def make(self, name: str, collation: str) -> None:
        character_set = collation.partition("_")[0]
        self.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET {character_set} COLLATE {collation}")

    def url(self, name: str) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"
