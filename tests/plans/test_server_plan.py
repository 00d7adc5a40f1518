"""The whole life of a server as a table: what is wanted, what is seen, what comes next."""

from typing import Any

import pytest

from trilith.compute.server_plan import ABSENT, machine, plan, shut_down_by_guest
from trilith.drivers.crashes import noted, verdict
from trilith.kernel.errors import Refused
from trilith.kernel.reconcile import Act

Doc = dict[str, Any]

ROOT = {"device": "vda", "boot_index": 0, "kind": "image", "image_id": "img", "image_format": "qcow2", "size_gib": 1}
SWAP = {"device": "vdb", "kind": "blank", "size_gib": 0, "size_mib": 64, "label": "swap0"}
VOLUME = {"device": "vdb", "kind": "volume", "volume_id": "vol", "path": "/v/vol", "format": "qcow2", "size_gib": 2}
PENDING = {**VOLUME, "path": None}
BOOT_VOLUME = {**VOLUME, "device": "vda", "boot_index": 0}
NIC = {"port_id": "port", "mac": "fa:16:3e:00:00:01", "mtu": 1442, "ready": True}
NIC2 = {"port_id": "port2", "mac": "fa:16:3e:00:00:02", "mtu": 1442, "ready": False}


def want(**changes: Any) -> Doc:
    document: Doc = {"id": "s", "generation": 1, "present": True, "name": "web", "power": "running"}
    document |= {"vcpus": 1, "ram_mib": 128, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0}
    document |= {"disks": [ROOT], "nics": [NIC], "config_drive": False, "rescue_image_id": None, "snapshots": []}
    document |= {"admin_password": None, "hostname": "web", "metadata": {}, "user_data": None}
    return {**document, "network_data": {}, "vendor_data": {}, **changes}


def seen(**changes: Any) -> Doc:
    document: Doc = {"power": "running", "process": True, "boot_epoch": 1, "soft_reboot_epoch": 0, "root_epoch": 0}
    document |= {"rescue_image_id": None, "vcpus": 1, "ram_mib": 128, "root_gib": 1, "disks": ["vda"], "volumes": []}
    document |= {"disk_keys": ["root"], "volume_sizes_gib": {}, "nics": ["port"], "taps": ["port"]}
    document |= {"snapshots_made": [], "snapshots_done": [], "shutdown": None, "started_at": "x", "error": None}
    return {**document, **changes}


def off(power: str = "stopped", **changes: Any) -> Doc:
    return seen(power=power, process=False, **changes)


WITH_VOLUME = {"disks": [ROOT, VOLUME]}
HAS_VOLUME = {"disk_keys": ["root", "vol"], "volume_sizes_gib": {"vol": 2}}
SNAPSHOT = {"snapshots": [{"image_id": "snap", "quiesce": False}]}
BOOT = ["define", "start"]
REBOOT = ["kill", "define", "start"]

