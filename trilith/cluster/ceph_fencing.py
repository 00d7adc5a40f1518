"""What Ceph does when a compute host is lost: whatever that host's QEMUs still have open can write no more.

Each disk that a QEMU has open is a client of its own, and is blocklisted as one: a host that comes back lets its
machines open their disks as new clients, which are welcome. So there is nothing to take back, and entries end by
themselves.
"""

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from trilith.cluster.ceph_controller import AnyCeph
from trilith.kernel.errors import Unavailable
from trilith.kernel.store import Store
from trilith.volume.shared_storage import disks_of_host

Disk = tuple[str, str]  # pool, image
Work = tuple[float, list[Disk], "Future[None]"]  # since when, by our clock

ANSWER_S = 4.0  # the takeover is asleep after 5
FORGET_S = 60.0  # what was cut off so long ago is looked at once more
WORKERS = 4


class CephFencing:
    """The takeover's `SharedStorage`. `addresses`: by host of the cluster file, whence its clients may come."""

    def __init__(
        self,
        ceph: AnyCeph,
        store: Store,
        addresses: Mapping[str, set[str]],
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ceph, self._store, self._addresses = ceph, store, addresses
        self._answer_s, self._clock = answer_s, clock
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="ceph-fencing")
        self._begun: dict[str, Work] = {}
        self._lock = threading.Lock()

    def watches(self, host: str) -> bool | None:
        """Nobody knows: Ceph names a client for 30 s after its death, which is longer than a takeover may take."""
        return None

    def cut_off(self, host: str) -> None:
        """`Unavailable` when it takes too long: it goes on meanwhile, and the next call finds it further."""
        disks = sorted(self._store.read(lambda tx: disks_of_host(tx, host)))
        with self._lock:
            self._forget()
            if host not in self._begun or self._begun[host][1] != disks:
                self._begun[host] = (self._clock(), disks, self._pool.submit(self._cut, host, disks))
            work = self._begun[host][2]
        if not wait([work], self._answer_s).done:
            raise Unavailable(f"Host {host} is not cut off from its {len(disks)} disks in Ceph yet.")
        work.result()

    def let_in(self, host: str) -> None:
        """Its new clients were never kept out."""

    def _forget(self) -> None:
        """What failed, and what was done long ago."""
        for host, (begun_s, _, work) in list(self._begun.items()):
            failed = work.done() and work.exception() is not None
            if work.done() and (failed or self._clock() - begun_s > FORGET_S):
                del self._begun[host]

    def _cut(self, host: str, disks: list[Disk]) -> None:
        if not disks:
            return
        clients = {client for watchers in self._ceph.watchers_of(disks) for client in watchers}
        if theirs := sorted(client for client in clients if not self._is_of_another(client, host)):
            self._ceph.blocklist(theirs)

    def _is_of_another(self, client: str, host: str) -> bool:
        """A machine that moves is open on both of its hosts. One whose address nobody knows is the lost host's."""
        address = ipaddress.ip_address(client.rpartition(":")[0].strip("[]"))
        if any(address == ipaddress.ip_address(own) for own in self._addresses.get(host, ())):
            return False
        others = (each for name, each in self._addresses.items() if name != host)
        return any(address == ipaddress.ip_address(each) for found in others for each in found)
