"""The metadata service that machines ask at http://169.254.169.254: who am I, which keys, which user data.

One process serves every network of the host. A network's listening socket is made inside that network's own namespace,
so a question's network is known by the socket and its machine by the source address, which port security guards.
Nobody is told about a machine other than the one that asks.
"""

import asyncio
import base64
import binascii
import functools
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

from aiohttp import web

from trilith.drivers import linux_net
from trilith.drivers.ovs import METADATA_ADDRESS, MetadataPort
from trilith.kernel.errors import Unavailable

log = logging.getLogger(__name__)

Doc = dict[str, Any]
Lookup = Callable[[str, str], Doc | None]  # network id, source address -> the server's want document
SavePassword = Callable[[str, bytes], bool]  # server id, encrypted password -> False: it has one already

PORT = 80
MAX_PASSWORD_BYTES = 1020
OPENSTACK_VERSIONS = (
    *("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22"),
    *("2018-08-27", "2020-10-14", "latest"),
)
EC2_VERSIONS = (
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01"),
    *("2009-04-04", "latest"),
)


class Network(Protocol):
    """What is used of `drivers.ovs.HostNetwork`."""

    def ensure_metadata(self, network_id: str, port: MetadataPort) -> str: ...
    def remove_metadata(self, network_id: str) -> None: ...
    def metadata_networks(self) -> set[str]: ...


class Metadata:
    """`lookup` is called in the service's own thread: it must be quick. Without `save_password`, none is taken."""

    def __init__(
        self, network: Network, lookup: Lookup, save_password: SavePassword | None = None, port: int = PORT
    ) -> None:
        self._network = network
        self._lookup = lookup
        self._save_password = save_password
        self._port = port
        self._served: dict[str, tuple[MetadataPort, asyncio.Server]] = {}
        self._changing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="metadata", daemon=True)
        self._thread.start()

    def set_networks(self, networks: Mapping[str, MetadataPort]) -> None:
        """Serve exactly these networks (id to the network's metadata port). Cheap when nothing changed.

        Raises `Unavailable`, after all that could be done was done, when a network could not be served.
        """
        failed: list[str] = []
        with self._changing:
            for gone in (self._served.keys() | self._network.metadata_networks()) - networks.keys():
                self._stop(gone)
                self._network.remove_metadata(gone)
            for network_id, port in networks.items():
                try:
                    self._serve(network_id, port)
                except (Unavailable, OSError) as error:
                    log.warning("metadata: %s", error, extra={"network": network_id})
                    failed.append(network_id)
        if failed:
            raise Unavailable(f"Metadata is not served for the networks {', '.join(sorted(failed))}.")

    def close(self) -> None:
        """Stop answering; namespaces stay for the next start."""
        with self._changing:
            for network_id in list(self._served):
                self._stop(network_id)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _serve(self, network_id: str, port: MetadataPort) -> None:
        served = self._served.get(network_id)
        if served and served[0] == port:
            return
        namespace = self._network.ensure_metadata(network_id, port)
        if served:  # the address that we listen on has not changed
            self._served[network_id] = (port, served[1])
            return
        listener = self._listener(namespace)
        starting = asyncio.run_coroutine_threadsafe(self._start(network_id, listener), self._loop)
        self._served[network_id] = (port, starting.result())

    async def _start(self, network_id: str, listener: socket.socket) -> asyncio.Server:
        handler = web.Server(functools.partial(self._answer, network_id), access_log=None)
        return await self._loop.create_server(handler, sock=listener)

    def _listener(self, namespace: str) -> socket.socket:
        with linux_net.in_netns(namespace):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((METADATA_ADDRESS, self._port))
        listener.listen(64)
        listener.setblocking(False)
        return listener

    def _stop(self, network_id: str) -> None:
        if served := self._served.pop(network_id, None):
            asyncio.run_coroutine_threadsafe(_close(served[1]), self._loop).result()

    async def _answer(self, network_id: str, request: web.BaseRequest) -> web.StreamResponse:
        document = self._lookup(network_id, request.remote or "")
        if document is None:
            return web.Response(status=404, text="No machine has this address.")
        if request.method == "POST" and _is_password(request.path):
            return await self._take_password(document, request)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        found = answer(document, request.path, request.remote or "")
        if found is None:
            return web.Response(status=404, text="404 Not Found")
        body, content_type = found
        return web.Response(body=body, content_type=content_type)

    async def _take_password(self, document: Doc, request: web.BaseRequest) -> web.Response:
        body = await request.content.read(MAX_PASSWORD_BYTES + 1)
        if self._save_password is None or len(body) > MAX_PASSWORD_BYTES:
            return web.Response(status=400)
        saved = await asyncio.to_thread(self._save_password, document["id"], body)
        return web.Response(status=200 if saved else 409)


