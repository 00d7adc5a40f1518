"""An engine that is files and units: started once, restarted exactly when it runs with another configuration."""

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.engines.fake_units import FakeUnits, host_view
from trilith.cluster.engines.engine import KEY, HostView, ServiceUnit, UnitEngine, plan_absent
from trilith.cluster.engines.files import ConfigFile, below, put, seen_digest
from trilith.kernel.reconcile import Act, Doc, converge
from trilith.kernel.testing import converges

UNIT = "echo.service"


@dataclass
class Intent:
    """What the cluster file says of it."""

    present: bool = True
    text: str = "one"
    reloads: bool = False


class Echo(UnitEngine):
    kind = "echo"

    def __init__(self, view: HostView, intent: Intent) -> None:
        super().__init__(view)
        self.intent = intent

    def present(self) -> bool:
        return self.intent.present

    def files(self) -> list[ConfigFile]:
        return [ConfigFile("/etc/echo.conf", self.intent.text, 0o640)]

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit(UNIT, ("/etc/echo.conf",), reloads=self.intent.reloads)]


def run(engine: Echo) -> list[str]:
    """Converge; what was done to units."""
    units = engine.view.units
    assert isinstance(units, FakeUnits)
    before = len(units.calls)
    outcome = converge(engine, KEY, engine.want())
    assert not outcome.fault
    assert not outcome.retry
    return units.calls[before:]


def test_it_is_written_enabled_and_started_once(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    assert run(engine) == [f"enable {UNIT}", f"start {UNIT}"]
    assert below(engine.view.root, "/etc/echo.conf").read_text() == "one"
    assert run(engine) == []
    assert run(Echo(engine.view, Intent())) == []
    assert engine.status(engine.want(), engine.observe(KEY)).ready


def test_another_configuration_restarts_it(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    run(engine)
    engine.intent.text = "two"
    assert not engine.status(engine.want(), engine.observe(KEY)).ready
    assert run(engine) == [f"stop {UNIT}", f"start {UNIT}"]
    assert run(engine) == []


def test_or_is_taken_by_a_reload(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent(reloads=True))
    run(engine)
    engine.intent.text = "two"
    assert run(engine) == [f"reload {UNIT}"]
    assert run(engine) == []
    assert run(Echo(engine.view, engine.intent)) == []


def test_a_process_that_somebody_else_started_anew_is_left_alone(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    run(engine)
    engine.view.units.restart(UNIT)
    assert run(engine) == []


def test_what_died_is_started(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    run(engine)
    assert isinstance(engine.view.units, FakeUnits)
    engine.view.units.die(UNIT)
    assert run(engine) == [f"start {UNIT}"]


def test_a_file_that_somebody_changed_is_put_right_and_the_process_is_left_alone(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    run(engine)
    below(engine.view.root, "/etc/echo.conf").write_text("other")
    assert run(engine) == []
    assert below(engine.view.root, "/etc/echo.conf").read_text() == "one"


def test_a_host_that_lost_the_role_stops_it(tmp_path: Path) -> None:
    engine = Echo(host_view(tmp_path), Intent())
    run(engine)
    engine.intent.present = False
    assert run(engine) == [f"disable {UNIT}", f"stop {UNIT}"]
    assert engine.status(engine.want(), engine.observe(KEY)).ready


class Followed(Echo):
    """Its intent is what the crash harness wants, and there is nothing of it when nothing runs."""

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        self.intent.present = want["present"]
        return super().plan(want, seen or super().observe(KEY))

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        return seen if self.intent.present or (seen and plan_absent(seen)) else None


def test_it_survives_every_crash(tmp_path: Path) -> None:
    view, intent = host_view(tmp_path), Intent()
    converges(lambda: Followed(view, intent), [Echo(view, intent).want()])


def test_files_have_the_wanted_mode_and_go_when_they_shall(tmp_path: Path) -> None:
    file = Echo(host_view(tmp_path), Intent()).files()[0]
    put(file, tmp_path)
    assert below(tmp_path, file.path).stat().st_mode & 0o777 == 0o640
    assert seen_digest(file.path, tmp_path) == file.digest
    below(tmp_path, file.path).chmod(0o644)
    assert seen_digest(file.path, tmp_path) != file.digest
    gone = ConfigFile(file.path, None)
    put(gone, tmp_path)
    put(gone, tmp_path)
    assert seen_digest(file.path, tmp_path) == gone.digest
