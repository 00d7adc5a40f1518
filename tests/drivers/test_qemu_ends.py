"""How machines end by themselves or by their host: crashes, panics, watchdogs, and a lease that has run out."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from tests.drivers.test_qemu import ROOT, SERVER, Bench, machine, make_bench, seen, started, until
from trilith.drivers.qemu import Qemu
from trilith.kernel.errors import Refused


@pytest.fixture(params=["fake", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with make_bench(request.param == "real") as made:
        yield made


@pytest.fixture
def real() -> Iterator[Bench]:
    with make_bench(True) as made:
        yield made


def test_crashes_are_noted_and_forgotten_with_the_next_boot(bench: Bench) -> None:
    driver = started(bench, bench.driver())
    assert seen(driver)["crash"] is None
    driver.kill(SERVER)
    assert seen(driver)["crash"] == "new"
    driver.note_crash(SERVER)
    driver.note_crash(SERVER)
    assert seen(driver)["crash"] == "again"
    driver.start(SERVER, {}, 1, 0)
    driver.kill(SERVER)
    driver.note_crash(SERVER)
    assert seen(driver)["crash"] == "wait"
    driver.start(SERVER, {}, 2, 0)
    driver.kill(SERVER)
    driver.note_crash(SERVER)
    assert seen(driver)["crash"] == "again"


def guest(real: Bench, code: str) -> None:
    """The image becomes a boot sector that does just this."""
    real.image("img").write_bytes(bytes.fromhex(code + "ebfe").ljust(510, b"\0") + b"\x55\xaa")


PANIC = "ba0505 b001 ee"  # says at pvpanic's port that the kernel has panicked
# the watchdog counts a second twice from now on, and nobody feeds it
WATCHDOG = "66b860f00080 baf80c 66ef bafc0c b80400 ef 66b868f00080 baf80c 66ef bafc0c b002 ee"


def test_a_panic_is_a_crash(real: Bench) -> None:
    guest(real, PANIC)
    changed = threading.Event()
    driver = started(real, real.driver(changed.set))
    until(lambda: seen(driver)["power"] == "crashed")
    there = seen(driver)
    assert changed.is_set()
    assert (there["process"], there["crash"], there["error"]) == (True, "new", "The guest's kernel panicked.")
    driver.end(SERVER)
    assert (seen(driver)["power"], seen(driver)["process"]) == ("stopped", False)


@pytest.mark.parametrize(("action", "power"), [("poweroff", "stopped"), ("pause", "paused"), ("none", "running")])
def test_a_watchdog_that_nobody_feeds(real: Bench, action: str, power: str) -> None:
    guest(real, WATCHDOG)
    changed = threading.Event()
    driver = started(real, real.driver(changed.set), watchdog_action=action)
    if power == "running":
        time.sleep(3.0)
    until(lambda: seen(driver)["power"] == power)
    assert seen(driver)["by_watchdog"] == (action == "pause")
    if action == "pause":
        driver.pause(SERVER)
        assert (seen(driver)["power"], seen(driver)["by_watchdog"]) == ("paused", False)
        driver.cont(SERVER)
        assert (seen(driver)["power"], seen(driver)["by_watchdog"]) == ("running", False)


def test_a_watchdog_resets(real: Bench) -> None:
    """The guest begins anew: the boot sector is read again."""
    guest(real, "ba0206 b80001 ef baf803 b055 ee " + WATCHDOG)
    driver = started(real, real.driver(), watchdog_action="reset")
    until(lambda: driver.console_log(SERVER).count("U") >= 2, 30.0)
    assert seen(driver)["power"] == "running"


def test_no_other_watchdog(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"Provided watchdog action \(bark\) is not supported"):
        bench.driver().define(SERVER, machine(watchdog_action="bark"), bench.image)


def test_what_others_may_start_is_ended_at_once(bench: Bench) -> None:
    """Even while something else has the machine's lock."""
    driver = bench.driver()
    local = {**ROOT, "size_gib": 1}
    driver.define(SERVER, machine(disks=[{**local, "shared": True}]), bench.image)
    driver.start(SERVER, {}, 1, 0)
    other = SERVER.replace("6d0a", "6d0b")
    driver.define(other, machine(disks=[{**local, "shared": True}, {**bench.volume(), "shared": False}]), bench.image)
    driver.start(other, {}, 1, 0)
    locked = threading.Event()
    held = threading.Thread(target=_hold, args=(driver, locked), daemon=True)
    held.start()
    locked.wait()
    until(lambda: not bench.driver().stop_shared(), 5.0)
    assert not seen(driver)["process"]
    there = driver.seen(other)
    assert there is not None
    assert there["process"]
    held.join()


def _hold(driver: Qemu, locked: threading.Event) -> None:
    lock = driver._lock(SERVER) if isinstance(driver, Qemu) else contextlib.nullcontext()
    with lock:
        locked.set()
        time.sleep(1.0)