LIFE: list[tuple[str, Doc, Doc | None, list[str]]] = [
    # made
    ("nothing there: made and booted", want(), None, BOOT),
    ("only a directory", want(), ABSENT, BOOT),
    ("defined, never started", want(), off(boot_epoch=-1), BOOT),
    ("died while starting", want(), off("crashed"), BOOT),
    ("as wanted", want(), seen(), []),
    ("wanted stopped from the beginning: only defined", want(power="stopped"), None, ["define"]),
    ("defined and stopped", want(power="stopped"), off(boot_epoch=-1), []),
    ("waits for its volume", want(disks=[ROOT, PENDING]), None, []),
    ("boots from a volume", want(disks=[BOOT_VOLUME]), None, BOOT),
    ("waits for the volume it boots from", want(disks=[{**BOOT_VOLUME, "path": None}]), None, []),
    ("a port that is not ready holds nothing up", want(nics=[NIC2]), None, BOOT),
    ("no network at all", want(nics=[]), seen(nics=[], taps=[]), []),
    # ends by itself, or is killed
    ("guest powered off: its process ends", want(), seen(power="stopped"), ["end"]),
    ("guest powered off: not started again", want(), off(), []),
    ("started by the user after that", want(boot_epoch=2), off(), BOOT),
    ("killed, or the host rebooted: started again", want(), off("crashed"), BOOT),
    ("broken inside QEMU: ended and started again", want(), seen(power="crashed"), REBOOT),
    ("crashed and wanted stopped: counts as stopped", want(power="stopped"), off("crashed"), ["end"]),
    ("crashed while it waits for a volume", want(disks=[ROOT, PENDING]), off("crashed"), []),
    # stop
    ("stop: the button first", want(power="stopped"), seen(), ["powerdown"]),
    ("stop: the guest is at it", want(power="stopped"), seen(shutdown="asked"), []),
    ("stop: pressed again", want(power="stopped"), seen(shutdown="again"), ["powerdown"]),
    ("stop: had its time", want(power="stopped"), seen(shutdown="overdue"), ["end"]),
    ("stop: the guest is down", want(power="stopped"), seen(power="stopped", shutdown="asked"), ["end"]),
    ("stopped", want(power="stopped"), off(), []),
    ("stop of a paused one", want(power="stopped"), seen(power="paused"), ["end"]),
    ("stop of a suspended one", want(power="stopped"), off("suspended"), ["end"]),
    # reboot
    ("hard reboot", want(boot_epoch=2), seen(), REBOOT),
    ("hard reboot of a paused one", want(boot_epoch=2), seen(power="paused"), REBOOT),
    ("hard reboot of a suspended one", want(boot_epoch=2), off("suspended"), BOOT),
    ("hard reboot does not kill before its volumes are there", want(boot_epoch=2, disks=[ROOT, PENDING]), seen(), []),
    ("soft reboot: the button first", want(soft_reboot_epoch=1), seen(), ["powerdown"]),
    ("soft reboot: the guest is at it", want(soft_reboot_epoch=1), seen(shutdown="asked"), []),
    ("soft reboot: hard when overdue", want(soft_reboot_epoch=1), seen(shutdown="overdue"), REBOOT),
    ("soft reboot: the guest is down", want(soft_reboot_epoch=1), seen(power="stopped", shutdown="asked"), REBOOT),
    ("soft reboot: died on the way", want(soft_reboot_epoch=1), off("crashed"), BOOT),
    ("soft reboot: agent died after the end", want(soft_reboot_epoch=1), off(), BOOT),
    ("soft reboot done", want(soft_reboot_epoch=1), seen(soft_reboot_epoch=1), []),
    ("a hard reboot overtakes a soft one", want(boot_epoch=2, soft_reboot_epoch=1), seen(shutdown="asked"), REBOOT),
    # pause, suspend
    ("pause", want(power="paused"), seen(), ["pause"]),
    ("paused", want(power="paused"), seen(power="paused"), []),
    ("unpause", want(), seen(power="paused"), ["cont"]),
    ("crashed while paused", want(power="paused"), off("crashed"), BOOT),
    # by itself, again and again
    ("crashed: it is noted first", want(), off("crashed", crash="new"), ["note_crash"]),
    ("crashed before, not long ago: a pause", want(), off("crashed", crash="wait"), []),
    ("the pause is over", want(), off("crashed", crash="again"), BOOT),
    ("its kernel panicked", want(), seen(power="crashed", crash="again"), REBOOT),
    ("asked for while it waits", want(boot_epoch=2), off("crashed", crash="too often"), BOOT),
    ("crashed, and shall not start again", want(on_crash="stop"), off("crashed", crash="new"), ["end"]),
    ("panicked, and shall not start again", want(on_crash="stop"), seen(power="crashed", crash="new"), ["end"]),
    ("wanted stopped: no crash", want(power="stopped"), off("crashed", crash="too often"), ["end"]),
    # paused by its watchdog
    ("paused by its watchdog: left so", want(), seen(power="paused", by_watchdog=True), []),
    ("and wanted so from then on", want(power="paused"), seen(power="paused", by_watchdog=True), ["pause"]),
    ("which was noted: goes on when asked", want(), seen(power="paused", by_watchdog=False), ["cont"]),
    ("a hard reboot ends that", want(boot_epoch=2), seen(power="paused", by_watchdog=True), REBOOT),
    ("suspend", want(power="suspended"), seen(), ["suspend"]),
    ("suspend of a paused one", want(power="suspended"), seen(power="paused"), ["suspend"]),
    ("suspended", want(power="suspended"), off("suspended"), []),
    ("resume", want(), off("suspended"), ["resume"]),
    ("resume to paused", want(power="paused"), off("suspended"), ["resume"]),
    ("guest was faster than suspend", want(power="suspended"), off(), []),
    # resize, rebuild, rescue
    ("resize: shut down first", want(ram_mib=256), seen(), ["powerdown"]),
    ("resize: then as new", want(ram_mib=256), seen(power="stopped", shutdown="asked"), REBOOT),
    ("resize: agent died in between", want(vcpus=2), off(), BOOT),
    ("resize of the root disk alone", want(disks=[{**ROOT, "size_gib": 5}]), seen(), ["powerdown"]),
    ("resize of a paused one", want(vcpus=2), seen(power="paused"), REBOOT),
    ("resize of a stopped one", want(power="stopped", vcpus=2), off(), ["define"]),
    ("resized and stopped", want(power="stopped", vcpus=2), off(vcpus=2), []),
    ("rebuild: nothing of the old is needed", want(root_epoch=1), seen(), REBOOT),
    ("rebuild of a stopped one", want(power="stopped", root_epoch=1), off(), ["define"]),
    ("rescue", want(rescue_image_id="r"), seen(), ["powerdown"]),
    ("rescue: guest is down", want(rescue_image_id="r"), seen(power="stopped"), REBOOT),
    ("rescued", want(rescue_image_id="r"), seen(rescue_image_id="r", disk_keys=["rescue", "root"]), []),
    ("unrescue", want(), seen(rescue_image_id="r", disk_keys=["rescue", "root"], shutdown="overdue"), REBOOT),
    # devices
    ("attach a volume", want(**WITH_VOLUME), seen(), ["attach_disk"]),
    ("attached", want(**WITH_VOLUME), seen(**HAS_VOLUME), []),
    (
        "attach waits for the volume alone",
        want(disks=[ROOT, PENDING], **SNAPSHOT),
        seen(),
        ["snapshot", "upload_snapshot"],
    ),
    ("detach it", want(), seen(**HAS_VOLUME), ["detach_disk"]),
    ("grown while attached", want(disks=[ROOT, {**VOLUME, "size_gib": 3}]), seen(**HAS_VOLUME), ["resize_volume"]),
    ("attach while paused", want(power="paused", **WITH_VOLUME), seen(power="paused"), ["attach_disk"]),
    ("attach while stopped", want(power="stopped", **WITH_VOLUME), off(), ["define"]),
    ("attach while stopped waits", want(power="stopped", disks=[ROOT, PENDING]), off(), []),
    ("detach while stopped", want(power="stopped"), off(**HAS_VOLUME), ["define"]),
    ("attach while its guest is off", want(**WITH_VOLUME), off(), ["define"]),
    ("nothing is plugged while suspended", want(power="suspended", **WITH_VOLUME), off("suspended"), []),
    ("a disk of its own", want(disks=[ROOT, SWAP]), seen(), ["attach_disk"]),
    ("plug a port", want(nics=[NIC, NIC2]), seen(), ["add_nic"]),
    ("a tap without its card", want(), seen(nics=[]), ["add_nic"]),
    ("unplug a port", want(nics=[]), seen(), ["drop_nic"]),
    ("a tap that outlived its card", want(nics=[]), seen(nics=[]), ["drop_nic"]),
    ("unplug while stopped", want(power="stopped", nics=[]), off(), ["drop_nic"]),
    ("plug while stopped", want(power="stopped", nics=[NIC, NIC2]), off(), ["define"]),
    ("plugging before unplugging", want(nics=[NIC2], **WITH_VOLUME), seen(), ["attach_disk", "add_nic", "drop_nic"]),
    # snapshots
    ("snapshot", want(**SNAPSHOT), seen(), ["snapshot", "upload_snapshot"]),
    ("snapshot made, not uploaded", want(**SNAPSHOT), seen(snapshots_made=["snap"]), ["upload_snapshot"]),
    ("snapshot done", want(**SNAPSHOT), seen(snapshots_done=["snap"]), []),
    ("snapshot of a stopped one", want(power="stopped", **SNAPSHOT), off(), ["snapshot", "upload_snapshot"]),
    (
        "snapshot of a suspended one",
        want(power="suspended", **SNAPSHOT),
        off("suspended"),
        ["snapshot", "upload_snapshot"],
    ),
    ("snapshot not wanted any more", want(), seen(snapshots_made=["snap"]), ["drop_snapshot"]),
    ("a snapshot waits for a reboot", want(boot_epoch=2, **SNAPSHOT), seen(), REBOOT),
    # gone
    ("deleted", want(present=False), seen(), ["kill", "drop_nic", "destroy"]),
    ("deleted while it was made", want(present=False), ABSENT, ["kill", "destroy"]),
    ("deleted with its volume never ready", want(present=False, disks=[PENDING]), None, []),
    ("deleted while suspended", want(present=False), off("suspended"), ["kill", "drop_nic", "destroy"]),
    ("nobody wants it", {"id": "s", "generation": 0, "present": False}, seen(), ["kill", "drop_nic", "destroy"]),
    ("gone", want(present=False), None, []),
]


