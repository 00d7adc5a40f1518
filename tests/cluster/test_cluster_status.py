"""A cluster's status from what its keepers and SQL say."""

from typing import Any

from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.cluster_status import as_text, described
from trilith.cluster.state import Settings

NOW_S = 1_770_000_000.0
TIME = "2026-02-02T02:40:00.000+00:00"
Doc = dict[str, Any]

NAMES = ("c1", "c2", "c3")
HOSTS = [Host(name=name, address=f"10.0.0.{n}", roles=["control", "compute"]) for n, name in enumerate(NAMES, 1)]
SETTINGS = Settings(cloud_id="ab12", host="c1", cluster=ClusterFile(hosts=HOSTS, name="x", vip="10.0.0.100"))


def keeper(name: str, **changes: Doc) -> Doc:
    told: Doc = {"ready": True, "doing": None, "problem": None, "detail": {}}
    engines = {
        "galera": told | {"detail": {"synced": True, "size": 3}},
        "rabbitmq": told,
        "ovn_central": told,
        "haproxy": told | {"detail": {"writer": "c2", "down": []}},
        "keepalived": told | {"detail": {"holds_vip": name == "c3"}},
    }
    engines |= {kind: engines[kind] | change for kind, change in changes.items()}
    ready = all(engine["ready"] for engine in engines.values())
    return {"host": name, "time": TIME, "program": "abc", "ready": ready, "engines": engines}


def keepers(**changes: Doc | None) -> dict[str, Doc | None]:
    return {name: keeper(name) for name in NAMES} | changes


def sql() -> Doc:
    leases = [{"name": "northbound", "holder": "controller:c1", "epoch": 7, "expires_at_s": NOW_S + 6}]
    return {"leases": leases, "hosts": {name: {"up": True, "seen_at_s": NOW_S} for name in NAMES}}


def wrong(document: Doc) -> list[str]:
    return [each["what"] for each in document["degraded"]]


def test_healthy() -> None:
    document = described(SETTINGS, keepers(), sql(), NOW_S)
    assert document["degraded"] == []
    assert document["serves"]
    assert document["vip"]["holders"] == ["c3"]
    assert document["database"] == {"writer": "c2", "synced": ["c1", "c2", "c3"]}
    assert document["leases"] == [{"name": "northbound", "holder": "controller:c1", "epoch": 7, "left_s": 6.0}]
    text = as_text(document)
    assert "Cloud x (ab12): healthy" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_host_is_away_and_an_engine_is_not_ready() -> None:
    busy = keeper("c2", rabbitmq={"ready": False, "doing": "join c1", "problem": "It waits for a node to run. " * 5})
    document = described(SETTINGS, keepers(c1=None, c2=busy), sql(), NOW_S)
    assert wrong(document) == ["host c1", "rabbitmq on c2", "quorum of rabbitmq"]
    assert document["quorum"]["galera"] == {"ready": 2, "of": 3, "quorum": True}
    assert document["quorum"]["ovn_central"] == {"ready": 2, "of": 3, "quorum": True}
    assert document["serves"]
    assert max(map(len, as_text(document).splitlines())) <= 100


def test_nobody_serves() -> None:
    document = described(SETTINGS, keepers(c3=None), {"problem": "SQL does not answer within 8 s"}, NOW_S)
    assert not document["serves"]
    assert "VIP 10.0.0.100" in wrong(document)
    assert "database" in wrong(document)


def test_two_hold_the_vip_and_a_clock_is_wrong() -> None:
    other = keeper("c1", keepalived={"detail": {"holds_vip": True}}) | {"time": "2026-02-02T02:41:00.000+00:00"}
    document = described(SETTINGS, keepers(c1=other), sql(), NOW_S)
    assert wrong(document) == ["clock of c1", "VIP 10.0.0.100"]


def test_an_agent_is_silent_and_programs_differ() -> None:
    found = sql()
    found["hosts"]["c2"]["up"] = False
    document = described(SETTINGS, keepers(c1=keeper("c1") | {"program": "older"}), found, NOW_S)
    assert wrong(document) == ["agent of c2", "versions"]


def test_what_a_host_shall_not_have_is_not_shown() -> None:
    none = keeper("c2", rabbitmq={"ready": True, "doing": None, "problem": None, "detail": {}, "present": False})
    document = described(SETTINGS, keepers(c2=none), sql(), NOW_S)
    assert document["quorum"]["rabbitmq"]["ready"] == 2
    (line,) = (line for line in as_text(document).splitlines() if line.startswith("rabbitmq"))
    assert line.split() == ["rabbitmq", "ready", "-", "ready"]


def test_shared_storage_that_is_not_well_or_not_heard() -> None:
    row: Doc = {"health": "HEALTH_OK", "problems": [], "seen_at_s": NOW_S - 10}
    assert described(SETTINGS, keepers(), sql() | {"storage": row}, NOW_S)["degraded"] == []
    ill = row | {"health": "HEALTH_WARN", "problems": ["1 osds down", "1 host (1 osds) down"]}
    document = described(SETTINGS, keepers(), sql() | {"storage": ill}, NOW_S)
    assert wrong(document) == ["shared storage"]
    assert "HEALTH_WARN; 1 osds down; 1 host" in document["degraded"][0]["why"]
    assert document["serves"]
    silent = row | {"seen_at_s": NOW_S - 61}
    document = described(SETTINGS, keepers(), sql() | {"storage": silent}, NOW_S)
    assert "for 61 s" in document["degraded"][0]["why"]
