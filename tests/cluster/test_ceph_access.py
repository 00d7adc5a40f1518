"""Which host gets which key of Ceph."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from trilith.cluster.ceph_access import access, cluster_id, derived_key, host_secrets, users
from trilith.cluster.cluster_file import ExistingCeph, read
from trilith.cluster.state import Problem, Settings, State

CLUSTER = read(Path(__file__).parents[2] / "examples/ceph.yaml")
HOSTS = {host.name: host for host in CLUSTER.hosts}


def test_a_host_gets_its_own_keys_only() -> None:
    assert set(host_secrets(CLUSTER, HOSTS["c1"], "s")) == {"ceph-control", "ceph-bootstrap", "ceph-id"}
    first, second = (host_secrets(CLUSTER, HOSTS[name], "s") for name in ("n1", "n2"))
    assert set(first) == set(second) == {"ceph-host"}
    assert first != second
    assert host_secrets(CLUSTER, HOSTS["n1"], "s") == first
    assert host_secrets(CLUSTER, HOSTS["n1"], "another") != first
    assert host_secrets(msgspec.structs.replace(CLUSTER, ceph=None), HOSTS["c1"], "s") == {}


def test_a_compute_host_may_not_write_images() -> None:
    caps = users(CLUSTER)["client.trilith-host-n1"]
    assert "profile rbd-read-only pool=trilith-images" in caps["osd"]
    assert "profile rbd pool=trilith-images" not in caps["osd"]
    assert "blocklist" not in caps["mon"]
    assert "allow *" not in str(users(CLUSTER))


def test_only_controllers_reach_objects() -> None:
    caps = {entity: each.get("osd", "") for entity, each in users(CLUSTER).items()}
    assert [entity for entity, osd in caps.items() if "trilith-objects" in osd] == ["client.trilith-control"]
    assert "allow rwx pool=trilith-objects" in caps["client.trilith-control"]


def test_ceph_takes_a_derived_key(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    argv = [
        "ceph-authtool",
        "--create-keyring",
        keyring,
        "--name=client.x",
        f"--add-key={derived_key('s', 'client.x')}",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    done = subprocess.run(
        ["ceph-authtool", "-p", "-n", "client.x", keyring], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == derived_key("s", "client.x")
    assert len(cluster_id("s")) == 36


def test_an_existing_cephs_key_comes_from_its_keyring(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text('[client.other]\nkey = AAA=\n\n[client.cloud]\n\tkey = BBB==\n\tcaps mon = "profile rbd"\n')
    existing = ExistingCeph(monitors=["192.0.2.1:3300"], user="cloud", keyring=str(keyring))
    assert CLUSTER.ceph is not None
    cluster = msgspec.structs.replace(CLUSTER, ceph=msgspec.structs.replace(CLUSTER.ceph, existing=existing))
    assert host_secrets(cluster, HOSTS["c1"], "s") == {"ceph-control": "BBB=="}
    assert host_secrets(cluster, HOSTS["n1"], "s") == {"ceph-host": "BBB=="}
    found = access(State(tmp_path), Settings(cloud_id="x", host="n1", cluster=cluster), control=False)
    assert found is not None
    assert (found.monitors, found.user) == (("192.0.2.1:3300",), "cloud")
    keyring.write_text("[client.other]\nkey = AAA=\n")
    with pytest.raises(Problem, match=r"no key of client\.cloud"):
        host_secrets(cluster, HOSTS["c1"], "s")
    keyring.unlink()
    with pytest.raises(Problem, match="cannot be read"):
        host_secrets(cluster, HOSTS["c1"], "s")
