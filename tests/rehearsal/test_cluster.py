"""A small cluster, deployed as any other and broken: three controllers, two compute hosts, pretended machines.

How long each failure hurts is printed, not asserted: a busy machine would make that a matter of luck. What must hold
on any machine: the cloud comes back without a hand, and nothing is stuck, leaked or lost.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.conftest import traces
from trilith.cluster import rehearse
from trilith.cluster.rehearse import Rehearsal

DRILLS = ("api-process", "database-writer", "rabbitmq-all", "controller-power-cut")
FILE = """\
name: {name}
vip: 10.61.40.100
fake: true
networks: {{management: 10.61.40.0/24, tunnel: 10.61.41.0/24}}
public: {{cidr: 10.61.42.0/24}}
hosts:
  - {{name: c1, address: 10.61.40.11, tunnel_address: 10.61.41.11, roles: [control, network]}}
  - {{name: c2, address: 10.61.40.12, tunnel_address: 10.61.41.12, roles: [control, network]}}
  - {{name: c3, address: 10.61.40.13, tunnel_address: 10.61.41.13, roles: [control, network]}}
  - {{name: n1, address: 10.61.40.21, tunnel_address: 10.61.41.21, roles: [compute, storage]}}
  - {{name: n2, address: 10.61.40.22, tunnel_address: 10.61.41.22, roles: [compute, storage, logging]}}
"""


def trilith(*words: str, timeout_s: float = 600) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "trilith.cli.main", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    directory = tmp_path_factory.mktemp("cluster")
    name = f"small-{os.getpid()}"
    file, state = directory / "cluster.yaml", directory / "state"
    file.write_text(FILE.format(name=name))
    try:
        done = trilith("rehearse", "up", str(file), "--state", str(state))
        print(done.stdout)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        yield Rehearsal(state)
    finally:
        if (state / "rehearsal.json").exists():
            rehearse.down(state)
    assert traces(name) == []


def test_a_second_deploy_changes_nothing(cluster: Rehearsal, tmp_path: Path) -> None:
    again = trilith("rehearse", "up", str(cluster.state.parent / "cluster.yaml"), "--state", str(cluster.state))
    assert again.returncode == 0, again.stderr
    assert "Nothing to change" in again.stdout


def test_every_host_is_well(cluster: Rehearsal) -> None:
    document = json.loads(cluster.host("c1").run(["/usr/local/bin/trilith", "status", "--json"]))
    assert document["degraded"] == []
    assert {host["name"] for host in document["hosts"]} == {"c1", "c2", "c3", "n1", "n2"}


@pytest.mark.parametrize("name", DRILLS)
def test_drill(cluster: Rehearsal, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = trilith("drill", name, "--json", "--rehearsal", str(cluster.state))
    print(done.stderr)
    assert done.stdout, done.stderr[-3000:]
    outcome: dict[str, Any] = json.loads(done.stdout)[0]
    with capsys.disabled():
        print(f"\n{name}: {json.dumps(outcome['figures'])} {outcome['wrong']}")
    assert outcome["figures"]["requests"] > 100
    assert outcome["figures"]["healed_s"] is not None, outcome["stuck"]
    assert {kind: outcome[kind] for kind in ("stuck", "leaked", "lost")} == {"stuck": [], "leaked": [], "lost": []}
