"""The object store's process: Swift's API over this cloud's store. A process of its own, because its bodies are large
and its clients slow; who may do what, it reads from the same SQL as the API."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trilith.cluster.object_store import store_for
from trilith.cluster.state import Problem, Settings, State
from trilith.identity.projects import PROJECT
from trilith.identity.tokens import authenticate, use_keys
from trilith.kernel.errors import Fault
from trilith.kernel.policy import Principal
from trilith.kernel.store import Store, Tx
from trilith.objectstore import expiry
from trilith.objectstore.application import Application
from trilith.objectstore.messages import Request
from trilith.objectstore.pipeline import Front
from trilith.objectstore.store import Store as ObjectStore

TYPE = "object-store"
KNOWN_S = 0.5  # that the end of a token's time may be seen late
MOST_KNOWN = 1000  # tokens


class Changes:
    """Whether anything was written to an SQLite database: a number that is another one then. Of any thread. To ask
    costs a twentieth of reading who somebody is."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()

    def __call__(self) -> int | None:
        """None where that cannot be told just now."""
        with self._lock:
            try:
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                return None


class Known(NamedTuple):
    """Who came with a token when SQL was as `changes` says. It counts until `until_s` of the monotonic clock."""

    who: Principal
    changes: int
    until_s: float


class SqlIdentity:
    """Who somebody is, as for every other service: from SQL, at each request. Where `changes` tells that nothing was
    written since a token came last, it is who it was."""

    def __init__(self, store: Store, changes: Callable[[], int | None] = lambda: None) -> None:
        self._store, self._changes = store, changes
        self._known: dict[str, Known] = {}

    def caller(self, request: Request) -> Principal | None:
        token = request.headers.get("x-auth-token") or request.headers.get("x-storage-token")
        if not token:
            return None
        try:
            who = self._who(token)
        except Fault as fault:
            if fault.kind == "unauthenticated":
                return None
            raise
        if who.may_call is not None and not who.may_call(TYPE, request.method, request.path):
            raise Fault("forbidden", f"The token's access rules do not allow {request.method} {request.path}.")
        return who

    def _who(self, token: str) -> Principal:
        """Raises `Fault`."""
        changes, known = self._changes(), self._known.get(token)
        if known is not None and known.changes == changes and time.monotonic() < known.until_s:
            return known.who
        who = self._store.read(lambda tx: authenticate(tx, {"x-auth-token": token}))
        if changes is not None:  # what is written from here on is noticed the next time
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[token] = Known(who, changes, time.monotonic() + KNOWN_S)
        return who

    def domain_of(self, project_id: str) -> str | None:
        def read(tx: Tx) -> Any:
            row = tx.one(PROJECT, id=project_id)
            return row["domain_id"] if row else None

        found: str | None = self._store.read(read)
        return found


def prepare(state: State, settings: Settings) -> None:
    """The schema has what this program needs, and is told that this process knows it."""
    from trilith.cluster.api import open_store  # here, for a process that ends: the workers need little of it
    from trilith.cluster.schema import migrate

    rows = open_store(state, settings)
    migrate.prepare(rows, "objects", settings.host)
    rows.close()


def app() -> Application:
    """For the server's workers; the cloud is the one of ``TRILITH_STATE``."""
    state = State(os.environ["TRILITH_STATE"])
    settings = state.settings()
    use_keys(state.secret("cluster-key"))
    url = state.database_url(settings)
    rows, changes = Store(url), Changes(state.database) if url.startswith("sqlite:") else lambda: None
    objects = store_for(state, settings)
    if objects is None:
        raise Problem("This cloud has no object store.")
    threading.Thread(target=_look_after, args=(state, objects), daemon=True).start()
    return Application(Front(objects, SqlIdentity(rows, changes)), behind_proxy=settings.clustered)


def _look_after(state: State, objects: ObjectStore) -> None:
    """By one process of this host: whichever gets the lock, which it keeps until it dies."""
    lock = os.open(state.run / "objects.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    expiry.look_after(objects, threading.Event())
