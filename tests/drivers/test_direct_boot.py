"""A machine that boots a kernel and a ramdisk instead of its disk."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.build import image
from tests.drivers.test_qemu import SERVER, Bench, machine, make_bench, started
from trilith.kernel.errors import Unavailable

KERNEL = {"kernel_id": "kern", "ramdisk_id": "ram", "command_line": "console=ttyS0 quiet mitigations=off net.ifnames=0"}
BOOT_S = 60.0


@pytest.fixture
def real() -> Iterator[Bench]:
    with make_bench(True) as made:
        shutil.copyfile(image().with_suffix(".vmlinuz"), made.image("kern"))
        shutil.copyfile(image().with_suffix(".ramdisk"), made.image("ram"))
        yield made


def away(image_id: str) -> Path:
    raise Unavailable(f"{image_id} cannot be had")


def test_it_boots_its_kernel_and_keeps_it(real: Bench) -> None:
    driver = started(real, real.driver(), ram_mib=128, kernel=KERNEL)
    home, deadline = driver.directory / SERVER, time.monotonic() + BOOT_S
    while ", in memory" not in driver.console_log(SERVER):
        assert time.monotonic() < deadline, driver.console_log(SERVER)
        time.sleep(0.1)
    driver.end(SERVER)
    driver.define(SERVER, machine(ram_mib=128, kernel=KERNEL), away)  # what it has, it does not ask for
    assert {"kernel-kern", "ramdisk-ram"} <= {entry.name for entry in home.iterdir()}
    driver.define(SERVER, machine(ram_mib=128), away)
    assert not {"kernel-kern", "ramdisk-ram"} & {entry.name for entry in home.iterdir()}


def test_a_kernel_that_cannot_be_had_changes_nothing(real: Bench) -> None:
    driver = real.driver()
    with pytest.raises(Unavailable, match="kern cannot be had"):
        driver.define(SERVER, machine(kernel=KERNEL), away)
    assert not list((driver.directory / SERVER).glob("*.qcow2"))


def test_who_takes_a_machine_over_has_its_kernel_too(real: Bench) -> None:
    driver = real.driver()
    layout = {"accel": "tcg", "checksum_offload": driver.checksum_offload, "nics": {}}
    layout["disks"] = {"root": {"port": 0, "size_bytes": 1 << 30}}
    made = machine(kernel=KERNEL)
    driver.make_receiver(SERVER, made, "m1", layout, ["root"], 1, 0, image_path=real.image)
    assert (driver.directory / SERVER / "kernel-kern").exists()
