"""A host's switch in memory: same interface as `ovs.HostNetwork`, no root, no engine."""

from trilith.drivers.ovs import MetadataPort, tap_name
from trilith.kernel.errors import Unavailable


class FakeHostNetwork:
    """`away` makes every call `Unavailable`."""

    netns: str | None = None
    datapath = "fake"

    def __init__(self) -> None:
        self.away = False
        self._plugged: dict[str, str] = {}
        self._metadata: dict[str, MetadataPort] = {}

    def close(self) -> None:
        """Nothing is held."""

    def plug(self, port_id: str, mac: str, mtu: int, owner_uid: int = 0) -> str:
        self.attach(tap_name(port_id), port_id, mac)
        return tap_name(port_id)

    def attach(self, link: str, port_id: str, mac: str) -> None:
        self._check_present()
        self._plugged[port_id] = link

    def unplug(self, port_id: str) -> None:
        self._check_present()
        self._plugged.pop(port_id, None)

    def plugged(self) -> dict[str, str]:
        self._check_present()
        return dict(self._plugged)

    def sweep(self) -> None:
        self._check_present()

    def metadata_namespace(self, network_id: str) -> str:
        return f"fake-md-{network_id}"

    def ensure_metadata(self, network_id: str, port: MetadataPort) -> str:
        self._check_present()
        self._metadata[network_id] = port
        return self.metadata_namespace(network_id)

    def remove_metadata(self, network_id: str) -> None:
        self._check_present()
        self._metadata.pop(network_id, None)

    def metadata_networks(self) -> set[str]:
        self._check_present()
        return set(self._metadata)

    def _check_present(self) -> None:
        if self.away:
            raise Unavailable("Open_vSwitch does not answer.")
