"""TLS between the cloud's own processes: one way to serve, one way to connect, and always verified.

Certificates lie in files, which a deployment may renew at any time: whoever connects anew reads them anew.
"""

import http.client
import socket
import ssl
import urllib.parse
from functools import lru_cache
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For who serves. OSError where a file is missing or is none (ssl.SSLError)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """For who connects: the other side's name and certificate are verified against `ca_file`, or where that is None
    against the authorities that this machine trusts. OSError where the file is missing."""
    return _client_context(ca_file, ca_file.stat().st_mtime_ns if ca_file else 0)


@lru_cache(maxsize=4)
def _client_context(ca_file: Path | None, changed_ns: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def connect(url: str, timeout_s: float, ca_file: Path | None = None) -> http.client.HTTPConnection:
    """A connection to an ``http://`` or ``https://`` URL's host, open. OSError where that cannot be had."""
    address = urllib.parse.urlsplit(url)
    if address.scheme == "https":
        context = client_context(ca_file)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.netloc, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.netloc, timeout=timeout_s)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