async def _close(server: asyncio.Server) -> None:
    server.close()


def _is_password(path: str) -> bool:
    parts = path.strip("/").split("/")
    return len(parts) == 3 and parts[0] == "openstack" and parts[1] in OPENSTACK_VERSIONS and parts[2] == "password"


def answer(document: Doc, path: str, address: str) -> tuple[bytes, str] | None:
    """Body and content type of a path, for the machine with this want document and address; None: no such path."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return _text("\n".join(EC2_VERSIONS))
    if parts[0] == "openstack":
        return _openstack(document, parts[1:])
    if parts[0] in EC2_VERSIONS:
        return _ec2(document, parts[1:], address)
    return None


def _text(value: str) -> tuple[bytes, str]:
    return value.encode(), "text/plain"


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"


def _user_data(document: Doc) -> tuple[bytes, str] | None:
    if not document.get("user_data"):
        return None
    try:
        return base64.b64decode(document["user_data"], validate=False), "application/octet-stream"
    except binascii.Error:
        return None


def _openstack(document: Doc, parts: list[str]) -> tuple[bytes, str] | None:
    if not parts:
        return _text("\n".join(OPENSTACK_VERSIONS))
    if parts[0] not in OPENSTACK_VERSIONS:
        return None
    files: dict[str, Callable[[], tuple[bytes, str] | None]] = {
        "meta_data.json": lambda: _json(document["metadata"]),
        "user_data": lambda: _user_data(document),
        "password": lambda: _text(document["metadata"].get("password") or ""),
        "vendor_data.json": lambda: _json(document.get("vendor_data") or {}),
        "vendor_data2.json": lambda: _json(document.get("vendor_data2") or {}),
        "network_data.json": lambda: _json(document.get("network_data") or {}),
    }
    if len(parts) == 1:
        there = [name for name in files if name != "user_data" or document.get("user_data")]
        return _text("\n".join(there))
    return files[parts[1]]() if len(parts) == 2 and parts[1] in files else None


def _ec2(document: Doc, parts: list[str], address: str) -> tuple[bytes, str] | None:
    if not parts:
        return _text("meta-data/\nuser-data" if document.get("user_data") else "meta-data/")
    if parts == ["user-data"]:
        return _user_data(document)
    if parts[0] != "meta-data":
        return None
    found: Any = ec2_tree(document, address)
    for part in parts[1:]:  # a key is listed as 0=name and asked for as 0
        found = (
            {name.split("=")[0]: below for name, below in found.items()}.get(part) if isinstance(found, dict) else None
        )
    if found is None:
        return None
    return _text(_listing(found) if isinstance(found, dict) else str(found))


def _listing(tree: Doc) -> str:
    """A folder: what has something below it ends with a slash, except keys, which are written as number=name."""
    folders = {name for name, below in tree.items() if isinstance(below, dict) and "=" not in name}
    return "\n".join(name + "/" if name in folders else name for name in tree)


def ec2_tree(document: Doc, address: str) -> Doc:
    """EC2's meta-data as nested folders. The floating address is the document's ``public_ipv4``."""
    metadata = document["metadata"]
    hostname = metadata.get("hostname") or document.get("hostname") or ""
    keys = metadata.get("public_keys") or {}
    tree: Doc = {
        "ami-id": "ami-" + _short(document.get("image_id") or document["id"]),
        "ami-launch-index": str(metadata.get("launch_index", 0)),
        "ami-manifest-path": "unknown",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": hostname,
        "instance-action": "none",
        "instance-id": "i-" + _short(document["id"]),
        "instance-type": document.get("flavor_name") or "",
        "local-hostname": hostname,
        "local-ipv4": address,
        "placement": {"availability-zone": metadata.get("availability_zone") or ""},
        "public-hostname": hostname,
        "public-ipv4": document.get("public_ipv4") or "",
        "reservation-id": metadata.get("reservation_id") or "r-" + _short(document["id"]),
        "security-groups": "\n".join(document.get("security_groups") or []),
    }
    if keys:
        tree["public-keys"] = {f"{n}={name}": {"openssh-key": key} for n, (name, key) in enumerate(keys.items())}
    return dict(sorted(tree.items()))


def _short(identity: str) -> str:
    return UUID(identity).hex[:8]
