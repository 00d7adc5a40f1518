"""Machines that end by themselves: started again, left stopped, or given up, as flavor and metadata say."""

from tests.client import ADMIN
from tests.compute.conftest import Cloud
from trilith.drivers import crashes


def crash(cloud: Cloud, server: str) -> None:
    cloud.qemu.kill(server)
    cloud.settle(1)


def test_a_crash_is_started_again(cloud: Cloud) -> None:
    server = cloud.server()
    crash(cloud, server)
    assert cloud.status(server) == "ACTIVE"
    assert cloud.qemu._read(server)["process"]


def test_again_and_again_is_an_error_until_somebody_asks(cloud: Cloud) -> None:
    server = cloud.server()
    for _ in crashes.PAUSES_S:
        crash(cloud, server)
        crashed = cloud.qemu._read(server)["crashes"]
        cloud.qemu._change(server, crashes=[[number, at_s - 40.0] for number, at_s in crashed])  # the pause is over
        cloud.settle(1)
    shown = cloud.show(server)
    assert shown["status"] == "ERROR"
    assert "again and again" in shown["fault"]["message"]
    assert not cloud.qemu._read(server)["process"]
    cloud.do(server, "reboot", {"type": "HARD"})
    assert cloud.status(server) == "ACTIVE"


def test_the_policy_of_the_flavor_and_of_the_server(cloud: Cloud) -> None:
    specs = {"extra_specs": {"trilith:on_crash": "stop"}}
    assert cloud.post("/flavors/1/os-extra_specs", specs, ADMIN).status == 200
    stays, starts = cloud.server(), cloud.server(metadata={"trilith:on_crash": "restart"})
    for server in (stays, starts):
        crash(cloud, server)
        cloud.settle()
    assert (cloud.status(stays), cloud.status(starts)) == ("SHUTOFF", "ACTIVE")
    cloud.do(stays, "os-start")
    assert cloud.status(stays) == "ACTIVE"


def test_an_unknown_watchdog_action_is_an_error(cloud: Cloud) -> None:
    specs = {"extra_specs": {"hw:watchdog_action": "bark"}}
    assert cloud.post("/flavors/1/os-extra_specs", specs, ADMIN).status == 200
    shown = cloud.show(cloud.server())
    assert shown["status"] == "ERROR"
    assert shown["fault"]["message"] == "Provided watchdog action (bark) is not supported."
