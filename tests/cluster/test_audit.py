"""What is stuck, lost or left: the comparison of rows with hosts, as a table."""

import copy
from typing import Any

import pytest

from trilith.cluster.audit import left_over, starts, unsettled

Doc = dict[str, Any]


def whole() -> list[Doc]:
    """A controller and a compute host on which all is well."""
    rows = {
        "server": [{"id": "s1", "project_id": "p", "status": "ACTIVE", "task_state": None, "deleted_at": None}],
        "volume": [
            {"id": "v1", "project_id": "p", "status": "in-use", "host": "n1", "pool": None, "multiattach": False}
        ],
        "port": [
            {"id": "n1", "project_id": "p", "status": "ACTIVE", "device_owner": "compute:nova", "device_id": "s1"},
            {"id": "n2", "project_id": "p", "status": "DOWN", "device_owner": "network:dhcp", "device_id": "d"},
        ],
        "image": [{"id": "i1", "project_id": "p", "name": "i", "status": "active"}],
        "attachment": [{"id": "a1", "server_id": "s1", "volume_id": "v1", "host": "n1"}],
        "action": [{"server_id": "s1", "action": "create", "finished_at": "2026-01-01"}],
    }
    nothing: Doc = {"starts": {}, "interfaces": [], "volumes": [], "images": [], "logical_ports": None}
    return [
        {"host": "c1", "roles": ["control"], **nothing, "images": ["i1"], "rows": rows},
        {"host": "n1", "roles": ["compute"], **nothing, "starts": {"s1": "1"}, "interfaces": ["n1"], "volumes": ["v1"]},
    ]


def row(looks: list[Doc], kind: str) -> Doc:
    found: Doc = looks[0]["rows"][kind][0]
    return found


def test_all_is_well() -> None:
    assert unsettled(whole()) == []
    assert starts(whole()) == {"s1": "1"}
    assert sorted(left_over(whole(), "p")) == ["image i1", "port n1", "server s1", "volume v1"]
    assert left_over(whole(), "p", {"s1", "v1", "i1"}) == []
    assert left_over(whole(), "other") == []


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("server", {"status": "BUILD"}, "server s1 is BUILD"),
        ("server", {"task_state": "rebooting"}, "(rebooting)"),
        ("server", {"deleted_at": "2026"}, "machines that nobody wants: ['s1']"),
        ("volume", {"status": "creating"}, "volume v1 is creating"),
        ("volume", {"id": "v2"}, "volumes that are missing: ['v2']"),
        ("image", {"status": "saving"}, "image i1 is saving"),
        ("image", {"id": "i2"}, "images that nobody wants: ['i1']"),
        ("port", {"device_id": "s2"}, "belongs to server s2, which is gone"),
        ("attachment", {"host": "n2"}, "exports of volumes that are missing: ['v1']"),
        ("attachment", {"volume_id": "v2"}, "attachment a1 of s1 is left"),
        ("action", {"finished_at": None}, "never ended"),
    ],
)
def test_what_is_wrong(kind: str, changes: Doc, says: str) -> None:
    looks = whole()
    row(looks, kind).update(changes)
    assert any(says in sentence for sentence in unsettled(looks)), unsettled(looks)


def test_a_machine_runs_twice() -> None:
    looks = whole()
    looks.append(copy.deepcopy(looks[1]) | {"host": "n2"})
    assert "machine s1 is on two hosts" in unsettled(looks)
    assert starts(looks) == {"s1": "1 and 1"}


def test_two_controllers_both_have_the_bytes() -> None:
    looks = whole()
    looks.append({**looks[0], "host": "c2", "images": [], "rows": None})
    assert unsettled(looks) == ["image i1 has one copy only"]


def test_a_disk_in_ceph_that_no_server_has() -> None:
    looks = whole()
    looks[0]["disks"] = ["s1_root-0"]
    assert unsettled(looks) == []
    looks[0]["disks"] = ["s1_root-0", "s2_root-0"]
    assert unsettled(looks) == ["machines' disks that nobody wants: ['s2_root-0']"]
