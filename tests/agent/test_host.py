"""What an agent looks after follows from the roles of its host."""

from pathlib import Path

import pytest

from trilith.agent.host import build, switch
from trilith.agent.settings import AgentSettings
from trilith.agent.source import HttpSource


@pytest.mark.parametrize(("machines", "kinds"), [(True, ["server", "volume"]), (False, ["volume"])])
def test_a_host_of_volumes_alone_has_no_machines(tmp_path: Path, machines: bool, kinds: list[str]) -> None:
    url, credential = "http://127.0.0.1:1", tmp_path / "credential"
    settings = AgentSettings("h", url, url, credential, tmp_path, tmp_path / "beat", fake=True, machines=machines)
    network = switch(settings) if machines else None
    host = build(settings, HttpSource(url, "h", "secret"), network, lambda: None)
    assert [reconciler.kind for reconciler in host.reconcilers] == kinds
    assert (host.machines is not None) == machines
