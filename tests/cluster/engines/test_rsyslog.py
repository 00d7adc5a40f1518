"""rsyslog: its configuration is rsyslog's own language, files are renamed when they have grown, days go when old."""

from pathlib import Path

import pytest

from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.engines.engine import HostView
from trilith.cluster.engines.rsyslog import Rsyslog, plan_files_kept
from trilith.cluster.state import Settings, State
from trilith.kernel.reconcile import Act, Doc

HOSTS = [
    Host(name="c1", address="10.0.0.1", roles=["control"]),
    Host(name="log1", address="10.0.0.2", roles=["logging"]),
]


def engine(root: Path, host: str, hosts: list[Host] = HOSTS) -> Rsyslog:
    settings = Settings(cloud_id="x", host=host, cluster=ClusterFile(hosts=hosts))
    return Rsyslog(HostView(State(root / "state"), settings, root=root))


def test_every_host_sends_and_the_logging_host_stores(tmp_path: Path) -> None:
    sender, store = (engine(tmp_path, name).files()[0].content or "" for name in ("c1", "log1"))
    assert 'target="10.0.0.2"' in sender
    assert "imrelp" not in sender
    assert 'type="imrelp" port="6514" address="10.0.0.2"' in store
    assert 'tls.permittedPeer=["c1", "log1"]' in store
    assert 'target="10.0.0.2"' in store  # its own too, by the same way


def test_without_a_logging_host_there_is_none(tmp_path: Path) -> None:
    assert engine(tmp_path, "c1", HOSTS[:1]).want()["present"] is False


def test_grown_files_are_renamed(tmp_path: Path) -> None:
    rsyslog = engine(tmp_path, "c1")
    log = rsyslog.view.state.log
    log.mkdir(parents=True)
    (log / "api.jsonl").write_text("x")
    rsyslog.perform("host", Act("rotate", {"file": "api.jsonl"}))
    rsyslog.perform("host", Act("rotate", {"file": "api.jsonl"}))  # killed before it was noted: done again
    assert [path.name for path in log.iterdir()] == ["api.jsonl.1"]


def kept(days: dict[str, int], today: str = "2026-03-31", limit_days: int = 30, limit_mib: int = 10) -> list[str]:
    seen: Doc = {"stored": {"today": today, "days": days}, "grown": []}
    acts = plan_files_kept({"kept": {"days": limit_days, "mib": limit_mib}}, seen)
    return [act.args["day"] for act in acts]


@pytest.mark.parametrize(
    ("days", "gone"),
    [
        ({}, []),
        ({"2026-03-30": 1, "2026-03-31": 1}, []),
        ({"2026-02-28": 1, "2026-03-01": 1, "2026-03-31": 1}, ["2026-02-28"]),
        ({"2026-03-29": 6 << 10, "2026-03-30": 3 << 10, "2026-03-31": 4 << 10}, ["2026-03-29"]),
        ({"2026-03-31": 99 << 10}, []),
        ({"lost+found": 1, "2026-03-31": 1}, []),
    ],
)
def test_what_is_kept(days: dict[str, int], gone: list[str]) -> None:
    assert kept(days) == gone


def test_grown_files_come_first_on_hosts_that_store_nothing() -> None:
    assert plan_files_kept({"kept": None}, {"grown": ["hub.jsonl"]}) == [Act("rotate", {"file": "hub.jsonl"})]


def test_days_are_measured_and_removed(tmp_path: Path) -> None:
    rsyslog = engine(tmp_path, "log1")
    for host in ("c1", "log1"):
        (tmp_path / "var/log/trilith" / host / "2020-01-01").mkdir(parents=True)
        (tmp_path / "var/log/trilith" / host / "2020-01-01/api.jsonl").write_bytes(bytes(4096))
    rsyslog._look()
    assert rsyslog._stored["days"] == {"2020-01-01": 10}
    rsyslog.perform("host", Act("remove_day", {"day": "2020-01-01"}))
    assert list((tmp_path / "var/log/trilith/c1").iterdir()) == []
