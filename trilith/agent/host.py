"""What a host is made of: its drivers, real or fake, and the reconcilers over them."""

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass

from trilith.agent.boots import Boots
from trilith.agent.image_cache import ImageCache
from trilith.agent.lease import HostLease
from trilith.agent.machines import Machines
from trilith.agent.settings import AgentSettings
from trilith.agent.source import HttpSource
from trilith.agent.volumes import Volumes
from trilith.drivers.ceph import Ceph
from trilith.drivers.ovs import HostNetwork
from trilith.drivers.ovs_fake import FakeHostNetwork
from trilith.drivers.qemu import Qemu
from trilith.drivers.qemu_fake import FakeQemu
from trilith.drivers.volume_files import VolumeFiles
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.kernel.reconcile import Reconciler

NETWORK_S = 3.0  # that a round of reconciling waits for a switch that is away
MACHINE_USERS = ("trilith", "nobody")  # the first that exists is whom machines run as


@dataclass
class Host:
    """`machines` also gives consoles; None where no machine runs."""

    reconcilers: list[Reconciler]
    machines: Machines | None


def build(
    settings: AgentSettings,
    source: HttpSource,
    network: HostNetwork | FakeHostNetwork | None,
    on_change: Callable[[], None],
    lease: HostLease | None = None,
) -> Host:
    """Drivers and reconcilers of this host. `network`: of its machines, None where it has none; `on_change` is called
    when a machine changes by itself."""
    directory = settings.directory
    owner = None if settings.fake else _machine_owner()
    images = ImageCache(directory / "image_cache", source.fetch_image, source.send_image, owner=owner)
    if network is None:
        return Host([Volumes(volumes_driver(settings, None, owner), images)], None)
    driver = machines_driver(settings, on_change)
    machines = Machines(driver, network, images, lambda: lease is not None and lease.ended, _may_boot(driver))
    return Host([machines, Volumes(volumes_driver(settings, driver, owner), images)], machines)


def _may_boot(driver: Qemu | FakeQemu) -> Callable[[str], bool] | None:
    if not driver.emulates:
        return None
    return Boots((os.cpu_count() or 1) + 1, driver.cpu_s).may_begin  # one more, for who waits for a disk


def machines_driver(settings: AgentSettings, on_change: Callable[[], None] = lambda: None) -> Qemu | FakeQemu:
    if settings.fake:
        return FakeQemu(settings.directory, on_change=on_change)
    from trilith.drivers.kvm import accelerator

    accel = accelerator(settings.accelerator, settings.directory)
    run_as = ":".join(str(number) for number in _machine_owner())
    offload = settings.datapath == "system"
    ceph = None if settings.ceph is None else Ceph(settings.ceph, settings.netns)
    return Qemu(settings.directory, accel, settings.netns, run_as, on_change, offload, settings.address, ceph)


def machines_ender(settings: AgentSettings) -> Qemu | FakeQemu:
    """Without accelerator and user, which only starting needs: ending works at once, and where starting does not."""
    return FakeQemu(settings.directory) if settings.fake else Qemu(settings.directory, netns=settings.netns)


def volumes_driver(
    settings: AgentSettings, live: Qemu | FakeQemu | None = None, owner: tuple[int, int] | None = None
) -> VolumeFiles | FakeVolumeFiles:
    directory = settings.directory / "volumes"
    if settings.fake:
        return FakeVolumeFiles(directory)
    return VolumeFiles(directory, live, owner, settings.storage_address, settings.netns)


def switch(settings: AgentSettings) -> HostNetwork | FakeHostNetwork:
    """The switch of this host, which is in its network namespace."""
    if settings.fake:
        return FakeHostNetwork()
    return HostNetwork(settings.ovs_socket, settings.netns, settings.datapath, NETWORK_S)


def _machine_owner() -> tuple[int, int]:
    """uid and gid of the unprivileged user that machines run as."""
    for name in MACHINE_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    raise LookupError(f"none of the users {MACHINE_USERS} exists")
