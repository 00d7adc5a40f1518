"""The northbound driver: one suite, on the fake and on a real ovsdb-server."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plans import topologies as t
from trilith.drivers.ovn import COLUMNS, FENCE, KEY, SCHEMA, Northbound
from trilith.drivers.ovn_fake import FakeNorthbound
from trilith.kernel.errors import Refused, Unavailable
from trilith.network.northbound_plan import compile, diff


class Server:
    """A northbound database alone."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="t3-", dir="/var/tmp"))
        self.remote = f"unix:{self.directory}/db.sock"
        self.database = str(self.directory / "nb.db")
        subprocess.run(["ovsdb-tool", "create", self.database, SCHEMA], check=True)
        self.start()

    def start(self) -> None:
        argv = ["ovsdb-server", "-vconsole:off", "-vsyslog:off", f"--unixctl={self.directory}/ctl"]
        self.process = subprocess.Popen([*argv, f"--remote=p{self.remote}", self.database])
        while not (self.directory / "db.sock").exists():
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        (self.directory / "db.sock").unlink()

    def nbctl(self, *words: str) -> str:
        return subprocess.run(
            ["ovn-nbctl", f"--db={self.remote}", *words], check=True, capture_output=True, text=True
        ).stdout

    def remove(self) -> None:
        self.process.kill()
        self.process.wait()
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.remove()


