# mypy: disable-error-code="no-untyped-call"
# (the library has no types)
"""A live copy of an OVSDB database in memory, and transactions on it. `ovn` and `ovs` are built on it.

A thread of its own keeps the copy; after a lost connection it connects again by itself. Writes are plain OVSDB
operations (RFC 7047, section 5.2), all of one call in one transaction.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import ovs.db.idl
import ovs.poller
import ovs.stream

from trilith.kernel.errors import Refused, Unavailable

Columns = dict[str, tuple[str, ...]]
Operation = dict[str, Any]
BACKOFF_MS = 1000  # the least that the library takes
PROBE_MS = 1500  # of silence, after which the server at the other end of a wire is asked whether it lives


@dataclass(frozen=True)
class Tls:
    """Files for ``ssl:`` remotes. They hold for the whole process: that is how the library has them."""

    private_key: Path
    certificate: Path
    ca: Path


class _Idl(ovs.db.idl.Idl):
    """The library's replica, which also notes the rows that changed, when somebody asks for them."""

    changed: set[tuple[str, UUID]] | None = None

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        if self.changed is not None:
            self.changed.add((row._table.name, row.uuid))


class Replica:
    """`columns` of each table in `database` at `remote` (as OVSDB writes it: ``unix:/path``, ``ssl:host:port,...``).

    Of several remotes the cluster's leader is used, wherever it moves. With `track`, `Tables.take_changed` tells
    which rows changed.
    """

    def __init__(
        self,
        remote: str,
        database: str,
        schema_file: str,
        columns: Columns,
        timeout_s: float,
        track: bool = False,
        tls: Tls | None = None,
    ) -> None:
        self.database = database
        self.timeout_s = timeout_s
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Condition()
        self._stopped = False
        try:
            schema = ovs.db.idl.SchemaHelper(location=schema_file)
        except OSError as error:
            raise Unavailable(f"{schema_file} is missing: is the package of that engine installed?") from error
        for table, names in columns.items():
            schema.register_columns(table, list(names))
        if tls is not None:
            ovs.stream.Stream.ssl_set_private_key_file(str(tls.private_key))
            ovs.stream.Stream.ssl_set_certificate_file(str(tls.certificate))
            ovs.stream.Stream.ssl_set_ca_cert_file(str(tls.ca))
        self._idl = _Idl(remote, schema, probe_interval=None if remote.startswith("unix:") else PROBE_MS)
        self._idl.changed = set() if track else None
        self._idl._session.reconnect.set_backoff(BACKOFF_MS, BACKOFF_MS)
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"ovsdb-{database}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        self._wake()
        self._thread.join()
        with self._lock:
            self._idl.close()
            os.close(self._wake_in)
            os.close(self._wake_out)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Called after every change, in the replica's own thread: it may set an event, not read or write here."""
        self._callbacks.append(callback)

    def connected(self) -> bool:
        return bool(self._idl.state == self._idl.IDL_S_MONITORING and self._idl._session.is_connected())

    @contextmanager
    def frozen(self) -> Iterator["Tables"]:
        """The tables, not changing meanwhile. Raises `Unavailable` when the server has been away for `timeout_s`."""
        with self._lock:
            if not self._lock.wait_for(self.connected, self.timeout_s):
                raise Unavailable(f"{self.database} does not answer.")
            yield Tables(self._idl)

    def wait_until(self, condition: Callable[["Tables"], bool]) -> None:
        """Block until the tables are as told. Raises `Unavailable` after `timeout_s`."""
        with self._lock:
            if not self._lock.wait_for(lambda: self.connected() and condition(Tables(self._idl)), self.timeout_s):
                raise Unavailable(f"{self.database} did not come to what was waited for.")

    def transact(self, build: Callable[["Tables"], list[Operation]]) -> None:
        """Commit the operations that `build` makes from the tables as they are; none: nothing is sent.

        When it returns, the copy has them. Raises `Unavailable` (away, or somebody else changed something at the same
        time: read again) or `Refused` (the server never takes it).
        """
        with self.frozen() as tables:
            operations = build(tables)
            if not operations:
                return
            before = self._idl.change_seqno
            transaction = ovs.db.idl.Transaction(self._idl)
            for operation in operations:
                transaction.add_op(operation)
            status = self._commit(transaction)
            if status == transaction.ERROR:
                said = f"{self.database} refuses: {transaction.get_error()}"
                raise Refused(said) if before == self._idl.change_seqno else Unavailable(said)
            if status not in (transaction.SUCCESS, transaction.UNCHANGED):
                raise Unavailable(f"{self.database}: {transaction.status_to_string(status)}.")

    def _commit(self, transaction: Any) -> str:
        deadline = time.monotonic() + self.timeout_s
        status: str = transaction.commit()
        self._wake()
        while status == transaction.INCOMPLETE:
            if not self._lock.wait(deadline - time.monotonic()):
                transaction.abort()
                raise Unavailable(f"{self.database} did not answer within {self.timeout_s:.0f} s.")
            status = transaction.commit()
        return status

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: it is awake already
            os.write(self._wake_in, b".")

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                # Only a leader is read, so nothing is stale; a database that was made anew counts from the beginning.
                self._idl._min_index = 0
                changed = self._idl.run()
                self._lock.notify_all()
            if changed:
                for callback in self._callbacks:
                    callback()
            poller = ovs.poller.Poller()
            poller.fd_wait(self._wake_out, select.POLLIN)
            with self._lock:
                self._idl.wait(poller)
            poller.block()
            with suppress(BlockingIOError):  # empty: the server woke us
                os.read(self._wake_out, 4096)


class Tables:
    """What a frozen replica holds. Values are Python's: str, int, bool, list, dict; a reference is a UUID."""

    def __init__(self, idl: _Idl) -> None:
        self._idl = idl

    def rows(self, table: str) -> Any:
        """A mapping of UUID to row, to be given to `value`."""
        return self._idl.tables[table].rows

    def value(self, row: Any, column: str) -> Any:
        """Of one column: a scalar; None or a scalar where it is optional; else a list or a dict."""
        return row._data[column].to_python(lambda atom, _: atom)

    def take_changed(self) -> set[tuple[str, UUID]]:
        """The (table, uuid) of rows made, changed or deleted since the last call."""
        changed, self._idl.changed = self._idl.changed, set()
        return changed or set()

    def references(self, table: str, column: str) -> str | None:
        """The table that a column's values point to."""
        target = self._idl.tables[table].columns[column].type.key.ref_table
        return target.name if target else None

    def kind(self, table: str, column: str) -> Any:
        """The library's type of a column (is_map, is_set, is_optional)."""
        return self._idl.tables[table].columns[column].type


def where(uuid: UUID) -> list[Any]:
    """The OVSDB condition that names one row."""
    return [["_uuid", "==", ["uuid", str(uuid)]]]


def as_map(values: dict[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def as_set(values: list[Any]) -> list[Any]:
    return ["set", values]
