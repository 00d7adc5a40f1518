"""Every process of a cloud is killed, again and again, while people work on it. What they were promised must hold:

nothing acknowledged is lost, nothing is stuck, nothing leaks, no machine is started twice.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.cloud import Cloud, eventually
from tests.crash.load import Promises, User
from tests.crash.world import World, world_of
from trilith.cluster import proc
from trilith.compute.instance_actions import ACTION
from trilith.compute.servers import SERVER
from trilith.image.images import IMAGE
from trilith.kernel.declare import Noun
from trilith.network.ports import PORT
from trilith.volume.attachments import ATTACHMENT
from trilith.volume.volumes import VOLUME

VICTIMS = ("api worker", "agent", "controller", "hub", "api", "supervisor", "everything")
ENGINES = ("ovn-northd", "ovsdb-server", "ovn-controller", "ovs-vswitchd")
USERS = 3
SETTLE_S = 90.0
REST_S = (0.1, 1.3)  # between a kill and the next
STEADY = {
    "server": {"ACTIVE"},
    "volume": {"available", "in-use"},
    "port": {"ACTIVE", "DOWN"},
    "image": {"queued", "active"},
}
SIZES = [
    pytest.param(8, False, id="8-kills"),
    pytest.param(30, False, id="30-kills", marks=pytest.mark.long),
    # fails in one run of six, in `trilith up` after a kill; until that is found it does not hold up every change
    pytest.param(30, True, id="30-kills-real", marks=pytest.mark.long),
]


@pytest.fixture
def cloud(real: bool) -> Iterator[Cloud]:
    directory = Path(tempfile.mkdtemp(prefix="trilith-", dir="/var/tmp"))
    directory.chmod(0o755)  # machines run as another user
    made = Cloud(directory, real)
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize(("kills", "real"), SIZES)
def test_kill_everything(cloud: Cloud, kills: int) -> None:
    world, promises, ended = world_of(cloud), Promises(), threading.Event()
    moments = random.Random(kills)
    things = prepare(cloud)
    users = [User(n, cloud, world, promises, ended, things) for n in range(USERS)]
    for user in users:
        user.start()
    for victim in itertools.islice(itertools.cycle(VICTIMS + ENGINES * cloud.real), kills):
        time.sleep(moments.uniform(*REST_S))
        kill(cloud, victim)
    ended.set()
    for user in users:
        user.join(120)
        assert not user.is_alive(), "a user hangs"
    last = User(99, cloud, world, promises, ended, things)
    last.stay()
    assert promises.broken == [], cloud.logs()
    eventually(lambda: unsettled(cloud, world), "all is settled", SETTLE_S, cloud.logs)
    check_promises(last, world, promises)
    take_away(last, promises)
    eventually(lambda: left_over(cloud, world), "nothing is left", SETTLE_S, cloud.logs)
    print(f"{len(promises.deleted)} made and deleted, {promises.requests} requests, {promises.retries} retries")


def prepare(cloud: Cloud) -> dict[str, Any]:
    """A network with a subnet, and what a server needs."""
    token = cloud.sign_in("demo")
    user = User(0, cloud, world_of(cloud), Promises(), threading.Event(), {"token": token})
    network = user.create("network", {})
    user.create("subnet", {"network_id": network, "ip_version": 4, "cidr": "10.7.0.0/16"})
    images = user.ask("GET", "/image/v2/images").json["images"]
    flavors = user.ask("GET", "/compute/v2.1/flavors").json["flavors"]
    return {"token": token, "network": network, "image": images[0]["id"], "flavor": flavors[0]["id"]}


def kill(cloud: Cloud, victim: str) -> None:
    """kill -9; the supervisor is started again by hand, as its unit would. Machines live on, even over everything."""
    deadline = time.monotonic() + 10
    name = "supervisor" if victim == "everything" else victim
    while (pid := cloud.processes().get(name)) is None:
        assert time.monotonic() < deadline, f"there is no {victim} to kill"
        time.sleep(0.02)
    pids = [pid]
    if victim == "everything":
        pids += [member for leader in cloud.processes().values() for member in proc.session_members(leader)]
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    if name == "supervisor":
        cloud.up()


# what SQL says, read past the API
def rows(cloud: Cloud, noun: Noun) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(f"file:{cloud.state.database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f'SELECT * FROM "{noun.table.name}"')]


def living(cloud: Cloud, kind: str) -> dict[str, dict[str, Any]]:
    """Rows by id; a server that was deleted leaves a row for those who ask what was."""
    noun = {"server": SERVER, "volume": VOLUME, "port": PORT, "image": IMAGE}[kind]
    return {row["id"]: row for row in rows(cloud, noun) if not row.get("deleted_at")}


def unsettled(cloud: Cloud, world: World) -> list[str]:
    """What is in between, belongs to nobody, or differs between SQL and the world."""
    found = []
    servers, volumes, ports = (living(cloud, kind) for kind in ("server", "volume", "port"))
    for row in servers.values():
        if row["status"] not in STEADY["server"] or row["task_state"]:
            found.append(f"server {row['id']} is {row['status']} ({row['task_state']})")
    images = living(cloud, "image")
    for kind, those in (("volume", volumes), ("image", images)):
        found += [f"{kind} {key} is {row['status']}" for key, row in those.items() if row["status"] not in STEADY[kind]]
    for port in ports.values():
        if port["device_owner"].startswith("compute:") and port["device_id"] not in servers:
            found.append(f"port {port['id']} belongs to server {port['device_id']}, which is gone")
    for attachment in rows(cloud, ATTACHMENT):
        if attachment["server_id"] not in servers or attachment["volume_id"] not in volumes:
            found.append(f"attachment {attachment['id']} of {attachment['server_id']} is left")
    for action in rows(cloud, ACTION):
        if action["finished_at"] is None:
            found.append(f"action {action['action']} of server {action['server_id']} never ended")
    bound = {key for key, port in ports.items() if port["device_id"] in servers}
    found += different("machines", set(world.starts()), set(servers))
    networks_own = {key for key, port in ports.items() if port["device_owner"].startswith("network:")}
    found += different("interfaces", world.interfaces() - networks_own, bound)
    found += different("volumes", world.volumes(), set(volumes))
    found += different("images", world.images(), {key for key, row in images.items() if row["status"] == "active"})
    logical = world.logical_ports()
    if logical is not None:
        found += different("logical ports", {key for key in logical if key in ports or len(key) == 36}, set(ports))
    return found


def different(what: str, world: set[str], sql: set[str]) -> list[str]:
    found = [f"{what} that nobody wants: {sorted(world - sql)}"] if world - sql else []
    return found + ([f"{what} that are missing: {sorted(sql - world)}"] if sql - world else [])


def check_promises(user: User, world: World, promises: Promises) -> None:
    """Through the API: what was made is there, what was deleted is not, what ran runs on."""
    for key, kind in promises.made.items():
        assert user.status(kind, key) in STEADY[kind], f"{kind} {key} was made"
    for key, kind in promises.deleted.items():
        assert user.status(kind, key) is None, f"{kind} {key} was deleted"
    starts = world.starts()
    for server, start in promises.starts.items():
        assert starts.get(server) == start, f"server {server} was started again"


def take_away(user: User, promises: Promises) -> None:
    for wanted in ("server", "volume", "port", "image"):
        for key in [key for key, kind in promises.made.items() if kind == wanted]:
            if wanted == "volume":
                user.wait("volume", key, "available")
            user.delete(wanted, key, absent_ok=True)
            if wanted == "server":
                user.gone(wanted, key)


def left_over(cloud: Cloud, world: World) -> list[str]:
    found = unsettled(cloud, world)
    for kind in ("server", "volume"):
        found += [f"{kind} {key}" for key in living(cloud, kind)]
    found += [f"image {key}" for key, row in living(cloud, "image").items() if row["name"].startswith("image-")]
    ports = living(cloud, "port").items()
    return found + [f"port {key}" for key, row in ports if not row["device_owner"].startswith("network:")]
