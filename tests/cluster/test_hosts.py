"""What an operator sees of hosts, and what he says of them."""

from pathlib import Path
from typing import Any

import pytest

import trilith.cluster.services  # noqa: F401 - every noun of every service
from tests.client import client
from tests.notices import Told
from trilith.cluster import hosts
from trilith.cluster.state import Problem
from trilith.compute import takeovers
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.store import Store, Tx
from trilith.placement.hosts import HOST, register

Doc = dict[str, Any]
LONG = "compute-host-with-a-rather-long-name-in-rack-42"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = client(tmp_path).app.store

    def rows(tx: Tx) -> None:
        for name, roles in (
            ("c1", ["control"]),
            ("n1", ["compute", "storage"]),
            (LONG, ["compute"]),
            ("n3", ["compute"]),
        ):
            row = register(tx, name, f"id-{name}", roles, "zone1")
            if name != "n3":
                has = {"vcpus": 128, "ram_mib": 1 << 20}
                tx.update(HOST, row, epoch=1, seen_at_s=tx.now_s(), inventory=has)
        new = tx.insert(TAKEOVER, {"id": "t1", "host": LONG, "why": "Nothing can make sure that it is off. " * 5})
        takeovers.advance(tx, takeovers.advance(tx, new, "suspect"), "down-unfenced")

    made.run(rows)
    return made


def state_of(store: Store, name: str) -> str:
    return next(str(host["state"]) for host in store.read(hosts.hosts)["hosts"] if host["name"] == name)


def test_the_table_fits(store: Store) -> None:
    brake = {"since_s": 1.0, "over_s": 1.0, "hosts": [LONG, "n1", "n3"], "released_s": None}
    store.run(lambda tx: takeovers.set_control(tx, brake=brake))
    text = hosts.as_text(store.read(hosts.hosts))
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "trilith host release-brake" in " ".join(text.split())
    assert [state_of(store, name) for name in ("c1", "n1", LONG, "n3")] == ["up", "up", "down-unfenced", "never heard"]


def test_maintenance(store: Store) -> None:
    told = Told(store)
    assert "no new machines" in store.run(lambda tx: hosts.set_maintenance(tx, "n1", True))
    assert state_of(store, "n1") == "maintenance"
    assert [name for name, _ in told()] == ["service.update"]
    row = store.read(lambda tx: tx.get(HOST, "n1"))
    assert (row["disabled"], row["disabled_reason"]) == (True, "maintenance")
    store.run(lambda tx: hosts.set_maintenance(tx, "n1", False))
    assert (state_of(store, "n1"), store.read(lambda tx: tx.get(HOST, "n1"))["disabled"]) == ("up", False)
    with pytest.raises(Problem, match="There is no host n9; there are: c1"):
        store.run(lambda tx: hosts.set_maintenance(tx, "n9", True))


def test_an_operators_word_counts_only_where_it_is_waited_for(store: Store) -> None:
    with pytest.raises(Problem, match="n1 is up: nothing waits"):
        store.run(lambda tx: hosts.give_word(tx, "n1"))
    store.run(lambda tx: hosts.give_word(tx, LONG))
    assert store.read(takeovers.under_way)[LONG]["word_given"]


def test_the_brake_is_released_once(store: Store) -> None:
    with pytest.raises(Problem, match="does not hold"):
        store.run(hosts.release_brake)
    brake = {"since_s": 1.0, "over_s": 1.0, "hosts": ["n1", "n3"], "released_s": None}
    store.run(lambda tx: takeovers.set_control(tx, brake=brake))
    assert "n1, n3" in store.run(hosts.release_brake)
    with pytest.raises(Problem, match="does not hold"):
        store.run(hosts.release_brake)


def test_the_history(store: Store) -> None:
    move = {"server_id": "s", "name": "web", "priority": 50, "to": "n1", "why": None, "again": False, "at_s": 2.0}
    store.run(lambda tx: tx.update(TAKEOVER, tx.get(TAKEOVER, "t1"), moves=[move]))
    text = hosts.history_as_text(store.read(hosts.history))
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "web (50): to n1" in text
    assert "suspect" in text
    assert hosts.history_as_text({"takeovers": []}) == "No host was ever lost."
