"""MariaDB, one server or a Galera cluster behind a proxy that sends everybody to one node: the database of a cluster.

It is made to behave as SQLite does. A transaction sees one moment (repeatable read). Strings compare byte by byte, and
writers queue, on the one row of ``write_queue``: quotas and address allocation stay exact with any number of
controllers. Two writers that reached two Galera nodes both change that row, so one of them fails certification and
runs again.

A commit whose answer was lost is resolved exactly: every queued transaction leaves its id in ``commits``, and whoever
runs again looks for its own id first. The queue's row makes it wait until the lost attempt has ended; should that one
still be under way on another node, the two change the same rows, and only one of them can commit.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from trilith.kernel.errors import Fault, Unavailable
from trilith.kernel.turns import Turns

COLLATION = "utf8mb4_nopad_bin"  # the database's: columns compare as SQLite and Python do, trailing spaces too
CONNECT_S = 2
READ_S = 10  # longer than commits stall when a Galera node dies
VANISHED_S = 5  # a server that acknowledges nothing for so long is gone
LOCK_WAIT_S = 5
IDLE_WRITER_S = 2  # a client that vanished inside its transaction frees the queue after this
AT_ONCE = 2  # writers of one process that the server sees: one works or commits, the next one waits
CONNECTION_S = 60  # until a connection is made anew: by then it leads to the node that all others write to
CONNECTIONS = 32  # of one process; those above the pool's own are closed after use

AGAIN = {1020, 1180, 1205, 1213}  # changed since read, error during commit, lock wait, deadlock or certification
LOST = {1040, 1047, 1053, 1158, 1159, 1160, 1161, 1290, 1927, 2002, 2003, 2006, 2013, 2014, 2055}  # another connection
NO_ROOM = {1021, 1030, 1114}
BAD_PATTERN = 1139

Found = tuple[int, ...] | None


class MariaDb:
    """One database on a server; `url` as SQLAlchemy takes it: ``mysql+pymysql://user:password@host:port/name``."""

    def __init__(self, url: str, **options: Any) -> None:
        arguments = {"charset": "utf8mb4", "read_timeout": READ_S, "write_timeout": READ_S}
        arguments["conv"] = conversions | {FIELD_TYPE.DECIMAL: _number, FIELD_TYPE.NEWDECIMAL: _number}
        self.engine = sa.create_engine(
            url,
            connect_args=arguments,
            isolation_level="REPEATABLE READ",
            pool_size=8,
            max_overflow=CONNECTIONS - 8,
            pool_timeout=READ_S,
            pool_recycle=CONNECTION_S,
            enable_from_linting=False,  # this dialect's does not see a join of one row; SQLite's looks at the same
            pool_reset_on_return=None,  # every transaction is ended where it was begun
            **options,
        )
        self._turns = Turns(AT_ONCE)
        event.listen(self.engine, "do_connect", _connect)
        event.listen(self.engine, "connect", _connected)
        event.listen(self.engine, "handle_error", _lost)

    @contextmanager
    def turn(self, in_vain: Callable[[], bool] | None) -> Iterator[None]:
        """The queue is in the database (see `enter`), which ends each wait after `LOCK_WAIT_S`, and then that place is
        lost. So only a few writers of a process wait there, the others here, until they shall not any more; None:
        does not queue."""
        if in_vain is None:
            yield
            return
        if not self._turns.take(in_vain):
            raise sa.exc.TimeoutError("no writer of this process gets its turn")
        try:
            yield
        finally:
            self._turns.give()

    def enter(self, connection: sa.Connection, tx_id: str, attempt: int) -> int | None:
        """Waits for the writers that came before, then says which attempt of this transaction was committed already;
        None: none of them, go on."""
        queued = connection.exec_driver_sql("UPDATE write_queue SET last_tx = %s WHERE id = 1", (tx_id,))
        if queued.rowcount != 1:
            raise RuntimeError("write_queue has no row: the schema was not made by trilith.cluster.schema")
        if attempt > 1:
            found: Found = connection.exec_driver_sql("SELECT attempt FROM commits WHERE tx_id = %s", (tx_id,)).first()
            if found is not None:
                return found[0]
        connection.exec_driver_sql(
            "INSERT INTO commits (tx_id, attempt, at_s) VALUES (%s, %s, UNIX_TIMESTAMP())", (tx_id, attempt)
        )
        return None

    def may_repeat(self, error: DBAPIError) -> bool:
        """Whether the transaction shall run again. Raises `Unavailable` when nothing can be written now, `Fault` when
        a pattern is none."""
        number = _number_of(error.orig)
        if number in NO_ROOM:
            raise Unavailable("the database cannot be written now") from error
        if number == BAD_PATTERN:
            raise Fault("invalid", "Invalid regular expression") from error
        return number in AGAIN or number in LOST or error.connection_invalidated

    def now_s(self, connection: sa.Connection) -> float | None:
        return float(connection.exec_driver_sql("SELECT UNIX_TIMESTAMP(NOW(6))").scalar_one())

    def close(self) -> None:
        self.engine.dispose()


def _connect(dialect: Any, record: Any, arguments: list[Any], parameters: dict[str, Any]) -> Any:
    """With limits that a server's sudden silence cannot exceed; pymysql has no parameters for them."""
    connection = pymysql.connect(*arguments, **parameters, connect_timeout=CONNECT_S, defer_connect=True)
    if "unix_socket" in parameters:
        connection.connect()
        return connection
    address = (parameters.get("host", "127.0.0.1"), parameters.get("port", 3306))
    try:
        opened = socket.create_connection(address, CONNECT_S)
    except OSError as error:
        raise pymysql.err.OperationalError(2003, f"cannot connect to {address[0]}:{address[1]}: {error}") from error
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, VANISHED_S - 3)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_S * 1000)
    connection.connect(opened)
    return connection


def _connected(connection: Any, record: Any) -> None:
    """Every transaction begins when its node has all that was committed on any node before: 0.2 ms, and nothing is read
    that another controller knows to be over, be the node late, or just awake and not yet put out."""
    cursor = connection.cursor()
    cursor.execute("SET NAMES utf8mb4 COLLATE utf8mb4_bin")  # of constants, and as results of JSON functions have it
    cursor.execute(f"SET innodb_lock_wait_timeout = {LOCK_WAIT_S}, idle_write_transaction_timeout = {IDLE_WRITER_S}")
    cursor.execute("SET wsrep_sync_wait = 1")
    cursor.close()
    connection.rollback()


def _lost(context: ExceptionContext) -> None:
    """What SQLAlchemy does not know to be the end of a connection: it drops it, and all that are as old."""
    if _number_of(context.original_exception) in LOST:
        context.is_disconnect = True


def _number_of(error: BaseException | None) -> int:
    return error.args[0] if error is not None and error.args and isinstance(error.args[0], int) else 0


def _number(text: str) -> int | float:
    """Sums come as decimals; here a number is an int or a float."""
    return float(text) if "." in text else int(text)
