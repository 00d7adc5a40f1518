"""Facts of a host that is as it should be, to be spoilt by tests."""

from pathlib import Path
from typing import Any

import pytest

from trilith.cluster.cluster_file import ClusterFile, read

EXAMPLE = Path(__file__).parents[2] / "examples/three-controllers.yaml"


@pytest.fixture
def cluster() -> ClusterFile:
    return read(EXAMPLE)


def good_facts(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """Of a bare host of the example."""
    host = next(host for host in cluster.hosts if host.name == name)
    return {
        "user": "root",
        "os": "debian 12",
        "python": (3, 11, 2),
        "machine": "x86_64",
        "systemd": "running",
        "host_name": name,
        "memory_mib": 16000,
        "free_mib": {"/var/lib": 50000, "/opt": 50000},
        "interfaces": {
            "lo": {"mtu": 65536, "up": True, "addresses": ["127.0.0.1"]},
            "eth0": {"mtu": 1500, "up": True, "addresses": [host.address]},
            "eth1": {"mtu": 1500, "up": True, "addresses": [host.tunnel]},
            "eth2": {"mtu": 1500, "up": True, "addresses": []},
        },
        "addresses_of": {other.name: [other.address] for other in cluster.hosts},
        "name_of": {other.address: [other.name] for other in cluster.hosts},
        "listening": {},
        "foreign": [],
        "kvm": {"usable": True, "reason": "9e8 loops/s"},
        "packages": [],
        "files": {},
        "programs": [],
        "current": None,
        "command": None,
        "joined": False,
        "drained": [],
        "keeper": {"active": "inactive", "enabled": False, "started_with": None, "state": None, "age_s": None},
    }
