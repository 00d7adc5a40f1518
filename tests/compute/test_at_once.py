"""Many requests for what only one can have, in threads over one database."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.client import Answer
from tests.compute.conftest import NETWORK, Cloud
from trilith.volume.volumes import VOLUME


def at_once(asks: list[Callable[[], Answer]]) -> list[Answer]:
    gate = Barrier(len(asks))

    def ask(what: Callable[[], Answer]) -> Answer:
        gate.wait(10)
        return what()

    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(ask, asks))


def test_a_volume_is_attached_to_one_server(cloud: Cloud) -> None:
    servers = [cloud.server(name=f"s{number}") for number in range(4)]
    volume = cloud.volume()

    def attach(server: str) -> Callable[[], Answer]:
        body = {"volumeAttachment": {"volumeId": volume}}
        return lambda: cloud.post(f"/servers/{server}/os-volume_attachments", body)

    cloud.beat()  # making them may have taken longer than a host's lease
    answers = at_once([attach(server) for server in servers for _ in range(2)])
    said = Counter((answer.status, answer.content if answer.status >= 300 else b"") for answer in answers)
    assert Counter(answer.status < 300 for answer in answers) == {True: 1, False: 7}, said
    assert all(answer.status in (200, 202, 400, 409) for answer in answers), said
    cloud.settle()
    row = cloud.store.read(lambda tx: tx.get(VOLUME, volume))
    assert row["status"] == "in-use"
    attached = [cloud.get(f"/servers/{server}/os-volume_attachments").json["volumeAttachments"] for server in servers]
    assert sum(map(len, attached)) == 1


def test_addresses_go_to_one_port_each(cloud: Cloud) -> None:
    network = cloud.make_network(cidr="10.9.0.0/29")  # six addresses: the gateway's, the metadata port's, four

    def make() -> Answer:
        return cloud.api.post(f"{NETWORK}/ports", {"port": {"network_id": network}})

    answers = at_once([make] * 12)
    made = [answer.json["port"]["fixed_ips"][0]["ip_address"] for answer in answers if answer.status == 201]
    assert sorted(made) == [f"10.9.0.{number}" for number in range(3, 7)]
    assert Counter(answer.status for answer in answers) == {201: 4, 409: 8}


def test_a_host_is_never_claimed_twice_over(cloud: Cloud) -> None:
    """The host has room for 16 servers of 1 GiB; quotas allow 10 instances, 20 cores."""
    answers = at_once([lambda: cloud.try_server(at="2.37", flavorRef="2", networks="none")] * 14)
    assert Counter(answer.status for answer in answers) == {202: 10, 403: 4}
