"""Which networks the metadata service answers on, and for whom: taken from what the API wants of this host.

A document of kind "metadata_network": ``{"id": network, "port_id", "mac", "addresses": ["10.0.0.2/24"], "servers":
{"10.0.0.7": server_id}}``; `servers` names the machines of this host by their address on that network.
"""

import logging
import threading
from collections.abc import Callable

from trilith.drivers.ovs import MetadataPort
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Doc

log = logging.getLogger(__name__)

AGAIN_S = 1.0  # after a network could not be served


class MetadataNetworks(threading.Thread):
    """Calls `serve` (`agent.metadata.Metadata.set_networks`) when other networks are wanted, until it is taken.
    Works in a thread of its own, since making a namespace takes a while."""

    def __init__(self, serve: Callable[[dict[str, MetadataPort]], None]) -> None:
        super().__init__(name="metadata-networks", daemon=True)
        self._serve = serve
        self._networks: dict[str, Doc] = {}
        self._servers: dict[str, Doc] = {}
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._told = False

    def take(self, wants: dict[str, list[Doc]]) -> None:
        """The newest wants of this host. Returns at once."""
        self._servers = {doc["id"]: doc for doc in wants.get("server", [])}
        networks = {doc["id"]: doc for doc in wants.get("metadata_network", [])}
        if networks != self._networks or not self._told:
            self._networks, self._told = networks, True
            self._changed.set()

    def lookup(self, network_id: str, address: str) -> Doc | None:
        """The wanted document of the machine that has this address on this network."""
        network = self._networks.get(network_id)
        return self._servers.get(network["servers"].get(address, "")) if network else None

    def run(self) -> None:
        while self._changed.wait() and not self._ended.is_set():
            self._changed.clear()
            ports = {
                network_id: MetadataPort(doc["port_id"], doc["mac"], tuple(doc["addresses"]))
                for network_id, doc in self._networks.items()
            }
            try:
                self._serve(ports)
            except (Unavailable, Refused) as error:
                log.warning("again later: %s", error)
                self._ended.wait(AGAIN_S)
                self._changed.set()

    def stop(self) -> None:
        self._ended.set()
        self._changed.set()
