"""``python -m tests.cluster.chunked_server DIRECTORY PORT [CERTIFICATE KEY]``: a server that notes in
``DIRECTORY/ends`` how each body ended: ``SIZE`` or ``cut``."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.server import Server

from trilith.cluster.chunked_bodies import ChunkedBody
from trilith.kernel.errors import Fault


def main(directory: Path, port: int, *tls: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body, size = ChunkedBody(environ), 0
        try:
            while part := body.read(1 << 16):
                size += len(part)
            end = str(size)
        except Fault:
            end = "cut"
        with open(directory / "ends", "a") as file:
            file.write(f"{end}\n")
        start_response("200 OK", [("Content-Length", str(len(end)))])
        return [end.encode()]

    certificate, key = tls or (None, None)
    server = Server(
        "app", port=port, interface=Interfaces.WSGI, blocking_threads=4, http=HTTPModes.http1,
        ssl_cert=certificate, ssl_key=key,
    )  # fmt: skip
    server.serve(target_loader=lambda *words: app, wrap_loader=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:]))
