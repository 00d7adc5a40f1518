"""A lost host is cut off from Ceph: its clients, nobody else's, in time, and without a way back for them."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.compute.conftest import Cloud, cloud
from tests.compute.test_in_ceph import GIB, POOLS
from trilith.cluster.ceph_fencing import FORGET_S, CephFencing
from trilith.drivers.ceph_fake import FakeCeph
from trilith.kernel.errors import Unavailable
from trilith.volume import shared_storage

__all__ = ["cloud"]

ADDRESSES = {"c1": {"10.0.0.1", "10.1.0.1"}, "c2": {"10.0.0.2"}, "c3": {"fd00::3"}}
HERE, HERE_TOO, THERE, SIX = "10.0.0.1:0/7", "10.1.0.1:0/8", "10.0.0.2:0/9", "[fd00::3]:0/10"
ELSEWHERE = "192.0.2.7:0/11"  # of no host that the cluster file names


class Slow(FakeCeph):
    """Says who has a disk open when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.asked = 0

    def watchers_of(self, images: Sequence[tuple[str, str]]) -> list[list[str]]:
        self.asked += 1
        self.answers.wait(30)
        return super().watchers_of(images)


@pytest.fixture
def ceph() -> Slow:
    found = Slow()
    found.answers.set()
    return found


@pytest.fixture
def server(cloud: Cloud, ceph: Slow) -> str:
    """On c1, its disk in Ceph."""
    cloud.store.run(lambda tx: shared_storage.declare(tx, "44444444-4444-4444-8444-444444444444", POOLS))
    key = cloud.server()
    ceph.create("machines", f"{key}_root-0", GIB)
    return key


def test_its_clients_and_nobody_elses(cloud: Cloud, ceph: Slow, server: str) -> None:
    fencing = CephFencing(ceph, cloud.store, ADDRESSES)
    ceph.opened["machines", f"{server}_root-0"] = [HERE, HERE_TOO, THERE, SIX, ELSEWHERE]
    assert fencing.watches("c1") is None
    fencing.cut_off("c2")
    assert ceph.blocklisted() == set()
    fencing.cut_off("c1")
    assert ceph.blocklisted() == {HERE, HERE_TOO, ELSEWHERE}
    fencing.cut_off("c1")
    fencing.let_in("c1")
    assert ceph.watchers("machines", f"{server}_root-0") == [THERE, SIX]


def test_a_slow_ceph_is_not_waited_for_and_asked_once(cloud: Cloud, ceph: Slow, server: str) -> None:
    fencing = CephFencing(ceph, cloud.store, ADDRESSES, answer_s=0.05)
    ceph.opened["machines", f"{server}_root-0"] = [HERE]
    ceph.answers.clear()
    for _ in range(3):
        with pytest.raises(Unavailable, match="its 1 disks"):
            fencing.cut_off("c1")
    assert ceph.asked == 1
    ceph.answers.set()
    CephFencing(ceph, cloud.store, ADDRESSES).cut_off("c1")  # another controller
    assert ceph.blocklisted() == {HERE}


def test_without_an_answer_it_is_tried_again(cloud: Cloud, ceph: Slow, server: str) -> None:
    fencing = CephFencing(ceph, cloud.store, ADDRESSES)
    ceph.opened["machines", f"{server}_root-0"] = [HERE]
    ceph.away = True
    for _ in range(2):
        with pytest.raises(Unavailable, match="does not answer"):
            fencing.cut_off("c1")
    ceph.away = False
    fencing.cut_off("c1")
    assert ceph.blocklisted() == {HERE}


def test_lost_once_more(cloud: Cloud, ceph: Slow, server: str) -> None:
    now_s = [0.0]
    fencing = CephFencing(ceph, cloud.store, ADDRESSES, clock=lambda: now_s[0])
    ceph.opened["machines", f"{server}_root-0"] = [HERE]
    fencing.cut_off("c1")
    again = HERE.replace("/7", "/70")
    ceph.opened["machines", f"{server}_root-0"] = [again]  # it came back, with new clients
    now_s[0] = FORGET_S + 1
    fencing.cut_off("c1")
    assert ceph.blocklisted() == {HERE, again}


def test_nothing_in_ceph_needs_no_ceph(cloud: Cloud, tmp_path: Path) -> None:
    cloud.server()
    ceph = FakeCeph()
    ceph.away = True
    CephFencing(ceph, cloud.store, ADDRESSES).cut_off("c1")
