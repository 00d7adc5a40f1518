"""The object store's process: Swift's API over this cloud's store. A process of its own, because its bodies are large
and its clients slow; who may do what, it reads from the same SQL as the API."""

import fcntl
import os
import threading
from typing import Any

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


class SqlIdentity:
    """Who somebody is, as for every other service: from SQL, at each request."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def caller(self, request: Request) -> Principal | None:
        token = request.headers.get("x-auth-token") or request.headers.get("x-storage-token")
        if not token:
            return None
        try:
            who = self._store.read(lambda tx: authenticate(tx, {"x-auth-token": token}))
        except Fault as fault:
            if fault.kind == "unauthenticated":
                return None
            raise
        if who.may_call is not None and not who.may_call(TYPE, request.method, request.path):
            raise Fault("forbidden", f"The token's access rules do not allow {request.method} {request.path}.")
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
    rows = Store(state.database_url(settings))
    objects = store_for(state, settings)
    if objects is None:
        raise Problem("This cloud has no object store.")
    threading.Thread(target=_look_after, args=(state, objects), daemon=True).start()
    return Application(Front(objects, SqlIdentity(rows)), behind_proxy=settings.clustered)


def _look_after(state: State, objects: ObjectStore) -> None:
    """By one process of this host: whichever gets the lock, which it keeps until it dies."""
    lock = os.open(state.run / "objects.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    expiry.look_after(objects, threading.Event())