@pytest.mark.parametrize(("wanted", "there", "acts"), [row[1:] for row in LIFE], ids=[row[0] for row in LIFE])
def test_life_of_a_server(wanted: Doc, there: Doc | None, acts: list[str]) -> None:
    assert [act.do for act in plan(wanted, there)] == acts


def test_what_crashes_again_and_again_is_refused() -> None:
    with pytest.raises(Refused, match="again and again"):
        plan(want(), off("crashed", crash="too often"))


def test_crashes_are_counted_once_each_and_forgotten() -> None:
    crashes: list[list[float]] = []
    verdicts = []
    now_s = 1000.0
    for start in range(1, 8):
        assert verdict(crashes, start, now_s) == "new"
        crashes = noted(noted(crashes, start, now_s), start, now_s + 1)
        pause_s = next(
            pause for pause in (0, 1, 2, 5, 15, 30, 601) if verdict(crashes, start, now_s + pause) == "again"
        )
        verdicts.append((verdict(crashes, start, now_s), pause_s))
        now_s += pause_s
    assert verdicts == [
        ("again", 0),
        ("wait", 2),
        ("wait", 5),
        ("wait", 15),
        ("wait", 30),
        ("too often", 601),
        ("again", 0),
    ]


def test_only_a_guest_that_nothing_else_is_wanted_of_has_shut_itself_down() -> None:
    assert shut_down_by_guest(want(), off())
    assert shut_down_by_guest(want(), seen(power="stopped"))
    for changes in ({"boot_epoch": 2}, {"soft_reboot_epoch": 1}, {"root_epoch": 1}, {"vcpus": 2}, {"power": "stopped"}):
        assert not shut_down_by_guest(want(**changes), off())
    for there in (seen(), off("crashed"), off("suspended"), off(boot_epoch=-1)):
        assert not shut_down_by_guest(want(), there)


def test_start_brings_the_epochs_up() -> None:
    start = plan(want(boot_epoch=7, soft_reboot_epoch=3), seen())[-1]
    nic = {"port_id": "port", "mac": NIC["mac"], "mtu": 1442}
    assert start == Act("start", {"nics": [nic], "boot_epoch": 7, "soft_reboot_epoch": 3})


def test_rescue_boots_the_rescue_image_and_moves_the_others_down() -> None:
    disks = machine(want(rescue_image_id="r", **WITH_VOLUME))["disks"]
    assert [(d["key"], d["device"], d["boot_index"]) for d in disks] == [
        ("rescue", "vda", 0),
        ("root", "vdb", None),
        ("vol", "vdc", None),
    ]


def test_what_is_secret_goes_only_where_a_config_drive_is_made() -> None:
    assert "config" not in machine(want(admin_password="s3cret"))
    assert machine(want(admin_password="s3cret", config_drive=True))["config"]["admin_password"] == "s3cret"
