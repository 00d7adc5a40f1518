"""Every process of a cloud is killed, again and again, while people work on it. What they were promised must hold:

nothing acknowledged is lost, nothing is stuck, nothing leaks, no machine is started twice.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.cloud import Cloud, eventually
from trilith.cluster import audit, proc
from trilith.cluster.drill.load import Promises, User, broken_promises, prepare, take_away
from trilith.identity.seed import fixed_id

VICTIMS = ("api worker", "agent", "controller", "hub", "api", "supervisor", "everything")
ENGINES = ("ovn-northd", "ovsdb-server", "ovn-controller", "ovs-vswitchd")
USERS = 3
SETTLE_S = 90.0
REST_S = (0.1, 1.3)  # between a kill and the next
SIZES = [
    pytest.param(30, True, id="30-kills-real"),
    pytest.param(30, False, id="30-kills", marks=pytest.mark.long),
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
    world, promises, ended = audit.world_of(cloud.state), Promises(), threading.Event()
    moments = random.Random(kills)
    things = prepare(cloud.api, cloud.sign_in("demo"))
    users = [User(n, cloud.api, promises, ended, things, world.starts) for n in range(USERS)]
    for user in users:
        user.start()
    for victim in itertools.islice(itertools.cycle(VICTIMS + ENGINES * cloud.real), kills):
        time.sleep(moments.uniform(*REST_S))
        kill(cloud, victim)
    ended.set()
    for user in users:
        user.join(120)
        assert not user.is_alive(), "a user hangs"
    last = User(99, cloud.api, promises, ended, things, world.starts)
    last.stay()
    assert promises.broken == [], cloud.logs()
    eventually(lambda: audit.unsettled([audit.look(cloud.state)]), "all is settled", SETTLE_S, cloud.logs)
    assert broken_promises(last, world.starts()) == []
    take_away(last)
    demo = fixed_id("project:demo")
    eventually(lambda: audit.left_over([audit.look(cloud.state)], demo), "nothing is left", SETTLE_S, cloud.logs)
    print(f"{len(promises.deleted)} made and deleted, {promises.requests} requests, {promises.retries} retries")


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
