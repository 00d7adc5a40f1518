"""Machines: one suite for the real driver and its fake. The real guest is a boot sector that obeys the power button."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trilith.drivers import qemu_img
from trilith.drivers.qemu import Qemu
from trilith.drivers.qemu_command import arguments
from trilith.drivers.qemu_fake import FakeQemu
from trilith.drivers.qmp import CommandError, Monitors
from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]

SERVER = "6d0a1f52-0c0b-4f6e-9f67-0b2a7f0c1d11"
VOLUME = "1b4a1f52-0c0b-4f6e-9f67-0b2a7f0c1d22"
NOBODY = 65534
# enables ACPI's power button, says "up" on the serial port, then waits for the button and powers off
BOOT_SECTOR = (
    bytes.fromhex(
        "31c0 8ed8 ba0206 b80001 ef be2d7c ac 84c0 7406 baf803 ee ebf5 fbf4 ba0006 ed f6c401 74f5 ba0406 b80020 ef ebfe"
    ).ljust(45, b"\0")
    + b"up\r\n\0"
)


@dataclass
class Bench:
    """A host's state directory, and what makes a driver over it."""

    directory: Path
    real: bool

    def driver(self, on_change: Callable[[], None] = lambda: None) -> Qemu:
        if not self.real:
            return FakeQemu(self.directory, on_change=on_change)  # type: ignore[return-value]
        run_as = f"{NOBODY}:{NOBODY}" if os.getuid() == 0 else None
        return Qemu(self.directory, run_as=run_as, on_change=on_change)

    def image(self, image_id: str) -> Path:
        return self.directory / image_id

    def volume(self, size_gib: int = 1) -> Doc:
        path = self.directory / f"{VOLUME}.qcow2"
        if not path.exists():
            qemu_img.create(path, "qcow2", size_gib * qemu_img.GIB)
        disk = {"key": VOLUME, "device": "vdb", "kind": "volume", "volume_id": VOLUME, "path": str(path)}
        return {**disk, "format": "qcow2", "size_gib": size_gib}


@contextlib.contextmanager
def make_bench(real: bool) -> Iterator[Bench]:
    """Not in tmp_path: its name is too long for a socket, and it is closed to the user that QEMU runs as."""
    bench = Bench(Path(tempfile.mkdtemp(prefix="tq-", dir="/var/tmp")), real)
    bench.directory.chmod(0o711)
    bench.image("img").write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
    try:
        yield bench
    finally:
        driver = bench.driver()
        for server_id in driver.known():
            driver.destroy(server_id)
        driver.close()
        shutil.rmtree(bench.directory)


