"""`trilith up`, `down`, `status` and `logs` on whole clouds, with stand-ins for the API and the controller."""

import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.conftest import Cloud, eventually
from trilith.cluster import proc
from trilith.cluster.supervisor import ask, remembered


def processes(cloud: Cloud) -> dict[str, int]:
    document = status(cloud)
    return {process["name"]: process["pid"] for process in document["processes"]}


def status(cloud: Cloud) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cloud.run("status", "--json").stdout)
    return document


def healthy(cloud: Cloud) -> bool:
    answer = ask(cloud.state, "status")
    return answer is not None and all(child["state"] in ("ready", "done") for child in answer["processes"])


def served(cloud: Cloud) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cloud.port}/healthz", timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def test_from_nothing_to_ready_and_back(cloud: Cloud) -> None:
    said = cloud.up()
    assert "ready" in said
    assert f"export OS_CLOUD=trilith-{cloud.port}" in said
    assert served(cloud)
    for secret in cloud.state.secrets.iterdir():
        assert secret.stat().st_mode & 0o077 == 0, secret
    document = status(cloud)
    assert document["degraded"] == []
    assert {"supervisor", "api", "objects", "hub", "agent", "controller"} == {p["name"] for p in document["processes"]}
    assert 0 < document["pss_mib"] < 400
    assert max(len(line) for line in cloud.run("status").stdout.splitlines()) <= 100
    leaders = list(processes(cloud).values())
    assert all(proc.session_members(leader) for leader in leaders)
    again = cloud.run("up")
    assert (again.returncode, "already runs" in again.stdout) == (0, True)
    assert "To change it: trilith down" in cloud.run("up", "--workers", "7").stderr
    assert cloud.run("down").returncode == 0
    assert not any(proc.session_members(leader) for leader in leaders)
    assert cloud.run("status").returncode == 3
    cloud.up()  # goes on where it was
    assert cloud.run("down", "--destroy").returncode == 0
    assert not cloud.state.root.exists()
    assert yaml.safe_load((cloud.config / "openstack" / "clouds.yaml").read_text()) == {"clouds": {}}


def test_the_database_of_a_cloud_is_chosen_once(cloud: Cloud) -> None:
    assert "postgresql is not known" in cloud.run("up", "--fake", "--database", "postgresql://u:p@h/n").stderr
    assert not (cloud.state.secrets / "database-url").exists()
    cloud.up()
    assert "has another database already" in cloud.run("up", "--database", "mysql+pymysql://u:p@h/n").stderr
    settings = cloud.state.settings()
    assert cloud.state.database_url(settings) == f"sqlite:///{cloud.state.database}"


def test_every_process_may_be_killed(cloud: Cloud) -> None:
    cloud.up()
    before = processes(cloud)
    for name in ("hub", "agent", "controller", "api", "objects"):
        os.kill(before[name], signal.SIGKILL)
    eventually(
        lambda: all(processes(cloud)[name] not in (None, before[name]) for name in before if name != "supervisor"),
        "new ones",
    )
    eventually(lambda: healthy(cloud), "all ready again", why=lambda: cloud.run("logs").stdout)
    assert served(cloud)
    assert cloud.run("status").returncode == 0


def test_one_api_worker_dies_and_a_client_that_tries_twice_does_not_notice(cloud: Cloud) -> None:
    cloud.up()
    workers = [pid for pid in proc.session_members(processes(cloud)["api"]) if pid != processes(cloud)["api"]]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    failed = sum(not (served(cloud) or served(cloud)) for _ in range(40))
    assert failed == 0
    eventually(lambda: len(proc.session_members(processes(cloud)["api"])) == 3, "a new worker")


def test_kill_9_of_the_supervisor_then_up(cloud: Cloud) -> None:
    cloud.up()
    before = processes(cloud)
    os.kill(before["supervisor"], signal.SIGKILL)
    eventually(lambda: not any(proc.start_ticks(pid) for pid in before.values()), "all die with it")
    assert "it does not run; start it: trilith up" in cloud.run("status").stdout
    cloud.up()
    assert served(cloud)
    assert cloud.run("status").returncode == 0


