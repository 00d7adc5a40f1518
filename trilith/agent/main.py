"""The agent: brings this host to what the API wants of it, and reports what it sees.

Killed at any moment, the next one goes on: machines and volumes are found again in the host's directory. SIGTERM ends
it without touching a machine.
"""

import json
import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

from trilith.agent import join
from trilith.agent.console import Consoles
from trilith.agent.host import build, machines_ender, switch, volumes_driver
from trilith.agent.inventory import inventory, versions
from trilith.agent.lease import HostLease, SelfFence
from trilith.agent.machines import Machines
from trilith.agent.metadata_networks import MetadataNetworks
from trilith.agent.settings import AgentSettings
from trilith.agent.source import HttpSource
from trilith.drivers import linux_net
from trilith.drivers.ovs import HostNetwork
from trilith.drivers.ovs_fake import FakeHostNetwork
from trilith.kernel.errors import Unavailable
from trilith.kernel.hints import Wake
from trilith.kernel.reconcile import Runner

log = logging.getLogger(__name__)

FIRST_TRIES_S = 0.05  # after the first heartbeat that is not taken; more after each, up to a second
WORKERS = 8
QUICK_ACKS_S = 60.0  # between looks at a route that others may have set anew
PRETENDED = {"vcpus": 64, "ram_mib": 256 * 1024, "disk_gib": 4096}  # what a host of pretended machines has


def run(settings: AgentSettings) -> None:
    """Returns after SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    credential = join.credential(settings, ended)
    if credential is None:
        return
    settings.directory.mkdir(parents=True, exist_ok=True)
    lease = HostLease(settings.heartbeat_file.with_name("lease.json"), _boot_id(), settings.stop_after_s)
    if not (settings.machines or settings.volumes):
        source = HttpSource(settings.api_url, settings.host, credential, ca_file=settings.ca_file)
        return _beat(settings, source, lease, SelfFence(lease, set), ended)
    network = switch(settings) if settings.machines else None
    metadata = None if network is None or settings.fake else _metadata(network)
    on_wants = metadata.take if metadata else lambda wants: None
    source = HttpSource(settings.api_url, settings.host, credential, on_wants, settings.ca_file)
    fence = SelfFence(lease, machines_ender(settings).stop_shared if settings.machines else set)
    fence.start()
    heart = threading.Thread(target=_beat, args=(settings, source, lease, fence, ended), name="heartbeat", daemon=True)
    heart.start()
    host = build(settings, source, network, lambda: runner.wake(), lease)
    runner = Runner(source, host.reconcilers, workers=WORKERS)
    consoles = _consoles(settings, host.machines, credential) if host.machines else None

    def on_wake(message: dict[str, Any]) -> None:
        if "console" not in message:
            runner.wake()
        elif consoles is not None:
            consoles.open(message)

    wake = Wake(settings.hub_url, credential, [f"host:{settings.host}"], on_wake, settings.ca_file)
    work = threading.Thread(target=_work, args=(source, runner), name="runner", daemon=True)
    wake.start()
    work.start()
    while not ended.wait(1.0):
        # an agent that beats without working would keep its host's rows from everybody
        for thread in (fence, heart, work, wake, metadata):
            if thread is not None and not thread.is_alive():
                raise SystemExit(f"the thread {thread.name} has ended; see: trilith logs")
    runner.stop()
    wake.stop()


def _consoles(settings: AgentSettings, machines: Machines, credential: str) -> Consoles:
    return Consoles(settings.hub_url, credential, machines.console_socket, machines.console_log, settings.ca_file)


def _work(source: HttpSource, runner: Runner) -> None:
    """A thread: all there is to do, once the API knows that this agent speaks for the host."""
    source.begun.wait()
    runner.run()


def _metadata(network: HostNetwork | FakeHostNetwork) -> MetadataNetworks:
    """The metadata service, following the wants that it is given."""
    from trilith.agent.metadata import Metadata

    networks = MetadataNetworks(lambda ports: service.set_networks(ports))
    service = Metadata(network, networks.lookup)
    networks.start()
    return networks


def stop_machines(settings: AgentSettings) -> int:
    """End every machine of this host at once; they stay wanted, so the next agent starts them. Returns how many."""
    driver = machines_ender(settings)
    running = [server_id for server_id in driver.known() if (driver.seen(server_id) or {}).get("process")]
    for server_id in running:
        driver.kill(server_id)
    driver.close()
    volumes = volumes_driver(settings)
    for volume_id in volumes.exported():
        volumes.end_export(volume_id)
    return len(running)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _beat(
    settings: AgentSettings, source: HttpSource, lease: HostLease, fence: SelfFence, ended: threading.Event
) -> None:
    """A thread: heartbeats, three in each lease."""
    has = inventory(settings.directory) | (PRETENDED if settings.fake else {})
    has |= {"host_ip": settings.address, "overcommit": settings.overcommit} | lease.told()
    runs = versions(engines=not settings.fake)
    boot_id = _boot_id()
    pause_s, quick_at = FIRST_TRIES_S, 0.0
    while not ended.wait(pause_s):
        if settings.storage_network and not settings.fake and time.monotonic() >= quick_at:
            quick_at = time.monotonic() + QUICK_ACKS_S
            try:
                linux_net.quick_acks(settings.storage_network)
            except Unavailable as error:
                log.warning("volumes are slow through the network: %s", error)
        if not fence.look():
            pause_s = FIRST_TRIES_S
            continue
        asked_at_s = lease.clock()
        try:
            lease_s = source.heartbeat(boot_id, has, runs)
            lease.renewed(asked_at_s)
        except Unavailable as error:
            log.debug("heartbeat not taken: %s", error)
            pause_s = min(1.5 * pause_s, 1.0) if source.epoch == 0 else 1.0
            continue
        temporary = settings.heartbeat_file.with_suffix(".new")
        temporary.write_text(json.dumps({"time": time.time(), "epoch": source.epoch}))
        temporary.rename(settings.heartbeat_file)
        pause_s = lease_s / 3