@pytest.fixture(params=["fake", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with make_bench(request.param == "real") as made:
        yield made


@pytest.fixture
def real() -> Iterator[Bench]:
    with make_bench(True) as made:
        yield made


ROOT = {"key": "root", "device": "vda", "boot_index": 0, "kind": "image", "image_id": "img", "image_format": "raw"}


def machine(**changes: Any) -> Doc:
    root = {**ROOT, "size_gib": changes.get("root_gib", 1)}
    document: Doc = {"name": "web", "vcpus": 1, "ram_mib": 64, "root_epoch": 0, "root_gib": 1}
    return {**document, "rescue_image_id": None, "config_drive": False, "disks": [root], "nics": [], **changes}


def started(bench: Bench, driver: Qemu, **changes: Any) -> Qemu:
    driver.define(SERVER, machine(**changes), bench.image)
    driver.start(SERVER, {}, 1, 0)
    return driver


def seen(driver: Qemu) -> Doc:
    document = driver.seen(SERVER)
    assert document is not None
    return document


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def booted(driver: Qemu) -> None:
    until(lambda: "up" in driver.console_log(SERVER) or "login" in driver.console_log(SERVER))


def test_a_machine_is_made_and_runs(bench: Bench) -> None:
    driver = bench.driver()
    assert driver.seen(SERVER) is None
    driver.define(SERVER, machine(), bench.image)
    assert (seen(driver)["power"], seen(driver)["process"], seen(driver)["boot_epoch"]) == ("stopped", False, -1)
    driver.start(SERVER, {}, 3, 2)
    there = seen(driver)
    assert (there["power"], there["process"], there["error"]) == ("running", True, None)
    assert (there["boot_epoch"], there["soft_reboot_epoch"], there["root_epoch"]) == (3, 2, 0)
    assert (there["vcpus"], there["ram_mib"], there["root_gib"], there["disks"]) == (1, 64, 1, ["vda"])
    assert there["started_at"] is not None
    assert driver.known() == {SERVER}
    booted(driver)
    assert driver.console_log(SERVER, 0) == ""
    assert driver.console_log(SERVER, 1) in driver.console_log(SERVER)


def test_whoever_comes_next_finds_it_running(bench: Bench) -> None:
    first = started(bench, bench.driver())
    before = seen(first)
    first.close()
    second = bench.driver()
    assert seen(second) == before
    second.start(SERVER, {}, 1, 0)  # asked for once more: nothing happens
    assert seen(second) == before


def test_killed_is_seen_as_crashed_and_starts_again(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    driver.kill(SERVER)
    driver.kill(SERVER)
    assert (seen(driver)["power"], seen(driver)["process"]) == ("crashed", False)
    driver.start(SERVER, {}, 1, 0)
    assert seen(driver)["power"] == "running"


def test_a_guest_that_powers_off_is_seen_stopped_by_everybody(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    booted(driver)
    driver.powerdown(SERVER)
    until(lambda: seen(driver)["power"] == "stopped")
    assert seen(driver)["process"]
    driver.kill(SERVER)  # to be started anew; whoever goes on from here sees that it has to be
    assert (seen(driver)["power"], seen(driver)["process"]) == ("crashed", False)
    driver.end(SERVER)
    driver.end(SERVER)
    assert (seen(driver)["power"], seen(driver)["process"], seen(driver)["boot_epoch"]) == ("stopped", False, 1)
    driver.start(SERVER, {}, 2, 0)
    assert (seen(driver)["power"], seen(driver)["boot_epoch"]) == ("running", 2)


def test_pause_and_suspend(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    driver.pause(SERVER)
    assert seen(driver)["power"] == "paused"
    driver.cont(SERVER)
    assert seen(driver)["power"] == "running"
    driver.suspend(SERVER)
    driver.suspend(SERVER)
    assert (seen(driver)["power"], seen(driver)["process"]) == ("suspended", False)
    driver.resume(SERVER, {})
    driver.resume(SERVER, {})
    assert seen(driver)["power"] == "running"
    driver.kill(SERVER)
    assert seen(driver)["power"] == "crashed", "memory that was gone on from may not be used again"


def test_a_hard_boot_drops_saved_memory(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    driver.suspend(SERVER)
    driver.start(SERVER, {}, 2, 0)
    driver.kill(SERVER)
    assert seen(driver)["power"] == "crashed"


def test_volume_is_attached_and_grown(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    for _ in range(2):
        driver.attach_disk(SERVER, bench.volume(), bench.image)
    assert seen(driver)["disks"] == ["vda", "vdb"]
    assert seen(driver)["volume_sizes_gib"] == {VOLUME: 1}
    for _ in range(2):
        driver.resize_volume(SERVER, VOLUME, 2)
    assert seen(driver)["volume_sizes_gib"] == {VOLUME: 2}
    driver.kill(SERVER)
    driver.start(SERVER, {}, 2, 0)
    assert seen(driver)["volumes"] == [VOLUME]


def test_volume_of_a_stopped_machine_comes_and_goes_by_its_record(bench: Bench) -> None:
    driver = bench.driver()
    driver.define(SERVER, machine(disks=[*machine()["disks"], bench.volume()]), bench.image)
    assert seen(driver)["volumes"] == [VOLUME]
    driver.define(SERVER, machine(), bench.image)
    assert seen(driver)["volumes"] == []


def test_ports_stay_recorded_until_their_tap_is_gone(bench: Bench) -> None:
    driver = bench.driver()
    nic = {"port_id": "port-1", "mac": "fa:16:3e:00:00:01", "mtu": 1442}
    driver.define(SERVER, machine(nics=[nic]), bench.image)
    assert (driver.ports(), driver.nics(SERVER)[0]["mac"]) == ({"port-1"}, nic["mac"])
    driver.define(SERVER, machine(), bench.image)
    assert seen(driver)["taps"] == ["port-1"]
    driver.detach_nic(SERVER, "port-1")
    driver.forget_nic(SERVER, "port-1")
    assert (seen(driver)["taps"], driver.ports()) == ([], set())


@pytest.mark.parametrize("runs", [True, False])
def test_snapshot(bench: Bench, runs: bool) -> None:
    driver = started(bench, bench.driver())
    if not runs:
        driver.end(SERVER)
    path = driver.snapshot(SERVER, "snap")
    assert driver.snapshot(SERVER, "snap") == path
    assert path.read_bytes().startswith(b"QFI\xfb")
    if bench.real:
        found = qemu_img.info(path, "qcow2")
        assert (found.virtual_size_bytes, found.backing_file) == (qemu_img.GIB, None)
        assert BOOT_SECTOR in path.read_bytes()
    assert seen(driver)["snapshots_made"] == ["snap"]
    driver.snapshot_done(SERVER, "snap", ["snap", "next"])
    assert (seen(driver)["snapshots_made"], seen(driver)["snapshots_done"]) == ([], ["snap"])
    assert not path.exists()
    assert driver.snapshot(SERVER, "next").exists()
    for _ in range(2):
        driver.drop_snapshot(SERVER, "next")
    assert (seen(driver)["snapshots_made"], seen(driver)["snapshots_done"]) == ([], ["snap"])


def test_no_snapshot_without_a_root_disk_of_its_own(bench: Bench) -> None:
    driver = bench.driver()
    driver.define(SERVER, machine(disks=[bench.volume()]), bench.image)
    with pytest.raises(Refused):
        driver.snapshot(SERVER, "snap")


def test_a_running_machine_is_not_defined_anew(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    with pytest.raises(Unavailable):
        driver.define(SERVER, machine(), bench.image)


def test_console_sockets(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    for kind in ("serial", "vnc"):
        assert driver.console_socket(SERVER, kind).is_socket() or not bench.real
    with pytest.raises(Refused):
        driver.console_socket(SERVER, "spice")
    driver.end(SERVER)
    with pytest.raises(Unavailable):
        driver.console_socket(SERVER, "vnc")


def test_nothing_is_left_of_a_destroyed_machine(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    for _ in range(2):
        driver.destroy(SERVER)
    assert driver.seen(SERVER) is None
    assert not list(driver.directory.iterdir())


# ---- what only the real one can show


def test_disks_of_the_machine_on_disk(real: Bench) -> None:
    driver = real.driver()
    home = driver.directory / SERVER
    swap = {"key": "swap0", "device": "vdb", "kind": "blank", "size_gib": 0, "size_mib": 8, "label": "swap0"}
    ephemeral = {"key": "ephemeral0", "device": "vdc", "kind": "blank", "size_gib": 1, "label": "ephemeral0"}
    driver.define(SERVER, machine(disks=[*machine()["disks"], swap, ephemeral]), real.image)
    ext4 = (home / "ephemeral0-0.raw").read_bytes()[1024:2048]  # the superblock
    assert (ext4[56:58], ext4[120:136].rstrip(b"\0")) == (b"\x53\xef", b"ephemeral0")
    assert (home / "ephemeral0-0.raw").stat().st_blocks * 512 < 100 * qemu_img.MIB
    assert qemu_img.qcow2_size_bytes(home / "root-0.qcow2") == qemu_img.GIB
    assert (home / "swap0-0.raw").read_bytes()[4086:4096] == b"SWAPSPACE2"
    real.image("img").unlink()  # evicted from the cache
    driver.define(SERVER, machine(root_gib=2), real.image)  # resized
    assert qemu_img.qcow2_size_bytes(home / "root-0.qcow2") == 2 * qemu_img.GIB
    assert not (home / "swap0-0.raw").exists()
    driver.define(SERVER, machine(root_epoch=1), real.image)  # rebuilt
    assert {entry.name for entry in home.iterdir()} == {"spec.json", "snapshots", "base-img", "root-1.qcow2"}


def test_an_image_that_does_not_fit_or_names_other_files_is_refused(real: Bench) -> None:
    driver = real.driver()
    os.truncate(real.image("img"), 3 * qemu_img.GIB)
    with pytest.raises(Refused, match="needs a disk of 3 GiB"):
        driver.define(SERVER, machine(), real.image)
    qemu_img.create(real.image("evil"), "qcow2", qemu_img.GIB, backing=(Path("/etc/passwd"), "raw"))
    evil = {**ROOT, "image_id": "evil", "image_format": "qcow2", "size_gib": 1}
    with pytest.raises(Refused, match="self-contained"):
        driver.define(SERVER, machine(disks=[evil]), real.image)


def process(driver: Qemu) -> int:
    pid = driver._pid(SERVER)
    assert pid is not None
    return pid


def test_qemu_has_no_rights(real: Bench) -> None:
    driver = started(real, real.driver())
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{process(driver)}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", 0)
    if os.getuid() == 0:
        assert set(status["Uid"].split()) == {str(NOBODY)}
        assert status["Groups"].strip() == ""
        home = driver.directory / SERVER
        assert {entry.name for entry in home.iterdir() if entry.stat().st_uid == NOBODY} == {"root-0.qcow2", "run"}


def test_changes_are_told(real: Bench) -> None:
    calls: list[int] = []
    driver = started(real, real.driver(lambda: calls.append(1)))
    booted(driver)
    assert seen(driver)["power"] == "running"
    calls.clear()
    driver.powerdown(SERVER)
    until(lambda: bool(calls))
    until(lambda: seen(driver)["power"] == "stopped")
    calls.clear()
    os.kill(process(driver), signal.SIGKILL)
    until(lambda: bool(calls))
    until(lambda: not seen(driver)["process"])


def test_a_guest_that_ignores_the_button_is_overdue(real: Bench) -> None:
    driver = started(real, real.driver())
    driver.pause(SERVER)  # deaf
    driver.powerdown(SERVER)
    assert seen(driver)["shutdown"] == "asked"
    driver.shutdown_grace_s = 0.0
    assert seen(driver)["shutdown"] == "overdue"
    driver.start(SERVER, {}, 2, 0)
    assert seen(driver)["shutdown"] is None


def test_volume_in_use_is_copied_and_grown_through_its_machine(real: Bench) -> None:
    driver = started(real, real.driver())
    target = real.directory / "copy.qcow2"
    assert not driver.live_copy(VOLUME, target)
    assert not driver.live_resize(VOLUME, 2)
    driver.attach_disk(SERVER, real.volume(), real.image)
    assert driver.live_resize(VOLUME, 2)
    for _ in range(2):
        assert driver.live_copy(VOLUME, target)
    assert qemu_img.info(target, "qcow2").virtual_size_bytes == 2 * qemu_img.GIB


def test_a_suspend_that_was_cut_short_is_finished(real: Bench) -> None:
    driver = started(real, real.driver())
    live = driver._require(SERVER)
    driver._save(live, driver.directory / SERVER / "saved.part")  # and here the agent dies
    driver.close()
    after = real.driver()
    assert seen(after)["power"] == "paused"
    after.suspend(SERVER)
    assert seen(after)["power"] == "suspended"
    after.resume(SERVER, {})
    assert seen(after)["power"] == "running"


def test_a_suspend_that_was_cut_short_can_be_taken_back(real: Bench) -> None:
    driver = started(real, real.driver())
    driver._save(driver._require(SERVER), driver.directory / SERVER / "saved.part")
    driver.cont(SERVER)
    assert seen(driver)["power"] == "running"
    driver.suspend(SERVER)
    assert seen(driver)["power"] == "suspended"


def test_damaged_memory_does_not_keep_a_machine_down(real: Bench) -> None:
    driver = started(real, real.driver())
    driver.suspend(SERVER)
    os.truncate(driver.directory / SERVER / "saved", 100_000)
    with pytest.raises(Unavailable):
        driver.resume(SERVER, {})
    assert seen(driver)["power"] == "crashed"
    driver.start(SERVER, {}, 1, 0)
    assert seen(driver)["power"] == "running"


def test_a_copy_begun_by_an_agent_that_died_is_begun_anew(real: Bench) -> None:
    driver = started(real, real.driver())
    part = driver.directory / SERVER / "snapshots" / "snap.part"
    qemu_img.create(part, "qcow2", qemu_img.GIB)
    part.chmod(0o666)
    live = driver._require(SERVER)
    driver._execute(live, "blockdev-add", {"driver": "file", "node-name": "p-copy", "filename": str(part)})
    driver._execute(live, "blockdev-add", {"driver": "qcow2", "node-name": "n-copy", "file": "p-copy"})
    job = {"job-id": "copy-root", "device": "n-root", "target": "n-copy", "sync": "full", "speed": 65536}
    driver._execute(live, "blockdev-backup", job)
    driver.close()
    assert qemu_img.info(real.driver().snapshot(SERVER, "snap"), "qcow2").backing_file is None


def test_console_log_is_bounded_and_no_link_is_followed(real: Bench) -> None:
    driver = started(real, real.driver())
    booted(driver)
    run = driver.directory / SERVER / "run"
    with open(run / "console.log", "ab") as log:
        log.write(b"x" * (1 << 20) + b"\nthe end\n")
    driver._require(SERVER).dirty = True
    seen(driver)
    assert (run / "console.log").stat().st_size == 0
    assert driver.console_log(SERVER, 1) == "the end\n"
    secret = real.directory / "secret"
    secret.write_text("secret")
    for name in ("console.log", "console.0"):
        (run / name).unlink()
        (run / name).symlink_to(secret)
    assert driver.console_log(SERVER) == ""
    for name in ("qmp", "vnc"):
        (run / name).rename(real.directory / name)
        (run / name).symlink_to(real.directory / name)
    with pytest.raises(Unavailable):
        driver.console_socket(SERVER, "vnc")
    after = real.driver()
    assert "does not answer" in seen(after)["error"]
    after.close()


def test_a_pid_file_that_lies_kills_nobody(real: Bench) -> None:
    driver = started(real, real.driver())
    pid_file = driver.directory / SERVER / "run" / "pid"
    pid = process(driver)
    pid_file.write_text(str(os.getpid()))
    assert process(driver) == pid
    driver.kill(SERVER)
    assert driver.seen(SERVER) is not None


def test_config_drive_is_readable(real: Bench) -> None:
    driver = real.driver()
    driver.define(SERVER, machine(config_drive=True), real.image)
    driver.write_config_drive(SERVER, {"openstack/latest/meta_data.json": json.dumps({"name": "web"}).encode()})
    iso = (driver.directory / SERVER / "config.iso").read_bytes()
    assert b"config-2" in iso
    assert b'{"name": "web"}' in iso
    driver.start(SERVER, {}, 1, 0)
    assert seen(driver)["power"] == "running"


def test_a_hung_machine_is_reported_and_can_be_destroyed(real: Bench) -> None:
    driver = started(real, real.driver())
    driver.answer_s = 0.2
    assert seen(driver)["error"] is None
    os.kill(process(driver), signal.SIGSTOP)
    driver._require(SERVER).dirty = True
    assert (seen(driver)["power"], seen(driver)["process"]) == ("running", True)
    assert "does not answer" in seen(driver)["error"]
    driver.destroy(SERVER)
    assert driver.known() == set()


def test_a_second_client_of_a_monitor_gives_up(real: Bench) -> None:
    driver = started(real, real.driver())
    seen(driver)
    monitors = Monitors()
    run = driver.directory / SERVER / "run"
    with pytest.raises(Unavailable):
        monitors.connect(run / "qmp", timeout_s=0.2)
    diagnosis = monitors.connect(run / "qmp2")
    assert diagnosis.execute("query-status")["running"]
    with pytest.raises(CommandError):
        diagnosis.execute("no-such-command")
    monitors.stop()
    assert diagnosis.closed


def test_two_threads_may_close_a_monitor(real: Bench) -> None:
    driver = started(real, real.driver())
    monitors, path = Monitors(), driver.directory / SERVER / "run" / "qmp2"
    for _ in range(20):
        monitor = monitors.connect(path)
        threads = [threading.Thread(target=monitors.close, args=(monitor,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monitors.close(monitor)
    assert monitors.connect(path).execute("query-status")["running"]
    monitors.stop()


def test_a_directory_that_machines_cannot_reach_is_said_at_once(real: Bench) -> None:
    real.directory.chmod(0o700)
    with pytest.raises(Refused, match="chmod a\\+x"):
        Qemu(real.directory, run_as=f"{NOBODY}:{NOBODY}")
    real.directory.chmod(0o711)
    with pytest.raises(Refused, match="too long"):
        Qemu(real.directory / ("x" * 60))
    shutil.rmtree(real.directory / ("x" * 60))


def test_a_start_that_fails_says_why_and_leaves_no_process(real: Bench) -> None:
    driver = real.driver()
    driver.define(SERVER, machine(disks=[real.volume()]), real.image)
    (real.directory / f"{VOLUME}.qcow2").unlink()
    with pytest.raises(Unavailable, match="No such file"):
        driver.start(SERVER, {}, 1, 0)
    assert (seen(driver)["power"], seen(driver)["process"]) == ("crashed", False)


def test_emulated_memory_is_not_whole_units_of_the_dirty_bitmap(tmp_path: Path) -> None:
    """QEMU before 9.0 would lose writes of an emulated machine that moves; see `NOT_WHOLE_UNITS_KIB`."""
    spec = {"vcpus": 1, "ram_mib": 256, "watchdog_action": "disabled", "config_drive": False, "disks": [], "nics": []}
    kib = {}
    for accel in ("tcg", "kvm"):
        words = arguments("machine", tmp_path, spec, accel, True, {})
        kib[accel] = int(words[words.index("-m") + 1].removesuffix("K"))
    assert kib["kvm"] == 256 * 1024
    assert 0 < kib["tcg"] - kib["kvm"] <= 64
    assert kib["tcg"] % (64 * 4) != 0
    assert kib["tcg"] % 8 == 0  # QEMU would round it up