def test_kill_9_of_everything_at_once_then_down(cloud: Cloud) -> None:
    cloud.up()
    orphans = [pid for record in remembered(cloud.state) for pid in proc.session_members(record["pid"])]
    leaders = [*processes(cloud).values()]
    for pid in leaders:
        os.kill(pid, signal.SIGKILL)
    down = cloud.run("down")
    assert down.returncode == 0, down.stderr
    assert "what was left of it is gone" in down.stdout
    assert not any(proc.start_ticks(pid) for pid in orphans)


def test_two_clouds_side_by_side(cloud: Cloud, other_cloud: Cloud) -> None:
    cloud.up()
    other_cloud.up()
    names = yaml.safe_load((cloud.config / "openstack" / "clouds.yaml").read_text())["clouds"]
    assert {f"trilith-{c.port}{end}" for c in (cloud, other_cloud) for end in ("", "-demo")} == set(names)
    assert cloud.run("down", "--destroy").returncode == 0
    assert served(other_cloud)
    assert other_cloud.run("status").returncode == 0
    names = yaml.safe_load((cloud.config / "openstack" / "clouds.yaml").read_text())["clouds"]
    assert {f"trilith-{other_cloud.port}", f"trilith-{other_cloud.port}-demo"} == set(names)


def test_a_taken_port_is_said_at_once(cloud: Cloud) -> None:
    for port in (cloud.port, cloud.port + 1):
        with socket.create_server(("127.0.0.1", port)):
            begun = time.monotonic()
            failed = cloud.run("up")
        assert failed.returncode == 1
        assert f"port {port}: Address already in use. To use others: trilith up --port" in failed.stderr
        assert time.monotonic() - begun < 2
    assert ask(cloud.state, "status") is None


def test_two_ups_at_once_make_one_cloud(cloud: Cloud) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(cloud.run("up").stdout)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("already runs" in words for words in said) == 2
    assert cloud.run("status").returncode == 0


def test_a_cloud_that_cannot_start_says_why_and_leaves_nothing(cloud: Cloud) -> None:
    settings = cloud.state.settings()
    settings.program = "tests.cluster.no_such_program"
    cloud.state.write_settings(settings)
    failed = cloud.run("up")
    assert failed.returncode == 1
    assert "Not ready: api" in failed.stderr
    assert "No module named 'tests.cluster.no_such_program'" in failed.stderr
    eventually(lambda: ask(cloud.state, "status") is None, "the supervisor ends")


def test_the_host_is_wanted_and_reports(cloud: Cloud) -> None:
    cloud.up()
    volume = {"id": "v1", "generation": 3, "present": True, "size_gib": 1, "format": "qcow2", "source": None}
    volume |= {"snapshots": [], "uploads": [], "attached_server": None, "export": None}
    wants = cloud.state.root / "wants.new"
    wants.write_text(json.dumps({"volume": [volume]}))
    wants.rename(cloud.state.root / "wants.json")
    reports = cloud.state.root / "reports.jsonl"

    def reported() -> bool:
        lines = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
        return any(r["id"] == "v1" and r["generation"] == 3 and r["seen"] and r["seen"]["size_gib"] == 1 for r in lines)

    eventually(reported, "the volume is made and reported")


def server_reports(cloud: Cloud) -> list[dict[str, Any]]:
    reports = cloud.state.root / "reports.jsonl"
    lines = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
    return [line["seen"] for line in lines if line["kind"] == "server" and line["seen"]]


