"""The bare handler (`bare.py`) beside the others: same server, as many processes, over the SQLite cloud's rows."""

import os
import sys
from urllib.parse import urlsplit, urlunsplit

from tests.bench.api import Api
from tests.bench.fill import Filled
from tests.bench.sessions import Sessions
from tests.bench.trilith_side import Trilith
from tests.bench.upstream_install import ROOT
from trilith.cluster.serve import THREADS

NAME = "bare"


class Bare:
    """It is no cloud: nobody can fill it. `over` has to run before it, and until it is stopped."""

    name, is_cloud = NAME, False
    schema_s = start_s = 0.0

    def __init__(self, over: Trilith, port: int, workers: int) -> None:
        self.over, self.port, self.workers = over, port, workers
        self.sessions = Sessions(over.directory / "bare")

    def make(self) -> None:
        """It has nothing of its own."""

    def start(self) -> None:
        argv = [sys.executable, "-m", "granian", "--interface", "wsgi", "--factory", "--no-ws", "--log-level", "error"]
        argv += ["--port", str(self.port), "--workers", str(self.workers), "--blocking-threads", str(THREADS)]
        env = os.environ | {"TRILITH_STATE": str(self.over.state.root), "PYTHONPATH": str(ROOT)}
        self.sessions.start(NAME, [*argv, "tests.bench.bare:app"], env)
        self.sessions.wait_port(NAME, self.port)
        self.api = self.moved(self.over.api)

    def moved(self, api: Api) -> Api:
        """The same credentials, at this server's address."""
        found = Api(self._moved(api.auth_url), api.user, api.password, api.project)
        found.token, found.project_id, found.user_id = api.token, api.project_id, api.user_id
        found.endpoints = {name: self._moved(url) for name, url in api.endpoints.items()}
        return found

    def _moved(self, url: str) -> str:
        return urlunsplit(urlsplit(url)._replace(netloc=f"127.0.0.1:{self.port}"))

    def filled(self, filled: Filled) -> Filled:
        """What its cloud was filled with."""
        return Filled(**{**vars(filled), "member": self.moved(filled.member), "users": []})

    def leaders(self) -> dict[str, int]:
        return self.sessions.leaders()

    def stop(self) -> None:
        self.sessions.stop_all()

    def copy_servers(self, server_id: str, count: int) -> None:
        raise AssertionError("it lists what its cloud has")
