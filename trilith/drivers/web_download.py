"""Download from a URL that a user gave, without lending that user our place in the network.

The name is resolved once, every address is judged, and the connection goes to the judged address itself: a name that
answers differently the second time gains nothing. Each redirect is a new URL and goes through the same.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from urllib.parse import SplitResult, urljoin, urlsplit

from trilith.kernel.errors import Refused, Unavailable

CHUNK_BYTES = 1 << 20
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_url(url: str, allowed_networks: Iterable[Network] = ()) -> None:
    """Refused at once if the URL's form, or every address of its name, is not allowed; for the API's answer."""
    _resolve(_split(url), tuple(allowed_networks))


def fetch(
    url: str,
    max_bytes: int,
    limit_s: float = 3600.0,
    allowed_networks: Iterable[Network] = (),
    idle_s: float = 30.0,
) -> Iterator[bytes]:
    """The body of `url` in chunks.

    Only http and https, on their own ports, to public addresses; `allowed_networks` are let through as well, on any
    port. Raises `Refused` (not allowed, 4xx, over `max_bytes`) or `Unavailable` (away, 5xx, cut off, slower than
    `limit_s` in all or silent for `idle_s`).
    """
    deadline = time.monotonic() + limit_s
    allowed = tuple(allowed_networks)
    parts = _split(url)
    for _ in range(MAX_REDIRECTS + 1):
        connection = _connect(parts, _resolve(parts, allowed), idle_s)
        try:
            response = _ask(connection, parts)
            if response.status not in REDIRECTS:
                yield from _body(response, parts, max_bytes, deadline)
                return
            onward = _split(urljoin(parts.geturl(), response.getheader("Location", "")))
        finally:
            connection.close()
        if parts.scheme == "https" and onward.scheme == "http":
            raise Refused(f"{parts.hostname} redirects from https to http, which would lose its protection.")
        parts = onward
    raise Refused(f"More than {MAX_REDIRECTS} redirects.")


def is_public(address: Address) -> bool:
    """Whether `address` is of the public internet, with IPv4 addresses that IPv6 ones carry taken out and judged."""
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = [each for each in carried if each is not None]
        if address in LOCAL_NAT64:
            return False
        if inner:
            return all(is_public(each) for each in inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is not a URL: {error}.") from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise Refused("Give a full URL that begins with http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise Refused("A URL with a user name or password in it is not used.")
    if not url.isascii() or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise Refused("A URL has plain ASCII characters and no spaces; encode the others.")
    return parts


def _resolve(parts: SplitResult, allowed: tuple[Network, ...]) -> Address:
    """The address to connect to: the first of the name's that may be used."""
    port = parts.port or PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The name {parts.hostname} cannot be resolved.") from error
    for *_, sockaddr in found:
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        if any(address in network for network in allowed):
            return address
        if is_public(address) and port in PORTS.values():
            return address
    if port not in PORTS.values():
        raise Refused(f"Port {port} is not used for downloads; 80 and 443 are.")
    raise Refused(f"{parts.hostname} is not on the public internet; nothing is downloaded from there.")


def _connect(parts: SplitResult, address: Address, idle_s: float) -> http.client.HTTPConnection:
    """A connection to exactly `address`; TLS still proves the name."""
    host = str(parts.hostname)
    port = parts.port or PORTS[parts.scheme]
    try:
        sock = socket.create_connection((str(address), port), timeout=idle_s)
    except OSError as error:
        raise Unavailable(f"{host} cannot be reached: {error}.") from error
    connection = http.client.HTTPConnection(host, port, timeout=idle_s)
    connection.sock = sock
    if parts.scheme == "https":
        try:
            connection.sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:
            sock.close()
            raise Unavailable(f"No secure connection to {host}: {error}.") from error
    return connection


def _ask(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", parts.netloc)
        connection.putheader("User-Agent", "trilith")
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.endheaders()
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{parts.hostname} does not answer: {error}.") from error


def _body(response: http.client.HTTPResponse, parts: SplitResult, max_bytes: int, deadline: float) -> Iterator[bytes]:
    where = str(parts.hostname)
    if response.status != 200:
        sentence = f"{where} answers {response.status} {response.reason}."
        raise Unavailable(sentence) if response.status >= 500 else Refused(sentence)
    announced = response.length
    if announced is not None and announced > max_bytes:
        raise Refused(f"{where} announces {announced} bytes; the limit is {max_bytes}.")
    received = 0
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"The download from {where} broke off: {error}.") from error
        if not chunk:
            break
        received += len(chunk)
        if received > max_bytes:
            raise Refused(f"{where} sends more than {max_bytes} bytes, which is the limit.")
        if time.monotonic() > deadline:
            raise Unavailable(f"The download from {where} took too long.")
        yield chunk
    if announced is not None and received != announced:
        raise Unavailable(f"The download from {where} broke off after {received} of {announced} bytes.")
