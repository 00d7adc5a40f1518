"""Servers whose image names a kernel: https://docs.openstack.org/glance/latest/admin/useful-image-properties.html."""

from typing import Any

import pytest

from tests.client import ADMIN
from tests.compute.conftest import IMAGE_ID, Cloud
from trilith.compute.direct_boot import COMMAND_LINE
from trilith.image.images import IMAGE
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOSTED

KERNEL, RAMDISK, SECRET, QUEUED = (f"11111111-1111-4111-8111-11111111111{n}" for n in (2, 3, 4, 5))


@pytest.fixture
def kernels(cloud: Cloud) -> Cloud:
    """Two that anybody may use, one of somebody else, one without data."""

    def make(tx: Tx) -> None:
        for key, visibility, phase in (
            (KERNEL, "public", "active"),
            (RAMDISK, "public", "active"),
            (SECRET, "private", "active"),
            (QUEUED, "public", "queued"),
        ):
            row: dict[str, Any] = {"id": key, "name": key, "project_id": "px", "visibility": visibility, "phase": phase}
            row |= {"disk_format": "aki", "container_format": "aki", "size_bytes": 1000, "tags": [], "extra": {}}
            tx.insert(IMAGE, row)

    cloud.store.run(make)
    return cloud


def name(cloud: Cloud, **properties: str) -> None:
    def work(tx: Tx) -> None:
        tx.update(IMAGE, tx.get(IMAGE, IMAGE_ID), extra=properties)

    cloud.store.run(work)


def want(cloud: Cloud, server: str) -> dict[str, Any]:
    found = cloud.store.read(lambda tx: HOSTED["server"].wants(tx, "c1"))
    return next(doc for doc in found if doc["id"] == server)


def test_a_host_is_told_the_kernel(kernels: Cloud) -> None:
    name(kernels, kernel_id=KERNEL, ramdisk_id=RAMDISK)
    server = kernels.server()
    assert kernels.status(server) == "ACTIVE"
    told = {"kernel_id": KERNEL, "ramdisk_id": RAMDISK, "command_line": COMMAND_LINE}
    assert want(kernels, server)["kernel"] == told
    shown = kernels.show(server, ADMIN, "2.3")
    assert shown["OS-EXT-SRV-ATTR:kernel_id"] == KERNEL
    assert shown["OS-EXT-SRV-ATTR:ramdisk_id"] == RAMDISK


def test_a_command_line_of_the_image(kernels: Cloud) -> None:
    name(kernels, kernel_id=KERNEL, os_command_line="console=ttyS0")
    told = want(kernels, kernels.server())["kernel"]
    assert told == {"kernel_id": KERNEL, "ramdisk_id": None, "command_line": "console=ttyS0"}


def test_an_image_without_a_kernel_boots_its_disk(kernels: Cloud) -> None:
    name(kernels, os_command_line="console=ttyS0")
    server = kernels.server()
    assert want(kernels, server)["kernel"] is None
    assert kernels.show(server, ADMIN, "2.3")["OS-EXT-SRV-ATTR:kernel_id"] == ""


def test_what_is_rescued_boots_its_rescue_disk(kernels: Cloud) -> None:
    from trilith.compute.server_plan import machine

    name(kernels, kernel_id=KERNEL)
    server = kernels.server()
    assert machine(want(kernels, server))["kernel"] is not None
    kernels.do(server, "rescue", {})
    assert machine(want(kernels, server))["kernel"] is None


@pytest.mark.parametrize("key", [SECRET, QUEUED, "11111111-1111-4111-8111-111111111119"])
@pytest.mark.parametrize("which", ["kernel_id", "ramdisk_id"])
def test_a_kernel_that_may_not_be_used_is_refused(kernels: Cloud, which: str, key: str) -> None:
    name(kernels, **({"kernel_id": KERNEL} | {which: key}))
    answer = kernels.try_server()
    assert answer.status == 400
    assert which in answer.json["badRequest"]["message"]
    assert kernels.get("/servers").json["servers"] == []


def test_a_snapshot_of_it_boots_the_same_kernel(kernels: Cloud) -> None:
    name(kernels, kernel_id=KERNEL, ramdisk_id=RAMDISK)
    server = kernels.server()
    made = kernels.do(server, "createImage", {"name": "copy"}, at="2.45").json["image_id"]
    extra = kernels.store.read(lambda tx: tx.get(IMAGE, made))["extra"]
    assert (extra["kernel_id"], extra["ramdisk_id"]) == (KERNEL, RAMDISK)
