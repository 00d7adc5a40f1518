"""The controller process: what no host owns. The network's northbound database, images, deadlines."""

import functools
import logging
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trilith.cluster import image_store, tls
from trilith.cluster.api import open_store
from trilith.cluster.network_controller import NetworkController
from trilith.cluster.schema import migrate
from trilith.cluster.shared_images import image_files
from trilith.cluster.sql_source import SqlSource
from trilith.cluster.state import Settings, State
from trilith.compute import scheduler, server_wants, takeovers
from trilith.identity.fernet import ROTATE_S, rotate_keys
from trilith.image import images
from trilith.kernel import notices
from trilith.kernel.errors import Unavailable
from trilith.kernel.hints import Wake
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Reconciler, Runner
from trilith.kernel.store import Store, Tx, forget_commits
from trilith.volume import volumes

if TYPE_CHECKING:
    from trilith.cluster.ceph_controller import CephController
    from trilith.cluster.ceph_fencing import CephFencing
    from trilith.cluster.notifier import Notifier
    from trilith.cluster.takeover_controller import TakeoverController

log = logging.getLogger(__name__)
SWEEP_S = 5.0
RESYNC_S = 2.0
SWEEPS: tuple[Callable[[Tx], None], ...] = (
    images.sweep,
    volumes.sweep,
    server_wants.sweep,
    scheduler.sweep,
    takeovers.forget_old,
    forget_commits,
)


def run(state: State, settings: Settings) -> None:
    """Returns after SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    store = open_store(state, settings)
    migrate.prepare(store, "controller", settings.host)
    kinds: dict[str, Any] = image_store.kinds()
    reconcilers: list[Reconciler] = [image_store.ImageBytes(store, image_files(state, settings), settings.host)]
    network = NetworkController(state, settings, store)
    notifier = _notifier(state, settings, store) if settings.clustered else None
    takeover = _takeover(state, settings, store) if settings.clustered and settings.cluster.takeover.enabled else None
    ceph = _ceph(state, settings, store) if settings.cluster.ceph else None
    runner = Runner(SqlSource(store, kinds), reconcilers, RESYNC_S, workers=4)

    def images() -> None:
        runner.wake()
        if ceph is not None:
            ceph.wake()

    wakes = {"images": images, "northbound": network.wake}
    if notifier is not None:
        wakes[notices.TOPIC] = notifier.wake
    if ceph is not None:
        wakes["volumes"] = ceph.wake

    def on_wake(message: dict[str, Any]) -> None:
        for topic in message.get("wake", wakes):
            wakes[topic]()

    wake = Wake(settings.hub_url, state.secret("controller"), wakes, on_wake, state.ca_file(settings))
    works = [runner.run, network.run, *(other.run for other in (takeover, ceph) if other is not None)]
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in [wake, *threads, *([notifier] if notifier is not None else [])]:
        thread.start()
    _sweep(state, settings, store, ended)
    runner.stop()
    network.stop()
    wake.stop()
    for other in (takeover, notifier, ceph):
        if other is not None:
            other.stop()


def _notifier(state: State, settings: Settings, store: Store) -> "Notifier":
    from trilith.cluster.notifier import Brokers, Notifier  # here, because only a cluster has brokers

    others = [host.address for host in settings.controllers if host.name != settings.host]
    brokers = Brokers([settings.this_host.address, *others], state.secret("rabbitmq"), tls.client(state, settings))
    return Notifier(Holder(store, "notifications", f"controller:{settings.host}"), brokers.connect)


def _takeover(state: State, settings: Settings, store: Store) -> "TakeoverController":
    """Of a cluster: one machine alone has nowhere to go."""
    from trilith.cluster.fences import fences_of
    from trilith.cluster.second_opinion import Witnesses
    from trilith.cluster.takeover_controller import KEY, LEADS_S, Policy, TakeoverController

    asked = settings.cluster.takeover
    policy = Policy(asked.brake_share, asked.window_s, asked.confirm_s, asked.reserve_hosts, asked.priority)
    lease = Holder(store, KEY, f"controller:{settings.host}", LEADS_S)
    witnesses, storage = Witnesses(state, settings.cluster, settings.host), _fencing(state, settings, store)
    return TakeoverController(lease, policy, witnesses, fences_of(state, settings), storage)


def _fencing(state: State, settings: Settings, store: Store) -> "CephFencing | None":
    from trilith.cluster.ceph_access import access
    from trilith.cluster.ceph_fencing import CephFencing
    from trilith.drivers.ceph import Ceph

    found = access(state, settings, control=True)
    addresses = {host.name: {*host.addresses} for host in settings.cluster.hosts}
    return None if found is None else CephFencing(Ceph(found), store, addresses)


def _ceph(state: State, settings: Settings, store: Store) -> "CephController":
    from trilith.cluster.ceph_controller import CephController

    return CephController(state, settings, store)


def _sweep(state: State, settings: Settings, store: Store, ended: threading.Event) -> None:
    """Deadlines, by whoever holds the lease."""
    lease = Holder(store, "sweep", f"controller:{settings.host}")
    pause_s = 0.0  # at once: a controller that is killed every few seconds meets its deadlines too
    while not ended.wait(pause_s):
        pause_s = SWEEP_S
        try:
            if lease.held() is None:
                continue
            for work in SWEEPS:
                lease.held()  # each may wait long for its turn
                lease.run(work)
            if lease.run(functools.partial(rotate_keys, cluster_key=state.secret("cluster-key"), if_older_s=ROTATE_S)):
                log.info("token keys rotated")
            migrate.contract(store, [host.name for host in settings.controllers])
        except Unavailable as error:
            log.warning("again later: %s", error)
