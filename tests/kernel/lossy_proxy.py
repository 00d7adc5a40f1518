"""A proxy before a MariaDB server that loses connections exactly where it hurts."""

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Literal

Loss = Literal[
    "command lost",  # the connection ends before the command reaches the server
    "answer lost",  # the server has done it; its answer is lost
    "command late",  # the client's connection ends, and its command reaches the server half a second later
]
LATE_S = 0.5


class LossyProxy:
    """Listens on a unix socket. `losses` are met in turn by the commands that contain `where`."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.path, self._server = directory / "proxy", server
        self.losses: list[Loss] = []
        self.where = b"\x03COMMIT"
        self.met = 0
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_all(self) -> None:
        """Every connection that there is ends, as when a server dies."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                server.connect(str(self._server))
                self._open += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := server.recv(1 << 16):
                client.sendall(part)
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while command := client.recv(1 << 16):
                loss = self._next(command)
                if loss is not None:
                    client.shutdown(socket.SHUT_RDWR)  # from here on nothing reaches the client
                if loss == "command late":
                    time.sleep(LATE_S)
                if loss != "command lost":
                    server.sendall(command)
                if loss == "answer lost" or loss == "command late":
                    time.sleep(0.2)
                if loss is not None:
                    break
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _next(self, command: bytes) -> Loss | None:
        with self._lock:
            if self.where in command and self.losses:
                self.met += 1
                return self.losses.pop(0)
        return None
