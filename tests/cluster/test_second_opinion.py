"""What keepers say of a host that is not heard, asked over TLS as controllers ask."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.conftest import eventually, free_port
from trilith.cluster import second_opinion
from trilith.cluster.certificates import keep_certificate, make_ca
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.engines.engine import HostView
from trilith.cluster.keeper_api import KeeperApi
from trilith.cluster.second_opinion import Witnesses
from trilith.cluster.state import Settings, State, write_file

Doc = dict[str, Any]


class Lab:
    """``w`` is a witness, ``s`` the suspect, ``off`` a host that does not answer."""

    def __init__(self, directory: Path) -> None:
        self.port, self.suspect = free_port(), None
        hosts = [
            Host(name="w", address="127.0.0.1", roles=["control"]),
            Host(name="s", address="127.0.0.2", tunnel_address="127.0.0.1", roles=["compute"]),
            Host(name="off", address="127.0.0.9", roles=["compute"]),
        ]
        self.cluster = ClusterFile(hosts=hosts, vip="127.0.0.8")
        self.state = State(directory / "state")
        self.state.tls.mkdir(parents=True)
        keep_certificate(make_ca(self.state.tls), self.state.tls, "host", ["127.0.0.1"])
        write_file(self.state.secrets / "keeper", b"secret\n")
        self.seen: Doc | None = {}
        settings = Settings(cloud_id="1", host="w", cluster=self.cluster)
        view = HostView(self.state, settings, lambda host: self.seen)
        KeeperApi(view, dict, {}).start("127.0.0.1", self.port)
        self.witnesses = Witnesses(self.state, self.cluster, "c1", self.port)
        eventually(lambda: self.witnesses.ask("s")["w"] is not None, "the keeper serves")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path)


def test_a_host_that_answers(lab: Lab) -> None:
    """What is refused on the tunnel network is an answer."""
    assert lab.witnesses.ask("s") == {"w": {"management": True, "tunnel": True}, "off": None}


def test_a_host_that_does_not(lab: Lab) -> None:
    lab.seen = None
    assert lab.witnesses.ask("s")["w"] == {"management": False, "tunnel": True}


def test_nobody_is_his_own_witness(lab: Lab) -> None:
    assert set(lab.witnesses.ask("w")) == {"s", "off"}


def test_nor_is_the_asker(lab: Lab) -> None:
    assert set(Witnesses(lab.state, lab.cluster, "w", lab.port).ask("s")) == {"off"}


def test_who_has_no_secret_is_told_nothing(lab: Lab) -> None:
    write_file(lab.state.secrets / "keeper", b"another\n")
    stranger = State(lab.state.root.with_name("stranger"))
    stranger.tls.mkdir(parents=True)
    (stranger.tls / "ca.crt").write_bytes((lab.state.tls / "ca.crt").read_bytes())
    write_file(stranger.secrets / "keeper", b"secret\n")
    assert Witnesses(stranger, lab.cluster, "c1", lab.port).ask("s")["w"] is None


def test_a_host_that_is_not_in_the_file(lab: Lab) -> None:
    others = [*lab.cluster.hosts, Host(name="new", address="127.0.0.3")]
    newer = Witnesses(lab.state, msgspec.structs.replace(lab.cluster, hosts=others), "c1", lab.port)
    assert newer.ask("new")["w"] is None
    assert second_opinion.PATH == "/reach/"
