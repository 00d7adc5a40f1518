"""QMP: talking to a running QEMU over its monitor socket. Plain threads; one selector thread serves all machines.

A monitor takes one client at a time: a second one hangs without a greeting, so every wait here has an end.
Events that happen while nobody is connected are lost: whoever connects must query what it needs.
"""

import contextlib
import itertools
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from trilith.kernel.errors import Unavailable

log = logging.getLogger(__name__)

Doc = dict[str, Any]
GREETING_S = 5.0
REPLY_S = 20.0  # a TCG guest on a busy machine can keep the monitor waiting for seconds


class CommandError(Unavailable):
    """QEMU refused a command. `reason` is its error class, such as ``DeviceNotFound``."""

    def __init__(self, command: str, error: Doc) -> None:
        super().__init__(f"{command}: {error.get('desc', error)}")
        self.reason: str = error.get("class", "GenericError")


class Monitor:
    """One connection. `on_event` and `on_close` are called in the selector thread: they must not block."""

    def __init__(
        self, sock: socket.socket, rest: bytes, on_event: Callable[[str, Doc], None], on_close: Callable[[], None]
    ) -> None:
        self.closed = False
        self._sock = sock
        self._on_event = on_event
        self._on_close = on_close
        self._ids = itertools.count(1)
        self._waiting: dict[int, SimpleQueue[Doc | None]] = {}
        self._lock = threading.Lock()  # sending, and `_waiting` against closing
        self._buffer = rest

    def execute(
        self, command: str, arguments: Doc | None = None, fds: Sequence[int] = (), timeout_s: float = REPLY_S
    ) -> Any:
        """Run `command` and return its reply; `fds` go along with it.

        Raises `CommandError` when QEMU says no, `Unavailable` when it is gone or does not answer in time.
        """
        reply: SimpleQueue[Doc | None] = SimpleQueue()
        message: Doc = {"execute": command, "id": next(self._ids)}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            if self.closed:
                raise Unavailable(f"{command}: the monitor is closed")
            self._waiting[message["id"]] = reply
            try:
                sent = socket.send_fds(self._sock, [data], list(fds)) if fds else 0
                self._sock.sendall(data[sent:])
            except OSError as error:
                self._waiting.pop(message["id"], None)
                raise Unavailable(f"{command}: {error}") from error
        try:
            answer = reply.get(timeout=timeout_s)
        except Empty as error:
            self._waiting.pop(message["id"], None)
            raise Unavailable(f"{command}: no answer in {timeout_s:g} s") from error
        if answer is None:
            raise Unavailable(f"{command}: the monitor closed")
        if "error" in answer:
            raise CommandError(command, answer["error"])
        return answer["return"]

    def feed(self) -> bool:
        """Read what has come and hand it on; False when the other end has closed."""
        try:
            data = self._sock.recv(1 << 16)
        except (BlockingIOError, TimeoutError):
            return True
        except OSError:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._dispatch(json.loads(line))
        return bool(data)

    def lost(self) -> None:
        """Close, and wake everybody who waits for a reply. Harmless when repeated."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            waiting, self._waiting = self._waiting, {}
            self._sock.close()
        for reply in waiting.values():
            reply.put(None)
        self._on_close()

    def _dispatch(self, message: Doc) -> None:
        if "event" in message:
            self._on_event(message["event"], message.get("data", {}))
        elif (reply := self._waiting.pop(message.get("id", 0), None)) is not None:
            reply.put(message)

    def fileno(self) -> int:
        return self._sock.fileno()


class Monitors:
    """The selector thread, and the connections that it reads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)
        self._thread.start()

    def connect(
        self,
        path: Path,
        on_event: Callable[[str, Doc], None] = lambda name, data: None,
        on_close: Callable[[], None] = lambda: None,
        timeout_s: float = GREETING_S,
    ) -> Monitor:
        """Connect to the monitor at `path` and leave negotiation mode. Raises `Unavailable`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout_s
        try:
            sock.settimeout(timeout_s)
            _connect(sock, path)
            _, rest = _line(sock, b"", deadline)  # the greeting
            sock.sendall(b'{"execute": "qmp_capabilities"}\n')
            reply: Doc = {}
            while "return" not in reply:
                reply, rest = _line(sock, rest, deadline)
            sock.settimeout(REPLY_S)
        except OSError as error:
            sock.close()
            raise Unavailable(f"monitor {path.name}: {error}") from error
        monitor = Monitor(sock, rest, on_event, on_close)
        with self._lock:
            self._selector.register(monitor, selectors.EVENT_READ)
        return monitor

    def close(self, monitor: Monitor) -> None:
        with self._lock, contextlib.suppress(KeyError, ValueError):  # two threads may find it gone at the same moment
            self._selector.unregister(monitor)
        monitor.lost()

    def stop(self) -> None:
        """End the thread and close every connection; the machines run on."""
        os.write(self._wake_write, b"x")
        self._thread.join(timeout=5)
        with self._lock:
            monitors = [key.fileobj for key in self._selector.get_map().values()]
        for monitor in monitors:
            if isinstance(monitor, Monitor):
                self.close(monitor)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if not isinstance(key.fileobj, Monitor):
                    return
                if not key.fileobj.feed():
                    self.close(key.fileobj)


def _connect(sock: socket.socket, path: Path) -> None:
    """Connect to the very socket at `path`, however long: a link that QEMU may have put there is not followed."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _line(sock: socket.socket, rest: bytes, deadline: float) -> tuple[Doc, bytes]:
    while b"\n" not in rest:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed before its greeting")
        rest += data
    line, _, rest = rest.partition(b"\n")
    return json.loads(line), rest
