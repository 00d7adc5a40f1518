"""The servers of this host: joins their plan, the machines' driver, the host's network and the images."""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from trilith.compute import server_plan
from trilith.drivers.qemu import Qemu
from trilith.drivers.qemu_fake import FakeQemu
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

BOOT_AGAIN_S = 0.5


class HostNetwork(Protocol):
    """Ports on this host; `drivers.ovs.HostNetwork` is one."""

    def plug(self, port_id: str, mac: str, mtu: int) -> str:
        """Make the port's tap, if it is not there, and return its device name."""

    def unplug(self, port_id: str) -> None:
        """Remove the port's tap; nothing happens when there is none."""

    def plugged(self) -> Iterable[str]:
        """Ids of all ports that have a tap here."""


class Images(Protocol):
    """Where image bytes come from and go to; `agent.image_cache.ImageCache` is one."""

    def path(self, image_id: str) -> Path:
        """A local file with the image's bytes. `Unavailable` while it cannot be had."""

    def upload(self, image_id: str, path: Path) -> None:
        """Hand the file's bytes over as that image's data; doing it twice does no harm."""


class Machines:
    """The reconciler of kind "server".

    A tap whose port stands in no machine's record (its directory was lost) is known by the port's id, and so goes too.
    """

    kind = "server"

    def __init__(
        self,
        driver: Qemu | FakeQemu,
        network: HostNetwork,
        images: Images,
        lease_ended: Callable[[], bool] = lambda: False,
        may_boot: Callable[[str], bool] | None = None,
    ) -> None:
        self._driver = driver
        self._network = network
        self._images = images
        self._lease_ended, self._may_boot = lease_ended, may_boot
        self._moving = threading.RLock()  # so that a port, its record and its tap are only looked at when they agree
        self._acts: dict[str, Callable[..., None]] = {
            "define": self._define,
            "start": self._start,
            "resume": self._resume,
            "add_nic": self._add_nic,
            "drop_nic": self._drop_nic,
            "attach_disk": self._attach_disk,
            "snapshot": self._snapshot,
            "upload_snapshot": self._upload_snapshot,
            "receive": self._receive,
            "wait_to_boot": self._wait_to_boot,
        }
        for name in ("cont", "pause", "suspend", "powerdown", "end", "kill", "destroy", "note_crash"):
            self._acts[name] = getattr(driver, name)
        for name in ("export", "end_export", "fetch", "settle", "mirror", "send", "switch", "stop_sending"):
            self._acts[name] = getattr(driver, name)
        for name in ("detach_disk", "resize_volume", "drop_snapshot"):
            self._acts[name] = getattr(driver, name)

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        acts = server_plan.plan(want, seen)
        boots = self._may_boot is not None and any(act.do == "start" for act in acts)
        return [Act("wait_to_boot", quiet=True), *acts] if boots else acts

    def observe(self, key: str) -> Doc | None:
        seen = self._driver.seen(key)
        if seen is None and key in self._stray_taps():
            return {**server_plan.ABSENT, "taps": [key]}
        if seen is not None and seen["process"]:
            # a card whose tap is not on the switch is as good as none: it is plugged once more
            with contextlib.suppress(Unavailable):
                plugged = set(self._network.plugged())
                seen["nics"] = [port_id for port_id in seen["nics"] if port_id in plugged]
        return seen

    def perform(self, key: str, act: Act) -> None:
        if act.do in ("start", "resume", "cont") and self._lease_ended():
            raise Unavailable("This host has not been heard for so long that its machines may run elsewhere.")
        self._acts[act.do](key, **act.args)

    def known(self) -> set[str]:
        return self._stray_taps() | self._driver.known()

    def console_log(self, server_id: str, lines: int | None = None) -> str:
        """The last `lines` (None: all that is kept) of the machine's serial output."""
        return self._driver.console_log(server_id, lines)

    def console_socket(self, server_id: str, kind: str) -> Path:
        """Unix socket of a running machine's console; `kind` is ``serial`` or ``vnc``."""
        return self._driver.console_socket(server_id, kind)

    def _stray_taps(self) -> set[str]:
        with self._moving:
            try:
                return set(self._network.plugged()) - self._driver.ports()
            except Unavailable:
                return set()  # a switch that is away must not keep machines from being stopped

    def _wait_to_boot(self, key: str) -> None:
        if self._may_boot is not None and not self._may_boot(key):
            raise Unavailable("It waits for other machines of its host to boot.", BOOT_AGAIN_S)

    def _define(self, key: str, machine: Doc) -> None:
        self._driver.define(key, machine, self._images.path)
        if machine["config_drive"]:
            self._driver.write_config_drive(key, config_files(key, machine["config"]))

    def _start(self, key: str, nics: list[Doc], boot_epoch: int, soft_reboot_epoch: int) -> None:
        self._driver.start(key, self._plug(nics), boot_epoch, soft_reboot_epoch)

    def _receive(self, key: str, machine: Doc, move_id: str, secret: str, local: list[str], **more: Any) -> None:
        self._driver.make_receiver(key, machine, move_id, local=local, image_path=self._images.path, **more)
        if machine["config_drive"]:
            self._driver.write_config_drive(key, config_files(key, machine["config"]))
        self._driver.receive(key, self._plug(machine["nics"]), move_id, secret, local)

    def _resume(self, key: str) -> None:
        self._driver.resume(key, self._plug(self._driver.nics(key)))

    def _plug(self, nics: list[Doc]) -> dict[str, str]:
        return {nic["port_id"]: self._network.plug(nic["port_id"], nic["mac"], nic["mtu"]) for nic in nics}

    def _add_nic(self, key: str, nic: Doc) -> None:
        with self._moving:
            self._driver.record_nic(key, nic)
        self._driver.attach_nic(key, nic["port_id"], self._plug([nic])[nic["port_id"]])

    def _drop_nic(self, key: str, port_id: str) -> None:
        self._driver.detach_nic(key, port_id)
        with self._moving:
            others = self._driver.known() - {key}
            if not any(nic["port_id"] == port_id for other in others for nic in self._driver.nics(other)):
                self._network.unplug(port_id)
            self._driver.forget_nic(key, port_id)

    def _attach_disk(self, key: str, disk: Doc) -> None:
        self._driver.attach_disk(key, disk, self._images.path)

    def _snapshot(self, key: str, image_id: str) -> None:
        self._driver.snapshot(key, image_id)

    def _upload_snapshot(self, key: str, image_id: str, keep: list[str]) -> None:
        self._images.upload(image_id, self._driver.snapshot(key, image_id))
        self._driver.snapshot_done(key, image_id, keep)


def config_files(server_id: str, config: Doc) -> dict[str, bytes]:
    """The files of a config drive, by their path in it."""
    metadata: Doc = dict(config["metadata"] or {})
    metadata.setdefault("uuid", server_id)
    if config["hostname"]:
        metadata.setdefault("hostname", config["hostname"])
    if config["admin_password"]:
        metadata["admin_pass"] = config["admin_password"]
    documents = {
        "meta_data.json": metadata,
        "network_data.json": config["network_data"] or {},
        "vendor_data.json": config["vendor_data"] or {},
        "vendor_data2.json": {},
    }
    files = {f"openstack/latest/{name}": json.dumps(document).encode() for name, document in documents.items()}
    ec2 = {
        "instance-id": server_id,
        "hostname": metadata.get("hostname", ""),
        "local-hostname": config["hostname"] or "",
    }
    files["ec2/latest/meta-data.json"] = json.dumps(ec2).encode()
    if config["user_data"]:
        user_data = base64.b64decode(config["user_data"])
        files["openstack/latest/user_data"] = files["ec2/latest/user-data"] = user_data
    return files
