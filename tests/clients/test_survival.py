"""What machines and their connections live through: repairs, kill -9 of whatever is below them, a restart of it all."""

import json
import os
import signal
from typing import Any

import pytest

from tests.clients.cloud import Cloud, until
from tests.clients.stage import (
    COMPUTE,
    VOLUME,
    Doc,
    Machine,
    Stage,
    northbound,
    nothing_is_left,
    qemu_processes,
    ticking,
)

MARK = "written before"


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    return Stage(cloud)


@pytest.fixture(scope="module")
def machine(stage: Stage) -> Machine:
    machine = stage.machine("lasting").ready()
    machine.give_address()
    machine.booted()
    return machine


@pytest.fixture(scope="module")
def volume(stage: Stage, machine: Machine) -> Doc:
    volume = stage.volume(name="lasting")
    machine.write(machine.attach(volume), MARK)
    return volume


def process(cloud: Cloud, name: str) -> dict[str, Any]:
    shown = json.loads(cloud.trilith("status", "--json", check=False).stdout)
    return dict(next(each for each in shown["processes"] if each["name"] == name))


def kill(cloud: Cloud, name: str) -> None:
    """kill -9, and wait until the supervisor has another one ready."""
    before = process(cloud, name)["pid"]
    os.kill(before, signal.SIGKILL)

    def replaced() -> bool:
        now = process(cloud, name)
        return now["pid"] not in (None, before) and now["state"] == "ready"

    until(replaced, 30, f"{name} replaced")


def test_repair_under_a_tcp_stream(cloud: Cloud, machine: Machine) -> None:
    """Every northbound row is made anew; who has a connection does not notice."""
    old = {str(row["_uuid"]) for row in northbound(cloud, "Logical_Switch_Port")}
    with ticking(machine) as ticker:
        cloud.trilith("repair", "network")
        until(lambda: not old & {str(r["_uuid"]) for r in northbound(cloud, "Logical_Switch_Port")}, 20, "new rows")
        assert len(northbound(cloud, "Logical_Switch_Port")) == len(old)
        ticker.goes_on()
    machine.run("ping -c 1 -W 3 169.254.169.254 >/dev/null; curl -sf http://169.254.169.254/openstack")


@pytest.mark.parametrize("name", ["ovs-vswitchd", "ovn-controller", "ovn-northd", "ovsdb-server"])
def test_network_engine_killed_under_a_tcp_stream(cloud: Cloud, machine: Machine, name: str) -> None:
    with ticking(machine) as ticker:
        kill(cloud, name)
        ticker.goes_on(for_s=40)


def test_agent_killed(cloud: Cloud, machine: Machine) -> None:
    """The machine never notices, and the next agent looks after it."""
    boot_id, before, pids = machine.booted(), machine.uptime_s(), qemu_processes(cloud)
    kill(cloud, "agent")
    assert machine.booted() == boot_id
    assert machine.uptime_s() > before
    machine.act("pause", then="PAUSED")
    machine.act("unpause")
    assert qemu_processes(cloud) == pids
    assert machine.booted() == boot_id


@pytest.mark.parametrize("name", ["api", "hub", "controller"])
def test_control_plane_killed(cloud: Cloud, machine: Machine, name: str) -> None:
    boot_id = machine.booted()
    kill(cloud, name)
    machine.act("pause", then="PAUSED")
    machine.act("unpause")
    assert machine.booted() == boot_id


def test_machine_killed(cloud: Cloud, machine: Machine, volume: Doc) -> None:
    """A machine that is gone without anybody's wish is started again."""
    boot_id, (pid,) = machine.booted(), qemu_processes(cloud)
    os.kill(pid, signal.SIGKILL)
    until(lambda: qemu_processes(cloud) not in ([], [pid]), 20, "another process")
    assert machine.booted() != boot_id
    machine.ready()
    assert machine.read(machine.device(volume), len(MARK)) == MARK


def test_down_and_up(cloud: Cloud, machine: Machine, volume: Doc) -> None:
    addresses, boot_id = (machine.row()["addresses"], machine.booted())
    machine.run("echo kept >/root/file; sync")
    cloud.trilith("down")
    assert qemu_processes(cloud) == []
    cloud.up()
    machine.ready()
    assert machine.booted() != boot_id
    assert machine.row()["addresses"] == addresses
    assert machine.run("cat /root/file") == "kept"
    assert machine.read(machine.device(volume), len(MARK)) == MARK
    assert "172.24." in json.dumps(addresses)


def test_killed_while_building_and_deleting(cloud: Cloud, stage: Stage, machine: Machine) -> None:
    """Whatever is cut off, the next one goes on with: nothing is stuck, nothing is left."""
    before = qemu_processes(cloud)
    volumes = [stage.make(f"{VOLUME}/volumes", volume={"size": 1}) for _ in range(3)]
    machines = [stage.machine(f"many{n}") for n in range(3)]
    for name in ("agent", "ovsdb-server", "controller", "api"):
        kill(cloud, name)
    for one, volume in zip(machines, volumes, strict=True):
        one.ready()
        stage.volume_is(volume["id"], "available")
        stage.make(f"{one.path}/os-volume_attachments", volumeAttachment={"volumeId": volume["id"]})
    kill(cloud, "agent")
    for volume in volumes:
        stage.volume_is(volume["id"], "in-use")
    for one in machines:
        stage.call("DELETE", one.path)
    kill(cloud, "agent")
    until(lambda: stage.get(f"{COMPUTE}/servers?name=many") == [], 60, "servers deleted")
    for volume in volumes:
        stage.volume_is(volume["id"], "available")
    until(lambda: qemu_processes(cloud) == before, 20, "their processes gone")


def test_nothing_is_left(cloud: Cloud, stage: Stage, machine: Machine) -> None:
    stage.clear()
    nothing_is_left(cloud)
