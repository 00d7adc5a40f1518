import time
from collections.abc import Callable

from trilith.agent.metadata_networks import MetadataNetworks
from trilith.drivers.ovs import MetadataPort
from trilith.kernel.errors import Unavailable

NETWORK = {
    "id": "n1",
    "port_id": "p1",
    "mac": "fa:16:3e:00:00:01",
    "addresses": ["10.0.0.2/24"],
    "servers": {"10.0.0.7": "s1"},
}
PORT = MetadataPort("p1", "fa:16:3e:00:00:01", ("10.0.0.2/24",))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_service_follows_the_wants_and_tries_again() -> None:
    served: list[dict[str, MetadataPort]] = []
    away = [True]

    def serve(ports: dict[str, MetadataPort]) -> None:
        if away.pop() if away else False:
            raise Unavailable("the switch is away")
        served.append(dict(ports))

    networks = MetadataNetworks(serve)
    networks.start()
    networks.take({"metadata_network": [NETWORK], "server": [{"id": "s1", "name": "one"}]})
    eventually(lambda: served == [{"n1": PORT}])
    networks.take({"metadata_network": [NETWORK], "server": []})
    networks.take({})
    eventually(lambda: served[1:] == [{}])
    networks.stop()
    networks.join(5)


def test_who_asks() -> None:
    networks = MetadataNetworks(lambda ports: None)
    assert networks.lookup("n1", "10.0.0.7") is None
    networks.take({"metadata_network": [NETWORK], "server": [{"id": "s1", "name": "one"}]})
    assert networks.lookup("n1", "10.0.0.7") == {"id": "s1", "name": "one"}
    assert networks.lookup("n1", "10.0.0.8") is None
    assert networks.lookup("n2", "10.0.0.7") is None
    networks.take({"metadata_network": [NETWORK]})
    assert networks.lookup("n1", "10.0.0.7") is None