@pytest.fixture(params=["fake", "real"])
def northbound(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "fake":
        yield FakeNorthbound()
        return
    server = request.getfixturevalue("server")
    driver = Northbound(server.remote)
    yield driver
    driver.close()


def many(count: int) -> t.Doc:
    cloud = t.small_cloud()
    inside, allow = cloud["networks"][1], cloud["security_groups"][0]
    sub = cloud["subnets"][1] | {"cidr": "10.0.0.0/16"}
    cloud["subnets"][1] = sub
    cloud["ports"] += [
        t.port(f"n{n}", inside, (sub, f"10.0.{n // 250 + 1}.{n % 250 + 1}"), security_group_ids=[allow["id"]])
        for n in range(count)
    ]
    return cloud


def test_what_is_applied_is_read_back(northbound: Any) -> None:
    want = compile(t.small_cloud())
    assert {table: rows for table, rows in northbound.read().items() if rows} == {}
    northbound.apply(diff(want, northbound.read()))
    assert northbound.read() == want
    northbound.apply(diff(want, {}))  # again, from a stale view
    assert northbound.read() == want


def test_a_change_changes_only_its_rows(northbound: Any) -> None:
    cloud = t.small_cloud()
    northbound.apply(diff(compile(cloud), northbound.read()))
    gone = cloud["ports"].pop()
    cloud["networks"][1]["mtu"] = 1400
    cloud["security_group_rules"].pop()
    want = compile(cloud)
    changes = diff(want, northbound.read())
    assert {change.key for change in changes if change.table == "Logical_Switch_Port"} == {gone["id"]}
    northbound.apply(changes)
    assert northbound.read() == want


def test_everything_can_be_deleted(northbound: Any) -> None:
    northbound.apply(diff(compile(t.small_cloud()), northbound.read()))
    northbound.apply(diff({}, northbound.read()))
    assert not any(northbound.read().values())


def test_replace_writes_everything_anew(northbound: Any) -> None:
    want = compile(t.small_cloud())
    northbound.apply(diff(compile(many(3)), northbound.read()))
    northbound.replace(want)
    assert northbound.read() == want


def test_a_bad_row_is_refused_and_nothing_is_changed(northbound: Any) -> None:
    want = compile(t.small_cloud())
    northbound.apply(diff(want, northbound.read()))
    twin = {"name": next(iter(want["Logical_Switch_Port"]))}
    changes = [
        ("insert", "Logical_Switch_Port", "twin", twin),
        ("update", "Logical_Switch", t.an_id("private"), {"ports": ["twin", *twin.values()]}),
    ]
    with pytest.raises(Refused):
        northbound.apply(changes)
    assert northbound.read() == want


def test_a_reference_to_nothing_means_read_again(northbound: Any) -> None:
    with pytest.raises(Unavailable):
        northbound.apply([("insert", "Logical_Switch", "s", {"name": "s", "ports": ["nothing"]})])
    with pytest.raises(Unavailable):
        northbound.apply([("update", "Logical_Switch", "s", {"name": "s"})])
    northbound.apply([("delete", "Logical_Switch", "s", {})])


def test_it_tells_of_changes(northbound: Any) -> None:
    told = threading.Event()
    northbound.on_change(told.set)
    northbound.apply(diff(compile(t.small_cloud()), northbound.read()))
    assert told.wait(5)


def test_columns_of_plan_and_driver_are_the_same_words() -> None:
    rows = compile(t.small_cloud())
    assert rows.keys() == COLUMNS.keys()
    for table, keyed in rows.items():
        for row in keyed.values():
            assert row.keys() <= set(COLUMNS[table]), table


def test_rows_of_others_are_left_alone(server: Server) -> None:
    driver = Northbound(server.remote)
    driver.apply(diff(compile(t.small_cloud()), driver.read()))
    switch = server.nbctl("--bare", "--columns=_uuid", "find", "Logical_Switch", f"name={t.an_id('private')}").strip()
    server.nbctl("ls-add", "theirs", "--", "lsp-add", switch, "their-port")
    want = compile(many(2))
    driver.apply(diff(want, driver.read()))
    assert driver.read() == want
    assert "their-port" in server.nbctl("lsp-list", switch)
    driver.apply(diff({}, driver.read()))
    assert server.nbctl("--bare", "--columns=name", "list", "Logical_Switch").split() == ["theirs"]
    driver.close()


def test_a_second_row_with_the_same_key_goes_away(server: Server) -> None:
    """Two controllers that wrote at the same moment."""
    driver = Northbound(server.remote)
    want = compile(t.small_cloud())
    driver.apply(diff(want, driver.read()))
    server.nbctl("create", "Logical_Router", "name=twin", f'external_ids:"{KEY}"="{t.an_id("router")}"')
    end = time.monotonic() + 5
    while len(driver.read()["Logical_Router"]) == 1 and time.monotonic() < end:
        time.sleep(0.01)
    driver.apply(diff(want, driver.read()))
    assert driver.read() == want
    assert server.nbctl("--bare", "--columns=_uuid", "list", "Logical_Router").split().__len__() == 1
    driver.close()


def test_it_waits_for_a_server_that_comes_back(server: Server) -> None:
    driver = Northbound(server.remote, timeout_s=5)
    want = compile(t.small_cloud())
    driver.apply(diff(want, driver.read()))
    server.kill()
    server.start()
    wanted = compile(many(1))
    try:
        driver.apply(diff(wanted, driver.read()))
    except Unavailable:  # the server died under this very call
        driver.apply(diff(wanted, driver.read()))
    assert driver.read() == wanted
    driver.close()


def test_a_server_that_is_away_is_unavailable() -> None:
    driver = Northbound("unix:/nowhere/db.sock", timeout_s=0.1)
    with pytest.raises(Unavailable):
        driver.read()
    driver.close()


def test_a_thousand_ports(server: Server) -> None:
    """No timing here; it shows that a change of one port writes one port, whatever the number of the others."""
    driver = Northbound(server.remote)
    cloud = many(1000)
    driver.apply(diff(compile(cloud), driver.read()))
    cloud["ports"].pop()
    want = compile(cloud)
    changes = diff(want, driver.read())
    assert sum(change.table == "Logical_Switch_Port" for change in changes) == 1
    driver.apply(changes)
    assert driver.read() == want
    driver.close()


def test_an_older_lease_writes_nothing(server: Server) -> None:
    """A controller that was asleep while another took over."""
    asleep, awake = Northbound(server.remote), Northbound(server.remote)
    asleep.take(4)
    asleep.apply(diff(compile(many(1)), asleep.read()))
    awake.take(5)
    want = compile(many(2))
    awake.apply(diff(want, awake.read()))
    with pytest.raises(Unavailable):
        asleep.apply([("delete", "Logical_Router", t.an_id("router"), {})])
    with pytest.raises(Unavailable):
        asleep.replace({})
    with pytest.raises(Unavailable, match="taken over"):
        asleep.take(4)
    assert awake.read() == want
    awake.take(5)  # again: nothing to do
    assert server.nbctl("get", "NB_Global", ".", "options:bfd-mult").strip().strip('"') == "3"
    asleep.take(4, force=True)
    asleep.replace({})
    with pytest.raises(Unavailable):
        awake.apply(diff(want, {}))
    for driver in (asleep, awake):
        driver.close()


def test_the_lease_is_noted_in_a_database_that_was_made_anew(server: Server) -> None:
    driver = Northbound(server.remote, timeout_s=5)
    driver.take(7)
    server.nbctl("clear", "NB_Global", ".", "external_ids")
    with pytest.raises(Unavailable):
        driver.apply(diff(compile(many(1)), {}))
    end = time.monotonic() + 5
    while time.monotonic() < end:
        driver.take(7)
        if FENCE in server.nbctl("get", "NB_Global", ".", "external_ids"):
            break
    driver.apply(diff(compile(many(1)), driver.read()))
    driver.close()
