import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.deploy.conftest import good_facts
from trilith.cluster.cluster_file import ClusterFile, Fencing
from trilith.cluster.deploy_apply import managed_files
from trilith.cluster.deploy_directory import Deployment
from trilith.cluster.deploy_plan import Change, HostWant, changes, groups, quorum_lost, refusal, restarts, wanted
from trilith.cluster.deploy_watch import holds_quorum, readiness
from trilith.cluster.state import Problem

UNIT = "[Service]\nExecStart=/opt/trilith/current/bin/trilith\n"
SECRETS = "/var/lib/trilith/secrets"


@pytest.fixture
def deployment(cluster: ClusterFile, tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path / "deployment")
    made.prepare(cluster)
    return made


def want(
    cluster: ClusterFile, deployment: Deployment, name: str, program: str = "abc", joined: bool = False
) -> HostWant:
    host = next(host for host in cluster.hosts if host.name == name)
    return wanted(cluster, deployment, host, program, "wheels-1", UNIT, joined)


def after(host: HostWant, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a host on which everything was done."""
    return facts | {
        "packages": list(host.packages),
        "files": {path: {"digest": file.digest, "mode": file.mode} for path, file in host.files.items()},
        "programs": [host.program, host.wheels],
        "current": host.program,
        "command": "/opt/trilith/current/bin/trilith",
        "keeper": {"active": "active", "enabled": True, "started_with": host.deployed, "state": None, "age_s": None},
    }


def test_a_bare_host_gets_everything_and_then_nothing(cluster: ClusterFile, deployment: Deployment) -> None:
    wanted = want(cluster, deployment, "c1")
    bare = good_facts(cluster, "c1")
    steps = [change.step for change in changes(wanted, bare)]
    assert steps == ["packages", "program", "secrets", "certificates", "files", "switch", "keeper"]
    assert changes(wanted, after(wanted, bare)) == []


def test_passwords_of_power_switches_go_to_controllers_alone(cluster: ClusterFile, tmp_path: Path) -> None:
    file = tmp_path / "password"
    fencing = Fencing(driver="ipmi", address="10.9.9.9", user="root", password_file=str(file))
    switched = msgspec.structs.replace(cluster, fencing=fencing)
    made = Deployment(tmp_path / "deployment")
    with pytest.raises(Problem, match="password of n1's power switch"):
        made.prepare(switched)
    file.write_text("s3cret\n")
    made.prepare(switched)
    path = f"{SECRETS}/fencing.json"
    held = want(switched, made, "c1").files[path]
    assert (json.loads(held.content)["n1"], held.mode) == ("s3cret", 0o600)
    assert path not in want(switched, made, "n1").files
    assert b"s3cret" not in b"".join(f.content for f in want(switched, made, "n1").files.values())


def test_a_second_run_wants_the_same(cluster: ClusterFile, deployment: Deployment) -> None:
    first = {host.name: want(cluster, deployment, host.name) for host in cluster.hosts}
    again = Deployment(deployment.directory)
    again.prepare(cluster)
    for name, earlier in first.items():
        assert want(cluster, again, name).files.keys() == earlier.files.keys()
    assert want(cluster, again, "n1") == first["n1"]


def test_whatever_is_written_is_looked_at(cluster: ClusterFile, deployment: Deployment) -> None:
    """Else it is written again each time."""
    for host in cluster.hosts:
        assert set(want(cluster, deployment, host.name).files) <= set(managed_files(host))


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        ({"programs": ["wheels-1"]}, ["program"]),
        ({"current": "old"}, ["switch"]),
        ({"command": None}, ["switch"]),
        ({"packages": []}, ["packages"]),
        ({"drained": ["api/c2"]}, ["traffic"]),
    ],
)
def test_only_what_is_missing_is_done(
    cluster: ClusterFile, deployment: Deployment, spoilt: dict[str, Any], expected: list[str]
) -> None:
    wanted = want(cluster, deployment, "c1")
    facts = after(wanted, good_facts(cluster, "c1")) | spoilt
    assert [change.step for change in changes(wanted, facts)] == expected


def test_files_that_differ_in_content_or_mode_are_written(cluster: ClusterFile, deployment: Deployment) -> None:
    wanted = want(cluster, deployment, "c1")
    facts = after(wanted, good_facts(cluster, "c1"))
    facts["files"][f"{SECRETS}/keeper"]["mode"] = 0o644
    facts["files"][f"{SECRETS}/tls/host.key"] = None
    found = changes(wanted, facts)
    assert [(change.step, change.names) for change in found] == [
        ("secrets", (f"{SECRETS}/keeper",)),
        ("certificates", (f"{SECRETS}/tls/host.key",)),
    ]
    assert not restarts(found)


def test_a_new_program_or_cluster_file_starts_the_keeper_anew(cluster: ClusterFile, deployment: Deployment) -> None:
    before = want(cluster, deployment, "c1")
    facts = after(before, good_facts(cluster, "c1"))
    found = changes(want(cluster, deployment, "c1", program="new"), facts)
    assert [change.step for change in found] == ["program", "files", "switch", "keeper"]
    assert restarts(found)


def test_a_keeper_that_missed_its_restart_gets_it(cluster: ClusterFile, deployment: Deployment) -> None:
    """A deploy that was killed between writing and restarting."""
    wanted = want(cluster, deployment, "c1")
    facts = after(wanted, good_facts(cluster, "c1"))
    facts["keeper"]["started_with"] = "before"
    assert changes(wanted, facts) == [Change("keeper", "starts the keeper anew")]


def test_secrets_go_where_they_are_needed_and_are_never_shown(cluster: ClusterFile, deployment: Deployment) -> None:
    control, compute, log = (want(cluster, deployment, name) for name in ("c1", "n1", "log1"))
    names = {path.removeprefix(f"{SECRETS}/") for path in compute.files if path.startswith(SECRETS)}
    assert names == {"keeper", "join-token", "tls/ca.crt", "tls/host.crt", "tls/host.key"}
    assert f"{SECRETS}/join-token" not in log.files
    assert {f"{SECRETS}/database", f"{SECRETS}/cluster-key", f"{SECRETS}/tls/vip.pem"} <= control.files.keys()
    assert all(f.mode == 0o600 for host in (control, compute) for p, f in host.files.items() if p.startswith(SECRETS))
    shown = str(changes(control, good_facts(cluster, "c1")))
    assert deployment.secret("database") not in shown
    settings = control.files["/var/lib/trilith/cloud.json"].content.decode()
    assert not any(path.read_text().strip() in settings for path in deployment.secrets.iterdir())


def test_join_tokens_are_one_a_host_and_only_until_it_has_joined(cluster: ClusterFile, deployment: Deployment) -> None:
    first = want(cluster, deployment, "n1").files[f"{SECRETS}/join-token"].content
    assert want(cluster, deployment, "n1").files[f"{SECRETS}/join-token"].content == first
    assert want(cluster, deployment, "n2").files[f"{SECRETS}/join-token"].content != first
    assert b'"n1"' in deployment.join_tokens()
    assert first.strip() not in deployment.join_tokens()
    assert f"{SECRETS}/join-token" not in want(cluster, deployment, "n1", joined=True).files


def test_the_deployments_directory_is_private(deployment: Deployment) -> None:
    assert deployment.directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in deployment.secrets.iterdir())
    assert (deployment.tls / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("fresh", "careful", "expected"),
    [
        (["c1", "c2", "c3", "n1", "n2", "log1"], False, [["c1", "c2", "c3", "n1", "n2", "log1"]]),
        ([], True, [["c1"], ["c2"], ["c3"], ["n1", "n2", "log1"]]),
        (["c2"], True, [["c1"], ["c3"], ["n1", "n2", "log1"], ["c2"]]),
        (["n2"], True, [["c1"], ["c2"], ["c3"], ["n1", "log1"], ["n2"]]),
    ],
)
def test_the_order(cluster: ClusterFile, fresh: list[str], careful: bool, expected: list[list[str]]) -> None:
    ready = {host.name for host in cluster.hosts}
    assert groups(cluster, set(fresh), careful, ready) == expected


def test_who_is_not_ready_is_mended_first(cluster: ClusterFile) -> None:
    ready = {host.name for host in cluster.hosts} - {"c2"}
    assert groups(cluster, set(), True, ready)[:3] == [["c2"], ["c1"], ["c3"]]
    assert refusal(cluster, ["c2", "c1", "c3"], ready) is None
    assert refusal(cluster, ["c1", "c3"], ready) == "Changing c1 now would lose the quorum, because c2 is not ready."
    assert refusal(cluster, ["c2", "c1", "c3"], ready - {"c3"}) is not None


@pytest.mark.parametrize(
    ("touched", "ready", "refused"),
    [
        ("c1", {"c1", "c2", "c3"}, False),
        ("c1", {"c2", "c3"}, False),  # it is the broken one
        ("c1", {"c1", "c3"}, True),
        ("c1", set(), True),
        ("n1", set(), False),
    ],
)
def test_quorum_is_not_lost(cluster: ClusterFile, touched: str, ready: set[str], refused: bool) -> None:
    found = quorum_lost(cluster, touched, ready)
    assert (found is not None) == refused
    if touched == "c1" and ready == {"c1", "c3"}:
        assert found == "Changing c1 now would lose the quorum, because c2 is not ready."


def keeper(**changed: Any) -> dict[str, Any]:
    engines = {"galera": {"ready": True}, "haproxy": {"ready": True}}
    state = {"program": "abc", "ready": True, "engines": engines}
    return {"active": "active", "started_with": "d", "age_s": 1.0, "state": state} | changed


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (keeper(), []),
        (keeper(active="failed"), ["the keeper is failed; see there: journalctl -u trilith-keeper"]),
        (keeper(started_with="before"), ["the keeper has not spoken yet"]),
        (keeper(state=None), ["the keeper has not spoken yet"]),
        (keeper(age_s=99.0), ["the keeper has said nothing for 99 s"]),
        (
            keeper(
                state={
                    "program": "abc",
                    "ready": False,
                    "engines": {"galera": {"ready": False, "problem": "It waits for c1.", "doing": None}},
                }
            ),
            ["galera: It waits for c1."],
        ),
    ],
)
def test_readiness(found: dict[str, Any], words: list[str]) -> None:
    assert readiness(found, "abc", "d") == words


def test_only_what_requests_need_counts_for_the_quorum() -> None:
    def state(**ready: bool) -> dict[str, Any]:
        engines = {name: {"ready": is_ready} for name, is_ready in ready.items()}
        return keeper(state={"program": "abc", "ready": False, "engines": engines})

    assert holds_quorum(state(galera=True, haproxy=True, trilith=True, rabbitmq=False))
    assert not holds_quorum(state(galera=False, haproxy=True))
    assert not holds_quorum(state(galera=True) | {"age_s": 99.0})
    assert not holds_quorum(keeper(state=None))


def test_the_first_controller_gets_the_guest_image(
    cluster: ClusterFile, deployment: Deployment, tmp_path: Path
) -> None:
    guest = tmp_path / "0123/guest.qcow2"
    guest.parent.mkdir()
    guest.write_bytes(b"an image")
    for name, has in (("c1", True), ("c2", False), ("n1", False)):
        host = next(host for host in cluster.hosts if host.name == name)
        files = wanted(cluster, deployment, host, "abc", "wheels-1", UNIT, False, guest).files
        assert ("/var/cache/trilith/guest/0123/guest.qcow2" in files) == has
