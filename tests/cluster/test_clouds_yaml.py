from pathlib import Path

import pytest
import yaml

from trilith.cluster import clouds_yaml
from trilith.cluster.cluster_file import all_in_one
from trilith.cluster.state import Problem, Settings, State


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[State, Settings]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TRILITH_STATE", str(tmp_path / "cloud"))
    state = State(tmp_path / "cloud")
    settings = Settings(cloud_id="x", host="h", cluster=all_in_one("h"))
    state.make_directories()
    state.make_secrets(settings)
    return state, settings


def clouds() -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(clouds_yaml.path().read_text())["clouds"]
    return found


def test_the_first_entries(made: tuple[State, Settings]) -> None:
    state, settings = made
    clouds_yaml.merge(state, settings)
    assert list(clouds()) == ["trilith", "trilith-demo"]
    assert clouds()["trilith"]["auth"]["password"] == state.secret("admin")
    assert clouds()["trilith-demo"]["auth"]["project_name"] == "demo"
    assert clouds_yaml.path().stat().st_mode & 0o777 == 0o600


def test_what_else_is_there_stays(made: tuple[State, Settings]) -> None:
    state, settings = made
    path = clouds_yaml.path()
    path.parent.mkdir(parents=True)
    mine = {"auth": {"auth_url": "https://elsewhere/v3", "password": "p"}, "regions": ["a", "b"]}
    path.write_text(yaml.safe_dump({"cache": {"expiration_time": 7}, "clouds": {"mine": mine}}))
    clouds_yaml.merge(state, settings)
    clouds_yaml.merge(state, settings)
    assert list(clouds()) == ["mine", "trilith", "trilith-demo"]
    clouds_yaml.remove(settings)
    assert yaml.safe_load(path.read_text()) == {"cache": {"expiration_time": 7}, "clouds": {"mine": mine}}


def test_a_cloud_on_another_port_has_other_names(made: tuple[State, Settings]) -> None:
    state, settings = made
    clouds_yaml.merge(state, settings)
    settings.port = 9000
    clouds_yaml.merge(state, settings)
    assert list(clouds()) == ["trilith", "trilith-demo", "trilith-9000", "trilith-9000-demo"]
    clouds_yaml.remove(settings)
    assert list(clouds()) == ["trilith", "trilith-demo"]


@pytest.mark.parametrize("text", ["clouds: [\n", "- a\n", "clouds: 7\n"])
def test_a_broken_file_is_left_alone(made: tuple[State, Settings], text: str) -> None:
    path = clouds_yaml.path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(Problem, match="Repair it"):
        clouds_yaml.merge(*made)
    assert path.read_text() == text
