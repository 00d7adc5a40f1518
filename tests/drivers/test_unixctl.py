"""The control socket of a real daemon."""

import subprocess
from pathlib import Path

import pytest

from tests.drivers.ovn_lab import wait_for
from trilith.drivers import unixctl
from trilith.kernel.errors import Refused, Unavailable


def answers(socket: Path) -> bool:
    try:
        return bool(unixctl.ask(socket, "version"))
    except Unavailable:
        return False


def test_it_answers_refuses_and_is_away(tmp_path: Path) -> None:
    socket, database = tmp_path / "ctl", tmp_path / "conf.db"
    with pytest.raises(Unavailable):
        unixctl.ask(socket, "version")
    subprocess.run(["ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema"], check=True)
    daemon = subprocess.Popen(["ovsdb-server", "-vconsole:off", f"--unixctl={socket}", str(database)])
    try:
        wait_for("the daemon answers", lambda: answers(socket))
        assert "ovsdb-server" in unixctl.ask(socket, "version")
        assert unixctl.ask(socket, "ovsdb-server/list-dbs").split()[0] == "Open_vSwitch"
        with pytest.raises(Refused, match="cluster/status"):
            unixctl.ask(socket, "cluster/status", "Open_vSwitch")
    finally:
        daemon.kill()
        daemon.wait()