def test_machines_outlive_the_agent_end_with_down_and_start_with_up(cloud: Cloud) -> None:
    server = {
        **{
            "id": "5e8b6a3e-0000-4000-8000-000000000001",
            "generation": 1,
            "present": True,
            "name": "s",
            "power": "running",
        },
        **{"vcpus": 1, "ram_mib": 64, "boot_epoch": 0, "soft_reboot_epoch": 0, "root_epoch": 0, "nics": []},
        **{"disks": [], "config_drive": False, "rescue_image_id": None, "admin_password": None, "hostname": "s"},
        **{"metadata": {}, "user_data": None, "network_data": {}, "vendor_data": {}, "snapshots": []},
    }
    (cloud.state.root / "wants.json").write_text(json.dumps({"server": [server]}))
    cloud.up()
    eventually(lambda: any(seen["power"] == "running" for seen in server_reports(cloud)), "running")
    started_at = server_reports(cloud)[-1]["started_at"]
    os.kill(processes(cloud)["agent"], signal.SIGKILL)
    eventually(lambda: len(server_reports(cloud)) > 1 and healthy(cloud), "the next agent reports")
    assert server_reports(cloud)[-1]["started_at"] == started_at
    assert status(cloud)["machines"] == 1
    assert "1 machine(s) stopped" in cloud.run("down").stdout
    (cloud.state.root / "reports.jsonl").unlink()
    cloud.up()
    eventually(lambda: any(seen["power"] == "running" for seen in server_reports(cloud)), "running again")


def test_words_without_a_cloud(cloud: Cloud, short_dir: Path) -> None:
    nowhere = Cloud(short_dir / "none", cloud.config)
    for words, code in (
        (["status"], 3),
        (["repair", "network"], 3),
        (["down"], 1),
        (["logs"], 1),
        (["down", "--destroy"], 0),
    ):
        done = nowhere.run(*words)
        assert done.returncode == code, (words, done.stderr)
        assert code == 0 or "trilith up" in done.stdout + done.stderr
    long = Cloud(short_dir / ("x" * 60), cloud.config)
    assert "too long" in long.run("up", "--fake").stderr
    assert not long.state.root.exists()


def test_logs_tell_the_story(cloud: Cloud) -> None:
    cloud.up()
    story = cloud.run("logs").stdout
    assert "supervisor" in story
    assert "unit=api" in story
    stamps = [line[:23] for line in story.splitlines() if line[:2] == "20"]
    assert stamps == sorted(stamps)
    for secret in ("admin", "host-host1", "hub"):
        assert cloud.state.secret(secret) not in story


def test_beyond_loopback_everything_is_encrypted(cloud: Cloud) -> None:
    assert cloud.run("up", "--listen", "0.0.0.0").returncode == 0
    settings = cloud.state.settings()
    context = ssl.create_default_context(cafile=str(cloud.state.tls / "ca.crt"))
    objects_url = settings.api_url.replace(str(settings.port), str(settings.objects_port))
    for url in (settings.api_url, settings.hub_url, objects_url):
        assert url.startswith("https://127.0.0.1")
        with urllib.request.urlopen(f"{url}/healthz", timeout=5, context=context) as reply:
            assert reply.status == 200
    assert not served(cloud)  # in the clear
    entries = yaml.safe_load((cloud.config / "openstack" / "clouds.yaml").read_text())["clouds"]
    assert {entry["cacert"] for entry in entries.values()} == {str(cloud.state.tls / "ca.crt")}
    assert {entry["auth"]["auth_url"] for entry in entries.values()} == {f"{settings.api_url}/identity"}
    assert "runs with TLS" in cloud.run("up", "--no-tls").stderr
    cloud.run("down")
    plain = cloud.run("up", "--no-tls")
    assert (plain.returncode, "unencrypted" in plain.stderr) == (0, True)
    assert served(cloud)
    (entry, _) = yaml.safe_load((cloud.config / "openstack" / "clouds.yaml").read_text())["clouds"].values()
    assert ("cacert" in entry, entry["auth"]["auth_url"]) == (False, f"http://127.0.0.1:{cloud.port}/identity")
